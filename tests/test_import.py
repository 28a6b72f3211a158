"""`import keras_tformer` is cheap: a fresh process loads no heavy library with it."""

import json
import os
import subprocess
import sys

import pytest

MEASURE = """
import time, sys, json
import keras
before = set(sys.modules)
start = time.perf_counter()
import keras_tformer
seconds = time.perf_counter() - start
import os
print(json.dumps({
    "modules": sorted({name.split(".")[0] for name in sys.modules}),
    "added": sorted({name.split(".")[0] for name in set(sys.modules) - before}),
    "seconds": seconds,
    "legacy": os.environ.get("TF_USE_LEGACY_KERAS"),
    "rooms": sorted(vars(keras_tformer)),
}))
"""
HEAVY = {
    "tensorflow_model_optimization",
    "tf_keras",
    "tensorflow_text",
    "keras_hub",
    "torch",
    "transformers",
    "ai_edge_litert",
}


def import_in_a_fresh_process(backend):
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment.pop("TF_USE_LEGACY_KERAS", None)
    process = subprocess.run(
        [sys.executable, "-c", MEASURE],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


def test_import_loads_nothing_heavy_and_changes_no_environment():
    report = import_in_a_fresh_process("tensorflow")
    assert HEAVY.isdisjoint(report["modules"])
    # Keras itself imports matplotlib where it is installed; we add nothing to that.
    assert "matplotlib" not in report["added"]
    assert report["legacy"] is None
    rooms = "layers models checkpoints text data training distribute compress export"
    for room in rooms.split():
        assert room in report["rooms"]


def test_import_on_jax_loads_no_tensorflow():
    pytest.importorskip("jax", reason="the [reference] extra is not installed")
    report = import_in_a_fresh_process("jax")
    assert HEAVY.isdisjoint(report["modules"])
    assert "tensorflow" not in report["modules"]


@pytest.mark.slow
def test_import_adds_at_most_0_3_seconds_to_that_of_keras():
    # The least of several runs: what other programs do at the time is not our cost.
    assert any(
        import_in_a_fresh_process("tensorflow")["seconds"] <= 0.3 for _ in range(5)
    )
