"""Every weight is in the file once: shared blocks, tied tables, several lengths."""

import numpy as np
import pytest
from conftest import LENGTH, SIZES

from keras_tformer import export
from keras_tformer.models import BERT_SIZES, bert_encoder, masked_lm

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
        # Learned with a scale for each row in the product: once more for the lookup.
        stored = sum(report["weight_bytes"].values())
        assert stored < 1.02 * (model.count_params() + 997 * 34) + 7000


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
