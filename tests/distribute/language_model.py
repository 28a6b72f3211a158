"""A small masked language model and its batches, for every process of these tests."""

import keras
import numpy as np

import keras_tformer as kt

VOCABULARY, LENGTH, PREDICTIONS, BATCH, STEPS = 23, 7, 5, 8, 20


def batches(number=STEPS):
    """Rows of which some predict one position and some all; AdamW sees them squared."""
    random = np.random.default_rng(11)
    rows = BATCH * number
    counts = random.permutation(np.arange(rows) % PREDICTIONS + 1)
    x = {
        "token_ids": random.integers(0, VOCABULARY, (rows, LENGTH)).astype("int32"),
        "segment_ids": np.zeros((rows, LENGTH), "int32"),
        "padding_mask": np.ones((rows, LENGTH), "int32"),
        "mask_positions": random.integers(0, LENGTH, (rows, PREDICTIONS)).astype(
            "int32"
        ),
    }
    y = random.integers(0, VOCABULARY, (rows, PREDICTIONS)).astype("int32")
    weights = (np.arange(PREDICTIONS) < counts[:, None]).astype("float32")
    return x, y, weights


def language_model(dropout=0.0, **compile_arguments):
    keras.utils.set_random_seed(3)
    encoder = kt.models.albert_encoder(
        vocabulary_size=VOCABULARY,
        embedding_dim=6,
        hidden_dim=10,
        num_layers=2,
        num_heads=2,
        intermediate_dim=11,
        max_sequence_length=LENGTH,
        dropout=dropout,
    )
    model = kt.models.masked_lm(encoder)
    schedule = kt.training.LinearWarmup(1e-2, warmup_steps=5, total_steps=40)
    # Not to divide by the root of a tiny mean square, which makes noise as large as
    # the rate out of rounding.
    optimizer = kt.training.adamw(schedule, epsilon=1e-3, global_clipnorm=0.5)
    model.compile(
        optimizer, **{**kt.training.compile_arguments("masked_lm"), **compile_arguments}
    )
    return model


def fit(model, number=STEPS, **arguments):
    x, y, weights = batches(number)
    return model.fit(
        x,
        y,
        sample_weight=weights,
        batch_size=BATCH,
        shuffle=False,
        verbose=0,
        **arguments,
    )
