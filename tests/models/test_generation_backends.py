"""The same weights and the same seed write the same text on every backend."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_tformer.models import causal_lm, generate, transformer

SIZES = {
    "vocabulary_size": 31,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 14,
    "intermediate_dim": 11,
    "max_sequence_length": 29,
}
CASES = [
    {},
    {"num_beams": 3, "repetition_penalty": 1.3, "min_length": 5},
    {"sampler": "top_k", "top_k": 7, "temperature": 1.5, "seed": 3},
    {"sampler": "top_p", "top_p": 0.8, "temperature": 1.5, "seed": 3},
]


def texts():
    """Returns what both models write in all cases, as lists."""
    found = []
    for build in (causal_lm, transformer):
        model = build(**SIZES)
        draw = np.random.default_rng(1)
        for weight in model.weights:
            weight.assign(draw.normal(0, 0.5, weight.shape) + ("gamma" in weight.path))
        for case in CASES:
            ids = generate(
                model,
                [[3, 5, 2], [7, 11, 12, 9, 8]],
                max_length=13,
                end_token_id=4,
                jit_compile=False,
                **case,
            )
            found.append(ids.tolist())
    return found


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends_write_the_same(backend):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("the others are compared with TensorFlow")
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    here = pathlib.Path(__file__).parent
    search = [str(here), str(here.parents[1]), os.environ.get("PYTHONPATH", "")]
    program = "import json, test_generation_backends as t; print(json.dumps(t.texts()))"
    process = subprocess.run(
        [sys.executable, "-c", program],
        env={
            **os.environ,
            "KERAS_BACKEND": backend,
            "PYTHONPATH": os.pathsep.join(filter(None, search)),
        },
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert process.returncode == 0, process.stderr[-4000:]
    assert json.loads(process.stdout.splitlines()[-1]) == texts()
