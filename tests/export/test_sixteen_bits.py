"""int16x8: which models leave as such files, and which are told what to do instead."""

import keras
import numpy as np
import pytest
from conftest import LENGTH, SIZES

from keras_tformer import export, models, text

litert = pytest.importorskip(
    "ai_edge_litert.interpreter", reason="the files are proved on ai_edge_litert"
)


def encoder(**more):
    keras.utils.set_random_seed(3)
    sizes = SIZES | {"initializer_range": 0.2}
    return models.bert_encoder(num_layers=1, **sizes | more)


def shared():
    sizes = SIZES | {"initializer_range": 0.2}
    encoder = models.albert_encoder(num_layers=3, embedding_dim=19, **sizes)
    return models.token_classifier(encoder, num_classes=5)


MODELS = {
    "three calls of a block": shared,
    "masked words": lambda: models.masked_lm(encoder(), max_predictions=3),
    "packed documents": lambda: models.token_classifier(
        encoder(has_packed_documents=True), num_classes=5
    ),
    "tokens": lambda: models.token_classifier(encoder(), num_classes=5),
    "spans": lambda: models.span_classifier(encoder()),
    "scores": lambda: encoder(return_attention_scores=True),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_what_works(name, examples, tmp_path):
    model = MODELS[name]()
    draw = np.random.default_rng(7)
    for weight in model.weights:  # no bias at 0, no scale at 1: as after training
        if len(weight.shape) == 1:
            weight.assign(weight.numpy() + draw.normal(0, 0.3, weight.shape))
    places = np.sort(np.random.default_rng(5).integers(0, 6, (67, 3)), axis=1)
    examples = examples | {
        "mask_positions": places.astype("int32"),
        "document_ids": examples["padding_mask"] * (1 + examples["segment_ids"]),
    }
    examples = {name: examples[name] for name in model.input}
    report = export.to_tflite(
        model,
        tmp_path / "model.tflite",
        sequence_length=LENGTH,
        quantization="int16x8",
        representative_data=examples,
    )
    assert set(report["macs_by_dtype"]) == {"int16", "int16*int8"}
    interpreter = litert.Interpreter(model_path=report["file"])
    run = interpreter.get_signature_runner("serving_default")
    rows = [
        run(**{key: x[i : i + 1] for key, x in examples.items()}) for i in range(20)
    ]
    expected = model.predict({key: x[:20] for key, x in examples.items()}, verbose=0)
    if not isinstance(expected, dict):
        expected = {"output": expected}
    kept = examples["padding_mask"][:20].astype(bool)
    for key, values in expected.items():
        if isinstance(values, list):
            key, values = f"{key}_0", values[0]
        answers = np.concatenate([row[key] for row in rows])
        if values.shape[:2] == kept.shape:
            answers, values = answers[kept], values[kept]
        assert np.abs(answers - values).mean() < 0.02 * values.std(), key


@pytest.mark.parametrize(
    "build, more, message",
    [
        (encoder, {"tokenizer_inside": True}, "tokenizer_inside=True"),
        (encoder, {"sequence_length": (7, LENGTH)}, "ends the whole process"),
        (encoder, {"loop_shared_layers": True}, "have no loops"),
        (encoder, {"sparse": True}, "sparse=False"),
    ],
)
def test_what_is_refused(build, more, message, examples, tmp_path):
    tokenizer = text.WordPieceTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    arguments = {"sequence_length": LENGTH, "representative_data": examples} | more
    if "tokenizer_inside" in more:
        arguments["tokenizer"] = tokenizer
    file = tmp_path / "model.tflite"
    with pytest.raises(ValueError, match=message):
        export.to_tflite(build(), file, quantization="int16x8", **arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_vectors_that_come_out_wrong_are_not_left(examples, tmp_path):
    """Mean pooling does, and scaling to length 1 as well: the proof finds it."""
    model = models.text_embedder(encoder(), pooling="mean")
    with pytest.raises(ValueError, match="No file was written.*'dynamic_range'"):
        export.to_tflite(
            model,
            tmp_path / "model.tflite",
            sequence_length=LENGTH,
            quantization="int16x8",
            representative_data=examples,
        )
    assert not list(tmp_path.iterdir())


def test_arithmetic_on_integers_gets_advice(examples, tmp_path):
    inputs = keras.Input((None,), dtype="int32", name="token_ids")
    x = keras.layers.Embedding(53, 34)((inputs + inputs) // 2)
    model = keras.Model({"token_ids": inputs}, keras.layers.Dense(3)(x))
    with pytest.raises(RuntimeError, match="Use quantization='int8'"):
        export.to_tflite(
            model,
            tmp_path / "model.tflite",
            sequence_length=LENGTH,
            quantization="int16x8",
            representative_data={"token_ids": examples["token_ids"]},
        )
    assert not list(tmp_path.iterdir())
