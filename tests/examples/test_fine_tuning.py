"""The training scripts as a user runs them, at the smallest sizes."""

import importlib
import json
import pathlib
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


def test_glue_regression_of_pairs(tmp_path):
    files = []
    for name, count in (("train", 19), ("dev", 13)):
        pairs = zip(sentences(count, 1), sentences(count, 2), strict=True)
        lines = [(*pair, f"{number % 5}.5") for number, pair in enumerate(pairs)]
        header = "sentence1", "sentence2", "score"
        files.append(rows(tmp_path / f"{name}.tsv", header, lines))
    common = ["--task", "stsb", "--data", files[0], "--dev", files[1], *TINY]
    _, scores = run(
        "finetune_glue", *common, "--epochs", 1, "--threshold", 2,
        "--output", tmp_path / "out",
    )  # fmt: skip
    assert set(scores) == {"pearson", "spearman", "accuracy_at_threshold"}
    assert all(-1 <= score <= 1 for score in scores.values())


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


def pretrained(tmp_path, script, *options):
    documents = ["\n".join(sentences(9, seed=n)) for n in range(60)]
    (tmp_path / "corpus.txt").write_text("\n\n".join(documents))
    options += tuple("--steps 5 --epoch-steps 2 --sequence-length 16".split())
    options += tuple("--batch-size 8 --vocabulary-size 90 --size tiny".split())
    return run(
        script, "--data", tmp_path / "corpus.txt", *options, "--held-out-share", 0.3,
        "--peak-tflops", 0.1, "--output", tmp_path / "pretrained",
    )  # fmt: skip


def test_albert_in_two_phases_then_fine_tuned_and_as_embedder(
    tmp_path, sentiment, capsys
):
    phase = "--second-steps 2 --second-sequence-length 32 --second-batch-size 4"
    choices = "--optimizer lamb --masking ngram --warmup-steps 1"
    output, scores = pretrained(
        tmp_path, "pretrain_albert", *phase.split(), *choices.split()
    )
    printed = capsys.readouterr().out
    assert " tokens/s, MFU " in printed
    assert "epoch 2/2, 4 steps" in printed and "epoch 3/3, 1 steps" in printed
    for name, epochs in (("first", 3), ("second", 1)):
        assert len(scores["histories"][name]["loss"]) == epochs
        final = scores["held_out"][name]
        perplexity = np.exp(final["masked_lm_loss"])
        assert final["masked_lm_perplexity"] == pytest.approx(perplexity, rel=1e-3)
        assert (output / f"{name}_phase.png").exists()
        assert list((output / "logs" / name / "train").glob("events.out.*"))

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
    _, scores = pretrained(tmp_path, "pretrain_bert", *choices)
    assert 0 <= scores["held_out"]["first"]["next_sentence_accuracy"] <= 1
