"""The compression ladder as a user starts it, at a size that takes a minute."""

import gzip
import importlib.util
import json
import pathlib
import random

import pytest

EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "examples"
TOPICS = {"fruit": "apple pear plum cherry", "metal": "iron copper zinc silver"}

pytest.importorskip("tensorflow_text", reason="needs the extra [text]")
pytest.importorskip("tokenizers", reason="needs the extra [text]")
pytest.importorskip("rich", reason="needs the extra [plots]")
pytest.importorskip("tensorflow_model_optimization", reason="needs [compress]")


@pytest.fixture
def compress(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    specification = importlib.util.spec_from_file_location(
        "compress_example", EXAMPLES / "compress.py"
    )
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def write(folder, part, rows, task):
    generator = random.Random(rows)
    lines = ["sentence\tlabel"] if task == "sst2" else []
    for number in range(rows):
        topic = generator.choice(sorted(TOPICS))
        words = generator.choices(TOPICS[topic].split(), k=3)
        if task == "sst2":
            lines.append(f"we saw {number} of {' and '.join(words)} .\t{topic}")
        else:
            lines += [f"saw\tO\n{words[0]}\tB-{topic}\n{words[1]}\tI-{topic}", ""]
    packed = ".gz" if part == "train" or task == "wnut17" else ""
    ending = "tsv" if task == "sst2" else "conll"
    text = "\n".join(lines) + "\n"
    file = folder / f"{part}.{ending}{packed}"
    if packed:
        file.write_bytes(gzip.compress(text.encode()))
    else:
        file.write_text(text, encoding="utf-8")


def run(compress, monkeypatch, folder, task, rungs, *more):
    """Runs the script with some of its rungs; returns the rows of its table."""
    monkeypatch.setattr(compress, "RUNGS", {x: compress.RUNGS[x] for x in rungs})
    monkeypatch.setattr(compress, "KERAS_MODES", ("int8", "gptq")[: len(rungs) // 2])
    arguments = ["--task", task, "--data", folder, "--output", folder / "output"]
    arguments += ["--size", "tiny", "--steps", 12, "--sequence-length", 12]
    arguments += ["--vocabulary-size", 90, *more]
    compress.main([str(argument) for argument in arguments])
    return json.loads((folder / "output" / "results.json").read_text())


@pytest.mark.slow
def test_a_run_and_the_same_run_again(compress, monkeypatch, tmp_path, capsys):
    write(tmp_path, "train", 90, "sst2")
    write(tmp_path, "dev", 41, "sst2")
    # One rung of each kind; the others differ by a number.
    rungs = ["dense", "80 % sparse", "80 % sparse, PQAT", "clustered", "structured"]
    rows = run(compress, monkeypatch, tmp_path, "sst2", rungs)
    assert "structured" in capsys.readouterr().out
    by_name = {(row["rung"], row["kind"]): row for row in rows}
    assert len(by_name) == 4 * 2 + 1 + 2
    assert by_name["dense", "Keras gptq"]["gzip_bytes"] > 1000
    assert (tmp_path / "output" / "results.png").stat().st_size > 10_000
    dense = by_name["dense", "float32"]
    assert 0 < by_name["structured", "float32"]["macs"] < 0.8 * dense["macs"]
    assert by_name["80 % sparse", "float32"]["zeros"] == pytest.approx(0.8, abs=0.02)
    aware = by_name["80 % sparse, PQAT", "int8, QAT"]
    assert aware["int8_macs_share"] >= 0.99
    assert aware["zeros"] > 0.79
    assert aware["gzip_bytes"] < dense["gzip_bytes"] / 2
    again = run(compress, monkeypatch, tmp_path, "sst2", rungs)  # loads what is there
    assert "epoch" not in capsys.readouterr().out
    assert [row["score"] for row in again] == [row["score"] for row in rows]
    with pytest.raises(SystemExit, match="began with --seed 0; now it is 1"):
        run(compress, monkeypatch, tmp_path, "sst2", rungs, "--seed", 1)


@pytest.mark.slow
def test_named_entities(compress, monkeypatch, tmp_path):
    write(tmp_path, "train", 90, "wnut17")
    write(tmp_path, "dev", 41, "wnut17")
    rows = run(compress, monkeypatch, tmp_path, "wnut17", ["dense"])
    assert [row["kind"] for row in rows] == ["float32", "int8, post-training"]
    assert rows[0]["score"] == rows[0]["keras_score"]
    assert len(rows[0]["predictions"]) == 41 * 3


def test_rungs_come_with_what_they_start_from(compress):
    rungs = ["80 % sparse, PQAT", "dense"]
    assert compress.with_parents(rungs) == ["dense", "80 % sparse", rungs[0]]
    assert compress.with_parents(compress.RUNGS) == list(compress.RUNGS)


def test_needs_a_folder(compress, capsys):
    with pytest.raises(SystemExit):
        compress.main(["--task", "sst2"])
    assert "--task sst2 needs --data" in capsys.readouterr().err
