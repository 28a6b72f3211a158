"""Layer normalization in the form that survives int8."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_tformer")
class LayerNormalization(keras.layers.LayerNormalization):
    """Normalizes the last axis to mean 0 and variance 1, then scales and shifts it.

    Ba et al. 2016, section 3. Same weights, arguments and values as
    `keras.layers.LayerNormalization`; only the order of operations differs: the input
    is centred once and its variance is the mean of a product. The stock form becomes
    SQUARED_DIFFERENCE in TFLite, which has no int16x8 kernel. Statistics are
    computed in float32 under every dtype policy.

    Args:
        epsilon: float added to the variance.
        **kwargs: those of `keras.layers.LayerNormalization`; `axis` must be -1.

    Call arguments:
        inputs: `(..., D)` float tensor.

    Returns:
        `(..., D)` tensor in the compute dtype.

    Raises:
        ValueError: if `axis` is not the last one.

    Example:
        >>> layer = LayerNormalization()
        >>> x = keras.ops.array([[1.0, 3.0]])
        >>> [round(float(v), 3) for v in layer(x)[0]]
        [-1.0, 1.0]
    """

    def __init__(self, epsilon=1e-12, **kwargs):
        super().__init__(epsilon=epsilon, **kwargs)
        if self.axis not in (-1, [-1]):
            raise ValueError(
                "`LayerNormalization` normalizes the last axis only. Received: "
                f"axis={self.axis}. Use `keras.layers.LayerNormalization` for others."
            )

    def call(self, inputs):
        x = ops.cast(inputs, "float32") if self.compute_dtype != "float32" else inputs
        centred = x - ops.mean(x, axis=-1, keepdims=True)
        variance = ops.mean(centred * centred, axis=-1, keepdims=True)
        outputs = centred * ops.rsqrt(variance + self.epsilon)
        if self.scale:
            outputs = outputs * ops.cast(self.gamma, x.dtype)
        if self.center:
            outputs = outputs + ops.cast(self.beta, x.dtype)
        if self.compute_dtype != "float32":
            outputs = ops.cast(outputs, self.compute_dtype)
        return outputs
