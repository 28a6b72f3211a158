"""One vector for a whole sequence, from its first token."""

import keras
from keras import ops

from keras_tformer.layers.activations import activation_name, get_activation
from keras_tformer.layers.argument_checks import require_positive
from keras_tformer.layers.initializers import fresh_initializer


@keras.saving.register_keras_serializable(package="keras_tformer")
class Pooler(keras.layers.Layer):
    """Projects the vector of the first token, `[CLS]`, and squashes it.

    Devlin et al. 2019, section 3, and their released code: a `Dense` layer with tanh.

    Args:
        hidden_dim: int, width D of the output.
        activation: name of an activation (see `get_activation`), or a function.
        kernel_initializer: initializer of the projection.

    Call arguments:
        inputs: `(B, T, D)` tensor.

    Returns:
        `(B, D)` tensor.

    Raises:
        ValueError: if `hidden_dim` is not positive.

    Example:
        >>> tuple(Pooler(5)(keras.ops.ones((2, 3, 5))).shape)
        (2, 5)
    """

    def __init__(
        self,
        hidden_dim,
        activation="tanh",
        kernel_initializer="glorot_uniform",
        **kwargs,
    ):
        super().__init__(**kwargs)
        require_positive("Pooler", "hidden_dim", hidden_dim)
        self.hidden_dim = hidden_dim
        self.activation = get_activation(activation)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, inputs_shape):
        self.dense = keras.layers.Dense(
            self.hidden_dim,
            kernel_initializer=fresh_initializer(self.kernel_initializer),
            dtype=self.dtype_policy,
            name="dense",
        )
        self.dense.build((inputs_shape[0], inputs_shape[-1]))
        self.built = True

    def call(self, inputs):
        # Not `[:, 0, :]`: LiteRT's delegate takes slices, but none that drop an axis.
        first = ops.reshape(inputs[:, :1, :], (-1, inputs.shape[-1]))  # (B, D)
        return self.activation(self.dense(first))

    def compute_output_spec(self, inputs):
        shape = (inputs.shape[0], self.hidden_dim)
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "hidden_dim": self.hidden_dim,
            "activation": activation_name(self.activation),
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
