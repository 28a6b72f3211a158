"""Repair of Keras' losses, which average every replica's part by itself."""

from keras import ops

from keras_tformer.distribute.replace import one_of_several_replicas, replace

MEANS = ("sum_over_batch_size", "mean", "mean_with_sample_weight")


def repair_losses():
    """Makes a mean loss the mean over the whole batch, whatever each replica has of it.

    Keras 3.13 to 3.15 (no upstream issue found): a replica divides by the rows, the
    sample weights or the unmasked positions of its own part, and the gradients are
    averaged as if all parts were alike. That is wrong for `"mean_with_sample_weight"`,
    for masks and for a last batch that does not divide evenly; a loss that is a scalar
    already is not divided at all and counts once for each replica.

    Example:
        >>> repair_losses()
    """
    from keras.src.losses import loss as keras_losses

    replace(keras_losses, "reduce_values", _reduce_values)
    replace(keras_losses, "apply_mask", _apply_mask)


def _sum(context, value):
    import tensorflow as tf

    return context.all_reduce(tf.distribute.ReduceOp.SUM, value)


def _reduce_values(original):
    def reduce_values(values, sample_weight=None, reduction="sum_over_batch_size"):
        context = one_of_several_replicas()
        if context is None or reduction not in MEANS:
            return original(values, sample_weight, reduction)
        if not values.shape.rank:
            return values / context.num_replicas_in_sync
        counts = ops.ones_like(values)
        if reduction == "mean_with_sample_weight" and sample_weight is not None:
            counts = sample_weight
        return ops.divide_no_nan(ops.sum(values), _sum(context, ops.sum(counts)))

    return reduce_values


def _apply_mask(original):
    def apply_mask(sample_weight, mask, dtype, reduction):
        context = one_of_several_replicas()
        if context is None or mask is None or reduction not in MEANS[:2]:
            return original(sample_weight, mask, dtype, reduction)
        # Without the replica's own factor, then with that of the whole batch.
        weights = original(sample_weight, mask, dtype, "mean_with_sample_weight")
        mask = ops.cast(mask, dtype)
        total = _sum(context, ops.sum(ops.ones_like(mask)))
        return weights * ops.divide_no_nan(total, _sum(context, ops.sum(mask)))

    return apply_mask
