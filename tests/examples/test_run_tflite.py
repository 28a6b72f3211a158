"""The lines that an app developer copies, on the files that `to_tflite` writes."""

import hashlib
import importlib.util
import json
import pathlib

import keras
import numpy as np
import pytest
from texts_for_apps import PIECES as ODD_PIECES
from texts_for_apps import SETTINGS, TEXTS

from keras_tformer.export import to_tflite
from keras_tformer.export.companions import describe_tokenizer
from keras_tformer.text import WordPieceTokenizer, pack

ROOT = pathlib.Path(__file__).resolve().parents[2]
CARD = ROOT / "savedmodels" / "quickstart" / "classifier_int8.json"
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "dog", "cat", "run", "##s"]

pytest.importorskip("ai_edge_litert", reason="needs ai-edge-litert")


@pytest.fixture(scope="module")
def run_tflite():
    spec = importlib.util.spec_from_file_location(
        "run_tflite", ROOT / "examples" / "run_tflite.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_its_tokens_are_those_of_the_reference(run_tflite):
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    from keras_tformer.data import embedded_corpus

    card = json.loads(CARD.read_text(encoding="utf-8"))
    file = CARD.parent / card["vocabulary"]
    lines = file.read_text(encoding="utf-8").splitlines()
    vocabulary = {piece: index for index, piece in enumerate(lines)}
    reference = transformers.BertTokenizerFast(vocab=vocabulary, do_lower_case=True)
    documents = embedded_corpus(("numpy", "language"), max_documents_per_label=40)
    texts = [text for document in documents for text in document.paragraphs]
    assert len(texts) > 300
    card["never_split"] = WordPieceTokenizer.SPECIAL_TOKENS  # as the reference has it
    for text in texts + TEXTS:
        ours = list(run_tflite.word_pieces(text, vocabulary, card))
        assert ours == reference(text, add_special_tokens=False)["input_ids"], text


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_it_follows_the_settings_of_the_card(run_tflite, settings):
    tokenizer = WordPieceTokenizer(ODD_PIECES, **settings)
    card = json.loads(json.dumps(describe_tokenizer(tokenizer)))
    vocabulary = {piece: index for index, piece in enumerate(ODD_PIECES)}
    for text, expected in zip(TEXTS, tokenizer.encode(TEXTS), strict=True):
        assert list(run_tflite.word_pieces(text, vocabulary, card)) == expected, text


def test_committed_artefact_knows_its_classes(run_tflite, capsys):
    run_tflite.main(["Returns the element-wise square of a Keras tensor."])
    lines = capsys.readouterr().out.splitlines()
    card = json.loads(CARD.read_text(encoding="utf-8"))
    assert sorted(line.split()[-1] for line in lines) == sorted(card["classes"])
    shares = [float(line.split("%")[0]) for line in lines]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(100, abs=0.5)


def test_committed_artefact_is_what_its_card_says():
    card = json.loads(CARD.read_text(encoding="utf-8"))
    content = (CARD.parent / card["file"]).read_bytes()
    assert hashlib.sha256(content).hexdigest() == card["sha256"]
    assert len(content) == card["size_bytes"] <= 3_000_000


@pytest.fixture
def tokens_only():
    """A classifier without segments and mask: each length has its own answer."""
    keras.utils.set_random_seed(5)
    ids = keras.Input((None,), dtype="int32", name="token_ids")
    hidden = keras.layers.Embedding(11, 7, embeddings_initializer="normal")(ids)
    hidden = keras.layers.GlobalAveragePooling1D()(hidden)
    output = keras.layers.Dense(3, kernel_initializer="normal")(hidden)
    model = keras.Model({"token_ids": ids}, output)
    model.set_weights([30 * weight for weight in model.get_weights()])
    return model


def expected_shares(model, text, length):
    """`{class: share in %}` of the Keras model, at one length."""
    ids = WordPieceTokenizer(PIECES).encode([text])
    packed = pack(ids, sequence_length=length, start_id=2, end_id=3)
    logits = model.predict({"token_ids": packed["token_ids"]}, verbose=0)[0]
    return 100 * np.exp(logits) / np.exp(logits).sum()


def printed_shares(run_tflite, capsys, card, text):
    run_tflite.main(["--model", str(card), text])
    lines = [line.split("%") for line in capsys.readouterr().out.splitlines()]
    return {name.strip(): float(share) for share, name in lines}


def test_files_for_several_lengths_without_segments_and_names(
    run_tflite, capsys, tokens_only, tmp_path
):
    result = to_tflite(
        tokens_only,
        tmp_path / "model.tflite",
        sequence_length=(16, 8),
        tokenizer=WordPieceTokenizer(PIECES),
        verify=False,
    )
    card = pathlib.Path(result["card"])
    # The longest that fits 8 and 16, then one that is too long for both.
    texts = {"dogs run": 8, "dog " * 6: 8, "dog " * 7: 16, "cat dogs " * 13: 16}
    for text, length in texts.items():
        shares = printed_shares(run_tflite, capsys, card, text)
        expected = expected_shares(tokens_only, text, length)
        found = [shares[name] for name in "012"]
        assert found == pytest.approx(expected, abs=0.06), text
    eight, sixteen = (expected_shares(tokens_only, "dogs run", n) for n in (8, 16))
    assert np.abs(eight - sixteen).max() > 1
    # As such a card was before: it knows its lengths from the inputs alone.
    older = json.loads(card.read_text(encoding="utf-8")) | {"sequence_length": [16, 8]}
    del older["lengths"]
    card.write_text(json.dumps(older))
    shares = printed_shares(run_tflite, capsys, card, "dogs run")
    assert [shares[name] for name in "012"] == pytest.approx(sixteen, abs=0.06)


def test_probabilities_and_a_vocabulary_with_ends_of_lines(
    run_tflite, capsys, tokens_only, tmp_path
):
    pieces = ["[PAD]", "\u2028", "\x85", *PIECES[1:]]
    output = keras.layers.Softmax()(tokens_only.output)
    model = keras.Model(tokens_only.input, output)
    tokenizer = WordPieceTokenizer(pieces)
    file = tmp_path / "model.tflite"
    result = to_tflite(
        model, file, sequence_length=8, tokenizer=tokenizer, verify=False
    )
    shares = printed_shares(run_tflite, capsys, result["card"], "dog cow cats")
    rows = pack(
        tokenizer.encode(["dog cow cats"]), sequence_length=8, start_id=4, end_id=5
    )
    expected = 100 * model.predict({"token_ids": rows["token_ids"]}, verbose=0)[0]
    assert [shares[n] for n in "012"] == pytest.approx(expected, abs=0.06)
    assert np.ptp(expected) > 10


def test_a_file_for_a_batch(run_tflite, capsys, tokens_only, tmp_path):
    result = to_tflite(
        tokens_only,
        tmp_path / "model.tflite",
        sequence_length=8,
        batch_size=3,
        tokenizer=WordPieceTokenizer(PIECES),
        class_names=["a", "ß", "c d"],
        verify=False,
    )
    shares = printed_shares(run_tflite, capsys, result["card"], "cats run")
    expected = expected_shares(tokens_only, "cats run", 8)
    assert [shares[n] for n in ("a", "ß", "c d")] == pytest.approx(expected, abs=0.06)


@pytest.mark.parametrize(
    "changed",
    [
        {"tokenizer": "SentencePieceTokenizer", "vocabulary": "sentencepiece.model"},
        {"vocabulary": None, "tokenizer": None},
        {"outputs": {"sequence_output": {"shape": [1, 64, 128], "dtype": "float32"}}},
    ],
)
def test_cards_of_other_files_are_refused(run_tflite, capsys, tmp_path, changed):
    card = json.loads(CARD.read_text(encoding="utf-8")) | changed
    (tmp_path / "model.json").write_text(json.dumps(card))
    with pytest.raises(SystemExit):
        run_tflite.main(["--model", str(tmp_path / "model.json"), "a text"])
    told = capsys.readouterr().err
    assert "model.json is not the card of a classifier with word pieces" in told
