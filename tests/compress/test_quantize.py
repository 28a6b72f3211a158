"""Quantization-aware models: near the float one, trainable, sparse, saved, refused."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_tformer as kt
from keras_tformer.compress import (
    ActivationQuantizer,
    WeightQuantizer,
    calibrate,
    prune_low_magnitude,
    quantize_model,
    sparsity,
    strip_pruning,
)

if keras.backend.backend() != "tensorflow":
    pytest.skip("pruning needs the TensorFlow backend", allow_module_level=True)

LENGTH = 7


def encoder(build=kt.models.albert_encoder, num_layers=2, **sizes):
    if build is kt.models.albert_encoder:
        sizes.setdefault("embedding_dim", 11)
    return build(
        vocabulary_size=37,
        num_layers=num_layers,
        num_heads=2,
        hidden_dim=22,
        intermediate_dim=29,
        max_sequence_length=13,
        initializer_range=0.2,
        **sizes,
    )


def batch(size=16, seed=1, padded=True):
    random = np.random.default_rng(seed)
    lengths = random.integers(3, LENGTH, (size, 1)) if padded else LENGTH
    mask = np.broadcast_to(np.arange(LENGTH) < lengths, (size, LENGTH)).astype("int32")
    return {
        "token_ids": random.integers(1, 37, (size, LENGTH)).astype("int32") * mask,
        "segment_ids": random.integers(0, 2, (size, LENGTH)).astype("int32"),
        "padding_mask": mask,
    }


def assert_near(quantized, model, inputs, tolerance=0.05):
    """Mean difference in shares of the spread of the float outputs."""
    outputs, expected = quantized(inputs), model(inputs)
    for a, b in zip(
        keras.tree.flatten(outputs), keras.tree.flatten(expected), strict=True
    ):
        a, b = np.asarray(a), np.asarray(b)
        assert 0 < np.abs(a - b).mean() < tolerance * b.std()


def quantizers(model):
    return [x for x in model.layers if isinstance(x, ActivationQuantizer)]


@pytest.fixture(scope="module")
def classifier():
    keras.utils.set_random_seed(11)
    return kt.models.sequence_classifier(encoder(), num_classes=3)


@pytest.fixture(scope="module")
def quantized(classifier):
    model = quantize_model(classifier, sequence_length=LENGTH)
    # The last block makes one position of each text: ranges of few texts are too small.
    return calibrate(model, [batch(64, seed=2), (batch(64, seed=3), None)])


def test_every_call_site_has_its_own_range(quantized, classifier):
    assert_near(quantized, classifier, batch())
    names = [layer.name for layer in quantized.layers]
    queries = [name for name in names if ".query.quantizer" in name]
    assert len(queries) == 2  # one shared Dense, called in two depths
    assert len([name for name in names if name.endswith(".query")]) == 1
    ranges = [float(quantized.get_layer(name).range_max.numpy()) for name in queries]
    assert ranges[0] != ranges[1]
    softmaxes = [x for x in quantizers(quantized) if ".softmax" in x.name]
    assert [x.fixed_range for x in softmaxes] == [(0.0, 255 / 256)] * 2
    for x in quantizers(quantized):
        is_key_or_value = ".key." in x.name or ".value." in x.name
        assert x.symmetric == is_key_or_value, x.name
        if x.symmetric:  # zero is the middle of -128 .. 127
            ratio = float(x.range_min.numpy() / x.range_max.numpy())
            assert abs(ratio + 128 / 127) < 1e-5
    masked = [x for x in quantizers(quantized) if x.is_masked_score]
    assert len(masked) == 2
    for x in masked:
        assert abs(float((x.range_max - x.range_min).numpy()) - 30) < 1e-4


def test_weights_are_copies(quantized, classifier):
    assert not {id(w) for w in quantized.weights} & {id(w) for w in classifier.weights}
    trainable = len(classifier.trainable_weights)
    assert len(quantized.trainable_weights) == trainable


@pytest.mark.slow
def test_padding_stays_hidden_without_padding_in_calibration(classifier):
    model = quantize_model(classifier, sequence_length=LENGTH)
    calibrate(model, [batch(padded=False)])
    assert_near(model, classifier, batch(padded=True), 0.1)


def test_first_batch_of_training_sets_the_ranges(classifier):
    model = quantize_model(classifier, sequence_length=LENGTH)
    model(batch(seed=4), training=True)
    assert_near(model, classifier, batch())


@pytest.mark.slow
def test_all_heads_and_encoders():
    bert = encoder(kt.models.bert_encoder, sequence_length=LENGTH)
    inputs = batch()
    for model in (bert, kt.models.token_classifier(bert, num_classes=5)):
        assert_near(calibrate(quantize_model(model), [inputs]), model, inputs)
    model = kt.models.albert_pretrainer(encoder())
    lengths = {"token_ids": LENGTH, "segment_ids": LENGTH, "padding_mask": LENGTH}
    inputs["mask_positions"] = np.array([[1, 2, 0]] * 16, "int32")
    tied = quantize_model(model, sequence_length=lengths | {"mask_positions": 3})
    assert_near(calibrate(tied, [inputs]), model, inputs)
    tables = [w for w in tied.weights if w.shape == (37, 11)]
    assert len(tables) == 1  # looked up and used in reverse: one table


@pytest.mark.parametrize("preserve", [True, False])
def test_zeros_survive_training_and_plain_training_loses_them(preserve):
    ids = keras.Input((LENGTH,), dtype="int32")
    x = keras.layers.Embedding(37, 11, name="table")(ids)
    x = keras.layers.Dense(13, activation="gelu", name="dense")(x)
    x = keras.layers.GlobalAveragePooling1D()(x)
    pruned = keras.Model(ids, keras.layers.Dense(3, name="classifier")(x))
    for name in ("table", "dense"):
        weight = pruned.get_layer(name).weights[0]
        values = weight.numpy()
        values[np.abs(values) < np.quantile(np.abs(values), 0.6)] = 0
        weight.assign(values)
    before = sparsity(pruned)
    model = quantize_model(pruned, preserve_sparsity=preserve)
    model.compile(
        keras.optimizers.AdamW(0.01, weight_decay=0.1, use_ema=True),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    inputs = batch(64)["token_ids"]
    targets = np.digitize(inputs.mean(axis=1), [8, 12])
    history = model.fit(inputs, targets, batch_size=4, epochs=4, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0]
    assert sparsity(pruned) == before
    if preserve:
        assert sparsity(model) == before
    else:
        assert sparsity(model)["dense/kernel"] < 0.1


def test_a_layer_that_starts_as_zeros_still_trains():
    x = keras.Input((5,))
    zeros = keras.layers.Dense(3, kernel_initializer="zeros", name="zeros")
    model = quantize_model(keras.Model(x, zeros(x)))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.fit(np.ones((8, 5)), np.ones((8, 3)), epochs=1, verbose=0)
    assert sparsity(model)["zeros/kernel"] == 0


def test_saves_and_loads(quantized, tmp_path):
    quantized.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    for a, b in zip(quantized.weights, loaded.weights, strict=True):
        assert a.path == b.path
    np.testing.assert_array_equal(loaded(batch()), quantized(batch()))


@pytest.mark.slow
def test_mixed_precision():
    model = kt.models.sequence_classifier(
        encoder(dtype="mixed_bfloat16"), num_classes=3
    )
    quantized = calibrate(quantize_model(model, sequence_length=LENGTH), [batch()])
    outputs = np.asarray(ops.cast(quantized(batch()), "float32"))
    expected = np.asarray(ops.cast(model(batch()), "float32"))
    assert np.abs(outputs - expected).mean() < 0.2 * expected.std()
    assert all(w.dtype == "float32" for w in quantized.weights)


@pytest.mark.slow
@pytest.mark.parametrize("jit_compile", [True, False])
def test_trains_compiled(jit_compile):
    x = keras.Input((5,))
    y = keras.layers.Dense(7, activation="gelu")(x)
    model = quantize_model(keras.Model(x, keras.layers.Dense(2)(y)))
    model.compile(keras.optimizers.Adam(0.02), "mse", jit_compile=jit_compile)
    inputs = np.random.default_rng(1).normal(size=(64, 5)).astype("float32")
    history = model.fit(inputs, inputs[:, :2], batch_size=8, epochs=15, verbose=0)
    assert history.history["loss"][-1] < 0.1 * history.history["loss"][0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "jit_compile"),
    [("mixed_bfloat16", False), ("mixed_float16", False), ("float32", True)],
)
def test_fit_learns_and_saves(dtype, jit_compile, tmp_path):
    small = encoder(num_layers=1, dtype=dtype)
    model = kt.models.sequence_classifier(small, num_classes=2)
    aware = quantize_model(model, sequence_length=LENGTH)
    optimizer = keras.optimizers.Adam(0.003)
    if dtype == "mixed_float16":  # Keras does so itself under a global policy only
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    aware.compile(optimizer, loss, jit_compile=jit_compile)
    inputs = batch(64)
    labels = inputs["segment_ids"][:, 0]
    history = aware.fit(inputs, labels, batch_size=16, epochs=12, verbose=0)
    assert history.history["loss"][-1] < 0.1 * history.history["loss"][0]
    aware.save(tmp_path / "aware.keras")
    loaded = keras.models.load_model(tmp_path / "aware.keras", safe_mode=True)
    for a, b in zip(aware.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(
        *(ops.cast(x(inputs), "float32") for x in (aware, loaded))
    )


@pytest.mark.slow
def test_trains_on_two_replicas(mirrored_strategy):
    with mirrored_strategy.scope():
        x = keras.Input((5,))
        y = keras.layers.Dense(7, activation="gelu", name="dense")(x)
        model = quantize_model(keras.Model(x, keras.layers.Dense(2)(y)))
        model.compile("adam", "mse")
    inputs = np.random.default_rng(1).normal(size=(64, 5)).astype("float32")
    model.fit(inputs, inputs[:, :2], batch_size=8, epochs=2, verbose=0)
    for layer in quantizers(model):
        local = mirrored_strategy.experimental_local_results(layer.range_max.value)
        assert local[0].numpy() == local[1].numpy() != 6


def test_convolutions_merged_and_fixed_activations():
    x = keras.Input((8, 8, 3), name="x")
    y = keras.layers.Conv2D(5, 3, activation="relu", name="conv")(x)
    y = keras.layers.DepthwiseConv2D(3, name="depthwise")(y)
    y = keras.layers.GlobalAveragePooling2D()(y)
    y = keras.layers.Dense(7, activation="tanh", name="dense")(y)
    model = keras.Model(x, keras.layers.Dense(2, activation="softmax", name="out")(y))
    quantized = quantize_model(model)
    inputs = np.random.default_rng(1).normal(size=(8, 8, 8, 3)).astype("float32")
    assert_near(calibrate(quantized, [inputs]), model, inputs, 0.2)
    names = [layer.name for layer in quantized.layers]
    assert "conv.quantizer" not in names and "conv.relu.quantizer" in names
    assert quantized.get_layer("dense.tanh.quantizer").fixed_range == (-1, 127 / 128)
    assert quantized.get_layer("out.softmax.quantizer").fixed_range == (0, 255 / 256)


@pytest.mark.slow
def test_stock_and_keras_hub_attention():
    hub = pytest.importorskip("keras_hub", reason="quantizes KerasHub's models")
    model = hub.models.BertBackbone(
        vocabulary_size=37,
        num_layers=2,
        num_heads=2,
        hidden_dim=22,
        intermediate_dim=29,
        max_sequence_length=13,
    )
    for weight in model.weights:  # untrained, its outputs hardly differ
        weight.assign(weight * 5 if len(weight.shape) > 1 else weight)
    quantized = calibrate(quantize_model(model), [batch(64)])
    assert_near(quantized, model, batch(), 0.1)
    ids = keras.Input((LENGTH,), dtype="int32")
    x = keras.layers.Embedding(11, 6)(ids)
    x = keras.layers.MultiHeadAttention(2, 3)(x, x)
    model = keras.Model(ids, x)
    inputs = np.random.default_rng(1).integers(0, 11, (32, LENGTH))
    assert_near(calibrate(quantize_model(model), [inputs]), model, inputs)


def test_skip_and_num_bits(classifier):
    model = quantize_model(classifier, sequence_length=LENGTH, skip=["pooler"])
    kinds = {layer.name: type(layer).__name__ for layer in model.layers}
    assert not any("pooler" in x and k == "WeightQuantizer" for x, k in kinds.items())
    assert not any(x.startswith("pooler.") and "quantizer" in x for x in kinds)
    by_type = quantize_model(
        classifier, sequence_length=LENGTH, skip=[keras.layers.Dense]
    )
    assert not any(
        isinstance(x, WeightQuantizer) and isinstance(x.layer, keras.layers.Dense)
        for x in by_type.layers
    )
    model = quantize_model(classifier, sequence_length=LENGTH, num_bits=4)
    kernel = next(x for x in model.layers if x.name.endswith(".query"))
    values = np.asarray(kernel.quantized(kernel.layer.kernel))
    assert max(len(np.unique(column)) for column in values.T) <= 15


def test_refusals(classifier, quantized):
    with pytest.raises(ValueError, match="quantization-aware already"):
        quantize_model(quantized)
    with pytest.raises(ValueError, match="no layer 'poler'.*pooler"):
        quantize_model(classifier, sequence_length=LENGTH, skip=["poler"])
    with pytest.raises(ValueError, match="2 to 8"):
        quantize_model(classifier, sequence_length=LENGTH, num_bits=16)
    with pytest.raises(ValueError, match="range_decay"):
        quantize_model(classifier, sequence_length=LENGTH, range_decay=1.0)
    with pytest.raises(ValueError, match="no weights yet"):
        quantize_model(keras.Sequential([keras.layers.Dense(3)]))
    with pytest.raises(ValueError, match="not quantization-aware"):
        calibrate(classifier, [batch()])
    with pytest.raises(ValueError, match="no batch"):
        calibrate(quantized, [])
    x = keras.Input((4,))
    pruned = keras.Model(x, keras.layers.Dense(3, name="dense")(x))
    prune_low_magnitude(pruned, lambda step: (True, 0.5), layers=["dense"])
    with pytest.raises(ValueError, match="strip_pruning"):
        quantize_model(pruned)
    assert quantize_model(strip_pruning(pruned)) is not None
