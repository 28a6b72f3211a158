"""Large batches on a small device."""

import functools

import keras
from keras import ops

from keras_tformer.training.whole_batch import (
    is_in_parts,
    known_totals,
    measured_totals,
    parts_in_batch,
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
    it sees the part, of a batch with fewer rows than parts at least one row. Dropout
    draws anew for each part. A layer's weight `step`, which those of quantization have,
    counts batches.

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
    for name, replaced in (
        ("train_step", _train_step),
        ("_aggregate_additional_loss", _share_of_penalty),
    ):
        vars(model).pop(name, None)
        if micro_batches > 1:
            vars(model)[name] = functools.partial(replaced, model, micro_batches)
    if micro_batches > 1:
        _measure_keras_losses()
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

    counters = [getattr(layer, "step", None) for layer in model._flatten_layers()]
    counters = [step for step in counters if isinstance(step, keras.Variable)]
    counted = [tf.convert_to_tensor(step.value) for step in counters]
    variables = model.trainable_variables
    gradients, loss_sum = [None] * len(variables), 0.0
    for number in range(micro_batches):
        done = [gradient for gradient in gradients if gradient is not None]
        start, end = (rows * k // micro_batches for k in (number, number + 1))
        has_rows = isinstance(rows, int) and end > start
        with tf.control_dependencies(done):  # or all parts are in memory at once
            seen = part = _rows(data, start, end)
            if not has_rows:  # no mean and no range of nothing, which would be NaN
                seen = _rows(data, start, ops.maximum(end, start + 1))
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(part)
        seen, _, _ = keras.utils.unpack_x_y_sample_weight(seen)
        parts = rows / (end - start) if has_rows else micro_batches
        with tf.GradientTape() as tape, known_totals(totals, parts):
            outputs = model(seen, training=True)
            outputs = outputs if has_rows else _rows(outputs, 0, end - start)
            loss = model.compute_loss(x, y, outputs, sample_weight)
            scaled = model.optimizer.scale_loss(loss)
        loss_sum += loss
        for index, gradient in enumerate(tape.gradient(scaled, variables)):
            if gradient is not None:
                gradient = tf.convert_to_tensor(gradient)
                known = gradients[index]
                gradients[index] = gradient if known is None else known + gradient
        model.compute_metrics(x, y, outputs, sample_weight)
        for step, before in zip(counters, counted, strict=True):
            if number < micro_batches - 1:
                step.assign(before)
    model._loss_tracker.update_state(
        keras_losses.unscale_loss_for_distribution(loss_sum), sample_weight=rows
    )
    model.optimizer.apply_gradients(zip(gradients, variables, strict=True))
    return model.get_metrics_result()


def _rows(batch, start, end):
    import tensorflow as tf

    def rows(tensor):
        part, mask = tensor[start:end], getattr(tensor, "_keras_mask", None)
        if mask is not None:
            part._keras_mask = mask[start:end]
        return part

    return tf.nest.map_structure(rows, batch)


def _share_of_penalty(model, micro_batches, loss):
    """Every part has the penalties on weights in full."""
    whole = type(model)._aggregate_additional_loss(model, loss)
    return whole / micro_batches if is_in_parts() else whole


_known_reduction = []  # what was put in the place of Keras' function


def _measure_keras_losses():
    """Lets Keras' own losses divide by the whole batch's totals, in parts only.

    And what it logs of the losses of several outputs be means over the batch.
    """
    from keras.src.losses import loss as keras_losses

    reduce_values, apply_mask = keras_losses.reduce_values, keras_losses.apply_mask
    unscale = keras_losses.unscale_loss_for_distribution
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

    @functools.wraps(unscale)
    def unscale_part(value):
        parts = parts_in_batch()
        with known_totals([]):  # `unscale` may have such a function inside already
            return unscale(value) * parts

    _known_reduction[:] = [reduce_part]
    keras_losses.unscale_loss_for_distribution = unscale_part
    keras_losses.reduce_values, keras_losses.apply_mask = reduce_part, mask_part
