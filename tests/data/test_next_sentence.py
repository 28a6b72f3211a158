"""Where the second segment comes from, and what BERT's batches hold besides."""

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow", reason="the data sets are tf.data's")
pytest.importorskip("tokenizers", reason="the engine on the host")

from keras_tformer.data import (  # noqa: E402
    next_sentence_dataset,
    read_documents,
    sentence_order_dataset,
)
from keras_tformer.text import WordPieceTokenizer  # noqa: E402

T, B, P = 59, 37, 11


@pytest.fixture(scope="module")
def documents(data_folder):
    stream = read_documents(data_folder / "wiki" / "enwiki_sample.txt.xz")
    return [document for document, _ in zip(stream, range(31), strict=False)]


@pytest.fixture(scope="module")
def tokenizer(data_folder):
    return WordPieceTokenizer(data_folder / "vocab" / "bert-base-uncased-vocab.txt")


@pytest.fixture(scope="module")
def batches(documents, tokenizer):
    dataset = next_sentence_dataset(documents, tokenizer, T, B, P, seed=3)
    return list(dataset.take(17).as_numpy_iterator())


def rows(batches):
    """Yields first ids, second ids and label of each row, as before masking."""
    for inputs, targets, weights in batches:
        ids = inputs["token_ids"].copy()
        row, place = np.nonzero(weights["masked_lm"])
        positions = inputs["mask_positions"][row, place]
        ids[row, positions] = targets["masked_lm"][row, place]
        for row in range(len(ids)):
            length = inputs["padding_mask"][row].sum()
            second = inputs["segment_ids"][row].sum()
            yield (
                ids[row, 1 : length - second - 1].tolist(),
                ids[row, length - second : length - 1].tolist(),
                int(targets["next_sentence"][row]),
            )


def test_second_segments(batches, documents, tokenizer):
    texts = [
        " " + " ".join(map(str, sum(tokenizer.encode(d.paragraphs), []))) + " "
        for d in documents
    ]

    def homes(ids):
        found = " " + " ".join(map(str, ids)) + " "
        return {number for number, text in enumerate(texts) if found in text}

    labels, lengths = [], [[], []]
    for first, second, label in rows(batches):
        assert first
        assert second
        labels.append(label)
        lengths[label].append(len(second))
        if not label:
            assert homes(first + second)
        elif len(first) > 11 and len(second) > 11:
            # Long enough to stand in one document only.
            assert homes(first)
            assert homes(second)
            assert not homes(first) & homes(second)
    assert abs(np.mean(labels) - 0.5) < 4 * 0.5 / len(labels) ** 0.5
    # Length does not tell.
    assert abs(np.mean(lengths[0]) / np.mean(lengths[1]) - 1) < 0.2


def test_masks_are_those_of_sentence_order(batches):
    chosen = sum(weights["masked_lm"].sum() for _, _, weights in batches)
    total = sum(inputs["padding_mask"].sum() - 3 * B for inputs, _, _ in batches)
    assert 0.14 < chosen / total < 0.16
    for inputs, _, weights in batches:
        positions = inputs["mask_positions"][weights["masked_lm"] > 0]
        assert positions.min() >= 1
        assert set(inputs) == {
            "token_ids",
            "segment_ids",
            "padding_mask",
            "mask_positions",
        }


@pytest.mark.parametrize("make", [next_sentence_dataset, sentence_order_dataset])
def test_same_batches_on_any_number_of_threads(make, documents, tokenizer):
    def batches(num_threads):
        options = tf.data.Options()
        options.threading.private_threadpool_size = num_threads
        dataset = make(documents[:11], tokenizer, T, B, P).with_options(options)
        return list(dataset.take(5).as_numpy_iterator())

    for one, other in zip(batches(1), batches(7), strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, one, other)


def test_restart(documents, tokenizer):
    def make(**options):
        return next_sentence_dataset(documents[:11], tokenizer, T, B, P, **options)

    whole = list(make().take(5).as_numpy_iterator())
    rest = list(make(first_step=3).take(2).as_numpy_iterator())
    for expected, found in zip(whole[3:], rest, strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, found, expected)


def test_shares_at_their_ends(documents, tokenizer):
    for share in (0.0, 1.0):
        dataset = next_sentence_dataset(
            documents, tokenizer, T, B, P, random_share=share
        )
        _, targets, _ = next(dataset.as_numpy_iterator())
        assert (targets["next_sentence"] == share).all()


def test_errors(tokenizer):
    with pytest.raises(ValueError, match="There is one document"):
        next_sentence_dataset([["One two three."], [""]], tokenizer, 13, 1)
    with pytest.raises(ValueError, match="random_share is -1"):
        next_sentence_dataset([["One."]], tokenizer, 13, 1, random_share=-1)
