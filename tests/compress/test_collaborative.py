"""CQAT and PCQAT: clusters, and zeros, survive fake quantization and training."""

import keras
import numpy as np
import pytest

from keras_tformer.compress import (
    cluster_weights,
    quantize_model,
    sparsity,
    strip_clustering,
)
from keras_tformer.compress.cluster_centroids import shared_values

if keras.backend.backend() != "tensorflow":
    pytest.skip("clustering needs the TensorFlow backend", allow_module_level=True)

INPUTS = np.random.default_rng(5).integers(0, 37, (48, 7))
TARGETS = np.digitize(INPUTS.mean(axis=1), [16, 20])


def clustered(per_channel=False, is_sparse=False):
    """A model of a table, a kernel and a classifier, with 5 values in the first two."""
    ids = keras.Input((7,), dtype="int32")
    x = keras.layers.Embedding(37, 11, name="table")(ids)
    x = keras.layers.Dense(13, activation="gelu", name="dense")(x)
    x = keras.layers.GlobalAveragePooling1D()(x)
    model = keras.Model(ids, keras.layers.Dense(3, name="classifier")(x))
    if is_sparse:
        for name in ("table", "dense"):
            weight = model.get_layer(name).weights[0]
            values = weight.numpy()
            values[np.abs(values) < np.quantile(np.abs(values), 0.6)] = 0
            weight.assign(values)
    cluster_weights(
        model, 5, "linear", preserve_sparsity=is_sparse, per_channel=per_channel
    )
    return strip_clustering(model)


def train(model, epochs=2):
    model.compile(
        keras.optimizers.AdamW(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    options = {"batch_size": 8, "verbose": 0, "shuffle": False}
    return model.fit(INPUTS, TARGETS, epochs=epochs, **options).history["loss"]


def integers(layer):
    """What int8 inference stores: fake-quantized values, in steps of each channel."""
    weight = layer.layer.weights[0]
    return np.asarray(layer.quantized(weight)), weight.numpy()


@pytest.mark.slow
@pytest.mark.parametrize("is_sparse", [False, True])
def test_clusters_and_zeros_survive(is_sparse, tmp_path):
    model = clustered(is_sparse=is_sparse)
    zeros = sparsity(model)
    quantized = quantize_model(model, per_channel=False)
    assert len(quantized.trainable_weights) == len(model.trainable_weights)
    train(quantized)
    quantized.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    train(loaded)  # what was loaded keeps them, too
    for trained in (quantized, loaded):
        for name in ("table", "dense"):
            rounded, values = integers(trained.get_layer(name))
            assert len(np.unique(values)) == 5 >= len(np.unique(rounded))
            before = model.get_layer(name).weights[0].numpy()
            assert np.abs(values - before).max() > 1e-3
            if is_sparse:
                assert not values[before == 0].any()
                assert not rounded[before == 0].any()
        assert len(np.unique(trained.get_layer("classifier").layer.kernel)) > 30
    if is_sparse:
        after = sparsity(quantized)
        assert all(after[path] >= share for path, share in zeros.items())
        assert 0.59 < after["dense/kernel"] < 0.9


def test_clusters_of_every_channel_survive():
    quantized = quantize_model(clustered(per_channel=True))
    train(quantized, 1)
    rounded, values = integers(quantized.get_layer("dense"))
    assert len(np.unique(values)) > 13
    for columns in (rounded.T, values.T):
        assert max(len(np.unique(column)) for column in columns) <= 5


def test_plain_training_loses_them():
    quantized = quantize_model(clustered(), preserve_clusters=False)
    train(quantized, 1)
    assert len(np.unique(quantized.get_layer("dense").layer.kernel)) > 100


def test_averages_of_clusters_are_refused():
    options = {"batch_size": 8, "verbose": 0}
    for preserve, expected in ((True, "use_ema=True.*not clustered"), (False, None)):
        quantized = quantize_model(clustered(), preserve_clusters=preserve)
        quantized.compile(keras.optimizers.Adam(use_ema=True), "mse")
        if expected is None:
            quantized.fit(INPUTS[:8], np.zeros((8, 3)), **options)
            continue
        with pytest.raises(ValueError, match=expected):
            quantized.fit(INPUTS[:8], np.zeros((8, 3)), **options)
        # Also where another model trains it, as a distiller does.
        outer = keras.Sequential([keras.Input((7,), dtype="int32"), quantized])
        outer.compile(keras.optimizers.Adam(use_ema=True), "mse")
        with pytest.raises(ValueError, match=expected):
            outer.fit(INPUTS[:8], np.zeros((8, 3)), **options)


def test_zeros_survive_averages_of_weights():
    """EMA while training, swapped in for evaluation, and a mean of two models."""
    ids = keras.Input((7,), dtype="int32")
    x = keras.layers.Embedding(37, 11, name="table")(ids)
    x = keras.layers.GlobalAveragePooling1D()(x)
    model = keras.Model(ids, keras.layers.Dense(3, name="classifier")(x))
    table = model.get_layer("table").embeddings
    table.assign(np.where(np.abs(table) < np.median(np.abs(table)), 0, table))
    zeros = table.numpy() == 0
    found = []
    for seed in (1, 2):
        keras.utils.set_random_seed(seed)
        quantized = quantize_model(model)
        quantized.compile(
            keras.optimizers.AdamW(0.01, use_ema=True, ema_overwrite_frequency=None),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        quantized.fit(
            INPUTS,
            TARGETS,
            batch_size=8,
            epochs=2,
            verbose=0,
            validation_data=(INPUTS[:8], TARGETS[:8]),
            callbacks=[keras.callbacks.SwapEMAWeights()],
        )
        found.append(quantized.get_layer("table").layer.embeddings.numpy())
        assert np.abs(found[-1] - table.numpy()).max() > 1e-3
        np.testing.assert_array_equal(found[-1] == 0, zeros)
    np.testing.assert_array_equal((found[0] + found[1]) / 2 == 0, zeros)


@pytest.mark.slow
def test_on_two_replicas(mirrored_strategy):
    with mirrored_strategy.scope():
        quantized = quantize_model(clustered(is_sparse=True))
        train(quantized, 1)
    kernel = quantized.get_layer("dense").layer.kernel
    first, second = mirrored_strategy.experimental_local_results(kernel.value)
    np.testing.assert_array_equal(first.numpy(), second.numpy())
    assert len(np.unique(first.numpy())) == 5


def test_what_counts_as_clustered():
    random = np.random.default_rng(3)
    kernel = random.normal(size=(41, 19)).astype("float32")
    assert shared_values(kernel, False) is None
    assert shared_values(np.where(kernel < 1, 0, kernel), False) is None
    for constant in (np.zeros((41, 19)), np.ones((41, 19)), np.eye(19)):
        assert shared_values(constant, False) is None
    assert shared_values(np.sign(kernel), True).tolist() == [-1, 1]
    columns = np.round(kernel) * np.arange(1, 20) * np.pi
    assert shared_values(columns, True) is None or len(np.unique(columns)) < 257
