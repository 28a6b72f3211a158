"""Counts against the products of a Transformer block, counted by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_tformer as kt

B, T, D, F, V = 4, 32, 64, 256, 101


def encoder(build, num_layers, **numbers):
    return build(
        vocabulary_size=V,
        num_layers=num_layers,
        num_heads=2,
        hidden_dim=D,
        intermediate_dim=F,
        max_sequence_length=T,
        **numbers,
    )


@pytest.mark.parametrize(
    ("build", "numbers"),
    [
        (kt.models.bert_encoder, {}),
        (kt.models.albert_encoder, {"embedding_dim": 16}),  # one block, three calls
    ],
)
def test_three_layers_cost_two_layers_more_than_one(build, numbers):
    names = "token_ids", "segment_ids", "padding_mask"
    inputs = dict.fromkeys(names, np.ones((B, T), "int32"))
    counts = [
        kt.training.training_flops(encoder(build, n, **numbers), inputs) for n in (1, 3)
    ]
    # A layer: four D x D products, two D x F, scores and context of T x T.
    products = 2 * B * T * (4 * D * D + 2 * D * F + 2 * T * D)
    layer = (counts[1] - counts[0]) / 2
    # Softmax, GELU, normalizations and sums on top: a few operations an element.
    assert 3 * products < layer < 3 * products * 1.05


def test_a_length_that_is_unknown_is_refused():
    inputs = keras.Input((None, 3))
    model = keras.Model(inputs, keras.layers.Dense(5)(inputs))
    spec = tf.TensorSpec((None, T, 3))
    with pytest.raises(ValueError, match="drop_remainder=True"):
        kt.training.training_flops(model, spec)
