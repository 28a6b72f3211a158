"""Nobody can tell the label of a pair by where its segments were cut."""

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="the data sets are tf.data's")
pytest.importorskip("tokenizers", reason="the engine on the host")

from keras_tformer.data import (  # noqa: E402
    next_sentence_dataset,
    read_documents,
    segment_pairs,
    sentence_order_dataset,
)
from keras_tformer.text import WordPieceTokenizer  # noqa: E402

T = 127


@pytest.fixture(scope="module")
def documents(data_folder):
    stream = read_documents(data_folder / "wiki" / "enwiki_sample.txt.xz")
    return [document for document, _ in zip(stream, range(97), strict=False)]


@pytest.fixture(scope="module")
def tokenizer(data_folder):
    return WordPieceTokenizer(data_folder / "vocab" / "bert-base-uncased-vocab.txt")


def rows_of(task, documents, tokenizer):
    """Yields first ids, second ids and label out of batches."""
    make = {
        "sentence_order": sentence_order_dataset,
        "next_sentence": next_sentence_dataset,
    }[task]
    dataset = make(documents, tokenizer, T, 53, num_epochs=1)
    for inputs, targets, weights in dataset.as_numpy_iterator():
        ids = inputs["token_ids"].copy()
        row, place = np.nonzero(weights["masked_lm"])
        positions = inputs["mask_positions"][row, place]
        ids[row, positions] = targets["masked_lm"][row, place]
        lengths = inputs["padding_mask"].sum(axis=1)
        seconds = inputs["segment_ids"].sum(axis=1)
        for n, length, second in zip(range(len(ids)), lengths, seconds, strict=True):
            first = ids[n, 1 : length - second - 1]
            yield first, ids[n, length - second : length - 1], targets[task][n]


def pairs_of(task, documents, tokenizer):
    return segment_pairs(documents, tokenizer, T, task)


def best_guess(feature, labels):
    """Share of right labels of the best rule \"1 where the feature is above x\"."""
    order = np.argsort(feature, kind="stable")
    feature, labels = feature[order], labels[order]
    below = np.append(0, np.cumsum(labels == 0))
    above = labels.sum() - np.append(0, np.cumsum(labels))
    right = (below + above) / len(labels)
    possible = np.append(True, np.append(np.diff(feature) > 0, True))
    return max(right[possible].max(), 1 - right[possible].min())


@pytest.mark.parametrize("task", ["sentence_order", "next_sentence"])
@pytest.mark.parametrize("pairs", [rows_of, pairs_of])
def test_cuts_say_nothing(pairs, task, documents, tokenizer):
    stops = [tokenizer.vocabulary.index(mark) for mark in ".!?\"')"]
    features, labels = [], []
    for first, second, label in pairs(task, documents, tokenizer):
        ends = first[-1] in stops, second[-1] in stops
        lengths = len(first), len(second), len(first) + len(second)
        features.append([*ends, ends[0] and not ends[1], *lengths])
        labels.append(label)
    labels = np.array(labels)
    assert len(labels) > 2000
    for feature in np.array(features, "int64").T:
        # Rows that ended within sentences gave away 93 % of the orders.
        assert best_guess(feature, labels) < 0.56
