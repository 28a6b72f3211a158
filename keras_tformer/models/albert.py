"""ALBERT: the encoder that shares its weights across depths, and its sizes."""

import keras

from keras_tformer.layers import (
    EmbeddingSum,
    PackedDocuments,
    Pooler,
    TokenEmbedding,
    TransformerEncoder,
)
from keras_tformer.layers.argument_checks import require_divisible, require_positive
from keras_tformer.models.encoder_inputs import encoder_inputs, encoder_outputs


def _size(num_layers, num_heads, hidden_dim, activation, dropout):
    return {
        "embedding_dim": 128,
        "num_layers": num_layers,
        "num_heads": num_heads,
        "hidden_dim": hidden_dim,
        "intermediate_dim": 4 * hidden_dim,
        "activation": activation,
        "dropout": dropout,
        "attention_dropout": dropout,
    }


# Lan et al. 2020, table 1. The two releases differ by dropout and activation: version 1
# trained with dropout (xxlarge without), version 2 without any. Google's code computes
# GELU in its tanh form in both; the reference configurations of Hugging Face give the
# exact form ("gelu") for version 1 and the tanh form ("gelu_new") for version 2, and
# these tables follow them, so that loaded checkpoints give the reference's numbers.
# A size without a version is version 2.
ALBERT_SIZES = {
    "base_v1": _size(12, 12, 768, "gelu", 0.1),
    "large_v1": _size(24, 16, 1024, "gelu", 0.1),
    "xlarge_v1": _size(24, 16, 2048, "gelu", 0.1),
    "xxlarge_v1": _size(12, 64, 4096, "gelu", 0.0),
    "base_v2": _size(12, 12, 768, "gelu_tanh", 0.0),
    "large_v2": _size(24, 16, 1024, "gelu_tanh", 0.0),
    "xlarge_v2": _size(24, 16, 2048, "gelu_tanh", 0.0),
    "xxlarge_v2": _size(12, 64, 4096, "gelu_tanh", 0.0),
}
ALBERT_SIZES |= {
    size: ALBERT_SIZES[f"{size}_v2"] for size in ("base", "large", "xlarge", "xxlarge")
}


def albert_encoder(
    *,
    vocabulary_size,
    embedding_dim,
    num_layers,
    num_heads,
    hidden_dim,
    intermediate_dim,
    num_groups=1,
    num_inner_repetitions=1,
    key_dim=None,
    max_sequence_length=512,
    num_segments=2,
    activation="gelu_tanh",
    dropout=0.0,
    attention_dropout=0.0,
    layer_norm_epsilon=1e-12,
    initializer_range=0.02,
    mask_value=-30.0,
    sequence_length=None,
    has_packed_documents=False,
    return_hidden_states=False,
    return_attention_scores=False,
    dtype=None,
    name="albert_encoder",
):
    """Builds ALBERT's encoder as a functional model.

    Lan et al. 2020, section 3.1: the token table is factorized (V x E, then E x D), and
    the blocks of a group share their weights. `albert_encoder(vocabulary_size=30000,
    **ALBERT_SIZES["base"])` has 11,683,584 weights.

    Args:
        vocabulary_size: int, number of tokens V.
        embedding_dim: int, width E of the token table.
        num_layers: int, number of times that a group is called.
        num_heads: int, attention heads H in a block.
        hidden_dim: int, width D.
        intermediate_dim: int, inner width F of the feed-forward networks.
        num_groups: int, number of groups of shared weights; it divides `num_layers`.
        num_inner_repetitions: int, different blocks in a group, called one after the
            other each time.
        key_dim: int, width K of a head; D / H where it is None. Models that lost heads
            (`compress.prune_structure`) have wider ones.
        max_sequence_length: int, number of learned positions.
        num_segments: int, or None for a model without segment ids.
        activation: name of the feed-forward activation.
        dropout: float in [0, 1), after embeddings, attention and feed-forward.
        attention_dropout: float in [0, 1), share of attention weights dropped.
        layer_norm_epsilon: float added to variances.
        initializer_range: float, standard deviation of the truncated normal
            distribution that kernels and tables start from.
        mask_value: negative float, see `DotProductAttention`.
        sequence_length: int to fix the length T of the inputs, or None.
        has_packed_documents: bool, whether rows hold several documents each, which
            must not see each other. See `"document_ids"` below.
        return_hidden_states: bool, whether to add the output of every call of a block.
        return_attention_scores: bool, whether to add the attention weights.
        dtype: dtype or policy of the layers, Keras' global policy where it is None.
        name: name of the model.

    Returns:
        A `keras.Model` from `{"token_ids", "segment_ids", "padding_mask"}`, integers
        `(B, T)`, to `{"sequence_output": (B, T, D), "pooled_output": (B, D)}`; where
        asked for also `"hidden_states"`, a list of `(B, T, D)`, and
        `"attention_scores"`, a list of `(B, H, T, T)`, one for each call of a block.
        With packed documents there is one more input, `"document_ids"` `(B, T)`:
        another number for every document of a row, 0 for padding. A document then gives
        what it gives in a row of its own; `"pooled_output"` is that of the first one in
        the row. The weights are those of the model without, in the same order.

    Raises:
        ValueError: if a number is out of range, `num_heads` does not divide
            `hidden_dim`, or `num_groups` does not divide `num_layers`.

    Example:
        >>> model = albert_encoder(
        ...     vocabulary_size=31, embedding_dim=5, num_layers=3, num_heads=2,
        ...     hidden_dim=14, intermediate_dim=11,
        ... )
        >>> len([w for w in model.weights if w.path.endswith("query/kernel")])
        1
    """
    require_positive("albert_encoder", "embedding_dim", embedding_dim)
    require_positive("albert_encoder", "num_layers", num_layers)
    require_positive("albert_encoder", "num_groups", num_groups)
    require_positive("albert_encoder", "num_inner_repetitions", num_inner_repetitions)
    require_divisible(
        "albert_encoder", "num_layers", num_layers, "num_groups", num_groups
    )
    initializer = keras.initializers.TruncatedNormal(stddev=initializer_range)

    # === Layers ===
    token_embedding = TokenEmbedding(
        vocabulary_size,
        embedding_dim,
        embeddings_initializer=initializer,
        dtype=dtype,
        name="token_embedding",
    )
    embeddings = EmbeddingSum(
        hidden_dim,
        max_sequence_length,
        num_segments=num_segments,
        dropout=dropout,
        layer_norm_epsilon=layer_norm_epsilon,
        kernel_initializer=initializer,
        dtype=dtype,
        name="embeddings",
    )
    groups = [
        [
            TransformerEncoder(
                num_heads,
                intermediate_dim,
                key_dim=key_dim,
                activation=activation,
                dropout=dropout,
                attention_dropout=attention_dropout,
                layer_norm_epsilon=layer_norm_epsilon,
                mask_value=mask_value,
                kernel_initializer=initializer,
                dtype=dtype,
                name=f"encoder_group_{group}_layer_{index}",
            )
            for index in range(num_inner_repetitions)
        ]
        for group in range(num_groups)
    ]
    pooler = Pooler(
        hidden_dim, kernel_initializer=initializer, dtype=dtype, name="pooler"
    )

    # === Functional model ===
    inputs = encoder_inputs(sequence_length, num_segments, has_packed_documents)
    attention_mask = position_ids = None
    if has_packed_documents:
        packed_documents = PackedDocuments(dtype=dtype, name="packed_documents")
        attention_mask, position_ids = packed_documents(inputs["document_ids"])
    x = embeddings(
        token_embedding(inputs["token_ids"]),
        segment_ids=inputs.get("segment_ids"),
        position_ids=position_ids,
    )
    hidden_states, attention_scores = [], []
    for layer in range(num_layers):
        for block in groups[layer * num_groups // num_layers]:
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
    outputs = encoder_outputs(
        x,
        pooler(x),
        hidden_states if return_hidden_states else None,
        attention_scores if return_attention_scores else None,
    )
    return keras.Model(inputs, outputs, name=name)
