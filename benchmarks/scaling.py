"""What several replicas cost, measured on one CPU, and what that says of real devices.

    python benchmarks/scaling.py                     both of the following
    python benchmarks/scaling.py --measure overhead  1, 2 and 4 replicas on logical CPUs
    python benchmarks/scaling.py --measure model     bytes and step times, computed

The overhead: the same global batch on 1, 2 and 4 logical devices of one CPU, which has
the same arithmetic to do each time, so that all that a step takes longer is the price
of replicating. Each number of replicas has a process of its own (a process bears one
`MirroredStrategy`); they take turns, and within a turn each does, one after the other,

    local     forward and backward, gradients left where they are
    reduced   the same, and gradients summed over the replicas
    whole     the same, and AdamW: a training step
    uneven    a training step, the first replica with about twice the others' rows

`reduced` less `local` is communication (here through memory), `uneven` beside `whole`
is what waiting for the slowest replica costs. Ratios are medians over the turns, of
elapsed time and of the processor's time: the latter counts work, whatever else the
machine does, and no waiting.

The model: bytes that are all-reduced each step, counted from the trainable weights of
every published size, and from them and the assumptions in `MACHINES` a time for a step.
Nothing of it is measured; it says which sizes wait for the network and which do not.
"""

import argparse
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

KINDS = ("local", "reduced", "whole", "uneven")
VOCABULARY = {"BERT": 30522, "ALBERT": 30000, "Transformer": 37000, "causal": 50257}
# Peak in bfloat16 (FLOP/s), the share of it that training reaches, and what a device
# sends while all of them add up their gradients (bytes/s). Peaks and links as the
# makers print them: A100 312 TFLOP/s, NVLink 300 GB/s each way, of which NCCL's rings
# reach about three quarters; TPU v5e 197 TFLOP/s, 200 GB/s over all links of a chip,
# of which one ring uses a half. Shares are assumptions, not measurements.
MACHINES = {
    "8 x A100": {"devices": 8, "peak": 312e12, "share": 0.4, "bandwidth": 225e9},
    "TPU v5e, 64": {"devices": 64, "peak": 197e12, "share": 0.4, "bandwidth": 100e9},
}
HOP = 5e-6  # seconds from a device to the next, whatever is sent


def main():
    arguments = parse_arguments()
    if arguments.worker:
        work(arguments)
        return
    if "overhead" in arguments.measure:
        overhead(arguments)
    if "model" in arguments.measure:
        step_times(arguments)


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--measure", nargs="+", default=["overhead", "model"])
    add("--replicas", nargs="+", type=int, default=[1, 2, 4])
    add("--size", default="4x256", help="layers x hidden_dim of the measured BERT")
    add("--vocabulary-size", type=int, default=8000)
    add("--batch", type=int, default=32, help="sequences in the measured global batch")
    add("--sequence-length", type=int, default=64)
    add("--turns", type=int, default=7, help="one more is made and not counted")
    add("--repeats", type=int, default=3, help="steps of a kind in a turn")
    add("--device-batch", type=int, default=32, help="sequences a device, in the model")
    add("--device-length", type=int, default=512, help="tokens of them, in the model")
    add("--worker", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


# === Overhead, measured ===


def overhead(arguments):
    workers = {
        replicas: subprocess.Popen(
            [sys.executable, *sys.argv, "--worker", str(replicas)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for replicas in arguments.replicas
    }
    try:
        for worker in workers.values():
            answer(worker)  # built, traced, warm
        turns = [
            {replicas: turn(worker) for replicas, worker in workers.items()}
            for _ in range(arguments.turns + 1)
        ][1:]
    finally:
        for worker in workers.values():
            worker.kill()
    first = arguments.replicas[0]
    print(
        f"\nBERT {arguments.size}, {arguments.batch} x {arguments.sequence_length} "
        f"tokens in all, {os.cpu_count()} cores; medians of {len(turns)} turns, in "
        f"units of the training step of {first} replica"
    )
    print("| time | replicas | training step | communication | updates | uneven rows |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    clocks = ("elapsed", "processor")
    for clock, replicas in itertools.product(clocks, arguments.replicas):
        parts = {
            "whole": lambda t: t["whole"],
            "communication": lambda t: t["reduced"] - t["local"],
            "updates": lambda t: t["whole"] - t["reduced"],
            "uneven": lambda t: t["uneven"],
        }
        shares = {
            name: statistics.median(
                part(times[replicas][clock]) / times[first][clock]["whole"]
                for times in turns
            )
            for name, part in parts.items()
        }
        cells = [clock, str(replicas), *(f"{share:.2f}" for share in shares.values())]
        print("| " + " | ".join(cells) + " |")


def answer(worker):
    line = worker.stdout.readline()
    if not line:
        raise RuntimeError("A worker stopped; its message stands above.")
    return json.loads(line)


def turn(worker):
    worker.stdin.write("go\n")
    worker.stdin.flush()
    return answer(worker)


def work(arguments):
    """One process: makes its replicas, then measures a turn for each line it reads."""
    import tensorflow as tf

    import keras_tformer as kt

    replicas = arguments.worker
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * replicas,
    )
    strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)])
    with strategy.scope():
        num_layers, hidden_dim = map(int, arguments.size.split("x"))
        encoder = kt.models.bert_encoder(
            vocabulary_size=arguments.vocabulary_size,
            num_layers=num_layers,
            num_heads=max(1, hidden_dim // 64),
            hidden_dim=hidden_dim,
            intermediate_dim=4 * hidden_dim,
            max_sequence_length=arguments.sequence_length,
            sequence_length=arguments.sequence_length,
        )
        model = kt.models.sequence_classifier(encoder, num_classes=2)
        optimizer = kt.training.adamw(1e-5)
        optimizer.build(model.trainable_variables)
    loss_function = kt.training.MaskedCrossentropy()

    def local(x, y):
        with tf.GradientTape() as tape:
            loss = loss_function(y, model(x, training=True))
        return tape.gradient(loss, [v.value for v in model.trainable_variables])

    def reduced(x, y):
        replica = tf.distribute.get_replica_context()
        return replica.all_reduce(tf.distribute.ReduceOp.SUM, local(x, y))

    def whole(x, y):
        optimizer.apply(local(x, y), model.trainable_variables)
        return []

    def compiled(step):
        @tf.function
        def run(x, y):
            results = strategy.run(step, (x, y))
            # One number of each gradient keeps the backward pass from being cut away.
            return [
                tf.reshape(part, [-1])[0]
                for result in results
                for part in strategy.experimental_local_results(result)
            ]

        return run

    runs = {
        "local": compiled(local),
        "reduced": compiled(reduced),
        "whole": compiled(whole),
    }
    even, uneven = (
        batch(arguments, strategy, first) for first in (1, min(2, replicas))
    )
    runs["uneven"] = runs["whole"]
    for kind in KINDS:
        runs[kind](*(uneven if kind == "uneven" else even))
    print(json.dumps("ready"), flush=True)
    for _ in sys.stdin:
        times = {"elapsed": {}, "processor": {}}
        for kind in KINDS:
            start, busy = time.perf_counter(), time.process_time()
            for _ in range(arguments.repeats):
                result = runs[kind](*(uneven if kind == "uneven" else even))
            if result:
                result[0].numpy()
            optimizer.iterations.numpy()
            times["elapsed"][kind] = time.perf_counter() - start
            times["processor"][kind] = time.process_time() - busy
        print(json.dumps(times), flush=True)


def batch(arguments, strategy, first):
    """The global batch; the first replica has about `first` times the others'."""
    import numpy as np

    replicas = strategy.num_replicas_in_sync
    part = arguments.batch // (replicas - 1 + first)
    sizes = [arguments.batch - part * (replicas - 1), *[part] * (replicas - 1)]
    random = np.random.default_rng(0)

    def inputs(size):
        shape = (size, arguments.sequence_length)
        token_ids = random.integers(0, arguments.vocabulary_size, shape)
        return {
            "token_ids": token_ids.astype("int32"),
            "segment_ids": np.zeros(shape, "int32"),
            "padding_mask": np.ones(shape, "int32"),
        }

    import tensorflow as tf

    def spread(make):
        return strategy.experimental_distribute_values_from_function(
            lambda context: make(sizes[context.replica_id_in_sync_group])
        )

    names = ("token_ids", "segment_ids", "padding_mask")
    x = {name: spread(lambda n, k=name: tf.constant(inputs(n)[k])) for name in names}
    return x, spread(lambda n: tf.zeros([n], tf.int32))


# === Bytes and step times, computed ===


def step_times(arguments):
    tokens = arguments.device_batch * arguments.device_length
    print(
        f"\n{arguments.device_batch} x {arguments.device_length} tokens a device and "
        "step; gradients in float32; milliseconds, computed and not measured; "
        "efficiency where no communication overlaps with arithmetic"
    )
    heads = " | ".join(
        f"{name}: arithmetic | sum of gradients | efficiency" for name in MACHINES
    )
    print(f"| model | weights | bytes a step | {heads} |")
    print("| --- |" + " ---: |" * (2 + 3 * len(MACHINES)))
    for name, (model, flops) in zoo(arguments.device_length).items():
        weights = sum(math.prod(w.shape) for w in model.trainable_weights)
        cells = [name, f"{weights / 1e6:.1f} M", f"{4 * weights / 1e6:.0f} MB"]
        for machine in MACHINES.values():
            arithmetic = tokens * flops / (machine["peak"] * machine["share"])
            ring = all_reduce_time(4 * weights, **machine)
            cells += [f"{arithmetic * 1e3:.0f}", f"{ring * 1e3:.1f}"]
            cells.append(f"{arithmetic / (arithmetic + ring):.0%}")
        print("| " + " | ".join(cells) + " |")


def all_reduce_time(size, devices, bandwidth, **_):
    """A ring: every device sends its part on 2 (n - 1) times, each time size / n."""
    steps = 2 * (devices - 1)
    return steps * size / devices / bandwidth + steps * HOP


def zoo(length):
    """Published sizes: {name: (model without weights, FLOP a token and step)}."""
    import keras_tformer.models as models

    found = {}
    for size in ("tiny", "mini", "small", "medium", "base", "large"):
        build = lambda size=size: models.bert_pretrainer(  # noqa: E731
            models.bert_encoder(
                vocabulary_size=VOCABULARY["BERT"], **models.BERT_SIZES[size]
            )
        )
        found[f"BERT {size}"] = build, models.BERT_SIZES[size], "BERT"
    for size in ("base", "large", "xlarge", "xxlarge"):
        build = lambda size=size: models.albert_pretrainer(  # noqa: E731
            models.albert_encoder(
                vocabulary_size=VOCABULARY["ALBERT"], **models.ALBERT_SIZES[size]
            )
        )
        found[f"ALBERT {size}"] = build, models.ALBERT_SIZES[size], "ALBERT"
    for size, numbers in models.TRANSFORMER_SIZES.items():
        build = lambda numbers=numbers: models.transformer(  # noqa: E731
            vocabulary_size=VOCABULARY["Transformer"], **numbers
        )
        found[f"Transformer {size}"] = build, numbers, "Transformer"
    for size, numbers in models.CAUSAL_LM_SIZES.items():
        build = lambda numbers=numbers: models.causal_lm(  # noqa: E731
            vocabulary_size=VOCABULARY["causal"], **numbers
        )
        found[f"causal LM {size}"] = build, numbers, "causal"
    return {
        name: (without_weights(build), flops_a_token(numbers, family, length))
        for name, (build, numbers, family) in found.items()
    }


def flops_a_token(numbers, family, length):
    """Multiplications and additions of matrix products, forward and twice that back."""
    d, f = numbers["hidden_dim"], numbers["intermediate_dim"]
    width = numbers.get("embedding_dim", d)
    attention = 4 * d * d + 2 * length * d  # four projections, scores and context
    block = attention + 2 * d * f
    if family == "Transformer":  # a source and a target of this length: two blocks
        block = 3 * attention + 4 * d * f
    # 15 % of the tokens are predicted in pretraining, all of them elsewhere.
    predicted = 0.15 if family in ("BERT", "ALBERT") else 1
    head = predicted * width * VOCABULARY[family]
    if family in ("BERT", "ALBERT"):
        head += predicted * d * width
    return 3 * 2 * (numbers["num_layers"] * block + head)


def without_weights(build):
    """A model whose variables have shapes and no values."""
    import keras

    try:
        with keras.StatelessScope(initialize_variables=False):
            return build()
    finally:
        keras.utils.clear_session(free_memory=False)


if __name__ == "__main__":
    main()
