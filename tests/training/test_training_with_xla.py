"""Training steps compiled by XLA are those of the graph, down to GELU's gradient."""

import keras
import numpy as np
import pytest

from keras_tformer import models, training

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="others have no graph without"
    ),
]

V, T, P = 31, 13, 5
SIZES = {
    "vocabulary_size": V,
    "num_layers": 3,
    "num_heads": 2,
    "hidden_dim": 14,
    "intermediate_dim": 11,
    "initializer_range": 0.3,
    "dropout": 0.0,
    "attention_dropout": 0.0,
}


def bert():
    return models.bert_pretrainer(models.bert_encoder(**SIZES))


def albert():
    encoder = models.albert_encoder(embedding_dim=7, **SIZES)
    return models.albert_pretrainer(encoder, dropout=0.0)


@pytest.mark.parametrize("build", [bert, albert])
def test_xla_makes_the_steps_of_the_graph(build):
    random = np.random.default_rng(5)
    lengths = random.integers(P + 1, T + 1, (16, 1))
    inputs = {
        "token_ids": random.integers(0, V, (16, T)),
        "segment_ids": random.integers(0, 2, (16, T)),
        "padding_mask": (np.arange(T) < lengths).astype("int32"),
        "mask_positions": random.integers(0, P, (16, P)),
    }
    changes = []
    for jit_compile in (True, False):
        keras.utils.set_random_seed(3)
        model = build()
        pair = "next_sentence" if build is bert else "sentence_order"
        targets = {
            "masked_lm": np.broadcast_to(np.arange(16)[:, None], (16, P)),
            pair: np.arange(16) % 2,
        }
        before = model.get_weights()
        arguments = training.compile_arguments(model.name)
        # Steps in proportion to gradients; Adam makes rounding errors of them as large.
        model.compile(
            keras.optimizers.SGD(0.1), loss=arguments["loss"], jit_compile=jit_compile
        )
        model.fit(inputs, targets, batch_size=8, shuffle=False, verbose=0)
        changes.append(
            [new - old for new, old in zip(model.get_weights(), before, strict=True)]
        )
    for compiled, expected in zip(*changes, strict=True):
        assert np.any(expected)
        # Biases of keys have no gradient but rounding errors: all is below `atol`.
        np.testing.assert_allclose(compiled, expected, rtol=1e-3, atol=1e-6)
    assert max(np.abs(expected).max() for expected in changes[1]) > 0.01
