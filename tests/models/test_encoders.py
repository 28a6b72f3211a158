"""BERT's and ALBERT's encoders: outputs, sharing and refusals."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_tformer.models import albert_encoder, bert_encoder

V, D, H, F, B, T = 31, 26, 2, 17, 3, 7
SIZES = {
    "vocabulary_size": V,
    "num_layers": 2,
    "num_heads": H,
    "hidden_dim": D,
    "intermediate_dim": F,
    "max_sequence_length": 11,
}
BUILDERS = {
    "bert_encoder": lambda **changes: bert_encoder(**(SIZES | changes)),
    "albert_encoder": lambda **changes: albert_encoder(
        **(SIZES | {"embedding_dim": 5} | changes)
    ),
}
build = pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)


def inputs(length=T):
    random = np.random.default_rng(3)
    return {
        "token_ids": random.integers(0, V, (B, length)),
        "segment_ids": random.integers(0, 2, (B, length)),
        "padding_mask": np.ones((B, length), "int32"),
    }


@build
def test_returns_states_and_scores_of_every_call(build):
    model = build(return_hidden_states=True, return_attention_scores=True)
    outputs = model(inputs())
    assert tuple(outputs["pooled_output"].shape) == (B, D)
    states, scores = outputs["hidden_states"], outputs["attention_scores"]
    assert [tuple(x.shape) for x in states] == [(B, T, D)] * 2
    assert [tuple(x.shape) for x in scores] == [(B, H, T, T)] * 2
    np.testing.assert_array_equal(
        ops.convert_to_numpy(states[-1]),
        ops.convert_to_numpy(outputs["sequence_output"]),
    )
    assert set(build().output) == {"sequence_output", "pooled_output"}


@build
def test_extra_outputs_change_no_number(build):
    plain = build()
    full = build(return_hidden_states=True, return_attention_scores=True)
    full.set_weights(plain.get_weights())
    for key in plain.output:
        more = ops.convert_to_numpy(full(inputs())[key])
        alone = ops.convert_to_numpy(plain(inputs())[key])
        np.testing.assert_allclose(more, alone, atol=1e-6)


def test_albert_groups_take_the_layers_in_order():
    model = BUILDERS["albert_encoder"](
        num_layers=4, num_groups=2, num_inner_repetitions=3
    )
    calls = [x for x in model.operations if x.name.startswith("encoder_group")]
    assert len(calls) == 6
    path = [
        node.operation.name
        for depth in sorted(model._nodes_by_depth, reverse=True)
        for node in model._nodes_by_depth[depth]
        if node.operation.name.startswith("encoder_group")
    ]
    group = [[f"encoder_group_{g}_layer_{i}" for i in range(3)] for g in (0, 1)]
    assert path == 2 * group[0] + 2 * group[1]


def test_albert_without_factorization_has_no_projection():
    model = BUILDERS["albert_encoder"](embedding_dim=D)
    assert not any("projection" in w.path for w in model.weights)


@build
def test_segments_may_be_left_out(build):
    model = build(num_segments=None)
    assert set(model.input) == {"token_ids", "padding_mask"}


@build
def test_a_fixed_length_is_fixed(build):
    model = build(sequence_length=T)
    assert model.input["token_ids"].shape == (None, T)
    assert model.output["sequence_output"].shape == (None, T, D)


@build
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"hidden_dim": 25}, "hidden_dim=25, num_heads=2, remainder 1"),
        ({"hidden_dim": -26}, "hidden_dim=-26|embedding_dim=-26"),
        ({"num_layers": 0}, "num_layers=0"),
        ({"num_heads": 0}, "num_heads=0"),
        ({"intermediate_dim": 0}, "intermediate_dim=0"),
        ({"vocabulary_size": 0}, "vocabulary_size=0"),
        ({"max_sequence_length": 0}, "max_sequence_length=0"),
        ({"num_segments": 0}, "num_segments=0"),
        ({"dropout": -0.1}, "dropout=-0.1"),
        ({"attention_dropout": 1}, "dropout=1"),
        ({"mask_value": 30.0}, "mask_value=30.0"),
        ({"activation": "gelo"}, "gelo"),
        ({"sequence_length": 13}, "max_sequence_length=11 tokens. Received: 13"),
    ],
)
def test_refuses_numbers_that_do_not_fit(build, changes, told):
    with pytest.raises(ValueError, match=told):
        build(**changes)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"num_groups": 3, "num_layers": 4}, "num_layers=4, num_groups=3, remainder 1"),
        ({"num_groups": 0}, "num_groups=0"),
        ({"num_inner_repetitions": 0}, "num_inner_repetitions=0"),
        ({"embedding_dim": 0}, "embedding_dim=0"),
    ],
)
def test_albert_refuses_groups_that_do_not_fit(changes, told):
    with pytest.raises(ValueError, match=told):
        BUILDERS["albert_encoder"](**changes)


@build
def test_refuses_inputs_that_do_not_fit(build):
    model = build()
    with pytest.raises(
        ValueError, match="max_sequence_length=11 tokens. Received: 13. Truncate"
    ):
        model(inputs(13))
    with pytest.raises(ValueError, match=r"ids in \[0, 31\). Received: 31. Use the"):
        model({**inputs(), "token_ids": np.full((B, T), V)})
    wrong = inputs()
    wrong["segments"] = wrong.pop("segment_ids")
    with pytest.raises(ValueError, match='"segment_ids".*Expected the following keys'):
        model(wrong)


@build
def test_the_dtype_reaches_every_layer(build):
    model = build(dtype="mixed_bfloat16")
    layers = model._flatten_layers(include_self=False)
    policies = {
        x.dtype_policy.name
        for x in layers
        if not isinstance(x, keras.layers.InputLayer)
    }
    assert policies == {"mixed_bfloat16"}


def test_what_relatives_of_bert_need():
    """A narrow token table, rows before the first position, another pooler."""
    model = bert_encoder(
        **SIZES, embedding_dim=5, position_offset=2, pooler_activation="relu"
    )
    shapes = {weight.path: tuple(weight.shape) for weight in model.weights}
    assert shapes["token_embedding/embeddings"] == (V, 5)
    assert shapes["embeddings/projection/kernel"] == (5, D)
    assert shapes["embeddings/position_embedding/embeddings"] == (13, 5)
    pooled = ops.convert_to_numpy(model(inputs(11))["pooled_output"])
    assert pooled.min() == 0 < pooled.max()
