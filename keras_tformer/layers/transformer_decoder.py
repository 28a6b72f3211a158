"""One block of a Transformer decoder."""

import keras

from keras_tformer.layers.activations import activation_name, get_activation
from keras_tformer.layers.argument_checks import require_positive, require_share
from keras_tformer.layers.dropout import Dropout
from keras_tformer.layers.feed_forward import FeedForward
from keras_tformer.layers.layer_normalization import LayerNormalization
from keras_tformer.layers.multi_head_attention import MultiHeadAttention


@keras.saving.register_keras_serializable(package="keras_tformer")
class TransformerDecoder(keras.layers.Layer):
    """Lets each position look at what is before it and at the encoder's output.

    Vaswani et al. 2017, section 3.1 and figure 1, right: causal self-attention,
    attention to the encoder and a feed-forward network, each with a residual connection
    and layer normalization after it, or before it with `normalize_first`. A block that
    was never given an encoder's output has no cross-attention: that is GPT's block.

    Args:
        num_heads: int, number of attention heads H.
        intermediate_dim: int, inner width F of the feed-forward network.
        key_dim: int, width K of a head; D / H where it is None.
        activation: name of an activation (see `get_activation`), or a function.
        dropout: float in [0, 1), dropped after each of the parts.
        attention_dropout: float in [0, 1), share of attention weights dropped.
        layer_norm_epsilon: float added to the variance.
        normalize_first: bool, whether normalization comes before each part.
        use_attention_bias: bool, whether attention's projections add a bias.
        mask_value: negative float, see `DotProductAttention`.
        kernel_initializer, bias_initializer: initializers of all projections.

    Call arguments:
        inputs: `(B, T, D)` tensor.
        encoder_output: `(B, S, D)` tensor, or None for a block without cross-attention.
        padding_mask: `(B, T)` tensor, 1 for the positions of `inputs` that are kept;
            with a cache `(B, S)` for the whole length of the cache.
        encoder_padding_mask: `(B, S)` tensor, 1 for the positions of
            `encoder_output` that are kept.
        attention_mask: `(B, T, T)` tensor, 1 where a position may look among `inputs`,
            besides being causal; with a cache `(B, T, S)` over the cache.
        self_attention_cache: pair of `(B, S, H, K)` tensors that the keys and values of
            `inputs` are written into at `cache_index`.
        cache_index: int or scalar tensor, position of the first token of `inputs`.
        cross_attention_cache: pair of `(B, S, H, K)` tensors from
            `cross_attention.project(encoder_output)`, used instead of `encoder_output`.
        return_attention_scores: bool, whether to return the attention weights too.

    Returns:
        `(B, T, D)` tensor; then, where asked for, the self-attention weights
        `(B, H, T, T)` and, with cross-attention, its weights `(B, H, T, S)`; then,
        where one came in, the self-attention cache.

    Raises:
        ValueError: if a number is out of range, `num_heads` does not divide D, or the
            encoder's output is missing in a block that was built with it, or comes in
            a block that was built without.

    Example:
        >>> layer = TransformerDecoder(num_heads=3, intermediate_dim=11)
        >>> x, source = keras.ops.ones((2, 5, 21)), keras.ops.ones((2, 7, 21))
        >>> tuple(layer(x, source).shape)
        (2, 5, 21)
    """

    def __init__(
        self,
        num_heads,
        intermediate_dim,
        key_dim=None,
        activation="relu",
        dropout=0.0,
        attention_dropout=0.0,
        layer_norm_epsilon=1e-6,
        normalize_first=False,
        use_attention_bias=True,
        mask_value=-30.0,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        **kwargs,
    ):
        super().__init__(**kwargs)
        require_positive("TransformerDecoder", "num_heads", num_heads)
        require_positive("TransformerDecoder", "intermediate_dim", intermediate_dim)
        require_share("TransformerDecoder", "dropout", dropout)
        require_share("TransformerDecoder", "attention_dropout", attention_dropout)
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

    def build(self, inputs_shape, encoder_output_shape=None):
        self.self_attention = self._attention("self_attention")
        self.self_attention.build(inputs_shape)
        self.self_attention_norm = self._norm("self_attention_norm", inputs_shape)
        self.cross_attention = None
        if encoder_output_shape is not None:
            self.cross_attention = self._attention("cross_attention")
            self.cross_attention.build(inputs_shape, encoder_output_shape)
            self.cross_attention_norm = self._norm("cross_attention_norm", inputs_shape)
        self.feed_forward = FeedForward(
            self.intermediate_dim,
            activation=self.activation,
            kernel_initializer=self.kernel_initializer,
            bias_initializer=self.bias_initializer,
            dtype=self.dtype_policy,
            name="feed_forward",
        )
        self.feed_forward.build(inputs_shape)
        self.feed_forward_norm = self._norm("feed_forward_norm", inputs_shape)
        self.dropout_layer = Dropout(
            self.dropout, dtype=self.dtype_policy, name="dropout"
        )
        self.dropout_layer.build(inputs_shape)
        self.built = True

    def call(
        self,
        inputs,
        encoder_output=None,
        padding_mask=None,
        encoder_padding_mask=None,
        self_attention_cache=None,
        cache_index=None,
        cross_attention_cache=None,
        attention_mask=None,
        return_attention_scores=False,
    ):
        self._check_encoder_output(encoder_output, cross_attention_cache)
        x, extras = inputs, []
        normed = self.self_attention_norm(x) if self.normalize_first else x
        attended = self.self_attention(
            normed,
            padding_mask=padding_mask,
            attention_mask=attention_mask,
            use_causal_mask=True,
            cache=self_attention_cache,
            cache_index=cache_index,
            return_attention_scores=return_attention_scores,
        )
        if isinstance(attended, tuple):
            attended, *extras = attended
        x = x + self.dropout_layer(attended)
        if not self.normalize_first:
            x = self.self_attention_norm(x)

        if self.cross_attention is not None:
            normed = self.cross_attention_norm(x) if self.normalize_first else x
            attended = self.cross_attention(
                normed,
                encoder_output,
                padding_mask=encoder_padding_mask,
                cache=cross_attention_cache,
                return_attention_scores=return_attention_scores,
            )
            if isinstance(attended, tuple):
                if return_attention_scores:
                    extras.insert(1, attended[1])
                attended = attended[0]
            x = x + self.dropout_layer(attended)
            if not self.normalize_first:
                x = self.cross_attention_norm(x)

        normed = self.feed_forward_norm(x) if self.normalize_first else x
        x = x + self.dropout_layer(self.feed_forward(normed))
        if not self.normalize_first:
            x = self.feed_forward_norm(x)
        return (x, *extras) if extras else x  # (B, T, D)

    def compute_output_spec(
        self,
        inputs,
        encoder_output=None,
        padding_mask=None,
        encoder_padding_mask=None,
        self_attention_cache=None,
        cache_index=None,
        cross_attention_cache=None,
        attention_mask=None,
        return_attention_scores=False,
    ):
        self._check_encoder_output(encoder_output, cross_attention_cache)
        outputs = [keras.KerasTensor(inputs.shape, dtype=self.compute_dtype)]
        if return_attention_scores:
            batch, length, _ = inputs.shape
            key_lengths = [length]
            if self_attention_cache is not None:
                key_lengths = [self_attention_cache[0].shape[1]]
            if cross_attention_cache is not None:
                key_lengths.append(cross_attention_cache[0].shape[1])
            elif encoder_output is not None:
                key_lengths.append(encoder_output.shape[1])
            outputs += [
                keras.KerasTensor(
                    (batch, self.num_heads, length, key_length),
                    dtype=self.compute_dtype,
                )
                for key_length in key_lengths
            ]
        if self_attention_cache is not None:
            outputs.append(self_attention_cache)
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

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

    def _check_encoder_output(self, encoder_output, cross_attention_cache):
        comes = encoder_output is not None or cross_attention_cache is not None
        if comes != (self.cross_attention is not None):
            raise ValueError(
                f"`{self.name}` was built "
                f"{'with' if self.cross_attention is not None else 'without'} "
                "cross-attention. Received: an encoder's output is "
                f"{'given' if comes else 'missing'}. Pass `encoder_output` in every "
                "call of a block or in none."
            )

    def _attention(self, name):
        return MultiHeadAttention(
            self.num_heads,
            key_dim=self.key_dim,
            dropout=self.attention_dropout,
            use_bias=self.use_attention_bias,
            mask_value=self.mask_value,
            kernel_initializer=self.kernel_initializer,
            bias_initializer=self.bias_initializer,
            dtype=self.dtype_policy,
            name=name,
        )

    def _norm(self, name, shape):
        layer = LayerNormalization(
            self.layer_norm_epsilon, dtype=self.dtype_policy, name=name
        )
        layer.build(shape)
        return layer
