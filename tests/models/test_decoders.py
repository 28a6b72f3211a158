"""The encoder-decoder Transformer and the causal language model."""

import numpy as np
import pytest
from keras import ops

from keras_tformer.models import causal_lm, transformer

V, D, H, F, B, T, S = 31, 26, 2, 17, 3, 7, 5
SIZES = {
    "vocabulary_size": V,
    "num_layers": 2,
    "num_heads": H,
    "hidden_dim": D,
    "intermediate_dim": F,
    "max_sequence_length": 11,
}
BUILDERS = {
    "transformer": lambda **changes: transformer(**(SIZES | changes)),
    "causal_lm": lambda **changes: causal_lm(**(SIZES | changes)),
}
build = pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)


def pair(source=S, target=T):
    random = np.random.default_rng(3)
    return {
        "encoder_token_ids": random.integers(0, V, (B, source)),
        "encoder_padding_mask": np.ones((B, source), "int32"),
        "decoder_token_ids": random.integers(0, V, (B, target)),
        "decoder_padding_mask": np.ones((B, target), "int32"),
    }


def test_transformer_returns_states_and_scores():
    model = transformer(
        **SIZES, return_hidden_states=True, return_attention_scores=True
    )
    outputs = model(pair())
    shapes = {
        key: {tuple(x.shape) for x in value}
        for key, value in outputs.items()
        if key != "logits"
    }
    assert tuple(outputs["logits"].shape) == (B, T, V)
    assert shapes == {
        "encoder_hidden_states": {(B, S, D)},
        "decoder_hidden_states": {(B, T, D)},
        "encoder_attention_scores": {(B, H, S, S)},
        "decoder_attention_scores": {(B, H, T, T)},
        "cross_attention_scores": {(B, H, T, S)},
    }
    assert all(len(outputs[key]) == 2 for key in shapes)


def test_transformer_tables():
    def tables(model):
        return sorted(w.shape[0] for w in model.weights if "embeddings" in w.path)

    assert tables(transformer(**SIZES)) == [V]
    assert tables(
        transformer(**SIZES, share_embeddings=False, source_vocabulary_size=37)
    ) == [V, 37]
    assert tables(transformer(**SIZES, position="learned")) == [11, 11, V]


def test_transformer_logits_come_from_the_target_table():
    model = transformer(**SIZES, return_hidden_states=True)
    outputs = model(pair())
    table = ops.convert_to_numpy(model.get_layer("token_embedding").embeddings)
    states = ops.convert_to_numpy(outputs["decoder_hidden_states"][-1])
    logits = ops.convert_to_numpy(outputs["logits"])
    np.testing.assert_allclose(logits, states @ table.T, atol=1e-4)


def test_transformer_with_a_bias_for_every_token():
    model = transformer(**SIZES, use_output_bias=True)
    before = ops.convert_to_numpy(model(pair()))
    bias = np.arange(V, dtype="float32")
    model.get_layer("output_bias").bias.assign(bias)
    after = ops.convert_to_numpy(model(pair()))
    np.testing.assert_allclose(after, before + bias, atol=1e-5)


def test_transformer_of_sines_has_no_longest_text():
    model = transformer(**SIZES)
    assert tuple(model(pair(29, 37)).shape) == (B, 37, V)


@pytest.mark.parametrize("mask_value", [-30.0, -1e9])
@pytest.mark.parametrize("sharpness", [1, 60])
def test_transformer_gives_padding_what_its_mask_value_says(sharpness, mask_value):
    """A masked key weighs `exp(mask_value)` of what it would weigh unmasked.

    That is nothing, unless scores lie as far apart as with a sharpness of 60.
    """
    model = transformer(
        **SIZES, mask_value=mask_value, return_attention_scores=True, dropout=0.0
    )
    draw = np.random.default_rng(5)
    for weight in model.weights:
        weight.assign(draw.normal(0, 0.3, weight.shape) + ("gamma" in weight.path))
    query = model.get_layer("encoder_layer_0").self_attention.query_dense.kernel
    query.assign(query * sharpness)
    inputs = pair()

    def first_scores():  # (B, H, S, S); later blocks read other states.
        scores = model(inputs)["encoder_attention_scores"][0]
        return ops.convert_to_numpy(scores).astype("float64")

    unmasked = first_scores()
    inputs["encoder_padding_mask"][:, -2:] = 0
    found = first_scores()
    leaked = found[..., -2:].max()
    if mask_value == -1e9 or sharpness == 1:
        assert leaked < 1e-7
    else:
        assert leaked > 0.5
    visible = unmasked[..., :3].max(-1) > 1e-30  # else no number says their shares
    shares = unmasked[visible] * np.exp(mask_value * np.array([0, 0, 0, 1, 1]))
    expected = shares / shares.sum(-1, keepdims=True)
    np.testing.assert_allclose(found[visible], expected, atol=1e-5)


def test_causal_lm_is_normalized_first_and_last():
    model = causal_lm(**SIZES, return_hidden_states=True, return_attention_scores=True)
    ids = np.random.default_rng(3).integers(0, V, (B, T))
    outputs = model({"token_ids": ids, "padding_mask": np.ones((B, T), "int32")})
    states = ops.convert_to_numpy(outputs["hidden_states"][-1])
    mean = states.mean(-1, keepdims=True)
    normalized = (states - mean) / np.sqrt(states.var(-1, keepdims=True) + 1e-5)
    table = ops.convert_to_numpy(model.get_layer("token_embedding").embeddings)
    logits = ops.convert_to_numpy(outputs["logits"])
    np.testing.assert_allclose(logits, normalized @ table.T, atol=1e-4)
    scores = ops.convert_to_numpy(outputs["attention_scores"][0])
    assert scores.shape == (B, H, T, T)
    assert np.abs(np.triu(scores, 1)).max() == 0


@build
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"hidden_dim": 28, "num_heads": 3}, "hidden_dim=28, num_heads=3, remainder 1"),
        ({"hidden_dim": 0}, "hidden_dim=0|embedding_dim=0"),
        ({"num_layers": 0}, "num_layers=0"),
        ({"num_heads": 0}, "num_heads=0"),
        ({"intermediate_dim": 0}, "intermediate_dim=0"),
        ({"vocabulary_size": 0}, "vocabulary_size=0"),
        ({"dropout": -0.1}, "dropout=-0.1"),
        ({"attention_dropout": -0.1}, "dropout=-0.1"),
        ({"mask_value": 30.0}, "mask_value=30.0"),
    ],
)
def test_refuses_numbers_that_do_not_fit(build, changes, told):
    with pytest.raises(ValueError, match=told):
        build(**changes)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"position": "rotary"}, "'sinusoidal' or 'learned'. Received: .*'rotary'"),
        ({"source_vocabulary_size": 37}, "source_vocabulary_size=37. Pass `share_emb"),
        ({"hidden_dim": 25, "num_heads": 5}, "even width. Received: .* width 25"),
    ],
)
def test_transformer_refuses_what_does_not_fit(changes, told):
    with pytest.raises(ValueError, match=told):
        BUILDERS["transformer"](**changes)


def test_refuses_inputs_that_do_not_fit():
    model = transformer(**SIZES, position="learned")
    with pytest.raises(ValueError, match="max_sequence_length=11 tokens. Received: 13"):
        model(pair(13, T))
    with pytest.raises(ValueError, match=r"ids in \[0, 31\). Received: -1. Use the"):
        model({**pair(), "decoder_token_ids": np.full((B, T), -1)})
    wrong = pair()
    wrong["token_ids"] = wrong.pop("decoder_token_ids")
    with pytest.raises(ValueError, match='"decoder_token_ids".*the following keys'):
        model(wrong)
    with pytest.raises(ValueError, match="max_sequence_length=11 tokens. Received: 13"):
        causal_lm(**SIZES, sequence_length=13)
