"""Every public layer and model of the zoo, once: what `checks.py` is run over.

A `Case` says how to build the thing, what to feed it, and which promises it makes
beyond those that all make (its traits). Sizes are distinct primes where they are free,
so that two axes cannot be swapped unseen.
"""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np

import keras_tformer as kt

# 34 x 34: the converter leaves weights of fewer than 1,024 values in float.
VOCABULARY, WIDTH, HEADS, INNER, NARROW = 31, 34, 2, 37, 5
POSITIONS, SEGMENTS, CLASSES, PREDICTIONS = 23, 3, 4, 6
BATCH, LENGTH, SOURCE = 3, 7, 11


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """One layer or model, and what is promised of it.

    Args:
        name: readable id; the part before a dot is the public name.
        build: `(dropout, dtype) -> layer or model`.
        inputs: `(batch, length, source) -> {argument name: array}`.
        call: further arguments of a layer's call.
        masks: {name of a padding mask: the inputs that it masks}.
        causal: name of the input that later positions of must not be seen, or None.
        traits: words of `dropout, weights, model, batchless`.
        no_gradient: {end of a weight's path: why it has no gradient}.
        known_failures: {name of a check: why it fails}.
    """

    name: str
    build: Callable
    inputs: Callable
    call: dict = dataclasses.field(default_factory=dict)
    masks: dict = dataclasses.field(default_factory=dict)
    causal: str | None = None
    traits: frozenset = frozenset()
    no_gradient: dict = dataclasses.field(default_factory=dict)
    known_failures: dict = dataclasses.field(default_factory=dict)

    def model(self, dropout=0.0, dtype="float32"):
        """Returns a functional model with dict inputs and no weight at 0 or 1."""
        built = self.build(dropout, dtype)
        if not isinstance(built, keras.Model):
            built = in_a_model(built, self)
        random = np.random.default_rng(5)
        for weight in built.trainable_weights:
            noise = random.normal(scale=0.1, size=weight.shape)
            weight.assign(keras.ops.convert_to_numpy(weight) + noise)
        return built

    def feed(self, batch=BATCH, length=LENGTH, source=SOURCE, seed=3):
        """Returns inputs of the given sizes; the same ones each time."""
        return self.inputs(np.random.default_rng(seed), batch, length, source)


def in_a_model(layer, case):
    """Wraps a layer: axes that follow the batch or a length are left open."""
    one, other = case.feed(2, 3, 5), case.feed(3, 4, 7)
    inputs = {
        name: keras.Input(
            batch_shape=[
                a if a == b else None
                for a, b in zip(one[name].shape, other[name].shape, strict=True)
            ],
            dtype=one[name].dtype.name,
            name=name,
        )
        for name in one
    }
    return keras.Model(inputs, layer(**inputs, **case.call), name=f"with_{layer.name}")


# === Inputs ===


def ids(random, shape, end=VOCABULARY):
    return random.integers(0, end, shape).astype("int32")


def floats(random, *shape):
    return random.normal(size=shape).astype("float32")


def keep(random, batch, length):
    """A padding mask whose rows keep all, all but one, ... positions."""
    kept = np.arange(length)[None] < length - np.arange(batch)[:, None] % length
    return kept.astype("int32")


def hidden(r, b, t, s):
    return {"inputs": floats(r, b, t, WIDTH)}


def padded_hidden(r, b, t, s):
    return {**hidden(r, b, t, s), "padding_mask": keep(r, b, t)}


def decoder_inputs(r, b, t, s):
    return {
        **padded_hidden(r, b, t, s),
        "encoder_output": floats(r, b, s, WIDTH),
        "encoder_padding_mask": keep(r, b, s),
    }


def encoder_inputs(r, b, t, s):
    return {
        "token_ids": ids(r, (b, t)),
        "segment_ids": ids(r, (b, t), SEGMENTS),
        "padding_mask": keep(r, b, t),
    }


def documents(r, b, t):
    """Which document of its row a token belongs to: up to three side by side."""
    return np.sort(ids(r, (b, t), 3), axis=1) + 1


def packed_inputs(r, b, t, s):
    return {**encoder_inputs(r, b, t, s), "document_ids": documents(r, b, t)}


def packed_unsegmented_inputs(r, b, t, s):
    return {**unsegmented_inputs(r, b, t, s), "document_ids": documents(r, b, t)}


def unsegmented_inputs(r, b, t, s):
    return {"token_ids": ids(r, (b, t)), "padding_mask": keep(r, b, t)}


def pretraining_inputs(r, b, t, s):
    # Position 0 is always kept; the others must exist at every length in use.
    positions = ids(r, (b, PREDICTIONS), 3)
    return {**encoder_inputs(r, b, t, s), "mask_positions": positions}


def pair_inputs(r, b, t, s):
    return {
        "encoder_token_ids": ids(r, (b, s)),
        "encoder_padding_mask": keep(r, b, s),
        "decoder_token_ids": ids(r, (b, t)),
        "decoder_padding_mask": keep(r, b, t),
    }


# === Builders ===

layers, models = kt.layers, kt.models


def bert(dropout, dtype, **changes):
    arguments = {
        "vocabulary_size": VOCABULARY,
        "num_layers": 1,
        "num_heads": HEADS,
        "hidden_dim": WIDTH,
        "intermediate_dim": INNER,
        "num_segments": SEGMENTS,
        "max_sequence_length": POSITIONS,
        "initializer_range": 0.2,
        "dropout": dropout,
        "attention_dropout": dropout,
        "dtype": dtype,
    }
    return models.bert_encoder(**(arguments | changes))


def albert(dropout, dtype, **changes):
    arguments = {
        "vocabulary_size": VOCABULARY,
        "embedding_dim": NARROW,
        "num_layers": 2,
        "num_heads": HEADS,
        "hidden_dim": WIDTH,
        "intermediate_dim": INNER,
        "num_segments": SEGMENTS,
        "max_sequence_length": POSITIONS,
        "initializer_range": 0.2,
        "dropout": dropout,
        "attention_dropout": dropout,
        "dtype": dtype,
    }
    return models.albert_encoder(**(arguments | changes))


def transformer(dropout, dtype, **changes):
    arguments = {
        "vocabulary_size": VOCABULARY,
        "num_layers": 1,
        "num_heads": HEADS,
        "hidden_dim": WIDTH,
        "intermediate_dim": INNER,
        "max_sequence_length": POSITIONS,
        "dropout": dropout,
        "attention_dropout": dropout,
        "dtype": dtype,
    }
    return models.transformer(**(arguments | changes))


def causal(dropout, dtype, **changes):
    arguments = {
        "vocabulary_size": VOCABULARY,
        "num_layers": 1,
        "num_heads": HEADS,
        "hidden_dim": WIDTH,
        "intermediate_dim": INNER,
        "max_sequence_length": POSITIONS,
        "initializer_range": 0.2,
        "dropout": dropout,
        "attention_dropout": dropout,
        "dtype": dtype,
    }
    return models.causal_lm(**(arguments | changes))


def block(kind, **changes):
    def build(dropout, dtype):
        arguments = {"dropout": dropout, "attention_dropout": dropout, "dtype": dtype}
        return kind(HEADS, INNER, **(arguments | changes))

    return build


KEY_BIAS = {
    "key/bias": "moves all scores of a query alike, and softmax does not see that"
}
ENCODER = {"padding_mask": ["token_ids", "segment_ids"]}
PAIR = {
    "encoder_padding_mask": ["encoder_token_ids"],
    "decoder_padding_mask": ["decoder_token_ids"],
}
DECODER = {
    "padding_mask": ["inputs"],
    "encoder_padding_mask": ["encoder_output"],
}
WEIGHTS, DROPOUT = frozenset({"weights"}), frozenset({"weights", "dropout"})
MODEL = frozenset({"weights", "dropout", "model"})
SCORES = {"return_attention_scores": True}

LAYERS = [
    Case(
        "DotProductAttention",
        lambda dropout, dtype: layers.DotProductAttention(dropout, dtype=dtype),
        lambda r, b, t, s: {
            "query": floats(r, b, t, HEADS, NARROW),
            "key": floats(r, b, s, HEADS, NARROW),
            "value": floats(r, b, s, HEADS, NARROW),
            "attention_mask": np.broadcast_to(keep(r, b, s)[:, None], (b, t, s)).copy(),
        },
        SCORES,
        traits=frozenset({"dropout"}),
    ),
    Case(
        "Dropout",
        lambda dropout, dtype: layers.Dropout(dropout, dtype=dtype),
        hidden,
        traits=frozenset({"dropout"}),
    ),
    Case(
        "EmbeddingSum",
        lambda dropout, dtype: layers.EmbeddingSum(
            WIDTH, POSITIONS, SEGMENTS, dropout, dtype=dtype
        ),
        lambda r, b, t, s: {**hidden(r, b, t, s), "segment_ids": ids(r, (b, t), 3)},
        traits=DROPOUT,
    ),
    Case(
        "EmbeddingSum.factorized",
        lambda dropout, dtype: layers.EmbeddingSum(
            WIDTH, POSITIONS, None, dropout, dtype=dtype
        ),
        lambda r, b, t, s: {"inputs": floats(r, b, t, NARROW)},
        traits=DROPOUT,
    ),
    Case(
        "FeedForward",
        lambda dropout, dtype: layers.FeedForward(INNER, "gelu", dropout, dtype=dtype),
        hidden,
        traits=DROPOUT,
    ),
    Case(
        "LayerNormalization",
        lambda dropout, dtype: layers.LayerNormalization(dtype=dtype),
        hidden,
        traits=WEIGHTS,
    ),
    Case(
        "MaskedLMHead",
        lambda dropout, dtype: layers.MaskedLMHead(
            layers.TokenEmbedding(VOCABULARY, NARROW, dtype=dtype), dtype=dtype
        ),
        lambda r, b, t, s: {
            **hidden(r, b, t, s),
            "mask_positions": ids(r, (b, PREDICTIONS), 3),
        },
        traits=WEIGHTS,
    ),
    Case(
        "MultiHeadAttention",
        lambda dropout, dtype: layers.MultiHeadAttention(
            HEADS, None, dropout, dtype=dtype
        ),
        lambda r, b, t, s: {
            "query": floats(r, b, t, WIDTH),
            "padding_mask": keep(r, b, t),
        },
        SCORES,
        {"padding_mask": ["query"]},
        traits=DROPOUT,
        no_gradient=KEY_BIAS,
    ),
    Case(
        "MultiHeadAttention.cross",
        lambda dropout, dtype: layers.MultiHeadAttention(
            3, NARROW, dropout, dtype=dtype
        ),
        lambda r, b, t, s: {
            "query": floats(r, b, t, WIDTH),
            "value": floats(r, b, s, INNER),
            "padding_mask": keep(r, b, s),
        },
        masks={"padding_mask": ["value"]},
        traits=DROPOUT,
        no_gradient=KEY_BIAS,
    ),
    Case(
        "MultiHeadAttention.causal",
        lambda dropout, dtype: layers.MultiHeadAttention(
            HEADS, None, dropout, use_bias=False, dtype=dtype
        ),
        lambda r, b, t, s: {"query": floats(r, b, t, WIDTH)},
        {"use_causal_mask": True},
        causal="query",
        traits=DROPOUT,
    ),
    Case(
        "PackedDocuments",
        lambda dropout, dtype: layers.PackedDocuments(dtype=dtype),
        lambda r, b, t, s: {"document_ids": documents(r, b, t)},
    ),
    Case(
        "Pooler",
        lambda dropout, dtype: layers.Pooler(NARROW, dtype=dtype),
        hidden,
        traits=WEIGHTS,
    ),
    Case(
        "PositionEmbedding",
        lambda dropout, dtype: layers.PositionEmbedding(POSITIONS, dtype=dtype),
        hidden,
        traits=frozenset({"weights", "batchless"}),
    ),
    Case(
        "PositionEmbedding.of_given_positions",
        lambda dropout, dtype: layers.PositionEmbedding(
            POSITIONS, offset=2, dtype=dtype
        ),
        lambda r, b, t, s: {**hidden(r, b, t, s), "position_ids": ids(r, (b, t), 7)},
        traits=WEIGHTS,
    ),
    Case(
        "SegmentEmbedding",
        lambda dropout, dtype: layers.SegmentEmbedding(SEGMENTS, NARROW, dtype=dtype),
        lambda r, b, t, s: {"segment_ids": ids(r, (b, t), SEGMENTS)},
        traits=WEIGHTS,
    ),
    Case(
        "SinusoidalPositionEncoding",
        lambda dropout, dtype: layers.SinusoidalPositionEncoding(dtype=dtype),
        hidden,
        traits=frozenset({"batchless"}),
    ),
    *(
        Case(
            f"TextPooling.{pooling}",
            lambda dropout, dtype, pooling=pooling: layers.TextPooling(
                pooling, dtype=dtype
            ),
            padded_hidden,
            masks={"padding_mask": ["inputs"]},
        )
        for pooling in ("mean", "max", "first")
    ),
    Case(
        "TokenEmbedding",
        lambda dropout, dtype: layers.TokenEmbedding(VOCABULARY, NARROW, dtype=dtype),
        lambda r, b, t, s: {"inputs": ids(r, (b, t))},
        traits=WEIGHTS,
    ),
    Case(
        "TokenEmbedding.reverse",
        lambda dropout, dtype: layers.TokenEmbedding(VOCABULARY, WIDTH, dtype=dtype),
        hidden,
        {"reverse": True},
        traits=WEIGHTS,
    ),
    Case(
        "TransformerDecoder",
        block(layers.TransformerDecoder),
        decoder_inputs,
        SCORES,
        DECODER,
        "inputs",
        DROPOUT,
        KEY_BIAS,
    ),
    Case(
        "TransformerDecoder.without_cross_attention",
        block(layers.TransformerDecoder, normalize_first=True),
        padded_hidden,
        masks={"padding_mask": ["inputs"]},
        causal="inputs",
        traits=DROPOUT,
        no_gradient=KEY_BIAS,
    ),
    Case(
        "TransformerEncoder",
        block(layers.TransformerEncoder),
        padded_hidden,
        SCORES,
        {"padding_mask": ["inputs"]},
        traits=DROPOUT,
        no_gradient=KEY_BIAS,
    ),
    Case(
        "TransformerEncoder.normalize_first",
        block(layers.TransformerEncoder, normalize_first=True, key_dim=NARROW),
        padded_hidden,
        masks={"padding_mask": ["inputs"]},
        traits=DROPOUT,
        no_gradient=KEY_BIAS,
    ),
    Case(
        "TransformerEncoder.num_queries",
        block(layers.TransformerEncoder),
        padded_hidden,
        {"num_queries": 2, **SCORES},
        {"padding_mask": ["inputs"]},
        traits=DROPOUT,
        no_gradient=KEY_BIAS,
    ),
    Case(
        "VocabularyBias",
        lambda dropout, dtype: layers.VocabularyBias(dtype=dtype),
        hidden,
        traits=WEIGHTS,
    ),
]

MODELS = [
    Case("bert_encoder", bert, encoder_inputs, {}, ENCODER, None, MODEL, KEY_BIAS),
    Case(
        "bert_encoder.with_states_and_scores",
        lambda dropout, dtype: bert(
            dropout,
            dtype,
            num_segments=None,
            return_hidden_states=True,
            return_attention_scores=True,
        ),
        unsegmented_inputs,
        masks={"padding_mask": ["token_ids"]},
        traits=MODEL,
        no_gradient=KEY_BIAS,
    ),
    Case(
        "bert_encoder.packed_documents",
        lambda dropout, dtype: bert(dropout, dtype, has_packed_documents=True),
        packed_inputs,
        masks={"padding_mask": ["token_ids", "segment_ids", "document_ids"]},
        traits=MODEL,
        no_gradient=KEY_BIAS,
    ),
    Case("albert_encoder", albert, encoder_inputs, {}, ENCODER, None, MODEL, KEY_BIAS),
    Case(
        "albert_encoder.with_groups",
        lambda dropout, dtype: albert(
            dropout,
            dtype,
            num_layers=2,
            num_groups=2,
            num_inner_repetitions=2,
            return_hidden_states=True,
            return_attention_scores=True,
        ),
        encoder_inputs,
        masks=ENCODER,
        traits=MODEL,
        no_gradient=KEY_BIAS,
    ),
    Case("transformer", transformer, pair_inputs, {}, PAIR, "decoder_token_ids", MODEL),
    Case(
        "transformer.learned_positions_two_tables",
        lambda dropout, dtype: transformer(
            dropout,
            dtype,
            position="learned",
            share_embeddings=False,
            source_vocabulary_size=37,
            normalize_first=True,
            use_attention_bias=True,
            return_hidden_states=True,
            return_attention_scores=True,
        ),
        pair_inputs,
        masks=PAIR,
        causal="decoder_token_ids",
        traits=MODEL,
        no_gradient=KEY_BIAS,
    ),
    Case(
        "causal_lm",
        causal,
        unsegmented_inputs,
        {},
        {"padding_mask": ["token_ids"]},
        "token_ids",
        MODEL,
        KEY_BIAS,
    ),
    Case(
        "causal_lm.for_int8",
        lambda dropout, dtype: causal(dropout, dtype, mask_value=-30.0),
        unsegmented_inputs,
        masks={"padding_mask": ["token_ids"]},
        causal="token_ids",
        traits=MODEL,
        no_gradient=KEY_BIAS,
    ),
    Case(
        "causal_lm.packed_documents",
        lambda dropout, dtype: causal(
            dropout, dtype, mask_value=-30.0, has_packed_documents=True
        ),
        packed_unsegmented_inputs,
        masks={"padding_mask": ["token_ids", "document_ids"]},
        causal="token_ids",
        traits=MODEL,
        no_gradient=KEY_BIAS,
    ),
    Case(
        "masked_lm",
        lambda dropout, dtype: models.masked_lm(bert(dropout, dtype)),
        pretraining_inputs,
        masks=ENCODER,
        traits=MODEL,
        no_gradient=KEY_BIAS,
    ),
    Case(
        "bert_pretrainer",
        lambda dropout, dtype: models.bert_pretrainer(bert(dropout, dtype)),
        pretraining_inputs,
        masks=ENCODER,
        traits=MODEL,
        no_gradient=KEY_BIAS,
    ),
    Case(
        "albert_pretrainer",
        lambda dropout, dtype: models.albert_pretrainer(
            albert(dropout, dtype), dropout=dropout
        ),
        pretraining_inputs,
        masks=ENCODER,
        traits=MODEL,
        no_gradient=KEY_BIAS,
    ),
    Case(
        "sequence_classifier",
        lambda dropout, dtype: models.sequence_classifier(
            albert(dropout, dtype), num_classes=CLASSES, dropout=dropout
        ),
        encoder_inputs,
        masks=ENCODER,
        traits=MODEL,
        no_gradient=KEY_BIAS,
    ),
    Case(
        "token_classifier",
        lambda dropout, dtype: models.token_classifier(
            bert(dropout, dtype), num_classes=CLASSES, dropout=dropout
        ),
        encoder_inputs,
        masks=ENCODER,
        traits=MODEL,
        no_gradient=KEY_BIAS,
    ),
    Case(
        "span_classifier",
        lambda dropout, dtype: models.span_classifier(
            bert(dropout, dtype), dropout=dropout
        ),
        encoder_inputs,
        masks=ENCODER,
        traits=MODEL,
        no_gradient=KEY_BIAS,
    ),
    Case(
        "text_embedder",
        lambda dropout, dtype: models.text_embedder(
            albert(dropout, dtype), normalize=True
        ),
        encoder_inputs,
        masks=ENCODER,
        traits=MODEL,
        no_gradient=KEY_BIAS,
    ),
]

CASES = LAYERS + MODELS

# Public names that are no layer, builder or head: tables of sizes and activations.
NO_CASES = {
    "ALBERT_SIZES",
    "BERT_SIZES",
    "BERT_VOCABULARY_SIZES",
    "CAUSAL_LM_SIZES",
    "TRANSFORMER_SIZES",
    "gelu_tanh",
    "generate",  # Its cases are in tests/models/test_generation.py.
    "get_activation",
}
