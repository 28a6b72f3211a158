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
    from keras.src.backend.tensorflow import random

    replace(random, "draw_seed", _draw_seed)


def _draw_seed(original):
    def draw_seed(seed):
        import tensorflow as tf

        drawn = original(seed)
        context = one_of_several_replicas()
        if context is None or isinstance(seed, int):
            return drawn
        replica = tf.cast(context.replica_id_in_sync_group, "int64")
        shift = tf.stack([replica * STRIDE, tf.zeros_like(replica)])
        return tf.cast(drawn, "int64") + shift

    return draw_seed
