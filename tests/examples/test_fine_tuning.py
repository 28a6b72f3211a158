"""The training scripts as a user runs them, at the smallest sizes."""

import importlib
import json
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
WORDS = "red green blue cold warm dry wet old new big small fast slow".split()
TINY = "--size tiny --vocabulary-size 90 --sequence-length 24 --batch-size 8".split()

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _scripts_import_each_other(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))


def run(script, *arguments):
    """Calls a script's `main` and gives what it wrote as scores."""
    sys.modules.pop(script, None)
    arguments = [str(argument) for argument in arguments]
    importlib.import_module(script).main(arguments)
    output = pathlib.Path(arguments[arguments.index("--output") + 1])
    return output, json.loads((output / "scores.json").read_text())


def sentences(count, seed):
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, 5)) for _ in range(count)]


def rows(file, header, lines):
    file.write_text("\n".join(["\t".join(header), *map("\t".join, lines)]) + "\n")
    return file


@pytest.fixture
def sentiment(tmp_path):
    """Whether `red` is in the sentence."""
    files = []
    for name, count in (("train", 43), ("dev", 17)):
        lines = [(s, str(int("red" in s))) for s in sentences(count, seed=count)]
        files.append(rows(tmp_path / f"{name}.tsv", ("sentence", "label"), lines))
    return files


def test_glue_classification_resumes_and_draws(tmp_path, sentiment, capsys):
    train, dev = sentiment
    common = ["--task", "cola", "--data", train, "--dev", dev, *TINY]
    common += ["--output", tmp_path / "out", "--class-weights"]
    output, scores = run("finetune_glue", *common, "--epochs", 1)
    assert set(scores) == {"loss", "accuracy", "matthews_correlation"}
    for name in ("curves.png", "confusion_matrix.png"):
        assert (output / name).read_bytes().startswith(b"\x89PNG")
    lines = (output / "predictions.csv").read_text().splitlines()
    assert lines[0] == "label,prediction,text,second_text" and len(lines) == 18
    right = [line.split(",")[0] == line.split(",")[1] for line in lines[1:]]
    assert scores["accuracy"] == pytest.approx(np.mean(right))

    with pytest.raises(SystemExit, match="is not empty. Add --resume"):
        run("finetune_glue", *common, "--epochs", 2)
    run("finetune_glue", *common, "--epochs", 2, "--resume")
    assert "epoch 2/2, 5 steps" in capsys.readouterr().out  # the first is not repeated
    assert json.loads((output / "options.json").read_text())["epochs"] == 2

    other = [*common, "--resume", "--seed", 5]
    with pytest.raises(SystemExit, match="began with --seed 0; now it is 5. Give the"):
        run("finetune_glue", *other)
    moved = train.rename(tmp_path / "moved.tsv")
    common[3] = moved
    run("finetune_glue", *common, "--epochs", 2, "--resume")  # its content is the same
    moved.write_text(moved.read_text() + "a fast new row\t0\n")
    with pytest.raises(SystemExit, match="moved.tsv with another content"):
        run("finetune_glue", *common, "--resume")


def test_too_few_rows_for_a_batch_are_refused(tmp_path, sentiment):
    train, dev = sentiment
    with pytest.raises(SystemExit, match="43 training rows, fewer than --batch-size"):
        run(
            "finetune_glue", "--task", "cola", "--data", train, "--dev", dev, *TINY,
            "--batch-size", 44, "--output", tmp_path / "out",
        )  # fmt: skip


def score_epochs(monkeypatch):
    """Epoch 3 of 6 is the best one by scores thought of before: 5 ends the run.

    The second scores what the first did, which does not count as no better.
    """
    import keras

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
import pytest, test_fine_tuning
import keras_tformer as kt

class Progress(kt.training.RichProgress):
    def on_train_batch_end(self, batch, logs=None):
        is_there = (self._epoch + 1, batch + 1) == (int(epoch), int(step))
        if is_there and self.title.startswith(title):
            os.kill(os.getpid(), signal.SIGKILL)

kt.training.RichProgress = Progress
with pytest.MonkeyPatch.context() as patch:
    test_fine_tuning.score_epochs(patch)
    test_fine_tuning.run(*sys.argv[4:])
"""


def killed(place, script, *arguments):
    """Runs a script in a process that is killed at "training's title,epoch,step"."""
    paths = pathlib.Path(__file__).parent, EXAMPLES
    command = [sys.executable, "-c", KILLED, *paths, place, script, *arguments]
    ended = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr


def assert_same_model(ours, theirs):
    import keras

    models = (keras.models.load_model(file, compile=False) for file in (ours, theirs))
    for our, their in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_allclose(our, their, rtol=1e-6, atol=1e-7)


def test_glue_regression_of_pairs_killed_and_resumed(tmp_path, monkeypatch, capsys):
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
    assert set(scores) == {"pearson", "spearman", "accuracy_at_threshold"}
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


def test_named_entities(tmp_path):
    pytest.importorskip("seqeval", reason="needs the [scores] extra")
    for name, count in (("train", 17), ("dev", 11)):
        blocks = [
            "\n".join(f"{w}\t{'B-color' if w in WORDS[:3] else 'O'}" for w in s.split())
            for s in sentences(count, seed=count)
        ]
        (tmp_path / f"{name}.conll").write_text("\n\n".join(blocks) + "\n")
    files = ["--data", tmp_path / "train.conll", "--dev", tmp_path / "dev.conll"]
    output, scores = run(
        "finetune_ner", *files, *TINY, "--sequence-length", 5, "--epochs", 2,
        "--class-weights", "--micro-batches", 3, "--output", tmp_path / "out",
    )  # fmt: skip
    assert set(scores) == {"entity_precision", "entity_recall", "entity_f1"}
    tagged = (output / "predictions.conll").read_text().strip("\n").split("\n\n")
    assert len(tagged) == 11
    # Rows of 5 have room for three pieces: what did not fit is written as O.
    assert all(line.split("\t")[2] == "O" for t in tagged for line in t.split("\n")[3:])


def test_questions_without_answers(tmp_path):
    for name, count in (("train", 13), ("dev", 11)):
        questions = []
        for number, context in enumerate(sentences(count, seed=count)):
            first = context.split()[0]
            answers = [] if number % 3 == 0 else [{"text": first, "answer_start": 0}]
            questions.append(
                {
                    "context": context,
                    "qas": [
                        {
                            "id": f"q{number}",
                            "question": "which is first",
                            "answers": answers,
                            "is_impossible": not answers,
                        }
                    ],
                }
            )
        data = {"version": "v2.0", "data": [{"title": "t", "paragraphs": questions}]}
        (tmp_path / f"{name}.json").write_text(json.dumps(data))
    output, scores = run(
        "finetune_squad", "--version", "2.0", "--data", tmp_path / "train.json",
        "--dev", tmp_path / "dev.json", *TINY, "--epochs", 1, "--doc-stride", 8,
        "--max-question-length", 6, "--threshold-share", 0.5,
        "--output", tmp_path / "out",
    )  # fmt: skip
    assert {"exact_match", "f1", "null_threshold", "with_threshold_f1"} <= set(scores)
    answers = json.loads((output / "predictions.json").read_text())
    assert set(answers) == {f"q{number}" for number in range(11)}


def test_causal_language_model(tmp_path, capsys):
    for name, count in (("train", 60), ("dev", 20)):
        text = "\n\n".join("\n".join(sentences(5, seed=n)) for n in range(count))
        (tmp_path / f"{name}.txt").write_text(text)
    files = ["--data", tmp_path / "train.txt", "--dev", tmp_path / "dev.txt"]
    _, scores = run(
        "train_causal_lm", *files, *TINY, "--epochs", 2, "--output", tmp_path / "out"
    )
    # Each word is one piece; a line end of the word count stands for no piece.
    assert 1 < scores["word_perplexity"] < scores["perplexity"] < 90
    assert "continues:" in capsys.readouterr().out


def pretraining(tmp_path, script, *options):
    """The script's name and its options; the last one is the folder of the results."""
    documents = ["\n".join(sentences(9, seed=n)) for n in range(60)]
    (tmp_path / "corpus.txt").write_text("\n\n".join(documents))
    options += tuple("--steps 4 --epoch-steps 2 --sequence-length 16".split())
    options += tuple("--batch-size 8 --vocabulary-size 90 --size tiny".split())
    return (
        script, "--data", tmp_path / "corpus.txt", *options, "--held-out-share", 0.3,
        "--peak-tflops", 0.1, "--output", tmp_path / "pretrained",
    )  # fmt: skip


def test_albert_in_two_phases_killed_fine_tuned_and_as_embedder(
    tmp_path, sentiment, capsys
):
    phase = "--second-steps 4 --second-sequence-length 32 --second-batch-size 4"
    choices = "--optimizer lamb --masking ngram --micro-batches 2"
    choices = *phase.split(), *choices.split()
    script = pretraining(tmp_path, "pretrain_albert", *choices)
    output, scores = run(*script)
    assert " tokens/s, MFU " in capsys.readouterr().out
    for name in ("first", "second"):
        assert 0 <= scores["held_out"][name]["sentence_order_accuracy"] <= 1
        assert scores["held_out"][name]["masked_lm_perplexity"] > 1
        assert (output / f"{name}_phase.png").exists()
    assert len(scores["histories"]["first"]["loss"]) == 2

    script = *script[:-1], tmp_path / "parts"
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

    train, dev = sentiment
    encoder = ["--checkpoint", output / "encoder.keras"]
    _, tuned = run(
        "finetune_glue", "--task", "sst2", "--data", train, "--dev", dev, *encoder,
        "--epochs", 1, "--sequence-length", 24, "--batch-size", 8,
        "--output", tmp_path / "tuned",
    )  # fmt: skip
    assert 0 <= tuned["accuracy"] <= 1

    (tmp_path / "texts.txt").write_text("\n".join(sentences(7, seed=3)))
    embeddings = importlib.import_module("extract_embeddings")
    arguments = ["--data", tmp_path / "texts.txt", *encoder, "--query", "red"]
    arguments += ["--output", tmp_path / "vectors", "--sequence-length", 24]
    embeddings.main([str(argument) for argument in arguments])
    vectors = np.load(tmp_path / "vectors" / "vectors.npy")
    assert vectors.shape == (7, 32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)


def test_bert_with_next_sentence(tmp_path):
    choices = "--sine-positions", "--jit-compile"
    _, scores = run(*pretraining(tmp_path, "pretrain_bert", *choices))
    assert 0 <= scores["held_out"]["first"]["next_sentence_accuracy"] <= 1
