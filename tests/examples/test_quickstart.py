"""The quickstart as a user starts it: wrong input, a killed run, the whole of it."""

import importlib
import json
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "examples"
TOPICS = {
    "fruit": "apple pear plum cherry grape lemon melon orange peach fig".split(),
    "metal": "iron copper zinc silver nickel cobalt chrome tin lead gold".split(),
    "water": "river lake sea pond stream ocean brook lagoon creek gulf".split(),
}

pytest.importorskip("tensorflow_text", reason="needs the extra [text]")
pytest.importorskip("tokenizers", reason="needs the extra [text]")
pytest.importorskip("matplotlib", reason="needs the extra [plots]")
pytest.importorskip("rich", reason="needs the extra [plots]")
pytest.importorskip(
    "tensorflow_model_optimization", reason="needs the extra [compress]"
)


def command(*arguments):
    return [sys.executable, str(EXAMPLES / "quickstart.py"), *map(str, arguments)]


def write_table(file, rows=600):
    generator = random.Random(5)
    lines = ["text,label"]
    for number in range(rows):
        label = generator.choice(sorted(TOPICS))
        words = generator.choices(TOPICS[label], k=7)
        lines.append(f'"We saw {number} of {" and ".join(words)}.",{label}')
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


WRONG_INPUTS = {
    "missing": (None, "does not exist"),
    "empty": (b"", "empty"),
    "no header": (b"good,1\nbad,0\n", "column"),
    "missing column": (b"text,class\ngood,1\nbad,0\n", "label"),
    "one label only": (b"text,label\ngood,1\nbad,1\n", "label"),
    "empty class": (b"text,label\ngood,1\nbad,\n", "line 3"),
    "not UTF-8": (b"text,label\n\xff\xfe\xfa,1\nbad,0\n", "UTF-8"),
    "too few texts": (b"text,label\ngood,1\nbad,0\n", "too few"),
}


@pytest.fixture(scope="module")
def quickstart():
    sys.path.insert(0, str(EXAMPLES))
    try:
        yield importlib.import_module("quickstart")
    finally:
        sys.path.remove(str(EXAMPLES))


@pytest.mark.parametrize("case", WRONG_INPUTS)
def test_wrong_input_ends_in_one_sentence(case, quickstart, tmp_path, capsys):
    content, expected = WRONG_INPUTS[case]
    file = tmp_path / "data.csv"
    if content is not None:
        file.write_bytes(content)
    output = tmp_path / "output"
    assert quickstart.main(["--data", str(file), "--output", str(output)]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ")
    assert expected.lower() in error.lower()
    assert not output.exists()


def test_output_that_is_a_file_ends_in_one_sentence(quickstart, tmp_path, capsys):
    output = tmp_path / "output"
    output.write_text("mine", encoding="utf-8")
    assert quickstart.main(["--output", str(output)]) == 2
    assert "is a file" in capsys.readouterr().err
    assert output.read_text(encoding="utf-8") == "mine"


@pytest.mark.slow
def test_killed_run_goes_on_and_ends_with_a_verified_table(tmp_path):
    table = write_table(tmp_path / "data.csv")
    output = tmp_path / "output"
    arguments = command(
        "--data", table, "--output", output, "--size", "tiny", "--steps", 300
    )
    started = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    deadline = time.monotonic() + 600
    while not list(output.glob("checkpoints/pretraining/epoch-*")):
        assert started.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    started.send_signal(signal.SIGKILL)
    started.communicate()
    assert not (output / "models").exists()

    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    rows = {
        row["stage"]: row for row in json.loads((output / "results.json").read_text())
    }
    assert len(rows) == 9
    assert rows["fine-tuned"]["accuracy"] > rows["majority class"]["accuracy"] + 0.2
    for stage in ("SavedModel (QAT)", "float32 .tflite"):
        assert rows[stage]["agreement"] == 1.0
        assert rows[stage]["difference"] < 1e-3
    assert rows["int8 .tflite (QAT)"]["bytes"] * 2 < rows["float32 .tflite"]["bytes"]
    for stage in ("pruned", "pruned + QAT", "float32 .tflite", "int8 .tflite (QAT)"):
        assert rows[stage]["sparsity"] > 0.6
    for name in ("results.md", "results.png", "vocab.txt", "classifier_int8.json"):
        assert (output / name).stat().st_size > 0
    assert not list(output.rglob("unfinished-*"))

    other = subprocess.run(
        [*arguments, "--seed", "1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert other.returncode == 2
    assert "other settings" in other.stderr
