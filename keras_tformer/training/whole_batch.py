"""Totals over a batch that is computed in parts, by replicas or in micro-batches."""

import contextlib
import threading

import keras

_trace = threading.local()  # every replica is traced in a thread of its own


def total_over_batch(value):
    """Adds up a part's scalar over all parts of the batch.

    Over the replicas of `tf.distribute`, and over the micro-batches of
    `accumulate_gradients`, which asks for the totals before it comes to the parts.

    Args:
        value: scalar tensor, such as the number of positions that count in this part.

    Returns:
        A scalar tensor.

    Example:
        >>> total_over_batch(5.0)  # one part is all
        5.0
    """
    known = getattr(_trace, "known", None)
    if known is not None:
        return next(known)
    total = _sum_over_replicas(value)
    if getattr(_trace, "measured", None) is not None:
        _trace.measured.append(total)
    return total


@contextlib.contextmanager
def measured_totals():
    """Notes the totals that are asked for inside, in their order.

    Example:
        >>> with measured_totals() as totals:
        ...     _ = total_over_batch(5.0), total_over_batch(7.0)
        >>> totals
        [5.0, 7.0]
    """
    _trace.measured = totals = []
    try:
        yield totals
    finally:
        _trace.measured = None


@contextlib.contextmanager
def known_totals(totals, parts=1):
    """Gives these totals, in their order, to those who ask inside.

    Args:
        totals: list of scalars.
        parts: what `parts_in_batch` gives inside.

    Example:
        >>> with known_totals([5.0, 7.0], parts=4):
        ...     total_over_batch(2.0), total_over_batch(3.0), parts_in_batch()
        (5.0, 7.0, 4)
    """
    outside = getattr(_trace, "known", None), parts_in_batch()
    _trace.known, _trace.parts = iter(totals), parts
    try:
        yield
    finally:
        _trace.known, _trace.parts = outside


def parts_in_batch():
    """Says how many parts like the one that is being traced make up the batch.

    Losses of parts add up to that of the batch. So a loss that goes into a mean over
    the parts is first multiplied by this number, with its inverse as the weight.

    Returns:
        A number; 1 outside of micro-batches.

    Example:
        >>> parts_in_batch()
        1
    """
    return getattr(_trace, "parts", 1)


def is_in_parts():
    """Says whether micro-batches are being traced.

    Example:
        >>> is_in_parts()
        False
    """
    states = (getattr(_trace, name, None) for name in ("known", "measured"))
    return any(state is not None for state in states)


def _sum_over_replicas(value):
    if keras.backend.backend() != "tensorflow":
        return value  # JAX computes on the whole batch at once
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return value
    return context.all_reduce(tf.distribute.ReduceOp.SUM, value)
