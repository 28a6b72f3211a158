"""Training in bfloat16 ends where training in float32 ends, but for the noise."""

import keras
import numpy as np
import pytest

import keras_tformer as kt

LENGTH, NUM_CLASSES, VOCABULARY_SIZE = 13, 5, 101
SEEDS = range(3)


def examples(size, seed):
    """The class is the fifth of the vocabulary that most tokens come from."""
    random = np.random.default_rng(seed)
    classes = random.integers(0, NUM_CLASSES, size)
    own = random.integers(0, 20, (size, LENGTH)) + 20 * classes[:, None]
    others = random.integers(0, 100, (size, LENGTH))
    ids = np.where(random.random((size, LENGTH)) < 0.3, own, others) + 1
    mask = np.arange(LENGTH) < random.integers(7, LENGTH + 1, (size, 1))
    inputs = {
        "token_ids": ids * mask,
        "segment_ids": np.zeros_like(ids),
        "padding_mask": mask,
    }
    return {name: x.astype("int32") for name, x in inputs.items()}, classes


def trained(policy, seed):
    """Loss and accuracy on unseen examples, after the recipe of fine-tuning."""
    keras.utils.set_random_seed(seed)
    keras.config.set_dtype_policy(policy)
    encoder = kt.models.albert_encoder(
        vocabulary_size=VOCABULARY_SIZE,
        embedding_dim=23,
        num_layers=2,
        num_heads=2,
        hidden_dim=34,
        intermediate_dim=67,
        max_sequence_length=LENGTH,
        initializer_range=0.2,
    )
    model = kt.models.sequence_classifier(encoder, num_classes=NUM_CLASSES)
    assert {x.dtype for x in model.trainable_weights} == {"float32"}
    arguments = kt.training.compile_arguments("sequence_classifier")
    schedule = kt.training.LinearWarmup(3e-3, 20, 160)
    model.compile(kt.training.adamw(schedule), **arguments)
    inputs, classes = examples(1280, seed=29)
    model.fit(inputs, classes, batch_size=32, epochs=4, verbose=0)
    scores = model.evaluate(*examples(1024, seed=31), verbose=0, return_dict=True)
    return scores["loss"], scores["accuracy"]


@pytest.fixture(autouse=True)
def float32_afterwards():
    yield
    keras.config.set_dtype_policy("float32")


@pytest.mark.slow
def test_bfloat16_is_within_the_noise_of_float32():
    whole = np.array([trained("float32", seed) for seed in SEEDS])
    half = np.array([trained("mixed_bfloat16", seed) for seed in SEEDS])
    assert whole[:, 1].min() > 0.5  # it learned: one in five is chance
    # By the seed alone, two means of so many runs differ by this standard error.
    noise = whole.std(axis=0, ddof=1) * np.sqrt(2 / len(SEEDS))
    difference = np.abs(half.mean(axis=0) - whole.mean(axis=0))
    assert (difference < noise).all(), (whole, half)
    assert (half != whole).any()  # bfloat16 it was
