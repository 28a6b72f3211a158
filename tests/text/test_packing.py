"""Packed rows worked out by hand, and the graph against the host."""

import numpy as np
import pytest

from keras_tformer.text import pack

SPECIAL = {"start_id": 2, "end_id": 3, "padding_id": 9}


def ragged(rows):
    tf = pytest.importorskip("tensorflow", reason="ragged tensors are TensorFlow's")
    return tf.RaggedTensor.from_row_lengths(
        tf.constant([i for row in rows for i in row], tf.int32), [len(r) for r in rows]
    )


@pytest.mark.parametrize("kind", [list, ragged])
def test_one_text_by_hand(kind):
    row = pack(kind([[11, 12], [], [11, 12, 13, 14]]), sequence_length=5, **SPECIAL)
    assert np.asarray(row["token_ids"]).tolist() == [
        [2, 11, 12, 3, 9],
        [2, 3, 9, 9, 9],
        [2, 11, 12, 13, 3],
    ]
    assert np.asarray(row["padding_mask"]).sum(axis=1).tolist() == [4, 2, 5]
    assert not np.asarray(row["segment_ids"]).any()
    assert {np.asarray(value).dtype.name for value in row.values()} == {"int32"}


@pytest.mark.parametrize("kind", [list, ragged])
def test_pairs_by_hand(kind):
    first = [[11, 12, 13, 14, 15], [11], [11, 12, 13, 14, 15], [], [11, 12]]
    second = [[21, 22, 23, 24, 25], [21, 22, 23, 24, 25, 26], [21], [21], [21]]
    row = pack(kind(first), kind(second), sequence_length=8, **SPECIAL)
    assert np.asarray(row["token_ids"]).tolist() == [
        [2, 11, 12, 13, 3, 21, 22, 3],
        [2, 11, 3, 21, 22, 23, 24, 3],
        [2, 11, 12, 13, 14, 3, 21, 3],
        [2, 3, 21, 3, 9, 9, 9, 9],
        [2, 11, 12, 3, 21, 3, 9, 9],
    ]
    assert np.asarray(row["segment_ids"]).tolist() == [
        [0, 0, 0, 0, 0, 1, 1, 1],
        [0, 0, 0, 1, 1, 1, 1, 1],
        [0, 0, 0, 0, 0, 0, 1, 1],
        [0, 0, 1, 1, 0, 0, 0, 0],
        [0, 0, 0, 0, 1, 1, 0, 0],
    ]
    assert np.asarray(row["padding_mask"]).sum(axis=1).tolist() == [8, 8, 8, 4, 6]


def bert_truncated(first, second, room):
    """The loop of BERT's data preparation: pop from the longer one, else the second."""
    first, second = list(first), list(second)
    while len(first) + len(second) > room:
        (first if len(first) > len(second) else second).pop()
    return first, second


@pytest.mark.parametrize("sequence_length", [7, 12, 13])
def test_pairs_as_in_bert(sequence_length):
    generator = np.random.default_rng(5)
    first = [list(range(100, 100 + n)) for n in generator.integers(0, 17, 101)]
    second = [list(range(200, 200 + n)) for n in generator.integers(0, 17, 101)]
    host = pack(first, second, sequence_length=sequence_length, **SPECIAL)
    graph = pack(
        ragged(first), ragged(second), sequence_length=sequence_length, **SPECIAL
    )
    for i, pair in enumerate(zip(first, second, strict=True)):
        left, right = bert_truncated(*pair, sequence_length - 3)
        expected = [2, *left, 3, *right, 3]
        assert host["token_ids"][i, : len(expected)].tolist() == expected
        assert host["padding_mask"][i].sum() == len(expected)
        assert host["segment_ids"][i].sum() == len(right) + 1
    for name, value in graph.items():
        np.testing.assert_array_equal(value, host[name])


def test_static_shape_in_a_graph():
    tf = pytest.importorskip("tensorflow", reason="the graph is TensorFlow's")
    dataset = tf.data.Dataset.from_tensors(ragged([[5, 6], [7]]))
    dataset = dataset.map(lambda ids: pack(ids, sequence_length=7, **SPECIAL))
    assert {tuple(spec.shape) for spec in dataset.element_spec.values()} == {(2, 7)}


def test_errors():
    with pytest.raises(ValueError, match="sequence_length is 2; expected at least 3"):
        pack([[1]], sequence_length=2, **SPECIAL)
    with pytest.raises(ValueError, match="expected at least 4"):
        pack([[1]], [[1]], sequence_length=3, **SPECIAL)
    with pytest.raises(ValueError, match="1 texts and second 2"):
        pack([[1]], [[1], [2]], sequence_length=7, **SPECIAL)
    with pytest.raises(ValueError, match="both to be ragged"):
        pack(ragged([[1]]), [[1]], sequence_length=7, **SPECIAL)
