"""Failures that users of other exporters reported, each against this one."""

import keras
import numpy as np
import pytest
from conftest import LENGTH, SIZES, make_examples

from keras_tformer import export
from keras_tformer.export import conversion
from keras_tformer.export.flatbuffer import named_operators
from keras_tformer.models import (
    albert_encoder,
    bert_encoder,
    sequence_classifier,
    token_classifier,
)

pytest.importorskip("ai_edge_litert", reason="the files are proved on ai_edge_litert")


@pytest.fixture(scope="module")
def trained_albert():
    """An ALBERT that has learned whether token 7 occurs, and examples to ask it."""
    keras.utils.set_random_seed(5)
    sizes = SIZES | {"initializer_range": 0.1, "dropout": 0.0}
    encoder = albert_encoder(num_layers=4, embedding_dim=19, **sizes)
    model = sequence_classifier(encoder, num_classes=2, dropout=0.0)
    model.compile(
        keras.optimizers.Adam(2e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    inputs = make_examples(640, seed=11)
    inputs["token_ids"][::2, 2] = 7  # half of them; inputs of the others lack it
    inputs["token_ids"][1::2][inputs["token_ids"][1::2] == 7] = 8
    labels = (inputs["token_ids"] == 7).any(axis=1).astype("int32")
    model.fit(inputs, labels, batch_size=32, epochs=12, verbose=0)
    assert model.evaluate(inputs, labels, verbose=0)[1] > 0.99
    return model, inputs, labels


@pytest.mark.slow
@pytest.mark.parametrize(
    "quantization", [None, "float16", "dynamic_range", "int8", "int16x8"]
)
def test_albert_keeps_its_accuracy(trained_albert, tmp_path, quantization):
    """tensorflow #44306: 90 % before, 49 % after conversion, without a message."""
    model, inputs, labels = trained_albert
    file = tmp_path / "model.tflite"
    export.to_tflite(
        model,
        file,
        sequence_length=LENGTH,
        quantization=quantization,
        representative_data=inputs,
    )
    rows = {name: ids[:200] for name, ids in inputs.items()}
    accuracy = export.verify(file, model, (rows, labels[:200]))["accuracy"]
    assert accuracy["model"] > 0.99
    assert accuracy["artefact"] >= accuracy["model"] - 0.01


@pytest.mark.parametrize("integer_only", [False, True])
def test_int8_is_int8(classifier, examples, tmp_path, integer_only):
    """tensorflow #57619: "quantized", and every product in float."""
    report = export.to_tflite(
        classifier,
        tmp_path / "model.tflite",
        sequence_length=LENGTH,
        quantization="int8",
        representative_data=examples,
        integer_only=integer_only,
    )
    operators = report["operators"]
    names = ["BATCH_MATMUL", "SOFTMAX", "FULLY_CONNECTED", "GELU", "ADD", "RSQRT"]
    for name in names * integer_only:
        assert set(operators[name]) == {"int8"}, name
    # No product has float weights: of eight, three make what attention reads, and two
    # add up what is normalized. Those of two activations are a few.
    expected = {"int8": 8} if integer_only else {"int8": 3, "float32*int8": 5}
    assert operators["FULLY_CONNECTED"] == expected
    macs = report["macs_by_dtype"]
    assert macs.pop("float32", 0) < (1e-9 if integer_only else 0.05 * report["macs"])
    assert set(macs) == set(expected)
    stored = report["weight_bytes"].get("float32", 0)
    # No kernel, no table; scale and shift of three normalizations and the biases
    # before two, and the positions, which are too few to be worth a scale.
    assert stored <= 64 + (0 if integer_only else 4 * (3 * 2 + 2 + LENGTH) * 34)


def test_a_channel_as_wide_as_thirty_others(examples, tmp_path):
    """Bondarenko et al. 2021, section 3: BERT's feed-forward outputs have some.

    Rounded to one range for all, before they were summed, the logits were 0.138 of
    their deviation off, and 90 % of the tags equal.
    """
    keras.utils.set_random_seed(11)
    encoder = bert_encoder(num_layers=2, **SIZES | {"initializer_range": 0.2})
    model = token_classifier(encoder, num_classes=5)
    for weight in model.weights:
        factor = np.ones(weight.shape[-1])
        if "feed_forward/output" in weight.path:
            factor[7] = 30
        elif weight.path.endswith("feed_forward_norm/gamma"):
            factor[7] = 1 / 30
        weight.assign(weight.numpy() * factor)
    report = export.to_tflite(
        model,
        tmp_path / "model.tflite",
        sequence_length=LENGTH,
        quantization="int8",
        representative_data=examples,
    )
    result = report["verification"]
    assert result["relative_difference"] < 0.06
    assert result["agreement"] > 0.95


@pytest.mark.parametrize("dtype", ["int32", "int64"])
@pytest.mark.parametrize("quantization", ["int8", "int16x8"])
def test_integer_inputs_are_calibrated(tmp_path, dtype, quantization):
    """tensorflow #50069: calibration failed on int32; ids of int64 data, too."""
    ids = keras.Input((None,), dtype=dtype, name="token_ids")
    hidden = keras.layers.Embedding(53, 34)(ids)
    hidden = keras.layers.GlobalAveragePooling1D()(hidden)
    model = keras.Model({"token_ids": ids}, keras.layers.Dense(3)(hidden))
    data = {"token_ids": make_examples(50)["token_ids"].astype("int64")}
    report = export.to_tflite(
        model,
        tmp_path / "model.tflite",
        sequence_length=LENGTH,
        quantization=quantization,
        representative_data=data,
    )
    assert report["inputs"]["token_ids"]["dtype"] == dtype
    assert report["verification"]["agreement"] >= 0.95


def test_layer_normalization_in_16_bits(classifier, examples, tmp_path):
    """tensorflow #56898: RSQRT of int16 did not convert, or gave wrong numbers."""
    report = export.to_tflite(
        classifier,
        tmp_path / "model.tflite",
        sequence_length=LENGTH,
        quantization="int16x8",
        representative_data=examples,
    )
    assert set(report["operators"]["RSQRT"]) == {"int16"}
    assert "SQUARED_DIFFERENCE" not in report["operators"]
    assert report["verification"]["relative_difference"] < 0.02


def test_masks_need_no_flex_operator(tflite_file):
    """keras-hub PR 2608: `mask[:, None, :]` became FlexStridedSlice."""
    operators = export.report(tflite_file, show=False)["operators"]
    assert not [name for name in operators if name.startswith("Flex")]
    # The slices left take the first token: for the last block and for the pooler.
    assert sum(operators["STRIDED_SLICE"].values()) == 2


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["dynamic_range", "int8"])
def test_shared_weights_are_quantized_right(shared_classifier, tmp_path, quantization):
    """onnxruntime #11701: a weight used twice was quantized twice, or not at all."""
    examples = make_examples(40)
    report = export.to_tflite(
        shared_classifier,
        tmp_path / "model.tflite",
        sequence_length=LENGTH,
        quantization=quantization,
        representative_data=examples,
    )
    kernels = {34 * 34: 5, 34 * 112: 2, 4001 * 19: 1}  # with the pooler's
    stored = report["weight_bytes"]["int8"]
    expected = sum(size * count for size, count in kernels.items())
    assert expected <= stored <= 1.1 * expected
    # Twelve calls, or the one in a loop, read them: none was left in float.
    calls = 1 if "WHILE" in report["operators"] else 12
    kinds = report["operators"]["FULLY_CONNECTED"]
    assert sum(n for kind, n in kinds.items() if "int8" in kind) >= calls * 6
    if quantization == "int8":  # those of attention; the last call's is of one row
        rows = 11 * LENGTH + 1
        assert report["macs_by_dtype"]["float32"] == 2 * rows * LENGTH * 34


def test_ranges_are_those_of_the_tensors(examples, tmp_path, monkeypatch):
    """tensorflow #127842: inputs get the range of what is computed in their place."""
    measured = []

    def keep(*arguments):
        measured.append(measure_ranges(*arguments))
        return measured[0]

    measure_ranges = conversion.measure_ranges
    monkeypatch.setattr(conversion, "measure_ranges", keep)
    ids = keras.Input((LENGTH,), dtype="int32", name="token_ids")
    table = keras.layers.Embedding(53, 34)
    hidden = keras.layers.Rescaling(8.0)(table(ids))
    model = keras.Model({"token_ids": ids}, keras.layers.Dense(37)(hidden))
    export.to_tflite(
        model,
        tmp_path / "model.tflite",
        sequence_length=LENGTH,
        quantization="int8",
        representative_data={"token_ids": examples["token_ids"]},
    )
    (graph,) = measured[0].subgraphs
    rows = np.asarray(table.embeddings)[np.unique(examples["token_ids"])]
    (lookup,) = (
        part for name, part in named_operators(measured[0], graph) if name == "GATHER"
    )
    ranges = graph.tensors[lookup.outputs[0]].quantization
    np.testing.assert_allclose(ranges.min, rows.min(), rtol=1e-6)
    np.testing.assert_allclose(ranges.max, rows.max(), rtol=1e-6)
    assert len(graph.outputs) == 1
