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
    computed in float32 under every dtype policy. In training the gradient is written
    out (a third of the operations that automatic differentiation strings together).

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

    def call(self, inputs, training=False):
        x = ops.cast(inputs, "float32") if self.compute_dtype != "float32" else inputs
        gamma = ops.cast(self.gamma, x.dtype) if self.scale else None
        beta = ops.cast(self.beta, x.dtype) if self.center else None
        if training and self.scale and self.center:
            outputs = _scaled_in_training(x, gamma, self.epsilon)
            outputs = ops.add(outputs, beta)  # BiasAdd on TensorFlow
        else:
            outputs, _ = _normalized(x, self.epsilon)
            outputs = outputs if gamma is None else outputs * gamma
            outputs = outputs if beta is None else outputs + beta
        if self.compute_dtype != "float32":
            outputs = ops.cast(outputs, self.compute_dtype)
        return outputs


def _normalized(x, epsilon):
    centred = x - ops.mean(x, axis=-1, keepdims=True)
    variance = ops.mean(centred * centred, axis=-1, keepdims=True)
    scale = ops.rsqrt(variance + epsilon)  # (..., 1)
    return centred * scale, scale


def _scaled_in_training(x, gamma, epsilon):
    @ops.custom_gradient
    def normalize(x, gamma):
        normed, scale = _normalized(x, epsilon)

        def gradient(*args, upstream=None):
            # torch passes the arguments of `normalize` and `upstream` by name.
            upstream = args[0] if upstream is None else upstream
            summed = tuple(range(len(upstream.shape) - 1))
            to_normed = upstream * gamma
            along = ops.mean(to_normed * normed, axis=-1, keepdims=True)  # (..., 1)
            to_x = to_normed - ops.mean(to_normed, axis=-1, keepdims=True)
            to_x = (to_x - normed * along) * scale
            return to_x, ops.sum(upstream * normed, axis=summed)  # (..., D), (D,)

        return normed * gamma, gradient

    return normalize(x, gamma)
