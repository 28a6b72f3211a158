"""BERT: the encoder and its published sizes."""

import keras

from keras_tformer.layers import (
    EmbeddingSum,
    PackedDocuments,
    Pooler,
    TokenEmbedding,
    TransformerEncoder,
)
from keras_tformer.layers.argument_checks import require_positive
from keras_tformer.models.encoder_inputs import encoder_inputs, encoder_outputs


def _size(num_layers, hidden_dim):
    return {
        "num_layers": num_layers,
        "num_heads": hidden_dim // 64,
        "hidden_dim": hidden_dim,
        "intermediate_dim": 4 * hidden_dim,
    }


# Devlin et al. 2019, section 3 (base, large); Turc et al. 2019, table 1 (the 24
# miniatures, named by their numbers of layers and their width as in their release).
# GELU is the exact form with the error function: the released checkpoints were trained
# with it before Google's code moved to tanh, and Hugging Face's reference uses it.
BERT_SIZES = {
    "tiny": _size(2, 128),
    "mini": _size(4, 256),
    "small": _size(4, 512),
    "medium": _size(8, 512),
    "base": _size(12, 768),
    "large": _size(24, 1024),
    **{
        f"L-{num_layers}_H-{hidden_dim}": _size(num_layers, hidden_dim)
        for num_layers in (2, 4, 6, 8, 10, 12)
        for hidden_dim in (128, 256, 512, 768)
    },
}

# Numbers of tokens in the published vocabularies, for `vocabulary_size`.
BERT_VOCABULARY_SIZES = {
    "uncased": 30522,
    "cased": 28996,
    "chinese": 21128,
    "multilingual_uncased": 105879,
    "multilingual_cased": 119547,
}


def bert_encoder(
    *,
    vocabulary_size,
    num_layers,
    num_heads,
    hidden_dim,
    intermediate_dim,
    max_sequence_length=512,
    num_segments=2,
    embedding_dim=None,
    key_dim=None,
    position_offset=0,
    activation="gelu",
    pooler_activation="tanh",
    dropout=0.1,
    attention_dropout=0.1,
    layer_norm_epsilon=1e-12,
    initializer_range=0.02,
    mask_value=-30.0,
    sequence_length=None,
    has_packed_documents=False,
    return_hidden_states=False,
    return_attention_scores=False,
    dtype=None,
    name="bert_encoder",
):
    """Builds BERT's encoder as a functional model.

    Devlin et al. 2019, section 3. `bert_encoder(vocabulary_size=30522,
    **BERT_SIZES["base"])` has 109,482,240 weights.

    Args:
        vocabulary_size: int, number of tokens V.
        num_layers: int, number of blocks.
        num_heads: int, attention heads H in a block.
        hidden_dim: int, width D.
        intermediate_dim: int, inner width F of the feed-forward networks.
        max_sequence_length: int, number of learned positions.
        num_segments: int, or None for a model without segment ids.
        embedding_dim: int, width E of the token table where it is narrower than D and
            a projection follows (ELECTRA); D where it is None.
        key_dim: int, width K of a head; D / H where it is None. Models that lost heads
            (`compress.prune_structure`) have wider ones.
        position_offset: int, see `offset` of `PositionEmbedding` (RoBERTa: 2).
        activation: name of the feed-forward activation, `"gelu"` (exact) or
            `"gelu_tanh"` as in Google's later code, or any other of Keras.
        pooler_activation: name of the pooler's activation (`"relu"` in DistilBERT's
            classifier, `"gelu"` in ELECTRA's).
        dropout: float in [0, 1), after embeddings, attention and feed-forward.
        attention_dropout: float in [0, 1), share of attention weights dropped.
        layer_norm_epsilon: float added to variances.
        initializer_range: float, standard deviation of the truncated normal
            distribution that kernels and tables start from.
        mask_value: negative float, see `DotProductAttention`.
        sequence_length: int to fix the length T of the inputs, or None.
        has_packed_documents: bool, whether rows hold several documents each, which
            must not see each other. See `"document_ids"` below.
        return_hidden_states: bool, whether to add the output of every block.
        return_attention_scores: bool, whether to add the attention weights.
        dtype: dtype or policy of the layers, Keras' global policy where it is None.
        name: name of the model.

    Returns:
        A `keras.Model` from `{"token_ids", "segment_ids", "padding_mask"}`, integers
        `(B, T)`, to `{"sequence_output": (B, T, D), "pooled_output": (B, D)}`; where
        asked for also `"hidden_states"`, a list of `(B, T, D)`, and
        `"attention_scores"`, a list of `(B, H, T, T)`, one for each block. With packed
        documents there is one more input, `"document_ids"` `(B, T)`: another number
        for every document of a row, 0 for padding. A document then gives what it gives
        in a row of its own; `"pooled_output"` is that of the first one in the row. The
        weights are those of the model without, in the same order.

    Raises:
        ValueError: if a number is out of range, or `num_heads` does not divide
            `hidden_dim` and no `key_dim` is given.

    Example:
        >>> model = bert_encoder(vocabulary_size=31, **BERT_SIZES["tiny"])
        >>> ones = keras.ops.ones((2, 5), dtype="int32")
        >>> outputs = model(
        ...     {"token_ids": ones, "segment_ids": ones, "padding_mask": ones}
        ... )
        >>> tuple(outputs["sequence_output"].shape)
        (2, 5, 128)
    """
    require_positive("bert_encoder", "num_layers", num_layers)
    require_positive("bert_encoder", "hidden_dim", hidden_dim)
    initializer = keras.initializers.TruncatedNormal(stddev=initializer_range)

    # === Layers ===
    token_embedding = TokenEmbedding(
        vocabulary_size,
        hidden_dim if embedding_dim is None else embedding_dim,
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
        position_offset=position_offset,
        dtype=dtype,
        name="embeddings",
    )
    blocks = [
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
            name=f"encoder_layer_{index}",
        )
        for index in range(num_layers)
    ]
    pooler = Pooler(
        hidden_dim,
        activation=pooler_activation,
        kernel_initializer=initializer,
        dtype=dtype,
        name="pooler",
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
    outputs = encoder_outputs(
        x,
        pooler(x),
        hidden_states if return_hidden_states else None,
        attention_scores if return_attention_scores else None,
    )
    return keras.Model(inputs, outputs, name=name)
