"""The notebook runs from top to bottom, on a machine without a TPU."""

import pathlib
import re

import keras
import pytest

import keras_tformer  # noqa: F401 (registers the layers that the saved model has)

nbformat = pytest.importorskip("nbformat", reason="needs the extra [test]")
nbclient = pytest.importorskip("nbclient", reason="needs the extra [test]")
pytest.importorskip("tokenizers", reason="needs the extra [text]")

NOTEBOOK = pathlib.Path(__file__).parents[2] / "examples" / "colab_tpu.ipynb"


@pytest.mark.slow
@pytest.mark.parametrize("backend, devices", [("tensorflow", 1), ("jax", 2)])
def test_every_cell_runs(backend, devices, tmp_path, monkeypatch):
    pytest.importorskip(backend, reason=f"the notebook's {backend} path")
    root = str(NOTEBOOK.parents[1])
    monkeypatch.setenv("PYTHONPATH", root)
    monkeypatch.setenv("KERAS_BACKEND", backend)
    flags = f"--xla_force_host_platform_device_count={devices}"
    monkeypatch.setenv("XLA_FLAGS", flags)
    # XLA takes as many threads as there are cores or devices. With no thread to spare,
    # a sum over two devices waits for ever once another program holds one.
    monkeypatch.setenv("NPROC", "16")
    for name in ("TF_CONFIG", "TPU_NAME", "COLAB_TPU_ADDR"):
        monkeypatch.delenv(name, raising=False)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    ).execute()

    printed = "".join(
        output.get("text", "")
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    )
    assert f"on {backend}, {devices} replicas" in printed
    accuracy, majority = map(
        float, re.search(r"accuracy ([\d.]+); .* alone ([\d.]+)", printed).groups()
    )
    assert accuracy > majority + 0.1
    assert float(re.search(r"logits differ by (\S+)", printed).group(1)) < 1e-5
    assert (tmp_path / "colab_tpu.keras").exists()
    assert keras.saving.load_model(tmp_path / "colab_tpu.keras", compile=False)


def test_it_is_committed_without_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert cell.cell_type != "code" or not cell.outputs
