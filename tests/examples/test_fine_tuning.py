"""The training scripts as a user runs them, at the smallest sizes."""

import csv
import importlib
import json
import pathlib
import sys

import keras
import numpy as np
import pytest

import keras_tformer as kt

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


def predicted(output):
    """The labels and the predictions of a file, as strings."""
    with open(output / "predictions.csv", newline="", encoding="utf-8") as stream:
        return zip(*[line[:2] for line in list(csv.reader(stream))[1:]], strict=True)


def share_right(output):
    labels, predictions = predicted(output)
    return np.mean(np.array(labels) == np.array(predictions))


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
    unlike = rows(tmp_path / "unlike.tsv", ("sentence", "label"), [("red", "2")])
    with pytest.raises(ValueError, match="2 are not among the class names 0, 1"):
        run("finetune_glue", *common, "--dev", unlike)
    # A start that failed is no run: its folder may be used again.
    output, scores = run("finetune_glue", *common, "--epochs", 1, "--second-dev", dev)
    assert set(scores) == {
        f"{of}{name}"
        for name in ("loss", "accuracy", "matthews_correlation")
        for of in ("", "second_")
    }
    assert scores["second_accuracy"] == pytest.approx(scores["accuracy"])
    for name in ("curves.png", "confusion_matrix.png"):
        assert (output / name).read_bytes().startswith(b"\x89PNG")
    lines = (output / "predictions.csv").read_text().splitlines()
    assert lines[0] == "label,prediction,text,second_text" and len(lines) == 18
    assert scores["accuracy"] == pytest.approx(share_right(output))

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
    stats = pytest.importorskip("scipy.stats", reason="needs [reference]")
    files = []
    for name, count in (("train", 19), ("dev", 13)):
        pairs = zip(sentences(count, 1), sentences(count, 2), strict=True)
        lines = [(*pair, f"{number % 5}.5") for number, pair in enumerate(pairs)]
        header = "sentence1", "sentence2", "score"
        files.append(rows(tmp_path / f"{name}.tsv", header, lines))
    common = ["--task", "stsb", "--data", files[0], "--dev", files[1], *TINY]
    output, scores = run(
        "finetune_glue", *common, "--epochs", 1, "--threshold", 2,
        "--output", tmp_path / "out",
    )  # fmt: skip
    labels, predictions = (np.array(x, float) for x in predicted(output))
    assert scores == pytest.approx(
        {
            "pearson": stats.pearsonr(labels, predictions).statistic,
            "spearman": stats.spearmanr(labels, predictions).statistic,
            "accuracy_at_threshold": np.mean((labels >= 2) == (predictions >= 2)),
        },
        abs=1e-5,
    )
    assert json.loads((output / "classes.json").read_text()) == []
    with pytest.raises(SystemExit):
        run("finetune_glue", *common, "--class-weights", "--output", tmp_path / "no")


def test_what_would_train_nothing_is_refused_before(tmp_path, sentiment, capsys):
    train, dev = sentiment
    one = rows(tmp_path / "one.tsv", ("sentence", "label"), [("red", "1")] * 9)
    named = rows(
        tmp_path / "named.tsv",
        ("sentence1", "sentence2", "label"),
        [("red", "red", "same"), ("red", "old", "other")] * 9,
    )
    for options, message in (
        (["--data", one, "--task", "sst2"], "has one class, '1'; expected two"),
        (["--data", named, "--task", "mrpc"], "has the labels ['other', 'same']"),
        (["--data", train, "--task", "sst2", "--threshold", 1], "is for regressions"),
        (["--data", train, "--epochs", 0], "--epochs: 0; expected 1 or more"),
    ):
        dev = named if named in options else dev
        with pytest.raises(SystemExit):
            run("finetune_glue", "--dev", dev, "--output", tmp_path / "out", *options)
        assert message in capsys.readouterr().err
        dev = sentiment[1]
    assert not (tmp_path / "out").exists()


def assert_same_encoder(first, second):
    """The pooled outputs of two models' encoders are equal, within the last steps."""
    ids = np.array([[2, 7, 11, 5, 3]])
    inputs = {"token_ids": ids, "segment_ids": 0 * ids, "padding_mask": ids > 0}
    pooled = [
        np.asarray(keras.Model(x.input, x.get_layer("pooler").output)(inputs))
        for x in (first, second)
    ]
    np.testing.assert_allclose(*pooled, atol=1e-6)


def test_every_kind_of_checkpoint_and_the_model_that_comes_out(tmp_path, sentiment):
    train, dev = sentiment
    tokenizer = kt.text.WordPieceTokenizer.train(WORDS, 90, show_progress=False)
    encoder = kt.models.bert_encoder(
        vocabulary_size=tokenizer.vocabulary_size, num_layers=2, num_heads=2,
        hidden_dim=14, intermediate_dim=11, max_sequence_length=24,
        activation="gelu_tanh",
    )  # fmt: skip
    kt.checkpoints.save_huggingface(encoder, tmp_path / "huggingface", tokenizer)
    (tmp_path / "google").mkdir()
    kt.checkpoints.save_tf_checkpoint(encoder, tmp_path / "google" / "bert_model.ckpt")
    tokenizer.save(tmp_path / "google" / "vocab.txt")
    common = ["--task", "sst2", "--data", train, "--dev", dev, "--epochs", 1]
    common += ["--sequence-length", 24, "--batch-size", 8]
    for kind, checkpoint, rate in (
        ("from_google", tmp_path / "google" / "bert_model.ckpt", 1e-3),
        ("from_huggingface", tmp_path / "huggingface", 1e-9),  # nothing moves
        ("from_ours", tmp_path / "from_huggingface" / "model.keras", 1e-9),
    ):
        output, scores = run(
            "finetune_glue", *common, "--checkpoint", checkpoint,
            "--learning-rate", rate, "--output", tmp_path / kind,
        )  # fmt: skip
        assert scores["accuracy"] == pytest.approx(share_right(output))
        model = keras.models.load_model(output / "model.keras", compile=False)
        if rate < 1e-3:
            assert_same_encoder(model, encoder)

    # What lies in the folder is enough to use the model.
    found = kt.text.WordPieceTokenizer.load(output / "tokenizer.json")
    names = json.loads((output / "classes.json").read_text())
    examples = kt.data.read_examples(dev, glue_task="sst2")
    task = kt.data.table_task(examples, found, 24, 8, class_names=names)
    numbers = model.predict(task.dataset, verbose=0).argmax(-1)
    assert [names[n] for n in numbers] == list(list(predicted(output))[1])


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
    common = [
        "--version", "2.0", "--data", tmp_path / "train.json",
        "--dev", tmp_path / "dev.json", *TINY, "--epochs", 1, "--doc-stride", 8,
        "--max-question-length", 6, "--output", tmp_path / "out",
    ]  # fmt: skip
    with pytest.raises(SystemExit, match="leaves 0 of 11 dev questions to choose"):
        run("finetune_squad", *common, "--threshold-share", 0)
    output, scores = run("finetune_squad", *common, "--threshold-share", 0.5)
    assert {"exact_match", "f1", "null_threshold", "with_threshold_f1"} <= set(scores)
    answers = json.loads((output / "predictions.json").read_text())
    odds = json.loads((output / "null_odds.json").read_text())
    assert set(answers) == set(odds) == {f"q{number}" for number in range(11)}
    for name, answer in answers.items():
        assert (answer == "") == (odds[name] > scores["null_threshold"])


def test_causal_language_model(tmp_path, capsys):
    for name, count in (("train", 60), ("dev", 20)):
        text = "\n\n".join("\n".join(sentences(5, seed=n)) for n in range(count))
        (tmp_path / f"{name}.txt").write_text(text)
    files = ["--data", tmp_path / "train.txt", "--dev", tmp_path / "dev.txt"]
    output, scores = run(
        "train_causal_lm", *files, *TINY, "--epochs", 2, "--output", tmp_path / "out"
    )
    # Each word is one piece; a line end of the word count stands for no piece.
    assert 1 < scores["word_perplexity"] < scores["perplexity"] < 90
    lines = (output / "predictions.txt").read_text().splitlines()
    assert f"continues: {lines[0]}\n" in capsys.readouterr().out
    dev = (tmp_path / "dev.txt").read_text().split("\n\n")
    assert len(lines) == 5
    for line, document in zip(lines, dev[:5], strict=True):
        assert line.startswith(document.splitlines()[0]) and len(line.split()) > 5

    # A further run, at a rate that moves nothing, begins where the first one ended.
    _, again = run(
        "train_causal_lm", *files, *TINY, "--epochs", 1, "--learning-rate", 1e-9,
        "--checkpoint", output / "model.keras", "--output", tmp_path / "again",
    )  # fmt: skip
    assert again == pytest.approx(scores, rel=1e-4)


def pretrained(tmp_path, script, *options):
    documents = ["\n".join(sentences(9, seed=n)) for n in range(60)]
    (tmp_path / "corpus.txt").write_text("\n\n".join(documents))
    options += tuple("--steps 5 --epoch-steps 2 --sequence-length 16".split())
    options += tuple("--batch-size 8 --vocabulary-size 90 --size tiny".split())
    return run(
        script, "--data", tmp_path / "corpus.txt", *options, "--held-out-share", 0.3,
        "--peak-tflops", 0.1, "--output", tmp_path / "pretrained",
    )  # fmt: skip


def assert_scores_are_the_last_ones_logged(scores, phase):
    history = scores["histories"][phase]
    for name, score in scores["held_out"][phase].items():
        assert history[f"val_{name}"][-1] == pytest.approx(score, rel=1e-4)


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
        assert_scores_are_the_last_ones_logged(scores, name)
        assert (output / f"{name}_phase.png").exists()
        assert list((output / "logs" / name / "train").glob("events.out.*"))
        assert "sentence_order_accuracy" in scores["held_out"][name]

    train, dev = sentiment
    encoder = ["--checkpoint", output / "encoder.keras"]
    _, tuned = run(
        "finetune_glue", "--task", "sst2", "--data", train, "--dev", dev, *encoder,
        "--epochs", 1, "--sequence-length", 24, "--batch-size", 8,
        "--output", tmp_path / "tuned",
    )  # fmt: skip
    assert tuned["accuracy"] == pytest.approx(share_right(tmp_path / "tuned"))

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
    assert_scores_are_the_last_ones_logged(scores, "first")
    assert "next_sentence_accuracy" in scores["held_out"]["first"]
