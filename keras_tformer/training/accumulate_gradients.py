"""Large batches on a small device."""

import functools

import keras
from keras import ops

from keras_tformer.training.whole_batch import (
    is_in_parts,
    known_totals,
    measured_totals,
    total_over_batch,
)


def accumulate_gradients(model, micro_batches):
    """Lets `fit` compute each batch in parts, one after another, and update once.

    The update is that of the whole batch: memory is needed for one part's activations
    only, everything else (schedule, steps, callbacks, checkpoints) stays as it is. Each
    part's loss is divided by what counts in the *whole* batch, over all parts and
    replicas, so that masked and weighted losses come out the same; the optimizer's
    `gradient_accumulation_steps`, which counts parts as steps, averages means instead.
    Under a strategy each replica computes its own share in that many parts. Where a
    layer looks at other rows of the batch (batch normalization, ranges of quantization)
    it sees the part. Dropout draws anew for each part.

    Args:
        model: a functional or Sequential `keras.Model`. Changed in place; `compile` it
            before or after.
        micro_batches: int >= 1. Parts of a batch; 1 gives back Keras' own step.

    Returns:
        The same model.

    Raises:
        ValueError: if the number is not positive, the model has a training step of its
            own, or the backend is not TensorFlow; in `fit`, for a loss that is a mean
            already or that takes Keras' implicit masks.

    Example:
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        >>> model.compile("adam", "mse")
        >>> model = accumulate_gradients(model, micro_batches=4)
        >>> _ = model.fit(np.ones((32, 3)), np.ones((32, 2)), batch_size=32, verbose=0)
        >>> int(model.optimizer.iterations)
        1
    """
    if micro_batches < 1:
        raise ValueError(
            f"Received micro_batches={micro_batches}. Expected an integer >= 1: the "
            "number of parts of a batch, such as 4."
        )
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"Received a model on the {keras.backend.backend()} backend. Expected the "
            "TensorFlow backend. Elsewhere give the optimizer "
            f"gradient_accumulation_steps={micro_batches} and feed parts as batches."
        )
    if type(model).train_step is not keras.Model.train_step:
        raise ValueError(
            f"Received a {type(model).__name__}, which has a training step of its own. "
            "Expected a functional or Sequential model."
        )
    vars(model).pop("train_step", None)
    if micro_batches > 1:
        _measure_keras_losses()
        vars(model)["train_step"] = functools.partial(_train_step, model, micro_batches)
    model.train_function = None
    return model


def _train_step(model, micro_batches, data):
    import tensorflow as tf
    from keras.src.losses import loss as keras_losses

    rows = ops.shape(tf.nest.flatten(data)[0])[0]
    # A forward pass of which nothing is kept but what the losses divide by. TensorFlow
    # computes only that: the rest of it leads nowhere.
    state = [(variable, variable.value) for variable in model.trainable_variables]
    with keras.StatelessScope(state), measured_totals() as totals:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        model.compute_loss(x, y, model(x, training=True), sample_weight)

    variables = model.trainable_variables
    gradients, loss_sum = [None] * len(variables), 0.0
    for number in range(micro_batches):
        done = [gradient for gradient in gradients if gradient is not None]
        with tf.control_dependencies(done):  # or all parts are in memory at once
            start, end = (rows * k // micro_batches for k in (number, number + 1))
            part = tf.nest.map_structure(lambda t, a=start, b=end: t[a:b], data)
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(part)
        with tf.GradientTape() as tape, known_totals(totals):
            outputs = model(x, training=True)
            loss = model.compute_loss(x, y, outputs, sample_weight)
            for penalty in model.losses:  # every part has the weights' in full
                penalty = model._aggregate_additional_loss(penalty)
                loss -= (1 - 1 / micro_batches) * penalty
            scaled = model.optimizer.scale_loss(loss)
        loss_sum += loss
        for index, gradient in enumerate(tape.gradient(scaled, variables)):
            if gradient is not None:
                gradient = tf.convert_to_tensor(gradient)
                known = gradients[index]
                gradients[index] = gradient if known is None else known + gradient
        model.compute_metrics(x, y, outputs, sample_weight)
    model._loss_tracker.update_state(
        keras_losses.unscale_loss_for_distribution(loss_sum), sample_weight=rows
    )
    model.optimizer.apply_gradients(zip(gradients, variables, strict=True))
    return model.get_metrics_result()


_known_reduction = []  # what was put in the place of Keras' function


def _measure_keras_losses():
    """Lets Keras' own losses divide by the whole batch's totals, in parts only."""
    from keras.src.losses import loss as keras_losses

    reduce_values, apply_mask = keras_losses.reduce_values, keras_losses.apply_mask
    if reduce_values in _known_reduction:
        return

    @functools.wraps(reduce_values)
    def reduce_part(values, sample_weight=None, reduction="sum_over_batch_size"):
        if not is_in_parts() or reduction in (None, "none", "sum"):
            return reduce_values(values, sample_weight, reduction)
        if not len(values.shape):
            raise ValueError(
                "accumulate_gradients received a loss that is one number already. "
                "Expected one that gives a value for each row or position, which can "
                "be divided by what counts in the whole batch. Return them unreduced."
            )
        counts = ops.ones_like(values)
        if reduction == "mean_with_sample_weight" and sample_weight is not None:
            counts = sample_weight
        return ops.divide_no_nan(ops.sum(values), total_over_batch(ops.sum(counts)))

    @functools.wraps(apply_mask)
    def mask_part(sample_weight, mask, dtype, reduction):
        if mask is not None and is_in_parts():
            raise ValueError(
                "accumulate_gradients received outputs with one of Keras' implicit "
                "masks. Expected none. Give the mask as `sample_weight`, or use "
                "kt.training.MaskedCrossentropy."
            )
        return apply_mask(sample_weight, mask, dtype, reduction)

    _known_reduction[:] = [reduce_part]
    keras_losses.reduce_values, keras_losses.apply_mask = reduce_part, mask_part
