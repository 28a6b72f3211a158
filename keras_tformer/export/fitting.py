"""Arrays of a dataset in the sizes and dtypes of an artefact's inputs."""

import numpy as np


def check_rows(inputs, labels, weights):
    """Refuse inputs, labels and weights of which some lack rows that others have."""
    rows = {name: len(array) for name, array in inputs.items()}
    if len(set(rows.values())) > 1:
        raise ValueError(
            f"The inputs have different numbers of rows: {rows}. Expected one row of "
            "each input for every example."
        )
    count = next(iter(rows.values()))
    for kind, value in (("labels", labels), ("weights", weights)):
        for part in leaves(value):
            if np.ndim(part) == 0 or len(part) != count:
                found = "one" if np.ndim(part) == 0 else len(part)
                raise ValueError(
                    f"The data has {count} rows of inputs and {found} of {kind}. "
                    f"Expected {kind} for every row, or none at all."
                )


def leaves(value):
    """The arrays of labels or weights: one, or those of a dict or tuple."""
    if isinstance(value, dict):
        value = tuple(value.values())
    parts = value if isinstance(value, tuple) else (value,)
    return [part for part in parts if part is not None]


def fit(inputs, labels, weights, shapes, dtypes):
    """Inputs as an artefact takes them; labels and weights by position follow."""
    inputs = {
        name: converted(name, array, dtypes[name]) if name in dtypes else array
        for name, array in inputs.items()
    }
    fitted = {}
    for name, array in inputs.items():
        _check_sizes(name, array, shapes[name])
        length = shapes[name][1] if len(shapes[name]) > 1 else None
        if length is None or array.shape[1] == length:
            fitted[name] = array
            continue
        side = name[:8] if name[:8] in ("encoder_", "decoder_") else ""
        mask = inputs.get(f"{side}padding_mask")
        _check_sequence(name, array, length, mask)
        surplus = array[:, length:]
        if mask is not None and mask.shape == array.shape:
            surplus = mask[:, length:]
        if np.any(surplus):
            raise ValueError(
                f"The input {name!r} has {array.shape[1]} positions with content "
                f"past {length}. Expected sequences of at most {length} tokens: "
                "truncate the data or export with a larger sequence_length."
            )
        fitted[name] = _resize(array, length)
        if name == "token_ids" and _by_position(labels, array):
            if weights is None:
                weights = np.ones(labels.shape[:2], "float32")
            labels = _resize(labels, length)
        if name == "token_ids" and _by_position(weights, array):
            weights = _resize(weights, length)
    return fitted, labels, weights


def converted(name, array, dtype):
    """An input in an artefact's dtype; ValueError where that changes what it says."""
    if dtype.kind in "OSU":
        return _texts(name, array)
    if array.dtype.kind not in "biuf":
        try:  # bfloat16, or numbers in an array of objects
            array = array.astype("float64")
        except (TypeError, ValueError):
            what = "rows of different lengths or no numbers"
            what = "texts" if array.dtype.kind in "SU" else what
            raise ValueError(
                f"The input {name!r} takes {dtype.name} numbers, received {what} "
                f"({array.dtype}). Turn texts into ids and fill rows up to one length: "
                "keras_tformer.text.pack does."
            ) from None
    if dtype.kind in "iu" and array.size:
        if array.dtype.kind == "f" and not np.array_equal(array, np.floor(array)):
            raise ValueError(
                f"The input {name!r} takes whole numbers ({dtype.name}), received "
                f"{array.dtype} with fractions or NaN. Hand over ids."
            )
        range_ = np.iinfo(dtype)
        if array.min() < range_.min or array.max() > range_.max:
            raise ValueError(
                f"The input {name!r} has numbers from {array.min()} to {array.max()}, "
                f"which {dtype.name} cannot hold. Hand over ids of the model's table."
            )
    return array.astype(dtype)


def _texts(name, array):
    """Texts of any kind as an array of UTF-8 bytes."""
    texts = [
        text.encode("utf-8") if isinstance(text, str) else text
        for text in array.ravel().tolist()
    ]
    if not all(isinstance(text, bytes) for text in texts):
        raise ValueError(
            f"The input {name!r} takes texts, received {array.dtype}. Expected a list "
            "of strings."
        )
    return np.array([*texts, None], object)[:-1].reshape(array.shape)


def _check_sizes(name, array, shape):
    fits = array.ndim == len(shape)
    if fits:
        sizes = zip(shape[2:], array.shape[2:], strict=True)
        fits = all(want in (None, size) for want, size in sizes)
    if not fits:
        raise ValueError(
            f"The input {name!r} has the shape {array.shape}, expected "
            f"{(None, *shape[1:])}, rows first (None: any size)."
        )


def _check_sequence(name, array, length, mask):
    """Refuse to fill or cut features, which have no padding."""
    is_padded = array.ndim > 2 and mask is not None and mask.shape == array.shape[:2]
    if array.dtype.kind == "f" and "padding_mask" not in name and not is_padded:
        raise ValueError(
            f"The input {name!r} has {array.shape[1]} numbers a row, expected {length}."
            " Only sequences of token ids are filled up or lose padding."
        )


def _by_position(value, array):
    return isinstance(value, np.ndarray) and value.shape[:2] == array.shape


def _resize(array, length):
    array = array[:, :length]
    widths = [(0, 0)] * array.ndim
    widths[1] = (0, length - array.shape[1])
    return np.pad(array, widths)
