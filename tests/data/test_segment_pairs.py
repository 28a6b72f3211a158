"""No token lost, labels in balance, and the same pairs for the same seed."""

import collections

import numpy as np
import pytest

pytest.importorskip("tokenizers", reason="the engine on the host")

from keras_tformer.data import (  # noqa: E402
    deduplicate,
    read_documents,
    segment_pairs,
    split_documents,
)
from keras_tformer.text import WordPieceTokenizer  # noqa: E402

T = 67


@pytest.fixture(scope="module")
def documents(data_folder):
    stream = read_documents(data_folder / "wiki" / "enwiki_sample.txt.xz")
    return [document for document, _ in zip(stream, range(37), strict=False)]


@pytest.fixture(scope="module")
def tokenizer(data_folder):
    return WordPieceTokenizer(data_folder / "vocab" / "bert-base-uncased-vocab.txt")


@pytest.fixture(scope="module")
def make(documents, tokenizer):
    def make(pair_task, **options):
        return list(segment_pairs(documents, tokenizer, T, pair_task, **options))

    return make


def all_ids(documents, tokenizer):
    return [sum(tokenizer.encode(document.paragraphs), []) for document in documents]


def test_sentence_order_loses_no_token(make, documents, tokenizer):
    pairs = make("sentence_order", seed=3)
    together = []
    for pair in pairs:
        assert pair.first
        assert pair.second
        assert len(pair.first) + len(pair.second) <= T - 3
        order = pair.second, pair.first
        together += sum(order if pair.label else order[::-1], [])
    assert together == sum(all_ids(documents, tokenizer), [])


def test_next_sentence_loses_no_token(make, documents, tokenizer):
    pairs = make("next_sentence", seed=3)
    of_document = all_ids(documents, tokenizer)
    whole = iter(of_document)
    rest, number = next(whole), 0
    numbers = []
    for pair in pairs:
        assert len(pair.first) + len(pair.second) <= T - 3
        if not rest:
            rest, number = next(whole), number + 1
        own = pair.first + ([] if pair.label else pair.second)
        assert rest[: len(own)] == own
        rest = rest[len(own) :]
        numbers.append(number)
    assert not rest
    assert next(whole, None) is None
    # A random segment comes from another document.
    texts = [" " + " ".join(map(str, ids)) + " " for ids in of_document]
    negatives = [(n, p) for n, p in zip(numbers, pairs, strict=True) if p.label]
    for number, pair in negatives[:97]:
        second = " " + " ".join(map(str, pair.second)) + " "
        assert any(second in t for n, t in enumerate(texts) if n != number)


@pytest.mark.parametrize("pair_task", ["sentence_order", "next_sentence"])
def test_labels_are_in_balance(make, pair_task):
    labels = np.array([pair.label for pair in make(pair_task)])
    # Four standard deviations of a fair coin.
    assert abs(labels.mean() - 0.5) < 4 * 0.5 / len(labels) ** 0.5
    assert all(pair.label == 0 for pair in make("sentence_order", negative_share=0.0))
    assert all(pair.label == 1 for pair in make(pair_task, negative_share=1.0))


def test_lengths(make):
    lengths = np.array([len(p.first) + len(p.second) for p in make("sentence_order")])
    full = make("sentence_order", short_sequence_share=0.0)
    full = np.array([len(p.first) + len(p.second) for p in full])
    assert full.mean() > 0.6 * T
    assert lengths.mean() < full.mean()


def test_same_seed_same_pairs(documents, tokenizer):
    def make(pair_task, **options):
        return list(segment_pairs(documents[:5], tokenizer, T, pair_task, **options))

    assert make("next_sentence", seed=5) == make("next_sentence", seed=5)
    assert make("next_sentence", seed=5) != make("next_sentence", seed=6)
    assert make("next_sentence") != make("next_sentence", duplicate=1)


def test_sentence_length_extremes(tokenizer):
    """One long sentence, one word, nothing: what fits is kept, in order."""
    documents = [["the " * 229], ["the"], [""], ["the of and the of"]]
    pairs = list(segment_pairs(documents, tokenizer, 13, "sentence_order"))
    count = sum(len(p.first) + len(p.second) for p in pairs)
    assert count == 229 + 5  # the document of one word has no order
    pairs = list(segment_pairs(documents, tokenizer, 13, negative_share=0.0))
    own = sum(len(p.first) + (0 if p.label else len(p.second)) for p in pairs)
    assert own == 229 + 1 + 5
    for length in (5, 6, 7):
        for pair in segment_pairs(documents, tokenizer, length):
            assert 2 <= len(pair.first) + len(pair.second) <= length - 3


def test_nothing_leaks_over_a_split(documents, tokenizer):
    parts = split_documents(deduplicate(documents), seed=3)
    rows = []
    for part in parts:
        found = collections.Counter()
        for pair in segment_pairs(part, tokenizer, T, "sentence_order"):
            found[tuple(pair.first + pair.second)] += 1
        rows.append({row for row in found if len(row) > 29})
    assert all(rows)
    assert not rows[0] & rows[1] | rows[0] & rows[2] | rows[1] & rows[2]


def test_errors(tokenizer):
    def first(*arguments, **options):
        return next(segment_pairs(*arguments, **options))

    with pytest.raises(ValueError, match="1 documents with text"):
        first([["One two."], [""]], tokenizer, 13)
    with pytest.raises(ValueError, match="pair_task is 'order'"):
        first([["One."]], tokenizer, 13, "order")
    with pytest.raises(ValueError, match="expected at least 5"):
        first([["One."]], tokenizer, 4)
    with pytest.raises(ValueError, match="negative_share is 2"):
        first([["One."]], tokenizer, 13, negative_share=2)
