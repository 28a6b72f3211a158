"""Sequential models, which know their input only once they were called."""

import keras
import numpy as np
import pytest

from keras_tformer import export


def layers():
    return [
        keras.layers.Embedding(53, 36, name="table"),
        keras.layers.Dense(37, activation="relu"),
        keras.layers.GlobalAveragePooling1D(),
        keras.layers.Dense(3),
    ]


@pytest.fixture(scope="module", params=["by_input", "by_shape"])
def model(request):
    keras.utils.set_random_seed(7)
    if request.param == "by_input":
        first = keras.Input((13,), dtype="int32", name="token_ids")
        model = keras.Sequential([first, *layers()])
    else:
        model = keras.Sequential(layers())
        model.build((None, 13))
    model.set_weights([3 * weight for weight in model.get_weights()])
    return model


@pytest.fixture(scope="module")
def ids():
    return np.random.default_rng(5).integers(0, 53, (41, 13)).astype("int32")


def test_as_a_saved_model(model, ids, tmp_path):
    (name,) = (tensor.name for tensor in model.inputs)
    result = export.to_saved_model(model, tmp_path / "model")
    assert list(result["signatures"]["serving_default"]["inputs"]) == [name]
    outputs = export.predict(tmp_path / "model", {name: ids})
    np.testing.assert_allclose(outputs["output"], model(ids), atol=1e-5)
    export.verify(tmp_path / "model", model, {name: ids}, tolerance=1e-5)


@pytest.mark.parametrize("quantization", [None, "int8"])
def test_as_a_tflite_file(model, ids, tmp_path, quantization):
    pytest.importorskip("ai_edge_litert", reason="the files are proved on it")
    file = tmp_path / "model.tflite"
    (name,) = (tensor.name for tensor in model.inputs)
    result = export.to_tflite(
        model,
        file,
        sequence_length=13,
        quantization=quantization,
        representative_data={name: ids},
    )
    assert list(result["inputs"]) == [name]
    outputs = export.predict(file, {name: ids})["output"]
    expected = model.predict(ids, verbose=0)
    difference = np.abs(outputs - expected).max()
    assert difference < (1e-4 if quantization is None else 0.2 * expected.std())
