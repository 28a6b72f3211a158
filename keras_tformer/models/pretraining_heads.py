"""Heads for pretraining: an encoder in, a model that predicts masked tokens out.

A head continues the encoder's own graph: its layers are the encoder's layers, so that
training the head trains the encoder, and every layer stays in reach under its name.
"""

import keras

from keras_tformer.layers import Dropout, MaskedLMHead, TransformerEncoder
from keras_tformer.layers.argument_checks import require_positive, require_share
from keras_tformer.layers.initializers import fresh_initializer


def masked_lm(encoder, *, max_predictions=None, name="masked_lm"):
    """Adds BERT's masked language model to an encoder.

    Devlin et al. 2019, section 3.1. The head takes activation, epsilon and initializer
    from the encoder's blocks and is tied to its token table.

    Args:
        encoder: `keras.Model` of `bert_encoder` or `albert_encoder`.
        max_predictions: int to fix the number P of masked positions, or None.
        name: name of the model.

    Returns:
        A `keras.Model` from the encoder's inputs and `"mask_positions"`, integers
        `(B, P)`, to `{"masked_lm": (B, P, V)}` logits.

    Raises:
        ValueError: if `encoder` is not one of this package's encoders.

    Example:
        >>> from keras_tformer.models import BERT_SIZES, bert_encoder
        >>> model = masked_lm(bert_encoder(vocabulary_size=31, **BERT_SIZES["tiny"]))
        >>> model.output["masked_lm"].shape
        (None, None, 31)
    """
    inputs, logits = _masked_lm(encoder, max_predictions)
    return keras.Model(inputs, {"masked_lm": logits}, name=name)


def bert_pretrainer(encoder, *, max_predictions=None, name="bert_pretrainer"):
    """Adds BERT's two pretraining tasks to an encoder.

    Devlin et al. 2019, section 3.1: masked tokens, and whether the second segment
    followed the first (class 0) or came from elsewhere (class 1).

    Args:
        encoder: `keras.Model` of `bert_encoder` or `albert_encoder`.
        max_predictions: int to fix the number P of masked positions, or None.
        name: name of the model.

    Returns:
        A `keras.Model` from the encoder's inputs and `"mask_positions"`, integers
        `(B, P)`, to logits `{"masked_lm": (B, P, V), "next_sentence": (B, 2)}`.

    Raises:
        ValueError: if `encoder` is not one of this package's encoders.

    Example:
        >>> from keras_tformer.models import BERT_SIZES, bert_encoder
        >>> encoder = bert_encoder(vocabulary_size=31, **BERT_SIZES["tiny"])
        >>> sorted(bert_pretrainer(encoder).output)
        ['masked_lm', 'next_sentence']
    """
    inputs, logits = _masked_lm(encoder, max_predictions)
    pair = _pair_logits(encoder, "next_sentence", dropout=0.0)
    return keras.Model(inputs, {"masked_lm": logits, "next_sentence": pair}, name=name)


def albert_pretrainer(
    encoder, *, max_predictions=None, dropout=0.1, name="albert_pretrainer"
):
    """Adds ALBERT's two pretraining tasks to an encoder.

    Lan et al. 2020, section 3.1: masked tokens, and whether two consecutive segments
    stand in their order (class 0) or were swapped (class 1).

    Args:
        encoder: `keras.Model` of `bert_encoder` or `albert_encoder`.
        max_predictions: int to fix the number P of masked positions, or None.
        dropout: float in [0, 1), before the sentence-order classifier (0.1 as
            released, in version 2 as well).
        name: name of the model.

    Returns:
        A `keras.Model` from the encoder's inputs and `"mask_positions"`, integers
        `(B, P)`, to logits `{"masked_lm": (B, P, V), "sentence_order": (B, 2)}`.

    Raises:
        ValueError: if `encoder` is not one of this package's encoders, or `dropout` is
            outside [0, 1).

    Example:
        >>> from keras_tformer.models import BERT_SIZES, bert_encoder
        >>> encoder = bert_encoder(vocabulary_size=31, **BERT_SIZES["tiny"])
        >>> sorted(albert_pretrainer(encoder).output)
        ['masked_lm', 'sentence_order']
    """
    require_share("albert_pretrainer", "dropout", dropout)
    inputs, logits = _masked_lm(encoder, max_predictions)
    pair = _pair_logits(encoder, "sentence_order", dropout)
    return keras.Model(inputs, {"masked_lm": logits, "sentence_order": pair}, name=name)


def _masked_lm(encoder, max_predictions):
    block = encoder_block(encoder)
    if max_predictions is not None:
        require_positive("masked_lm", "max_predictions", max_predictions)
    positions = keras.Input((max_predictions,), dtype="int32", name="mask_positions")
    head = MaskedLMHead(
        encoder.get_layer("token_embedding"),
        activation=block.activation,
        layer_norm_epsilon=block.layer_norm_epsilon,
        kernel_initializer=block.kernel_initializer,
        dtype=block.dtype_policy,
        name="masked_lm_head",
    )
    logits = head(encoder.output["sequence_output"], positions)  # (B, P, V)
    return {**encoder.input, "mask_positions": positions}, logits


def _pair_logits(encoder, name, dropout):
    block = encoder_block(encoder)
    x = encoder.output["pooled_output"]  # (B, D)
    x = Dropout(dropout, dtype=block.dtype_policy, name=f"{name}_dropout")(x)
    return keras.layers.Dense(
        2,
        kernel_initializer=fresh_initializer(block.kernel_initializer),
        dtype=block.dtype_policy,
        name=name,
    )(x)


def encoder_block(encoder):
    """Returns the first block of an encoder, or says why there is none."""
    blocks = [
        layer
        for layer in getattr(encoder, "layers", [])
        if isinstance(layer, TransformerEncoder)
    ]
    outputs = getattr(encoder, "output", None)
    if not blocks or not isinstance(outputs, dict) or "sequence_output" not in outputs:
        raise ValueError(
            "A head needs an encoder of this package. Expected the model that "
            "`bert_encoder` or `albert_encoder` returned, with outputs "
            "'sequence_output' and 'pooled_output'. Received: "
            f"{type(encoder).__name__} {getattr(encoder, 'name', '')!r}. Build the "
            "head on the encoder itself, not on a model that already has a head."
        )
    return blocks[0]
