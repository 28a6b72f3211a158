"""BERT against Hugging Face's, on torch: equal weights must give equal numbers."""

import keras
import numpy as np
import pytest
from comparison import (
    TOLERANCE,
    assert_close,
    assert_gradients_close,
    gradients_of,
    largest_difference,
    one_backend_is_enough,
    outputs_of,
    random_batch,
    random_encoder_sizes,
    randomize,
)
from weight_tables import (
    BERT_MASKED_LM,
    BERT_NEXT_SENTENCE,
    BERT_POOLER,
    CLASSIFIER,
    SPAN,
    arrays_of,
    bert_rows,
    copy_weights,
)

from keras_tformer import models

torch = pytest.importorskip("torch", reason="the reference runs on torch")
transformers = pytest.importorskip("transformers", reason="the reference itself")


def their_config(sizes, activation="gelu", epsilon=1e-12, **more):
    return transformers.BertConfig(
        vocab_size=sizes["vocabulary_size"],
        num_hidden_layers=sizes["num_layers"],
        num_attention_heads=sizes["num_heads"],
        hidden_size=sizes["hidden_dim"],
        intermediate_size=sizes["intermediate_dim"],
        max_position_embeddings=sizes["max_sequence_length"],
        type_vocab_size=sizes["num_segments"],
        hidden_act=activation,
        layer_norm_eps=epsilon,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        attn_implementation="eager",  # The only one that returns attention scores.
        **more,
    )


def our_encoder(sizes, activation="gelu", epsilon=1e-12, **more):
    return models.bert_encoder(
        **sizes,
        activation=activation,
        layer_norm_epsilon=epsilon,
        dropout=0.0,
        attention_dropout=0.0,
        **more,
    )


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
    ("seed", "activation", "epsilon"),
    [
        (1, "gelu", 1e-12),
        (2, "gelu_new", 1e-5),
        pytest.param(3, "gelu", 1e-5, marks=pytest.mark.slow),
        pytest.param(4, "gelu_new", 1e-12, marks=pytest.mark.slow),
        pytest.param(5, "relu", 1e-3, marks=pytest.mark.slow),
    ],
)
def test_encoder(seed, activation, epsilon, record_property):
    sizes = random_encoder_sizes(seed)
    theirs = randomize(
        transformers.BertModel(their_config(sizes, activation, epsilon)), seed
    )
    ours = our_encoder(
        sizes,
        activation,
        epsilon,
        return_hidden_states=True,
        return_attention_scores=True,
    )
    arrays = {f"bert.{name}": value for name, value in arrays_of(theirs).items()}
    copy_weights(ours, bert_rows(sizes["num_layers"], BERT_POOLER), arrays)

    batch = random_batch(sizes, seed)
    expected = their_outputs(
        theirs, batch, output_hidden_states=True, output_attentions=True
    )
    assert_close(
        outputs_of(ours, batch),
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
@pytest.mark.parametrize("pooling", ["mean", "max", "first", "pooled"])
def test_text_embedder(pooling, record_property):
    """Against torch's pooling of their last hidden states, as sentence-transformers."""
    sizes = random_encoder_sizes(6)
    theirs = randomize(transformers.BertModel(their_config(sizes)), 6)
    encoder = our_encoder(sizes)
    arrays = {f"bert.{name}": value for name, value in arrays_of(theirs).items()}
    copy_weights(encoder, bert_rows(sizes["num_layers"], BERT_POOLER), arrays)
    batch = random_batch(sizes, 6)
    answers = their_outputs(theirs, batch)
    states = answers.last_hidden_state
    keep = torch.tensor(batch["padding_mask"]).bool()[..., None]
    vectors = {
        "mean": (states * keep).sum(1) / keep.sum(1),
        "max": states.masked_fill(~keep, -torch.inf).max(1).values,
        "first": states[:, 0],
        "pooled": answers.pooler_output,
    }[pooling]
    ours = models.text_embedder(encoder, pooling=pooling, normalize=True)
    expected = torch.nn.functional.normalize(vectors, dim=-1)
    assert_close({"vectors": ours(batch)}, {"vectors": expected}, record_property)


@one_backend_is_enough
@pytest.mark.parametrize("length", [1, 23])
def test_encoder_at_the_shortest_and_the_longest_input(length, record_property):
    sizes = {**random_encoder_sizes(7), "max_sequence_length": 23}
    theirs = randomize(transformers.BertModel(their_config(sizes)), 7)
    ours = our_encoder(sizes)
    arrays = {f"bert.{name}": value for name, value in arrays_of(theirs).items()}
    copy_weights(ours, bert_rows(sizes["num_layers"], BERT_POOLER), arrays)
    batch = random_batch(sizes, 7, batch_size=3, length=length)
    expected = their_outputs(theirs, batch)
    assert_close(
        outputs_of(ours, batch),
        {
            "sequence_output": expected.last_hidden_state,
            "pooled_output": expected.pooler_output,
        },
        record_property,
    )


@one_backend_is_enough
@pytest.mark.parametrize(
    ("seed", "activation"),
    [(11, "gelu"), pytest.param(12, "gelu_new", marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("pretrains", [True, False], ids=["pretrainer", "masked_lm"])
def test_pretraining_heads(seed, activation, pretrains, record_property):
    sizes = random_encoder_sizes(seed)
    kind = "BertForPreTraining" if pretrains else "BertForMaskedLM"
    config = their_config(sizes, activation, 1e-5)
    theirs = randomize(getattr(transformers, kind)(config), seed)
    encoder = our_encoder(sizes, activation, 1e-5)
    ours = (models.bert_pretrainer if pretrains else models.masked_lm)(encoder)
    heads = [BERT_MASKED_LM]
    heads += [BERT_POOLER, BERT_NEXT_SENTENCE] if pretrains else []
    copy_weights(ours, bert_rows(sizes["num_layers"], *heads), arrays_of(theirs))

    batch = random_batch(sizes, seed)
    positions = np.random.default_rng(seed).integers(0, 17, (5, 7), "int32")
    expected = their_outputs(theirs, batch)
    all_logits = expected.prediction_logits if pretrains else expected.logits
    wanted = {
        "masked_lm": np.take_along_axis(all_logits.numpy(), positions[..., None], 1)
    }
    if pretrains:
        wanted["next_sentence"] = expected.seq_relationship_logits
    assert_close(
        outputs_of(ours, {**batch, "mask_positions": positions}),
        wanted,
        record_property,
    )


@one_backend_is_enough
@pytest.mark.parametrize(
    ("seed", "activation"),
    [(13, "gelu"), pytest.param(14, "gelu_new", marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("task", ["sequence", "regression", "token", "span"])
def test_task_heads(task, seed, activation, record_property):
    sizes = random_encoder_sizes(seed)
    kind, head, build, more = {
        "sequence": (
            "BertForSequenceClassification",
            [BERT_POOLER, CLASSIFIER],
            lambda encoder: models.sequence_classifier(encoder, num_classes=7),
            {"num_labels": 7},
        ),
        "regression": (
            "BertForSequenceClassification",
            [BERT_POOLER, CLASSIFIER],
            lambda encoder: models.sequence_classifier(encoder, num_classes=1),
            {"num_labels": 1},
        ),
        "token": (
            "BertForTokenClassification",
            [CLASSIFIER],
            lambda encoder: models.token_classifier(encoder, num_classes=11),
            {"num_labels": 11},
        ),
        "span": ("BertForQuestionAnswering", [SPAN], models.span_classifier, {}),
    }[task]
    config = their_config(sizes, activation, **more)
    theirs = randomize(getattr(transformers, kind)(config), seed)
    ours = build(our_encoder(sizes, activation))
    copy_weights(ours, bert_rows(sizes["num_layers"], *head), arrays_of(theirs))
    batch = random_batch(sizes, seed)
    expected, found = their_outputs(theirs, batch), outputs_of(ours, batch)
    if task == "span":
        wanted = {"start": expected.start_logits, "end": expected.end_logits}
    else:
        found, wanted = {"logits": found}, {"logits": expected.logits}
    assert_close(found, wanted, record_property)


def test_gradients(record_property):
    """Both pretraining losses at once, for every weight."""
    sizes = random_encoder_sizes(21)
    # With a `pad_token_id` theirs would leave the lookups of that token out of the
    # gradient of its row, which Google's code and ours do not.
    config = their_config(sizes, pad_token_id=None)
    theirs = randomize(transformers.BertForPreTraining(config), 21)
    ours = models.bert_pretrainer(our_encoder(sizes))
    heads = (BERT_MASKED_LM, BERT_POOLER, BERT_NEXT_SENTENCE)
    table_rows = bert_rows(sizes["num_layers"], *heads)
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
        next_sentence_label=torch.tensor(pairs),
    )
    expected.loss.backward()

    def loss_of(outputs):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        return loss(labels, outputs["masked_lm"]) + loss(
            pairs, outputs["next_sentence"]
        )

    batch["mask_positions"] = positions
    found = float(loss_of(ours(batch)))
    assert abs(found - float(expected.loss.detach())) < TOLERANCE
    gradients = gradients_of(ours, batch, loss_of)
    assert_gradients_close(gradients, table_rows, theirs, record_property)


@one_backend_is_enough
@pytest.mark.parametrize("sharpness", [4.0, 8.0])
def test_mask_value(sharpness, record_property):
    """-30 hides masked keys as well as -1e9 does, unless scores lie very far apart.

    A masked key keeps `exp(its score - 30)` beside `exp(scores of the others)`.
    `sharpness` multiplies the scores. With 4 those of one query lie up to 38 apart, and
    both values give the reference's numbers; with 8 up to 75, and only -1e9 does.
    """
    sizes = random_encoder_sizes(31)
    theirs = randomize(transformers.BertModel(their_config(sizes)), 31)
    with torch.no_grad():
        for name, value in theirs.named_parameters():
            if ".query." in name:
                value.mul_(sharpness)
    arrays = {f"bert.{name}": value for name, value in arrays_of(theirs).items()}
    batch = random_batch(sizes, 31)
    expected = their_outputs(theirs, batch, output_attentions=True)
    wanted = [expected.last_hidden_state, *expected.attentions]
    differences = {}
    for mask_value in (-30.0, -1e9):
        ours = our_encoder(sizes, mask_value=mask_value, return_attention_scores=True)
        copy_weights(ours, bert_rows(sizes["num_layers"], BERT_POOLER), arrays)
        found = outputs_of(ours, batch)
        differences[mask_value] = largest_difference(
            [found["sequence_output"], *found["attention_scores"]], wanted
        )
        record_property(f"mask_value={mask_value}", differences[mask_value])
    assert differences[-1e9] < TOLERANCE
    if sharpness == 4:
        assert differences[-30.0] < TOLERANCE
    else:
        assert differences[-30.0] > 1e-3
