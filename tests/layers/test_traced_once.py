"""A shared block that is traced once trains as one that is traced for every call."""

import gc
import weakref

import keras
import numpy as np
import pytest

from keras_tformer import models, training
from keras_tformer.layers import transformer_encoder

tf = pytest.importorskip("tensorflow")
pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="counts nodes of a graph"
)

NUM_LAYERS, LENGTH = 3, 13
ALIKE = NUM_LAYERS - 1  # a classifier's last call makes one position alone
SIZES = {
    "vocabulary_size": 31,
    "num_layers": NUM_LAYERS,
    "num_heads": 2,
    "hidden_dim": 14,
    "intermediate_dim": 11,
    "dropout": 0.1,
    "attention_dropout": 0.1,
}


def classifier(**arguments):
    keras.utils.set_random_seed(3)
    encoder = models.albert_encoder(embedding_dim=7, **SIZES, **arguments)
    return models.sequence_classifier(encoder, num_classes=2)


def function_calls(model, jit_compile=False):
    """How many calls of functions stand in the graph of a model in training."""
    ids = tf.ones((2, LENGTH), "int32")
    x = {"token_ids": ids, "segment_ids": 0 * ids, "padding_mask": ids}
    function = tf.function(lambda: model(x, training=True), jit_compile=jit_compile)
    operations = function.get_concrete_function().graph.get_operations()
    return sum("PartitionedCall" in operation.type for operation in operations)


def trained(model, micro_batches=1, **arguments):
    model.compile(
        training.adamw(1e-2),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
        **arguments,
    )
    training.accumulate_gradients(model, micro_batches)
    ids = np.random.default_rng(0).integers(0, 31, (16, LENGTH)).astype("int32")
    mask = np.ones_like(ids)
    mask[::2, 7:] = 0
    x = {"token_ids": ids, "segment_ids": 0 * ids, "padding_mask": mask}
    model.fit(x, np.arange(16) % 2, batch_size=4, verbose=0, shuffle=False)
    return [variable.value.numpy() for variable in model.variables]


def in_line(monkeypatch):
    monkeypatch.setattr(transformer_encoder, "traced_once", lambda layer, call: call)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("of_model", "of_training"),
    [
        ({"dtype": "mixed_bfloat16", "return_attention_scores": True}, {}),
        ({"sequence_length": LENGTH}, {"steps_per_execution": 2}),
        ({"num_inner_repetitions": 2}, {"micro_batches": 2}),
    ],
)
def test_trains_as_a_block_in_line(monkeypatch, of_model, of_training):
    # Among the variables of a model is what its dropouts have counted up to. With equal
    # seeds they drew equal masks: others in each call.
    ours = trained(classifier(**of_model), **of_training)
    in_line(monkeypatch)
    theirs = trained(classifier(**of_model), **of_training)
    for variable, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(variable, expected, atol=2e-5)


def test_is_a_function_only_where_one_trace_will_do():
    model = classifier()
    assert function_calls(model) == ALIKE
    assert function_calls(model, jit_compile=True) == 0
    block = model.get_layer("encoder_group_0_layer_0")
    block.self_attention.query_dense.trainable = False
    assert function_calls(model) == 0
    model = models.sequence_classifier(models.bert_encoder(**SIZES), num_classes=2)
    assert function_calls(model) == 0


def test_functions_stay_with_their_graph(tmp_path):
    model = classifier()
    assert function_calls(model) == function_calls(model) == ALIKE
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert function_calls(loaded) == ALIKE
    copy = keras.models.clone_model(model)
    assert function_calls(copy) == ALIKE


def test_a_model_goes_when_nobody_needs_it():
    model = classifier()
    block = model.get_layer("encoder_group_0_layer_0")
    kernel = block.self_attention.query_dense.kernel
    kept = weakref.ref(block), weakref.ref(kernel), weakref.ref(model)
    trained(model)
    assert function_calls(model) == ALIKE
    del model, block, kernel
    keras.backend.clear_session()
    gc.collect()
    assert [reference() for reference in kept] == [None] * 3


def test_losses_of_a_block_get_out():
    model = classifier()
    block = model.get_layer("encoder_group_0_layer_0")
    block.feed_forward.output_dense.activity_regularizer = keras.regularizers.L2(0.1)
    assert function_calls(model) == 0
    trained(model)


def test_every_call_drops_something_else():
    block = transformer_encoder.TransformerEncoder(2, 11, dropout=0.5)
    x = keras.Input((LENGTH, 14))
    model = keras.Model(x, [block(x), block(x)])
    ones = tf.random.stateless_normal((2, LENGTH, 14), (3, 5))
    first, second = tf.function(lambda: model(ones, training=True))()
    assert np.abs(first - second).max() > 0.1
