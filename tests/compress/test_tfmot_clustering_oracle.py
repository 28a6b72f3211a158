"""TF-MOT on an equal tf_keras model computes the same centroids and clusters."""

import keras
import numpy as np
import pytest

import keras_tformer as kt

if keras.backend.backend() != "tensorflow":
    pytest.skip("TF-MOT runs on TensorFlow", allow_module_level=True)
pytest.importorskip(
    "tensorflow_model_optimization", reason="needs the extra [compress]"
)
import tensorflow as tf  # noqa: E402

KERNEL = np.random.default_rng(7).normal(size=(24, 32)).astype("float32")
INPUTS = np.random.default_rng(8).normal(size=(40, 24)).astype("float32")
TARGETS = np.random.default_rng(9).normal(size=(40, 32)).astype("float32")
WAYS = {
    "kmeans++": "KMEANS_PLUS_PLUS",
    "linear": "LINEAR",
    "density_based": "DENSITY_BASED",
    "random": "RANDOM",
}


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    # Importing TF-MOT sets it; the tests after this one must not see it.
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "0")
    monkeypatch.delenv("TF_USE_LEGACY_KERAS")


def pruned(kernel):
    return np.where(np.abs(kernel) < 0.7, 0, kernel)


def theirs(kernel, way, aggregation="AVG", preserve_sparsity=False):
    """TF-MOT's clustered model of one layer."""
    import tf_keras
    from tensorflow_model_optimization.python.core.clustering.keras import cluster
    from tensorflow_model_optimization.python.core.clustering.keras import (
        cluster_config as words,
    )

    model = tf_keras.Sequential([tf_keras.layers.Dense(32, input_shape=(24,))])
    model.set_weights([kernel, np.zeros(32)])
    return cluster._cluster_weights(
        model,
        12,
        words.CentroidInitialization[WAYS[way]],
        preserve_sparsity,
        cluster_gradient_aggregation=words.GradientAggregation[aggregation],
    )


def ours(kernel, way, **arguments):
    x = keras.Input((24,))
    layer = keras.layers.Dense(32, name="dense")
    model = keras.Model(x, layer(x))
    layer.kernel.assign(kernel)
    kt.compress.cluster_weights(model, 12, way, layers=["dense"], **arguments)
    return model, layer.kernel


@pytest.mark.parametrize("preserve_sparsity", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_centroids_and_clusters(way, preserve_sparsity):
    kernel = pruned(KERNEL) if preserve_sparsity else KERNEL
    tf.random.set_seed(3)
    wrapper = theirs(kernel, way, preserve_sparsity=preserve_sparsity).layers[0]
    tf.random.set_seed(3)
    _, weight = ours(kernel, way, preserve_sparsity=preserve_sparsity)
    centroids = wrapper.cluster_centroids["kernel"].numpy()
    np.testing.assert_allclose(
        weight.constraint.centroids.numpy(), centroids, atol=1e-6
    )
    clusters = wrapper.pulling_indices["kernel"].numpy()
    np.testing.assert_allclose(weight.numpy(), centroids[clusters], atol=1e-6)
    assert len(np.unique(weight.numpy())) > 6
    if preserve_sparsity:
        assert (weight.numpy()[kernel == 0] == 0).all()


def test_centroids_of_every_channel_of_a_convolution():
    import tf_keras
    from tensorflow_model_optimization.python.core.clustering.keras import cluster

    kernel = np.random.default_rng(4).normal(size=(3, 3, 5, 7)).astype("float32")
    twin = tf_keras.Sequential([tf_keras.layers.Conv2D(7, 3, input_shape=(8, 8, 5))])
    twin.set_weights([kernel, np.zeros(7)])
    wrapper = cluster._cluster_weights(
        twin, 6, "CentroidInitialization.LINEAR", False, cluster_per_channel=True
    ).layers[0]
    layer = keras.layers.Conv2D(7, 3, name="conv")
    x = keras.Input((8, 8, 5))
    model = keras.Model(x, layer(x))
    layer.kernel.assign(kernel)
    kt.compress.cluster_weights(
        model,
        6,
        "CentroidInitialization.LINEAR",
        per_channel=True,
        layers=["conv"],
    )
    np.testing.assert_allclose(
        layer.kernel.constraint.centroids.numpy().T,
        wrapper.cluster_centroids["kernel"].numpy(),
        atol=1e-6,
    )
    wrapper.update_clustered_weights_associations()
    np.testing.assert_allclose(
        layer.kernel.numpy(), np.asarray(wrapper.layer.kernel), atol=1e-6
    )


@pytest.mark.parametrize(
    ("aggregation", "preserve_sparsity"),
    [
        ("SUM", False),
        ("AVG", True),
        pytest.param("SUM", True, marks=pytest.mark.slow),
        pytest.param("AVG", False, marks=pytest.mark.slow),
    ],
)
def test_steps_of_gradient_descent(aggregation, preserve_sparsity):
    import tf_keras

    kernel = pruned(KERNEL) if preserve_sparsity else KERNEL
    twin = theirs(kernel, "density_based", aggregation, preserve_sparsity)
    model, weight = ours(
        kernel,
        "density_based",
        preserve_sparsity=preserve_sparsity,
        cluster_gradient_aggregation=aggregation,
    )
    twin.compile(tf_keras.optimizers.SGD(0.05), "mse")
    model.compile(keras.optimizers.SGD(0.05), "mse")
    for _ in range(5):
        twin.train_on_batch(INPUTS, TARGETS)
        model.train_on_batch(INPUTS, TARGETS)
    wrapper = twin.layers[0]
    wrapper.update_clustered_weights_associations()
    ends = np.asarray(wrapper.layer.kernel)
    assert np.abs(ends - kernel).max() > 1e-2
    np.testing.assert_allclose(weight.numpy(), ends, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(
        weight.constraint.centroids.numpy(),
        wrapper.cluster_centroids["kernel"].numpy(),
        rtol=1e-6,
        atol=1e-6,
    )
