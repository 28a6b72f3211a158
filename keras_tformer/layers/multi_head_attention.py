"""Multi-head attention on rank-2 kernels."""

import keras
import numpy as np
from keras import ops

from keras_tformer.layers.argument_checks import (
    require_divisible,
    require_positive,
    require_share,
)
from keras_tformer.layers.dot_product_attention import DotProductAttention
from keras_tformer.layers.initializers import fresh_initializer
from keras_tformer.layers.token_rows import from_rows, sequence_length, to_rows


@keras.saving.register_keras_serializable(package="keras_tformer")
class MultiHeadAttention(keras.layers.Layer):
    """Lets every position gather from others, in several heads at once.

    Vaswani et al. 2017, section 3.2.2. Query, key, value and output are four `Dense`
    layers with rank-2 kernels, so that pruning in blocks and quantization per channel
    reach them like any other `Dense`.

    Args:
        num_heads: int, number of heads H.
        key_dim: int, width K of a head; D / H where it is None.
        dropout: float in [0, 1), share of attention weights dropped in training.
        use_bias: bool, whether the four projections add a bias.
        mask_value: negative float, see `DotProductAttention`.
        kernel_initializer, bias_initializer: initializers of the projections.

    Call arguments:
        query: `(B, T, D)` tensor.
        value: `(B, S, D)` tensor that keys and values are made from; the query itself
            where it is None.
        padding_mask: `(B, S)` tensor, 1 for the positions of `value` that are kept.
        attention_mask: `(B, T, S)` tensor, 1 where a query may look.
        use_causal_mask: bool, whether a position sees only itself and what is before.
        cache: pair of `(B, S, H, K)` tensors, keys and values computed before. With
            `cache_index` the new ones are written into it at that position, and the
            query sees what is written so far; without, it is used as it is
            (cross-attention) and `value` is ignored.
        cache_index: int or scalar tensor, position of the first new token.
        return_attention_scores: bool, whether to return the attention weights too.

    Returns:
        `(B, T, D)` tensor; then, where asked for, the `(B, H, T, S)` attention
        weights; then, where a cache came in, the pair of caches.

    Raises:
        ValueError: if `num_heads` does not divide D and no `key_dim` is given, or a
            number is out of range.

    Example:
        >>> layer = MultiHeadAttention(num_heads=3)
        >>> x = keras.ops.ones((2, 5, 21))
        >>> output, scores = layer(x, return_attention_scores=True)
        >>> tuple(output.shape), tuple(scores.shape)
        ((2, 5, 21), (2, 3, 5, 5))
    """

    def __init__(
        self,
        num_heads,
        key_dim=None,
        dropout=0.0,
        use_bias=True,
        mask_value=-30.0,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        **kwargs,
    ):
        super().__init__(**kwargs)
        require_positive("MultiHeadAttention", "num_heads", num_heads)
        if key_dim is not None:
            require_positive("MultiHeadAttention", "key_dim", key_dim)
        require_share("MultiHeadAttention", "dropout", dropout)
        self.num_heads = num_heads
        self.key_dim = key_dim
        self.dropout = dropout
        self.use_bias = use_bias
        self.mask_value = mask_value
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.attention = DotProductAttention(
            dropout, mask_value, dtype=self.dtype_policy, name="attention"
        )

    def build(self, query_shape, value_shape=None):
        hidden_dim = query_shape[-1]
        value_shape = value_shape or query_shape
        key_dim = self.key_dim
        if key_dim is None:
            require_divisible(
                "MultiHeadAttention",
                "hidden_dim",
                hidden_dim,
                "num_heads",
                self.num_heads,
            )
            key_dim = hidden_dim // self.num_heads
        width = self.num_heads * key_dim
        self.query_dense = self._dense(width, "query", query_shape)
        self.key_dense = self._dense(width, "key", value_shape)
        self.value_dense = self._dense(width, "value", value_shape)
        self.output_dense = self._dense(
            hidden_dim, "attention_output", (*query_shape[:-1], width)
        )
        self.attention.build((*query_shape[:-1], self.num_heads, key_dim))
        self.built = True

    def call(
        self,
        query,
        value=None,
        padding_mask=None,
        attention_mask=None,
        use_causal_mask=False,
        cache=None,
        cache_index=None,
        return_attention_scores=False,
    ):
        length = sequence_length(query)
        rows = to_rows(query)  # (B * T, D)
        query_heads = self._heads(self.query_dense(rows), length)
        if cache is not None and cache_index is None:
            key_heads, value_heads = cache
        elif value is None:
            key_heads, value_heads = self._project(rows, length)
        else:
            key_heads, value_heads = self.project(value)
        if cache is not None and cache_index is not None:
            start = (0, cache_index, 0, 0)
            key_heads = ops.slice_update(cache[0], start, key_heads)
            value_heads = ops.slice_update(cache[1], start, value_heads)
            cache = (key_heads, value_heads)

        attention_mask = _combined_mask(
            padding_mask,
            attention_mask,
            _causal_mask(length, sequence_length(key_heads), cache_index)
            if use_causal_mask or cache_index is not None
            else None,
        )
        result = self.attention(
            query_heads,
            key_heads,
            value_heads,
            attention_mask=attention_mask,
            return_attention_scores=return_attention_scores,
        )
        context = result[0] if return_attention_scores else result
        width = context.shape[-2] * context.shape[-1]
        rows = ops.reshape(context, (-1, width))  # (B * T, H * K)
        output = from_rows(self.output_dense(rows), length)  # (B, T, D)
        outputs = [output]
        if return_attention_scores:
            outputs.append(result[1])
        if cache is not None:
            outputs.append(cache)
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def project(self, value):
        """Returns keys and values `(B, S, H, K)` of `value`, ready to be cached."""
        return self._project(to_rows(value), sequence_length(value))

    def compute_output_spec(
        self,
        query,
        value=None,
        padding_mask=None,
        attention_mask=None,
        use_causal_mask=False,
        cache=None,
        cache_index=None,
        return_attention_scores=False,
    ):
        outputs = [keras.KerasTensor(query.shape, dtype=self.compute_dtype)]
        if return_attention_scores:
            keys = cache[0] if cache is not None else query if value is None else value
            shape = (query.shape[0], self.num_heads, query.shape[1], keys.shape[1])
            outputs.append(keras.KerasTensor(shape, dtype=self.compute_dtype))
        if cache is not None:
            outputs.append(cache)
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "key_dim": self.key_dim,
            "dropout": self.dropout,
            "use_bias": self.use_bias,
            "mask_value": self.mask_value,
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

    def _project(self, rows, length):
        key_heads = self._heads(self.key_dense(rows), length)
        return key_heads, self._heads(self.value_dense(rows), length)

    def _heads(self, rows, length):
        key_dim = rows.shape[-1] // self.num_heads
        return ops.reshape(rows, (-1, length, self.num_heads, key_dim))  # (B, T, H, K)


def _causal_mask(length, key_length, start):
    if start is None:
        start = 0
    if all(isinstance(x, int) for x in (length, key_length, start)) and start == 0:
        return np.tril(np.ones((1, length, key_length), "float32"))  # (1, T, S)
    positions = ops.expand_dims(ops.arange(length) + start, 1)  # (T, 1)
    keys = ops.expand_dims(ops.arange(key_length), 0)  # (1, S)
    visible = ops.cast(ops.less_equal(keys, positions), "float32")
    return ops.expand_dims(visible, 0)  # (1, T, S)


def _combined_mask(padding_mask, attention_mask, causal_mask):
    combined = None
    if padding_mask is not None:
        combined = ops.expand_dims(ops.cast(padding_mask, "float32"), 1)  # (B, 1, S)
    for mask in (attention_mask, causal_mask):
        if mask is not None:
            mask = ops.cast(mask, "float32")
            combined = mask if combined is None else combined * mask  # (B, T, S)
    return combined
