"""Repair of Keras' random numbers, which are the same on every replica."""

from keras_tformer.distribute.replace import one_of_several_replicas, replace

# Odd and far from small numbers, so that replica 1 of one layer is no other layer.
STRIDE = 0x9E3779B9


def repair_dropout():
    """Gives every replica random numbers of its own, still determined by the seed.

    Keras 3.13 to 3.15 (no upstream issue found): every replica has a copy of a
    `SeedGenerator`'s state, so that dropout draws one mask for all parts of a batch.
    The state itself stays equal, is saved and restored as ever; the replica's number is
    added to what is drawn from it. Replica 0 draws what one device would.

    Example:
        >>> repair_dropout()
    """
    import keras

    replace(keras.random.SeedGenerator, "next", _next)


def _next(original):
    def next(self, ordered=True):
        import tensorflow as tf

        seed = original(self, ordered)
        context = one_of_several_replicas()
        if context is None:
            return seed
        replica = tf.cast(context.replica_id_in_sync_group, seed.dtype)
        return seed + tf.stack([replica * STRIDE, tf.zeros_like(replica)])

    return next
