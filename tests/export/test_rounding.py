"""How the numbers of a quantized file are rounded: kernels together, tables by row."""

import itertools

import keras
import numpy as np
import pytest
from conftest import LENGTH, SIZES

from keras_tformer import export
from keras_tformer.export import flatbuffer, rounding
from keras_tformer.models import bert_encoder, masked_lm, sequence_classifier

pytest.importorskip("ai_edge_litert", reason="the files are proved on ai_edge_litert")


def error_of(rounded, kernel, rows):
    return np.mean(((rounded - kernel) @ rows.T) ** 2)


def correlated(count, width, generator):
    """Rows that a few directions make, as hidden states are, with some noise."""
    directions = generator.normal(size=(max(width // 5, 2), width))
    rows = generator.normal(size=(count, len(directions))) @ directions
    return rows + 0.1 * generator.normal(size=rows.shape)


def on_steps(kernel):
    scales = np.abs(kernel).max(1, keepdims=True) / 127
    return np.round(kernel / scales) * scales


def test_inputs_that_say_nothing_of_each_other_leave_the_nearest_steps():
    kernel = np.random.default_rng(3).normal(size=(11, 131))
    moment = 7.0 * np.eye(131)
    rounded = rounding._rounded(kernel.astype("float32"), moment)
    np.testing.assert_allclose(rounded, on_steps(kernel), atol=1e-6)


def test_keras_own_gptq_comes_to_the_same_steps():
    """Keras knows nothing of kept zeros and largest weights: here it needs not."""
    gptq = pytest.importorskip("keras.src.quantizers.gptq")
    generator = np.random.default_rng(13)
    kernel = generator.normal(size=(11, 307)).astype("float32")
    kernel[:, 0] = 6 * np.sign(kernel[:, 0])  # the first column is the widest
    rows = correlated(997, 307, generator)
    moment = rows.T @ rows
    damping = rounding.DAMPING * np.trace(moment) / 307
    inverse = np.linalg.inv(moment + damping * np.eye(307))
    scale = np.float32(6 / 127) * np.ones((11, 1), "float32")
    steps, *_ = gptq.gptq_quantize_matrix(
        keras.ops.convert_to_tensor(kernel),
        keras.ops.convert_to_tensor(np.linalg.cholesky(inverse).T.astype("float32")),
        compute_scale_zero=lambda _: (scale, np.full_like(scale, 127), 254),
    )
    theirs = keras.ops.convert_to_numpy(steps).astype("int32") - 127
    ours = np.round(rounding._rounded(kernel, moment) / scale).astype("int32")
    assert (ours != np.round(kernel / scale)).mean() > 0.1  # not just the nearest
    assert (ours == theirs).mean() > 0.999  # theirs are computed in float32


def test_what_correlated_inputs_make_errs_far_less():
    """Between the nearest steps and the best of all choices of the steps around."""
    generator = np.random.default_rng(5)
    nearest, ours, best = 0, 0, 0
    for _ in range(40):
        rows = correlated(97, 7, generator)
        kernel = generator.normal(size=(1, 7)).astype("float32")
        scale = np.abs(kernel).max() / 127
        below = np.floor(kernel / scale)
        widest = np.abs(kernel).argmax()
        choices = np.array(list(itertools.product((0, 1), repeat=7))) + below
        choices[:, widest] = np.round(kernel[0, widest] / scale)
        best += min(error_of(row[None] * scale, kernel, rows) for row in choices)
        nearest += error_of(on_steps(kernel), kernel, rows)
        ours += error_of(rounding._rounded(kernel, rows.T @ rows), kernel, rows)
    assert best < ours < 0.5 * nearest


def test_zeros_stay_zeros_and_channels_keep_their_steps():
    generator = np.random.default_rng(7)
    kernel = generator.normal(size=(13, 157)).astype("float32")
    kernel[generator.random(kernel.shape) < 0.6] = 0
    kernel[4] = 0
    rows = correlated(997, 157, generator)
    rounded = rounding._rounded(kernel, rows.T @ rows)
    assert (rounded[kernel == 0] == 0).all()
    largest = np.abs(kernel).max(1)
    np.testing.assert_allclose(np.abs(rounded).max(1), largest, rtol=1e-6)
    steps = np.divide(rounded.T * 127, largest, where=largest > 0, out=0 * rounded.T)
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-3)
    assert error_of(rounded, kernel, rows) < 0.7 * error_of(
        np.where(np.arange(13)[:, None] == 4, 0, on_steps(kernel + 1e-30)), kernel, rows
    )


def kernels_of(file):
    model = flatbuffer.parse(file.read_bytes())
    kernels = {}
    for graph in model.subgraphs:
        for name, operator in flatbuffer.named_operators(model, graph):
            tensor = (
                graph.tensors[operator.inputs[1]] if name == "FULLY_CONNECTED" else 0
            )
            if tensor and tensor.type == flatbuffer.schema().TensorType.INT8:
                values = flatbuffer.constant_values(model, tensor)
                kernels.setdefault(values.shape, []).append(values)
    return kernels


@pytest.mark.slow
def test_kernels_of_a_file_are_rounded_by_the_examples(tmp_path):
    """A pruned and a clustered kernel of the file keep zeros and values."""
    keras.utils.set_random_seed(2)
    x = keras.Input((LENGTH, 37), name="x")
    layers = [keras.layers.Dense(43), keras.layers.Dense(41), keras.layers.Dense(47)]
    y = keras.ops.tanh(layers[1](keras.ops.tanh(layers[0](x))))
    model = keras.Model(x, layers[2](y))
    generator = np.random.default_rng(2)
    pruned = layers[1].kernel.numpy()
    pruned[generator.random(pruned.shape) < 0.7] = 0
    layers[1].kernel.assign(pruned)
    layers[2].kernel.assign(np.round(layers[2].kernel.numpy() * 20) / 20)
    data = correlated(53 * LENGTH, 37, generator).reshape(53, LENGTH, 37)
    file = tmp_path / "model.tflite"
    export.to_tflite(
        model, file, quantization="int8", representative_data=data.astype("float32")
    )
    kernels = kernels_of(file)
    first, second, third = (kernels[layer.kernel.shape[::-1]][0] for layer in layers)
    kernel, rows = layers[0].kernel.numpy().T, data.reshape(-1, 37)
    assert error_of(first, kernel, rows) < 0.5 * error_of(
        on_steps(kernel), kernel, rows
    )
    assert (second[pruned.T == 0] == 0).all()
    kernel = layers[2].kernel.numpy().T
    np.testing.assert_allclose(third, on_steps(kernel), atol=1e-6)


@pytest.mark.slow
def test_two_lengths_share_kernels_that_were_rounded(examples, tmp_path):
    model = sequence_classifier(bert_encoder(num_layers=1, **SIZES), num_classes=3)
    sizes = []
    for lengths in (LENGTH, [LENGTH - 5, LENGTH]):
        report = export.to_tflite(
            model,
            tmp_path / "model.tflite",
            sequence_length=lengths,
            quantization="int8",
            representative_data=examples,
        )
        sizes.append(report["weight_bytes"]["int8"])
    assert sizes[1] <= 1.03 * sizes[0]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["dynamic_range", "int8"])
def test_short_rows_of_a_table_have_short_steps(examples, tmp_path, mode):
    """Words whose rows are a fiftieth as long: one scale leaves them 5 of 256 steps."""
    keras.utils.set_random_seed(3)
    encoder = bert_encoder(num_layers=1, **SIZES | {"initializer_range": 0.2})
    model = masked_lm(encoder, max_predictions=5)
    table = encoder.get_layer("token_embedding").embeddings
    length = np.where(np.arange(table.shape[0]) % 2, 1, 1 / 50)
    table.assign(table.numpy() * length[:, None])
    positions = np.tile(np.arange(5, dtype="int32"), (len(examples["token_ids"]), 1))
    data = examples | {"mask_positions": positions}
    file = tmp_path / "model.tflite"
    export.to_tflite(
        model,
        file,
        sequence_length=LENGTH,
        quantization=mode,
        representative_data=data,
    )
    expected = model.predict(data, verbose=0)["masked_lm"][..., ::2]
    error = export.predict(file, data)["masked_lm"][..., ::2] - expected
    error -= error.mean(-1, keepdims=True)
    assert error.std() < 0.03 * expected.std()
