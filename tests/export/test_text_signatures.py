"""Raw texts, class names, tokenizers and numbers, as users give them."""

import json

import keras
import numpy as np
import pytest

from keras_tformer import export, models
from keras_tformer.text import WordPieceTokenizer, pack

pytest.importorskip("tensorflow_text", reason="needs tensorflow-text")

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##s", "sat", "."]
TOKENIZER = WordPieceTokenizer(PIECES)
TEXTS = ["The cats sat.", "cat", "", "dog sat on the cat " * 5]
NAMES = ["red", "green", "blue"]


def small_model(end=None, rows=11, wrap=None, name=None, length=None):
    """Logits of 3 classes, or what `end` makes of them."""
    keras.utils.set_random_seed(7)
    ids = keras.Input((length,), dtype="int32", name="token_ids")
    hidden = keras.layers.Embedding(rows, 7, embeddings_initializer="normal")(ids)
    hidden = 50 * keras.layers.GlobalAveragePooling1D()(hidden)
    logits = keras.layers.Dense(3, name="dense")
    output = logits(hidden) if end is None else end(logits(hidden))
    output = output if name is None else {name: output}
    model = keras.Model({"token_ids": ids}, output)
    return model if wrap is None else wrap(model)


def nested(model):
    return keras.Model(model.input, model(model.input))


def quantized(model):
    from keras_tformer import compress

    aware = compress.quantize_model(model, sequence_length=7)
    aware({"token_ids": np.arange(7)[None]}, training=True)
    return aware


def packed(length=7):
    ids = TOKENIZER.encode(TEXTS)
    rows = pack(ids, sequence_length=length, start_id=2, end_id=3)
    return {"token_ids": rows["token_ids"]}


def merged(x):
    return keras.layers.Dense(3, "softmax", name="last")(x)


@pytest.mark.parametrize(
    ("end", "wrap"),
    [
        (keras.layers.Softmax(), None),
        (keras.layers.Activation("softmax"), None),
        (keras.ops.softmax, None),
        (merged, None),
        (merged, nested),
        (merged, quantized),
        (lambda x: keras.layers.Identity()(keras.ops.softmax(x)), None),
        (keras.layers.Activation("sigmoid"), None),
    ],
    ids="Softmax Activation ops Dense nested quantized identity sigmoid".split(),
)
def test_what_is_a_probability_stays_one(end, wrap, tmp_path):
    model = small_model(end, wrap=wrap)
    arguments = {"class_names": NAMES, "sequence_length": 7}
    export.to_saved_model(model, tmp_path / "model", TOKENIZER, **arguments)
    outputs = export.predict(
        tmp_path / "model", {"texts": TEXTS}, signature="serve_text"
    )
    expected = np.array(model(packed()))
    np.testing.assert_allclose(outputs["probabilities"], expected, atol=1e-5)
    np.testing.assert_array_equal(outputs["probabilities"], outputs["output"])
    assert outputs["labels"].tolist() == [NAMES[i] for i in expected.argmax(-1)]


@pytest.mark.parametrize("end", [None, keras.layers.Activation("tanh")])
def test_logits_become_probabilities(end, tmp_path):
    model = small_model(end)
    arguments = {"class_names": NAMES, "sequence_length": 7}
    export.to_saved_model(model, tmp_path / "model", TOKENIZER, **arguments)
    outputs = export.predict(
        tmp_path / "model", {"texts": TEXTS}, signature="serve_text"
    )
    logits = np.array(model(packed()))
    expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(outputs["probabilities"], expected, atol=1e-5)


@pytest.mark.parametrize("name", ["probabilities", "labels", "classes"])
def test_an_output_with_the_name_of_what_is_added(name, tmp_path):
    model, folder = small_model(name=name), tmp_path / "model"
    arguments = {"class_names": NAMES, "sequence_length": 7}
    with pytest.raises(ValueError, match=f"output '{name}' has the name of what"):
        export.to_saved_model(model, folder, TOKENIZER, **arguments)
    export.to_saved_model(model, folder, class_names=NAMES)  # nothing is added
    if name == "probabilities":  # and here it is the same
        model = small_model(merged, name=name)
        export.to_saved_model(model, folder, TOKENIZER, **arguments)
        outputs = export.predict(folder, {"texts": TEXTS}, signature="serve_text")
        expected = model(packed())[name]
        np.testing.assert_allclose(outputs[name], expected, atol=1e-5)


def test_texts_at_fixed_shapes(classifier, tmp_path):
    """Rows as wide as told, in batches of one size, whatever the texts are."""
    sizes = {"sequence_length": 13, "batch_size": 4}
    names = ["serve_text", "serve_text_pair"]
    result = export.to_saved_model(
        classifier, tmp_path / "model", TOKENIZER, signatures=names, **sizes
    )
    for name in names:
        signature = result["signatures"][name]
        assert {tuple(x["shape"]) for x in signature["inputs"].values()} == {(4,)}
        assert signature["outputs"]["output"]["shape"] == [4, 3]
    second = TEXTS[::-1]
    for name, data, pair in (
        ("serve_text", {"texts": TEXTS}, None),
        ("serve_text_pair", {"texts": TEXTS, "second_texts": second}, second),
    ):
        outputs = export.predict(tmp_path / "model", data, signature=name)
        inputs = pack(
            TOKENIZER.encode(TEXTS),
            None if pair is None else TOKENIZER.encode(pair),
            sequence_length=13,
            start_id=2,
            end_id=3,
        )
        expected = classifier.predict(inputs, verbose=0)
        np.testing.assert_allclose(outputs["output"], expected, atol=1e-5)


def test_lengths_without_room_for_a_piece(classifier, tmp_path):
    folder = tmp_path / "model"
    for length, least in ((1, 4), (3, 4)):
        with pytest.raises(ValueError, match=f"length={length}, .* needs {least} or"):
            export.to_saved_model(classifier, folder, TOKENIZER, sequence_length=length)
    with pytest.raises(ValueError, match="length=2, .* of serve_text needs 3"):
        export.to_saved_model(small_model(), folder, TOKENIZER, sequence_length=2)
    for length in (1, 2):
        with pytest.raises(ValueError, match=f"sequence_length={length}: a row needs"):
            export.to_tflite(
                small_model(),
                tmp_path / "model.tflite",
                sequence_length=length,
                tokenizer=TOKENIZER,
                tokenizer_inside=True,
            )
    assert not list(tmp_path.iterdir())
    only = {"sequence_length": 3, "signatures": ["serve_text"]}
    export.to_saved_model(classifier, folder, TOKENIZER, **only)


def test_class_names_and_signatures_as_they_come(tmp_path):
    model, folder = small_model(), tmp_path / "model"
    for names in (iter(NAMES), np.array(NAMES), dict.fromkeys(NAMES).keys()):
        export.to_saved_model(model, folder, class_names=names)
        found = json.loads((folder / "assets.extra" / "classes.json").read_text())
        assert found == NAMES
    for signatures in ("serving_default", iter(["serving_default"])):
        result = export.to_saved_model(model, folder, signatures=signatures)
        assert list(result["signatures"]) == ["serving_default"]
    with pytest.raises(ValueError, match=r"signatures=\['serve'\], expected names"):
        export.to_saved_model(model, folder, signatures="serve")


def test_class_names_that_are_refused(tmp_path):
    for names, told in (
        ("abc", "this is no list"),
        (7, "this is no list"),
        ([b"a", b"b", b"c"], "b'a' is none"),
        ([0, 1, 2], "0 is none"),
        (["a", "b", "a"], "'a' is not. Change it"),
        (["a", "b\n", "c"], r"'b\\n' is not. Change it"),
        (["a", "b\u2028c", "c"], r"'b\\u2028c' is not. Change it"),
        (iter("ab"), "Received 2 class_names"),
    ):
        for write in (export.to_saved_model, export.to_tflite):
            names = list(names) if hasattr(names, "__next__") else names
            with pytest.raises(ValueError, match=told):
                write(small_model(), tmp_path / "m", class_names=names)


@pytest.mark.parametrize("wrap", [None, nested, "sequential"])
def test_a_tokenizer_with_more_pieces_than_the_table(tmp_path, wrap):
    if wrap == "sequential":
        ids = keras.Input((7,), dtype="int32", name="token_ids")
        table = keras.layers.Embedding(9, 3)
        model = keras.Sequential([ids, table, keras.layers.GlobalMaxPooling1D()])
    else:
        model = small_model(rows=9, wrap=wrap)
    for write in (export.to_saved_model, export.to_tflite):
        with pytest.raises(ValueError, match="has 10 pieces, .* a table of 9 tokens"):
            write(model, tmp_path / "m", tokenizer=TOKENIZER, sequence_length=7)


def test_numbers_of_numpy_and_truth_values(tmp_path):
    model, folder = small_model(), tmp_path / "model"
    sizes = {"sequence_length": np.int64(13), "batch_size": np.int32(5)}
    result = export.to_saved_model(model, folder, **sizes)
    inputs = result["signatures"]["serving_default"]["inputs"]
    assert inputs["token_ids"]["shape"] == [5, 13]
    for name in ("sequence_length", "batch_size"):
        for wrong in (True, 0, 2.5, "7"):
            with pytest.raises(ValueError, match=f"Received {name}={wrong!r}, exp"):
                export.to_saved_model(model, folder, **{name: wrong})


def test_lengths_of_numpy_in_a_tflite_file(tmp_path):
    pytest.importorskip("ai_edge_litert", reason="the files are proved on it")
    file = tmp_path / "m.tflite"
    for lengths, told in ((np.array([7, 13]), (13, 7)), (np.int64(7), 7)):
        result = export.to_tflite(
            small_model(merged), file, lengths, tokenizer=TOKENIZER
        )
        assert result["sequence_length"] == told
    card = json.loads((tmp_path / "m.json").read_text(encoding="utf-8"))
    assert card["outputs"]["output"]["values"] == "probabilities"
    export.to_tflite(small_model(), file, 7, tokenizer=TOKENIZER)
    card = json.loads((tmp_path / "m.json").read_text(encoding="utf-8"))
    assert card["outputs"]["output"]["values"] == "logits"
    with pytest.raises(ValueError, match="several different ones"):
        export.to_tflite(small_model(), file, np.array([7, 7]))


def test_numbers_of_a_translation(tmp_path):
    keras.utils.set_random_seed(7)
    model = models.transformer(
        vocabulary_size=len(PIECES),
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=11,
    )
    folder = tmp_path / "model"
    good = {"max_length": np.int64(5), "num_beams": np.int32(1)}
    for wrong in (
        {"num_beams": True},
        {"num_beams": 0},
        {"max_length": True},
        {"max_length": 1},
        {"max_length": 5.0},
    ):
        (name,) = wrong
        with pytest.raises(ValueError, match=f"Received {name}={wrong[name]!r}"):
            export.to_saved_model(model, folder, TOKENIZER, **good | wrong)
    result = export.to_saved_model(
        model, folder, TOKENIZER, sequence_length=np.int64(7), **good
    )
    assert sorted(result["signatures"]) == ["serving_default", "translate"]
