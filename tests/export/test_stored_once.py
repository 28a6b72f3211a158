"""Every weight is in the file once: shared blocks, tied tables, several lengths."""

import numpy as np
import pytest
from conftest import LENGTH, SIZES

from keras_tformer import export
from keras_tformer.export import conversion, flatbuffer
from keras_tformer.export.packing import pack
from keras_tformer.models import (
    BERT_SIZES,
    albert_encoder,
    bert_encoder,
    causal_lm,
    masked_lm,
    sequence_classifier,
    transformer,
)

pytest.importorskip("ai_edge_litert", reason="the files are proved on ai_edge_litert")


@pytest.mark.slow
@pytest.mark.parametrize("in_loop", [False, True])
def test_twelve_calls_of_a_shared_block_weigh_as_one(
    shared_classifier, tmp_path, in_loop
):
    report = export.to_tflite(
        shared_classifier,
        tmp_path / "model.tflite",
        sequence_length=LENGTH,
        loop_shared_layers=in_loop,
    )
    assert report["weight_bytes"]["float32"] <= 1.02 * 4 * report["parameters"]


@pytest.fixture(scope="module")
def learned_masked_lm():
    """A tied table behind a layer normalization whose scale is no longer 1."""
    sizes = SIZES | {"vocabulary_size": 997}
    model = masked_lm(bert_encoder(num_layers=1, **sizes), max_predictions=5)
    generator = np.random.default_rng(1)
    for weight in model.weights:
        weight.assign(weight.numpy() + generator.normal(0, 0.1, weight.shape))
    positions = generator.integers(0, 6, (67, 5)).astype("int32")
    return model, positions


@pytest.mark.slow
@pytest.mark.parametrize(
    "quantization, size, mean_error",
    [
        (None, 4, 1e-5),
        ("float16", 2, 1e-3),
        ("dynamic_range", 1, 0.03),
        ("int8", 1, 0.05),
    ],
)
def test_a_tied_table_is_stored_once(
    learned_masked_lm, examples, tmp_path, quantization, size, mean_error
):
    model, positions = learned_masked_lm
    data = examples | {"mask_positions": positions}
    report = export.to_tflite(
        model,
        tmp_path / "model.tflite",
        sequence_length=LENGTH,
        quantization=quantization,
        representative_data=data,
    )
    # Biases and small tables stay float in int8 files: 7,000 bytes of them.
    assert 997 * 34 > 0.7 * report["parameters"]
    stored = sum(report["weight_bytes"].values())
    assert stored < 1.02 * size * report["parameters"] + 7000
    # Names, shapes and scales.
    assert report["size_bytes"] - stored < 250 * report["num_operators"]
    assert report["verification"]["relative_difference"] < mean_error


@pytest.mark.slow
def test_a_tied_table_of_a_quantization_aware_model_is_int8(
    learned_masked_lm, examples, tmp_path
):
    import tensorflow as tf

    compress = pytest.importorskip("keras_tformer.compress", reason="quantizes")
    model, positions = learned_masked_lm
    data = examples | {"mask_positions": positions}
    dataset = tf.data.Dataset.from_tensor_slices(data).batch(23)
    aware = compress.quantize_model(model, sequence_length=LENGTH)
    compress.calibrate(aware, dataset)
    for representative_data in (None, data):
        report = export.to_tflite(
            aware,
            tmp_path / "model.tflite",
            sequence_length=LENGTH,
            quantization="int8",
            representative_data=representative_data,
        )
        stored = sum(report["weight_bytes"].values())
        assert stored < 1.02 * model.count_params() + 7000
        logits = export.predict(report["file"], data)["masked_lm"]
        assert len(np.unique(logits)) > 0.5 * logits.size  # not one of 256 steps each


@pytest.mark.slow
@pytest.mark.parametrize(
    "quantization, size, mean_error",
    [
        (None, 4, 1e-5),
        ("dynamic_range", 1, 0.03),
        ("int8", 1, 0.05),
        ("int16x8", 1, 0.03),
    ],
)
def test_a_table_of_both_languages_and_the_logits_is_stored_once(
    tmp_path, quantization, size, mean_error
):
    """Looked up twice; the product has a bias, with which scales would move into it."""
    sizes = {name: SIZES[name] for name in SIZES if name != "initializer_range"}
    sizes |= {"vocabulary_size": 997, "num_layers": 1, "use_output_bias": True}
    model = transformer(**sizes)
    generator = np.random.default_rng(1)
    for weight in model.weights:
        weight.assign(weight.numpy() + generator.normal(0, 0.1, weight.shape))
    ids = generator.integers(5, 997, (40, LENGTH)).astype("int32")
    data = {name: ids if "ids" in name else 0 * ids + 1 for name in model.input}
    report = export.to_tflite(
        model,
        tmp_path / "model.tflite",
        sequence_length=LENGTH,
        quantization=quantization,
        representative_data=data,
    )
    stored = sum(report["weight_bytes"].values())
    assert stored < 1.02 * size * report["parameters"] + 9000
    assert report["verification"]["relative_difference"] < mean_error


@pytest.mark.slow
@pytest.mark.parametrize("is_tied", [True, False])
def test_tables_are_int8_where_activations_have_16_bits(examples, tmp_path, is_tied):
    """The converter stores what is looked up in 16 bits, and multiplies by that."""
    sizes = SIZES | {"vocabulary_size": 997}
    data = {name: x for name, x in examples.items() if name != "segment_ids"}
    if is_tied:
        model = causal_lm(num_layers=1, **sizes)  # masks of -1e9
    else:
        encoder = bert_encoder(num_layers=1, num_segments=None, **sizes)
        model = sequence_classifier(encoder, num_classes=3)
    report = export.to_tflite(
        model,
        tmp_path / "model.tflite",
        sequence_length=LENGTH,
        quantization="int16x8",
        representative_data=data,
    )
    stored = sum(report["weight_bytes"].values())
    assert stored < 1.02 * report["parameters"] + 5000
    assert set(report["macs_by_dtype"]) == {"int16", "int16*int8"}
    assert report["verification"]["relative_difference"] < 0.03


@pytest.mark.slow
@pytest.mark.parametrize("quantization", [None, "dynamic_range", "int8"])
def test_several_lengths_share_the_weights(
    classifier, examples, tmp_path, quantization
):
    one, file = tmp_path / "one.tflite", tmp_path / "three.tflite"
    arguments = {"quantization": quantization, "representative_data": examples}
    alone = export.to_tflite(classifier, one, sequence_length=LENGTH, **arguments)
    report = export.to_tflite(classifier, file, sequence_length=(5, 13, 7), **arguments)
    assert list(report["verifications"]) == [
        "serving_default",
        "shorter_7",
        "shorter_5",
    ]
    weights = [sum(result["weight_bytes"].values()) for result in (alone, report)]
    # The rows of the position table that a length needs are its own.
    assert weights[1] - weights[0] <= 4 * 34 * (7 + 5) + 200
    short = {name: ids[:, :5] for name, ids in examples.items()}
    outputs = export.predict(file, short, signature="shorter_5")["output"]
    expected = classifier.predict(short, verbose=0)
    limit = 1e-5 if quantization is None else 0.1
    assert np.abs(outputs - expected).mean() < limit * expected.std()
    assert export.predict(file, examples)["output"].shape == (67, 3)


@pytest.mark.slow
def test_int8_is_at_most_027_of_float32(tmp_path):
    """With all that a file holds besides weights: scales, biases, the graph."""
    sizes = BERT_SIZES["tiny"] | {"dropout": 0.0, "max_sequence_length": LENGTH}
    encoder = bert_encoder(vocabulary_size=8009, **sizes)
    ids = np.random.default_rng(7).integers(0, 8009, (20, LENGTH))
    data = dict.fromkeys(encoder.input, np.ones_like(ids)) | {"token_ids": ids}
    whole, small = (
        export.to_tflite(
            encoder,
            tmp_path / "model.tflite",
            sequence_length=LENGTH,
            quantization=quantization,
            representative_data=data,
        )["size_bytes"]
        for quantization in (None, "int8")
    )
    assert small <= 0.27 * whole


@pytest.fixture
def as_converted(monkeypatch):
    """A list to which every conversion adds the file before anything is taken out."""
    files = []

    def take_out(model):
        files.append(pack(model))
        take_out_unread(model)

    take_out_unread = conversion.take_out_unread
    monkeypatch.setattr(conversion, "take_out_unread", take_out)
    return files


def assert_nothing_read_was_taken_out(file, whole, data):
    """The outputs are the same to the last bit, whoever runs the operators."""
    original = file.with_suffix(".whole")
    original.write_bytes(whole)
    assert file.stat().st_size < len(whole)
    for delegate in (True, False):
        ours, theirs = (
            export.predict(part, data, use_default_delegate=delegate)
            for part in (file, original)
        )
        for name, expected in theirs.items():
            assert np.ptp(expected) > 0
            np.testing.assert_array_equal(ours[name], expected)
    ours, theirs = (export.report(part, show=False) for part in (file, original))
    for key in ("operators", "macs_by_dtype", "inputs", "outputs", "weight_bytes"):
        assert ours[key] == theirs[key]
    assert ours["delegate_partitions"] == theirs["delegate_partitions"]


@pytest.mark.slow
@pytest.mark.parametrize("quantization", [None, "dynamic_range"])
def test_what_is_taken_out_of_a_file_with_a_loop_is_not_read(
    shared_classifier, examples, as_converted, tmp_path, quantization
):
    file = tmp_path / "model.tflite"
    report = export.to_tflite(
        shared_classifier, file, sequence_length=LENGTH, quantization=quantization
    )
    assert "WHILE" in report["operators"]
    assert_nothing_read_was_taken_out(file, as_converted[0], examples)


@pytest.mark.slow
def test_a_small_quantization_aware_albert_is_at_most_027_of_float32(
    as_converted, tmp_path
):
    """The shape of `benchmarks/int8_accuracy.py`: 0.61 million weights, two calls."""
    compress = pytest.importorskip("keras_tformer.compress", reason="quantizes")
    length, channels, units = 48, 128, 512
    encoder = albert_encoder(
        vocabulary_size=6000,
        embedding_dim=64,
        num_layers=2,
        num_heads=4,
        hidden_dim=channels,
        intermediate_dim=units,
        max_sequence_length=length,
        sequence_length=length,
        initializer_range=0.05,
    )
    model = sequence_classifier(encoder, num_classes=2)
    generator = np.random.default_rng(7)
    for weight in model.weights:  # biases and scales as after training
        if len(weight.shape) == 1:
            weight.assign(weight.numpy() + generator.normal(0, 0.1, weight.shape))
    ids = generator.integers(5, 6000, (40, length)).astype("int32")
    data = {"token_ids": ids, "segment_ids": 0 * ids, "padding_mask": 0 * ids + 1}
    data["padding_mask"][:20, 31:] = 0
    aware = compress.calibrate(compress.quantize_model(model), [(data, ids[:, 0])])
    file = tmp_path / "model.tflite"
    whole, small = (
        export.to_tflite(
            source, file, sequence_length=length, quantization=mode, verify=False
        )["size_bytes"]
        for source, mode in ((model, None), (aware, "int8"))
    )
    assert small <= 0.27 * whole
    assert_nothing_read_was_taken_out(file, as_converted[1], data)
    scales, points = {}, {}
    tensors = flatbuffer.read_model(str(file)).subgraphs[0].tensors
    assert any(b"layer_0.feed_forward.intermediate" in part.name for part in tensors)
    for tensor in tensors:
        ranges = tensor.quantization
        if ranges is not None and len(ranges.scale) > 1:
            scales[ranges.scale.ctypes.data] = len(ranges.scale)
            points[ranges.zeroPoint.ctypes.data] = len(ranges.zeroPoint)
            assert not ranges.zeroPoint.any()
    # The block's kernels once, its biases at each call with its input's range.
    block = 5 * channels + units
    others = 2 * channels + 2  # of the wide embedding, the pooler and the classes
    assert sum(scales.values()) == block + 2 * block + 2 * others
    assert sorted(points.values()) == [2, channels, units]
    measured = export.to_tflite(  # what training left in float becomes int8, too
        aware,
        file,
        sequence_length=length,
        quantization="int8",
        representative_data=data,
    )
    assert measured["size_bytes"] <= 0.27 * whole
