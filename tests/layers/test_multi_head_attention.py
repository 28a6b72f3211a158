"""Multi-head attention: NumPy's answer, masks and key/value caches."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_tformer.layers import MultiHeadAttention

B, T, S, H, K, D = 2, 5, 7, 3, 11, 13


def randomized(layer, *inputs, **arguments):
    layer(*inputs, **arguments)
    random = np.random.default_rng(3)
    layer.set_weights(
        [random.normal(size=w.shape, scale=0.4) for w in layer.get_weights()]
    )
    return layer


def floats(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype("float32")


def attention_by_hand(layer, query, value, mask):
    """`Concat(head_1, ...) W^O`, head by head (Vaswani et al. 2017, 3.2.2)."""
    w = {v.path.split("/", 1)[1]: ops.convert_to_numpy(v) for v in layer.weights}
    heads = []
    for head in range(H):
        columns = slice(head * K, (head + 1) * K)

        def project(x, name, columns=columns):
            kernel, bias = w[f"{name}/kernel"], w[f"{name}/bias"]
            return x @ kernel[:, columns] + bias[columns]

        q = project(query, "query")
        k, v = project(value, "key"), project(value, "value")
        scores = q @ k.transpose(0, 2, 1) / np.sqrt(K)
        scores = np.where(mask[:, None], scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        heads.append(weights / weights.sum(-1, keepdims=True) @ v)
    kernel, bias = w["attention_output/kernel"], w["attention_output/bias"]
    return np.concatenate(heads, -1) @ kernel + bias


def test_equals_numpy():
    query, value = floats(B, T, D), floats(B, S, 17)
    mask = np.array([[1] * S, [1] * 4 + [0] * 3])
    layer = MultiHeadAttention(H, key_dim=K)
    randomized(layer, query, value, padding_mask=mask)
    output = ops.convert_to_numpy(layer(query, value, padding_mask=mask))
    expected = attention_by_hand(layer, query, value, mask)
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-5)


def test_equals_keras_with_the_same_weights():
    query, value = floats(B, T, D), floats(B, S, D)
    layer = randomized(MultiHeadAttention(H, key_dim=K), query, value)
    stock = keras.layers.MultiHeadAttention(H, K)
    stock(query, value)
    for w, stock_w in zip(layer.weights, stock_order(stock), strict=True):
        stock_w.assign(ops.reshape(w, stock_w.shape))
    causal = np.tril(np.ones((1, T, S)))
    np.testing.assert_allclose(
        ops.convert_to_numpy(layer(query, value, attention_mask=causal)),
        ops.convert_to_numpy(stock(query, value, attention_mask=causal)),
        rtol=1e-5,
        atol=1e-5,
    )


def stock_order(stock):
    parts = {w.path.split("/")[-2] + w.path.split("/")[-1]: w for w in stock.weights}
    names = ("query", "key", "value", "attention_output")
    return [parts[n + kind] for n in names for kind in ("kernel", "bias")]


def test_masks_are_combined():
    x = floats(B, T, 12)
    padding = np.array([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]])
    extra = np.ones((B, T, T))
    extra[0, 3, 1] = 0
    layer = randomized(MultiHeadAttention(H), x)
    _, scores = layer(
        x,
        padding_mask=padding,
        attention_mask=extra,
        use_causal_mask=True,
        return_attention_scores=True,
    )
    allowed = np.tril(np.ones((T, T))) * padding[:, None] * extra
    seen = ops.convert_to_numpy(scores) > 1e-9
    np.testing.assert_array_equal(seen, np.repeat(allowed[:, None] > 0, H, axis=1))


@pytest.mark.parametrize("steps", [[1] * T, [3, 2], [2, 1, 1, 1]])
def test_cache_step_by_step_equals_all_at_once(steps):
    x = floats(B, T, 12)
    layer = randomized(MultiHeadAttention(H), x)
    expected = ops.convert_to_numpy(layer(x, use_causal_mask=True))
    cache = (np.zeros((B, T, H, 4), "float32"),) * 2
    outputs, start = [], 0
    for length in steps:
        piece = x[:, start : start + length]
        output, cache = layer(piece, cache=cache, cache_index=start)
        outputs.append(ops.convert_to_numpy(output))
        start += length
    np.testing.assert_allclose(np.concatenate(outputs, 1), expected, atol=1e-5)


def test_projected_keys_and_values_serve_as_a_cache():
    query, value = floats(B, T, 12), floats(B, S, 12)
    mask = np.array([[1] * S, [1] * 4 + [0] * 3])
    layer = randomized(MultiHeadAttention(H), query, value)
    expected = layer(query, value, padding_mask=mask)
    output, cache = layer(query, padding_mask=mask, cache=layer.project(value))
    np.testing.assert_allclose(
        ops.convert_to_numpy(output), ops.convert_to_numpy(expected), atol=1e-6
    )
    assert tuple(cache[0].shape) == (B, S, H, 4)


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="a graph of TensorFlow"
)
@pytest.mark.parametrize("jit_compile", [False, True])
def test_the_cache_index_may_be_a_tensor_in_a_graph(jit_compile):
    import tensorflow as tf

    x = floats(B, T, 12)
    layer = randomized(MultiHeadAttention(H), x)
    expected = layer(x, use_causal_mask=True)

    @tf.function(jit_compile=jit_compile, autograph=False)
    def step(piece, keys, values, index):
        return layer(piece, cache=(keys, values), cache_index=index)

    cache = (tf.zeros((B, T, H, 4)),) * 2
    for index in range(T):
        piece = x[:, index : index + 1]
        output, cache = step(piece, *cache, tf.constant(index))
        np.testing.assert_allclose(output[:, 0], expected[:, index], atol=1e-5)


def test_refuses_a_width_that_the_heads_do_not_divide():
    with pytest.raises(
        ValueError, match="hidden_dim=13, num_heads=3, remainder 1. Change one of them"
    ):
        MultiHeadAttention(3)(floats(B, T, 13))


@pytest.mark.parametrize(
    ("argument", "value"),
    [("num_heads", 0), ("key_dim", -1), ("dropout", -0.5), ("mask_value", 1.0)],
)
def test_refuses_numbers_out_of_range(argument, value):
    with pytest.raises(ValueError, match=f"{argument}"):
        MultiHeadAttention(**({"num_heads": 3} | {argument: value}))
