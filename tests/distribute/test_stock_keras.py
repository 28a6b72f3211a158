"""Says when Keras has mended what `distribute` repairs, and the repair can go."""

import json
import os
import pathlib
import subprocess
import sys

import keras
import pytest
from test_multi_worker import free_ports

if keras.backend.backend() != "tensorflow":
    pytest.skip("tf.distribute needs the TensorFlow backend", allow_module_level=True)

SCRIPT = pathlib.Path(__file__).parent / "stock_keras.py"
# fault: (where it is repaired, upstream issue)
REPAIRS = {
    "clipping": ("optimizer_repair._apply_gradients", "none found"),
    "rows": ("tf.convert_to_tensor in optimizer_repair", "none found"),
    "accumulation": ("optimizer_repair._apply_gradients", "keras #20582"),
    "averages": ("optimizer_repair._overwrite_with_averages", "none found"),
    "steps_per_execution": ("trainer_repair._make_function", "keras #19246"),
    "jit_compile": ("trainer_repair._compiled_call", "keras #17187"),
    "weighted_mean": ("loss_repair._reduce_values", "none found"),
    "scalar": ("the scalar in loss_repair._reduce_values", "none found"),
    "dropout": ("dropout_repair", "none found"),
    "workers": ("trainer_repair", "keras #20585, #20329"),
}


@pytest.fixture(scope="module")
def stock():
    """What a process without repairs found, and two that are workers."""

    def start(what, **environment):
        return subprocess.Popen(
            [sys.executable, SCRIPT, what],
            env={**os.environ, **environment, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    processes = [start("mirrored"), start("collectives")]
    workers = [f"localhost:{port}" for port in free_ports()]
    for index in (0, 1):
        task = {"type": "worker", "index": index}
        config = {"cluster": {"worker": workers}, "task": task}
        processes.append(start("workers", TF_CONFIG=json.dumps(config)))
    found = {}
    try:
        for process in processes:
            said, _ = process.communicate(timeout=500)
            lines = [line for line in said.splitlines() if line.startswith("FOUND ")]
            assert lines, said
            found |= json.loads(lines[0].removeprefix("FOUND "))
    finally:
        for process in processes:
            process.kill()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("fault", REPAIRS)
def test_keras_still_needs_the_repair(stock, fault):
    repair, issue = REPAIRS[fault]
    assert stock[fault] == "broken", (
        f"Keras {keras.__version__} has mended '{fault}' ({issue}): remove the repair "
        f"{repair}, its row in KERAS.md and this entry."
    )
