"""Which weight of somebody else's model is which weight of ours, as tables of text.

A line of a table: the source's name, what happens on the way, our path. What happens is
one of

- `=`: nothing;
- `T`: the matrix is transposed (torch keeps kernels as (outputs, inputs));
- `R`: the same numbers in another shape (KerasHub's (D, H, K) kernels);
- `1/3`, `2/3`, `3/3`: ours is that part of the source's last axis (GPT-2's `c_attn`,
  which makes query, key and value at once).

The name `-` says that the source has no such tensor: ours keeps its initial value, and
is not written.
"""

import functools
import math
import warnings

import numpy as np

# Layers of ours that a checkpoint may lack: fine-tuning starts them afresh.
HEAD_LAYERS = (
    "classifier",
    "masked_lm_head",
    "next_sentence",
    "output_bias",
    "pooler",
    "sentence_order",
    "span",
)
_LARGE = 1 << 22  # Numbers of a weight that is set in parts.
_PART = 1 << 18  # Numbers of a part.


def rows(table, source="", ours=""):
    """Reads a table, and puts prefixes before its names.

    Args:
        table: text with lines of three words; empty lines are skipped.
        source: prefix of the source's names.
        ours: prefix of our paths.

    Returns:
        A list of `(source name, kind, our path)`.

    Example:
        >>> rows("dense.weight  T  dense/kernel", "bert.pooler.", "pooler/")
        [('bert.pooler.dense.weight', 'T', 'pooler/dense/kernel')]
    """
    lines = (line.split() for line in table.strip().splitlines())
    return [
        ("-" if line[0] == "-" else source + line[0], line[1], ours + line[2])
        for line in lines
        if line
    ]


def fill(
    model,
    table_rows,
    read,
    source_names,
    source_shapes=None,
    understood=(),
    strict=True,
    what="the checkpoint",
    read_rows=None,
):
    """Sets the weights of a model from a source, one tensor at a time.

    All names and shapes are checked before the first weight is set, so that a model is
    never half loaded. What was left over on either side is told in one warning.

    Args:
        model: `keras.Model` that is built.
        table_rows: list of `rows`; rows for weights that the model lacks are skipped.
        read: function from a source name to a NumPy array.
        source_names: names that the source has.
        source_shapes: dict from source names to shapes; where it is None, shapes are
            found by reading.
        understood: source names, or ends of them, that repeat another tensor or hold no
            weight; never reported.
        strict: bool, whether a missing weight of the backbone is an error. Weights of
            heads (`HEAD_LAYERS`) may always be missing.
        what: words for the source, for messages.
        read_rows: function from a source name and a slice of its first axis to a NumPy
            array, if the source can be read in parts; large weights then are.

    Returns:
        A pair of lists: source names that were not used, and paths of weights that kept
        their initial value.

    Raises:
        ValueError: if a shape differs, weights of the backbone are missing, or the
            model has weights that no row names.

    Example:
        >>> import keras
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        >>> path = model.layers[0].kernel.path
        >>> arrays = {"w": np.ones((2, 3)), "b": np.ones(2)}
        >>> table = rows(f"w T {path}") + rows(f"b = {model.layers[0].bias.path}")
        >>> fill(model, table, arrays.get, arrays)
        ([], [])
    """
    weights = {weight.path: weight for weight in model.weights}
    source_names = set(source_names)
    wanted = [row for row in table_rows if row[2] in weights]
    _require_full_table(wanted, weights, what)

    present = [row for row in wanted if row[0] in source_names]
    missing = [row for row in wanted if row[0] not in source_names]
    backbone = [row for row in missing if row[2].split("/")[0] not in HEAD_LAYERS]
    if strict and backbone:
        names = _few(f"{name} (for {path})" for name, _, path in backbone)
        raise ValueError(
            f"{what} lacks {len(backbone)} of the {len(wanted)} weights of "
            f"`{model.name}`: {names}. Expected every weight of the backbone. Check "
            "that the configuration belongs to these weights, or pass `strict=False` "
            "to leave them at their initial value."
        )
    if not present:
        raise ValueError(
            f"{what} has none of the {len(wanted)} weights of `{model.name}`. It has "
            f"{_few(sorted(source_names)) or 'nothing'}; expected names such as "
            f"{_few(name for name, _, _ in wanted)}. Check that this is the right file."
        )
    _require_shapes(present, weights, read, source_shapes, what)

    order = sorted(
        present, key=lambda row: row[0]
    )  # The thirds of one tensor together.
    last_name, last_array = None, None
    for name, kind, path in order:
        if name != last_name:
            last_name, last_array = None, None  # Let go before the next one is read.
        weight = weights[path]
        if kind == "=" and read_rows is not None and _is_large(weight):
            _assign_rows(weight, functools.partial(read_rows, name))
            continue
        if last_array is None:
            last_name, last_array = name, read(name)
        _assign(weight, _ours(last_array, kind, tuple(weight.shape)))

    used = {name for name, _, _ in present}
    unused = sorted(
        name for name in source_names - used if not name.endswith(tuple(understood))
    )
    initial = [path for _, _, path in missing]
    _tell(model, what, unused, initial)
    return unused, initial


def arrays(model, table_rows, source_shapes=None):
    """Yields the weights of a model under the source's names, one at a time.

    Args:
        model: `keras.Model` that is built.
        table_rows: list of `rows`; rows for weights that the model lacks are skipped.
        source_shapes: dict from source names to shapes, needed for rows of kind `R`.

    Yields:
        Pairs of a source name and a contiguous NumPy array; thirds joined again.

    Raises:
        ValueError: if the model has weights that no row names, or a shape is needed.

    Example:
        >>> import keras
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        >>> table = rows(f"w T {model.layers[0].kernel.path}")
        >>> table += rows(f"b = {model.layers[0].bias.path}")
        >>> [(name, array.shape) for name, array in arrays(model, table)]
        [('w', (2, 3)), ('b', (2,))]
    """
    weights = {weight.path: weight for weight in model.weights}
    wanted = [row for row in table_rows if row[2] in weights]
    _require_full_table(wanted, weights, "the table")
    thirds = {}
    for name, kind, path in wanted:
        if name == "-":
            continue
        array = _numpy(weights[path])
        if kind.endswith("/3"):
            parts = thirds.setdefault(name, {})
            parts[kind] = array
            if len(parts) == 3:
                del thirds[name]
                yield name, np.concatenate([parts[part] for part in sorted(parts)], -1)
        elif kind == "T":
            yield name, np.ascontiguousarray(array.T)
        elif kind == "R":
            if source_shapes is None or name not in source_shapes:
                raise ValueError(
                    f"The shape of {name!r} is not known from ours, {array.shape}. "
                    "Pass it in `source_shapes`."
                )
            yield name, array.reshape(source_shapes[name])
        else:
            yield name, array
    if thirds:
        raise ValueError(f"Parts of {_few(sorted(thirds))} are missing in the model.")


def source_shapes_of(model, table_rows):
    """Returns the shapes that the source's tensors have to have, without reading any.

    Args:
        model: `keras.Model` that is built.
        table_rows: list of `rows`; rows for weights that the model lacks are skipped.

    Returns:
        A dict from source names to shapes, in the order of the table; rows of kind `R`
        have our shape.

    Example:
        >>> import keras
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        >>> source_shapes_of(model, rows(f"w T {model.layers[0].kernel.path}"))
        {'w': (2, 3)}
    """
    weights = {weight.path: weight for weight in model.weights}
    return {
        name: _theirs(kind, tuple(weights[path].shape))
        for name, kind, path in table_rows
        if path in weights and name != "-"
    }


def _assign(weight, array):
    if _is_large(weight):
        _assign_rows(weight, array.__getitem__)
    else:
        weight.assign(np.array(array))  # A copy: the source may be a mapped file.


def _is_large(weight):
    """Says whether a weight is set in parts: TensorFlow would copy it twice."""
    is_plain = type(weight.value).__name__ == "ResourceVariable"
    return is_plain and len(weight.shape) > 1 and math.prod(weight.shape) > _LARGE


def _assign_rows(weight, read):
    """Sets a weight part by part; `read` gives the rows of a slice."""
    import tensorflow as tf

    length = max(1, _PART // math.prod(weight.shape[1:]))
    for start in range(0, weight.shape[0], length):
        stop = min(start + length, weight.shape[0])
        part = np.ascontiguousarray(read(slice(start, stop)))
        part = tf.IndexedSlices(tf.cast(part, weight.dtype), tf.range(start, stop))
        weight.value.scatter_update(part)


def _numpy(weight):
    from keras import ops

    return np.asarray(ops.convert_to_numpy(weight.value))


def _ours(array, kind, shape):
    """Turns a tensor of the source into ours."""
    if kind == "T":
        return array.T
    if kind == "R":
        return array.reshape(shape)
    if kind.endswith("/3"):
        part, width = int(kind[0]) - 1, shape[-1]
        return array[..., part * width : (part + 1) * width]
    return array


def _theirs(kind, shape):
    """Returns the shape of the source's tensor, from ours."""
    if kind == "T":
        return shape[::-1]
    return (*shape[:-1], 3 * shape[-1]) if kind.endswith("/3") else shape


def _require_full_table(wanted, weights, what):
    unnamed = sorted(set(weights) - {path for _, _, path in wanted})
    if unnamed:
        raise ValueError(
            f"No row of the table of {what} names these weights of the model: "
            f"{_few(unnamed)}. Expected the weights of one of this package's builders."
        )


def _require_shapes(present, weights, read, source_shapes, what):
    wrong = []
    for name, kind, path in present:
        ours = tuple(weights[path].shape)
        if source_shapes is None:
            theirs = tuple(read(name).shape)
        else:
            theirs = tuple(source_shapes[name])
        expected = _theirs(kind, ours)
        same = (
            math.prod(theirs) == math.prod(ours) if kind == "R" else theirs == expected
        )
        if not same:
            wrong.append(f"{name} is {theirs}, expected {expected} (for {path})")
    if wrong:
        raise ValueError(
            f"{what} has {len(wrong)} tensors of the wrong shape: {_few(wrong)}. "
            "Expected the shapes that its configuration gives. Check that the "
            "configuration and the weights belong together."
        )


def _tell(model, what, unused, initial):
    parts = []
    if unused:
        parts.append(f"{len(unused)} of its tensors are not used: {_few(unused)}")
    if initial:
        parts.append(
            f"{len(initial)} weights of `{model.name}` are not in it and keep their "
            f"initial value (train them): {_few(initial)}"
        )
    if parts:
        warnings.warn(f"{what}: " + "; ".join(parts) + ".", stacklevel=4)


def _few(items, most=8):
    items = list(items)
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more
