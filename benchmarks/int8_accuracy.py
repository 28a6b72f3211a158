"""What int8 costs in points and saves in bytes, on SST-2.

    python benchmarks/int8_accuracy.py FOLDER        FOLDER holds sst2/train.tsv.gz, dev

One small ALBERT is trained, then pruned to 80 % zeros; each of the two leaves as
float32, dynamic-range, post-training int8 and, after quantization-aware training, int8
again. Every `.tflite` file answers all dev sentences on its own runtime, beside its
Keras model. `embedding` is the token table's share of the gzipped file: what the file
loses when the table is emptied. (*): without representative data, so that what training
learned no range for stays in float. All numbers come from one seed.
"""

import argparse
import os
import pathlib
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import gzip

import keras
from rich.console import Console
from rich.table import Table

import keras_tformer as kt

LENGTH = 48
MODES = (None, "dynamic_range", "int8")


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("data", type=pathlib.Path, help="the folder that holds sst2/")
    add("--steps", type=int, default=1500, help="of 32 texts; a third to prune")
    add("--vocabulary-size", type=int, default=6000)
    add("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    keras.utils.set_random_seed(options.seed)

    tables = [
        kt.data.read_examples(options.data / "sst2" / name, text_column="sentence")
        for name in ("train.tsv.gz", "dev_a.tsv")
    ]
    texts = tables[0].texts
    tokenizer = kt.text.WordPieceTokenizer.train(texts, options.vocabulary_size)
    train, dev = (
        kt.data.classification_dataset(
            table.texts, table.labels, tokenizer, LENGTH, 32, shuffle=table is tables[0]
        )
        for table in tables
    )
    encoder = kt.models.albert_encoder(
        vocabulary_size=tokenizer.vocabulary_size,
        embedding_dim=64,
        num_layers=2,
        num_heads=4,
        hidden_dim=128,
        intermediate_dim=512,
        dropout=0.1,
        initializer_range=0.05,  # 0.02 is meant for widths of 768 and more
        sequence_length=LENGTH,
        max_sequence_length=LENGTH,
    )
    model = kt.models.sequence_classifier(encoder, num_classes=2)
    fit(model, train, options.steps, 1e-3)
    rows = files_of("dense", model, train, dev, options.steps // 3)

    # Pruning goes on from the same weights and changes them.
    steps = options.steps // 3
    schedule = kt.compress.PolynomialDecay(
        initial_sparsity=0.3,
        final_sparsity=0.8,
        begin_step=0,
        end_step=steps // 2 // 10 * 10,
        frequency=10,
    )
    pruned = kt.compress.prune_low_magnitude(model, schedule)
    fit(pruned, train, steps, 5e-4)
    model = kt.compress.strip_pruning(pruned)
    rows += files_of("80 % zeros", model, train, dev, steps)
    show(rows)


def files_of(name, model, train, dev, steps):
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        data = train.take(7), dev, pathlib.Path(folder) / "model.tflite"
        for mode in MODES:
            rows.append(exported(name, model, mode, *data))
        aware = kt.compress.quantize_model(model)
        kt.compress.calibrate(aware, train.take(20))
        fit(aware, train, steps, 2e-4)
        rows.append(exported(f"{name}, QAT", aware, "int8", *data))
        rows.append(exported(f"{name}, QAT (*)", aware, "int8", None, *data[1:]))
    return rows


def fit(model, data, steps, rate):
    schedule = kt.training.LinearWarmup(rate, steps // 10, steps)
    arguments = kt.training.compile_arguments("sequence_classifier")
    model.compile(kt.training.adamw(schedule), **arguments)
    model.fit(data.repeat(), epochs=1, steps_per_epoch=steps, shuffle=False, verbose=0)


def exported(name, model, quantization, examples, dev, file):
    result = kt.export.to_tflite(
        model,
        file,
        sequence_length=LENGTH,
        quantization=quantization,
        representative_data=examples,
    )
    checked = kt.export.verify(file, model, dev)
    return {
        "model": name,
        "file": quantization or "float32",
        "keras": 100 * checked["accuracy"]["model"],
        "tflite": 100 * checked["accuracy"]["artefact"],
        "equal": 100 * checked["agreement"],
        "bytes": result["size_bytes"],
        "gzip": result["gzip_bytes"],
        "embedding": 100 * embedding_share(file, model),
    }


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
    columns = "model", "file", "Keras %", ".tflite %", "points", "equal %", "bytes"
    table = Table(*columns, "of float32", "gzip", "embedding's share")
    for row in rows:
        table.add_row(
            row["model"],
            row["file"],
            f"{row['keras']:.1f}",
            f"{row['tflite']:.1f}",
            f"{row['tflite'] - row['keras']:+.1f}",
            f"{row['equal']:.1f}",
            f"{row['bytes']:,}",
            f"{row['bytes'] / baseline[row['model'].split(',')[0]]:.3f}",
            f"{row['gzip']:,}",
            f"{row['embedding']:.0f} %",
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
