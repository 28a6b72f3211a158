"""Freezing between two calls of `fit`, beside what stock Keras does."""

import keras
import numpy as np
import pytest

import keras_tformer as kt

X = np.random.default_rng(5).normal(size=(8, 3)).astype("float32")
Y = np.random.default_rng(7).normal(size=(8, 2)).astype("float32")


def trained_model(optimizer="adam"):
    inputs = keras.Input((3,))
    hidden = keras.layers.Dense(5, name="low")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, name="high")(hidden))
    model.compile(optimizer, "mse")
    model.fit(X, Y, verbose=0)
    return model


def moves(model, name):
    before = model.get_layer(name).get_weights()[0]
    model.fit(X, Y, verbose=0)
    return not np.array_equal(before, model.get_layer(name).get_weights()[0])


@pytest.mark.parametrize(
    "optimizer", ["sgd", "adam", kt.training.adamw, kt.training.lamb]
)
def test_a_frozen_layer_stays_and_the_optimizer_goes_on(optimizer):
    """Nor is it decayed, by optimizers that decay what has no gradient."""
    model = trained_model(optimizer if isinstance(optimizer, str) else optimizer(0.01))
    assert kt.training.freeze(model, ["low"]) == 3 * 5 + 5
    assert not moves(model, "low")
    assert moves(model, "high")
    assert int(model.optimizer.iterations.numpy()) == 3
    assert kt.training.unfreeze(model, ["low"]) == 0
    assert moves(model, "low")


def test_stock_keras_goes_on_training_it():
    """When this fails, Keras has mended it, and `freeze` can go."""
    model = trained_model()
    model.get_layer("low").trainable = False
    assert moves(model, "low")


def test_a_layer_frozen_from_the_start_is_not_thawed_silently():
    model = trained_model()
    kt.training.freeze(model, ["low"])
    model.compile("adam", "mse")
    model.fit(X, Y, verbose=0)
    with pytest.raises(ValueError, match="no state for .*low.*Compile the model again"):
        kt.training.unfreeze(model, ["low"])
    assert not model.get_layer("low").trainable


@pytest.mark.parametrize("names", [["lwo"], "low"])
def test_unknown_names_are_refused(names):
    with pytest.raises(ValueError, match=r"Expected a list of names.*'low'"):
        kt.training.freeze(trained_model(), names)
