"""Colab's TPU image has JAX and no TensorFlow: what is host-side or Keras must do."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("jax", reason="needs the [reference] extra")
pytest.importorskip("tokenizers", reason="the engine on the host")
pytest.importorskip("safetensors", reason="needs the extra [hub]")

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


@pytest.mark.slow
def test_build_train_load_and_generate_without_it(tmp_path):
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={
            **os.environ,
            "KERAS_BACKEND": "jax",
            "PYTHONPATH": os.pathsep.join(
                os.path.abspath(path) for path in sys.path if path
            ),
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
