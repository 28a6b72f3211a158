"""Bulk encoding gives the ids of the Rust library, whichever library does the work."""

import builtins

import pytest

from keras_tformer import data, text
from keras_tformer.data import bulk_encoding, pretraining_records
from keras_tformer.data.bulk_encoding import bulk_library, encode_in_bulk


@pytest.fixture(scope="module")
def paragraphs():
    return data.texts_and_labels(data.embedded_corpus())[0][:400]


@pytest.fixture(scope="module")
def word_pieces(paragraphs):
    return text.WordPieceTokenizer.train(paragraphs, 997, show_progress=False)


def test_ids_are_those_of_the_rust_library(paragraphs, word_pieces, monkeypatch):
    pytest.importorskip("tensorflow_text")
    texts = [*paragraphs, "", "  ", "\u00c9t\u00e9 \u4e2d\u6587 \U0001f600", "x" * 300]
    monkeypatch.setattr(bulk_encoding, "_TEXTS_AT_ONCE", 7)
    assert bulk_library(word_pieces) == "tensorflow_text"
    assert encode_in_bulk(word_pieces, texts) == word_pieces.encode(texts)
    assert encode_in_bulk(word_pieces, []) == []


def test_works_without_tensorflow_text(paragraphs, word_pieces, monkeypatch):
    import_module = builtins.__import__

    def without_tensorflow_text(name, *arguments, **keywords):
        if name == "tensorflow_text":
            raise ImportError(name)
        return import_module(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without_tensorflow_text)
    assert bulk_library(word_pieces) == "tokenizers"
    assert encode_in_bulk(word_pieces, paragraphs) == word_pieces.encode(paragraphs)


def test_settings_that_tensorflow_text_lacks_go_to_the_other_library(word_pieces):
    whole = text.WordPieceTokenizer(
        word_pieces.vocabulary, split_chinese_characters=False
    )
    assert bulk_library(whole) == "tokenizers"
    assert encode_in_bulk(whole, ["one \u4e2d\u6587"]) == whole.encode(
        ["one \u4e2d\u6587"]
    )


def test_half_a_surrogate_pair_is_named(word_pieces):
    with pytest.raises(ValueError, match="Text 1 holds half a surrogate pair"):
        encode_in_bulk(word_pieces, ["whole", "half \ud800"])


def test_records_of_sentence_pieces_keep_to_one_library(
    tmp_path, paragraphs, monkeypatch
):
    tokenizer = text.SentencePieceTokenizer.train(paragraphs, 499, show_progress=False)
    documents = [paragraphs[:20], paragraphs[20:40]]
    arguments = documents, tmp_path, tokenizer, 31
    monkeypatch.setattr(pretraining_records, "bulk_library", lambda _: "tokenizers")
    data.write_pretraining_records(*arguments)
    monkeypatch.setattr(pretraining_records, "bulk_library", lambda _: "another")
    with pytest.raises(ValueError, match="tokenized_with='tokenizers', not 'another'"):
        data.write_pretraining_records(*arguments)
