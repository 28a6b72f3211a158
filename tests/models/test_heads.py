"""Heads: what they compute from an encoder's outputs, sharing and refusals."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_tformer import models

V, D, B, T, P = 31, 26, 3, 7, 2


@pytest.fixture(scope="module")
def encoder():
    return models.albert_encoder(
        vocabulary_size=V,
        embedding_dim=5,
        num_layers=2,
        num_heads=2,
        hidden_dim=D,
        intermediate_dim=17,
        initializer_range=0.3,
        activation="gelu",
    )


@pytest.fixture(scope="module")
def inputs():
    random = np.random.default_rng(3)
    mask = np.ones((B, T), "int32")
    mask[0, 4:] = 0
    return {
        "token_ids": random.integers(0, V, (B, T)),
        "segment_ids": random.integers(0, 2, (B, T)),
        "padding_mask": mask,
        "mask_positions": np.array([[0, 3], [6, 1], [2, 2]]),
    }


def values(model, inputs):
    wanted = {key: inputs[key] for key in model.input}
    return keras.tree.map_structure(ops.convert_to_numpy, model(wanted))


def test_classifiers_are_a_dense_layer(encoder, inputs):
    encoded = values(encoder, inputs)
    for build, key in (
        (models.sequence_classifier, "pooled_output"),
        (models.token_classifier, "sequence_output"),
    ):
        model = build(encoder, num_classes=4)
        dense = model.get_layer("classifier")
        kernel = ops.convert_to_numpy(dense.kernel)
        np.testing.assert_allclose(
            values(model, inputs), encoded[key] @ kernel, atol=1e-5
        )


def test_span_classifier_splits_start_and_end(encoder, inputs):
    model = models.span_classifier(encoder)
    kernel = ops.convert_to_numpy(model.get_layer("span").kernel)
    logits = values(encoder, inputs)["sequence_output"] @ kernel
    spans = values(model, inputs)
    np.testing.assert_allclose(spans["start"], logits[..., 0], atol=1e-5)
    np.testing.assert_allclose(spans["end"], logits[..., 1], atol=1e-5)


def test_text_embedder_pools(encoder, inputs):
    encoded = values(encoder, inputs)
    sequence, keep = encoded["sequence_output"], inputs["padding_mask"][..., None]
    expected = {
        "mean": (sequence * keep).sum(1) / keep.sum(1),
        "max": np.where(keep == 1, sequence, -np.inf).max(1),
        "first": sequence[:, 0],
        "pooled": encoded["pooled_output"],
    }
    for pooling, vectors in expected.items():
        model = models.text_embedder(encoder, pooling=pooling)
        np.testing.assert_allclose(values(model, inputs), vectors, atol=1e-5)
        model = models.text_embedder(encoder, pooling=pooling, normalize=True)
        lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
        np.testing.assert_allclose(values(model, inputs), vectors / lengths, atol=1e-5)


def test_masked_lm_is_tied_to_the_token_table(encoder, inputs):
    model = models.masked_lm(encoder)
    added = model.count_params() - encoder.count_params()
    pooler = D * D + D  # the head does not read the pooled output
    assert added + pooler == D * 5 + 5 + 2 * 5 + V
    logits = values(model, inputs)["masked_lm"]
    assert logits.shape == (B, P, V)
    head = model.get_layer("masked_lm_head")
    assert head.activation is keras.activations.gelu
    table = encoder.get_layer("token_embedding")
    assert head.token_embedding is table
    before = table.get_weights()
    table.set_weights([before[0] * 0])
    np.testing.assert_allclose(values(model, inputs)["masked_lm"], 0, atol=1e-6)
    table.set_weights(before)


def test_pretrainers_share_one_encoder(encoder, inputs):
    for build, pair in (
        (models.bert_pretrainer, "next_sentence"),
        (models.albert_pretrainer, "sentence_order"),
    ):
        model = build(encoder, max_predictions=P)
        assert model.output["masked_lm"].shape == (None, P, V)
        kernel = ops.convert_to_numpy(model.get_layer(pair).kernel)
        expected = values(encoder, inputs)["pooled_output"] @ kernel
        np.testing.assert_allclose(values(model, inputs)[pair], expected, atol=1e-5)
        ours = {id(w) for w in model.weights}
        assert {id(w) for w in encoder.weights} <= ours


def test_sharing_survives_saving(encoder, inputs, tmp_path):
    model = models.masked_lm(encoder)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert len(loaded.weights) == len(model.weights)
    table = loaded.get_layer("token_embedding")
    assert loaded.get_layer("masked_lm_head").token_embedding is table


HEADS = {
    "masked_lm": models.masked_lm,
    "bert_pretrainer": models.bert_pretrainer,
    "albert_pretrainer": models.albert_pretrainer,
    "sequence_classifier": lambda x: models.sequence_classifier(x, num_classes=2),
    "token_classifier": lambda x: models.token_classifier(x, num_classes=2),
    "span_classifier": models.span_classifier,
    "text_embedder": models.text_embedder,
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_refuses_what_is_no_encoder(head, encoder):
    others = [
        models.span_classifier(encoder),
        models.masked_lm(encoder),
        models.text_embedder(encoder),
        keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]),
        keras.Sequential(),
        "bert",
    ]
    for other in others:
        with pytest.raises(ValueError, match="needs an encoder of this package"):
            head(other)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda e: models.sequence_classifier(e, num_classes=0), "num_classes=0"),
        (lambda e: models.token_classifier(e, num_classes=2.0), "num_classes=2.0"),
        (
            lambda e: models.sequence_classifier(e, num_classes=2, dropout=-1),
            "`sequence_classifier`.*dropout=-1",
        ),
        (lambda e: models.span_classifier(e, dropout=1.0), "dropout=1.0"),
        (lambda e: models.albert_pretrainer(e, dropout=-0.1), "dropout=-0.1"),
        (lambda e: models.masked_lm(e, max_predictions=0), "max_predictions=0"),
        (lambda e: models.text_embedder(e, pooling="sum"), "pooling='sum'"),
    ],
)
def test_refuses_numbers_that_do_not_fit(call, told, encoder):
    with pytest.raises(ValueError, match=told):
        call(encoder)
