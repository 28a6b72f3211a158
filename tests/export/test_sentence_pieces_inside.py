"""Sentence pieces inside of a `.tflite` file: text in, the ids of ALBERT out."""

import pathlib

import keras
import numpy as np
import pytest

from keras_tformer import export
from keras_tformer.models import albert_encoder, sequence_classifier

pytest.importorskip("ai_edge_litert", reason="the files are proved on ai_edge_litert")
pytest.importorskip("tensorflow_text", reason="needs tensorflow-text")
sentencepiece = pytest.importorskip("sentencepiece", reason="trains a model")
LENGTH = 17
SENTENCES = [
    "The cats, they said ``naïve'' things in a Café.",
    "Привет, мир! Как дела?",
    "東京タワー 日本語テスト",
    "مرحبا שלום हिन्दी",
    "Ελλάδα ΣΑΣ",
]


@pytest.fixture(scope="module")
def tokenizer():
    from keras_tformer.text import SentencePieceTokenizer

    return SentencePieceTokenizer.train(SENTENCES * 7, 151, show_progress=False)


@pytest.fixture(scope="module")
def albert(tokenizer):
    keras.utils.set_random_seed(11)
    encoder = albert_encoder(
        vocabulary_size=tokenizer.vocabulary_size,
        embedding_dim=11,
        num_layers=1,
        num_heads=2,
        hidden_dim=34,
        intermediate_dim=37,
        max_sequence_length=19,
        initializer_range=0.4,
    )
    return sequence_classifier(encoder, num_classes=3)


@pytest.mark.slow
@pytest.mark.parametrize("quantization", [None, "int8"])
def test_ids_and_size(albert, tokenizer, tmp_path, quantization):
    from keras_tformer.text import pack

    numbers = {"start_id": tokenizer.start_id, "end_id": tokenizer.end_id}
    texts = [*SENTENCES, *(s.upper() for s in SENTENCES), "", " ", "The cat " * 9]
    # The host's tokenizer (Rust) as the other way to the ids.
    expected = pack(tokenizer.encode(texts), sequence_length=LENGTH, **numbers)
    settings = {
        "sequence_length": LENGTH,
        "quantization": quantization,
        "representative_data": expected,
    }
    file = tmp_path / "model.tflite"
    report = export.to_tflite(
        albert, file, tokenizer=tokenizer, tokenizer_inside=True, **settings
    )
    assert report["signatures"] == ["serving_default", "tokenize"]
    inputs = export.predict(file, {"texts": np.array(texts)}, signature="tokenize")
    assert set(inputs) == set(expected)
    for name, ids in expected.items():
        np.testing.assert_array_equal(inputs[name], ids)
    # SentencePiece's own library, on text that needs no preparation.
    processor = sentencepiece.SentencePieceProcessor(
        model_proto=pathlib.Path(report["vocabulary"]).read_bytes()
    )
    row = [2, *processor.encode("the cats, they")[: LENGTH - 2], 3]
    one = np.array(["THE cats, they"])
    found = export.predict(file, {"texts": one}, signature="tokenize")["token_ids"]
    assert found[0, : len(row)].tolist() == row
    # The app that links no text operators still runs the model.
    outputs = export.predict(file, inputs)["output"]
    logits = albert.predict(expected, verbose=0)
    limit = {None: 1e-5, "int8": 0.15}[quantization]
    assert np.abs(outputs - logits).mean() < limit * logits.std()
    alone = export.to_tflite(albert, file, verify=False, **settings)
    sizes = [result["weight_bytes"] for result in (alone, report)]
    # The tokenizer's model is bytes; no weight is stored again.
    for kind in ("float32", "int8"):
        assert sizes[1].get(kind, 0) == sizes[0].get(kind, 0)
    model = tokenizer._fast_tokenizer(True)._converted_model
    assert sizes[1]["uint8"] - sizes[0].get("uint8", 0) == len(model)


@pytest.mark.slow
def test_file_with_other_ids_is_not_left(albert, tokenizer, tmp_path, monkeypatch):
    # As if the rules had not taken the preparation in: capitals are unknown.
    plain = tokenizer._fast_tokenizer(False)
    monkeypatch.setitem(tokenizer._graph, True, plain)
    with pytest.raises(ValueError, match="No file was written: .* gives other ids for"):
        export.to_tflite(
            albert,
            tmp_path / "model.tflite",
            sequence_length=LENGTH,
            tokenizer=tokenizer,
            tokenizer_inside=True,
        )
    assert not list(tmp_path.iterdir())


def test_refused(albert, tokenizer, tmp_path):
    from keras_tformer.text import SentencePieceTokenizer

    settings = {"sequence_length": LENGTH, "tokenizer_inside": True}
    file = tmp_path / "model.tflite"

    class Letters:
        vocabulary_size = 7

        def save(self, file):
            pathlib.Path(file).write_text("abcdefg")

    with pytest.raises(ValueError, match="Letters: only a WordPieceTokenizer or a Se"):
        export.to_tflite(albert, file, tokenizer=Letters(), **settings)
    tokenizer.save(tmp_path / "spiece.model")
    cutting = SentencePieceTokenizer(
        tmp_path / "spiece.model", split_comma_after_digit=True
    )
    with pytest.raises(ValueError, match="or for split_comma_after_digit"):
        export.to_tflite(albert, file, tokenizer=cutting, **settings)
    assert not file.exists()
