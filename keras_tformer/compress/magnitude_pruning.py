"""The constraint that prunes one weight, and the state that it keeps."""

import keras
from keras import ops


class MagnitudePruning(keras.constraints.Constraint):
    """Keeps the largest values of a weight and sets the others to zero.

    Keras optimizers call it after each update, inside the compiled step. It counts its
    calls, asks the schedule whether to choose anew, and applies the mask.

    Args:
        schedule: function(step) -> (prune now?, sparsity).
        mask: bool variable of the weight's shape, True where the weight lives.
        step: int64 variable, updates so far.
        block_size, block_pooling_type, sparsity_m_by_n: see `prune_low_magnitude`.
        inner: the constraint that the weight had before, applied first, or None.
    """

    def __init__(
        self,
        schedule,
        mask,
        step,
        block_size=(1, 1),
        block_pooling_type="AVG",
        sparsity_m_by_n=None,
        inner=None,
    ):
        self.schedule = schedule
        self.mask = mask
        self.step = step
        self.block_size = block_size
        self.block_pooling_type = block_pooling_type
        self.sparsity_m_by_n = sparsity_m_by_n
        self.inner = inner

    def __call__(self, w):
        import tensorflow as tf

        weight = ops.convert_to_tensor(w if self.inner is None else self.inner(w))
        step = tf.convert_to_tensor(self.step.value) + 1
        self.step.assign(step)
        prune_now, sparsity = self.schedule(step)
        if self.sparsity_m_by_n is not None:
            prune_now = tf.equal(step, 1)
        mask = tf.convert_to_tensor(self.mask.value)
        # Only the new mask is computed inside the branch: under a strategy a variable
        # cannot be assigned there.
        mask = tf.cond(
            tf.cast(prune_now, tf.bool),
            lambda: self.new_mask(weight, sparsity),
            lambda: mask,
        )
        self.mask.assign(mask)
        return tf.where(mask, weight, tf.zeros_like(weight))

    def new_mask(self, weight, sparsity):
        """Returns the bool mask of the values of `weight` that live on."""
        import tensorflow as tf

        magnitude = tf.abs(weight)
        if self.sparsity_m_by_n is not None:
            return _m_by_n_mask(magnitude, *self.sparsity_m_by_n)
        rows, columns = self.block_size
        if (rows, columns) == (1, 1):
            return _largest(magnitude, sparsity)
        height, width = weight.shape
        blocks = tf.reshape(
            magnitude, (height // rows, rows, width // columns, columns)
        )
        pool = tf.reduce_mean if self.block_pooling_type == "AVG" else tf.reduce_max
        # First the rows, then the columns, as TF-MOT sums them: rounding decides ties.
        pooled = pool(pool(blocks, axis=1), axis=-1)  # (height / rows, width / columns)
        mask = _largest(pooled, sparsity)
        return tf.repeat(tf.repeat(mask, rows, axis=0), columns, axis=1)


class PruningState(keras.layers.Layer):
    """Masks and step counts of the pruned weights, saved along with a model.

    Args:
        weights: the pruned `keras.Variable`s.
    """

    def __init__(self, weights):
        super().__init__(name="pruning_state", dtype="float32")
        self.masks, self.steps = [], []
        for weight in weights:
            name = weight.path.replace("/", "_")
            self.masks.append(self._state(f"{name}_mask", weight.shape, "bool", "ones"))
            self.steps.append(self._state(f"{name}_step", (), "int64", "zeros"))
        self.built = True

    def load_own_variables(self, store):
        if len(store.keys()):  # a file of the plain model: pruning starts at step 0
            super().load_own_variables(store)

    def _state(self, name, shape, dtype, initializer):
        return self.add_weight(
            name=name,
            shape=shape,
            dtype=dtype,
            initializer=initializer,
            trainable=False,
            aggregation="only_first_replica",
        )


def _largest(magnitude, sparsity):
    """Masks the round(n (1 - sparsity)) largest of n values, at least one.

    The threshold is found bit by bit: the bits of non-negative floats, read as whole
    numbers, have the order of the floats. 31 counts are several times faster than
    sorting a large table, and XLA compiles them at once where it takes long for sorts.
    """
    import tensorflow as tf

    bits = tf.bitcast(tf.cast(magnitude, tf.float32), tf.int32)
    share = 1 - tf.cast(sparsity, tf.float32)
    size = tf.cast(tf.size(bits), tf.float32)
    kept = tf.cast(tf.maximum(tf.round(size * share), 1), tf.int32)

    def set_bit(bit, threshold):
        higher = threshold | tf.bitwise.left_shift(1, bit)
        enough = tf.math.count_nonzero(bits >= higher, dtype=tf.int32) >= kept
        return bit - 1, tf.where(enough, higher, threshold)

    _, threshold = tf.while_loop(
        lambda bit, threshold: bit >= 0, set_bit, (tf.constant(30), tf.constant(0))
    )
    return bits >= threshold


def _m_by_n_mask(magnitude, num_zeros, group):
    """Masks the n - m largest of every n values along the input axis."""
    import tensorflow as tf

    rank = len(magnitude.shape)
    inputs_last = [*range(rank - 2), rank - 1, rank - 2]
    moved = tf.transpose(magnitude, inputs_last)
    groups = tf.reshape(moved, (-1, group))
    _, kept = tf.math.top_k(groups, k=group - num_zeros)
    mask = tf.reduce_any(tf.one_hot(kept, group, True, False, dtype=tf.bool), axis=1)
    return tf.transpose(tf.reshape(mask, tf.shape(moved)), inputs_last)
