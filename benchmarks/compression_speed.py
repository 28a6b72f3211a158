"""What a training step costs more when it prunes, clusters or trains for int8.

    python benchmarks/compression_speed.py             4x256, some minutes
    python benchmarks/compression_speed.py --quick     a check that takes a minute
    python benchmarks/compression_speed.py --files     structured against dense
    python benchmarks/compression_speed.py --trace --size 12x768 --kinds dense int8

Steps of the dense, the pruned, the clustered and the quantization-aware BERT classifier
are measured in turn within one run (A B C A B C), so that whatever else the machine
does meets all of them. The ratio is the median over the ratios of neighbours: 1.05 is
five percent slower than dense. The goals are 1.05 for pruning and 1.6 for
quantization-aware training.

Pruning asks its schedule at every step and chooses masks at every hundredth: `pruning`
is the median of all steps, `choosing masks` the median of those that choose, measured
apart with a schedule that always does. `structured` trains what is left of half the
heads and half the feed-forward units. Also printed: seconds to build the model, trace
a training step and run it for the first time.

`--trace` runs no step: it prints how many operations the graph of one has, and the
seconds to build the model and to trace it. `--files` measures calls of `.tflite` files
instead: dense and structured, batch 1, float32 and post-training int8.

All computations are float32 on a CPU with random weights, without XLA, which is what
Keras' `jit_compile="auto"` means there; `--xla` compiles.
"""

import argparse
import functools
import json
import os
import statistics
import tempfile
import time

KINDS = ("dense", "pruning", "choosing masks", "clustering", "int8", "structured")


def main():
    arguments = parse_arguments()
    results = {"arguments": vars(arguments)}
    if arguments.trace:
        results["graphs"] = {kind: trace(kind, arguments) for kind in arguments.kinds}
        return write(results, arguments.json)
    if arguments.files:
        results["files"] = measure_files(arguments)
        return write(results, arguments.json)
    steps, starts = {}, {}
    for kind in arguments.kinds:
        start = time.perf_counter()
        model, inputs, labels = model_and_batch(kind, arguments)
        steps[kind] = functools.partial(model.train_on_batch, inputs, labels)
        steps[kind]()
        starts[kind] = time.perf_counter() - start
    times = {kind: [] for kind in steps}
    for round_number in range(-1, arguments.rounds):
        for kind, step in steps.items():
            for _ in range(arguments.repeats):
                start = time.perf_counter()
                step()
                if round_number >= 0:  # the first turn warms up
                    times[kind].append(time.perf_counter() - start)
    print_table(arguments, times, starts)
    write(results | {"times": times, "starts": starts}, arguments.json)


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--size", default="4x256", help="layers x hidden_dim")
    add("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    add("--batch", type=int, default=8, help="sequences in a batch")
    add("--sequence-length", type=int, default=128)
    add("--vocabulary-size", type=int, default=30522)
    add("--rounds", type=int, default=24, help="turns of all kinds; the first is extra")
    add("--repeats", type=int, default=1, help="steps in a turn")
    add("--threads", type=int, default=os.cpu_count())
    add("--xla", action="store_true", help="compile the step")
    add("--trace", action="store_true", help="only count operations and trace")
    add("--files", action="store_true", help="time `.tflite` files, one thread")
    add("--json", help="file for all times, in seconds")
    add("--quick", action="store_true", help="tiny sizes and two rounds")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.size, arguments.vocabulary_size = "2x64", 101
        arguments.batch, arguments.sequence_length, arguments.rounds = 2, 16, 2
    # Read by TensorFlow when it is imported, which happens below.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    os.environ["TF_NUM_INTRAOP_THREADS"] = str(arguments.threads)
    return arguments


def model_and_batch(kind, arguments):
    """Returns a compiled model, the inputs and the labels of one batch."""
    import keras
    import numpy as np
    import tensorflow as tf

    from keras_tformer import compress, models, training

    num_layers, hidden_dim = (int(number) for number in arguments.size.split("x"))
    encoder = models.bert_encoder(
        vocabulary_size=arguments.vocabulary_size,
        num_layers=num_layers,
        num_heads=max(1, hidden_dim // 64),
        hidden_dim=hidden_dim,
        intermediate_dim=4 * hidden_dim,
        max_sequence_length=max(512, arguments.sequence_length),
        sequence_length=arguments.sequence_length,
    )
    model = models.sequence_classifier(encoder, num_classes=2)
    if kind == "pruning":
        compress.prune_low_magnitude(model, lambda step: (step % 100 == 0, 0.8))
    elif kind == "choosing masks":
        compress.prune_low_magnitude(model, lambda step: (step > 0, 0.8))
    elif kind == "clustering":
        compress.cluster_weights(model, 16, "linear")
    elif kind == "int8":
        model = compress.quantize_model(model)
    elif kind == "structured":
        model = half_of(model)
    draw = np.random.default_rng(0)
    shape = (arguments.batch, arguments.sequence_length)
    inputs = {
        "token_ids": draw.integers(0, arguments.vocabulary_size, shape, "int32"),
        "segment_ids": np.zeros(shape, "int32"),
        "padding_mask": np.ones(shape, "int32"),
    }
    inputs = {name: tf.constant(value) for name, value in inputs.items()}
    labels = draw.integers(0, 2, arguments.batch, "int32")
    model.compile(
        training.adamw(1e-4, weight_decay=0.004, global_clipnorm=None),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=arguments.xla,
    )
    return model, inputs, labels


def half_of(model):
    """A model of half the heads and half the units of each block; any will do."""
    from keras_tformer import compress

    blocks = [layer for layer in model.layers if hasattr(layer, "intermediate_dim")]
    heads, units = blocks[0].num_heads, blocks[0].intermediate_dim
    importance = {f"{block.name}.self_attention": range(heads) for block in blocks}
    importance |= {f"{block.name}.feed_forward": range(units) for block in blocks}
    return compress.prune_structure(
        model, importance, max(1, heads // 2), max(1, units // 2)
    )


def trace(kind, arguments):
    """Traces a training step without running it; returns and prints its size."""
    import tensorflow as tf

    start = time.perf_counter()
    model, inputs, labels = model_and_batch(kind, arguments)
    model.optimizer.build(model.trainable_variables)
    built = time.perf_counter()
    step = tf.function(model.train_step, autograph=False)
    graph = step.get_concrete_function((inputs, tf.constant(labels))).graph
    operations = len(graph.get_operations())
    for function in graph.as_graph_def().library.function:
        operations += len(function.node_def)
    seconds = built - start, time.perf_counter() - built
    print(
        f"  {kind:16}{operations:9,} operations  built in {seconds[0]:.1f} s  "
        f"traced in {seconds[1]:.1f} s",
        flush=True,
    )
    return {"operations": operations, "seconds": seconds}


def measure_files(arguments):
    """Calls the files of the dense and the structured model in turn."""
    from ai_edge_litert.interpreter import Interpreter

    from keras_tformer import export

    times = {}
    with tempfile.TemporaryDirectory() as folder:
        runners = {}
        for kind in ("dense", "structured"):
            model, inputs, _ = model_and_batch(kind, arguments)
            for mode in (None, "int8"):
                file = f"{folder}/{kind}_{mode}.tflite"
                export.to_tflite(
                    model,
                    file,
                    sequence_length=arguments.sequence_length,
                    quantization=mode,
                    representative_data=[inputs] if mode else None,
                    verify=False,  # random weights
                )
                runner = Interpreter(file, num_threads=1).get_signature_runner()
                runners[f"{kind} {mode or 'float32'}"] = runner
        row = {name: value[:1].numpy() for name, value in inputs.items()}
        for name in runners:
            times[name] = []
        for round_number in range(-5, 10 * arguments.rounds):
            for name, runner in runners.items():
                start = time.perf_counter()
                runner(**row)
                if round_number >= 0:
                    times[name].append(time.perf_counter() - start)
    for mode in ("float32", "int8"):
        dense, structured = times[f"dense {mode}"], times[f"structured {mode}"]
        ratios = [one / other for one, other in zip(structured, dense, strict=True)]
        print(
            f"  {mode:8} dense {min(dense) * 1e3:7.2f} ms at best, structured "
            f"{min(structured) * 1e3:7.2f} ms; {statistics.median(ratios):.2f} x dense"
        )
    return times


def write(results, name):
    if name:
        with open(f"{name}.new", "w") as file:
            json.dump(results, file, indent=1)
        os.replace(f"{name}.new", name)


def print_table(arguments, times, starts):
    shape = f"batch {arguments.batch}x{arguments.sequence_length}"
    compiled = "XLA" if arguments.xla else "graph"
    print(f"training, BERT {arguments.size}, {shape}, {compiled}")
    dense = times[next(iter(times))]
    for kind, measured in times.items():
        median = statistics.median(measured)
        extremes = f"({min(measured) * 1e3:.1f} to {max(measured) * 1e3:.1f})"
        ratios = [one / other for one, other in zip(measured, dense, strict=True)]
        ratio = f"{statistics.median(ratios):5.2f} x {next(iter(times))}"
        start = f"built and traced in {starts[kind]:.1f} s"
        print(f"  {kind:16}{median * 1e3:9.1f} ms  {extremes:22}{ratio}  {start}")


if __name__ == "__main__":
    main()
