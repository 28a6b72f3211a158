"""A script that is killed and started again ends as one that was never killed."""

import os
import pathlib
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
from test_fine_tuning import EXAMPLES, TINY, rows, run, sentences

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _scripts_import_each_other(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))


def score_epochs(monkeypatch):
    """Epoch 3 of 6 is the best one by scores thought of before: 5 ends the run.

    The second scores what the first did, which does not count as no better.
    """

    class Scores(keras.callbacks.Callback):
        def __init__(self, dataset, measure):
            super().__init__()

        def on_epoch_end(self, epoch, logs=None):
            logs["val_spearman"] = [0.0, 0.0, 0.4, 0.3, 0.4, 0.9][epoch]

    monkeypatch.setattr("keras_tformer.training.EpochScores", Scores)


KILLED = """
import os, signal, sys
sys.path[:0] = sys.argv[1:3]
title, epoch, step = sys.argv[3].split(",")
import pytest, test_killed_scripts, test_fine_tuning
import keras_tformer as kt

class Progress(kt.training.RichProgress):
    def on_train_batch_end(self, batch, logs=None):
        is_there = (self._epoch + 1, batch + 1) == (int(epoch), int(step))
        if is_there and self.title.startswith(title):
            os.kill(os.getpid(), signal.SIGKILL)

kt.training.RichProgress = Progress
with pytest.MonkeyPatch.context() as patch:
    test_killed_scripts.score_epochs(patch)
    test_fine_tuning.run(*sys.argv[4:])
"""


def killed(place, script, *arguments):
    """Runs a script in a process that is killed at "training's title,epoch,step"."""
    paths = pathlib.Path(__file__).parent, EXAMPLES
    command = [sys.executable, "-c", KILLED, *paths, place, script, *arguments]
    ended = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr


def assert_same_model(ours, theirs):
    models = (keras.models.load_model(file, compile=False) for file in (ours, theirs))
    for our, their in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_allclose(our, their, rtol=1e-6, atol=1e-7)


def test_fine_tuning_keeps_its_best_epoch(tmp_path, monkeypatch, capsys):
    files = []
    for name, count in (("train", 19), ("dev", 13)):
        pairs = zip(sentences(count, 1), sentences(count, 2), strict=True)
        lines = [(*pair, f"{number % 5}.5") for number, pair in enumerate(pairs)]
        header = "sentence1", "sentence2", "score"
        files.append(rows(tmp_path / f"{name}.tsv", header, lines))
    common = ["finetune_glue", "--task", "stsb", "--data", files[0], "--dev", files[1]]
    common += [*TINY, "--epochs", 6, "--threshold", 2, "--output"]
    score_epochs(monkeypatch)
    whole, scores = run(*common, tmp_path / "whole")
    assert "the model of epoch 3 of 5 is kept" in capsys.readouterr().out

    killed("fine-tuning,4,2", *common, tmp_path / "parts")
    # Then as if it had been killed after the training, before the results were written.
    for said in "epoch 5/6, 4 steps", "nothing left to train":
        assert not (tmp_path / "parts" / "model.keras").exists()
        parts, resumed = run(*common, tmp_path / "parts", "--resume")
        out = capsys.readouterr().out
        assert said in out and "the model of epoch 3 of 5 is kept" in out
        assert resumed == pytest.approx(scores, abs=1e-6)
        assert_same_model(parts / "model.keras", whole / "model.keras")
        (parts / "model.keras").unlink()


def test_pretraining_in_its_second_phase(tmp_path, capsys):
    documents = ["\n".join(sentences(9, seed=n)) for n in range(60)]
    (tmp_path / "corpus.txt").write_text("\n\n".join(documents))
    steps = "--steps 2 --second-steps 4 --epoch-steps 2 --sequence-length 16 "
    sizes = "--second-sequence-length 32 --batch-size 8 --second-batch-size 4 "
    choices = "--vocabulary-size 90 --size tiny --optimizer lamb"
    script = (
        "pretrain_albert", "--data", tmp_path / "corpus.txt",
        *(steps + sizes + choices).split(), "--held-out-share", 0.3,
        "--peak-tflops", 0.1, "--output",
    )  # fmt: skip
    output, scores = run(*script, tmp_path / "whole")
    script = *script, tmp_path / "parts"
    killed("second,2,2", *script)
    capsys.readouterr()
    parts, resumed = run(*script, "--resume")
    said = capsys.readouterr().out
    assert "first phase, length 16: nothing left to train" in said
    assert "second phase, length 32: epoch 2/2, 2 steps" in said
    for name, score in scores["held_out"]["second"].items():
        assert resumed["held_out"]["second"][name] == pytest.approx(score, rel=1e-5)
    assert_same_model(parts / "encoder.keras", output / "encoder.keras")
    with pytest.raises(SystemExit, match="began with --held-out-share 0.3"):
        run(*script, "--resume", "--held-out-share", 0.2)
