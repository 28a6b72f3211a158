"""The same weights give the same outputs on TensorFlow, JAX and PyTorch.

Every case of the catalogue is run here and in a fresh process of each other backend;
weights travel by their order, which a saved file relies on as well.
"""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import catalogue
import checks
import keras
import numpy as np
import pytest

PROGRAM = """
import json, sys
import catalogue, checks, keras
import numpy as np

assert keras.backend.backend() == sys.argv[1]
stored = np.load(sys.argv[2])
differences = {}
for case in catalogue.CASES:
    model = case.build(0.0, "float32")
    if not isinstance(model, keras.Model):
        model = catalogue.in_a_model(model, case)
    keys = [key for key in stored.files if key.startswith(case.name + "|weight|")]
    model.set_weights([stored[key] for key in keys])
    outputs = checks.run(model, case.feed())
    expected = [key for key in stored.files if key.startswith(case.name + "|output|")]
    assert [key.split("|")[-1] for key in expected] == list(outputs)
    differences[case.name] = max(
        float(np.abs(stored[key] - outputs[key.split("|")[-1]]).max())
        for key in expected
    )
print(json.dumps(differences))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """A file with the weights and outputs of every case on this backend."""
    arrays = {}
    for case in catalogue.CASES:
        model = checks.built(case)
        for index, weight in enumerate(model.get_weights()):
            arrays[f"{case.name}|weight|{index:04d}"] = weight
        for name, output in checks.run(model, case.feed()).items():
            arrays[f"{case.name}|output|{name}"] = output
    file = tmp_path_factory.mktemp("backends") / "answers.npz"
    np.savez(file, **arrays)
    return file


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends_compute_the_same(backend, answers):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("the others are compared with TensorFlow")
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    here = pathlib.Path(__file__).parent
    search = [str(here), str(here.parents[1]), os.environ.get("PYTHONPATH", "")]
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM, backend, str(answers)],
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
    differences = json.loads(process.stdout.splitlines()[-1])
    assert set(differences) == {case.name for case in catalogue.CASES}
    assert max(differences.values()) < 1e-5, differences
