"""Graphs of ours beside those of peers: no more operators, no more pieces."""

import keras
import numpy as np
import pytest

from keras_tformer import export, models

pytest.importorskip("ai_edge_litert", reason="the delegate's pieces are counted on it")
LENGTH = 128
SIZES = {
    "vocabulary_size": 211,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 34,
    "intermediate_dim": 136,
    "max_sequence_length": LENGTH,
}


def kerashub_encoder():
    keras_hub = pytest.importorskip("keras_hub", reason="the peer")
    return keras_hub.models.BertBackbone(**SIZES)


def plain_keras_encoder():
    """BERT's blocks of Keras' own layers."""
    width = SIZES["hidden_dim"]
    inputs = {
        name: keras.Input((LENGTH,), dtype="int32", name=name)
        for name in ("token_ids", "segment_ids", "padding_mask")
    }
    positions = keras.layers.Embedding(LENGTH, width)(np.arange(LENGTH)[None])
    x = keras.layers.Embedding(SIZES["vocabulary_size"], width)(inputs["token_ids"])
    x = x + keras.layers.Embedding(2, width)(inputs["segment_ids"]) + positions
    x = keras.layers.LayerNormalization()(x)
    for _ in range(SIZES["num_layers"]):
        heads = SIZES["num_heads"]
        attention = keras.layers.MultiHeadAttention(heads, width // heads)
        mask = keras.ops.expand_dims(inputs["padding_mask"], 1)  # (B, 1, T)
        x = x + attention(x, x, attention_mask=mask)
        x = keras.layers.LayerNormalization()(x)
        y = keras.layers.Dense(SIZES["intermediate_dim"], "gelu")(x)
        x = x + keras.layers.Dense(width)(y)
        x = keras.layers.LayerNormalization()(x)
    pooled = keras.layers.Dense(width, "tanh")(x[:, 0])
    return keras.Model(inputs, {"sequence_output": x, "pooled_output": pooled})


def learned(model):
    """Vectors as training leaves them: the converter folds scales of 1 away."""
    generator = np.random.default_rng(7)
    for weight in model.weights:
        if len(weight.shape) == 1 or weight.path.endswith("bias"):
            weight.assign(weight.numpy() + generator.normal(0, 0.1, weight.shape))
    return model


@pytest.mark.slow
@pytest.mark.parametrize("peer", [kerashub_encoder, plain_keras_encoder])
def test_no_more_operators_and_pieces_than_a_peer(peer, tmp_path):
    theirs = learned(peer())
    specs = {
        name: keras.InputSpec(shape=(1, LENGTH), dtype="int32", name=name)
        for name in theirs.input
    }
    file = str(tmp_path / "peer.tflite")
    theirs.export(file, format="litert", verbose=False, input_signature=[specs])
    beside = export.report(file, show=False)
    ours = learned(models.bert_encoder(**SIZES))
    report = export.to_tflite(
        ours, tmp_path / "ours.tflite", sequence_length=LENGTH, verify=False
    )
    assert report["macs"] == beside["macs"] > 0
    assert report["num_operators"] <= beside["num_operators"]
    assert report["delegate_partitions"] <= beside["delegate_partitions"]
