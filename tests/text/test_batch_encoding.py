"""Rows, spans and truncation worked out by hand; the same rows as `pack`."""

import numpy as np
import pytest

from keras_tformer.text import WordPieceTokenizer, encode_batch, pack

PIECES = "[PAD] [UNK] [CLS] [SEP] [MASK] un ##do ##n it a caf ##e , !".split()


@pytest.fixture(scope="module")
def tokenizer():
    pytest.importorskip("tokenizers", reason="the engine on the host")
    return WordPieceTokenizer(PIECES)


def test_by_hand(tokenizer):
    text = " Undo\u200b  IT!  cafe\u0301"
    row = encode_batch(
        tokenizer, [text], ["a"], sequence_length=11, return_offsets=True
    )
    assert row["token_ids"].tolist() == [[2, 5, 6, 8, 13, 10, 11, 3, 9, 3, 0]]
    assert row["segment_ids"].tolist() == [[0] * 8 + [1, 1, 0]]
    assert row["padding_mask"].tolist() == [[1] * 10 + [0]]
    assert row["word_ids"].tolist() == [[-1, 0, 0, 1, 2, 3, 3, -1, 0, -1, -1]]
    parts = [text[start:end] for start, end in row["offsets"][0]]
    assert parts[1:5] == ["Un", "do", "IT", "!"]
    assert parts[5] == "caf"
    assert parts[6].startswith("e")
    assert parts[0] == parts[7] == parts[10] == ""


@pytest.mark.parametrize("sequence_length", [7, 12, 13])
def test_longest_first_is_what_pack_does(tokenizer, sequence_length):
    draw = np.random.default_rng(3)
    first = ["a " * n for n in draw.integers(0, 17, 53)]
    second = ["it " * n for n in draw.integers(0, 17, 53)]
    found = encode_batch(tokenizer, first, second, sequence_length=sequence_length)
    expected = pack(
        tokenizer.encode(first),
        tokenizer.encode(second),
        sequence_length=sequence_length,
        start_id=2,
        end_id=3,
    )
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)


def test_one_text_alone_is_cut(tokenizer):
    pair = {"first": ["a a a a a"], "second": ["it it it"], "sequence_length": 8}
    row = encode_batch(tokenizer, **pair, truncation="only_first")
    assert row["token_ids"].tolist() == [[2, 9, 9, 3, 8, 8, 8, 3]]
    with pytest.raises(ValueError, match="cannot make room"):
        encode_batch(tokenizer, **pair, truncation="only_second")
    with pytest.raises(ValueError, match="truncation is False"):
        encode_batch(tokenizer, **pair, truncation=False)


def test_lengths(tokenizer):
    texts = ["a it", "", "a a a"]
    assert encode_batch(tokenizer, texts)["token_ids"].shape == (3, 5)
    numbers = {"sequence_length": 7, "pad_to_sequence_length": False}
    assert encode_batch(tokenizer, texts, **numbers)["token_ids"].shape == (3, 5)
    bare = encode_batch(tokenizer, texts, add_special_tokens=False)
    assert bare["token_ids"].tolist() == [[9, 8, 0], [0, 0, 0], [9, 9, 9]]
    short = WordPieceTokenizer(PIECES, max_sequence_length=4)
    assert encode_batch(short, texts)["token_ids"].shape == (3, 4)
    assert encode_batch(tokenizer, [])["token_ids"].shape == (0, 2)


def test_errors(tokenizer):
    with pytest.raises(ValueError, match="truncation is 'first'; expected one of"):
        encode_batch(tokenizer, ["a"], truncation="first")
    with pytest.raises(ValueError, match="without second texts"):
        encode_batch(tokenizer, ["a"], truncation="only_second")
    with pytest.raises(ValueError, match="first has 1 texts and second 2"):
        encode_batch(tokenizer, ["a"], ["a", "a"])
    with pytest.raises(
        ValueError, match="Row 0 has 4 ids, sequence_length 2: too short"
    ):
        encode_batch(tokenizer, ["a a"], sequence_length=2)
