"""Repair of `fit`, `evaluate` and `predict` under several replicas or workers."""

import contextlib
import threading

from keras_tformer.distribute.replace import one_of_several_replicas, replace
from keras_tformer.distribute.training_checks import (
    check_first_batch,
    check_scope,
    check_smallest_part,
)

_part = threading.local()  # how much of the batch a replica, which is a thread, has


def repair_trainer():
    """Makes Keras' TensorFlow trainer run under mirrored and multi-worker strategies.

    Keras 3.13 to 3.15, in `keras/src/backend/tensorflow/trainer.py`:

    - several workers: `fit` fails before its first step, because the first batch is
      reduced as one tensor (keras #20585, #20329, #20601), and then because scalars are
      averaged along an axis;
    - `steps_per_execution` above 1 fails (keras #19246): a loop carries an optional of
      distributed values;
    - `jit_compile=True` fails: the whole step, all devices in it, is one XLA program.
      Here XLA compiles the model's call of each replica, and so its gradient; the loss
      and the sums over replicas stay outside;
    - `evaluate` counts replicas by their rows, and a replica without rows as nan.

    What can only go wrong later, or without a word, is refused when a function to train
    is made: see `training_checks`.

    Example:
        >>> repair_trainer()
    """
    from keras.src.backend.tensorflow import trainer
    from keras.src.losses import loss as keras_losses

    replace(trainer.TensorFlowTrainer, "_maybe_symbolic_build", _symbolic_build)
    replace(trainer.TensorFlowTrainer, "_make_function", _make_function)
    replace(trainer.TensorFlowTrainer, "make_train_function", _make_train_function)
    replace(keras_losses, "unscale_loss_for_distribution", _unscale_loss)


def is_repaired(strategy):
    """Says whether the trainer is repaired for models of this strategy.

    Example:
        >>> is_repaired(None)
        False
    """
    import tensorflow as tf

    kinds = (tf.distribute.MirroredStrategy, tf.distribute.MultiWorkerMirroredStrategy)
    return isinstance(strategy, kinds) and strategy.num_replicas_in_sync > 1


def _symbolic_build(original):
    def maybe_symbolic_build(self, iterator=None, data_batch=None):
        import tensorflow as tf

        strategy = self._distribute_strategy
        if not is_repaired(strategy) or iterator is None:
            original(self, iterator, data_batch)
            return
        check_scope(self)
        for _, _, batches in iterator:
            data_batch = next(batches)
            break
        check_first_batch(self, strategy, iterator.num_batches, data_batch)
        data_batch = tf.nest.map_structure(
            lambda value: strategy.experimental_local_results(value)[0], data_batch
        )
        with strategy.scope():
            self._symbolic_build(data_batch=data_batch)

    return maybe_symbolic_build


def _make_train_function(original):
    def make_train_function(self, force=False):
        check_scope(self)
        check_smallest_part(self)
        return original(self, force)

    return make_train_function


def _make_function(original):
    def make_function(self, step_function):
        import tensorflow as tf

        strategy = self._distribute_strategy
        if not is_repaired(strategy):
            return original(self, step_function)

        def on_replica(data):
            with _known_part(data):
                return step_function(data)

        def one_step(data):
            with _compiled_call(self):
                outputs = strategy.run(self._autoconvert_optionals(on_replica), (data,))
            # The replicas of this worker: enough for a progress line. What an epoch
            # reports is read from the metrics, which add up over all workers.
            return tf.nest.map_structure(
                lambda value: tf.reduce_mean(
                    strategy.experimental_local_results(value), axis=0
                ),
                outputs,
            )

        if not self.run_eagerly:
            one_step = tf.function(one_step, autograph=False, reduce_retracing=True)

        def function(iterator):
            # The data are read outside of the step: what needs none of them, such as
            # weight decay, would otherwise run once too often where they end. Steps
            # follow each other here, not in a graph: a branch that adds up over
            # replicas fails inside a loop.
            outputs = one_step(next(iterator))
            for _ in range(self.steps_per_execution - 1):
                try:
                    data = next(iterator)
                except StopIteration:
                    break
                outputs = one_step(data)
            return outputs

        return function

    return make_function


@contextlib.contextmanager
def _compiled_call(model):
    """Lets XLA compile every call of the model, if it was asked for."""
    import tensorflow as tf
    from keras.src.backend import get_keras_mask, set_keras_mask

    if not model.jit_compile:
        yield
        return
    call = model.call

    def compiled_call(*args, **kwargs):
        @tf.function(jit_compile=True, autograph=False)
        def compiled():
            outputs = call(*args, **kwargs)
            return outputs, [get_keras_mask(x) for x in tf.nest.flatten(outputs)]

        outputs, masks = compiled()
        for output, mask in zip(tf.nest.flatten(outputs), masks, strict=True):
            if mask is not None:
                set_keras_mask(output, mask)
        return outputs

    vars(model)["call"] = compiled_call
    try:
        yield
    finally:
        del vars(model)["call"]


@contextlib.contextmanager
def _known_part(data):
    """Notes how many times this replica's rows go into the whole batch."""
    import tensorflow as tf

    rows = tf.cast(tf.shape(tf.nest.flatten(data)[0])[0], tf.float32)
    total = one_of_several_replicas().all_reduce(tf.distribute.ReduceOp.SUM, rows)
    _part.inverse = tf.math.divide_no_nan(total, rows)
    try:
        yield
    finally:
        del _part.inverse


def _unscale_loss(original):
    def unscale_loss(value):
        import tensorflow as tf

        # The loss tracker multiplies with the replica's rows; the parts' losses add up.
        inverse = getattr(_part, "inverse", None)
        if inverse is None or one_of_several_replicas() is None:
            return original(value)
        return tf.math.multiply_no_nan(value, inverse)

    return unscale_loss
