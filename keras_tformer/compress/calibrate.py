"""Learn the ranges of activations from data before training."""

import keras

from keras_tformer.compress.activation_quantizer import ActivationQuantizer


def calibrate(model, dataset, steps=None):
    """Sets the activation ranges of a quantization-aware model from real batches.

    The batches run through the model in float, at inference; every range becomes the
    mean of the batches' smallest and largest values. A few batches of 32 are enough,
    and training goes on from there (a classifier's last block makes one position of
    each text, so ranges of a handful of texts are too small). Weights do not change.

    Args:
        model: a model that `quantize_model` returned.
        dataset: a `tf.data.Dataset` or any iterable of batches: inputs, (inputs,
            targets) or (inputs, targets, sample weights).
        steps: int, number of batches to use; None uses all.

    Returns:
        `model`.

    Raises:
        ValueError: if the model is not quantization-aware or there is no batch.

    Example:

    >>> import keras
    >>> from keras_tformer.compress import quantize_model
    >>> x = keras.Input((2,), name="x")
    >>> model = quantize_model(keras.Model(x, keras.layers.Dense(1, name="a")(x)))
    >>> model = calibrate(model, [keras.ops.array([[1.0, -2.0]])])
    >>> float(model.get_layer("a.input.quantizer").range_min)
    -2.0
    """
    quantizers = [
        layer for layer in model.layers if isinstance(layer, ActivationQuantizer)
    ]
    if not quantizers:
        raise ValueError(
            f"Model '{model.name}' is not quantization-aware: it has no activation "
            "ranges to calibrate. Use what quantize_model returns."
        )
    learned = [layer for layer in quantizers if layer.fixed_range is None]
    for layer in learned:
        layer.num_batches.assign(0.0)
    observe = _compiled(lambda inputs: model(inputs, training=False))
    try:
        for layer in quantizers:
            layer.is_calibrating = True
        num_batches = 0
        for batch in dataset:
            if num_batches == steps:
                break
            observe(keras.utils.unpack_x_y_sample_weight(batch)[0])
            num_batches += 1
    finally:
        for layer in quantizers:
            layer.is_calibrating = False
    if not num_batches:
        raise ValueError("The calibration dataset has no batch.")
    return model


def _compiled(function):
    if keras.backend.backend() != "tensorflow":
        return function
    import tensorflow as tf

    return tf.function(function, autograph=False)
