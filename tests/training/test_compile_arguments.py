import keras
import numpy as np
import pytest

import keras_tformer as kt
from keras_tformer.training.compile_arguments import TASKS

B, T, P, V, D = 5, 11, 3, 23, 6


def encoder():
    return kt.models.bert_encoder(
        vocabulary_size=V,
        num_layers=1,
        num_heads=2,
        hidden_dim=D,
        intermediate_dim=7,
        max_sequence_length=T,
        dropout=0.0,
    )


def sequences():
    random = np.random.default_rng(4)
    return {
        "token_ids": random.integers(0, V, (B, T)).astype("int32"),
        "segment_ids": np.zeros((B, T), "int32"),
        "padding_mask": np.ones((B, T), "int32"),
    }


def case(task):
    """A model and one batch (x, labels, weights) for it."""
    random = np.random.default_rng(8)
    x = sequences()
    if task in ("masked_lm", "bert_pretrainer", "albert_pretrainer"):
        model = getattr(kt.models, task)(encoder())
        x["mask_positions"] = random.integers(0, T, (B, P)).astype("int32")
        y = {"masked_lm": random.integers(0, V, (B, P))}
        weights = {"masked_lm": (random.random((B, P)) < 0.5).astype("float32")}
        order = {
            "bert_pretrainer": "next_sentence",
            "albert_pretrainer": "sentence_order",
        }
        if task in order:
            y[order[task]] = random.integers(0, 2, (B,))
            weights[order[task]] = np.array([1, 1, 0, 1, 1], "float32")
        return model, x, y, weights
    if task in ("sequence_classifier", "regressor"):
        classes = 3 if task == "sequence_classifier" else 1
        model = kt.models.sequence_classifier(encoder(), num_classes=classes)
        y = random.integers(0, 3, (B,))
        return model, x, y.astype("float32") if classes == 1 else y, np.ones((B,))
    if task == "token_classifier":
        model = kt.models.token_classifier(encoder(), num_classes=4)
        y = random.integers(0, 4, (B, T))
        y[:, 7:] = -100
        return model, x, y, np.ones((B, T))
    if task == "span_classifier":
        model = kt.models.span_classifier(encoder())
        y = {"start": random.integers(0, T, (B,)), "end": random.integers(0, T, (B,))}
        return model, x, y, {"start": np.ones((B,)), "end": np.ones((B,))}
    # Sequence models are logits over the vocabulary: any model with such an output will
    # do.
    inputs = keras.Input((T,), dtype="int32")
    table = keras.layers.Embedding(V, D)(inputs)
    model = keras.Model(inputs, keras.layers.Dense(V)(table))
    return model, x["token_ids"], random.integers(0, V, (B, T)), np.ones((B, T))


def mean_losses(outputs, y, weights):
    """Each output's weighted mean cross-entropy, in NumPy."""
    losses = {}
    for name, labels in y.items():
        logits = np.asarray(outputs[name], "float64")
        log = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        counts = weights[name] * (labels != -100)
        labels = np.where(labels == -100, 0, labels)
        chosen = np.take_along_axis(log, labels[..., None], -1)[..., 0]
        losses[name] = -(chosen * counts).sum() / counts.sum()
    return losses


@pytest.mark.parametrize("task", TASKS)
def test_one_line_compiles_and_gives_the_stated_loss(task):
    model, x, y, weights = case(task)
    # eagerly: tracing nine models would take most of a minute
    model.compile("sgd", run_eagerly=True, **kt.training.compile_arguments(task, 4))
    logs = model.evaluate(
        x, y, sample_weight=weights, batch_size=B, verbose=0, return_dict=True
    )
    outputs = keras.tree.map_structure(
        keras.ops.convert_to_numpy, model(x, training=False)
    )
    if task == "regressor":
        expected = np.mean((outputs[:, 0] - y) ** 2)
    elif isinstance(y, dict):
        losses = mean_losses(outputs, y, weights)
        expected = sum(losses.values()) * (0.5 if task == "span_classifier" else 1)
        for name, loss in losses.items() if len(losses) > 1 else ():
            assert logs[f"{name}_loss"] == pytest.approx(loss, rel=1e-5)
    else:
        (expected,) = mean_losses({"": outputs}, {"": y}, {"": weights}).values()
    assert logs["loss"] == pytest.approx(expected, rel=1e-5)
    if task in ("transformer", "causal_lm"):
        assert logs["perplexity"] == pytest.approx(np.exp(expected), rel=1e-5)
    if task == "token_classifier":
        hits = outputs.argmax(-1) == y
        assert logs["accuracy"] == pytest.approx(hits[y != -100].mean(), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_one_line_trains(task):
    model, x, y, weights = case(task)
    model.compile(kt.training.adamw(0.05), **kt.training.compile_arguments(task))
    history = model.fit(
        x, y, sample_weight=weights, batch_size=B, epochs=4, verbose=0, shuffle=False
    ).history
    assert history["loss"][-1] < history["loss"][0]


def test_unknown_task_is_refused_with_the_list():
    with pytest.raises(ValueError, match="Received task='tagger'.*token_classifier"):
        kt.training.compile_arguments("tagger")
