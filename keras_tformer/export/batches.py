"""Any kind of dataset as plain NumPy batches that fit an artefact's inputs."""

import numpy as np

ROWS = 32  # rows a batch where the caller hands over whole arrays


def numpy_batches(dataset, shapes, max_examples=None):
    """Yield `(inputs, labels, weights)` with inputs that fit `shapes`.

    Args:
        dataset: a `tf.data.Dataset` or any iterable of `inputs`,
            `(inputs, labels)` or `(inputs, labels, weights)`, batched or single
            examples; or such a tuple of whole arrays; or a function that returns one.
            `inputs` is a dict by input name (or one array for one input).
        shapes: `{input name: shape}`, None where any size fits; the first is the
            batch. Sequences are filled with zeros or lose surplus *padding*.
        max_examples: stop after so many rows.

    Raises:
        ValueError: an input is missing, or a sequence with real tokens is too long.
    """
    left = float("inf") if max_examples is None else max_examples
    for element in _elements(dataset):
        if left <= 0:
            return
        inputs, labels, weights = _split(element)
        inputs = _named(inputs, shapes)
        single = all(inputs[name].ndim == len(shapes[name]) - 1 for name in shapes)
        if single:
            inputs = {name: array[None] for name, array in inputs.items()}
            labels, weights = _cut(labels, None), _cut(weights, None)
        rows = min(len(next(iter(inputs.values()))), left)
        left -= rows
        inputs, labels, weights = (
            _cut(part, slice(rows)) for part in (inputs, labels, weights)
        )
        yield _fit(inputs, labels, weights, shapes)


def random_batch(model, shapes, rows=8, seed=7):
    """Random token ids of several lengths, within the model's own vocabularies."""
    from keras_tformer.export.tracing import leaf_layers

    generator = np.random.default_rng(seed)
    vocabulary = _smallest(leaf_layers(model), ("vocabulary_size", "input_dim"), 3, 8)
    segments = _smallest(leaf_layers(model), ("num_segments",), 1, 2)
    lengths = {}
    inputs = {}
    for name, shape in shapes.items():
        shape = (rows, *(8 if d is None else d for d in shape[1:]))
        if "padding_mask" in name:
            length = lengths.setdefault(
                shape[1], generator.integers(shape[1] // 2, shape[1] + 1, rows)
            )
            array = np.arange(shape[1])[None] < np.maximum(length, 1)[:, None]
        elif "segment" in name:
            array = np.sort(generator.integers(0, segments, shape), axis=1)
        elif "position" in name:
            array = generator.integers(0, shape[1], shape)
        else:
            array = generator.integers(0, vocabulary, shape)
        inputs[name] = array
    return inputs


def _smallest(layers, names, least, fallback):
    sizes = [
        getattr(layer, name)
        for layer in layers
        for name in names
        if isinstance(getattr(layer, name, None), int)
    ]
    return min([size for size in sizes if size >= least] or [fallback])


def _elements(dataset):
    if callable(dataset) and not hasattr(dataset, "__iter__"):
        dataset = dataset()
    whole = isinstance(dataset, dict) or (
        isinstance(dataset, tuple)
        and len(dataset) in (2, 3)
        and isinstance(dataset[0], dict)
    )
    if not whole:
        yield from dataset
        return
    inputs, labels, weights = _split(dataset)
    rows = len(next(iter(inputs.values())))
    for start in range(0, rows, ROWS):
        cut = slice(start, start + ROWS)
        yield tuple(_cut(part, cut) for part in (inputs, labels, weights))


def _split(element):
    if isinstance(element, (tuple, list)):
        return (*element, None, None)[:3]
    return element, None, None


def _cut(value, index):
    """`value[index]` as an array, of each value in a dict, or None."""
    if value is None:
        return None
    if isinstance(value, dict):
        return {key: _cut(part, index) for key, part in value.items()}
    return np.asarray(value)[index]


def _named(inputs, shapes):
    if not isinstance(inputs, dict):
        if len(shapes) != 1:
            raise ValueError(
                f"Received {type(inputs).__name__} as inputs, expected a dict with "
                f"{sorted(shapes)}."
            )
        inputs = {next(iter(shapes)): inputs}
    missing = sorted(set(shapes) - set(inputs))
    if missing:
        raise ValueError(
            f"The data lacks the inputs {missing}; it has {sorted(inputs)}. Expected "
            f"{sorted(shapes)}: map the dataset to dicts with these names."
        )
    return {name: np.asarray(inputs[name]) for name in shapes}


def _fit(inputs, labels, weights, shapes):
    fitted = {}
    for name, array in inputs.items():
        length = shapes[name][1] if len(shapes[name]) > 1 else None
        if length is None or array.shape[1] == length:
            fitted[name] = array
            continue
        surplus = array[:, length:]
        side = name[:8] if name[:8] in ("encoder_", "decoder_") else ""
        mask = inputs.get(f"{side}padding_mask")
        if mask is not None and mask.shape == array.shape:
            surplus = mask[:, length:]
        if np.any(surplus):
            raise ValueError(
                f"The input {name!r} has {array.shape[1]} positions with content "
                f"past {length}. Expected sequences of at most {length} tokens: "
                "truncate the data or export with a larger sequence_length."
            )
        fitted[name] = _resize(array, length)
        # Labels and weights by position follow their tokens.
        if name == "token_ids" and _by_position(labels, array):
            if weights is None:
                weights = np.ones(labels.shape[:2], "float32")
            labels = _resize(labels, length)
        if name == "token_ids" and _by_position(weights, array):
            weights = _resize(weights, length)
    return fitted, labels, weights


def _by_position(value, array):
    return isinstance(value, np.ndarray) and value.shape[:2] == array.shape


def _resize(array, length):
    array = array[:, :length]
    widths = [(0, 0)] * array.ndim
    widths[1] = (0, length - array.shape[1])
    return np.pad(array, widths)
