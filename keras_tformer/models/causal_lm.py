"""The decoder-only language model of GPT-2's shape."""

import keras

from keras_tformer.layers import (
    Dropout,
    LayerNormalization,
    PackedDocuments,
    PositionEmbedding,
    TokenEmbedding,
    TransformerDecoder,
)
from keras_tformer.layers.argument_checks import require_positive, require_share


def _size(num_layers, num_heads, hidden_dim):
    return {
        "num_layers": num_layers,
        "num_heads": num_heads,
        "hidden_dim": hidden_dim,
        "intermediate_dim": 4 * hidden_dim,
    }


# Radford et al. 2019, table 2, under the names of their release; GELU in the tanh form
# is what their code computes.
CAUSAL_LM_SIZES = {
    "small": _size(12, 12, 768),
    "medium": _size(24, 16, 1024),
    "large": _size(36, 20, 1280),
    "xl": _size(48, 25, 1600),
}


def causal_lm(
    *,
    vocabulary_size,
    num_layers,
    num_heads,
    hidden_dim,
    intermediate_dim,
    key_dim=None,
    max_sequence_length=1024,
    activation="gelu_tanh",
    dropout=0.1,
    attention_dropout=0.1,
    layer_norm_epsilon=1e-5,
    initializer_range=0.02,
    mask_value=-1e9,
    sequence_length=None,
    has_packed_documents=False,
    return_hidden_states=False,
    return_attention_scores=False,
    dtype=None,
    name="causal_lm",
):
    """Builds a language model that predicts each token from those before it.

    Radford et al. 2019, section 2.3: normalization first, learned positions, a last
    normalization, and logits from the token table itself. `causal_lm(vocabulary_size
    =50257, **CAUSAL_LM_SIZES["small"])` has 124,439,808 weights.

    Args:
        vocabulary_size: int, number of tokens V.
        num_layers: int, number of blocks.
        num_heads: int, attention heads H in a block.
        hidden_dim: int, width D.
        intermediate_dim: int, inner width F of the feed-forward networks.
        key_dim: int, width K of a head; D / H where it is None. Models that lost heads
            (`compress.prune_structure`) have wider ones.
        max_sequence_length: int, number of learned positions.
        activation: name of the feed-forward activation.
        dropout: float in [0, 1), after embeddings, attention and feed-forward.
        attention_dropout: float in [0, 1), share of attention weights dropped.
        layer_norm_epsilon: float added to variances.
        initializer_range: float, standard deviation of the truncated normal
            distribution that kernels and tables start from.
        mask_value: negative float, see `DotProductAttention`. The first tokens of a
            text see few keys, whose scores may lie far below those of later tokens;
            take -30 only for a model that will be quantized.
        sequence_length: int to fix the length T of the inputs, or None.
        has_packed_documents: bool, whether rows hold several documents each, which
            must not see each other. See `"document_ids"` below.
        return_hidden_states: bool, whether to add the output of every block.
        return_attention_scores: bool, whether to add the attention weights.
        dtype: dtype or policy of the layers, Keras' global policy where it is None.
        name: name of the model.

    Returns:
        A `keras.Model` from `{"token_ids": (B, T), "padding_mask": (B, T)}` to logits
        `(B, T, V)`; where more is asked for, to a dict with `"logits"`,
        `"hidden_states"`, a list of `(B, T, D)`, and `"attention_scores"`, a list of
        `(B, H, T, T)`, one for each block. With packed documents there is one more
        input, `"document_ids"` `(B, T)`: another number for every document of a row, 0
        for padding. A document then gives what it gives in a row of its own. The
        weights are those of the model without, in the same order.

    Raises:
        ValueError: if a number is out of range, or `num_heads` does not divide
            `hidden_dim` and no `key_dim` is given.

    Example:
        >>> model = causal_lm(
        ...     vocabulary_size=31, num_layers=2, num_heads=2, hidden_dim=14,
        ...     intermediate_dim=11,
        ... )
        >>> ids = keras.ops.ones((2, 5))
        >>> tuple(model({"token_ids": ids, "padding_mask": ids}).shape)
        (2, 5, 31)
    """
    require_positive("causal_lm", "num_layers", num_layers)
    require_share("causal_lm", "dropout", dropout)
    initializer = keras.initializers.TruncatedNormal(stddev=initializer_range)

    # === Layers ===
    token_embedding = TokenEmbedding(
        vocabulary_size,
        hidden_dim,
        embeddings_initializer=initializer,
        dtype=dtype,
        name="token_embedding",
    )
    position_embedding = PositionEmbedding(
        max_sequence_length,
        embeddings_initializer=keras.initializers.TruncatedNormal(
            stddev=initializer_range
        ),
        dtype=dtype,
        name="position_embedding",
    )
    blocks = [
        TransformerDecoder(
            num_heads,
            intermediate_dim,
            key_dim=key_dim,
            activation=activation,
            dropout=dropout,
            attention_dropout=attention_dropout,
            layer_norm_epsilon=layer_norm_epsilon,
            normalize_first=True,
            mask_value=mask_value,
            kernel_initializer=initializer,
            dtype=dtype,
            name=f"decoder_layer_{index}",
        )
        for index in range(num_layers)
    ]

    # === Functional model ===
    keys = ["token_ids", "padding_mask"]
    if has_packed_documents:
        keys.append("document_ids")
    inputs = {
        key: keras.Input((sequence_length,), dtype="int32", name=key) for key in keys
    }
    attention_mask = position_ids = None
    if has_packed_documents:
        packed_documents = PackedDocuments(dtype=dtype, name="packed_documents")
        attention_mask, position_ids = packed_documents(inputs["document_ids"])
    x = token_embedding(inputs["token_ids"])
    x = x + position_embedding(x, position_ids=position_ids)
    x = Dropout(dropout, dtype=dtype, name="embeddings_dropout")(x)
    hidden_states, attention_scores = [], []
    for block in blocks:
        x = block(
            x,
            padding_mask=inputs["padding_mask"],
            attention_mask=attention_mask,
            return_attention_scores=return_attention_scores,
        )
        if return_attention_scores:
            x, scores = x
            attention_scores.append(scores)
        hidden_states.append(x)
    x = LayerNormalization(layer_norm_epsilon, dtype=dtype, name="final_norm")(x)
    logits = token_embedding(x, reverse=True)  # (B, T, V)

    outputs = {"logits": logits}
    if return_hidden_states:
        outputs["hidden_states"] = hidden_states
    if return_attention_scores:
        outputs["attention_scores"] = attention_scores
    return keras.Model(inputs, outputs if len(outputs) > 1 else logits, name=name)
