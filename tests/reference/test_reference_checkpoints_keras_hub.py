"""KerasHub's models become ours and ours theirs: equal outputs, bit-equal weights."""

import numpy as np
import pytest
from comparison import assert_close, outputs_of, random_batch, random_encoder_sizes

from keras_tformer import models
from keras_tformer.checkpoints.keras_hub import from_keras_hub, to_keras_hub

keras_hub = pytest.importorskip("keras_hub", reason="the reference itself")

MORE = {
    "bert": {},
    "albert": {
        "num_layers": 4,
        "num_groups": 2,
        "num_inner_repetitions": 2,
        "embedding_dim": 17,
    },
}
slow = pytest.mark.slow
CASES = [
    ("bert", "Backbone"),
    pytest.param("bert", "TextClassifier", marks=slow),
    ("bert", "MaskedLM"),
    pytest.param("albert", "Backbone", marks=slow),
    ("albert", "TextClassifier"),
    pytest.param("albert", "MaskedLM", marks=slow),
]


def draw_weights(model):
    draw = np.random.default_rng(5)
    for weight in model.weights:
        shift = 1 if weight.path.endswith("gamma") else 0
        weight.assign(draw.normal(shift, 0.2, weight.shape).astype("float32"))
    return model


def as_dict(outputs, task):
    return outputs if isinstance(outputs, dict) else {task: outputs}


@pytest.mark.parametrize(("family", "task"), CASES)
def test_from_keras_hub_and_back(family, task, record_property):
    sizes = random_encoder_sizes(6) | MORE[family]
    kinds = {
        name: getattr(keras_hub.models, family.capitalize() + name)
        for name in ("Backbone", "TextClassifier", "MaskedLM")
    }
    theirs = kinds["Backbone"](**sizes, dropout=0.3)
    if task == "TextClassifier":
        theirs = kinds[task](theirs, num_classes=7, dropout=0.2)
    elif task == "MaskedLM":
        theirs = kinds[task](theirs)
    draw_weights(theirs)
    ours = from_keras_hub(theirs)

    batch = random_batch(sizes, 6)
    if task == "MaskedLM":
        positions = np.random.default_rng(6).integers(0, 17, (5, 7), "int32")
        batch["mask_positions"] = positions
    expected = as_dict(outputs_of(theirs, batch), "outputs")
    found = outputs_of(ours, batch)
    if task != "Backbone":
        found = {"outputs": found["masked_lm"] if task == "MaskedLM" else found}
    assert_close(found, expected, record_property)
    block = next(layer for layer in ours.layers if layer.name.startswith("encoder_"))
    assert (block.dropout, block.attention_dropout) == (0.3, 0.3)
    if task == "TextClassifier":
        assert ours.get_layer("classifier_dropout").rate == 0.2

    if task == "MaskedLM":  # Ours has no pooler that could go back.
        with pytest.warns(UserWarning, match="pooled_dense"):
            back = to_keras_hub(ours)
    else:
        back = to_keras_hub(ours)
    assert type(back) is type(theirs)
    left = {weight.path: weight.numpy() for weight in theirs.weights}
    for weight in back.weights:
        if task != "MaskedLM" or "pooled_dense" not in weight.path:
            np.testing.assert_array_equal(weight.numpy(), left[weight.path])
    assert {weight.path for weight in back.weights} == left.keys()
    again = as_dict(outputs_of(back, batch), "outputs")
    assert_close(again, expected, record_property, tolerance=1e-7)


@pytest.mark.parametrize("family", ["bert", pytest.param("albert", marks=slow)])
def test_ours_to_keras_hub(family, record_property):
    """The other way round: drawn here, equal there."""
    sizes = random_encoder_sizes(8) | MORE[family]
    build = getattr(models, f"{family}_encoder")
    numbers = {"activation": "gelu_tanh", "dropout": 0.1, "attention_dropout": 0.1}
    encoder = build(**sizes, **numbers, mask_value=-1e9)
    ours = draw_weights(models.sequence_classifier(encoder, num_classes=3))
    theirs = to_keras_hub(ours)
    assert theirs.backbone.dropout == 0.1
    batch = random_batch(sizes, 8)
    assert_close(
        {"logits": outputs_of(theirs, batch)},
        {"logits": outputs_of(ours, batch)},
        record_property,
    )
