"""Calls with as many rows as an artefact takes, joined as if it took any number."""

import numpy as np


def joined_outputs(batches, names, rows, call):
    """Outputs over all rows of all batches.

    Args:
        batches: list of dicts of arrays by input name.
        names: inputs to hand over.
        rows: int, rows of every call, or None for those of the batches.
        call: function `{input name: array} -> {output name: array}`.

    Returns:
        `{output name: array}`.
    """
    parts = {}
    for feed, kept in cut_batches(batches, names, rows):
        add_rows(parts, call(feed), feed, kept)
    return {name: joined(values) for name, values in parts.items()}


def cut_batches(batches, names, rows):
    """Yield `(feed, how many of its rows are wanted)`; the last one fills up."""
    for batch in batches:
        total = len(next(iter(batch.values())))
        step = rows or total
        for start in range(0, total, step):
            feed, kept = {}, min(step, total - start)
            for name in names:
                array = batch[name][start : start + kept]
                fill = np.repeat(array[-1:], step - kept, axis=0)
                feed[name] = np.concatenate([array, fill])
            yield feed, kept


def add_rows(parts, outputs, feed, kept):
    """Append the wanted rows of one call's outputs to what is there by name."""
    fed = len(next(iter(feed.values())))
    for name, value in outputs.items():
        if np.ndim(value) == 0 or len(value) != fed:
            raise ValueError(
                f"The output {name!r} has the shape {np.shape(value)} for {fed} rows "
                "of inputs. Expected one row for each: have the model give it by "
                "example, not for all of a batch."
            )
        parts.setdefault(name, []).append(value[:kept])


def joined(parts):
    """Arrays of one rank below each other; shorter ones are filled up with zeros."""
    shape = np.max([part.shape for part in parts], axis=0)[1:]
    return np.concatenate([filled(part, (len(part), *shape)) for part in parts])


def filled(array, shape):
    """`array` with zeros behind it (empty texts) up to a shape."""
    if array.shape == tuple(shape):
        return array
    widths = [(0, size - old) for size, old in zip(shape, array.shape, strict=True)]
    return np.pad(array, widths, constant_values="" if array.dtype.kind == "U" else 0)


def unreadable(path, runtime, error):
    """The error to raise where a runtime stops at what it was fed."""
    reason = next(iter(str(error).strip().splitlines()), "")
    return ValueError(
        f"{runtime} cannot run {path!r} on this data: {reason[:300]} Usual reasons: a "
        "token id that the model's table has no row for, or a text longer than it has "
        "positions."
    )
