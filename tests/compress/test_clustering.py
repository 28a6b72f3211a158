"""Clustering: few values in every way to train, saved, resumed, stripped, refused."""

import gzip

import keras
import numpy as np
import pytest

import keras_tformer as kt
from keras_tformer.compress import (
    cluster_weights,
    prune_low_magnitude,
    quantize_model,
    strip_clustering,
    strip_pruning,
)

if keras.backend.backend() != "tensorflow":
    pytest.skip("clustering needs the TensorFlow backend", allow_module_level=True)

INPUTS = np.random.default_rng(5).normal(size=(48, 17)).astype("float32")
TARGETS = INPUTS[:, :3] * 2


def perceptron():
    x = inputs = keras.Input((17,))
    x = keras.layers.Dense(23, activation="relu", name="first")(x)
    x = keras.layers.LayerNormalization(name="norm")(x)
    x = keras.layers.Dense(19, activation="relu", name="second")(x)
    return keras.Model(inputs, keras.layers.Dense(3, name="classifier")(x))


def train(model, epochs=1, optimizer=None, **arguments):
    model.compile(optimizer or keras.optimizers.Adam(0.01), "mse", **arguments)
    options = {"batch_size": 8, "verbose": 0, "shuffle": False}
    return model.fit(INPUTS, TARGETS, epochs=epochs, **options).history["loss"]


def kernel(model, name="first"):
    return model.get_layer(name).kernel.numpy()


def counts(model):
    """Distinct values of the kernels."""
    names = ("first", "second", "classifier")
    return [len(np.unique(kernel(model, name))) for name in names]


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param({"jit_compile": True}, marks=pytest.mark.slow),
        {"jit_compile": False},
        pytest.param({"steps_per_execution": 3}, marks=pytest.mark.slow),
        pytest.param({"run_eagerly": True}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_few_values_that_are_trained(arguments):
    model = cluster_weights(perceptron(), 5)
    assert counts(model) == [5, 5, 57]
    before = np.unique(kernel(model))
    losses = train(model, epochs=8, **arguments)
    assert losses[-1] < 0.7 * losses[0]
    assert counts(model) == [5, 5, 57]
    assert np.abs(np.unique(kernel(model)) - before).min() > 1e-4
    trained = kernel(model)
    np.testing.assert_array_equal(kernel(strip_clustering(model)), trained)
    assert all(weight.constraint is None for weight in model.weights)


@pytest.mark.slow
def test_two_replicas_compute_what_one_does(mirrored_strategy):
    def fit(epochs):
        keras.utils.set_random_seed(3)
        model = cluster_weights(perceptron(), 5)
        train(model, epochs, keras.optimizers.SGD(0.01))
        return model

    single = fit(2)
    with mirrored_strategy.scope():
        model = fit(2)
    first, second = mirrored_strategy.experimental_local_results(
        model.get_layer("first").kernel.value
    )
    np.testing.assert_array_equal(first.numpy(), second.numpy())
    np.testing.assert_allclose(kernel(model), kernel(single), atol=1e-5)
    assert counts(strip_clustering(model)) == [5, 5, 57]


@pytest.mark.parametrize(
    "optimizer",
    [
        pytest.param(
            keras.optimizers.AdamW(
                0.01, gradient_accumulation_steps=2, weight_decay=0.1, use_ema=True
            ),
            marks=pytest.mark.slow,
        ),
        kt.training.adamw(0.01, weight_decay=0.1),
    ],
    ids=["averaged", "fused"],
)
def test_optimizers_keep_the_clusters(optimizer):
    model = cluster_weights(perceptron(), 5)
    train(model, optimizer=optimizer)
    assert counts(strip_clustering(model)) == [5, 5, 57]


@pytest.mark.slow
def test_mixed_precision():
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = cluster_weights(perceptron(), 5)
        train(model)
    finally:
        keras.config.set_dtype_policy(policy)
    assert counts(model) == [5, 5, 57]


def test_zeros_stay_zero():
    model = perceptron()
    values = kernel(model)
    values[np.abs(values) < np.quantile(np.abs(values), 0.6)] = 0
    model.get_layer("first").kernel.assign(values)
    cluster_weights(model, 5, preserve_sparsity=True, layers=["first"])
    zeros = kernel(model) == 0
    assert zeros[values == 0].all()
    train(model, epochs=3)
    after = kernel(strip_clustering(model))
    assert (after == 0)[zeros].all() and len(np.unique(after)) == 5


@pytest.mark.parametrize(
    "initialization",
    ["kmeans++", pytest.param("density_based", marks=pytest.mark.slow)],
)
def test_centroids_of_every_channel(initialization):
    model = perceptron()
    model.get_layer("first").kernel.assign(
        np.where(np.arange(23) == 7, 0, kernel(model))  # a channel without any weight
    )
    cluster_weights(model, 3, initialization, preserve_sparsity=True, per_channel=True)
    train(model, epochs=2)
    for name in ("first", "second"):
        columns = kernel(strip_clustering(model) if name == "first" else model, name).T
        assert max(len(np.unique(column)) for column in columns) == 3
        assert len(np.unique(columns)) > 23
    assert not kernel(model)[:, 7].any()


def test_more_clusters_than_weights():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, name="first")])
    before = kernel(model)
    cluster_weights(model, 16, layers=["first"])
    np.testing.assert_array_equal(kernel(model), before)
    cluster_weights(strip_clustering(model), 16, "linear", True, layers=["first"])
    assert len(np.unique(kernel(model))) <= 6


def test_encoder_of_the_zoo_compresses():
    encoder = kt.models.albert_encoder(
        vocabulary_size=37,
        num_layers=2,
        num_heads=2,
        hidden_dim=22,
        intermediate_dim=29,
        embedding_dim=11,
        max_sequence_length=13,
    )
    model = kt.models.sequence_classifier(encoder, num_classes=3)
    before = len(gzip.compress(b"".join(w.numpy().tobytes() for w in model.weights)))
    cluster_weights(model, 8)
    clustered = [w for w in model.weights if w.constraint is not None]
    assert len(clustered) == 11
    assert not any("classifier" in w.path for w in clustered)
    assert all(len(np.unique(w.numpy())) <= 8 for w in clustered)
    strip_clustering(model)
    after = len(gzip.compress(b"".join(w.numpy().tobytes() for w in model.weights)))
    assert after < 0.4 * before


@pytest.mark.slow
def test_a_killed_training_goes_on_as_if_nothing_happened(tmp_path):
    def start():
        keras.utils.set_random_seed(3)
        model = cluster_weights(perceptron(), 5, layers=["first"])
        model.compile(keras.optimizers.Adam(0.01), "mse")
        return model

    train_on = {"batch_size": 8, "verbose": 0, "shuffle": False}
    straight = start()
    straight.fit(INPUTS, TARGETS, epochs=2, **train_on)
    first = start()
    first.fit(INPUTS, TARGETS, epochs=1, **train_on)
    first.save_weights(tmp_path / "first.weights.h5")
    first.save(tmp_path / "first.keras")
    resumed = start()
    resumed.optimizer.build(resumed.trainable_weights)
    resumed.load_weights(tmp_path / "first.weights.h5")
    resumed.fit(INPUTS, TARGETS, epochs=1, **train_on)
    for a, b in zip(straight.weights, resumed.weights, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-6)
    # Its files load into the plain model, with the few values.
    num_weights = len(perceptron().weights)
    plain = keras.models.load_model(tmp_path / "first.keras")
    assert len(plain.weights) == num_weights == len(first.weights)
    np.testing.assert_array_equal(kernel(plain), kernel(first))
    fresh = perceptron()
    fresh.save_weights(tmp_path / "plain.weights.h5")
    with pytest.raises(ValueError, match="load it first, then call cluster_weights"):
        start().load_weights(tmp_path / "plain.weights.h5")


def test_constraint_of_the_user_stays():
    layer = keras.layers.Dense(
        5, kernel_constraint=keras.constraints.NonNeg(), name="first"
    )
    model = keras.Sequential([keras.Input((17,)), layer, keras.layers.Dense(3)])
    layer.kernel.assign(abs(layer.kernel.numpy()))
    cluster_weights(model, 4)
    train(model)
    assert layer.kernel.numpy().min() >= -1e-6 and len(np.unique(layer.kernel)) == 4
    strip_clustering(model)
    assert isinstance(layer.kernel.constraint, keras.constraints.NonNeg)


def test_refusals():
    model = perceptron()
    with pytest.raises(ValueError, match="not clustered"):
        strip_clustering(model)
    with pytest.raises(ValueError, match="one of kmeans\\+\\+, linear.*'best'"):
        cluster_weights(model, 5, "best")
    with pytest.raises(ValueError, match="'avg' or 'sum'"):
        cluster_weights(model, 5, cluster_gradient_aggregation="max")
    for number in (1, 2.0, "8"):
        with pytest.raises(ValueError, match="whole number from 2 on"):
            cluster_weights(model, number)
    with pytest.raises(ValueError, match="from 3 on \\(one value is zero\\)"):
        cluster_weights(model, 2, preserve_sparsity=True)
    with pytest.raises(ValueError, match="no layer 'frist'.*first"):
        cluster_weights(model, 5, layers=["frist"])
    with pytest.raises(ValueError, match="holds no kernel"):
        cluster_weights(model, 5, layers=["norm"])
    with pytest.raises(ValueError, match="no weights yet"):
        cluster_weights(keras.Sequential([keras.layers.Dense(3)]))
    with pytest.raises(ValueError, match="Expected a keras.Model"):
        cluster_weights(keras.layers.Dense(3))
    model.compile(keras.optimizers.Adam(use_ema=True), "mse")
    with pytest.raises(ValueError, match="use_ema"):
        cluster_weights(model)
    assert all(weight.constraint is None for weight in model.weights)
    clustered = cluster_weights(perceptron())
    with pytest.raises(ValueError, match="clustered already"):
        cluster_weights(clustered)
    with pytest.raises(ValueError, match="prune first"):
        prune_low_magnitude(clustered, lambda step: (True, 0.5))
    with pytest.raises(ValueError, match="strip_clustering"):
        quantize_model(clustered)
    with pytest.raises(ValueError, match="quantization-aware already"):
        cluster_weights(quantize_model(perceptron()))
    pruned = prune_low_magnitude(perceptron(), lambda step: (True, 0.5))
    with pytest.raises(ValueError, match="strip_pruning"):
        cluster_weights(pruned)
    assert cluster_weights(strip_pruning(pruned)) is pruned
