"""Names of inputs and outputs, in structures as Keras allows them."""

import keras
import numpy as np
import pytest

from keras_tformer import export

X = np.random.default_rng(3).normal(size=(7, 5)).astype("float32")


def model_of(make, name="x"):
    x = keras.Input((5,), name=name)
    a, b = keras.layers.Dense(3)(x), keras.layers.Dense(2)(x)
    return keras.Model({name: x}, make(a, b)), keras.Model(x, [a, b])


@pytest.mark.parametrize("form", ["saved_model", "tflite"])
@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda a, b: [{"a": a}, b], ["output_0_a", "output_1"]),
        (lambda a, b: {"p": {"a": a}, "q": b}, ["p_a", "q"]),
        (lambda a, b: {"p": [[a], [b]]}, ["p_0_0", "p_1_0"]),
        (lambda a, b: {"a/b": a, "1.c-d>e": b}, ["a/b", "1.c-d>e"]),
    ],
)
def test_outputs_in_outputs_have_flat_names(make, names, form, tmp_path):
    model, parts = model_of(make)
    target = tmp_path / "model"
    if form == "tflite":
        pytest.importorskip("ai_edge_litert", reason="the file is proved on it")
        export.to_tflite(model, target)
    else:
        export.to_saved_model(model, target)
    outputs = export.predict(target, {"x": X})
    assert sorted(outputs) == sorted(names)
    for name, expected in zip(names, parts(X), strict=True):
        np.testing.assert_allclose(outputs[name], expected, atol=1e-5)


@pytest.mark.parametrize("write", [export.to_saved_model, export.to_tflite])
def test_names_that_are_refused(write, tmp_path):
    model, _ = model_of(lambda a, b: {"p": [a], "p_0": b})
    with pytest.raises(ValueError, match="Two outputs .* be called 'p_0'"):
        write(model, tmp_path / "m")
    for name in ("next sentence", "_x", "größe", "a:b", "a\\b"):
        model, _ = model_of(lambda a, b, name=name: {name: a})
        with pytest.raises(ValueError, match="an output called .* Expected letters"):
            write(model, tmp_path / "m")
    for name in ("my input", "_x", "größe", "class", "self"):
        model, _ = model_of(lambda a, b: a, name)
        with pytest.raises(ValueError, match=f"an input called '{name}'. Expected"):
            write(model, tmp_path / "m")
    assert not list(tmp_path.iterdir())


def test_inputs_of_a_saved_model_are_words(tmp_path):
    model, _ = model_of(lambda a, b: a, "a-b")
    with pytest.raises(ValueError, match="an input called 'a-b'. Expected letters"):
        export.to_saved_model(model, tmp_path / "m")
