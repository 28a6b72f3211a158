import keras
import numpy as np
import pytest

import keras_tformer as kt
from keras_tformer.training import intermediate_outputs
from keras_tformer.training.intermediate_outputs import number_of_calls

SIZES = {
    "vocabulary_size": 13,
    "embedding_dim": 3,
    "num_layers": 3,
    "num_heads": 2,
    "hidden_dim": 10,
    "intermediate_dim": 7,
    "initializer_range": 0.5,
}
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], "int32")
INPUTS = {
    "token_ids": np.array([[2, 7, 1, 8, 3], [2, 9, 3, 0, 0]], "int32"),
    "segment_ids": np.zeros((2, 5), "int32"),
    "padding_mask": MASK,
}


@pytest.fixture(scope="module", params=["albert", "bert"])
def encoders(request):
    """An encoder that returns all there is, and one with the same weights plain."""
    keras.utils.set_random_seed(3)
    make = getattr(kt.models, f"{request.param}_encoder")
    full = make(**SIZES, return_hidden_states=True, return_attention_scores=True)
    plain = make(**SIZES)
    plain.set_weights(full.get_weights())
    return full(INPUTS), plain


def test_every_call_is_told_apart(encoders):
    expected, plain = encoders
    head = kt.models.sequence_classifier(plain, num_classes=3)
    model = intermediate_outputs(
        head, {"hidden_states": [1, 2, 3], "attention_scores": [1, 2, 3]}
    )
    assert number_of_calls(head) == 3
    outputs = model(INPUTS)
    for index in range(3):
        for name in ("hidden_states", "attention_scores"):
            np.testing.assert_allclose(
                outputs[name][str(index + 1)], expected[name][index], atol=1e-6
            )
    np.testing.assert_allclose(outputs["outputs"], head(INPUTS), atol=1e-6)
    first, last = expected["hidden_states"][0], expected["hidden_states"][-1]
    assert np.abs(np.array(first) - np.array(last)).max() > 0.1


def test_queries_and_keys_give_the_attention_of_their_call(encoders):
    expected, plain = encoders
    calls = {name: [1, 3] for name in ("queries", "keys", "values")}
    outputs = intermediate_outputs(plain, calls)(INPUTS)
    for call in (1, 3):
        queries, keys = (np.array(outputs[x][str(call)]) for x in ("queries", "keys"))
        assert queries.shape == (2, 5, 2, 5)
        scores = np.einsum("bthk,bshk->bhts", queries, keys) / np.sqrt(5)
        scores = np.exp(scores + np.where(MASK, 0, -30.0)[:, None, None])
        scores /= scores.sum(-1, keepdims=True)
        np.testing.assert_allclose(
            scores, expected["attention_scores"][call - 1], atol=1e-5
        )


def test_call_0_is_the_embeddings_and_the_model_is_left_as_it_is(encoders):
    _, plain = encoders
    before = plain.to_json()
    model = intermediate_outputs(plain, {"hidden_states": [0]})
    embeddings = keras.Model(plain.input, plain.get_layer("embeddings").output)
    np.testing.assert_allclose(
        model(INPUTS)["hidden_states"]["0"], embeddings(INPUTS), atol=1e-6
    )
    assert plain.to_json() == before
    assert {id(x) for x in model.weights} == {id(x) for x in plain.weights}


def test_what_is_not_there_is_refused(encoders):
    _, plain = encoders
    with pytest.raises(ValueError, match="3 times. Expected calls from 0 to 3"):
        intermediate_outputs(plain, {"hidden_states": [4]})
    with pytest.raises(ValueError, match="the feature 'logits'"):
        intermediate_outputs(plain, {"logits": [1]})
    inputs = keras.Input((3,))
    dense = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    with pytest.raises(ValueError, match="has no blocks left"):
        intermediate_outputs(dense, {"hidden_states": [1]})
