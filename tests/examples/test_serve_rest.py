"""TensorFlow Serving's REST shape, from a process that knows nothing of the package."""

import json
import pathlib
import subprocess
import sys
import urllib.error
import urllib.request

import numpy as np
import pytest

import keras_tformer as kt

ROOT = pathlib.Path(__file__).resolve().parents[2]
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dull", "fine", "film"]
TEXTS = ["A fine film", "dull", "a dull, dull film " * 9]


def post(address, body):
    request = urllib.request.Request(address, json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


@pytest.mark.slow
def test_requests_and_answers_of_serve_md(tmp_path):
    tokenizer = kt.text.WordPieceTokenizer(PIECES)
    encoder = kt.models.bert_encoder(
        vocabulary_size=9,
        num_layers=1,
        num_heads=2,
        hidden_dim=14,
        intermediate_dim=11,
        max_sequence_length=17,
        initializer_range=0.5,
    )
    model = kt.models.sequence_classifier(encoder, num_classes=2)
    folder = tmp_path / "saved_model"
    kt.export.to_saved_model(model, folder, tokenizer, class_names=["dull", "größer"])
    script = ROOT / "examples" / "serve_rest.py"
    process = subprocess.Popen(
        [sys.executable, str(script), str(folder), "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    try:
        root = process.stdout.readline().strip()
        with urllib.request.urlopen(root, timeout=60) as answer:
            assert json.load(answer)["model_version_status"][0]["state"] == "AVAILABLE"
        inputs = kt.text.pack(
            tokenizer.encode(TEXTS), sequence_length=17, start_id=2, end_id=3
        )
        logits = model.predict(inputs, verbose=0)
        expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)

        body = {"signature_name": "serve_text", "instances": TEXTS}
        rows = post(f"{root}:predict", body)["predictions"]
        for row, probabilities in zip(rows, expected, strict=True):
            np.testing.assert_allclose(row["probabilities"], probabilities, atol=1e-5)
            assert row["classes"] == ["dull", "größer"]
            assert row["labels"] == row["classes"][int(np.argmax(probabilities))]

        body = {"signature_name": "serve_text", "inputs": {"texts": TEXTS}}
        columns = post(f"{root}:predict", body)["outputs"]
        np.testing.assert_allclose(columns["probabilities"], expected, atol=1e-5)

        pairs = [{"texts": TEXTS[0], "second_texts": TEXTS[1]}]
        body = {"signature_name": "serve_text_pair", "instances": pairs}
        assert len(post(f"{root}:predict", body)["predictions"]) == 1

        rows = [
            {name: ids[i].tolist() for name, ids in inputs.items()} for i in range(3)
        ]
        answer = post(f"{root}:predict", {"instances": rows})["predictions"]
        np.testing.assert_allclose(answer, logits, atol=1e-5)

        of_texts = {"signature_name": "serve_text"}
        for body, told in (
            ({"signature_name": "other", "instances": ["a"]}, "No signature 'other'"),
            ({"signature_name": ["x"], "instances": ["a"]}, r"No signature ['x']"),
            (["a"], "Expected an object with either 'instances'"),
            ("cats", "Expected an object with either 'instances'"),
            (of_texts, "Expected an object with either 'instances'"),
            (of_texts | {"instances": "cats"}, "'instances' is 'cats'; expected a l"),
            (of_texts | {"instances": []}, "'instances' is '[]'; expected a list"),
            (of_texts | {"instances": [5]}, "'texts' is no string tensor"),
            (of_texts | {"inputs": {"text": ["a"]}}, "'inputs' lacks 'texts'"),
            (of_texts | {"inputs": "cats"}, "'texts' has the shape (); expected (None"),
            ({"instances": [{"token_ids": [2, 3]}]}, "Row 0 lacks ['padding_mask', "),
            ({"instances": [[2, 3]]}, "Row 0 lacks ["),
            ({"instances": [rows[0], rows[1] | {"token_ids": [2]}]}, "no int32 tensor"),
        ):
            with pytest.raises(urllib.error.HTTPError, match="400") as error:
                post(f"{root}:predict", body)
            assert told in json.load(error.value)["error"], body
        with pytest.raises(urllib.error.HTTPError, match="400") as error:
            urllib.request.urlopen(f"{root}:predict", b"not json", timeout=60)
        assert "The body is no JSON" in json.load(error.value)["error"]
    finally:
        process.terminate()
        process.wait(timeout=30)
