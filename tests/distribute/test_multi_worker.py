"""Two real processes on loopback, against one device."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from language_model import batches, fit, language_model

if keras.backend.backend() != "tensorflow":
    pytest.skip("tf.distribute needs the TensorFlow backend", allow_module_level=True)

SCRIPT = pathlib.Path(__file__).parent / "two_workers.py"


def free_ports():
    with socket.socket() as one, socket.socket() as other:
        for any_port in (one, other):
            any_port.bind(("", 0))
        return one.getsockname()[1], other.getsockname()[1]


def run_workers(folder, *what, kill=("never:0", "never:0")):
    """Runs both workers to their end; gives their exit codes and what they said."""
    workers = [f"localhost:{port}" for port in free_ports()]
    processes = []
    for index in (0, 1):
        task = {"cluster": {"worker": workers}, "task": {"type": "worker"}}
        task["task"]["index"] = index
        environment = {
            **os.environ,
            "TF_CONFIG": json.dumps(task),
            "KILL": kill[index],
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        processes.append(
            subprocess.Popen(
                [sys.executable, SCRIPT, folder, *what],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    try:
        said = [process.communicate(timeout=500)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], said


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two_workers")
    codes, said = run_workers(folder, "train", "checks", "files")
    assert codes == [0, 0], said
    return folder


def results(folder, index):
    with np.load(folder / f"worker_{index}.npz") as file:
        return dict(file)


@pytest.mark.slow
def test_two_workers_train_as_one_device(uninterrupted):
    model = language_model()
    start = model.get_weights()
    fit(model)
    x, y, weights = batches(2)
    expected = model.get_weights()
    assert max(np.abs(a - b).max() for a, b in zip(start, expected, strict=True)) > 0.02
    first, second = (results(uninterrupted, index) for index in (0, 1))
    for index, weight in enumerate(expected):
        np.testing.assert_allclose(first[f"arr_{index}"], weight, atol=1e-5)
        np.testing.assert_array_equal(first[f"arr_{index}"], second[f"arr_{index}"])
    evaluated = model.evaluate(x, y, sample_weight=weights, batch_size=8, verbose=0)
    np.testing.assert_allclose(first["evaluated"], evaluated, rtol=1e-5)
    rows = {name: value[:11] for name, value in x.items()}
    predicted = model.predict(rows, verbose=0)["masked_lm"]
    np.testing.assert_allclose(first["predicted"], predicted, atol=1e-5)


@pytest.mark.slow
def test_workers_that_read_files_of_their_own_train_as_one_device(uninterrupted):
    model = language_model()
    fit(model)
    for index in (0, 1):
        with np.load(uninterrupted / f"worker_{index}_files.npz") as weights:
            for number, expected in enumerate(model.get_weights()):
                np.testing.assert_allclose(
                    weights[f"arr_{number}"], expected, rtol=0, atol=1e-5
                )


@pytest.mark.slow
def test_only_the_first_worker_writes(uninterrupted):
    names = sorted(file.name for file in (uninterrupted / "of_worker_0").iterdir())
    assert names == ["epoch-00000-step-0000018.weights.h5", "epoch-00001.weights.h5"]
    assert not (uninterrupted / "of_worker_1").exists()


@pytest.mark.slow
def test_what_cannot_train_is_refused_by_both_workers(uninterrupted):
    first, second = (
        json.loads((uninterrupted / f"worker_{index}.json").read_text())
        for index in (0, 1)
    )
    for said in (first, second):
        assert "built outside of `strategy.scope()`" in said["outside"]
        assert "rows for fewer than the 2 replicas" in said["small"]
        assert "have [3, 2] batches an epoch" in said["lengths"]
        # Data that end early on one worker, of unknown length: all rows are trained on.
        assert said["steps"] == 6
    assert first["sum"] == second["sum"]
    assert np.isfinite(first["sum"])


@pytest.mark.slow
def test_killed_workers_go_on_with_nothing_lost(uninterrupted, tmp_path):
    start = time.monotonic()
    codes, said = run_workers(tmp_path, "train", kill=("never:0", "step:5"))
    assert codes[1] == -signal.SIGKILL
    assert codes[0] not in (0, -signal.SIGKILL), said[0]  # it ended by itself
    assert time.monotonic() - start < 400
    files = tmp_path / "of_worker_0"
    assert [file.name for file in files.iterdir()] == [
        "epoch-00000-step-0000003.weights.h5"
    ]

    # Both at once, the first in the middle of writing what it has at step 9.
    codes, said = run_workers(tmp_path, "train", kill=("write:2", "step:9"))
    assert codes == [-signal.SIGKILL, -signal.SIGKILL], said
    assert sorted(file.name for file in files.iterdir()) == [
        "epoch-00000-step-0000003.weights.h5",
        "epoch-00000-step-0000006.weights.h5",
        "unfinished.weights.h5",
    ]

    codes, said = run_workers(tmp_path, "train")
    assert codes == [0, 0], said
    for index in (0, 1):
        expected, ours = results(uninterrupted, index), results(tmp_path, index)
        for name in expected:
            np.testing.assert_array_equal(ours[name], expected[name])
