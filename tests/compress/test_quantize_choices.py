"""Bits by layer, weights only, when rounding starts and ranges stay, unknown layers."""

import keras
import numpy as np
import pytest

from keras_tformer.compress import (
    ActivationQuantizer,
    WeightQuantizer,
    calibrate,
    flatten,
    quantization_rule,
    quantize_model,
    strip_quantization,
)
from keras_tformer.compress.fold_batch_normalization import fold_batch_normalization

if keras.backend.backend() != "tensorflow":
    pytest.skip("training of quantizers is TensorFlow's", allow_module_level=True)

INPUTS = np.random.default_rng(5).normal(size=(24, 17)).astype("float32")


def perceptron():
    x = inputs = keras.Input((17,))
    x = keras.layers.Dense(23, activation="gelu", name="first")(x)
    x = keras.layers.LayerNormalization(name="norm")(x)
    return keras.Model(inputs, keras.layers.Dense(3, name="classifier")(x))


def most_values(layer):
    """Distinct values in the columns of a fake-quantized kernel."""
    columns = np.asarray(layer.quantized(layer.layer.kernel)).T
    return max(len(np.unique(column)) for column in columns)


def test_order_of_arguments():
    """By position: how weights and activations are rounded, which layers, from when."""
    quantized = quantize_model(perceptron(), "int4_per_tensor", None, ["first"], 3)
    layer = quantized.get_layer("first")
    assert (layer.num_bits, layer.per_channel, layer.start_step) == (4, False, 3)
    kinds = [type(layer).__name__ for layer in quantized.layers]
    assert kinds.count("WeightQuantizer") == 1 and "ActivationQuantizer" not in kinds
    with pytest.raises(ValueError, match="weights=7"):  # a length goes by its name
        quantize_model(perceptron(), 7)


def test_bits_of_each_layer():
    x = keras.Input((997,))
    model = keras.Model(
        x,
        keras.layers.Dense(3, name="classifier")(keras.layers.Dense(997, name="a")(x)),
    )
    for choice in ({"a": 4}, {"a": 4, "classifier": 8}):
        quantized = quantize_model(model, num_bits=choice)
        assert most_values(quantized.get_layer("a")) == 15
        assert most_values(quantized.get_layer("classifier")) > 100
    by_type = quantize_model(model, num_bits={keras.layers.Dense: 4})
    assert most_values(by_type.get_layer("classifier")) == 15
    with pytest.raises(ValueError, match="num_bits: the model has no layer 'frist'"):
        quantize_model(model, num_bits={"frist": 4})
    with pytest.raises(ValueError, match="2 to 8, not 16"):
        quantize_model(model, num_bits={"a": 16})


def test_words_for_weights_and_activations():
    model = perceptron()
    for weights, bits, scales in (
        ("int8_per_channel", 8, 23),
        ("int8_per_tensor", 8, 1),
        ("int4_per_channel", 4, 23),
        ("int4_per_tensor", 4, 1),
    ):
        layer = quantize_model(model, weights=weights).get_layer("first")
        kernel = layer.layer.kernel.numpy()
        largest = np.abs(kernel).max(axis=0 if scales > 1 else None)
        step = largest / (2 ** (bits - 1) - 1)
        expected = np.round(kernel / step) * step
        rounded = layer.quantized(layer.layer.kernel)
        np.testing.assert_allclose(rounded, expected, atol=1e-6)
    # By number in place of the word's, for all or for one.
    for choice in (4, {"first": 4}):
        layer = quantize_model(model, num_bits=choice).get_layer("first")
        assert most_values(layer) <= 15
    for weights in ("int16_per_channel", "int8", 8, None):
        with pytest.raises(ValueError, match="weights=.* is none of 'int8_per_channel"):
            quantize_model(model, weights=weights)
    with pytest.raises(ValueError, match="activations='int16' is neither"):
        quantize_model(model, activations="int16")


def test_only_the_chosen_layers():
    model = perceptron()
    quantized = quantize_model(model, layers=["first"])
    kinds = {x.name: type(x) for x in quantized.layers}
    assert kinds["first"] is WeightQuantizer
    assert kinds["classifier"] is keras.layers.Dense
    names = [name for name in kinds if name.endswith("quantizer")]
    assert names == ["first.input.quantizer", "first.quantizer", "first.gelu.quantizer"]
    by_function = quantize_model(model, layers=lambda layer: layer.name == "first")
    assert [x.name for x in by_function.layers] == list(kinds)
    both = quantize_model(model, layers=["first", "norm"], skip=["norm"])
    assert [x.name for x in both.layers] == list(kinds)
    with pytest.raises(ValueError, match="layers: the model has no layer 'frist'"):
        quantize_model(model, layers=["frist"])


@pytest.mark.parametrize("word", [None, False])
def test_weights_only(word):
    model = perceptron()
    quantized = quantize_model(model, activations=word)
    kinds = {type(layer) for layer in quantized.layers}
    assert ActivationQuantizer not in kinds and WeightQuantizer in kinds
    # Dynamic-range inference: the float model with kernels rounded per channel.
    for name in ("first", "classifier"):
        kernel = model.get_layer(name).kernel
        step = np.abs(kernel.numpy()).max(axis=0) / 127
        kernel.assign(np.round(kernel.numpy() / step) * step)
    np.testing.assert_allclose(quantized(INPUTS), model(INPUTS), atol=1e-5)
    with pytest.raises(ValueError, match="no activation ranges"):
        calibrate(quantized, [INPUTS])
    stripped = strip_quantization(quantized)
    np.testing.assert_allclose(stripped(INPUTS), quantized(INPUTS), atol=1e-6)
    assert not any("uantizer" in type(x).__name__ for x in stripped.layers)
    assert not {id(w) for w in stripped.weights} & {id(w) for w in quantized.weights}
    with pytest.raises(ValueError, match="nothing to strip"):
        strip_quantization(stripped)


@pytest.mark.slow
def test_dynamic_range_file_stores_what_training_saw(tmp_path):
    litert = pytest.importorskip(
        "ai_edge_litert.interpreter", reason="reads the converted file"
    )
    import keras_tformer as kt

    x = keras.Input((61,), name="x")
    model = keras.Model(x, keras.layers.Dense(67, name="dense")(x))
    quantized = quantize_model(model, activations=False)
    stripped = strip_quantization(quantized)
    file = tmp_path / "model.tflite"
    kt.export.to_tflite(stripped, file, quantization="dynamic_range")
    interpreter = litert.Interpreter(str(file))
    kernels = [
        interpreter.get_tensor(x["index"])
        for x in interpreter.get_tensor_details()
        if x["dtype"] == np.int8 and len(x["shape"]) == 2
    ]
    layer = quantized.get_layer("dense")
    rounded = np.asarray(layer.quantized(layer.layer.kernel))
    step = np.abs(rounded).max(axis=0) / 127
    np.testing.assert_array_equal(kernels[0].T, np.round(rounded / step))


def test_normalization_and_last_layer_in_float():
    skip = [keras.layers.LayerNormalization, "classifier"]
    quantized = quantize_model(perceptron(), skip=skip)
    names = [layer.name for layer in quantized.layers]
    assert not any(name.startswith(("norm.", "classifier.")) for name in names)
    assert "first.gelu.quantizer" in names


def test_rounding_of_a_layer_that_is_called_often_starts_with_a_batch():
    """Every call of a shared layer counts as a call, not as a batch."""
    x = inputs = keras.Input((17,))
    shared = keras.layers.Dense(17, name="shared")
    for _ in range(3):
        x = shared(x)
    model = keras.Model(inputs, x)
    quantized = quantize_model(model, num_bits=4, activations=False, start_step=2)
    quantized.compile(keras.optimizers.SGD(0.0), "mse")
    expected = np.asarray(model(INPUTS))
    losses = [float(quantized.train_on_batch(INPUTS, expected)) for _ in range(4)]
    assert max(losses[:2]) < 1e-8 and min(losses[2:]) > 1e-5
    copy = keras.models.clone_model(quantized)
    assert copy.get_layer("shared").num_calls == 3


@pytest.mark.parametrize(
    "jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)]
)
def test_rounding_starts_and_ranges_stay(jit_compile, tmp_path):
    quantized = quantize_model(perceptron(), num_bits=4, start_step=2, freeze_step=4)
    quantized.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=jit_compile)
    model = perceptron()
    for own, weight in zip(
        model.trainable_weights, quantized.trainable_weights, strict=True
    ):
        own.assign(weight)
    expected = np.asarray(model(INPUTS))
    rounded = []
    ranges = []
    for step in range(6):
        # The loss against the float outputs is zero until rounding starts.
        scale = 1.0 if step < 2 else 1.0 + step
        inputs = INPUTS * np.float32(scale)
        targets = expected if step < 2 else np.asarray(model(inputs))
        rounded.append(float(quantized.train_on_batch(inputs, targets)))
        ranges.append(float(quantized.get_layer("first.quantizer").range_max.numpy()))
    assert max(rounded[:2]) < 1e-8 and min(rounded[2:]) > 1e-5
    assert ranges[0] != 6 and ranges[2] < ranges[3] == ranges[4] == ranges[5]
    quantized.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(INPUTS), quantized(INPUTS))
    for first, last in ((-1, None), (3, 3), (0, 0)):
        with pytest.raises(ValueError, match="start_step|freeze_step"):
            quantize_model(model, start_step=first, freeze_step=last)


class Mixing(keras.layers.Layer):
    """A layer with a matrix of its own name."""

    def build(self, shape):
        self.mixing = self.add_weight(name="mixing", shape=(shape[-1], 5))

    def call(self, x):
        return keras.ops.matmul(x, self.mixing)

    def compute_output_shape(self, shape):
        return (*shape[:-1], 5)


def test_unknown_layers_and_their_rule():
    x = keras.Input((17,))
    model = keras.Model(x, Mixing(name="mixer")(x))
    message = "'mixer' \\(Mixing\\) holds mixer/mixing.*quantization_rule\\(Mixing"
    with pytest.raises(ValueError, match=message):
        quantize_model(model)
    quantize_model(model, skip=["mixer"])
    quantization_rule(Mixing, lambda layer: [layer.mixing])
    layer = quantize_model(model).get_layer("mixer")
    assert isinstance(layer, WeightQuantizer)
    values = np.asarray(layer.quantized(layer.layer.mixing))
    step = np.abs(layer.layer.mixing.numpy()).max() / 127
    np.testing.assert_allclose(values / step, np.round(values / step), atol=1e-3)
    quantization_rule(Mixing, lambda layer: [])
    assert not isinstance(quantize_model(model).get_layer("mixer"), WeightQuantizer)
    with pytest.raises(ValueError, match="Expected a type of layers"):
        quantization_rule("Mixing", lambda layer: [])
    with pytest.raises(ValueError, match="Expected a function"):
        quantization_rule(Mixing, [])
    sequence = keras.Input((7, 3))
    model = keras.Model(sequence, keras.layers.LSTM(5, name="lstm")(sequence))
    with pytest.raises(ValueError, match="'lstm' \\(LSTM\\) holds .*skip"):
        quantize_model(model)


def cnn():
    x = keras.Input((8, 8, 3), name="x")
    y = keras.layers.Conv2D(5, 3, use_bias=False, name="conv")(x)
    y = keras.layers.BatchNormalization(name="conv_norm")(y)
    y = keras.layers.ReLU(name="relu")(y)
    y = keras.layers.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise")(y)
    y = keras.layers.BatchNormalization(scale=False, name="depthwise_norm")(y)
    y = keras.layers.GlobalAveragePooling2D(name="pool")(y)
    y = keras.layers.Dense(7, activation="relu", name="dense")(y)
    y = keras.layers.BatchNormalization(name="after_relu")(y)
    model = keras.Model(x, keras.layers.Dense(2, name="out")(y))
    random = np.random.default_rng(2)
    for weight in model.weights:
        if weight.name in ("gamma", "beta", "moving_mean", "moving_variance"):
            weight.assign(random.uniform(0.5, 1.5, weight.shape))
    return model


def test_batch_normalization_is_folded():
    model = cnn()
    inputs = np.random.default_rng(1).normal(size=(16, 8, 8, 3)).astype("float32")
    folded = fold_batch_normalization(flatten(model))
    assert [x.name for x in folded.layers if "norm" in x.name] == []
    assert "after_relu" in [x.name for x in folded.layers]
    np.testing.assert_allclose(folded(inputs), model(inputs), atol=1e-5)
    quantized = calibrate(quantize_model(model), [inputs])
    kinds = [type(x).__name__ for x in quantized.layers]
    assert kinds.count("BatchNormalization") == 1
    error = np.abs(np.asarray(quantized(inputs)) - np.asarray(model(inputs))).mean()
    assert 0 < error < 0.1 * np.asarray(model(inputs)).std()
    kept = quantize_model(model, skip=["conv_norm"])
    assert "conv_norm" in [x.name for x in kept.layers]
    branches = keras.Input((5,))
    x = keras.layers.Dense(5, name="twice")(branches)
    y = keras.layers.BatchNormalization()(x) + x
    flat = flatten(keras.Model(branches, y))
    assert fold_batch_normalization(flat) is flat
