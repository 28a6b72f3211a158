"""The weightless core of attention."""

import math

import keras
from keras import ops

from keras_tformer.layers.argument_checks import require_share
from keras_tformer.layers.dropout import Dropout


@keras.saving.register_keras_serializable(package="keras_tformer")
class DotProductAttention(keras.layers.Layer):
    """Mixes values by scaled dot-product attention, without weights of its own.

    `softmax(Q K^T / sqrt(K)) V` of Vaswani et al. 2017, section 3.2.1, equation 1. The
    softmax is computed in float32 under every dtype policy. A query whose keys are all
    masked gets zeros, never NaN.

    Args:
        dropout: float in [0, 1), share of attention weights dropped in training.
        mask_value: negative float added to the scores of masked keys. The default of
            -30 leaves exp(-30) = 1e-13 of a masked key and keeps the range of the
            scores narrow enough for int8; -1e9 would put all real scores into one of
            the 256 steps.

    Call arguments:
        query: `(B, T, H, K)` float tensor.
        key, value: `(B, S, H, K)` float tensors.
        attention_mask: `(B, T, S)` or `(B, 1, S)` tensor, 1 where a query may look.
        return_attention_scores: bool, whether to return the attention weights too.

    Returns:
        `(B, T, H, K)` tensor in the compute dtype; with `return_attention_scores` also
        the `(B, H, T, S)` attention weights before dropout.

    Raises:
        ValueError: if `dropout` is outside [0, 1) or `mask_value` is not negative.

    Example:
        >>> core = DotProductAttention()
        >>> x = keras.ops.ones((2, 5, 3, 7))
        >>> tuple(core(x, x, x).shape)
        (2, 5, 3, 7)
    """

    def __init__(self, dropout=0.0, mask_value=-30.0, **kwargs):
        super().__init__(**kwargs)
        require_share("DotProductAttention", "dropout", dropout)
        if not mask_value < 0:
            raise ValueError(
                "`DotProductAttention` needs a negative `mask_value`. Received: "
                f"mask_value={mask_value}. Use -30 (the default), or -1e9 where the "
                "model will never be quantized."
            )
        self.dropout = dropout
        self.mask_value = mask_value
        self.dropout_layer = Dropout(dropout, dtype=self.dtype_policy, name="dropout")

    def build(self, query_shape):
        self.dropout_layer.build(query_shape)
        self.built = True

    def call(
        self,
        query,
        key,
        value,
        attention_mask=None,
        return_attention_scores=False,
    ):
        query = ops.transpose(query * (1 / math.sqrt(query.shape[-1])), (0, 2, 1, 3))
        key = ops.transpose(key, (0, 2, 3, 1))  # (B, H, K, S)
        value = ops.transpose(value, (0, 2, 1, 3))  # (B, H, S, K)
        scores = ops.matmul(query, key)  # (B, H, T, S)
        if self.compute_dtype != "float32":
            scores = ops.cast(scores, "float32")
        if attention_mask is not None:
            keep = ops.expand_dims(ops.cast(attention_mask, "float32"), 1)
            scores = scores + (1 - keep) * self.mask_value  # (B, 1, 1 | T, S) added
        weights = ops.softmax(scores, axis=-1)
        if self.compute_dtype != "float32":
            weights = ops.cast(weights, self.compute_dtype)
        context = ops.matmul(self.dropout_layer(weights), value)  # (B, H, T, K)
        if attention_mask is not None:
            sees_any = ops.max(keep, axis=-1, keepdims=True)  # (B, 1, 1 | T, 1)
            context = context * ops.cast(sees_any, context.dtype)
        context = ops.transpose(context, (0, 2, 1, 3))  # (B, T, H, K)
        return (context, weights) if return_attention_scores else context

    def compute_output_spec(
        self,
        query,
        key,
        value,
        attention_mask=None,
        return_attention_scores=False,
    ):
        context = keras.KerasTensor(query.shape, dtype=self.compute_dtype)
        if not return_attention_scores:
            return context
        batch, length, heads, _ = query.shape
        shape = (batch, heads, length, key.shape[1])
        return context, keras.KerasTensor(shape, dtype=self.compute_dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "dropout": self.dropout,
            "mask_value": self.mask_value,
        }
