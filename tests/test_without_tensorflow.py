"""Colab's TPU image has JAX and no TensorFlow: what is host-side or Keras must do."""

import os
import subprocess
import sys

import pytest

from keras_tformer import data

PROGRAM = """
import sys
for name in ("tensorflow", "tensorflow_text", "ai_edge_litert"):
    sys.modules[name] = None  # an import of it is an ImportError
import keras
import numpy as np
import keras_tformer as kt

texts = ["a small model reads the text", "the text is read"] * 4
tokenizer = kt.text.WordPieceTokenizer.train(texts, vocabulary_size=40)
x = kt.text.encode_batch(tokenizer, texts, sequence_length=11)
encoder = kt.models.bert_encoder(
    vocabulary_size=40, num_layers=1, num_heads=2, hidden_dim=6, intermediate_dim=10,
    max_sequence_length=11,
)
model = kt.models.sequence_classifier(encoder, num_classes=2)
model.compile(
    kt.training.adamw(1e-3), **kt.training.compile_arguments("sequence_classifier")
)
model.fit(x, np.array([0, 1] * 4), batch_size=4, verbose=0)
kt.checkpoints.save_huggingface(model, "published")
loaded = kt.checkpoints.load_huggingface("published")
assert np.abs(np.asarray(loaded(x)) - np.asarray(model(x))).max() < 1e-6
model.save("model.keras")
keras.saving.load_model("model.keras")
language_model = kt.models.causal_lm(
    vocabulary_size=40, num_layers=1, num_heads=2, hidden_dim=6, intermediate_dim=10
)
assert kt.models.generate(language_model, [[5, 7]], max_length=4).shape[0] == 1
"""


def run(program, folder, **environment):
    paths = os.pathsep.join(os.path.abspath(path) for path in sys.path if path)
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": paths, **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_build_train_load_and_generate_without_it(tmp_path):
    pytest.importorskip("jax", reason="needs the [reference] extra")
    pytest.importorskip("tokenizers", reason="the engine on the host")
    pytest.importorskip("safetensors", reason="needs the extra [hub]")
    process = run(PROGRAM, tmp_path, KERAS_BACKEND="jax")
    assert process.returncode == 0, process.stderr


@pytest.fixture
def without_tensorflow(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)  # as if not installed


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("classification_dataset", (["a"], [0], None, 8, 1)),
        ("from_data_service", (None, "localhost:5050")),
        ("language_modelling_task", ([], None, 8, 1)),
        ("masked_lm_dataset", ([], None, 8, 1)),
        ("next_sentence_dataset", ([], None, 8, 1)),
        ("pretraining_records_dataset", ("none", None, 1)),
        ("question_answering_task", ([], None, 8, 1)),
        ("sentence_order_dataset", ([], None, 8, 1)),
        ("start_dispatcher", ()),
        ("start_worker", ("localhost:5050",)),
        ("tagging_task", ([], None, 8, 1)),
        ("translation_task", ([], [], None, 8, 1)),
        ("write_pretraining_records", ([], "none", None, 8)),
        ("write_pretraining_records_with_beam", ([], "none", None, "none", 8)),
    ],
)
def test_data_sets_say_what_to_install(without_tensorflow, function, arguments):
    with pytest.raises(ImportError, match="pip install .tensorflow"):
        getattr(data, function)(*arguments)


def test_the_import_says_what_to_install(tmp_path):
    program = "import sys; sys.modules['tensorflow'] = None; import keras_tformer.data"
    process = run(program, tmp_path, KERAS_BACKEND="tensorflow")
    assert process.returncode != 0
    assert "ImportError: Keras runs on the package `tensorflow` here" in process.stderr
    assert "KERAS_BACKEND" in process.stderr.splitlines()[-1]
