"""Heads for tasks: an encoder in, a model that answers a question out.

All heads return logits. A head continues the encoder's own graph (see
`pretraining_heads`), or branches off before its last block where it reads the first
token only (see `first_state`).
"""

import keras
from keras import ops

from keras_tformer.layers import Dropout, TextPooling
from keras_tformer.layers.argument_checks import require_positive, require_share
from keras_tformer.layers.initializers import fresh_initializer
from keras_tformer.models.first_state import first_state, pooled_alone
from keras_tformer.models.pretraining_heads import encoder_block


def sequence_classifier(
    encoder, *, num_classes, dropout=0.1, name="sequence_classifier"
):
    """Adds a classifier, or a regression, of whole texts or pairs of texts.

    Devlin et al. 2019, section 4.1: one `Dense` layer on the pooled output.

    Args:
        encoder: `keras.Model` of `bert_encoder` or `albert_encoder`.
        num_classes: int, number of classes C; 1 is regression.
        dropout: float in [0, 1), before the last layer (0.1 as published).
        name: name of the model.

    Returns:
        A `keras.Model` from the encoder's inputs to logits `(B, C)`. Its last block
        makes the first position alone, which is all that is read of it; for the others
        ask the encoder (`encoder.output["sequence_output"]`).

    Raises:
        ValueError: if `encoder` is not one of this package's encoders, or a number is
            out of range.

    Example:
        >>> from keras_tformer.models import BERT_SIZES, bert_encoder
        >>> encoder = bert_encoder(vocabulary_size=31, **BERT_SIZES["tiny"])
        >>> sequence_classifier(encoder, num_classes=3).output.shape
        (None, 3)
    """
    require_positive("sequence_classifier", "num_classes", num_classes)
    require_share("sequence_classifier", "dropout", dropout)
    x = _dropped(encoder, pooled_alone(encoder), dropout)
    logits = _dense(encoder, num_classes, "classifier")(x)  # (B, C)
    return keras.Model(encoder.input, logits, name=name)


def token_classifier(encoder, *, num_classes, dropout=0.1, name="token_classifier"):
    """Adds a classifier of every token, for named entities and other tags.

    Devlin et al. 2019, section 5.3.

    Args:
        encoder: `keras.Model` of `bert_encoder` or `albert_encoder`.
        num_classes: int, number of classes C.
        dropout: float in [0, 1), before the last layer (0.1 as published).
        name: name of the model.

    Returns:
        A `keras.Model` from the encoder's inputs to logits `(B, T, C)`.

    Raises:
        ValueError: if `encoder` is not one of this package's encoders, or a number is
            out of range.

    Example:
        >>> from keras_tformer.models import BERT_SIZES, bert_encoder
        >>> encoder = bert_encoder(vocabulary_size=31, **BERT_SIZES["tiny"])
        >>> token_classifier(encoder, num_classes=9).output.shape
        (None, None, 9)
    """
    require_positive("token_classifier", "num_classes", num_classes)
    require_share("token_classifier", "dropout", dropout)
    x = _dropped(encoder, encoder_output(encoder, "sequence_output"), dropout)
    logits = _dense(encoder, num_classes, "classifier")(x)  # (B, T, C)
    return keras.Model(encoder.input, logits, name=name)


def span_classifier(encoder, *, dropout=0.0, name="span_classifier"):
    """Adds the start and end of an answer, for extractive question answering.

    Devlin et al. 2019, section 4.2: a start vector and an end vector.

    Args:
        encoder: `keras.Model` of `bert_encoder` or `albert_encoder`.
        dropout: float in [0, 1), before the last layer (none as published).
        name: name of the model.

    Returns:
        A `keras.Model` from the encoder's inputs to logits `{"start": (B, T), "end":
        (B, T)}`. Positions of the question and of padding have logits too.

    Raises:
        ValueError: if `encoder` is not one of this package's encoders, or `dropout` is
            out of range.

    Example:
        >>> from keras_tformer.models import BERT_SIZES, bert_encoder
        >>> encoder = bert_encoder(vocabulary_size=31, **BERT_SIZES["tiny"])
        >>> sorted(span_classifier(encoder).output)
        ['end', 'start']
    """
    require_share("span_classifier", "dropout", dropout)
    x = _dropped(encoder, encoder_output(encoder, "sequence_output"), dropout)
    start, end = ops.split(_dense(encoder, 2, "span")(x), 2, axis=-1)  # (B, T, 1)
    outputs = {"start": ops.squeeze(start, -1), "end": ops.squeeze(end, -1)}
    return keras.Model(encoder.input, outputs, name=name)


def text_embedder(encoder, *, pooling="mean", normalize=False, name="text_embedder"):
    """Reduces a text to one vector, for search and clustering.

    Reimers and Gurevych 2019, section 3.

    Args:
        encoder: `keras.Model` of `bert_encoder` or `albert_encoder`.
        pooling: `"mean"` or `"max"` over the kept tokens, `"first"` for the first
            token's vector, or `"pooled"` for the encoder's pooled output.
        normalize: bool, whether vectors are scaled to length 1.
        name: name of the model.

    Returns:
        A `keras.Model` from the encoder's inputs to vectors `(B, D)`. With `"first"`
        and `"pooled"` its last block makes the first position alone.

    Raises:
        ValueError: if `encoder` is not one of this package's encoders, or `pooling` is
            unknown.

    Example:
        >>> from keras_tformer.models import BERT_SIZES, bert_encoder
        >>> encoder = bert_encoder(vocabulary_size=31, **BERT_SIZES["tiny"])
        >>> text_embedder(encoder).output.shape
        (None, 128)
    """
    block = encoder_block(encoder)
    if pooling == "pooled":
        vectors = pooled_alone(encoder)
    else:
        layer = TextPooling(pooling, dtype=block.dtype_policy, name="text_pooling")
        states = (
            first_state(encoder)
            if pooling == "first"
            else encoder_output(encoder, "sequence_output")
        )
        vectors = layer(states, encoder.input["padding_mask"])
    if normalize:
        vectors = keras.layers.UnitNormalization(
            dtype=block.dtype_policy, name="unit_normalization"
        )(vectors)
    return keras.Model(encoder.input, vectors, name=name)


def encoder_output(encoder, key):
    """Returns the symbolic output `key` of an encoder of this package."""
    encoder_block(encoder)
    return encoder.output[key]


def _dropped(encoder, x, dropout):
    policy = encoder_block(encoder).dtype_policy
    return Dropout(dropout, dtype=policy, name="classifier_dropout")(x)


def _dense(encoder, units, name):
    block = encoder_block(encoder)
    return keras.layers.Dense(
        units,
        kernel_initializer=fresh_initializer(block.kernel_initializer),
        dtype=block.dtype_policy,
        name=name,
    )
