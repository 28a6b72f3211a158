"""The layers of one formula each, against that formula by hand."""

import math

import keras
import numpy as np
import pytest
from keras import ops

from keras_tformer.layers import (
    EmbeddingSum,
    FeedForward,
    LayerNormalization,
    MaskedLMHead,
    Pooler,
    PositionEmbedding,
    SegmentEmbedding,
    SinusoidalPositionEncoding,
    TextPooling,
    TokenEmbedding,
    VocabularyBias,
    gelu_tanh,
    get_activation,
)
from keras_tformer.layers.activations import in_training

B, T, D = 2, 5, 12


def floats(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype("float32")


def normalized(x, epsilon=1e-12):
    mean = x.mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(((x - mean) ** 2).mean(-1, keepdims=True) + epsilon)


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


# === Activations ===


def test_gelu_tanh_is_its_formula_and_not_the_exact_form():
    x = np.linspace(-4, 4, 41).astype("float32")
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    by_hand = 0.5 * x * (1 + np.tanh(inner))
    np.testing.assert_allclose(gelu_tanh(x), by_hand, atol=1e-6)
    np.testing.assert_allclose(get_activation("gelu")(x), gelu(x), atol=1e-6)
    assert 1e-4 < np.abs(by_hand - gelu(x)).max() < 1e-3


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh"])
def test_gelu_in_training_has_the_value_and_the_derivative_of_its_formula(name):
    x = np.linspace(-5, 5, 41).astype("float32")
    if name == "gelu":
        density = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
        by_hand = 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) + x * density
    else:
        inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
        of_inner = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x**2)
        tanh = np.tanh(inner)
        by_hand = 0.5 * (1 + tanh) + 0.5 * x * (1 - tanh**2) * of_inner
    function = get_activation(name)
    value, derivative = value_and_derivative(in_training(function), x)
    np.testing.assert_allclose(value, ops.convert_to_numpy(function(x)), atol=1e-6)
    np.testing.assert_allclose(derivative, by_hand, atol=2e-6)


def value_and_derivative(function, x):
    if keras.backend.backend() == "jax":
        import jax

        return jax.vmap(jax.value_and_grad(function))(x)
    if keras.backend.backend() == "torch":
        import torch

        x = torch.tensor(x, requires_grad=True)
        y = function(x)
        y.sum().backward()
        return y.detach(), x.grad
    import tensorflow as tf

    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    return y, tape.gradient(y, x)


def test_other_activations_are_the_same_in_training():
    assert in_training(keras.activations.relu) is keras.activations.relu


def test_activations_by_name():
    assert get_activation("gelu_new") is get_activation("gelu_tanh") is gelu_tanh
    assert get_activation(None) is keras.activations.linear
    assert get_activation(ops.tanh) is ops.tanh
    config = FeedForward(11, activation="gelu_new").get_config()
    assert config["activation"] == "gelu_tanh"
    with pytest.raises(ValueError, match="gelo"):
        get_activation("gelo")


# === Normalization ===


@pytest.mark.parametrize("epsilon", [1e-12, 1e-5, 0.1])
def test_layer_normalization_equals_formula_and_stock(epsilon):
    x = 3 * floats(B, T, D) + 7
    layer = LayerNormalization(epsilon)
    stock = keras.layers.LayerNormalization(epsilon=epsilon)
    layer(x), stock(x)
    weights = [floats(D), floats(D)]
    layer.set_weights(weights), stock.set_weights(weights)
    by_hand = normalized(x, epsilon) * weights[0] + weights[1]
    ours, theirs = ops.convert_to_numpy(layer(x)), ops.convert_to_numpy(stock(x))
    np.testing.assert_allclose(ours, by_hand, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_layer_normalization_is_computed_in_float32():
    x = np.array([[300.0, 301.0, 302.0, 305.0]], "float32")  # squares exceed float16
    half = LayerNormalization(dtype="mixed_float16")(x * 100)
    half = ops.convert_to_numpy(half).astype("float32")
    np.testing.assert_allclose(half, normalized(x), atol=2e-3)


def test_layer_normalization_refuses_other_axes():
    with pytest.raises(ValueError, match="last axis only. Received: axis=1"):
        LayerNormalization(axis=1)


# === Positions and segments ===


@pytest.mark.parametrize("start_index", [0, 3])
def test_sinusoidal_positions_are_the_formula(start_index):
    table = np.zeros((T, D))
    for t in range(T):
        for i in range(D // 2):
            angle = (t + start_index) / 10000 ** (2 * i / D)
            table[t, 2 * i : 2 * i + 2] = math.sin(angle), math.cos(angle)
    layer = SinusoidalPositionEncoding()
    output = layer(np.zeros((B, T, D), "float32"), start_index=start_index)
    np.testing.assert_allclose(output[0], table, atol=1e-6)


def test_sinusoidal_positions_need_an_even_width_and_a_wavelength():
    with pytest.raises(ValueError, match="even width. Received: inputs of width 7"):
        SinusoidalPositionEncoding()(np.zeros((B, T, 7)))
    with pytest.raises(ValueError, match="above 1. Received: max_wavelength=0.5"):
        SinusoidalPositionEncoding(max_wavelength=0.5)


def test_position_embedding_is_a_slice_of_its_table():
    layer = PositionEmbedding(11)
    x = np.zeros((B, T, D), "float32")
    whole = ops.convert_to_numpy(layer(np.zeros((B, 11, D), "float32")))
    first = ops.convert_to_numpy(layer(x))
    np.testing.assert_array_equal(first, whole[:, :T])
    last = ops.convert_to_numpy(layer(x, start_index=6))
    np.testing.assert_array_equal(last, whole[:, 6:])


def test_position_embedding_refuses_positions_that_it_has_not():
    layer = PositionEmbedding(11)
    with pytest.raises(
        ValueError, match="too long. Expected at most max_sequence_length=11 .*: 13"
    ):
        layer(np.zeros((B, 13, D)))
    with pytest.raises(ValueError, match="max_sequence_length=11"):
        layer(np.zeros((B, T, D)), start_index=7)
    with pytest.raises(ValueError, match="max_sequence_length=0"):
        PositionEmbedding(0)


def test_positions_may_begin_below_the_first_row():
    layer = PositionEmbedding(7, offset=3)
    x = np.zeros((2, 5, 4), "float32")
    found = ops.convert_to_numpy(layer(x))
    table = ops.convert_to_numpy(layer.embeddings)
    assert table.shape == (10, 4)
    np.testing.assert_array_equal(found, table[None, 3:8])
    found = ops.convert_to_numpy(layer(x[:, :2], start_index=5))
    np.testing.assert_array_equal(found, table[None, 8:])
    again = PositionEmbedding.from_config(layer.get_config())
    assert again.offset == 3
    with pytest.raises(ValueError, match="8"):
        layer(np.zeros((2, 8, 4), "float32"))
    with pytest.raises(ValueError, match="offset=-1"):
        PositionEmbedding(7, offset=-1)


def test_segment_embedding_is_a_lookup():
    layer = SegmentEmbedding(3, D)
    ids = np.array([[0, 2, 1], [1, 1, 0]])
    rows = ops.convert_to_numpy(layer(ids))
    np.testing.assert_array_equal(rows, layer.get_weights()[0][ids])


@pytest.mark.parametrize("width", [D, 7])
def test_embedding_sum_is_the_normalized_sum(width):
    x, ids = floats(B, T, width), np.array([[0, 0, 1, 1, 1]] * B)
    layer = EmbeddingSum(D, max_sequence_length=11, num_segments=2)
    layer(x, segment_ids=ids)
    position = ops.convert_to_numpy(layer.position_embedding.embeddings)[:T]
    segment = ops.convert_to_numpy(layer.segment_embedding.embeddings)[ids]
    expected = normalized(x + position + segment)
    if width != D:
        expected = expected @ ops.convert_to_numpy(layer.projection.kernel)
    assert (layer.projection is None) == (width == D)
    found = ops.convert_to_numpy(layer(x, segment_ids=ids))
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_embedding_sum_says_when_segments_are_missing_or_superfluous():
    x, ids = floats(B, T, D), np.zeros((B, T), "int32")
    with pytest.raises(ValueError, match="num_segments=2. Received: segment_ids=None"):
        EmbeddingSum(D, 11)(x)
    with pytest.raises(ValueError, match="num_segments=None"):
        EmbeddingSum(D, 11, num_segments=None)(x, segment_ids=ids)
    with pytest.raises(ValueError, match="num_segments=0"):
        EmbeddingSum(D, 11, num_segments=0)(x, segment_ids=ids)
    with pytest.raises(ValueError, match="dropout=-0.1"):
        EmbeddingSum(D, 11, dropout=-0.1)


# === Feed-forward, heads ===


def test_feed_forward_is_its_formula():
    x = floats(B, T, D)
    layer = FeedForward(17, activation="gelu")
    layer(x)
    w1, b1, w2, b2 = (floats(*w.shape) for w in layer.weights)
    layer.set_weights([w1, b1, w2, b2])
    by_hand = gelu(x @ w1 + b1) @ w2 + b2
    for training in (False, True):
        found = ops.convert_to_numpy(layer(x, training=training))
        np.testing.assert_allclose(found, by_hand, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="intermediate_dim=0"):
        FeedForward(0)


def test_pooler_reads_the_first_token():
    x = floats(B, T, D)
    layer = Pooler(7)
    layer(x)
    kernel, bias = floats(D, 7), floats(7)
    layer.set_weights([kernel, bias])
    found = ops.convert_to_numpy(layer(x))
    np.testing.assert_allclose(found, np.tanh(x[:, 0] @ kernel + bias), atol=1e-5)
    with pytest.raises(ValueError, match="hidden_dim=-1"):
        Pooler(-1)


def test_text_pooling_by_hand():
    x, mask = -1 - np.abs(floats(3, T, D)), np.ones((3, T), "int32")
    mask[1, 2:], mask[2] = 0, 0
    mean = [x[0].mean(0), x[1, :2].mean(0), np.zeros(D)]
    largest = [x[0].max(0), x[1, :2].max(0), np.zeros(D)]
    for pooling, expected in {"mean": mean, "max": largest, "first": x[:, 0]}.items():
        np.testing.assert_allclose(TextPooling(pooling)(x, mask), expected, atol=1e-6)
    with pytest.raises(ValueError, match="'mean', 'max' or 'first'. Received: .*'sum'"):
        TextPooling("sum")


def test_text_pooling_of_a_long_text_survives_half_precision():
    x = np.full((1, 4096, 1), 20.0, "float32")  # the sum exceeds float16
    for policy in ("mixed_float16", "mixed_bfloat16"):
        mean = TextPooling("mean", dtype=policy)(x, np.ones((1, 4096)))
        assert float(ops.cast(mean, "float32")[0, 0]) == pytest.approx(20.0, rel=1e-2)


def test_masked_lm_head_by_hand():
    x, positions = floats(B, T, D), np.array([[4, 0, 4], [1, 2, 3]])
    table = TokenEmbedding(11, 7)
    head = MaskedLMHead(table, activation="gelu")
    head(x, positions)
    dense, norm = head.dense, head.layer_norm
    rows = np.stack([x[b, positions[b]] for b in range(B)])
    h = normalized(gelu(rows @ ops.convert_to_numpy(dense.kernel)))
    bias = floats(11)
    head.bias.set_weights([bias])
    expected = h @ ops.convert_to_numpy(table.embeddings).T + bias
    found = ops.convert_to_numpy(head(x, positions))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert norm.epsilon == 1e-12
    with pytest.raises(ValueError, match='encoder.get_layer."token_embedding"'):
        MaskedLMHead(keras.layers.Dense(3))


def test_vocabulary_bias_adds():
    layer = VocabularyBias()
    layer(np.zeros((B, 11)))
    layer.set_weights([np.arange(11)])
    found = ops.convert_to_numpy(layer(np.ones((B, 11))))
    np.testing.assert_array_equal(found, [np.arange(11) + 1] * B)


def test_layer_normalization_has_the_gradient_of_keras_in_training():
    tf = pytest.importorskip("tensorflow", reason="takes gradients with TensorFlow")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("takes gradients with TensorFlow")
    x, upstream = tf.constant(floats(B, T, D)), floats(D, T, B).reshape(B, T, D)
    gradients = []
    for layer in (LayerNormalization(1e-3), keras.layers.LayerNormalization(-1, 1e-3)):
        layer.build(x.shape)
        layer.gamma.assign(np.linspace(0.5, 2, D))
        layer.beta.assign(np.linspace(-1, 1, D))
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        sources = [x, layer.gamma.value, layer.beta.value]
        gradients.append([y, *tape.gradient(y, sources, tf.constant(upstream))])
    for ours, theirs in zip(*gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=5e-6)
