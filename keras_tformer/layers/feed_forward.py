"""The position-wise feed-forward network."""

import keras

from keras_tformer.layers.activations import (
    activation_name,
    get_activation,
    in_training,
)
from keras_tformer.layers.argument_checks import require_positive, require_share
from keras_tformer.layers.dropout import Dropout
from keras_tformer.layers.initializers import fresh_initializer
from keras_tformer.layers.token_rows import from_rows, sequence_length, to_rows


@keras.saving.register_keras_serializable(package="keras_tformer")
class FeedForward(keras.layers.Layer):
    """Widens every position, applies an activation and narrows it again.

    Vaswani et al. 2017, section 3.3, equation 2: `f(x W1 + b1) W2 + b2`.

    Args:
        intermediate_dim: int, inner width F.
        activation: name of an activation (see `get_activation`), or a function.
        dropout: float in [0, 1), share of inner values dropped in training.
        use_bias: bool, whether the two projections add a bias.
        kernel_initializer, bias_initializer: initializers of the projections.

    Call arguments:
        inputs: `(B, T, D)` tensor.

    Returns:
        `(B, T, D)` tensor.

    Raises:
        ValueError: if a number is out of range.

    Example:
        >>> tuple(FeedForward(11)(keras.ops.ones((2, 3, 5))).shape)
        (2, 3, 5)
    """

    def __init__(
        self,
        intermediate_dim,
        activation="gelu",
        dropout=0.0,
        use_bias=True,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        **kwargs,
    ):
        super().__init__(**kwargs)
        require_positive("FeedForward", "intermediate_dim", intermediate_dim)
        require_share("FeedForward", "dropout", dropout)
        self.intermediate_dim = intermediate_dim
        self.activation = get_activation(activation)
        self.dropout = dropout
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)

    def build(self, inputs_shape):
        hidden_dim = inputs_shape[-1]
        inner_shape = (*inputs_shape[:-1], self.intermediate_dim)
        self.intermediate_dense = self._dense(
            self.intermediate_dim, "intermediate", inputs_shape
        )
        self.dropout_layer = Dropout(
            self.dropout, dtype=self.dtype_policy, name="dropout"
        )
        self.dropout_layer.build(inner_shape)
        self.output_dense = self._dense(hidden_dim, "output", inner_shape)
        self.built = True

    def call(self, inputs, training=False):
        activation = in_training(self.activation) if training else self.activation
        rows = activation(self.intermediate_dense(to_rows(inputs)))  # (B * T, F)
        rows = self.output_dense(self.dropout_layer(rows))
        return from_rows(rows, sequence_length(inputs))  # (B, T, D)

    def compute_output_spec(self, inputs, training=False):
        return keras.KerasTensor(inputs.shape, dtype=self.compute_dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "intermediate_dim": self.intermediate_dim,
            "activation": activation_name(self.activation),
            "dropout": self.dropout,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
        }

    def _dense(self, width, name, input_shape):
        layer = keras.layers.Dense(
            width,
            use_bias=self.use_bias,
            kernel_initializer=fresh_initializer(self.kernel_initializer),
            bias_initializer=fresh_initializer(self.bias_initializer),
            dtype=self.dtype_policy,
            name=name,
        )
        layer.build(input_shape)
        return layer
