"""Operators and delegate partitions of `.tflite` graphs, ours beside KerasHub's.

    python benchmarks/tflite_graphs.py             BERT tiny to base, ALBERT base
    python benchmarks/tflite_graphs.py --loop      ALBERT's calls unrolled and in a loop

Encoders with random weights at batch 1 and 128 tokens, float32; KerasHub's by its own
`model.export(format="litert")` with fixed shapes. A partition is a piece of the graph
that XNNPACK takes over; between two pieces tensors pass through the runtime. `--loop`
writes ALBERT base with its twelve calls one after the other and with one call inside of
a WHILE operator, and times both files in turn in one run: the ratio is the median over
neighbouring calls.
"""

import argparse
import os
import pathlib
import statistics
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from rich.console import Console
from rich.table import Table

import keras_tformer as kt
from keras_tformer.export.conversion import convert
from keras_tformer.export.flatbuffer import inspect_file
from keras_tformer.export.reporting import count_partitions
from keras_tformer.export.tracing import (
    converter_operations,
    input_specs,
    serving_function,
)

LENGTH = 128
VOCABULARY = {"bert": 30522, "albert": 30000}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--sizes", nargs="+", default=["tiny", "mini", "small", "base"])
    add("--loop", action="store_true")
    add("--repetitions", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "model.tflite"
        if options.loop:
            compare_loop(file.parent, options.repetitions)
            return
        table = Table("encoder", "", "operators", "partitions", "MB")
        for name in [*(f"bert {size}" for size in options.sizes), "albert base"]:
            for kind, write in (("ours", write_ours), ("KerasHub", write_peers)):
                write(*name.split(), file)
                table.add_row(name, kind, *numbers_of(file))
                print(name, kind, *numbers_of(file), flush=True)
        Console(width=100).print(table)


def numbers_of(file):
    result = inspect_file(file)
    partitions = count_partitions(file)
    size = f"{result['size_bytes'] / 1e6:.2f}"
    return str(result["num_operators"]), str(partitions), size


def sizes_of(kind, size):
    sizes = getattr(kt.models, f"{kind.upper()}_SIZES")[size]
    return {"vocabulary_size": VOCABULARY[kind], **sizes}


def write_ours(kind, size, file):
    encoder = getattr(kt.models, f"{kind}_encoder")(**sizes_of(kind, size))
    specs = input_specs(encoder, 1, LENGTH)
    function = serving_function(encoder, specs, for_converter=True)
    functions = {"serving_default": function}
    file.write_bytes(convert(encoder, functions, None, False, False, None))


def peer(kind, size):
    import keras_hub

    names = "vocabulary_size num_layers num_heads hidden_dim intermediate_dim".split()
    sizes = sizes_of(kind, size)
    chosen = {name: sizes[name] for name in names}
    if kind == "albert":
        chosen["embedding_dim"] = sizes["embedding_dim"]
    backbones = {
        "bert": keras_hub.models.BertBackbone,
        "albert": keras_hub.models.AlbertBackbone,
    }
    return backbones[kind](**chosen)


def write_peers(kind, size, file):
    import keras

    model = peer(kind, size)
    specs = {
        name: keras.InputSpec(shape=(1, LENGTH), dtype="int32", name=name)
        for name in model.input
    }
    model.export(str(file), format="litert", verbose=False, input_signature=[specs])


def compare_loop(folder, repetitions):
    table = Table("ALBERT base", "operators", "partitions", "MB", "median ms", "ratio")
    examples = {
        "token_ids": np.random.default_rng(7).integers(5, 30000, (8, LENGTH)),
        "segment_ids": np.zeros((8, LENGTH)),
        "padding_mask": np.arange(LENGTH)[None] < np.arange(16, 129, 16)[:, None],
    }
    examples = {name: array.astype("int32") for name, array in examples.items()}
    encoder = kt.models.albert_encoder(**sizes_of("albert", "base"))
    specs = input_specs(encoder, 1, LENGTH)
    functions = {
        "unrolled": serving_function(encoder, specs, for_converter=True),
        "loop": looped(encoder, specs),
    }
    for mode in (None, "dynamic_range", "int8"):
        files, interpreters = {}, {}
        for form, function in functions.items():
            content = convert(
                encoder,
                {"serving_default": function},
                mode,
                False,
                False,
                {"serving_default": examples},
            )
            files[form] = folder / f"{form}.tflite"
            files[form].write_bytes(content)
            interpreters[form] = ready(files[form])
        times = {form: [] for form in files}
        for _ in range(repetitions):
            for form, interpreter in interpreters.items():
                start = time.perf_counter()
                interpreter.invoke()
                times[form].append(1e3 * (time.perf_counter() - start))
        for form, file in files.items():
            pairs = zip(times[form], times["unrolled"], strict=True)
            table.add_row(
                f"{mode or 'float32'}, {form}",
                *numbers_of(file),
                f"{statistics.median(times[form]):.0f}",
                f"{statistics.median(a / b for a, b in pairs):.2f}",
            )
    Console(width=100).print(table)


def looped(encoder, specs):
    """The encoder with its twelve calls of one block inside of a loop."""
    import tensorflow as tf

    layers = {layer.name: layer for layer in encoder.layers}
    block = layers["encoder_group_0_layer_0"]
    calls = kt.models.ALBERT_SIZES["base"]["num_layers"]

    @tf.function(autograph=False)
    def serve(**inputs):
        x = layers["token_embedding"](inputs["token_ids"])
        x = layers["embeddings"](x, segment_ids=inputs["segment_ids"])

        def call(index, x):
            y = block(x, padding_mask=inputs["padding_mask"])
            return index + 1, tf.ensure_shape(y, x.shape)

        _, x = tf.while_loop(lambda index, _: index < calls, call, (0, x))
        return {"sequence_output": x, "pooled_output": layers["pooler"](x)}

    with converter_operations():
        return serve.get_concrete_function(**specs)


def ready(file):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(file), num_threads=1)
    interpreter.allocate_tensors()
    for detail in interpreter.get_input_details():
        interpreter.set_tensor(detail["index"], np.ones(detail["shape"], "int32"))
    interpreter.invoke()
    return interpreter


if __name__ == "__main__":
    main()
