"""The constraint that prunes one weight by movement."""

import keras
from keras import ops

from keras_tformer.compress.magnitude_pruning import MagnitudePruning, largest


class MovementPruning(keras.constraints.Constraint):
    """Keeps the weights that move away from zero, see `prune_by_movement`.

    Args:
        schedule: function(step) -> (prune now?, sparsity).
        mask: bool variable of the weight's shape, True where the weight lives.
        step: int64 variable, updates so far.
        original: float variable of the weight's shape, with the values of pruned
            weights, too.
        score: float variable of the weight's shape.
        inner: the constraint that the weight had before, applied first, or None.
    """

    def __init__(self, schedule, mask, step, original, score, inner=None):
        self.schedule = schedule
        self.mask = mask
        self.step = step
        self.original = original
        self.score = score
        self.inner = inner

    def __call__(self, w):
        import tensorflow as tf

        weight = ops.convert_to_tensor(w if self.inner is None else self.inner(w))
        mask, step, original, score = (
            tf.convert_to_tensor(state.value)
            for state in (self.mask, self.step, self.original, self.score)
        )
        self.step.assign(step + 1)
        prune_now, sparsity = self.schedule(step + 1)
        zeros = tf.zeros_like(weight)
        change = weight - tf.where(mask, original, zeros)
        score = score + original * change
        original = original + tf.where(mask, change, zeros)
        mask = tf.cond(
            tf.cast(prune_now, tf.bool),
            lambda: largest(score, sparsity),
            lambda: mask,
        )
        self.score.assign(score)
        self.original.assign(original)
        self.mask.assign(mask)
        return tf.where(mask, original, zeros)


PRUNING = (MagnitudePruning, MovementPruning)
