"""The encoder-decoder Transformer and its published sizes."""

import math

import keras

from keras_tformer.layers import (
    Dropout,
    LayerNormalization,
    PositionEmbedding,
    SinusoidalPositionEncoding,
    TokenEmbedding,
    TransformerDecoder,
    TransformerEncoder,
)
from keras_tformer.layers.argument_checks import require_positive, require_share
from keras_tformer.layers.vocabulary_bias import VocabularyBias

# Vaswani et al. 2017, table 3 (base, big); "small" trains on a CPU. With the "about
# 37000 tokens" of section 5.1 and one shared table, base has 63,045,632 weights and big
# 214,171,648; the paper prints 65 and 213 million. The two misses have opposite signs,
# so that no vocabulary size makes both exact: the printed figures are rounded.
TRANSFORMER_SIZES = {
    "small": {
        "num_layers": 3,
        "num_heads": 4,
        "hidden_dim": 256,
        "intermediate_dim": 1024,
        "dropout": 0.1,
    },
    "base": {
        "num_layers": 6,
        "num_heads": 8,
        "hidden_dim": 512,
        "intermediate_dim": 2048,
        "dropout": 0.1,
    },
    "big": {
        "num_layers": 6,
        "num_heads": 16,
        "hidden_dim": 1024,
        "intermediate_dim": 4096,
        "dropout": 0.3,
    },
}


def transformer(
    *,
    vocabulary_size,
    num_layers,
    num_heads,
    hidden_dim,
    intermediate_dim,
    key_dim=None,
    source_vocabulary_size=None,
    share_embeddings=True,
    position="sinusoidal",
    max_sequence_length=512,
    activation="relu",
    dropout=0.1,
    attention_dropout=0.0,
    layer_norm_epsilon=1e-6,
    normalize_first=False,
    use_attention_bias=False,
    use_output_bias=False,
    mask_value=-30.0,
    encoder_sequence_length=None,
    decoder_sequence_length=None,
    return_hidden_states=False,
    return_attention_scores=False,
    dtype=None,
    name="transformer",
):
    """Builds the encoder-decoder Transformer as a functional model.

    Vaswani et al. 2017, section 3. Token vectors are scaled by `sqrt(D)` (3.4),
    attention has no biases (3.2.2) and the feed-forward networks have them (3.3).
    `transformer(vocabulary_size=37000, **TRANSFORMER_SIZES["base"])` has 63,045,632
    weights and `"big"` 214,171,648, where table 3 prints 65 and 213 million.

    Args:
        vocabulary_size: int, number of tokens V of the target, and of the source
            unless `source_vocabulary_size` is given.
        num_layers: int, number of blocks in the encoder and in the decoder.
        num_heads: int, attention heads H in a block.
        hidden_dim: int, width D.
        intermediate_dim: int, inner width F of the feed-forward networks.
        key_dim: int, width K of a head; D / H where it is None. Models that lost heads
            (`compress.prune_structure`) have wider ones.
        source_vocabulary_size: int, number of source tokens where it differs.
        share_embeddings: bool, whether source tokens, target tokens and the output
            projection use one table (3.4). Where they do not, the source has a table of
            its own, and the target's is still tied to the output.
        position: `"sinusoidal"` (3.5) or `"learned"`.
        max_sequence_length: int, number of learned positions.
        activation: name of the feed-forward activation.
        dropout: float in [0, 1), after embeddings and every part of a block (5.4).
        attention_dropout: float in [0, 1), share of attention weights dropped.
        layer_norm_epsilon: float added to variances.
        normalize_first: bool, whether normalization comes before each part; the
            encoder and decoder then end in one more.
        use_attention_bias: bool, whether attention's projections add a bias.
        use_output_bias: bool, whether every token of the target has a learned offset
            that is added to its logit, in a layer `"output_bias"` (Marian).
        mask_value: negative float, see `DotProductAttention`. A masked key weighs
            `exp(its score + mask_value)` beside `exp(scores of the others)`: with -30
            at most 1e-13 where it scores no higher than a key that counts, but all of
            the attention where it scores more than 30 above them. Take -1e9 for an
            exact mask (published checkpoints are loaded so), -30 for a model that will
            be quantized to int8; it is no weight, and `set_weights` goes from one model
            to the other.
        encoder_sequence_length, decoder_sequence_length: int to fix the lengths S and
            T of the inputs, or None.
        return_hidden_states: bool, whether to add the output of every block.
        return_attention_scores: bool, whether to add the attention weights.
        dtype: dtype or policy of the layers, Keras' global policy where it is None.
        name: name of the model.

    Returns:
        A `keras.Model` from `{"encoder_token_ids": (B, S), "encoder_padding_mask":
        (B, S), "decoder_token_ids": (B, T), "decoder_padding_mask": (B, T)}` to logits
        `(B, T, V)`; where more is asked for, to a dict with `"logits"`,
        `"encoder_hidden_states"` and `"decoder_hidden_states"` (lists of `(B, S, D)`
        and `(B, T, D)`), `"encoder_attention_scores"`, `"decoder_attention_scores"`
        and `"cross_attention_scores"` (lists of `(B, H, S, S)`, `(B, H, T, T)` and
        `(B, H, T, S)`).

    Raises:
        ValueError: if a number is out of range, `num_heads` does not divide
            `hidden_dim`, `position` is unknown, or two vocabularies are to share a
            table.

    Example:
        >>> model = transformer(
        ...     vocabulary_size=31, num_layers=2, num_heads=2, hidden_dim=14,
        ...     intermediate_dim=11,
        ... )
        >>> source, target = keras.ops.ones((2, 7)), keras.ops.ones((2, 5))
        >>> logits = model({
        ...     "encoder_token_ids": source, "encoder_padding_mask": source,
        ...     "decoder_token_ids": target, "decoder_padding_mask": target,
        ... })
        >>> tuple(logits.shape)
        (2, 5, 31)
    """
    require_positive("transformer", "num_layers", num_layers)
    require_positive("transformer", "hidden_dim", hidden_dim)
    require_share("transformer", "dropout", dropout)
    if position not in ("sinusoidal", "learned"):
        raise ValueError(
            "`transformer` received an unknown `position`. Expected 'sinusoidal' or "
            f"'learned'. Received: position={position!r}."
        )
    if share_embeddings and source_vocabulary_size not in (None, vocabulary_size):
        raise ValueError(
            "`transformer` cannot share one table between two vocabularies. Received: "
            f"vocabulary_size={vocabulary_size}, source_vocabulary_size="
            f"{source_vocabulary_size}. Pass `share_embeddings=False`, or train one "
            "vocabulary for both languages."
        )
    initializer = keras.initializers.TruncatedNormal(stddev=hidden_dim**-0.5)

    # === Layers ===
    target_embedding = TokenEmbedding(
        vocabulary_size,
        hidden_dim,
        embeddings_initializer=initializer,
        dtype=dtype,
        name="token_embedding",
    )
    source_embedding = target_embedding
    if not share_embeddings:
        source_embedding = TokenEmbedding(
            source_vocabulary_size or vocabulary_size,
            hidden_dim,
            embeddings_initializer=initializer,
            dtype=dtype,
            name="source_token_embedding",
        )

    def position_layer(side):
        if position == "learned":
            return PositionEmbedding(
                max_sequence_length,
                embeddings_initializer=initializer,
                dtype=dtype,
                name=f"{side}_position_embedding",
            )
        return SinusoidalPositionEncoding(dtype=dtype, name=f"{side}_position_encoding")

    def embed(token_ids, table, side):
        x = table(token_ids) * math.sqrt(hidden_dim)
        x = x + position_layer(side)(x)
        return Dropout(dropout, dtype=dtype, name=f"{side}_dropout")(x)

    block_arguments = {
        "num_heads": num_heads,
        "intermediate_dim": intermediate_dim,
        "key_dim": key_dim,
        "activation": activation,
        "dropout": dropout,
        "attention_dropout": attention_dropout,
        "layer_norm_epsilon": layer_norm_epsilon,
        "normalize_first": normalize_first,
        "use_attention_bias": use_attention_bias,
        "mask_value": mask_value,
        "dtype": dtype,
    }

    # === Functional model ===
    lengths = {"encoder": encoder_sequence_length, "decoder": decoder_sequence_length}
    inputs = {
        f"{side}_{kind}": keras.Input((length,), dtype="int32", name=f"{side}_{kind}")
        for side, length in lengths.items()
        for kind in ("token_ids", "padding_mask")
    }
    states = {"encoder": [], "decoder": []}
    scores = {"encoder": [], "decoder": [], "cross": []}

    x = embed(inputs["encoder_token_ids"], source_embedding, "encoder")
    for index in range(num_layers):
        x = TransformerEncoder(name=f"encoder_layer_{index}", **block_arguments)(
            x,
            padding_mask=inputs["encoder_padding_mask"],
            return_attention_scores=return_attention_scores,
        )
        if return_attention_scores:
            x, block_scores = x
            scores["encoder"].append(block_scores)
        states["encoder"].append(x)
    if normalize_first:
        x = LayerNormalization(layer_norm_epsilon, dtype=dtype, name="encoder_norm")(x)
    encoder_output = x

    x = embed(inputs["decoder_token_ids"], target_embedding, "decoder")
    for index in range(num_layers):
        x = TransformerDecoder(name=f"decoder_layer_{index}", **block_arguments)(
            x,
            encoder_output,
            padding_mask=inputs["decoder_padding_mask"],
            encoder_padding_mask=inputs["encoder_padding_mask"],
            return_attention_scores=return_attention_scores,
        )
        if return_attention_scores:
            x, block_scores, cross_scores = x
            scores["decoder"].append(block_scores)
            scores["cross"].append(cross_scores)
        states["decoder"].append(x)
    if normalize_first:
        x = LayerNormalization(layer_norm_epsilon, dtype=dtype, name="decoder_norm")(x)
    logits = target_embedding(x, reverse=True)  # (B, T, V)
    if use_output_bias:
        logits = VocabularyBias(dtype=dtype, name="output_bias")(logits)

    outputs = {"logits": logits}
    if return_hidden_states:
        outputs["encoder_hidden_states"] = states["encoder"]
        outputs["decoder_hidden_states"] = states["decoder"]
    if return_attention_scores:
        outputs["encoder_attention_scores"] = scores["encoder"]
        outputs["decoder_attention_scores"] = scores["decoder"]
        outputs["cross_attention_scores"] = scores["cross"]
    return keras.Model(inputs, outputs if len(outputs) > 1 else logits, name=name)
