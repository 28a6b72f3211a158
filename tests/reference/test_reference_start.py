"""How many operations stand before the first training step, beside KerasHub's.

Tracing and compiling take time for each of them: `benchmarks/model_speed.py --measure
start` takes the time, this counts.
"""

import keras
import numpy as np
import pytest

from keras_tformer import models, training

tf = pytest.importorskip("tensorflow")
keras_hub = pytest.importorskip("keras_hub", reason="compares with KerasHub")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="counts nodes of a graph"
    ),
]

NUM_LAYERS, NUM_HEADS, HIDDEN_DIM, INTERMEDIATE_DIM = 5, 2, 14, 11
SIZES = {
    "vocabulary_size": 31,
    "embedding_dim": 7,
    "num_layers": NUM_LAYERS,
    "num_heads": NUM_HEADS,
    "hidden_dim": HIDDEN_DIM,
    "intermediate_dim": INTERMEDIATE_DIM,
    "dropout": 0.1,
}


def operations(graph):
    """Counts the operations of a graph and of the functions that it calls."""
    functions = graph.as_graph_def().library.function
    return len(graph.get_operations()) + sum(len(f.node_def) for f in functions)


def traced_operations(monkeypatch, model, optimizer):
    """Counts the operations of every graph that the first `fit` traces."""
    counted = []
    trace = model.train_step

    def train_step(data):
        logs = trace(data)
        counted.append(operations(tf.compat.v1.get_default_graph()))
        return logs

    monkeypatch.setattr(model, "train_step", train_step)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss=loss, jit_compile=False)
    ones = np.ones((4, 13), "int32")
    x = {"token_ids": ones, "segment_ids": 0 * ones, "padding_mask": ones}
    model.fit(x, np.array([0, 1, 1, 0]), batch_size=2, verbose=0)
    return counted


def ours(monkeypatch, num_layers):
    sizes = {**SIZES, "num_layers": num_layers, "max_sequence_length": 17}
    encoder = models.albert_encoder(
        **sizes, attention_dropout=0.1, activation="gelu_tanh"
    )
    model = models.sequence_classifier(encoder, num_classes=2)
    optimizer = training.adamw(1e-4, global_clipnorm=None)
    (counted,) = traced_operations(monkeypatch, model, optimizer)
    return counted


def test_a_sixth_of_the_operations_of_keras_hub(monkeypatch):
    backbone = keras_hub.models.AlbertBackbone(**SIZES, max_sequence_length=17)
    x = keras.layers.Dropout(0.1)(backbone.output["pooled_output"])
    theirs = traced_operations(
        monkeypatch,
        keras.Model(backbone.input, keras.layers.Dense(2)(x)),
        keras.optimizers.AdamW(1e-4),
    )
    assert ours(monkeypatch, NUM_LAYERS) < sum(theirs) / 6


def test_a_further_call_of_a_block_adds_few_operations(monkeypatch):
    few, many = (ours(monkeypatch, num_layers) for num_layers in (2, 24))
    # 296 where it is traced anew: now the call and its gradient.
    assert (many - few) / 22 < 5
