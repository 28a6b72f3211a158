"""The distillation example as a user starts it, at a size that takes seconds."""

import json
import pathlib
import random
import shutil

import h5py
import keras
import numpy as np
import pytest

EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "examples"
TOPICS = {"fruit": "apple pear plum cherry", "metal": "iron copper zinc silver"}

pytest.importorskip("tensorflow_text", reason="needs the extra [text]")
pytest.importorskip("tokenizers", reason="needs the extra [text]")
pytest.importorskip("rich", reason="needs the extra [plots]")


def write_table(file, rows, seed):
    generator = random.Random(seed)
    lines = ["sentence\tlabel"]
    for number in range(rows):
        topic = generator.choice(sorted(TOPICS))
        words = generator.choices(TOPICS[topic].split(), k=5)
        lines.append(f"we saw {number} of {' and '.join(words)} .\t{topic}")
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def distill(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import distill

    return distill


def history(output, name):
    """What `fit` logged, an epoch a number, out of the newest checkpoint."""
    newest = sorted((output / "checkpoints" / name).glob("*.h5"))[-1]
    with h5py.File(newest) as file:
        return json.loads(file["resume"].attrs["history"])


@pytest.mark.slow
def test_every_loss_and_the_same_run_again(tmp_path, capsys, distill):
    for name, rows in (("train", 200), ("dev", 41)):
        write_table(tmp_path / f"{name}.tsv", rows, seed=rows)
    arguments = ["--data", tmp_path / "train.tsv", "--dev", tmp_path / "dev.tsv"]
    arguments += ["--text-column", "sentence", "--sequence-length", 16]
    arguments += ["--size", "tiny", "--vocabulary-size", 90, "--steps", 80]

    def run(output, *more):
        given = [*arguments, "--output", tmp_path / output, *more]
        distill.main([str(argument) for argument in given])
        return capsys.readouterr().out

    first = run("output", "--teacher-rate", 5e-3)
    assert "distillation gains" in first
    learned = history(tmp_path / "output", "soft_targets_distilled_0")["soft_targets"]
    assert learned[-1] < learned[0]
    for name in ("teacher_0", "alone_0", "soft_targets_distilled_0"):
        assert (tmp_path / "output" / f"{name}.keras").exists()
    assert (tmp_path / "output" / "answers" / "teacher_cache.json").exists()
    with pytest.raises(SystemExit, match="began with --teacher-rate 0.005"):
        run("output")
    again = run("output", "--teacher-rate", 5e-3)  # loads what is there
    assert again.splitlines()[-1] == first.splitlines()[-1]
    assert "epoch" not in again

    # The teacher as a checkpoint, under a classifier that knows nothing; the student
    # that learns alone is there; another one learns what goes on inside.
    teacher = tmp_path / "output" / "teacher_0.keras"
    (tmp_path / "from_teacher").mkdir()
    shutil.copy(tmp_path / "output" / "alone_0.keras", tmp_path / "from_teacher")
    names = ["soft_targets", "hidden_states", "attention", "relations"]
    printed = run(
        "from_teacher", "--teacher-checkpoint", teacher, "--teacher-rate", 1e-9,
        "--losses", *names, "--layer-map", "1:1", "2:2",
    )  # fmt: skip
    assert "teacher_0: epoch" in printed and "alone_0: epoch" not in printed
    student = "_".join([*names, "1to1_2to2_distilled_0"])
    learned = history(tmp_path / "from_teacher", student)
    for name in names[1:]:
        assert learned[name][-1] < learned[name][0]
    first, second = (
        keras.models.load_model(tmp_path / output / "teacher_0.keras", compile=False)
        for output in ("output", "from_teacher")
    )
    names = [layer.name for layer in first.layers if layer.name != "classifier"]
    assert "pooler" in names
    for name in names:
        for ours, theirs in zip(
            first.get_layer(name).weights, second.get_layer(name).weights, strict=True
        ):
            np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=1e-6)
