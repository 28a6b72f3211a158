"""The masks themselves: how long runs are, and random numbers that rows own."""

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow", reason="the data sets are tf.data's")

from keras_tformer.data.masking import mask_tokens, row_uniform  # noqa: E402

B, T = 503, 101


def masked(masking, mask_share, max_predictions=31, seed=0):
    """Rows of words of one piece; special tokens only at both ends."""
    ids = np.full((B, T), 7, "int32")
    maskable = np.ones((B, T), bool)
    maskable[:, [0, -1]] = False
    rows = np.arange(B)
    _, positions, _, weights = mask_tokens(
        tf.constant(ids),
        tf.constant(maskable),
        tf.ones((B, T), tf.bool),
        4,
        tf.range(5, 97),
        max_predictions,
        mask_share,
        masking,
        row_uniform(seed, rows, 0 * rows),
    )
    return positions.numpy(), weights.numpy()


def test_run_lengths_follow_albert():
    """One run a row, so that no two stand side by side: 1, 2, 3 as 1, 1/2, 1/3."""
    weights = [masked("ngram", 0.001, seed=seed)[1] for seed in range(5)]
    lengths = np.concatenate([w.sum(axis=1) for w in weights]).astype(int)
    shares = np.bincount(lengths, minlength=4)[1:] / len(lengths)
    expected = np.array([6, 3, 2]) / 11
    deviation = np.sqrt(expected * (1 - expected) / len(lengths))
    assert lengths.max() == 3
    assert (np.abs(shares - expected) < 4 * deviation + 0.01).all()


def test_most_predictions():
    for masking in ("subword", "whole_word", "ngram"):
        _, weights = masked(masking, 0.5, max_predictions=7)
        assert weights.sum(axis=1).max() == 7
        assert weights.sum(axis=1).min() > 4


def test_every_position_is_as_likely():
    positions, weights = masked("whole_word", 0.15)
    counts = np.bincount(positions[weights > 0], minlength=T)
    assert counts[[0, -1]].sum() == 0
    expected = counts.sum() / (T - 2)
    assert (np.abs(counts[1:-1] - expected) < 5 * expected**0.5).all()


def splitmix(state):
    """The generator as published, in Python's own integers."""
    limit = (1 << 64) - 1
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & limit
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB & limit
    return state ^ (state >> 31)


def test_row_uniform_is_the_published_hash():
    step, limit = 0x9E3779B97F4A7C15, (1 << 64) - 1
    # The first output of SplitMix64 seeded with 0, as its authors print it.
    assert splitmix(step) == 0xE220A8397B1DCDAF
    found = row_uniform(11, [3], [5])(2, 1, 7).numpy()[0]
    key = splitmix(11 + step & limit)
    key = splitmix(key + step * 3 & limit)
    key = splitmix(key + step * 5 & limit)
    for position in range(7):
        bits = splitmix(key + step * (position + (3 << 32)) & limit) >> 40
        assert found[position] == bits / (1 << 24)


def test_row_uniform_is_uniform_and_the_rows_own():
    rows = np.arange(1009)
    numbers = row_uniform(0, rows, 0 * rows)(0, len(rows), 211).numpy()
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts = np.bincount((numbers * 64).astype(int).ravel(), minlength=64)
    expected = numbers.size / 64
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert 30 < chi_squared < 110  # 63 degrees of freedom
    for other in (numbers[:, 1:], numbers[1:]):
        cut = numbers[: other.shape[0], : other.shape[1]]
        assert abs(np.corrcoef(cut.ravel(), other.ravel())[0, 1]) < 0.01
    # Alone, among others, in another order: the same numbers.
    again = row_uniform(0, [1000, 3], [0, 0])(0, 2, 211).numpy()
    np.testing.assert_array_equal(again, numbers[[1000, 3]])
    for changed in (
        row_uniform(1, rows, 0 * rows)(0, 1, 211),
        row_uniform(0, rows, 0 * rows + 1)(0, 1, 211),
        row_uniform(0, rows, 0 * rows)(1, 1, 211),
    ):
        assert (changed.numpy() == numbers).mean() < 0.001
