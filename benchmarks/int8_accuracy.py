"""What int8 costs in points and saves in bytes, on SST-2, and how true the files are.

    python benchmarks/int8_accuracy.py FOLDER        FOLDER holds sst2/train.tsv.gz, dev
    python benchmarks/int8_accuracy.py FOLDER --encoder bert

One small ALBERT or BERT is trained, then pruned to 80 % zeros; each of the two leaves
as float32, dynamic-range, post-training int8 and, after quantization-aware training,
int8 again. Every `.tflite` file answers, on its own runtime, all dev sentences and the
last `--held-out` examples of the training file, which nothing is trained on, beside its
Keras model. `near` of the examples that they answer differently are those whose two
logits are at most three steps of the file's int8 logits apart in the Keras model.
`embedding` is the token table's share of the gzipped file: what the file loses when the
table is emptied. (*): with representative data, which makes int8 of what training
learned no range for, the normalizations above all. All numbers come from one seed.

Trained models stay in the output folder; a second run goes on from them.
"""

import argparse
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import gzip

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

import keras_tformer as kt

LENGTH = 48
MODES = (None, "dynamic_range", "int8")


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("data", type=pathlib.Path, help="the folder that holds sst2/")
    add("--encoder", choices=("albert", "bert"), default="albert")
    add("--output", type=pathlib.Path, default=pathlib.Path("int8_accuracy_output"))
    add("--steps", type=int, default=1500, help="of 32 texts; a third to prune")
    add("--held-out", type=int, default=5000)
    add("--vocabulary-size", type=int, default=6000)
    add("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(options.seed)
    tokenizer, data = read(options)

    dense = trained(options, "dense", lambda: built(options.encoder, tokenizer), data)
    rows = files_of("dense", options, dense, data)

    def prunable():
        model = keras.models.load_model(file_of(options, "dense"), compile=False)
        steps = options.steps // 3
        schedule = kt.compress.PolynomialDecay(
            initial_sparsity=0.3,
            final_sparsity=0.8,
            begin_step=0,
            end_step=steps // 2 // 10 * 10,
            frequency=10,
        )
        return kt.compress.prune_low_magnitude(model, schedule, total_steps=steps)

    pruned = trained(options, "pruned", prunable, data)
    show(rows + files_of("80 % zeros", options, pruned, data))


def read(options):
    """The tokenizer, and datasets to train on, of dev, and of what is held out."""
    train, dev = (
        kt.data.read_examples(options.data / "sst2" / name, text_column="sentence")
        for name in ("train.tsv.gz", "dev_a.tsv")
    )
    size = len(train.texts) - options.held_out
    file = options.output / "vocab.txt"
    if not file.exists():
        tokenizer = kt.text.WordPieceTokenizer
        tokenizer.train(train.texts[:size], options.vocabulary_size).save(file)
    tokenizer = kt.text.WordPieceTokenizer.load(file)
    parts = {
        "train": (train.texts[:size], train.labels[:size]),
        "dev": (dev.texts, dev.labels),
        "held out": (train.texts[size:], train.labels[size:]),
    }
    return tokenizer, {
        name: kt.data.classification_dataset(
            texts, labels, tokenizer, LENGTH, 32, shuffle=name == "train"
        )
        for name, (texts, labels) in parts.items()
    }


def built(encoder, tokenizer):
    sizes = {
        "vocabulary_size": tokenizer.vocabulary_size,
        "num_heads": 4,
        "hidden_dim": 128,
        "intermediate_dim": 512,
        "dropout": 0.1,
        "initializer_range": 0.05,  # 0.02 is meant for widths of 768 and more
        "sequence_length": LENGTH,
        "max_sequence_length": LENGTH,
    }
    if encoder == "albert":
        encoder = kt.models.albert_encoder(embedding_dim=64, num_layers=2, **sizes)
    else:
        encoder = kt.models.bert_encoder(num_layers=4, **sizes)
    return kt.models.sequence_classifier(encoder, num_classes=2)


def trained(options, name, build, data):
    """Trains what `build` makes, or loads what an earlier run trained."""
    file = file_of(options, name)
    if not file.exists():
        rate = {"dense": 1e-3, "pruned": 5e-4}.get(name, 2e-4)
        steps = options.steps if name == "dense" else options.steps // 3
        model = build()
        schedule = kt.training.LinearWarmup(rate, steps // 10, steps)
        arguments = kt.training.compile_arguments("sequence_classifier")
        model.compile(kt.training.adamw(schedule), **arguments)
        examples = data["train"].repeat()
        model.fit(examples, steps_per_epoch=steps, shuffle=False, verbose=0)
        if name == "pruned":
            model = kt.compress.strip_pruning(model)
        model.compile()  # lets go of the optimizer, whose state would triple the file
        model.save(file)
    return keras.models.load_model(file, compile=False)


def file_of(options, name):
    return options.output / f"{options.encoder}_{name}.keras"


def files_of(name, options, model, data):
    def aware_of():
        aware = kt.compress.quantize_model(model)
        return kt.compress.calibrate(aware, data["train"].take(20))

    label = "dense" if name == "dense" else "pruned"
    examples = data["train"].take(7)
    rows = []
    for mode in MODES:
        rows.append(exported(name, options, model, mode, examples, data))
    aware = trained(options, f"{label}_aware", aware_of, data)
    rows.append(exported(f"{name}, QAT", options, aware, "int8", None, data))
    rows.append(exported(f"{name}, QAT (*)", options, aware, "int8", examples, data))
    return rows


def exported(name, options, model, quantization, examples, data):
    file = options.output / "model.tflite"
    result = kt.export.to_tflite(
        model,
        file,
        sequence_length=LENGTH,
        quantization=quantization,
        representative_data=examples,
        verify=False,  # compared below, on all that there is
    )
    row = {
        "model": name,
        "file": quantization or "float32",
        "bytes": result["size_bytes"],
        "gzip": result["gzip_bytes"],
        "embedding": 100 * embedding_share(file, model),
    }
    for part in ("dev", "held out"):
        ours = model.predict(data[part], verbose=0)
        (theirs,) = kt.export.predict(file, data[part]).values()
        labels = np.concatenate([batch[1] for batch in data[part]])
        differs = ours.argmax(-1) != theirs.argmax(-1)
        values = np.unique(np.round(theirs, 5))
        step = np.diff(values).min() if quantization == "int8" else 0.0
        near = differs & (np.abs(ours[:, 0] - ours[:, 1]) < 3.5 * step)
        row[part] = {
            "keras": 100 * np.mean(ours.argmax(-1) == labels),
            "tflite": 100 * np.mean(theirs.argmax(-1) == labels),
            "equal": 100 * np.mean(~differs),
            "differs": f"{differs.sum()} ({near.sum()})",
        }
    print(row, flush=True)
    return row


def embedding_share(file, model):
    """How much smaller the gzipped file is with zeros for the token table."""
    from ai_edge_litert import schema_py_generated as schema

    content = bytearray(file.read_bytes())
    whole = len(gzip.compress(bytes(content), 9))
    size = max(w.shape[0] for w in model.weights if w.path.endswith("embeddings"))
    parsed = schema.Model.GetRootAs(content, 0)
    graph = parsed.Subgraphs(0)
    for index in range(graph.TensorsLength()):
        tensor = graph.Tensors(index)
        data = parsed.Buffers(tensor.Buffer()).DataAsNumpy()
        if tensor.ShapeLength() == 2 and tensor.Shape(0) == size and len(data):
            data[:] = 0  # a view of `content`
    return 1 - len(gzip.compress(bytes(content), 9)) / whole


def show(rows):
    baseline = {row["model"].split(",")[0]: row["bytes"] for row in reversed(rows)}
    columns = "model", "file", "Keras %", ".tflite %", "points", "equal, dev"
    table = Table(
        *columns,
        "equal, held out",
        "differ (near)",
        "bytes",
        "of float32",
        "gzip",
        "embedding's share",
    )
    for row in rows:
        dev, held_out = row["dev"], row["held out"]
        table.add_row(
            row["model"],
            row["file"],
            f"{dev['keras']:.1f}",
            f"{dev['tflite']:.1f}",
            f"{dev['tflite'] - dev['keras']:+.1f}",
            f"{dev['equal']:.2f} %",
            f"{held_out['equal']:.2f} %",
            held_out["differs"],
            f"{row['bytes']:,}",
            f"{row['bytes'] / baseline[row['model'].split(',')[0]]:.3f}",
            f"{row['gzip']:,}",
            f"{row['embedding']:.0f} %",
        )
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
