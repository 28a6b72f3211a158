"""The decoder block: its parts in their order, and decoding with caches."""

import numpy as np
import pytest
from keras import ops

from keras_tformer.layers import TransformerDecoder

B, T, S, H, F, D = 2, 5, 7, 3, 11, 12


def floats(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype("float32")


def randomized(layer, *inputs):
    layer(*inputs)
    random = np.random.default_rng(3)
    layer.set_weights(
        [w + random.normal(size=w.shape, scale=0.3) for w in layer.get_weights()]
    )
    return layer


def assert_equal(x, y):
    x, y = ops.convert_to_numpy(x), ops.convert_to_numpy(y)
    np.testing.assert_allclose(x, y, atol=1e-5)


@pytest.mark.parametrize("normalize_first", [False, True])
def test_is_made_of_its_parts(normalize_first):
    x, source = ops.array(floats(B, T, D)), floats(B, S, D)
    layer = TransformerDecoder(H, F, normalize_first=normalize_first)
    randomized(layer, x, source)
    h = x
    for part in ("self_attention", "cross_attention", "feed_forward"):
        norm = getattr(layer, f"{part}_norm")
        inner = norm(h) if normalize_first else h
        call = getattr(layer, part)
        if part == "self_attention":
            moved = call(inner, use_causal_mask=True)
        else:
            moved = call(inner, source) if part == "cross_attention" else call(inner)
        h = h + moved
        h = h if normalize_first else norm(h)
    assert_equal(layer(x, source), h)


@pytest.mark.parametrize("normalize_first", [False, True])
@pytest.mark.parametrize("crosses", [False, True])
def test_cached_steps_equal_all_at_once(crosses, normalize_first):
    x, source = floats(B, T, D), floats(B, S, D)
    source_mask = np.array([[1] * S, [1] * 4 + [0] * 3])
    layer = TransformerDecoder(H, F, normalize_first=normalize_first)
    given = {}
    if crosses:
        randomized(layer, x, source)
        expected = layer(x, source, encoder_padding_mask=source_mask)
        given = {
            "cross_attention_cache": layer.cross_attention.project(source),
            "encoder_padding_mask": source_mask,
        }
    else:
        expected = randomized(layer, x)(x)
    cache = (np.zeros((B, T, H, D // H), "float32"),) * 2
    for index in range(T):
        output, cache = layer(
            x[:, index : index + 1],
            self_attention_cache=cache,
            cache_index=index,
            **given,
        )
        assert_equal(output[:, 0], expected[:, index])


def test_cached_steps_skip_padding_on_the_left():
    x = floats(B, T, D)
    mask = np.array([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    layer = randomized(TransformerDecoder(H, F), x)
    expected = layer(x, padding_mask=mask)
    cache = (np.zeros((B, T, H, D // H), "float32"),) * 2
    for index in range(T):
        output, cache = layer(
            x[:, index : index + 1],
            padding_mask=mask,
            self_attention_cache=cache,
            cache_index=index,
        )
        assert_equal(output[:, 0], expected[:, index])


def test_returns_scores_then_cache():
    x, source = floats(B, 1, D), floats(B, S, D)
    layer = TransformerDecoder(H, F)
    layer(x, source)
    cache = (np.zeros((B, T, H, D // H), "float32"),) * 2
    outputs = layer(
        x,
        source,
        self_attention_cache=cache,
        cache_index=2,
        return_attention_scores=True,
    )
    shapes = [tuple(x.shape) for x in outputs[:3]]
    assert shapes == [(B, 1, D), (B, H, 1, T), (B, H, 1, S)]
    assert ops.convert_to_numpy(outputs[1])[..., 3:].max() < 1e-9  # not written yet
    assert tuple(outputs[3][0].shape) == (B, T, H, D // H)


def test_says_when_the_encoder_output_is_missing_or_superfluous():
    x, source = floats(B, T, D), floats(B, S, D)
    crossing, plain = TransformerDecoder(H, F), TransformerDecoder(H, F)
    crossing(x, source), plain(x)
    with pytest.raises(ValueError, match="built with cross-attention.*is missing"):
        crossing(x)
    with pytest.raises(ValueError, match="built without cross-attention.*is given"):
        plain(x, source)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("num_heads", -1),
        ("intermediate_dim", 0),
        ("dropout", -0.1),
        ("attention_dropout", 1.0),
    ],
)
def test_refuses_numbers_out_of_range(argument, value):
    arguments = {"num_heads": 3, "intermediate_dim": 11} | {argument: value}
    with pytest.raises(ValueError, match=f"`TransformerDecoder`.*`{argument}`"):
        TransformerDecoder(**arguments)
