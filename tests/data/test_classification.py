"""Batches of labelled texts, worked out by hand."""

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow", reason="the data sets are tf.data's")
pytest.importorskip("tokenizers", reason="the engine on the host")

from keras_tformer.data import classification_dataset  # noqa: E402
from keras_tformer.text import WordPieceTokenizer  # noqa: E402

TOKENIZER = WordPieceTokenizer("[PAD] [UNK] [CLS] [SEP] [MASK] a b c d e".split())
TEXTS = ["a b", "c", "d e a b", "e"]


def rows(dataset):
    return [
        row for inputs, _ in dataset for row in inputs["token_ids"].numpy().tolist()
    ]


def test_by_hand():
    dataset = classification_dataset(TEXTS, ["y", "x", "y", "z"], TOKENIZER, 5, 3)
    (first, labels), (last, last_labels) = list(dataset)
    assert first["token_ids"].numpy().tolist() == [
        [2, 5, 6, 3, 0],
        [2, 7, 3, 0, 0],
        [2, 8, 9, 5, 3],
    ]
    assert first["padding_mask"].numpy().sum(axis=1).tolist() == [4, 3, 5]
    assert last["token_ids"].shape == (1, 5)
    assert labels.numpy().tolist() == [1, 0, 1]
    assert last_labels.numpy().tolist() == [2]
    assert all(spec.dtype == tf.int32 for spec in tf.nest.flatten(dataset.element_spec))


def test_pairs():
    dataset = classification_dataset(
        TEXTS[:2], [0, 1], TOKENIZER, 7, 2, second_texts=["e", "a b c d e"]
    )
    inputs, labels = next(iter(dataset))
    assert inputs["token_ids"].numpy().tolist() == [
        [2, 5, 6, 3, 9, 3, 0],
        [2, 7, 3, 5, 6, 7, 3],
    ]
    assert inputs["segment_ids"].numpy().sum(axis=1).tolist() == [2, 4]
    assert labels.numpy().tolist() == [0, 1]


def test_static_shapes_without_the_remainder():
    dataset = classification_dataset(
        TEXTS, [0, 1, 0, 1], TOKENIZER, 5, 3, drop_remainder=True
    )
    inputs, labels = dataset.element_spec
    assert inputs["token_ids"].shape == (3, 5)
    assert labels.shape == (3,)
    assert int(dataset.cardinality()) == 1


def test_class_names_decide_the_numbers():
    names = ["z", "y", "x"]
    dataset = classification_dataset(TEXTS, list("yxyz"), TOKENIZER, 5, 4, names)
    assert next(iter(dataset))[1].numpy().tolist() == [1, 2, 1, 0]


def test_shuffle():
    texts = [f"{a} {b} {c}" for a in "abcde" for b in "abcde" for c in "abcde"]
    labels = np.arange(125)

    def dataset(seed):
        return classification_dataset(
            texts, labels, TOKENIZER, 7, 11, shuffle=True, seed=seed
        )

    plain = rows(classification_dataset(texts, labels, TOKENIZER, 7, 11))
    shuffled = dataset(3)
    first, second = rows(shuffled), rows(shuffled)
    assert sorted(first) == sorted(second) == sorted(plain)
    assert len({str(first), str(second), str(plain)}) == 3
    assert rows(dataset(3)) == first
    assert rows(dataset(4)) != first
    for inputs, found in shuffled:  # labels stay with their texts
        for row, label in zip(inputs["token_ids"].numpy(), found.numpy(), strict=True):
            assert row.tolist() == plain[label]


def test_errors():
    with pytest.raises(ValueError, match="no texts"):
        classification_dataset([], [], TOKENIZER, 5, 3)
    with pytest.raises(ValueError, match="4 texts and 1 labels"):
        classification_dataset(TEXTS, [0], TOKENIZER, 5, 3)
    with pytest.raises(ValueError, match="4 texts and 1 second texts"):
        classification_dataset(TEXTS, [0] * 4, TOKENIZER, 5, 3, second_texts=["a"])
    with pytest.raises(ValueError, match="q are not among the class names x, y"):
        classification_dataset(TEXTS, list("xyqx"), TOKENIZER, 5, 3, ["x", "y"])
