"""Documents that share a row: each gives and learns what it does in its own row."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_tformer import models

V, T = 31, 13
LENGTHS = [[5, 3, 2], [7, 6]]  # of the documents in each row
SIZES = {
    "vocabulary_size": V,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 26,
    "intermediate_dim": 17,
    "max_sequence_length": T,
    "initializer_range": 0.3,
    "dropout": 0.0,
    "attention_dropout": 0.0,
}
BUILDERS = {
    "bert_encoder": lambda **changes: models.bert_encoder(**SIZES, **changes),
    "albert_encoder": lambda **changes: models.albert_encoder(
        embedding_dim=5, **SIZES, **changes
    ),
    "causal_lm": lambda **changes: models.causal_lm(**SIZES, **changes),
}
build = pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)


def only_tokens(model):
    """The model with one output: what it says of each token."""
    output = model.output
    return keras.Model(
        model.input, output["sequence_output"] if isinstance(output, dict) else output
    )


def documents_and_rows():
    """The same documents, padded to a row each, and side by side in two rows."""
    draw = np.random.default_rng(3)
    names = ("token_ids", "segment_ids", "padding_mask")
    alone = {name: np.zeros((5, T), "int32") for name in names}
    packed = {name: np.zeros((2, T), "int32") for name in (*names, "document_ids")}
    places = []
    for row, lengths in enumerate(LENGTHS):
        start = 0
        for number, length in enumerate(lengths):
            content = {
                "token_ids": draw.integers(0, V, length),
                "segment_ids": draw.integers(0, 2, length),
                "padding_mask": 1,
            }
            for name, values in content.items():
                alone[name][len(places), :length] = values
                packed[name][row, start : start + length] = values
            # Any numbers will do that are not 0 and differ within a row.
            packed["document_ids"][row, start : start + length] = 7 - 2 * number
            places.append((row, start, length))
            start += length
    return alone, packed, places


class Product(keras.losses.Loss):
    """A loss whose gradient is the target itself."""

    def call(self, y_true, y_pred):
        return y_true * y_pred


def of(model, inputs):
    return {x.name: inputs[x.name] for x in model.inputs}


@build
def test_packed_documents_give_what_each_gives_alone(build):
    alone, packed, places = documents_and_rows()
    plain = only_tokens(build())
    model = only_tokens(build(has_packed_documents=True))
    assert {x.name for x in model.inputs} - {x.name for x in plain.inputs} == {
        "document_ids"
    }
    model.set_weights(plain.get_weights())
    expected = ops.convert_to_numpy(plain(of(plain, alone)))
    found = ops.convert_to_numpy(model(of(model, packed)))
    for document, (row, start, length) in enumerate(places):
        np.testing.assert_allclose(
            found[row, start : start + length], expected[document, :length], atol=1e-5
        )
    # Without the ids they would see each other.
    together = ops.convert_to_numpy(plain(of(plain, packed)))
    assert np.abs(together[0, 5:8] - expected[1, :3]).max() > 0.1


@build
def test_gradients_are_those_of_the_documents_alone(build):
    alone, packed, places = documents_and_rows()
    plain = only_tokens(build())
    model = only_tokens(build(has_packed_documents=True))
    model.set_weights(plain.get_weights())
    draw = np.random.default_rng(5)
    width = plain.output.shape[-1]
    targets = np.zeros((5, T, width), "float32")
    packed_targets = np.zeros((2, T, width), "float32")
    for document, (row, start, length) in enumerate(places):
        values = draw.normal(size=(length, width))
        targets[document, :length] = values
        packed_targets[row, start : start + length] = values

    def gradients(model, inputs, targets):
        """What one step of plain descent subtracts from each weight."""
        before = model.get_weights()
        model.compile(
            keras.optimizers.SGD(1.0),
            Product(reduction="sum"),
            run_eagerly=True,
        )
        model.train_on_batch(of(model, inputs), targets)
        after = model.get_weights()
        return [b - a for b, a in zip(before, after, strict=True)]

    found = gradients(model, packed, packed_targets)
    expected = gradients(plain, alone, targets)
    for weight, a, b in zip(model.weights, found, expected, strict=True):
        scale = np.abs(b).max()
        np.testing.assert_allclose(a, b, atol=1e-5 * (1 + scale), err_msg=weight.path)
    assert sum(np.abs(b).max() > 0.1 for b in expected) > len(expected) / 2


@pytest.mark.slow
def test_what_learned_from_packed_rows_generates():
    model = models.causal_lm(**SIZES, has_packed_documents=True)
    plain = models.causal_lm(**SIZES)
    plain.set_weights(model.get_weights())
    prompts = [[3, 5, 7], [11]]
    np.testing.assert_array_equal(
        models.generate(model, prompts, max_length=5),
        models.generate(plain, prompts, max_length=5),
    )
