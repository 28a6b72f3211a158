"""Parallel lines in buckets of similar length."""

import collections

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow", reason="the data sets are tf.data's")
pytest.importorskip("tokenizers", reason="the engine on the host")

from keras_tformer.data import (  # noqa: E402
    padding_share,
    read_parallel,
    translation_task,
)
from keras_tformer.text import WordPieceTokenizer  # noqa: E402

TOKENIZER = WordPieceTokenizer("[PAD] [UNK] [CLS] [SEP] [MASK] a b c d e".split())


def test_by_hand():
    task = translation_task(
        ["a b", "c", "a a a"], ["d e", "a a a", "b b b b"], TOKENIZER,
        tokens_per_batch=8, bucket_lengths=(3, 4),
    )  # fmt: skip
    assert (task.num_examples, task.skipped) == (
        2,
        {"longer than the longest bucket": 1},
    )
    batches = {len(labels[0]): (i, labels, w) for i, labels, w in task.dataset}
    inputs, labels, weights = batches[3]
    assert inputs["encoder_token_ids"].numpy().tolist() == [[5, 6, 3]]
    assert inputs["decoder_token_ids"].numpy().tolist() == [[2, 8, 9]]
    assert labels.numpy().tolist() == [[8, 9, 3]]
    inputs, labels, weights = batches[4]
    assert inputs["encoder_token_ids"].numpy().tolist() == [[7, 3, 0, 0]]
    assert inputs["encoder_padding_mask"].numpy().tolist() == [[1, 1, 0, 0]]
    assert inputs["decoder_token_ids"].numpy().tolist() == [[2, 5, 5, 5]]
    assert labels.numpy().tolist() == [[5, 5, 5, 3]]
    assert weights.numpy().tolist() == [[1, 1, 1, 1]]


@pytest.mark.parametrize(
    "drop_remainder", [pytest.param(False, marks=pytest.mark.slow), True]
)
def test_real_pairs(data_folder, drop_remainder):
    folder = data_folder / "multi30k"
    sources, targets = read_parallel(folder / "val.en.gz", folder / "val.de.gz")
    assert len(sources) == 1014
    vocabulary = data_folder / "vocab" / "bert-base-cased-vocab.txt"
    tokenizer = WordPieceTokenizer(vocabulary, lowercase=False)
    task = translation_task(
        sources, targets, tokenizer, tokens_per_batch=509, shuffle=True, seed=3,
        drop_remainder=drop_remainder,
    )  # fmt: skip
    batches = list(task.dataset)
    assert len(batches) == int(task.dataset.cardinality())
    found = collections.Counter()
    for inputs, labels, weights in batches:
        batch, length = labels.shape
        assert batch * length <= 509
        assert len({tuple(value.shape) for value in inputs.values()}) == 1
        kept = labels.numpy()[weights.numpy() > 0].tolist()
        ends = np.flatnonzero(np.array(kept) == tokenizer.end_id)
        assert len(ends) == batch
        start = 0
        for row, end in enumerate(ends):
            kept_source = int(inputs["encoder_padding_mask"][row].numpy().sum())
            source = inputs["encoder_token_ids"][row].numpy()[: kept_source - 1]
            found[tuple(source), tuple(kept[start:end])] += 1
            start = end + 1
    expected = collections.Counter(
        (tuple(source), tuple(target))
        for source, target in zip(
            tokenizer.encode(sources), tokenizer.encode(targets), strict=True
        )
    )
    assert not found - expected
    if not drop_remainder:
        assert found == expected
        # One length for all rows would leave more of them empty.
        kept = sum(len(source) + len(target) + 2 for source, target in expected)
        longest = max(max(map(len, pair)) + 1 for pair in expected)
        single = 1 - kept / (2 * longest * len(expected))
        assert padding_share(task.dataset) < 0.7 * single


@pytest.mark.slow
def test_order():
    sources = [f"{a} {b}" for a in "abcd" for b in "abcd"]

    def rows(**options):
        task = translation_task(
            sources, sources, TOKENIZER, tokens_per_batch=21, **options
        )
        return [batch[1].numpy().tolist() for batch in task.dataset]

    assert rows(shuffle=True, seed=3) == rows(shuffle=True, seed=3)
    assert rows(shuffle=True, seed=3) != rows(shuffle=True, seed=4)
    assert rows() != rows(shuffle=True)
    shuffled = translation_task(sources, sources, TOKENIZER, shuffle=True).dataset
    first, second = ([b[1].numpy().tolist() for b in shuffled] for _ in range(2))
    assert first != second


def test_wrong_files(tmp_path):
    source, target = tmp_path / "a.en", tmp_path / "a.de"
    source.write_text("One.\nTwo.\nThree.\n")
    target.write_text("Eins.\n")
    with pytest.raises(ValueError, match="a.de ends after line 1, before .*a.en"):
        read_parallel(source, target)
    target.write_text("Eins.\n\nDrei.\n")
    with pytest.raises(ValueError, match="a.de, line 2: empty"):
        read_parallel(source, target)
    skipped = collections.Counter()
    pairs = read_parallel(source, target, skipped)
    assert pairs == (["One.", "Three."], ["Eins.", "Drei."])
    assert skipped == {"empty line": 1}
    target.write_bytes(b"Eins.\n\xff\nDrei.\n")
    with pytest.raises(ValueError, match="a.de, line 2: not UTF-8"):
        read_parallel(source, target, collections.Counter())
    with pytest.raises(ValueError, match="1 sources and 2 targets"):
        translation_task(["a"], ["b", "c"], TOKENIZER)
    with pytest.raises(ValueError, match="ascending numbers"):
        translation_task(["a"], ["b"], TOKENIZER, bucket_lengths=(8, 8))
    with pytest.raises(ValueError, match="No pair fits"):
        translation_task(["a b"], ["b"], TOKENIZER, bucket_lengths=(2,))
