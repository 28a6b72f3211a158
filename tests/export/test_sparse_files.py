"""The sparse encoding: where it is right, and where it is refused."""

import keras
import numpy as np
import pytest
from conftest import LENGTH, SIZES

from keras_tformer import export
from keras_tformer.compress import calibrate, quantize_model
from keras_tformer.models import bert_encoder, sequence_classifier

pytest.importorskip("ai_edge_litert", reason="the files are proved on ai_edge_litert")


def pruned(model, share, block):
    """A copy of the model with a share of zeros in blocks of inputs by outputs."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    for weight in copy.weights:
        if weight.path.endswith("kernel"):
            values = weight.numpy()
            high, wide = (-(-n // b) for n, b in zip(values.shape, block, strict=True))
            sums = np.zeros((high * block[0], wide * block[1]))
            sums[: len(values), : values.shape[1]] = np.abs(values)
            sums = sums.reshape(high, block[0], wide, block[1]).sum((1, 3))
            kept = np.kron(sums > np.quantile(sums, share), np.ones(block))
            weight.assign(values * kept[: len(values), : values.shape[1]])
    return copy


@pytest.mark.slow
@pytest.mark.parametrize("quantization", [None, "int8"])
def test_sparse_file_is_smaller_and_right(examples, tmp_path, quantization):
    sizes = SIZES | {"hidden_dim": 48, "intermediate_dim": 80}
    encoder = bert_encoder(num_layers=1, **sizes)
    model = pruned(sequence_classifier(encoder, num_classes=3), 0.9, (16, 1))
    dense, sparse = (
        export.to_tflite(
            model,
            tmp_path / f"{sparse}.tflite",
            sequence_length=LENGTH,
            quantization=quantization,
            representative_data=examples,
            sparse=sparse,
            tolerance=1e-4 if quantization is None else 0.3,
        )
        for sparse in (False, True)
    )
    limit = 0.7 if quantization is None else 0.9
    assert sparse["size_bytes"] < limit * dense["size_bytes"]
    if quantization == "int8":  # a sparse kernel takes int8 inputs only
        assert set(sparse["operators"]["FULLY_CONNECTED"]) == {"int8"}


@pytest.mark.slow
def test_sparse_file_of_a_quantization_aware_model(examples, tmp_path):
    sizes = SIZES | {"hidden_dim": 48, "intermediate_dim": 80}
    encoder = bert_encoder(num_layers=1, **sizes)
    model = pruned(sequence_classifier(encoder, num_classes=3), 0.9, (16, 1))
    aware = calibrate(quantize_model(model, sequence_length=LENGTH), [examples])
    sizes = [
        export.to_tflite(
            aware,
            tmp_path / f"{sparse}.tflite",
            sequence_length=LENGTH,
            quantization="int8",
            sparse=sparse,
        )["size_bytes"]
        for sparse in (False, True)
    ]
    assert sizes[1] < 0.9 * sizes[0]


@pytest.mark.parametrize("block", [(1, 1), (4, 1)])
def test_scattered_zeros_are_refused_in_sparse_int8(
    classifier, examples, tmp_path, block
):
    with pytest.raises(
        ValueError, match=r"do not lie in whole blocks.*block_size=\(16, 1\)"
    ):
        export.to_tflite(
            pruned(classifier, 0.8, block),
            tmp_path / "model.tflite",
            sequence_length=LENGTH,
            quantization="int8",
            representative_data=examples,
            sparse=True,
        )
    assert not list(tmp_path.iterdir())
