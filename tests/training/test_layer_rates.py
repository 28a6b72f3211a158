"""Rates by depth: factors worked by hand, updates against torch's parameter groups."""

import keras
import numpy as np
import pytest

import keras_tformer as kt

SIZES = {
    "vocabulary_size": 23,
    "num_heads": 2,
    "hidden_dim": 6,
    "intermediate_dim": 14,
    "max_sequence_length": 11,
}


def test_factors_of_bert_by_depth():
    encoder = kt.models.bert_encoder(num_layers=3, embedding_dim=5, **SIZES)
    model = kt.models.sequence_classifier(encoder, num_classes=3)
    factors = kt.training.layer_rate_factors(model, decay=0.5)
    assert set(factors) == {v.path for v in model.trainable_variables}
    expected = {  # 3 blocks: the top one half, the embeddings a half to the 4th
        "token_embedding/": 1 / 16,
        "embeddings/": 1 / 16,
        "encoder_layer_0/": 1 / 8,
        "encoder_layer_1/": 1 / 4,
        "encoder_layer_2/": 1 / 2,
        "pooler/": 1,
        "classifier/": 1,
    }
    for path, factor in factors.items():
        (start,) = (start for start in expected if path.startswith(start))
        assert factor == expected[start], path


def test_the_decoder_stands_above_the_encoder():
    model = kt.models.transformer(num_layers=2, **SIZES)
    factors = kt.training.layer_rate_factors(model, decay=0.5)
    kernel = "_layer_{}/feed_forward/output/kernel"
    names = ["encoder" + kernel.format(0), "encoder" + kernel.format(1)]
    names += ["decoder" + kernel.format(0), "decoder" + kernel.format(1)]
    assert [factors[name] for name in names] == [1 / 16, 1 / 8, 1 / 4, 1 / 2]
    assert factors["token_embedding/embeddings"] == 1 / 32


@pytest.mark.slow
def test_twelve_blocks_are_ordered_by_number():
    model = kt.models.causal_lm(num_layers=12, **SIZES)
    factors = kt.training.layer_rate_factors(model, decay=0.5)
    assert factors["decoder_layer_2/self_attention/query/bias"] == 0.5**10
    assert factors["decoder_layer_11/self_attention/query/bias"] == 0.5


def test_updates_equal_parameter_groups_of_torch():
    torch = pytest.importorskip("torch", reason="needs the [reference] extra")
    random = np.random.default_rng(3)
    starts = {"low": (3, 5), "high": (7, 2)}
    starts = {n: random.normal(size=s).astype("float32") for n, s in starts.items()}
    ours = {name: keras.Variable(start, name=name) for name, start in starts.items()}
    theirs = {
        name: torch.nn.Parameter(torch.tensor(start)) for name, start in starts.items()
    }
    optimizer = kt.training.adamw(
        0.01,
        weight_decay=0.1,
        epsilon=1e-12,  # added on another side of the bias correction
        global_clipnorm=None,
        rate_factors={ours["low"].path: 0.25},
    )
    groups = [
        {"params": [theirs["low"]], "lr": 0.0025},
        {"params": [theirs["high"]], "lr": 0.01},
    ]
    reference = torch.optim.AdamW(groups, weight_decay=0.1, eps=1e-12)
    for _ in range(5):
        gradients = [
            random.normal(size=v.shape).astype("float32") for v in ours.values()
        ]
        optimizer.apply(
            [keras.ops.convert_to_tensor(g) for g in gradients], list(ours.values())
        )
        for parameter, gradient in zip(theirs.values(), gradients, strict=True):
            parameter.grad = torch.tensor(gradient)
        reference.step()
    for name, variable in ours.items():
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(variable),
            theirs[name].detach().numpy(),
            rtol=0,
            atol=2e-6,
        )


def test_factors_are_kept_in_the_config():
    optimizer = kt.training.FusedAdamW(0.1, rate_factors={"a/kernel": 0.5})
    copy = kt.training.FusedAdamW.from_config(optimizer.get_config())
    assert copy.rate_factors == {"a/kernel": 0.5}


def test_refusals():
    albert = kt.models.albert_encoder(num_layers=2, embedding_dim=5, **SIZES)
    with pytest.raises(ValueError, match="shares its blocks"):
        kt.training.layer_rate_factors(albert, decay=0.9)
    with pytest.raises(ValueError, match="decay=1.5"):
        kt.training.layer_rate_factors(albert, decay=1.5)
    inputs = keras.Input((3,))
    dense = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    with pytest.raises(ValueError, match="no variable in an encoder_layer_N"):
        kt.training.layer_rate_factors(dense, decay=0.9)
    with pytest.raises(ValueError, match="rate_factors names"):
        kt.training.adamw(0.1, rate_factors={"elsewhere": 0.5}).build(
            dense.trainable_variables
        )
    with pytest.raises(ValueError, match="numbers >= 0"):
        kt.training.adamw(0.1, rate_factors={"elsewhere": -0.5})
