"""The three verbs on models from elsewhere: KerasHub's, a CNN, a user's own MLP."""

import keras
import numpy as np
import pytest

from keras_tformer import compress, export

if keras.backend.backend() != "tensorflow":
    pytest.skip("compression needs TensorFlow", allow_module_level=True)

LENGTH = 7


def keras_hub(name, **changes):
    hub = pytest.importorskip("keras_hub", reason="compresses KerasHub's models")
    backbone = getattr(hub.models, name)(
        vocabulary_size=37,
        num_layers=2,
        num_heads=2,
        hidden_dim=22,
        intermediate_dim=29,
        max_sequence_length=LENGTH,
        **changes,
    )
    for weight in backbone.weights:  # untrained, its outputs hardly differ
        weight.assign(weight * 5 if len(weight.shape) > 1 else weight)
    logits = keras.layers.Dense(3, name="logits")(backbone.output["pooled_output"])
    return keras.Model(backbone.input, logits)


def cnn():
    x = keras.Input((9, 9, 3), name="x")
    y = keras.layers.Conv2D(8, 3, use_bias=False)(x)
    y = keras.layers.BatchNormalization()(y)
    y = keras.layers.ReLU()(y)
    y = keras.layers.DepthwiseConv2D(3, use_bias=False)(y)
    y = keras.layers.BatchNormalization()(y)
    y = keras.layers.GlobalAveragePooling2D()(y)
    return keras.Model(x, keras.layers.Dense(3, name="logits")(y))


def mlp():
    return keras.Sequential(
        [
            keras.Input((13,), name="x"),
            keras.layers.Dense(17, activation="gelu"),
            keras.layers.Dropout(0.1),
            keras.layers.Dense(11, activation="tanh"),
            keras.layers.Dense(3, name="logits"),
        ]
    )


MODELS = {
    "BertBackbone": lambda: keras_hub("BertBackbone"),
    "AlbertBackbone": lambda: keras_hub("AlbertBackbone", embedding_dim=5),
    "CNN": cnn,
    "MLP": mlp,
}


def inputs_of(model, rows=16):
    draw = np.random.default_rng(3)
    inputs = {}
    for tensor in model.inputs:
        shape = (rows, *(size or LENGTH for size in tensor.shape[1:]))
        if tensor.dtype != "int32":
            inputs[tensor.name] = draw.normal(size=shape).astype("float32")
        else:
            highest = 37 if "token" in tensor.name else 2
            inputs[tensor.name] = draw.integers(0, highest, shape)
        if "padding" in tensor.name:
            inputs[tensor.name][:, :3] = 1
    return inputs if len(inputs) > 1 else next(iter(inputs.values()))


def train(model, inputs):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01), loss)
    model.fit(inputs, np.arange(16) % 3, batch_size=8, verbose=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_every_verb(name, tmp_path):
    model = MODELS[name]()
    inputs = inputs_of(model)

    compress.prune_low_magnitude(model, lambda step: (True, 0.75))
    train(model, inputs)
    compress.strip_pruning(model)
    shares = compress.sparsity(model)
    assert shares.pop(next(path for path in shares if "logits" in path)) == 0
    sizes = {weight.path: weight.numpy().size for weight in model.weights}
    shares = {
        path: share
        for path, share in shares.items()
        if path in sizes and not path.endswith("bias")  # some have rank 2
    }
    assert len(shares) >= 2
    for path, share in shares.items():
        assert share == 1 - max(round(sizes[path] * 0.25), 1) / sizes[path], path

    compress.cluster_weights(model, 5, "linear", preserve_sparsity=True)
    chosen = [weight for weight in model.weights if weight.constraint is not None]
    train(model, inputs)
    compress.strip_clustering(model)
    assert len(chosen) >= 2
    for weight in chosen:
        assert len(np.unique(weight)) <= 5, weight.path
    after = compress.sparsity(model)
    assert all(after[path] >= share for path, share in shares.items())

    quantized = compress.quantize_model(model, sequence_length=LENGTH)
    compress.calibrate(quantized, [inputs])
    expected = np.asarray(model(inputs))
    error = np.abs(np.asarray(quantized(inputs)) - expected).mean()
    assert 0 < error < 0.15 * expected.std()
    train(quantized, inputs)
    kinds = [type(layer).__name__ for layer in quantized.layers]
    assert kinds.count("BatchNormalization") == 0
    kept = {
        weight.path: weight.numpy()
        for weight in quantized.trainable_weights
        if len(weight.shape) > 1
    }
    if name != "CNN":  # where each channel is scaled by its normalization
        few = [path for path, values in kept.items() if len(np.unique(values)) <= 5]
        assert len(few) >= len(chosen)
    zeros = sum((values == 0).sum() for values in kept.values())
    assert zeros >= sum(sizes[path] * after[path] for path in shares) * 0.99
    quantized.save(tmp_path / "quantized.keras")
    loaded = keras.models.load_model(tmp_path / "quantized.keras", safe_mode=True)
    np.testing.assert_array_equal(loaded(inputs), quantized(inputs))

    pytest.importorskip("ai_edge_litert", reason="runs the converted file")
    file = tmp_path / "quantized.tflite"
    report = export.to_tflite(
        quantized, file, LENGTH, quantization="int8", verify=False
    )
    assert report["is_quantization_aware"] and report["int8_macs_share"] >= 0.99
    by_name = inputs if isinstance(inputs, dict) else {"x": inputs}
    (outputs,) = export.predict(file, by_name).values()
    quantizer = quantized.get_layer("logits.quantizer")
    step = float((quantizer.range_max - quantizer.range_min).numpy()) / 255
    steps = np.abs(outputs - np.asarray(quantized(inputs))) / step
    assert steps.max() < 2.5  # of 255: roundings of the layers before add up
