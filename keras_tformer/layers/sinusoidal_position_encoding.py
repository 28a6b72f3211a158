"""Positions as sines and cosines: no weights, any length."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_tformer")
class SinusoidalPositionEncoding(keras.layers.Layer):
    """Returns the fixed sine and cosine vectors of the positions of its input.

    Vaswani et al. 2017, section 3.5: `PE(t, 2i) = sin(t / 10000^(2i/D))` and
    `PE(t, 2i+1)` the cosine of the same angle. Computed for whatever length comes, so
    nothing is stored and no length is too long.

    Args:
        max_wavelength: float, the 10000 of the formula.

    Call arguments:
        inputs: `(B, T, D)` tensor; only its length and width matter.
        start_index: int or scalar tensor, position of the first token.

    Returns:
        `(1, T, D)` tensor, to be added to the inputs.

    Raises:
        ValueError: if `D` is odd, or `max_wavelength` is not above 1.

    Example:
        >>> x = SinusoidalPositionEncoding()(keras.ops.zeros((2, 3, 4)))
        >>> [round(float(v), 4) for v in x[0, 1]]
        [0.8415, 0.5403, 0.01, 0.9999]
    """

    def __init__(self, max_wavelength=10000.0, **kwargs):
        super().__init__(**kwargs)
        if max_wavelength <= 1:
            raise ValueError(
                "`SinusoidalPositionEncoding` needs a `max_wavelength` above 1. "
                f"Received: max_wavelength={max_wavelength}. The paper uses 10000."
            )
        self.max_wavelength = max_wavelength

    def build(self, inputs_shape):
        if inputs_shape[-1] % 2:
            raise ValueError(
                "`SinusoidalPositionEncoding` pairs sines with cosines and needs an "
                f"even width. Received: inputs of width {inputs_shape[-1]}. Use an "
                "even `hidden_dim`."
            )
        self.built = True

    def call(self, inputs, start_index=0):
        length, width = ops.shape(inputs)[1], inputs.shape[-1]
        positions = ops.cast(ops.arange(length) + start_index, "float32")  # (T,)
        exponents = ops.arange(0, width, 2, dtype="float32") / width  # (D/2,)
        frequencies = ops.power(float(self.max_wavelength), -exponents)
        angles = ops.expand_dims(positions, 1) * ops.expand_dims(frequencies, 0)
        pairs = ops.stack([ops.sin(angles), ops.cos(angles)], axis=-1)  # (T, D/2, 2)
        table = ops.reshape(pairs, (1, -1, width))  # (1, T, D)
        return ops.cast(table, self.compute_dtype)

    def compute_output_spec(self, inputs, start_index=0):
        return keras.KerasTensor((1, *inputs.shape[1:]), dtype=self.compute_dtype)

    def get_config(self):
        return {**super().get_config(), "max_wavelength": self.max_wavelength}
