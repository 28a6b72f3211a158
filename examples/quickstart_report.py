"""The quickstart's last page: what each stage and each artefact measures.

Every number is measured on the artefact itself: a `.tflite` file runs on LiteRT, the
SavedModel in a process of its own that never imports keras_tformer.
"""

import gzip
import io
import json
import os
import pathlib
import subprocess
import sys
import tarfile

import matplotlib

matplotlib.use("Agg")
import keras
import matplotlib.pyplot as plt
import numpy as np
from rich.console import Console
from rich.table import Table

import keras_tformer as kt

COLUMNS = {
    "stage": "stage",
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "bytes": "size kB",
    "gzip_bytes": "gzip kB",
    "sparsity": "zeros",
    "one_thread_ms": "1 thread ms",
    "two_threads_ms": "2 threads ms",
    "difference": "largest diff.",
    "agreement": "equal",
}
SERVE = pathlib.Path(__file__).resolve().with_name("serve_saved_model.py")


def majority_row(train_labels, test_labels):
    """What it scores to name the train part's commonest class every time."""
    names, counts = np.unique(train_labels, return_counts=True)
    truth = np.searchsorted(names, test_labels)
    logits = np.zeros((len(truth), len(names)), "float32")
    logits[:, counts.argmax()] = 1.0
    return row("majority class", **scores(truth, logits))


def keras_row(stage, path, model, test):
    """A model in Keras, the size that of its `.keras` file."""
    file = path.with_suffix(".keras")
    truth = np.concatenate([np.asarray(labels) for _, labels in test])
    logits = model.predict(test, verbose=0)
    return row(
        stage,
        **scores(truth, logits),
        bytes=file.stat().st_size,
        gzip_bytes=len(gzip.compress(file.read_bytes(), 9)),
        sparsity=model_zeros(model),
    )


def tflite_row(stage, file, model, test):
    """A `.tflite` file on LiteRT, compared with the Keras model that it was made of."""
    result = kt.export.verify(file, model, test)
    measured = kt.export.benchmark(file, num_threads=(1, 2), repetitions=200)
    return row(
        stage,
        accuracy=result["accuracy"]["artefact"],
        macro_f1=result["macro_f1"]["artefact"],
        bytes=measured["size_bytes"],
        gzip_bytes=measured["gzip_bytes"],
        sparsity=measured["zeros"],
        one_thread_ms=measured["latency"][1]["median_ms"],
        two_threads_ms=measured["latency"][2]["median_ms"],
        difference=result["largest_difference"],
        agreement=result["agreement"],
    )


def saved_model_row(stage, folder, model, texts_and_labels, test):
    """A SavedModel fed with raw strings in a process without keras_tformer."""
    texts, labels = texts_and_labels
    truth = np.searchsorted(sorted(set(labels)), labels)
    expected = model.predict(test, verbose=0)
    milliseconds = {}
    for threads in (1, 2):
        command = [sys.executable, str(SERVE), str(folder), "--threads", str(threads)]
        done = subprocess.run(
            command,
            input="\n".join(" ".join(text.split()) for text in texts) + "\n",
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"PYTHONPATH": ""},
        )
        if done.returncode:
            raise OSError(f"{' '.join(command)} failed: {done.stderr[-2000:]}")
        timing = json.loads(done.stderr.strip().splitlines()[-1])
        if timing["keras_tformer_imported"]:
            raise ValueError("The SavedModel's process imported keras_tformer.")
        milliseconds[threads] = timing["median_ms"]
    logits = np.array([json.loads(line)["logits"] for line in done.stdout.splitlines()])
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz", compresslevel=9) as tar:
        tar.add(folder, arcname="saved_model")
    files = [file for file in pathlib.Path(folder).rglob("*") if file.is_file()]
    return row(
        stage,
        **scores(truth, logits),
        bytes=sum(file.stat().st_size for file in files),
        gzip_bytes=len(archive.getvalue()),
        sparsity=model_zeros(model),
        one_thread_ms=milliseconds[1],
        two_threads_ms=milliseconds[2],
        difference=float(np.abs(logits - expected).max()),
        agreement=float(np.mean(logits.argmax(-1) == expected.argmax(-1))),
    )


def row(stage, **measured):
    return {key: measured.get(key) for key in COLUMNS} | {"stage": stage}


def scores(truth, logits):
    macro_f1 = kt.training.MacroF1(logits.shape[-1])
    macro_f1.update_state(truth, logits)
    return {
        "accuracy": float(np.mean(logits.argmax(-1) == truth)),
        "macro_f1": float(macro_f1.result()),
    }


def model_zeros(model):
    """Share of zeros in the kernels and tables of a Keras model."""
    zeros = total = 0
    for weight in model.weights:
        if len(weight.shape) == 2:
            values = keras.ops.convert_to_numpy(weight)
            zeros += int((values == 0).sum())
            total += values.size
    return zeros / total


def write_report(folder, rows, stages, num_texts):
    """Prints the table and leaves it with a picture in the output folder."""
    table = Table(title="Test part, each artefact on its own runtime")
    for name in COLUMNS.values():
        table.add_column(name, justify="left" if name == "stage" else "right")
    lines = ["| " + " | ".join(COLUMNS.values()) + " |"]
    lines.append("| --- |" + " ---: |" * (len(COLUMNS) - 1))
    for measured in rows:
        cells = [show(key, measured[key]) for key in COLUMNS]
        table.add_row(*cells)
        lines.append("| " + " | ".join(cells) + " |")
    console = Console()
    if console.width < 130 and not console.is_terminal:
        console = Console(width=130)
    console.print(table)
    for comment in comments(rows, num_texts):
        print(comment)
    (folder / "results.json").write_text(json.dumps(rows, indent=2) + "\n")
    (folder / "results.md").write_text("\n".join(lines) + "\n")
    draw(folder, rows, stages)
    print(f"Table and picture: {folder / 'results.md'}, {folder / 'results.png'}")


def show(key, value):
    if value is None:
        return "-"
    if key == "stage":
        return value
    if key in ("bytes", "gzip_bytes"):
        return f"{value / 1000:,.0f}"
    if key in ("accuracy", "macro_f1"):
        return f"{100 * value:.1f}"
    if key in ("sparsity", "agreement"):
        return f"{100 * value:.1f} %"
    return f"{value:.2g}" if key == "difference" else f"{value:.2f}"


def comments(rows, num_texts):
    """What the table says about the promises of this run, kept or not."""
    by_stage = {measured["stage"]: measured for measured in rows}
    tuned = by_stage["fine-tuned"]["accuracy"]
    points = 100 * (tuned - by_stage["without pretraining"]["accuracy"])
    int8 = by_stage["int8 .tflite (QAT)"]
    ratio = by_stage["float32 .tflite"]["bytes"] / int8["bytes"]
    # Of two scores on as many texts, were they independent.
    error = 100 * (2 * tuned * (1 - tuned) / num_texts) ** 0.5
    if abs(points) <= 2 * error:
        verdict = "makes no difference that this test part could show"
    else:
        verdict = "helped" if points > 0 else "did harm"
    yield f"Pretraining: {points:+.1f} +- {error:.1f} points: it {verdict}"
    yield f"int8 against fine-tuned: {100 * (int8['accuracy'] - tuned):+.1f} points"
    yield f"int8 file: {ratio:.2f} times smaller than the float32 file"


def draw(folder, rows, stages):
    """Accuracy against size, and how the training went."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(15, 4.5))
    for measured, marker in zip(rows, "_xoPDX^vs", strict=True):
        if measured["gzip_bytes"] is not None and "Saved" not in measured["stage"]:
            kilobytes = measured["gzip_bytes"] / 1000
            accuracy = 100 * measured["accuracy"]
            left.plot(kilobytes, accuracy, marker, label=measured["stage"], ms=9)
    left.axhline(100 * rows[0]["accuracy"], color="grey", ls=":", label="majority")
    left.set(xscale="log", xlabel="gzip size, kB", ylabel="test accuracy, %")
    left.xaxis.get_minor_locator().set_params(subs=(2, 5))
    left.xaxis.set_major_formatter("{x:,.0f}")
    left.xaxis.set_minor_formatter("{x:,.0f}")
    histories = {
        stage: json.loads(file.read_text())
        for stage in stages
        if (file := folder / "histories" / f"{stage}.json").exists()
    }
    pretraining = histories.pop("pretraining", {})
    for name, values in pretraining.items():
        if name.endswith("accuracy"):
            middle.plot(range(1, len(values) + 1), 100 * np.array(values), label=name)
    middle.set(xlabel="pretraining, tenths", ylabel="accuracy, %")
    for stage, history in histories.items():
        values = 100 * np.array(history["val_accuracy"])
        right.plot(range(1, len(values) + 1), values, "o-", label=stage)
    right.set(xlabel="part of the stage", ylabel="dev accuracy, %")
    for axes in (middle, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
    for axes in (left, middle, right):
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(folder / "results.png", dpi=120)
    plt.close(figure)
