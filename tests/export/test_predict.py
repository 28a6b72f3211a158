import collections

import keras
import numpy as np
import pytest
from conftest import SIZES, make_examples

from keras_tformer import export, models
from keras_tformer.text import WordPieceTokenizer

PIECES = "[PAD] [UNK] [CLS] [SEP] [MASK] the cat ##s sat . dog é".split()
TEXTS = ["cats é sat", "dog", "the cats"]


@pytest.fixture(scope="module")
def linear(tmp_path_factory):
    """A model of one input without a mask, by hand: the sum of five numbers, twice."""
    x = keras.Input((5,), name="x")
    model = keras.Model(x, keras.layers.Dense(2, use_bias=False)(x))
    model.set_weights([np.array([[1, 2]] * 5, "float32")])
    folder = tmp_path_factory.mktemp("linear") / "model"
    export.to_saved_model(model, folder)
    return model, folder


@pytest.fixture(scope="module")
def rows():
    return np.arange(35, dtype="float32").reshape(7, 5)


@pytest.fixture(scope="module")
def reader(classifier, tmp_path_factory):
    """Takes texts."""
    folder = tmp_path_factory.mktemp("reader") / "model"
    names = ["a b", "ü", "日本"]
    tokenizer = WordPieceTokenizer(PIECES)
    export.to_saved_model(classifier, folder, tokenizer, class_names=names)
    return folder


@pytest.mark.parametrize("pack", [tuple, list])
def test_whole_arrays_and_their_labels(linear, rows, pack):
    model, folder = linear
    labels = np.array([1, 1, 1, 1, 1, 0, 1])  # the second number is the larger
    for targets, expected in ((labels, 6 / 7), (np.eye(2)[labels], 6 / 7)):
        data = pack([rows, targets])
        output = export.predict(folder, data)["output"]
        np.testing.assert_allclose(output[:, 0], rows.sum(1))
        result = export.verify(folder, model, data)
        assert result["examples"] == 7
        assert result["accuracy"]["artefact"] == pytest.approx(expected)
    # As many rows as the input has numbers, and labels as floats.
    result = export.verify(
        folder, model, pack([rows[:5], labels[:5].astype("float32")])
    )
    assert result["accuracy"] == {"artefact": 1.0, "model": 1.0}


def test_forms_of_one_input(linear, rows):
    _, folder = linear
    tf = pytest.importorskip("tensorflow", reason="SavedModels")
    forms = [
        rows,
        tf.constant(rows),
        rows.tolist(),
        list(rows),
        [rows[:3], rows[3:]],
        [(rows, np.zeros(7))],
        {"x": rows.tolist()},
        collections.UserDict(x=rows),
        (row for row in rows),
        tf.data.Dataset.from_tensor_slices((rows, np.zeros(7))).batch(3),
        tf.data.Dataset.from_tensor_slices(rows),
    ]
    for data in forms:
        output = export.predict(folder, data)["output"]
        np.testing.assert_allclose(output[:, 1], 2 * rows.sum(1))


def test_inputs_in_the_models_order(rows, tmp_path):
    """Trained on tuples, as `fit` takes them; the names would sort otherwise."""
    tf = pytest.importorskip("tensorflow", reason="SavedModels")
    z, a = keras.Input((5,), name="z"), keras.Input((2,), name="a")
    joined = keras.layers.Concatenate()([z, a])
    model = keras.Model([z, a], keras.layers.Dense(3)(joined))
    export.to_saved_model(model, tmp_path / "model")
    pair = (rows, rows[:, :2])
    dataset = tf.data.Dataset.from_tensor_slices((pair, np.zeros(7))).batch(3)
    for data in (dataset, (pair, np.zeros(7)), list(pair), [(pair, np.zeros(7))]):
        result = export.verify(tmp_path / "model", model, data)
        assert result["examples"] == 7
    with pytest.raises(ValueError, match="expected a dict with"):
        export.predict(tmp_path / "model", list(pair))  # the file has no order


def test_data_that_does_not_fit_is_refused(linear, rows, saved_model):
    tf = pytest.importorskip("tensorflow", reason="SavedModels")
    model, folder = linear
    for data, reason in (
        ({"x": rows[:, :3]}, "3 numbers a row, expected 5"),
        ({"x": np.pad(rows, ((0, 0), (0, 2)))}, "7 numbers a row, expected 5"),
        ({"x": rows[None]}, "has the shape"),
        ({"x": np.array([["a"] * 5])}, "received texts"),
        ([{"x": [[1.0] * 5, [2.0]]}], "different lengths"),
        ({"x": rows[0]}, "Put it into a list"),
        (({"x": rows}, np.zeros(3)), "7 rows of inputs and 3 of labels"),
        (({"x": rows}, np.zeros(7), np.zeros(2)), "and 2 of weights"),
        (None, "Received None as data"),
        (3, "Received 3 as data"),
        ("rows", "Received 'rows' as data"),
        (tf.data.Dataset.from_tensors({"x": rows}).repeat(), "without end"),
    ):
        with pytest.raises(ValueError, match=reason):
            export.predict(folder, data)
        with pytest.raises(ValueError, match=reason):
            export.verify(folder, model, data)
    endless = tf.data.Dataset.from_tensors({"x": rows}).repeat()
    assert export.verify(folder, model, endless, max_examples=17)["examples"] == 17
    examples = make_examples(9)
    for name in examples:
        fewer = examples | {name: examples[name][:4]}
        with pytest.raises(ValueError, match="different numbers of rows"):
            export.predict(saved_model, fewer)


@pytest.mark.slow
def test_ids_that_no_table_has(tflite_file, saved_model, classifier):
    examples = make_examples(9)
    ids = examples["token_ids"]
    for artefact in (tflite_file, saved_model):
        for wrong, reason in (
            (ids + 60, "no row for"),
            (ids - 60, "no row for"),
            (ids.astype("int64") + 2**32, "int32 cannot hold"),
            (ids + 0.7, "whole numbers"),
            (ids * np.nan, "whole numbers"),
        ):
            data = examples | {"token_ids": wrong}
            with pytest.raises(ValueError, match=reason):
                export.predict(artefact, data)
            with pytest.raises(ValueError, match=reason):
                export.verify(artefact, classifier, data)
        whole = examples | {"token_ids": ids.astype("float32")}
        expected = export.predict(artefact, examples)["output"]
        assert np.array_equal(export.predict(artefact, whole)["output"], expected)
    with pytest.raises(ValueError, match="no row for"):  # of positions
        export.predict(saved_model, make_examples(3, 40))


@pytest.mark.slow
def test_texts_of_any_kind(reader):
    tf = pytest.importorskip("tensorflow", reason="SavedModels")
    expected = export.predict(reader, {"texts": TEXTS}, signature="serve_text")
    slices = tf.data.Dataset.from_tensor_slices({"texts": TEXTS})
    for data in (
        TEXTS,
        {"texts": [text.encode() for text in TEXTS]},
        {"texts": np.array(TEXTS, object)},
        {"texts": tf.constant(TEXTS)},
        slices,
        slices.batch(2),
    ):
        answers = export.predict(reader, data, signature="serve_text")
        for name, values in expected.items():
            if values.dtype.kind == "U":
                assert answers[name].tolist() == values.tolist()
            else:
                np.testing.assert_allclose(answers[name], values, atol=1e-5)
    for texts, reason in (
        ("cats sat", "Put it into a list"),
        (b"cats sat", "Put it into a list"),
        (np.arange(3), "takes texts"),
        ([], "empty"),
    ):
        with pytest.raises(ValueError, match=reason):
            export.predict(reader, {"texts": texts}, signature="serve_text")
    pair = {"texts": TEXTS, "second_texts": TEXTS[:1]}
    with pytest.raises(ValueError, match="different numbers of rows"):
        export.predict(reader, pair, signature="serve_text_pair")


@pytest.mark.slow
def test_texts_in_a_process_of_its_own(reader):
    expected = export.predict(reader, {"texts": TEXTS}, signature="serve_text")
    data = [{"texts": np.array(TEXTS[:2], object)}, {"texts": [TEXTS[2].encode()]}]
    answers = export.predict(
        reader, data, signature="serve_text", in_separate_process=True
    )
    assert answers["labels"].tolist() == expected["labels"].tolist()
    np.testing.assert_allclose(answers["output"], expected["output"], atol=1e-5)


@pytest.mark.slow
def test_batches_of_several_lengths(tmp_path):
    """One row a token: shorter batches' end in zeros, as their tokens do."""
    keras.utils.set_random_seed(5)
    model = models.token_classifier(
        models.bert_encoder(num_layers=1, **SIZES), num_classes=4
    )
    tokenizer = WordPieceTokenizer(PIECES)
    export.to_saved_model(
        model, tmp_path / "model", tokenizer, class_names=list("abcd")
    )
    batches = [make_examples(3, 7), make_examples(2, 5), make_examples(2, 11)]
    for apart in (False, True):
        output = export.predict(tmp_path / "model", batches, in_separate_process=apart)[
            "output"
        ]
        start = 0
        for batch in batches:
            count, length = batch["token_ids"].shape
            expected = model.predict(batch, verbose=0)
            part = output[start : start + count]
            np.testing.assert_allclose(part[:, :length], expected, atol=1e-5)
            assert part.shape == (count, 11, 4) and not part[:, length:].any()
            start += count
    export.verify(tmp_path / "model", model, batches, tolerance=1e-5)
    texts = ["dog"] * 33 + ["the cats sat . dog"]
    answers = export.predict(tmp_path / "model", texts, signature="serve_text")
    assert answers["output"].shape == (34, 8, 4)
    assert answers["labels"][0, 3:].tolist() == [""] * 5


@pytest.mark.parametrize("num_classes", [2, 5])
def test_another_number_of_classes(num_classes, classifier, examples, tmp_path):
    other = models.sequence_classifier(
        models.bert_encoder(num_layers=1, **SIZES), num_classes=num_classes
    )
    export.to_saved_model(other, tmp_path / "model")
    with pytest.raises(ValueError, match=rf"\(67, {num_classes}\), the model's"):
        export.verify(tmp_path / "model", classifier, examples)


@pytest.mark.slow
def test_translations_in_fixed_batches(tmp_path):
    sizes = {"hidden_dim": 32, "num_heads": 2, "intermediate_dim": 64, "num_layers": 1}
    keras.utils.set_random_seed(5)
    model = models.transformer(vocabulary_size=len(PIECES), **sizes)
    tokenizer = WordPieceTokenizer(PIECES)
    answers = []
    for rows in (None, 2):
        folder = tmp_path / f"model{rows}"
        export.to_saved_model(model, folder, tokenizer, batch_size=rows, max_length=6)
        answers.append(export.predict(folder, TEXTS, signature="translate"))
    free, fixed = answers
    assert free["translations"].shape == (3,)
    assert free["translations"].tolist() == fixed["translations"].tolist()
    np.testing.assert_allclose(free["scores"], fixed["scores"], atol=1e-5)


def test_half_precision_is_compared_in_a_graph(tmp_path):
    keras.utils.set_random_seed(5)
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = models.sequence_classifier(
            models.bert_encoder(num_layers=2, **SIZES), num_classes=3
        )
    finally:
        keras.config.set_dtype_policy("float32")
    export.to_saved_model(model, tmp_path / "model")
    result = export.verify(tmp_path / "model", model, make_examples(31))
    assert result["largest_difference"] < 1e-5


def test_weights_of_labels(linear, rows):
    model, folder = linear
    labels = np.array([0, 1, 1, 1, 1, 1, 1])
    for weights, expected in (
        (np.array([0, 1, 1, 1, 1, 1, 1]), 1.0),
        (np.array([[1], [1], [0], [0], [0], [0], [0]]), 0.5),
    ):
        result = export.verify(folder, model, (rows, labels, weights))
        assert result["accuracy"]["artefact"] == expected
    result = export.verify(folder, model, (rows, labels, np.zeros(7)))
    assert "accuracy" not in result  # of no row
    with pytest.raises(ValueError, match="are no numbers"):
        export.verify(folder, model, (rows, np.array(["a"] * 7)))
    with pytest.raises(ValueError, match="Expected a keras.Model"):
        export.verify(folder, None, rows)
