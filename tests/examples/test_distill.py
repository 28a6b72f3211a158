"""The distillation example as a user starts it, at a size that takes seconds."""

import importlib.util
import pathlib
import random

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


@pytest.mark.slow
def test_a_run_and_the_same_run_again(tmp_path, capsys):
    for name, rows in (("train", 200), ("dev", 41)):
        write_table(tmp_path / f"{name}.tsv", rows, seed=rows)
    arguments = ["--data", tmp_path / "train.tsv", "--dev", tmp_path / "dev.tsv"]
    arguments += ["--text-column", "sentence", "--output", tmp_path / "output"]
    arguments += ["--size", "tiny", "--steps", 5, "--sequence-length", 16]
    arguments += ["--vocabulary-size", 90]
    specification = importlib.util.spec_from_file_location(
        "distill", EXAMPLES / "distill.py"
    )
    distill = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(distill)

    distill.main([str(argument) for argument in arguments])
    first = capsys.readouterr().out
    assert "distillation gains" in first
    for name in ("teacher_0", "alone_0", "distilled_0"):
        assert (tmp_path / "output" / f"{name}.keras").exists()
    assert (tmp_path / "output" / "answers" / "teacher_cache.json").exists()
    distill.main([str(argument) for argument in arguments])  # loads what is there
    again = capsys.readouterr().out
    assert again.splitlines()[-1] == first.splitlines()[-1]
    assert "epoch" not in again
