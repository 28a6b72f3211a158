"""LAMB against the paper's algorithm 2, written out in NumPy."""

import keras
import numpy as np
import pytest

import keras_tformer as kt

RATE, DECAY, BETA_1, BETA_2, EPSILON = 0.05, 0.1, 0.9, 0.999, 1e-6


def algorithm_2(start, gradients, decay, is_adapted):
    """You et al. 2020, algorithm 2, with phi the identity, in float64."""
    x = start.astype("float64")
    m, v = np.zeros_like(x), np.zeros_like(x)
    for t, g in enumerate(gradients.astype("float64"), start=1):
        m = BETA_1 * m + (1 - BETA_1) * g
        v = BETA_2 * v + (1 - BETA_2) * g * g
        r = (m / (1 - BETA_1**t)) / (np.sqrt(v / (1 - BETA_2**t)) + EPSILON)
        step = r + decay * x
        if is_adapted:
            lengths = np.sqrt(np.sum(x**2)), np.sqrt(np.sum(step**2))
            step = step * (lengths[0] / lengths[1] if min(lengths) > 0 else 1.0)
        x = x - RATE * step
    return x


@pytest.fixture
def random():
    return np.random.default_rng(11)


def trained(start, gradients, name):
    variable = keras.Variable(start, name=name)
    optimizer = kt.training.lamb(
        RATE, DECAY, BETA_1, BETA_2, EPSILON, global_clipnorm=None
    )
    for gradient in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(gradient)], [variable])
    return keras.ops.convert_to_numpy(variable)


@pytest.mark.parametrize(
    ("name", "decay", "is_adapted"), [("kernel", DECAY, True), ("bias", 0.0, False)]
)
def test_updates_equal_the_papers(random, name, decay, is_adapted):
    start = random.normal(size=(5, 7)).astype("float32")
    gradients = random.normal(size=(13, 5, 7)).astype("float32")
    expected = algorithm_2(start, gradients, decay, is_adapted)
    np.testing.assert_allclose(
        trained(start, gradients, name), expected, rtol=0, atol=2e-6
    )


def test_a_variable_of_zeros_and_a_gradient_of_zeros_give_numbers(random):
    zeros = np.zeros((3, 5), "float32")
    gradients = random.normal(size=(2, 3, 5)).astype("float32")
    np.testing.assert_allclose(
        trained(zeros, gradients, "kernel"),
        algorithm_2(zeros, gradients, DECAY, True),
        rtol=0,
        atol=2e-6,
    )
    np.testing.assert_array_equal(trained(zeros, zeros[None], "kernel"), zeros)


def test_keras_own_lamb_decays_outside_of_the_quotient(random):
    """When this fails, Keras has the paper's decay, and ours can go."""
    start = random.normal(size=(5, 7)).astype("float32")
    gradient = random.normal(size=(5, 7)).astype("float32")
    variable = keras.Variable(start)
    optimizer = keras.optimizers.Lamb(RATE, weight_decay=DECAY, epsilon=EPSILON)
    optimizer.apply([keras.ops.convert_to_tensor(gradient)], [variable])
    theirs = keras.ops.convert_to_numpy(variable)
    assert np.abs(theirs - algorithm_2(start, gradient[None], DECAY, True)).max() > 1e-3


def test_trains_in_fit_and_keeps_its_config():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(1)(inputs))
    model.compile(kt.training.lamb(0.05), "mse", jit_compile=True)
    x = np.random.default_rng(2).normal(size=(64, 3)).astype("float32")
    losses = model.fit(x, x.sum(1), epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0] / 2
    config = kt.training.lamb(0.05, weight_decay=0.3).get_config()
    assert kt.training.Lamb.from_config(config).weight_decay == 0.3


def test_negative_decay_is_refused():
    with pytest.raises(ValueError, match="weight_decay=-1"):
        kt.training.lamb(0.1, weight_decay=-1)
