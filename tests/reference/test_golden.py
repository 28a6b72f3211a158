"""Our models against kept values of Hugging Face's: needs neither torch nor theirs.

`make_golden.py` tells how the values were made.
"""

import golden_cases
import keras
import numpy as np
import pytest
from comparison import assert_close, outputs_of
from golden_cases import ALBERT, BERT, FOLDER, GPT2, MARIAN
from weight_tables import copy_weights

from keras_tformer import models


def with_attention_scores(pretrainer, encoder):
    """Adds what the encoder returns besides its two outputs to those of its head."""
    added = {key: encoder.output[key] for key in ("hidden_states", "attention_scores")}
    return keras.Model(pretrainer.input, {**pretrainer.output, **added})


def bert():
    encoder = models.bert_encoder(
        **BERT, return_hidden_states=True, return_attention_scores=True
    )
    return with_attention_scores(models.bert_pretrainer(encoder), encoder)


def albert():
    encoder = models.albert_encoder(
        **ALBERT, return_hidden_states=True, return_attention_scores=True
    )
    return with_attention_scores(models.albert_pretrainer(encoder), encoder)


def gpt2():
    return models.causal_lm(**GPT2, return_attention_scores=True)


def marian():
    return models.transformer(**MARIAN, return_attention_scores=True)


@pytest.mark.parametrize("build", [bert, albert, gpt2, marian])
def test_golden_values(build, record_property):
    case = build.__name__
    with np.load(FOLDER / f"{case}.npz", allow_pickle=False) as file:
        kept = dict(file)
    model = build()
    shapes = {weight.path: tuple(weight.shape) for weight in model.weights}
    arrays = {}
    for name, kind, path in golden_cases.ROWS[case]:
        shape = shapes[path][::-1] if kind == "T" else shapes[path]
        arrays[name] = golden_cases.formula_weight(name, shape)
    copy_weights(model, golden_cases.ROWS[case], arrays)

    batch = {
        name.removeprefix("input/"): array
        for name, array in kept.items()
        if name.startswith("input/")
    }
    found = {}
    for name, output in outputs_of(model, batch).items():
        if isinstance(output, list):
            found |= {f"{name}/{number}": part for number, part in enumerate(output)}
        else:
            found[name] = output
    expected = {name: kept[name] for name in kept if not name.startswith("input/")}
    assert_close(found, expected, record_property)


def test_the_formula_is_what_it_was():
    """The kept values hold for these weights only."""
    values = golden_cases.numbers("a name", (2, 2))
    expected = [[0.351856789086, 0.106378369034], [0.210862749256, -0.528973590117]]
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-11)
