"""The encoder block: its parts in their order."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_tformer.layers import TransformerEncoder

B, T, H, F, D = 2, 5, 3, 11, 12


def floats(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype("float32")


@pytest.mark.parametrize("normalize_first", [False, True])
def test_is_made_of_its_parts(normalize_first):
    x, mask = ops.array(floats(B, T, D)), np.array([[1] * 5, [1, 1, 0, 0, 0]])
    layer = TransformerEncoder(H, F, normalize_first=normalize_first)
    layer(x)
    attention, norm = layer.self_attention, layer.self_attention_norm
    inner, inner_norm = layer.feed_forward, layer.feed_forward_norm
    if normalize_first:
        h = x + attention(norm(x), padding_mask=mask)
        expected = h + inner(inner_norm(h))
    else:
        h = norm(x + attention(x, padding_mask=mask))
        expected = inner_norm(h + inner(h))
    output, scores = layer(x, padding_mask=mask, return_attention_scores=True)
    output, scores, expected = map(ops.convert_to_numpy, (output, scores, expected))
    np.testing.assert_allclose(output, expected, atol=1e-6)
    np.testing.assert_allclose(np.sum(scores, -1), 1, atol=1e-6)
    assert scores[1, :, :, 2:].max() < 1e-9


@pytest.mark.parametrize("normalize_first", [False, True])
def test_computes_the_first_positions_alone(normalize_first):
    x = ops.array(floats(B, T, D))
    masks = {
        "padding_mask": np.array([[1] * 5, [1, 1, 0, 0, 0]]),
        "attention_mask": np.random.default_rng(1).integers(0, 2, (B, T, T)),
        "return_attention_scores": True,
    }
    layer = TransformerEncoder(H, F, normalize_first=normalize_first)
    whole = [ops.convert_to_numpy(tensor) for tensor in layer(x, **masks)]
    some = [ops.convert_to_numpy(y) for y in layer(x, **masks, num_queries=3)]
    np.testing.assert_allclose(some[0], whole[0][:, :3], atol=1e-6)
    np.testing.assert_allclose(some[1], whole[1][:, :, :3], atol=1e-6)
    declared = layer.compute_output_spec(x, **masks, num_queries=3)
    assert [y.shape for y in some] == [y.shape for y in declared]


def test_a_second_call_shares_the_weights():
    layer = TransformerEncoder(H, F)
    x = floats(B, T, D)
    layer(layer(x))
    # 4 projections, 2 feed-forward, 2 normalizations; a kernel and a bias each
    assert len(layer.weights) == 16
    assert layer.count_params() == 4 * (D * D + D) + 2 * D * F + D + F + 4 * D


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("num_heads", 0),
        ("intermediate_dim", 1.5),
        ("dropout", -0.1),
        ("attention_dropout", 1.0),
    ],
)
def test_refuses_numbers_out_of_range(argument, value):
    arguments = {"num_heads": 3, "intermediate_dim": 11} | {argument: value}
    with pytest.raises(ValueError, match=f"`TransformerEncoder`.*`{argument}`"):
        TransformerEncoder(**arguments)


@pytest.mark.parametrize("num_queries", [0, 1.5, T + 1])
def test_refuses_positions_that_are_not_there(num_queries):
    for inputs in (ops.array(floats(B, T, D)), keras.Input((T, D))):
        with pytest.raises(ValueError, match=f"`num_queries`.*{num_queries}"):
            TransformerEncoder(H, F)(inputs, num_queries=num_queries)


def test_names_an_unknown_activation():
    with pytest.raises(ValueError, match="gelo"):
        TransformerEncoder(H, F, activation="gelo")
