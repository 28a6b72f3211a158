"""ALBERT against Hugging Face's, on torch: equal weights must give equal numbers."""

import keras
import numpy as np
import pytest
from comparison import (
    TOLERANCE,
    assert_close,
    assert_gradients_close,
    gradients_of,
    one_backend_is_enough,
    outputs_of,
    random_batch,
    random_encoder_sizes,
    randomize,
)
from weight_tables import (
    ALBERT_MASKED_LM,
    ALBERT_POOLER,
    ALBERT_SENTENCE_ORDER,
    CLASSIFIER,
    SPAN,
    albert_rows,
    arrays_of,
    copy_weights,
)

from keras_tformer import models
from keras_tformer.layers import transformer_encoder
from keras_tformer.layers.traced_once import traced_once

torch = pytest.importorskip("torch", reason="the reference runs on torch")
transformers = pytest.importorskip("transformers", reason="the reference itself")


def random_sizes(seed, num_layers=3, num_groups=1, num_inner_repetitions=1):
    return {
        **random_encoder_sizes(seed),
        "embedding_dim": 17,
        "num_layers": num_layers,
        "num_groups": num_groups,
        "num_inner_repetitions": num_inner_repetitions,
    }


def their_config(sizes, activation="gelu_new", epsilon=1e-12, **more):
    return transformers.AlbertConfig(
        vocab_size=sizes["vocabulary_size"],
        embedding_size=sizes["embedding_dim"],
        num_hidden_layers=sizes["num_layers"],
        num_hidden_groups=sizes["num_groups"],
        inner_group_num=sizes["num_inner_repetitions"],
        num_attention_heads=sizes["num_heads"],
        hidden_size=sizes["hidden_dim"],
        intermediate_size=sizes["intermediate_dim"],
        max_position_embeddings=sizes["max_sequence_length"],
        type_vocab_size=sizes["num_segments"],
        hidden_act=activation,
        layer_norm_eps=epsilon,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        classifier_dropout_prob=0.0,
        attn_implementation="eager",  # The only one that returns attention scores.
        **more,
    )


def our_encoder(sizes, activation="gelu_tanh", epsilon=1e-12, **more):
    return models.albert_encoder(
        **sizes, activation=activation, layer_norm_epsilon=epsilon, **more
    )


def table_rows_of(sizes, *heads):
    return albert_rows(sizes["num_groups"], sizes["num_inner_repetitions"], *heads)


def their_outputs(model, batch, **more):
    with torch.no_grad():
        return model(
            input_ids=torch.tensor(batch["token_ids"]).long(),
            token_type_ids=torch.tensor(batch["segment_ids"]).long(),
            attention_mask=torch.tensor(batch["padding_mask"]),
            **more,
        )


@one_backend_is_enough
@pytest.mark.parametrize(
    ("seed", "num_layers", "num_groups", "repetitions", "activation", "epsilon"),
    [
        (1, 3, 1, 1, "gelu_new", 1e-12),
        (4, 4, 2, 2, "gelu", 1e-5),
        pytest.param(2, 6, 3, 1, "gelu", 1e-12, marks=pytest.mark.slow),
        pytest.param(3, 2, 1, 3, "gelu_new", 1e-5, marks=pytest.mark.slow),
    ],
)
def test_encoder(
    seed, num_layers, num_groups, repetitions, activation, epsilon, record_property
):
    sizes = random_sizes(seed, num_layers, num_groups, repetitions)
    theirs = randomize(
        transformers.AlbertModel(their_config(sizes, activation, epsilon)), seed
    )
    ours = our_encoder(
        sizes,
        activation,
        epsilon,
        return_hidden_states=True,
        return_attention_scores=True,
    )
    arrays = {f"albert.{name}": value for name, value in arrays_of(theirs).items()}
    copy_weights(ours, table_rows_of(sizes, ALBERT_POOLER), arrays)

    batch = random_batch(sizes, seed)
    expected = their_outputs(
        theirs, batch, output_hidden_states=True, output_attentions=True
    )
    found = outputs_of(ours, batch)
    # One for each call of a block, also where calls share their weights.
    assert len(found["hidden_states"]) == num_layers * repetitions
    assert_close(
        found,
        {
            "sequence_output": expected.last_hidden_state,
            "pooled_output": expected.pooler_output,
            # Theirs begin with what goes into the first block.
            "hidden_states": list(expected.hidden_states[1:]),
            "attention_scores": list(expected.attentions),
        },
        record_property,
    )


@one_backend_is_enough
@pytest.mark.parametrize("pretrains", [True, False], ids=["pretrainer", "masked_lm"])
def test_pretraining_heads(pretrains, record_property):
    sizes = random_sizes(11, num_layers=4, num_groups=2)
    kind = "AlbertForPreTraining" if pretrains else "AlbertForMaskedLM"
    theirs = randomize(getattr(transformers, kind)(their_config(sizes)), 11)
    encoder = our_encoder(sizes)
    ours = (models.albert_pretrainer if pretrains else models.masked_lm)(encoder)
    heads = [ALBERT_MASKED_LM]
    heads += [ALBERT_POOLER, ALBERT_SENTENCE_ORDER] if pretrains else []
    copy_weights(ours, table_rows_of(sizes, *heads), arrays_of(theirs))

    batch = random_batch(sizes, 11)
    positions = np.random.default_rng(11).integers(0, 17, (5, 7), "int32")
    expected = their_outputs(theirs, batch)
    all_logits = expected.prediction_logits if pretrains else expected.logits
    wanted = {
        "masked_lm": np.take_along_axis(all_logits.numpy(), positions[..., None], 1)
    }
    if pretrains:
        wanted["sentence_order"] = expected.sop_logits
    assert_close(
        outputs_of(ours, {**batch, "mask_positions": positions}),
        wanted,
        record_property,
    )


@one_backend_is_enough
@pytest.mark.parametrize("task", ["sequence", "token", "span"])
def test_task_heads(task, record_property):
    sizes = random_sizes(13, num_layers=2, num_inner_repetitions=2)
    kind, head, build, more = {
        "sequence": (
            "AlbertForSequenceClassification",
            [ALBERT_POOLER, CLASSIFIER],
            lambda encoder: models.sequence_classifier(encoder, num_classes=7),
            {"num_labels": 7},
        ),
        "token": (
            "AlbertForTokenClassification",
            [CLASSIFIER],
            lambda encoder: models.token_classifier(encoder, num_classes=11),
            {"num_labels": 11},
        ),
        "span": ("AlbertForQuestionAnswering", [SPAN], models.span_classifier, {}),
    }[task]
    theirs = randomize(getattr(transformers, kind)(their_config(sizes, **more)), 13)
    ours = build(our_encoder(sizes))
    copy_weights(ours, table_rows_of(sizes, *head), arrays_of(theirs))
    batch = random_batch(sizes, 13)
    expected, found = their_outputs(theirs, batch), outputs_of(ours, batch)
    if task == "span":
        wanted = {"start": expected.start_logits, "end": expected.end_logits}
    else:
        found, wanted = {"logits": found}, {"logits": expected.logits}
    assert_close(found, wanted, record_property)


@pytest.fixture
def calls_of_functions(monkeypatch):
    """For each call of a block in training, whether it called a traced function."""
    calls = []

    def recorded(layer, function):
        returned = traced_once(layer, function)
        calls.append(returned != function)
        return returned

    monkeypatch.setattr(transformer_encoder, "traced_once", recorded)
    return calls


@pytest.mark.parametrize("is_traced", [False, True], ids=["eager", "traced"])
def test_gradients(is_traced, calls_of_functions, record_property):
    """Both pretraining losses at once, for every weight: shared ones add up.

    In a graph, as in `fit`, the calls of a block are calls of one traced function.
    """
    if is_traced and keras.backend.backend() != "tensorflow":
        pytest.skip("blocks are traced once on TensorFlow")
    sizes = random_sizes(21, num_layers=4, num_groups=2)
    # With a `pad_token_id` theirs would leave the lookups of that token out of the
    # gradient of its row, which Google's code and ours do not.
    config = their_config(sizes, pad_token_id=None)
    theirs = randomize(transformers.AlbertForPreTraining(config), 21)
    ours = models.albert_pretrainer(our_encoder(sizes), dropout=0.0)
    heads = (ALBERT_MASKED_LM, ALBERT_POOLER, ALBERT_SENTENCE_ORDER)
    table_rows = table_rows_of(sizes, *heads)
    copy_weights(ours, table_rows, arrays_of(theirs))

    draw = np.random.default_rng(21)
    batch = random_batch(sizes, 21)
    # Without repetition, because labels by position hold one label for a position.
    positions = np.stack([draw.permutation(17)[:7] for _ in range(5)]).astype("int32")
    labels = draw.integers(0, sizes["vocabulary_size"], (5, 7))
    pairs = draw.integers(0, 2, 5)
    by_position = np.full((5, 17), -100)  # The label that torch leaves out of a loss.
    np.put_along_axis(by_position, positions, labels, axis=1)

    expected = theirs(
        input_ids=torch.tensor(batch["token_ids"]).long(),
        token_type_ids=torch.tensor(batch["segment_ids"]).long(),
        attention_mask=torch.tensor(batch["padding_mask"]),
        labels=torch.tensor(by_position),
        sentence_order_label=torch.tensor(pairs),
    )
    expected.loss.backward()

    def loss_of(outputs):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        return loss(labels, outputs["masked_lm"]) + loss(
            pairs, outputs["sentence_order"]
        )

    batch["mask_positions"] = positions
    found = float(loss_of(ours(batch)))
    assert abs(found - float(expected.loss.detach())) < TOLERANCE
    gradients = gradients_of(ours, batch, loss_of, is_traced)
    assert calls_of_functions == [is_traced] * sizes["num_layers"]
    assert_gradients_close(gradients, table_rows, theirs, record_property)
