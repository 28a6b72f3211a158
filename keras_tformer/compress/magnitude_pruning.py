"""The constraint that prunes one weight by magnitude, and the state that it keeps."""

import keras
from keras import ops


class MagnitudePruning(keras.constraints.Constraint):
    """Keeps the largest values of a weight and sets the others to zero.

    Keras optimizers call it after each update, inside the compiled step. It counts its
    calls, asks the schedule whether to choose anew, and applies the mask.

    Args:
        schedule: function(step) -> (prune now?, sparsity), or None: the mask stays.
        mask: bool variable of the weight's shape, True where the weight lives.
        step: int64 variable, updates so far.
        block_size, block_pooling_type, sparsity_m_by_n: see `prune_low_magnitude`.
        threshold: the `SharedThreshold` of a whole model, or None for one of the
            weight's own.
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
        threshold=None,
        inner=None,
    ):
        self.schedule = schedule
        self.mask = mask
        self.step = step
        self.block_size = block_size
        self.block_pooling_type = block_pooling_type
        self.sparsity_m_by_n = sparsity_m_by_n
        self.threshold = threshold
        self.inner = inner

    def __call__(self, w):
        import tensorflow as tf

        weight = ops.convert_to_tensor(w if self.inner is None else self.inner(w))
        if self.schedule is None:
            mask = tf.convert_to_tensor(self.mask.value)
            return tf.where(mask, weight, tf.zeros_like(weight))
        step = tf.convert_to_tensor(self.step.value) + 1
        self.step.assign(step)
        prune_now, sparsity = self.schedule(step)
        if self.sparsity_m_by_n is not None:
            prune_now = tf.equal(step, 1)
        mask = tf.convert_to_tensor(self.mask.value)
        if self.threshold is not None:
            self.threshold.update(self, prune_now, sparsity)
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

        if self.sparsity_m_by_n is not None:
            return _m_by_n_mask(tf.abs(weight), *self.sparsity_m_by_n)
        magnitude = self.magnitude(weight)
        if self.threshold is None:
            mask = largest(magnitude, sparsity)
        else:
            mask = _bits(magnitude) >= tf.convert_to_tensor(self.threshold.bits.value)
        rows, columns = self.block_size
        if (rows, columns) == (1, 1):
            return mask
        return tf.repeat(tf.repeat(mask, rows, axis=0), columns, axis=1)

    def magnitude(self, weight):
        """Returns the absolute value of every weight, or what a block's amount to."""
        import tensorflow as tf

        magnitude = tf.abs(weight)
        rows, columns = self.block_size
        if (rows, columns) == (1, 1):
            return magnitude
        height, width = weight.shape
        blocks = tf.reshape(
            magnitude, (height // rows, rows, width // columns, columns)
        )
        pool = tf.reduce_mean if self.block_pooling_type == "AVG" else tf.reduce_max
        # First the rows, then the columns, as TF-MOT sums them: rounding decides ties.
        return pool(pool(blocks, axis=1), axis=-1)  # (height / rows, width / columns)


class SharedThreshold:
    """One magnitude below which the weights of a whole model are pruned.

    Optimizers call the constraints when all weights are updated, so that the first
    constraint can look at all of them.

    Args:
        bits: int32 variable, the bits of the threshold.
        weights: the pruned `keras.Variable`s.
    """

    def __init__(self, bits, weights):
        self.bits = bits
        self.weights = weights

    def update(self, constraint, prune_now, sparsity):
        """Looks for the threshold anew, if it is the first weight's constraint."""
        import tensorflow as tf

        if constraint is not self.weights[0].constraint:
            return

        def search():
            return threshold_bits(
                [w.constraint.magnitude(w.value) for w in self.weights], sparsity
            )

        before = tf.convert_to_tensor(self.bits.value)
        self.bits.assign(tf.cond(tf.cast(prune_now, tf.bool), search, lambda: before))


class PruningState(keras.layers.Layer):
    """Masks and step counts of the pruned weights, saved along with a model.

    Args:
        weights: the pruned `keras.Variable`s.
        is_frozen: bool, whether the masks were made from the weights and stay.
        has_threshold: bool, whether there is a `SharedThreshold`.
        has_scores: bool, whether there are the full copies and the scores of
            `MovementPruning`.
    """

    def __init__(self, weights, is_frozen=False, has_threshold=False, has_scores=False):
        super().__init__(name="pruning_state", dtype="float32")
        self.is_frozen = is_frozen
        self.masks, self.steps, self.originals, self.scores = [], [], [], []
        for weight in weights:
            name = weight.path.replace("/", "_")
            self.masks.append(self._state(f"{name}_mask", weight.shape, "bool", "ones"))
            self.steps.append(self._state(f"{name}_step", (), "int64", "zeros"))
            if has_scores:
                for kind, states in (
                    ("original", self.originals),
                    ("score", self.scores),
                ):
                    states.append(
                        self._state(f"{name}_{kind}", weight.shape, "float32", "zeros")
                    )
        if has_threshold:
            self.threshold = self._state("threshold", (), "int32", "zeros")
        self.built = True

    def load_own_variables(self, store):
        if len(store.keys()):
            super().load_own_variables(store)
        elif self.is_frozen or self.scores:
            raise ValueError(
                "The file is of a model that was not being pruned, and the masks come "
                "from the weights: load it first, then prune."
            )  # otherwise pruning starts at step 0

    def _state(self, name, shape, dtype, initializer):
        return self.add_weight(
            name=name,
            shape=shape,
            dtype=dtype,
            initializer=initializer,
            trainable=False,
            aggregation="only_first_replica",
        )


def largest(values, sparsity):
    """Masks the round(n (1 - sparsity)) largest of n values, at least one."""
    return _bits(values) >= threshold_bits([values], sparsity)


def _bits(values):
    """Floats as whole numbers of the same order."""
    import tensorflow as tf

    bits = tf.bitcast(tf.cast(values, tf.float32), tf.int32)
    return tf.where(bits < 0, tf.bitwise.bitwise_xor(bits, 2**31 - 1), bits)


def threshold_bits(tensors, sparsity):
    """Returns the bits of the smallest value that lives, over several tensors.

    The threshold is found bit by bit: the bits of floats, read as whole numbers, have
    the order of the floats (negative ones turned round). 32 counts are several times
    faster than sorting a large table, and XLA compiles them at once where it takes long
    for sorts.
    """
    import tensorflow as tf

    all_bits = [_bits(values) for values in tensors]
    share = 1 - tf.cast(sparsity, tf.float32)
    size = tf.cast(sum(bits.shape.num_elements() for bits in all_bits), tf.float32)
    kept = tf.cast(tf.maximum(tf.round(size * share), 1), tf.int32)

    def enough(threshold):
        counts = [
            tf.math.count_nonzero(bits >= threshold, dtype=tf.int32)
            for bits in all_bits
        ]
        return tf.add_n(counts) >= kept

    def set_bit(bit, threshold):
        higher = threshold | tf.bitwise.left_shift(1, bit)
        return bit - 1, tf.where(enough(higher), higher, threshold)

    start = tf.where(enough(0), 0, -(2**31))
    _, threshold = tf.while_loop(
        lambda bit, threshold: bit >= 0, set_bit, (tf.constant(30), start)
    )
    return threshold


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
