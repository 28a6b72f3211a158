"""Every head of the zoo leaves as a file, and the compressed model as int8."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from keras_tformer import export, models

SIZES = {
    "vocabulary_size": 101,
    "num_layers": 2,
    "hidden_dim": 28,
    "num_heads": 2,
    "intermediate_dim": 37,
    "max_sequence_length": 17,
    "initializer_range": 0.25,
}
HEADS = {
    "masked_lm": ({}, {"masked_lm": [2, 13, 101]}),
    "bert_pretrainer": ({}, {"masked_lm": [2, 13, 101], "next_sentence": [2, 2]}),
    "sequence_classifier": ({"num_classes": 1}, {"output": [2, 1]}),
    "token_classifier": ({"num_classes": 5}, {"output": [2, 13, 5]}),
    "span_classifier": ({}, {"start": [2, 13], "end": [2, 13]}),
    "text_embedder": ({"normalize": True}, {"output": [2, 28]}),
}


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
def test_head(head, tmp_path):
    arguments, shapes = HEADS[head]
    encoder = models.albert_encoder(embedding_dim=19, **SIZES)
    model = getattr(models, head)(encoder, **arguments)
    file = tmp_path / "model.tflite"
    report = export.to_tflite(model, file, sequence_length=13, batch_size=2)
    assert {name: s["shape"] for name, s in report["outputs"].items()} == shapes
    assert report["verification"]["largest_difference"] < 1e-4
    # What a mask or a shape that is not known costs on a phone.
    costly = {"SELECT", "SELECT_V2", "SHAPE", "PACK", "BROADCAST_TO", "LESS"}
    assert not costly & set(report["operators"])
    assert not [name for name in report["operators"] if name.startswith("Flex")]


def quantization_aware(model):
    """The model with ranges of int8 from a few rows, and these rows as a dataset."""
    compress = pytest.importorskip(
        "keras_tformer.compress", reason="needs the compress room"
    )
    import tensorflow as tf

    generator = np.random.default_rng(7)
    data = {
        "token_ids": generator.integers(0, 101, (61, 13)).astype("int32"),
        "segment_ids": generator.integers(0, 2, (61, 13)).astype("int32"),
        "padding_mask": np.ones((61, 13), "int32"),
        "mask_positions": generator.integers(0, 13, (61, 13)).astype("int32"),
    }
    data = {tensor.name: data[tensor.name] for tensor in model.inputs}
    dataset = tf.data.Dataset.from_tensor_slices(data).batch(23)
    aware = compress.quantize_model(model, sequence_length=13)
    return compress.calibrate(aware, dataset), dataset


@pytest.mark.slow
@pytest.mark.parametrize("head", [*HEADS, "causal_lm"])
def test_quantized_model_computes_all_products_in_int8(head, tmp_path):
    if head == "causal_lm":
        model = models.causal_lm(**SIZES)
    else:
        encoder = models.albert_encoder(embedding_dim=19, **SIZES)
        model = getattr(models, head)(encoder, **HEADS[head][0])
    aware, _ = quantization_aware(model)
    report = export.to_tflite(
        aware, tmp_path / "model.tflite", sequence_length=13, quantization="int8"
    )
    assert report["is_quantization_aware"]
    rows, width = {"masked_lm": (13, 19), "bert_pretrainer": (13, 19)}.get(head, (0, 0))
    if head == "causal_lm":
        rows, width = 13, SIZES["hidden_dim"]
    logits = rows * width * SIZES["vocabulary_size"]  # float: in 256 steps some tie
    macs = {"int8": report["macs"] - logits, "float32*int8": logits}
    assert report["macs_by_dtype"] == {kind: n for kind, n in macs.items() if n}


@pytest.mark.slow
def test_quantized_albert_with_representative_data_and_as_saved_model(tmp_path):
    encoder = models.albert_encoder(embedding_dim=19, **SIZES)
    model = models.sequence_classifier(encoder, num_classes=3)
    aware, dataset = quantization_aware(model)
    report = export.to_tflite(
        aware,
        tmp_path / "model.tflite",
        sequence_length=13,
        quantization="int8",
        representative_data=dataset,
    )
    assert report["is_quantization_aware"]
    assert report["int8_macs_share"] == 1.0
    folder = tmp_path / "model"
    export.to_saved_model(aware, folder)
    export.verify(folder, aware, dataset, tolerance=1e-5)


@pytest.mark.slow
def test_sentence_pieces_in_the_graph(tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece", reason="trains a model")
    pytest.importorskip("tensorflow_text", reason="needs tensorflow-text")
    from keras_tformer.text import SentencePieceTokenizer, pack

    words = "a model reads the text and writes an answer to every question".split()
    generator = np.random.default_rng(5)
    lines = tmp_path / "lines.txt"
    lines.write_text(
        "\n".join(" ".join(generator.choice(words, 9)) for _ in range(300))
    )
    sentencepiece.SentencePieceTrainer.train(
        input=str(lines),
        model_prefix=str(tmp_path / "pieces"),
        vocab_size=59,
        hard_vocab_limit=False,
        pad_id=0,
        unk_id=1,
        bos_id=-1,
        eos_id=-1,
        pad_piece="<pad>",
        control_symbols=["[CLS]", "[SEP]", "[MASK]"],
        minloglevel=2,
    )
    tokenizer = SentencePieceTokenizer(tmp_path / "pieces.model")
    sizes = {**SIZES, "vocabulary_size": tokenizer.vocabulary_size}
    encoder = models.albert_encoder(embedding_dim=19, **sizes)
    model = models.sequence_classifier(encoder, num_classes=3)
    folder = tmp_path / "model"
    export.to_saved_model(model, folder, tokenizer=tokenizer)
    texts = ["The model reads", "every question and text", "an answer"]
    outputs = export.predict(
        folder,
        {"texts": np.array(texts)},
        signature="serve_text",
        in_separate_process=True,
    )
    inputs = pack(
        tokenizer.encode(texts),
        sequence_length=17,
        start_id=tokenizer.start_id,
        end_id=tokenizer.end_id,
        padding_id=tokenizer.padding_id,
    )
    expected = model.predict(inputs, verbose=0)
    np.testing.assert_allclose(outputs["output"], expected, atol=1e-5)
    assert (folder / "assets.extra" / "sentencepiece.model").stat().st_size > 0


@pytest.mark.slow
def test_another_backend_is_told_what_to_do(tmp_path):
    pytest.importorskip("jax", reason="runs Keras on JAX")
    script = """
import json, sys, keras
from keras_tformer import export
x = keras.Input((5,))
model = keras.Model(x, keras.layers.Dense(3)(x))
try:
    export.to_tflite(model, sys.argv[1])
except ValueError as error:
    json.dump([str(error), "tensorflow" in sys.modules], sys.stdout)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "model.tflite")],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"KERAS_BACKEND": "jax"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    message, tensorflow_was_imported = json.loads(done.stdout)
    assert "KERAS_BACKEND=tensorflow" in message
    assert not tensorflow_was_imported
