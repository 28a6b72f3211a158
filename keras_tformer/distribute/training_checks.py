"""What would train wrongly or wait for ever, found before the first step."""

import weakref

# The strategy that models are expected to be built under, once there is one.
_expected = {}


def expect_models_under(strategy):
    """Notes the strategy that `get_strategy` gave last, for `check_scope`.

    Args:
        strategy: a `tf.distribute.Strategy` of several replicas, or None where models
            train on one device.
    """
    _expected["strategy"] = (
        (lambda: None) if strategy is None else weakref.ref(strategy)
    )


def is_multi_worker(strategy):
    """Says whether a strategy spans several processes.

    Example:
        >>> is_multi_worker(None)
        False
    """
    extended = getattr(strategy, "extended", None)
    return extended is not None and extended._in_multi_worker_mode()


def check_scope(model):
    """Refuses to train a model that was not built under its strategy.

    A model from outside of the scope trains on one device, and under several workers
    each would train its own.

    Args:
        model: a compiled `keras.Model`.

    Raises:
        ValueError: if all of it, or one of its variables, was made outside.
    """
    strategy = model._distribute_strategy
    if strategy is None:
        expected = _expected.get("strategy", lambda: None)()
        if expected is not None:
            several = is_multi_worker(expected)
            raise ValueError(
                f"The model '{model.name}' was built outside of `strategy.scope()`: "
                f"{'every worker' if several else 'one device'} would train one of its "
                "own. Expected models built and compiled under the strategy that "
                "`get_strategy` gave. Build it inside `with strategy.scope():`, or, to "
                'train on one device, call `get_strategy("one_device")` before.'
            )
        return
    for variable in model.variables:
        if not strategy.extended.variable_created_in_scope(variable.value):
            raise ValueError(
                f"The variable '{variable.path}' was made outside of "
                "`strategy.scope()`. Expected the whole model, with its layers and its "
                "optimizer, under the strategy. Build and compile all of it inside "
                "`with strategy.scope():`."
            )


def check_first_batch(model, strategy, steps, batch):
    """Compares what the workers are about to do, and notes the smallest part.

    Args:
        model: the model about to train or to be evaluated.
        strategy: its strategy.
        steps: int, batches an epoch has here, or None where that is unknown.
        batch: the first batch, as the strategy divides it.

    Raises:
        ValueError: if workers have epochs of different lengths.
    """
    import tensorflow as tf

    first = tf.nest.flatten(batch)[0]
    rows = [len(part) for part in strategy.experimental_local_results(first)]
    facts = tf.constant([[-1 if steps is None else steps, min(rows)]])
    if is_multi_worker(strategy):
        facts = strategy.gather(
            strategy.experimental_distribute_values_from_function(lambda _: facts), 0
        )
    lengths, rows = facts.numpy().T.tolist()
    if len(set(lengths)) > 1:
        raise ValueError(
            f"The workers' datasets have {lengths} batches an epoch (-1: unknown). "
            "Expected equal numbers: the others would wait for the one that ends "
            "first. Give all workers the same dataset, which Keras divides, or the "
            "same `steps_per_epoch` and datasets that `.repeat()`."
        )
    model._rows_of_smallest_part = min(rows)


def check_smallest_part(model):
    """Refuses to train where a replica has no row in the first batch.

    Args:
        model: a model that `check_first_batch` has seen.

    Raises:
        ValueError: if the batches are smaller than the number of replicas.
    """
    if getattr(model, "_rows_of_smallest_part", 1) == 0:
        replicas = model.distribute_strategy.num_replicas_in_sync
        raise ValueError(
            f"The first batch has rows for fewer than the {replicas} replicas. "
            f"Expected a global batch of at least {replicas} rows, which the replicas "
            "divide. "
            "Make `batch_size` larger, or train on fewer devices."
        )
