"""BERT and ALBERT against KerasHub's backbones, on whichever backend Keras runs."""

import numpy as np
import pytest
from comparison import (
    assert_close,
    outputs_of,
    random_batch,
    random_encoder_sizes,
)
from weight_tables import copy_weights, keras_hub_rows

from keras_tformer import models

keras_hub = pytest.importorskip("keras_hub", reason="the reference itself")


def arrays_of(backbone):
    """Draws all weights of a backbone anew: `{path: array}`."""
    draw = np.random.default_rng(3)
    for weight in backbone.weights:
        shift = 1 if weight.path.endswith("gamma") else 0
        weight.assign(draw.normal(shift, 0.2, weight.shape).astype("float32"))
    return {weight.path: weight.numpy() for weight in backbone.weights}


def test_bert(record_property):
    sizes = random_encoder_sizes(2)
    theirs = keras_hub.models.BertBackbone(**sizes, dropout=0.0)
    ours = models.bert_encoder(**sizes, activation="gelu_tanh")
    assert ours.count_params() == theirs.count_params() == bert_count(**sizes)
    blocks = {
        f"transformer_layer_{layer}": f"encoder_layer_{layer}"
        for layer in range(sizes["num_layers"])
    }
    copy_weights(ours, keras_hub_rows(blocks, False), arrays_of(theirs))
    batch = random_batch(sizes, 2)
    assert_close(outputs_of(ours, batch), outputs_of(theirs, batch), record_property)


def test_albert(record_property):
    sizes = random_encoder_sizes(4) | {
        "num_layers": 4,
        "num_groups": 2,
        "num_inner_repetitions": 2,
        "embedding_dim": 17,
    }
    theirs = keras_hub.models.AlbertBackbone(**sizes, dropout=0.0)
    ours = models.albert_encoder(**sizes, activation="gelu_tanh")
    assert ours.count_params() == theirs.count_params() == albert_count(**sizes)
    blocks = {
        f"group_{group}_inner_layer_{layer}": f"encoder_group_{group}_layer_{layer}"
        for group in range(2)
        for layer in range(2)
    }
    copy_weights(ours, keras_hub_rows(blocks, True), arrays_of(theirs))
    batch = random_batch(sizes, 4)
    assert_close(outputs_of(ours, batch), outputs_of(theirs, batch), record_property)


def block_count(hidden_dim, intermediate_dim):
    attention = 4 * (hidden_dim * hidden_dim + hidden_dim)
    feed_forward = 2 * hidden_dim * intermediate_dim + intermediate_dim + hidden_dim
    return attention + feed_forward + 4 * hidden_dim  # two normalizations


def bert_count(
    vocabulary_size,
    num_layers,
    hidden_dim,
    intermediate_dim,
    num_heads,
    max_sequence_length=512,
    num_segments=2,
):
    rows = vocabulary_size + max_sequence_length + num_segments + 2  # and one norm
    blocks = num_layers * block_count(hidden_dim, intermediate_dim)
    return rows * hidden_dim + blocks + hidden_dim * (hidden_dim + 1)


def albert_count(
    vocabulary_size,
    embedding_dim,
    num_layers,
    hidden_dim,
    intermediate_dim,
    num_heads,
    max_sequence_length=512,
    num_segments=2,
    num_groups=1,
    num_inner_repetitions=1,
    **no_weights,
):
    rows = vocabulary_size + max_sequence_length + num_segments + 2  # and one norm
    blocks = num_groups * num_inner_repetitions
    return (
        rows * embedding_dim
        + (embedding_dim + 1) * hidden_dim
        + blocks * block_count(hidden_dim, intermediate_dim)
        + hidden_dim * (hidden_dim + 1)
    )


def test_published_sizes():
    """The formula that both sides follow gives the published counts."""
    bert, albert = models.BERT_SIZES, models.ALBERT_SIZES
    assert bert_count(30522, **bert["base"]) == 109_482_240
    assert bert_count(30522, **bert["large"]) == 335_141_888
    counts = [
        albert_count(30000, **albert[size])
        for size in ("base", "large", "xlarge", "xxlarge")
    ]
    assert counts == [11_683_584, 17_683_968, 58_724_864, 222_595_584]
