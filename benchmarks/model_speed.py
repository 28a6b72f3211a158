"""How fast the models are beside KerasHub's (TensorFlow) and Hugging Face's (torch).

    python benchmarks/model_speed.py                         BERT-base and 4x256
    python benchmarks/model_speed.py --quick                 a check that takes minutes

Forward passes and training steps are measured in turn within one run (A B C A B C), so
that whatever else the machine does meets all of them. Each is taken on the clock and as
CPU time of all threads, which other work on the machine disturbs less; ratios are those
of the least of all repeats: above 1 is slower than ours. CPU time does not show how
well threads share the work: on a free machine, read the clock.

Then the time from nothing to the first finished training step less that of a later
step, which leaves building, tracing and compiling, each in a fresh process, for BERT
and for ALBERT, whose one block is called 12 and 24 times, with a batch of 2 x 16
tokens: the graph is that of any batch, and computing it hardly counts. Torch traces
nothing; what it needs is the time to make its weights.

Each peer trains as its own users do: ours with `kt.training.adamw` (here without
clipping, which the others do not do either), KerasHub with Keras' AdamW, torch with
torch's. The time to the first step is taken once more with Keras' AdamW on both sides.

All computations are float32 on a CPU with random weights. Keras' `jit_compile="auto"`
means off there, so both settings are measured, named `xla` and `graph`. OpenMP threads
that wait must not spin while another library computes: `OMP_WAIT_POLICY=PASSIVE` is set
for all, which costs torch some percent on a free machine (`--spin` leaves it out).

With `KERAS_BACKEND=jax` (`--measure forward training`) the Keras peers run on JAX, and
on a GPU where there is one, as torch then does: read the clock there.
`--dtype mixed_bfloat16` is Keras' policy and torch's autocast.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time

VOCABULARY_SIZE = 30522


def main():
    arguments = parse_arguments()
    if arguments.first_step:
        print(json.dumps(first_step(arguments, *arguments.first_step)))
        return
    results = {"arguments": vars(arguments)}
    for size in arguments.sizes:
        for what in arguments.measure:
            if what != "start":
                results[f"{what} {size}"] = compare(arguments, size, what)
    if "start" in arguments.measure:
        for model in ("bert", "albert"):
            for num_layers in arguments.start_layers:
                if model == "albert" or num_layers == arguments.start_layers[0]:
                    key = f"start {model} {num_layers} layers"
                    results[key] = compare_starts(arguments, model, num_layers)
    if arguments.json:
        temporary = f"{arguments.json}.new"
        with open(temporary, "w") as file:
            json.dump(results, file, indent=1)
        os.replace(temporary, arguments.json)


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--sizes", nargs="+", default=["12x768", "4x256"], help="layers x hidden_dim")
    add("--measure", nargs="+", default=["forward", "training", "start"])
    add("--peers", nargs="+", default=["ours", "keras_hub", "hugging_face"])
    add("--settings", nargs="+", default=["graph", "xla"], help="on TensorFlow")
    add("--dtype", default="float32", choices=["float32", "mixed_bfloat16"])
    add("--batch", type=int, default=8, help="sequences in a batch")
    add("--sequence-length", type=int, default=128)
    add("--rounds", type=int, default=5, help="turns of all peers; the first is extra")
    add("--repeats", type=int, default=3, help="calls in a turn")
    add("--threads", type=int, default=os.cpu_count())
    add("--start-layers", nargs="+", type=int, default=[12, 24])
    add("--start-hidden-dim", type=int, default=768)
    add("--start-rounds", type=int, default=3, help="fresh processes of each")
    add("--start-optimizers", nargs="+", default=["own", "keras"])
    add("--vocabulary-size", type=int, default=VOCABULARY_SIZE)
    add("--spin", action="store_true", help="let waiting threads of OpenMP spin")
    add("--json", help="file for all times, in seconds")
    add("--quick", action="store_true", help="tiny sizes and one round")
    add("--first-step", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.sizes, arguments.start_layers = ["2x64"], [2]
        arguments.start_hidden_dim, arguments.vocabulary_size = 64, 101
        arguments.batch, arguments.sequence_length, arguments.rounds = 2, 16, 1
        arguments.start_rounds = 1
    # Read by the libraries when they are imported, which happens below.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    os.environ["TF_NUM_INTRAOP_THREADS"] = str(arguments.threads)
    if not arguments.spin:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return arguments


# === One step of each peer: functions without arguments that return when it is done ===


def random_batch(arguments, *shape):
    import numpy as np

    draw = np.random.default_rng(0)
    shape = shape or (arguments.batch, arguments.sequence_length)
    inputs = {
        "token_ids": draw.integers(0, arguments.vocabulary_size, shape, "int32"),
        "segment_ids": np.zeros(shape, "int32"),
        "padding_mask": np.ones(shape, "int32"),
    }
    return inputs, draw.integers(0, 2, shape[0], "int32")


def parse_size(size, arguments):
    num_layers, hidden_dim = (int(number) for number in size.split("x"))
    return {
        "vocabulary_size": arguments.vocabulary_size,
        "num_layers": num_layers,
        "num_heads": max(1, hidden_dim // 64),
        "hidden_dim": hidden_dim,
        "intermediate_dim": 4 * hidden_dim,
        "max_sequence_length": max(512, arguments.sequence_length),
    }


def keras_classifier(peer, model, sizes):
    """Builds a classifier of two classes on our encoder or KerasHub's backbone."""
    import keras

    if model == "albert":
        sizes = {**sizes, "embedding_dim": 128}
    if peer == "ours":
        from keras_tformer import models

        build = {"bert": models.bert_encoder, "albert": models.albert_encoder}[model]
        # KerasHub's backbones compute GELU in its tanh form.
        encoder = build(
            **sizes, activation="gelu_tanh", dropout=0.1, attention_dropout=0.1
        )
        return models.sequence_classifier(encoder, num_classes=2)
    import keras_hub

    build = {
        "bert": keras_hub.models.BertBackbone,
        "albert": keras_hub.models.AlbertBackbone,
    }[model]
    backbone = build(**sizes, dropout=0.1)
    x = keras.layers.Dropout(0.1)(backbone.output["pooled_output"])
    return keras.Model(backbone.input, keras.layers.Dense(2)(x))


def compile_keras(peer, model, jit_compile, own_optimizer=True):
    import keras

    if peer == "ours" and own_optimizer:
        from keras_tformer import training

        optimizer = training.adamw(1e-4, weight_decay=0.004, global_clipnorm=None)
    else:
        optimizer = keras.optimizers.AdamW(1e-4, weight_decay=0.004)
    model.compile(
        optimizer=optimizer,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=jit_compile,
    )


def keras_steps(peer, size, what, arguments):
    """Returns `{name: step}` of a Keras peer; on TensorFlow, without and with XLA."""
    import keras

    keras.config.set_dtype_policy(arguments.dtype)
    if keras.backend.backend() == "jax":
        return jax_steps(peer, size, what, arguments)
    import tensorflow as tf

    inputs, labels = random_batch(arguments)
    inputs = {key: tf.constant(value) for key, value in inputs.items()}
    steps = {}
    for setting in arguments.settings:
        jit_compile = setting == "xla"
        model = keras_classifier(peer, "bert", parse_size(size, arguments))
        if what == "training":
            compile_keras(peer, model, jit_compile)
            step = lambda model=model: model.train_on_batch(inputs, labels)  # noqa: E731
        else:
            function = tf.function(
                lambda batch, model=model: model(batch, training=False),
                jit_compile=jit_compile,
            )
            step = lambda function=function: function(inputs).numpy()  # noqa: E731
        steps[f"{peer} {setting}"] = step
    return steps


def jax_steps(peer, size, what, arguments):
    import jax

    inputs, labels = random_batch(arguments)
    model = keras_classifier(peer, "bert", parse_size(size, arguments))
    if what == "training":
        compile_keras(peer, model, "auto")
        return {f"{peer} jax": lambda: model.train_on_batch(inputs, labels)}
    inputs = jax.device_put(inputs)
    weights = [
        [variable.value for variable in variables]
        for variables in (model.trainable_variables, model.non_trainable_variables)
    ]
    function = jax.jit(
        lambda weights, batch: model.stateless_call(*weights, batch, training=False)[0]
    )
    return {f"{peer} jax": lambda: function(weights, inputs).block_until_ready()}


def torch_classifier(model, sizes):
    """Builds Hugging Face's classifier of two classes, eager, attention by SDPA."""
    import transformers

    arguments = {
        "vocab_size": sizes["vocabulary_size"],
        "num_hidden_layers": sizes["num_layers"],
        "num_attention_heads": sizes["num_heads"],
        "hidden_size": sizes["hidden_dim"],
        "intermediate_size": sizes["intermediate_dim"],
        "max_position_embeddings": sizes["max_sequence_length"],
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "num_labels": 2,
    }
    if model == "bert":
        config = transformers.BertConfig(**arguments)
        return transformers.BertForSequenceClassification(config)
    config = transformers.AlbertConfig(
        **arguments, embedding_size=128, classifier_dropout_prob=0.1
    )
    return transformers.AlbertForSequenceClassification(config)


def torch_step(what, classifier, inputs, labels, dtype="float32"):
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    classifier.to(device)
    batch = {
        "input_ids": torch.tensor(inputs["token_ids"]).long().to(device),
        "token_type_ids": torch.tensor(inputs["segment_ids"]).long().to(device),
        "attention_mask": torch.tensor(inputs["padding_mask"]).to(device),
    }
    is_mixed = dtype == "mixed_bfloat16"
    autocast = torch.autocast(device, torch.bfloat16, enabled=is_mixed)
    if what == "forward":
        classifier.eval()

        def step():
            with torch.inference_mode(), autocast:
                classifier(**batch).logits.cpu()  # waits for a GPU
    else:
        classifier.train()
        labels = torch.tensor(labels).long().to(device)
        optimizer = torch.optim.AdamW(classifier.parameters(), 1e-4)

        def step():
            optimizer.zero_grad()
            with autocast:
                loss = classifier(**batch, labels=labels).loss
            loss.backward()
            optimizer.step()
            loss.item()  # waits for a GPU

    return step


def torch_steps(size, what, arguments):
    """Returns `{name: step}` of Hugging Face's BERT."""
    import torch

    torch.set_num_threads(arguments.threads)
    classifier = torch_classifier("bert", parse_size(size, arguments))
    step = torch_step(what, classifier, *random_batch(arguments), arguments.dtype)
    return {"hugging_face eager": step}


def compare(arguments, size, what):
    steps = {}
    for peer in arguments.peers:
        if peer == "hugging_face":
            steps |= torch_steps(size, what, arguments)
        else:
            steps |= keras_steps(peer, size, what, arguments)
    times = {name: {"clock": [], "cpu": []} for name in steps}
    for round_number in range(-1, arguments.rounds):
        for name, step in steps.items():
            for _ in range(1 if round_number < 0 else arguments.repeats):
                clock, cpu = time.perf_counter(), time.process_time()
                step()
                if round_number >= 0:  # The first turn traces and compiles.
                    times[name]["clock"].append(time.perf_counter() - clock)
                    times[name]["cpu"].append(time.process_time() - cpu)
    shape = f"batch {arguments.batch}x{arguments.sequence_length}"
    print_table(f"{what}, BERT {size}, {shape}", times)
    return times


# === From nothing to the first training step, each time in a fresh process ===


def compare_starts(arguments, model, num_layers):
    times = {
        f"{peer} {setting} {optimizer}": []
        for setting in arguments.settings
        for optimizer in arguments.start_optimizers
        for peer in arguments.peers
        if peer != "hugging_face"
    }
    if "hugging_face" in arguments.peers:
        times["hugging_face eager own"] = []
    for _ in range(arguments.start_rounds):
        for name, measured in times.items():
            command = [sys.executable, *sys.argv, "--first-step", *name.split()]
            output = subprocess.run(
                [*command, model, str(num_layers)],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
            measured.append(json.loads(output.splitlines()[-1]))
    width = arguments.start_hidden_dim
    print(f"\nbuilding, tracing and compiling, {model} {num_layers}x{width}")
    for name, measured in times.items():
        setting, optimizer = name.split()[1:]
        setting = "graph" if setting == "eager" else setting
        ours = times.get(f"ours {setting} {optimizer}", [])
        line = f"  {name:22}"
        for what in ("clock", "cpu"):
            values = [found[what] for found in measured]
            median = statistics.median(values)
            line += f"{median:7.1f} s {what}"
            line += f" ({min(values):.1f} to {max(values):.1f}"
            if ours:
                of_ours = statistics.median(found[what] for found in ours)
                line += f"; {median / of_ours:.2f} x ours"
            line += ")"
        print(line, flush=True)
    return times


def first_step(arguments, peer, setting, optimizer, model, num_layers):
    """Returns the seconds of building, tracing and compiling a training step."""
    inputs, labels = random_batch(arguments, 2, 16)
    sizes = parse_size(f"{num_layers}x{arguments.start_hidden_dim}", arguments)
    if peer == "hugging_face":
        import torch
        import transformers  # noqa: F401

        torch.set_num_threads(arguments.threads)

        def make_step():
            classifier = torch_classifier(model, sizes)
            return torch_step("training", classifier, inputs, labels)
    else:
        import tensorflow as tf

        if peer == "keras_hub":
            import keras_hub  # noqa: F401
        else:
            import keras_tformer.models
            import keras_tformer.training  # noqa: F401
        inputs = {key: tf.constant(value) for key, value in inputs.items()}

        def make_step():
            classifier = keras_classifier(peer, model, sizes)
            compile_keras(peer, classifier, setting == "xla", optimizer == "own")
            return lambda: classifier.train_on_batch(inputs, labels)

    laps = [(time.perf_counter(), time.process_time())]
    step = make_step()
    for _ in range(3):
        step()
        laps.append((time.perf_counter(), time.process_time()))
    first, _, last = (
        [end - start for start, end in zip(*neighbours, strict=True)]
        for neighbours in itertools.pairwise(laps)
    )
    return {"clock": first[0] - last[0], "cpu": first[1] - last[1]}


def print_table(title, times):
    """Prints least and median times, and how many times as long as ours a peer is."""
    print(f"\n{title}: least and median ms, least relative to ours")
    for name, measured in times.items():
        line = f"  {name:20}"
        for what in ("cpu", "clock"):
            least = min(measured[what])
            median = statistics.median(measured[what])
            line += f" {what}{1e3 * least:9.1f}{1e3 * median:9.1f}"
            for key in times:
                if key.startswith("ours"):
                    ratio = least / min(times[key][what])
                    line += f"  {ratio:5.2f} x {key.split()[1]}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
