"""Heads that read the first token: its last block alone, and the numbers of the whole.

The other answer is a head put on the encoder's own outputs, which all blocks made.
"""

import keras
import numpy as np
import pytest
from keras import ops

from keras_tformer import models, training
from keras_tformer.checkpoints.encoder_numbers import encoder_numbers
from keras_tformer.layers import TransformerEncoder
from keras_tformer.training.intermediate_outputs import number_of_calls

V, D, B, T = 31, 26, 5, 7
SIZES = {
    "vocabulary_size": V,
    "num_layers": 3,
    "num_heads": 2,
    "hidden_dim": D,
    "intermediate_dim": 17,
    "initializer_range": 0.3,
    "dropout": 0.0,
    "attention_dropout": 0.0,
}


def bert(**arguments):
    return models.bert_encoder(**SIZES, **arguments)


def albert(**arguments):
    return models.albert_encoder(embedding_dim=11, **SIZES, **arguments)


def inner_repetitions(**arguments):
    return albert(num_inner_repetitions=2, **arguments)


def with_all_outputs(**arguments):
    return bert(return_hidden_states=True, return_attention_scores=True, **arguments)


def packed(**arguments):
    return bert(has_packed_documents=True, **arguments)


ENCODERS = [bert, albert, inner_repetitions, with_all_outputs, packed]


def batch(encoder):
    random = np.random.default_rng(5)
    mask = (np.arange(T) < random.integers(2, T + 1, (B, 1))).astype("int32")
    inputs = {
        "token_ids": random.integers(0, V, (B, T)),
        "segment_ids": random.integers(0, 2, (B, T)),
        "padding_mask": mask,
        "document_ids": mask * (1 + (np.arange(T) > 2)),
    }
    return {name: inputs[name] for name in encoder.input}


def on_all_positions(model, encoder):
    """The same head on the pooled output of all blocks for all positions."""
    logits = model.get_layer("classifier")(encoder.output["pooled_output"])
    return keras.Model(encoder.input, logits)


def last_call(model):
    """What the last call of a block returns."""
    calls = [
        (depth, node)
        for depth, nodes in model._nodes_by_depth.items()
        for node in nodes
        if isinstance(node.operation, TransformerEncoder)
    ]
    return min(calls, key=lambda call: call[0])[1].output_tensors[0]


@pytest.mark.parametrize("build", ENCODERS)
def test_a_classifier_makes_one_position_of_the_last_block(build):
    encoder = build()
    model = models.sequence_classifier(encoder, num_classes=3)
    assert last_call(model).shape == (None, 1, D)
    assert last_call(encoder).shape == (None, None, D)
    inputs = batch(encoder)
    expected = on_all_positions(model, encoder)(inputs)
    expected, logits = map(ops.convert_to_numpy, (expected, model(inputs)))
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    assert [w.path for w in model.weights] == [
        w.path for w in on_all_positions(model, encoder).weights
    ]


@pytest.mark.parametrize("build", ENCODERS)
def test_trains_as_on_all_positions(build):
    trained = []
    for make in (lambda model, encoder: model, on_all_positions):
        keras.utils.set_random_seed(3)
        encoder = build()
        classifier = models.sequence_classifier(encoder, num_classes=3, dropout=0.0)
        model = make(classifier, encoder)
        # Steps in proportion to gradients; Adam makes rounding errors of them as large.
        model.compile(
            keras.optimizers.SGD(0.1),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        before = model.get_weights()
        model.fit(batch(encoder), np.arange(B) % 3, epochs=3, verbose=0, shuffle=False)
        changes = zip(model.get_weights(), before, strict=True)
        trained.append([after - was for after, was in changes])
    for ours, expected in zip(*trained, strict=True):
        assert np.any(expected)
        np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("build", [bert, albert])
def test_is_saved_with_the_model(build, tmp_path):
    model = models.sequence_classifier(build(), num_classes=3)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert last_call(loaded).shape == (None, 1, D)
    inputs = batch(model)
    ours, theirs = (ops.convert_to_numpy(x(inputs)) for x in (model, loaded))
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("pooling", ["first", "pooled", "mean"])
def test_embedders_of_the_first_token_make_it_alone(pooling):
    embedder = models.text_embedder(bert(), pooling=pooling)
    positions = None if pooling == "mean" else 1
    assert last_call(embedder).shape == (None, positions, D)


@pytest.mark.parametrize("build", [bert, albert])
def test_whoever_looks_into_the_last_block_sees_all_positions(build):
    encoder = build(return_hidden_states=True, return_attention_scores=True)
    model = models.sequence_classifier(encoder, num_classes=3)
    features = {"hidden_states": [2, 3], "attention_scores": [3], "queries": [3]}
    inside = training.intermediate_outputs(model, features)
    inputs = batch(encoder)
    seen, whole = inside(inputs), encoder(inputs)
    for name, calls in (("hidden_states", (2, 3)), ("attention_scores", (3,))):
        for call in calls:
            np.testing.assert_allclose(
                ops.convert_to_numpy(seen[name][str(call)]),
                ops.convert_to_numpy(whole[name][call - 1]),
                atol=1e-5,
            )
    assert tuple(seen["queries"]["3"].shape) == (B, T, 2, D // 2)
    np.testing.assert_allclose(
        ops.convert_to_numpy(seen["outputs"]),
        ops.convert_to_numpy(model(inputs)),
        atol=1e-5,
    )


@pytest.mark.parametrize("build", [bert, albert])
def test_beside_the_encoders_outputs_a_block_counts_once(build):
    encoder = build()
    logits = models.sequence_classifier(encoder, num_classes=3).output
    model = keras.Model(encoder.input, {"logits": logits, **encoder.output})
    features = {"hidden_states": [3]}
    inside = training.intermediate_outputs(model, features)
    inputs = batch(encoder)
    np.testing.assert_allclose(
        ops.convert_to_numpy(inside(inputs)["hidden_states"]["3"]),
        ops.convert_to_numpy(encoder(inputs)["sequence_output"]),
        atol=1e-5,
    )
    _, numbers = encoder_numbers(model)
    assert numbers["num_layers"] == number_of_calls(model) == SIZES["num_layers"]


def test_twelve_shared_layers_are_a_file_of_one(tmp_path):
    bytes_of = {}
    for num_layers in (1, 12):
        sizes = {**SIZES, "num_layers": num_layers}
        encoder = models.albert_encoder(embedding_dim=11, **sizes)
        model = models.sequence_classifier(encoder, num_classes=3)
        model.save(tmp_path / "model.keras")
        bytes_of[num_layers] = (tmp_path / "model.keras").stat().st_size
    assert bytes_of[1] < bytes_of[12] < 1.1 * bytes_of[1]


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="others know every length"
)
@pytest.mark.parametrize("head", ["encoder", "classifier", "embedder"])
def test_takes_lengths_that_the_graph_does_not_know(head):
    import tensorflow as tf

    encoder = bert()
    model = {
        "encoder": lambda: encoder,
        "classifier": lambda: models.sequence_classifier(encoder, num_classes=3),
        "embedder": lambda: models.text_embedder(encoder, pooling="first"),
    }[head]()
    unknown = tf.TensorSpec((None, None), "int32")
    function = tf.function(
        lambda inputs: model(inputs), [dict.fromkeys(model.input, unknown)]
    )
    inputs = {name: tf.constant(x, "int32") for name, x in batch(encoder).items()}
    for ours, expected in zip(
        tf.nest.flatten(function(inputs)), tf.nest.flatten(model(inputs)), strict=True
    ):
        np.testing.assert_allclose(ours, expected, atol=1e-5)
