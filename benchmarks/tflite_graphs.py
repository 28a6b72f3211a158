"""Operators and delegate partitions of `.tflite` graphs, ours beside KerasHub's.

    python benchmarks/tflite_graphs.py             BERT tiny to base, ALBERT base
    python benchmarks/tflite_graphs.py --loop      ALBERT's calls unrolled and in a loop

Encoders at batch 1 and 128 tokens, float32; KerasHub's by its own
`model.export(format="litert")` with fixed shapes, Hugging Face's by litert-torch where
that is installed (`pip install litert-torch`, in an environment of its own). Weights
are random, and so are scales and shifts of layer normalizations, which the converter
would fold away at 1 and 0. A partition is a piece of the graph that XNNPACK takes over;
between two pieces tensors pass through the runtime. "Unrolled" has a shared block's
calls one after the other.

`--loop` writes ALBERT with its calls unrolled and as one WHILE operator: size, memory
of a process that loads and calls the file, seconds until it is ready, and the time of a
call. Both files take turns within one run; ratios are medians over neighbouring calls,
"best" the fastest of all.
"""

import argparse
import importlib.util
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
from keras_tformer.export.benchmarking import process_bytes
from keras_tformer.export.conversion import calibration_feed, convert
from keras_tformer.export.flatbuffer import inspect_file
from keras_tformer.export.reporting import count_partitions
from keras_tformer.export.tracing import input_specs, serving_function

LENGTH = 128
VOCABULARY = {"bert": 30522, "albert": 30000}
ALBERTS = {
    "base": kt.models.ALBERT_SIZES["base"],
    "6 x 128": {
        "num_layers": 6,
        "num_heads": 4,
        "embedding_dim": 64,
        "hidden_dim": 128,
        "intermediate_dim": 512,
    },
    "3 x 128": {
        "num_layers": 3,
        "num_heads": 4,
        "embedding_dim": 64,
        "hidden_dim": 128,
        "intermediate_dim": 512,
    },
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--sizes", nargs="+", default=["tiny", "mini", "small", "medium", "base"])
    add("--loop", action="store_true")
    add("--alberts", nargs="+", choices=ALBERTS, default=list(ALBERTS))
    modes = ["float32", "dynamic_range", "int8"]
    add("--modes", nargs="+", choices=modes, default=modes)
    add("--repetitions", type=int, default=40)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.loop:
            compare_loops(pathlib.Path(folder), options)
        else:
            compare_graphs(pathlib.Path(folder) / "model.tflite", options.sizes)


def compare_graphs(file, sizes):
    table = Table("encoder", "", "operators", "partitions", "MB")
    for name in [*(f"bert {size}" for size in sizes), "albert base"]:
        kind, size = name.split()
        encoder = learned(getattr(kt.models, f"{kind}_encoder")(**sizes_of(kind, size)))
        for in_loops in (False, True) if kind == "albert" else (False,):
            write_ours(encoder, file, in_loops=in_loops)
            how = "ours" if in_loops or kind == "bert" else "ours, unrolled"
            table.add_row(name, how, *numbers_of(file))
        write_peers(learned(peer(kind, size)), file)
        table.add_row(name, "KerasHub", *numbers_of(file))
        if importlib.util.find_spec("litert_torch"):
            write_torchs(kind, size, file)
            table.add_row(name, "Hugging Face, litert-torch", *numbers_of(file))
    Console(width=100).print(table)


def learned(model):
    """Vectors as training leaves them: no scale at 1, no shift at 0."""
    generator = np.random.default_rng(7)
    for weight in model.weights:
        if len(weight.shape) == 1 or weight.path.endswith("bias"):
            weight.assign(weight.numpy() + generator.normal(0, 0.1, weight.shape))
    return model


def numbers_of(file):
    result = inspect_file(file)
    partitions = count_partitions(file)
    size = f"{result['size_bytes'] / 1e6:.2f}"
    return str(result["num_operators"]), str(partitions), size


def sizes_of(kind, size):
    sizes = getattr(kt.models, f"{kind.upper()}_SIZES")[size]
    return {"vocabulary_size": VOCABULARY[kind], **sizes}


def write_ours(encoder, file, in_loops, mode=None):
    specs = input_specs(encoder, 1, LENGTH)
    function = serving_function(encoder, specs, for_converter=True, in_loops=in_loops)
    functions = {"serving_default": function}
    feed = calibration_feed({"serving_default": examples()}, functions)
    file.write_bytes(convert(encoder, functions, mode, False, False, feed))


def examples():
    rows = {
        "token_ids": np.random.default_rng(7).integers(5, 30000, (8, LENGTH)),
        "segment_ids": np.zeros((8, LENGTH)),
        "padding_mask": np.arange(LENGTH)[None] < np.arange(16, 129, 16)[:, None],
    }
    return {name: array.astype("int32") for name, array in rows.items()}


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


def write_peers(model, file):
    import keras

    specs = {
        name: keras.InputSpec(shape=(1, LENGTH), dtype="int32", name=name)
        for name in model.input
    }
    model.export(str(file), format="litert", verbose=False, input_signature=[specs])


def write_torchs(kind, size, file):
    """Hugging Face's encoder on torch, its attention written out (fewer operators)."""
    import litert_torch
    import torch
    import transformers

    sizes = sizes_of(kind, size)
    arguments = {
        "vocab_size": sizes["vocabulary_size"],
        "num_hidden_layers": sizes["num_layers"],
        "num_attention_heads": sizes["num_heads"],
        "hidden_size": sizes["hidden_dim"],
        "intermediate_size": sizes["intermediate_dim"],
        "attn_implementation": "eager",
    }
    if kind == "albert":
        config = transformers.AlbertConfig(**arguments)
        encoder = transformers.AlbertModel(config)
    else:
        encoder = transformers.BertModel(transformers.BertConfig(**arguments))
    generator = torch.Generator().manual_seed(7)
    for weight in encoder.parameters():
        if weight.ndim == 1:
            weight.data += 0.1 * torch.randn(weight.shape, generator=generator)

    class Encoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = encoder

        def forward(self, token_ids, segment_ids, padding_mask):
            outputs = self.encoder(
                input_ids=token_ids,
                token_type_ids=segment_ids,
                attention_mask=padding_mask,
            )
            return outputs.last_hidden_state, outputs.pooler_output

    row = {name: torch.tensor(rows[:1]) for name, rows in examples().items()}
    converted = litert_torch.convert(Encoder().eval(), sample_kwargs=row)
    converted.export(str(file))


def compare_loops(folder, options):
    """Calls one after the other, and as a loop, in turn."""
    names = "ALBERT", "file", "calls", "operators", "pieces", "MB", "process MB"
    table = Table(*names, "ready s", "1 thread", "best ms", "2 threads", "best ms")
    for name in options.alberts:
        sizes = {"vocabulary_size": VOCABULARY["albert"], **ALBERTS[name]}
        encoder = learned(kt.models.albert_encoder(**sizes))
        for mode in options.modes:
            files = {form: folder / f"{form}.tflite" for form in ("unrolled", "loop")}
            for form, file in files.items():
                quantization = None if mode == "float32" else mode
                write_ours(encoder, file, form == "loop", quantization)
            starts = {form: [] for form in files}
            times = {(form, threads): [] for form in files for threads in (1, 2)}
            for threads in (1, 2):
                for _ in range(3):
                    interpreters = {}
                    for form, file in files.items():
                        start = time.perf_counter()
                        interpreters[form] = ready(file, threads)
                        starts[form].append(time.perf_counter() - start)
                for _ in range(options.repetitions):
                    for form, interpreter in interpreters.items():
                        start = time.perf_counter()
                        interpreter.invoke()
                        took = 1e3 * (time.perf_counter() - start)
                        times[form, threads].append(took)
                del interpreters
            for form, file in files.items():
                row = [name, mode, form, *numbers_of(file)]
                row += [f"{process_bytes(str(file), True) / 1e6:.0f}"]
                row += [f"{min(starts[form]):.2f}"]
                for threads in (1, 2):
                    ours, base = times[form, threads], times["unrolled", threads]
                    ratios = (a / b for a, b in zip(ours, base, strict=True))
                    row += [f"{statistics.median(ratios):.2f}", f"{min(ours):.2f}"]
                table.add_row(*row)
                print(*row, sep=", ", flush=True)
    Console(width=120).print(table)


def ready(file, num_threads):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(file), num_threads=num_threads)
    interpreter.allocate_tensors()
    for detail in interpreter.get_input_details():
        interpreter.set_tensor(detail["index"], np.ones(detail["shape"], "int32"))
    interpreter.invoke()
    return interpreter


if __name__ == "__main__":
    main()
