"""Forms of layer normalization in an int8 `.tflite` file: error, operators, time.

    python benchmarks/layer_normalization.py

Blocks `x + dense(gelu(dense(normalized x)))`, as in a Transformer without attention,
with the normalization written in one form or another, post-training int8. Three of the
channels are `--wide` times as wide as the others, as trained encoders have some. "int8"
files are `integer_only`; "float" ones leave the normalization and its sum in float, as
`to_tflite` does by itself for the form of our layers. The error is the mean difference
from the Keras model in standard deviations of its output, on inputs that measured no
range. All files take turns within one run; ratios are medians over neighbouring calls
to the time of the first.
"""

import argparse
import os
import pathlib
import statistics
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import ops
from rich.console import Console
from rich.table import Table

import keras_tformer as kt

EPSILON = 1e-6


def centred(x):
    return x - ops.mean(x, axis=-1, keepdims=True)  # (B, T, D)


def centred_rsqrt(x):
    """Ours: the mean of squares of what is centred already."""
    x = centred(x)
    return x * ops.rsqrt(ops.mean(x * x, axis=-1, keepdims=True) + EPSILON)


def centred_square_root(x):
    x = centred(x)
    return x / ops.sqrt(ops.mean(x * x, axis=-1, keepdims=True) + EPSILON)


def centred_reciprocal(x):
    x = centred(x)
    return x * (1 / ops.sqrt(ops.mean(x * x, axis=-1, keepdims=True) + EPSILON))


def two_moments(x):
    """The mean of squares less the square of the mean."""
    mean = ops.mean(x, axis=-1, keepdims=True)  # (B, T, 1)
    variance = ops.mean(x * x, axis=-1, keepdims=True) - mean * mean
    return (x - mean) * ops.rsqrt(variance + EPSILON)


def shrunk_squares(x):
    """Divides before it squares, so that the squares fill no wider a range."""
    x = centred(x)
    shrunk = x * (1 / x.shape[-1] ** 0.5)
    return x * ops.rsqrt(ops.sum(shrunk * shrunk, axis=-1, keepdims=True) + EPSILON)


FILES = [
    ("centred, RSQRT", centred_rsqrt, "float"),
    ("centred, RSQRT", centred_rsqrt, "int8"),
    ("centred, DIV by SQRT", centred_square_root, "int8"),
    ("centred, MUL by 1 / SQRT", centred_reciprocal, "int8"),
    ("two moments, RSQRT", two_moments, "int8"),
    ("centred, shrunk before squared", shrunk_squares, "int8"),
]


@keras.saving.register_keras_serializable(package="benchmark")
class Normalization(keras.layers.Layer):
    """Layer normalization in the form that a function writes."""

    def __init__(self, form, **kwargs):
        super().__init__(**kwargs)
        self.form = form

    def build(self, shape):
        self.gamma = self.add_weight(name="gamma", shape=shape[-1:])
        self.beta = self.add_weight(name="beta", shape=shape[-1:])

    def call(self, x):
        return self.form(x) * self.gamma + self.beta


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--blocks", type=int, default=4)
    add("--width", type=int, default=128)
    add("--length", type=int, default=128)
    add("--wide", type=float, nargs="+", default=[1, 5, 20])
    add("--repetitions", type=int, default=100)
    options = parser.parse_args()
    table = Table("wide", "form", "in", "error", "operators", "pieces", "time")
    for wide in options.wide:
        for row in compared(wide, options):
            table.add_row(f"{wide:g}", *row)
    Console(width=100).print(table)


def compared(wide, options):
    shape = (96, options.length, options.width)
    x = np.random.default_rng(7).normal(size=shape).astype("float32")
    x[..., :3] *= wide
    with tempfile.TemporaryDirectory() as folder:
        files, rows = [], []
        for name, form, kind in FILES:
            model = built(form, options)
            files.append(pathlib.Path(folder) / f"{len(files)}.tflite")
            report = kt.export.to_tflite(
                model,
                files[-1],
                quantization="int8",
                representative_data={"x": x[:64]},
                integer_only=kind == "int8",
                verify=False,
            )
            result = kt.export.verify(
                files[-1],
                model,
                {"x": x[64:]},
                num_threads=1,
                relative_tolerance=1,  # some forms are meant to be far off
                use_default_delegate=True,
            )
            error = f"{result['relative_difference']:.4f}"
            count = str(report["num_operators"])
            rows.append([name, kind, error, count, str(report["delegate_partitions"])])
        times = ratios(files, x, options)
    return [[*row, f"{ratio:.2f}"] for row, ratio in zip(rows, times, strict=True)]


def built(form, options):
    keras.utils.set_random_seed(3)
    inputs = keras.Input((options.length, options.width), name="x")
    x = inputs
    for _ in range(options.blocks):
        y = Normalization(form)(x)
        y = keras.layers.Dense(4 * options.width, "gelu")(y)
        x = x + keras.layers.Dense(options.width)(y)
    model = keras.Model({"x": inputs}, Normalization(form)(x))
    generator = np.random.default_rng(5)
    for weight in model.weights:
        if len(weight.shape) == 1:  # as training leaves them
            start = 1.0 if weight.name == "gamma" else 0.0
            weight.assign(start + generator.normal(0, 0.1, weight.shape))
    return model


def ratios(files, x, options):
    """Median ratios of a call's time to that of the first file, one thread."""
    from ai_edge_litert.interpreter import Interpreter

    interpreters = []
    for file in files:
        interpreter = Interpreter(model_path=str(file), num_threads=1)
        interpreter.allocate_tensors()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x[:1])
        interpreter.invoke()
        interpreters.append(interpreter)
    times = [[] for _ in files]
    for _ in range(options.repetitions):
        for taken, interpreter in zip(times, interpreters, strict=True):
            start = time.perf_counter()
            interpreter.invoke()
            taken.append(time.perf_counter() - start)
    return [
        statistics.median(a / b for a, b in zip(taken, times[0], strict=True))
        for taken in times
    ]


if __name__ == "__main__":
    main()
