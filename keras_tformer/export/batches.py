"""Any kind of dataset as plain NumPy batches that fit an artefact's inputs."""

from collections.abc import Mapping

import numpy as np

from keras_tformer.export.arguments import whole_number
from keras_tformer.export.fitting import check_rows, fit

ROWS = 32  # rows a batch where the caller hands over whole arrays
ENDLESS = -1  # the cardinality that `tf.data` gives a dataset which repeats


def numpy_batches(dataset, shapes, max_examples=None, dtypes=None, order=None):
    """Yield `(inputs, labels, weights)` with inputs that fit `shapes`.

    Args:
        dataset: a `tf.data.Dataset` or any iterable of `inputs`,
            `(inputs, labels)` or `(inputs, labels, weights)`, batched or single
            examples; or such a tuple of whole arrays; or a function that returns one.
            `inputs` is a dict by input name, a tuple in the order of the inputs, or
            for one input an array.
        shapes: `{input name: shape}`, None where any size fits; the first is the
            batch. Sequences are filled with zeros or lose surplus *padding*.
        max_examples: stop after so many rows.
        dtypes: `{input name: dtype}` in which they leave; as they are where it is None.
        order: names of the inputs as a tuple holds them; None for that of `shapes`, ()
            where it is unknown.

    Raises:
        ValueError: an input is missing or does not fit, rows are, or a sequence with
            real tokens is too long; or the dataset has no end.
    """
    left = float("inf")
    if max_examples is not None:
        left = whole_number("max_examples", max_examples, 1)
    order = tuple(shapes) if order is None else tuple(order)
    dtypes = {name: np.dtype(dtype) for name, dtype in (dtypes or {}).items()}
    for element, is_whole in _elements(dataset, shapes, order, max_examples):
        if left <= 0:
            return
        inputs, labels, weights = _split(element, order)
        inputs = _named(inputs, shapes, order)
        if all(inputs[name].ndim == len(shapes[name]) - 1 for name in shapes):
            if is_whole:
                found = {name: array.tolist() for name, array in inputs.items()}
                raise ValueError(
                    f"Received one example, {found!r:.100}, where several are expected."
                    " Put it into a list."
                )
            inputs = {name: array[None] for name, array in inputs.items()}
            labels, weights = _cut(labels, None), _cut(weights, None)
        for name, array in inputs.items():
            if array.ndim == 0:
                raise ValueError(f"The input {name!r} has one value and no rows.")
        check_rows(inputs, labels, weights)
        total = min(len(next(iter(inputs.values()))), left)
        left -= total
        step = ROWS if is_whole else max(total, 1)
        for start in range(0, total, step):
            rows = slice(start, min(start + step, total))
            parts = (_cut(part, rows) for part in (inputs, labels, weights))
            yield fit(*parts, shapes, dtypes)


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


def _elements(dataset, shapes, order, max_examples):
    """Pairs of an element and whether it holds all rows there are."""
    if callable(dataset) and not hasattr(dataset, "__iter__"):
        dataset = dataset()
    if max_examples is None and hasattr(dataset, "cardinality"):
        if int(dataset.cardinality()) == ENDLESS:
            raise ValueError(
                "The dataset repeats without end. Give max_examples=..., or leave out "
                "its .repeat()."
            )
    if isinstance(dataset, list):
        dataset = _listed(dataset, shapes, order)
    if _is_whole(dataset, shapes, order):
        yield dataset, True
    elif hasattr(dataset, "__getitem__") and not hasattr(dataset, "__iter__"):
        for index in range(len(dataset)):  # a keras.utils.PyDataset
            yield dataset[index], False
    elif hasattr(dataset, "__iter__") and not isinstance(dataset, (str, bytes)):
        for element in dataset:
            yield element, False
    else:
        raise ValueError(
            f"Received {dataset!r:.80} as data. Expected a dict of arrays by input "
            "name, a tf.data.Dataset or a list of batches."
        )


def _listed(parts, shapes, order):
    """What a list stands for: itself where it is one of elements."""
    are_arrays = bool(parts) and all(_is_array(part) for part in parts)
    if len(shapes) > 1:
        is_inputs = are_arrays and len(parts) == len(order)
        return (tuple(parts),) if is_inputs else parts
    shape = next(iter(shapes.values()))
    if are_arrays and len(parts) in (2, 3) and _fits(parts[0], shape):
        # Two arrays that both fit the input are two batches.
        return parts if _fits(parts[1], shape) else tuple(parts)
    if parts and not any(map(_holds_inputs, parts)):
        rows = _array(parts)
        return rows if rows.ndim == len(shape) else parts
    return parts


def _is_whole(dataset, shapes, order):
    """Whether a dataset is all inputs in arrays, or a tuple of them and labels."""
    if isinstance(dataset, tuple) and len(dataset) in (1, 2, 3):
        dataset = dataset[0]
        if isinstance(dataset, list) and len(shapes) == 1:
            try:
                dataset = np.asarray(dataset)
            except ValueError:  # rows of several lengths
                return False
    if isinstance(dataset, Mapping):
        return True
    if len(shapes) > 1:
        is_tuple = isinstance(dataset, (tuple, list)) and len(dataset) == len(shapes)
        return bool(order) and is_tuple and all(map(_is_array, dataset))
    return _is_array(dataset) and len(dataset.shape) == len(*shapes.values())


def _is_array(value):
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _holds_inputs(value):
    return isinstance(value, (Mapping, tuple)) or _is_array(value)


def _fits(array, shape):
    if len(array.shape) != len(shape):
        return False
    sizes = zip(shape[1:], array.shape[1:], strict=True)
    return all(want in (None, size) for want, size in sizes)


def _split(element, order):
    if isinstance(element, list):
        is_inputs = len(element) == len(order) > 1 and all(map(_is_array, element))
        is_tuple = bool(element) and _holds_inputs(element[0]) and not is_inputs
        element = tuple(element) if is_tuple else (element,)
    if not isinstance(element, tuple):
        return element, None, None
    if not 1 <= len(element) <= 3:
        raise ValueError(
            f"Received a tuple of {len(element)} as an element of the data. Expected "
            "inputs, (inputs, labels) or (inputs, labels, weights)."
        )
    return (*element, None, None)[:3]


def _cut(value, index):
    """`value[index]` as an array, of each value in a dict or tuple, or None."""
    if value is None:
        return None
    if isinstance(value, Mapping):
        return {key: _cut(part, index) for key, part in value.items()}
    if isinstance(value, (tuple, list)) and value and all(map(_is_array, value)):
        return tuple(_cut(part, index) for part in value)
    return np.asarray(value)[index]


def _named(inputs, shapes, order):
    """Inputs as arrays by name."""
    if not isinstance(inputs, Mapping):
        if len(shapes) == 1:
            inputs = {next(iter(shapes)): inputs}
        elif isinstance(inputs, (tuple, list)) and 0 < len(inputs) == len(order):
            inputs = dict(zip(order, inputs, strict=True))
        else:
            raise ValueError(
                f"Received {type(inputs).__name__} as inputs, expected a dict with "
                f"{sorted(shapes)}."
            )
    missing = sorted(set(shapes) - set(inputs))
    if missing:
        raise ValueError(
            f"The data lacks the inputs {missing}; it has {sorted(inputs)}. Expected "
            f"{sorted(shapes)}: map the dataset to dicts with these names."
        )
    return {name: _array(inputs[name]) for name in shapes}


def _array(value):
    try:
        return np.asarray(value)
    except ValueError:  # rows of several lengths, which are refused by name later
        return np.asarray(value, object)
