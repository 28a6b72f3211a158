"""One block of a Transformer encoder."""

import keras

from keras_tformer.layers.activations import activation_name, get_activation
from keras_tformer.layers.argument_checks import require_positive, require_share
from keras_tformer.layers.dropout import Dropout
from keras_tformer.layers.feed_forward import FeedForward
from keras_tformer.layers.layer_normalization import LayerNormalization
from keras_tformer.layers.multi_head_attention import MultiHeadAttention
from keras_tformer.layers.traced_once import traced_once


@keras.saving.register_keras_serializable(package="keras_tformer")
class TransformerEncoder(keras.layers.Layer):
    """Lets the positions of a sequence look at each other, then works on each.

    Vaswani et al. 2017, section 3.1 and figure 1, left: self-attention and a
    feed-forward network, each with a residual connection and layer normalization
    after it, or before it with `normalize_first` (Xiong et al. 2020, figure 1b). Call
    the block again to share its weights across depths, as ALBERT does.

    Args:
        num_heads: int, number of attention heads H.
        intermediate_dim: int, inner width F of the feed-forward network.
        key_dim: int, width K of a head; D / H where it is None.
        activation: name of an activation (see `get_activation`), or a function.
        dropout: float in [0, 1), dropped after attention and feed-forward network.
        attention_dropout: float in [0, 1), share of attention weights dropped.
        layer_norm_epsilon: float added to the variance.
        normalize_first: bool, whether normalization comes before each part.
        use_attention_bias: bool, whether attention's projections add a bias.
        mask_value: negative float, see `DotProductAttention`.
        kernel_initializer, bias_initializer: initializers of all projections.

    Call arguments:
        inputs: `(B, T, D)` tensor.
        padding_mask: `(B, T)` tensor, 1 for the positions that are kept.
        attention_mask: `(B, T, T)` tensor, 1 where a position may look.
        return_attention_scores: bool, whether to return the attention weights too.
        num_queries: int, number of positions, from the first, that look at all others
            and are computed: 1 in the last block of a model whose head reads the first
            token alone. All where it is None.

    Returns:
        `(B, T, D)` tensor; with `return_attention_scores` also the `(B, H, T, T)`
        attention weights. The first T is `num_queries` where that is given.

    Raises:
        ValueError: if a number is out of range, `num_heads` does not divide D, or there
            are fewer positions than `num_queries`.

    Example:
        >>> layer = TransformerEncoder(num_heads=3, intermediate_dim=11)
        >>> mask = keras.ops.array([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]])
        >>> tuple(layer(keras.ops.ones((2, 5, 21)), padding_mask=mask).shape)
        (2, 5, 21)
    """

    def __init__(
        self,
        num_heads,
        intermediate_dim,
        key_dim=None,
        activation="gelu",
        dropout=0.0,
        attention_dropout=0.0,
        layer_norm_epsilon=1e-12,
        normalize_first=False,
        use_attention_bias=True,
        mask_value=-30.0,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        **kwargs,
    ):
        super().__init__(**kwargs)
        require_positive("TransformerEncoder", "num_heads", num_heads)
        require_positive("TransformerEncoder", "intermediate_dim", intermediate_dim)
        require_share("TransformerEncoder", "dropout", dropout)
        require_share("TransformerEncoder", "attention_dropout", attention_dropout)
        self.num_heads = num_heads
        self.intermediate_dim = intermediate_dim
        self.key_dim = key_dim
        self.activation = get_activation(activation)
        self.dropout = dropout
        self.attention_dropout = attention_dropout
        self.layer_norm_epsilon = layer_norm_epsilon
        self.normalize_first = normalize_first
        self.use_attention_bias = use_attention_bias
        self.mask_value = mask_value
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)

    def build(self, inputs_shape):
        self.self_attention = MultiHeadAttention(
            self.num_heads,
            key_dim=self.key_dim,
            dropout=self.attention_dropout,
            use_bias=self.use_attention_bias,
            mask_value=self.mask_value,
            kernel_initializer=self.kernel_initializer,
            bias_initializer=self.bias_initializer,
            dtype=self.dtype_policy,
            name="self_attention",
        )
        self.self_attention.build(inputs_shape)
        self.self_attention_norm = LayerNormalization(
            self.layer_norm_epsilon,
            dtype=self.dtype_policy,
            name="self_attention_norm",
        )
        self.self_attention_norm.build(inputs_shape)
        self.feed_forward = FeedForward(
            self.intermediate_dim,
            activation=self.activation,
            kernel_initializer=self.kernel_initializer,
            bias_initializer=self.bias_initializer,
            dtype=self.dtype_policy,
            name="feed_forward",
        )
        self.feed_forward.build(inputs_shape)
        self.feed_forward_norm = LayerNormalization(
            self.layer_norm_epsilon, dtype=self.dtype_policy, name="feed_forward_norm"
        )
        self.feed_forward_norm.build(inputs_shape)
        self.dropout_layer = Dropout(
            self.dropout, dtype=self.dtype_policy, name="dropout"
        )
        self.dropout_layer.build(inputs_shape)
        self.built = True

    def call(
        self,
        inputs,
        padding_mask=None,
        attention_mask=None,
        return_attention_scores=False,
        num_queries=None,
        training=False,
    ):
        _require_queries(num_queries, inputs.shape[1])
        # One trace is for calls that are alike: those on all positions.
        is_shared = training and num_queries is None
        compute = traced_once(self, self._compute) if is_shared else self._compute
        return compute(
            inputs, padding_mask, attention_mask, return_attention_scores, num_queries
        )

    def _compute(
        self, inputs, padding_mask, attention_mask, return_attention_scores, num_queries
    ):
        x = inputs
        normed = self.self_attention_norm(x) if self.normalize_first else x
        value = None
        if num_queries is not None:
            value, x = normed, x[:, :num_queries, :]
            normed = normed[:, :num_queries, :] if self.normalize_first else x
            if attention_mask is not None:
                attention_mask = attention_mask[:, :num_queries, :]
        attended = self.self_attention(
            normed,
            value=value,
            padding_mask=padding_mask,
            attention_mask=attention_mask,
            return_attention_scores=return_attention_scores,
        )
        if return_attention_scores:
            attended, attention_scores = attended
        x = x + self.dropout_layer(attended)
        if not self.normalize_first:
            x = self.self_attention_norm(x)
        normed = self.feed_forward_norm(x) if self.normalize_first else x
        x = x + self.dropout_layer(self.feed_forward(normed))
        if not self.normalize_first:
            x = self.feed_forward_norm(x)
        return (x, attention_scores) if return_attention_scores else x  # (B, T, D)

    def compute_output_spec(
        self,
        inputs,
        padding_mask=None,
        attention_mask=None,
        return_attention_scores=False,
        num_queries=None,
        training=False,
    ):
        batch, length, width = inputs.shape
        computed = length if num_queries is None else num_queries
        _require_queries(num_queries, length)
        shape = (batch, computed, width)
        output = keras.KerasTensor(shape, dtype=self.compute_dtype)
        if not return_attention_scores:
            return output
        shape = (batch, self.num_heads, computed, length)
        return output, keras.KerasTensor(shape, dtype=self.compute_dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "intermediate_dim": self.intermediate_dim,
            "key_dim": self.key_dim,
            "activation": activation_name(self.activation),
            "dropout": self.dropout,
            "attention_dropout": self.attention_dropout,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "normalize_first": self.normalize_first,
            "use_attention_bias": self.use_attention_bias,
            "mask_value": self.mask_value,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
        }


def _require_queries(num_queries, length):
    if num_queries is None:
        return
    require_positive("TransformerEncoder", "num_queries", num_queries)
    if length is not None and num_queries > length:
        raise ValueError(
            "`TransformerEncoder` computes the first `num_queries` positions of its "
            f"inputs. Received: num_queries={num_queries}, {length} positions. Pass "
            f"{length} or less, or None for all."
        )
