"""The attention core against a transcription of its formula to NumPy."""

import numpy as np
import pytest
from keras import ops

from keras_tformer.layers import DotProductAttention

B, T, S, H, K = 2, 3, 5, 7, 11


def attention_by_hand(query, key, value, mask):
    context = np.zeros_like(query)
    weights = np.zeros((B, H, T, S))
    for b in range(B):
        for h in range(H):
            for t in range(T):
                scores = key[b, :, h] @ query[b, t, h] / np.sqrt(K)
                scores = np.where(mask[b, t] == 1, scores, -np.inf)
                if mask[b, t].any():
                    exponentials = np.exp(scores - scores.max())
                    weights[b, h, t] = exponentials / exponentials.sum()
                context[b, t, h] = weights[b, h, t] @ value[b, :, h]
    return context, weights


def random_tensors():
    random = np.random.default_rng(3)
    query = random.normal(size=(B, T, H, K)).astype("float32")
    key, value = random.normal(size=(2, B, S, H, K)).astype("float32")
    mask = random.integers(0, 2, (B, T, S))
    mask[:, :, 0] = 1
    return query, key, value, mask


@pytest.mark.parametrize("mask_value", [-30.0, -1e9])
def test_equals_the_formula(mask_value):
    query, key, value, mask = random_tensors()
    mask[1, 2] = 0  # a query that may look nowhere
    layer = DotProductAttention(mask_value=mask_value)
    context, weights = layer(
        query, key, value, attention_mask=mask, return_attention_scores=True
    )
    context_by_hand, weights_by_hand = attention_by_hand(query, key, value, mask)
    np.testing.assert_allclose(context, context_by_hand, rtol=1e-5, atol=1e-6)
    weights = np.array(weights)
    weights[1, :, 2] = 0  # uniform there: only the context is promised to be zero
    np.testing.assert_allclose(weights, weights_by_hand, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_gives_zeros_where_all_keys_are_masked(dtype):
    query, key, value, mask = random_tensors()
    mask[0] = 0
    output = DotProductAttention(dtype=dtype)(query, key, value, attention_mask=mask)
    output = ops.convert_to_numpy(ops.cast(output, "float32"))
    np.testing.assert_array_equal(output[0], 0)
    assert np.abs(output[1]).min() > 0


def test_softmax_is_computed_in_float32_under_half_precision():
    # 4096 equal keys: in float16 their exponentials would add up to 2048 at most.
    ones = np.ones((1, 4096, 1, 1), "float32")
    output = DotProductAttention(dtype="mixed_float16")(ones, ones, ones)
    np.testing.assert_allclose(np.array(output, "float32"), 1.0, atol=2e-3)


def test_one_mask_row_serves_all_queries():
    query, key, value, mask = random_tensors()
    one = mask[:, :1]
    layer = DotProductAttention()
    expected = layer(query, key, value, attention_mask=np.repeat(one, T, axis=1))
    actual = layer(query, key, value, attention_mask=one)
    np.testing.assert_allclose(actual, expected, atol=1e-7)


@pytest.mark.parametrize("dropout", [-0.1, 1.0, 1.5, "half", True])
def test_refuses_impossible_dropout(dropout):
    with pytest.raises(ValueError, match=r"number in \[0, 1\). Received: dropout="):
        DotProductAttention(dropout=dropout)


@pytest.mark.parametrize("mask_value", [0, 30.0])
def test_refuses_a_mask_that_hides_nothing(mask_value):
    with pytest.raises(ValueError, match="negative `mask_value`. Received"):
        DotProductAttention(mask_value=mask_value)
