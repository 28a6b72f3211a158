"""How small may it get? One model, compressed in every way, and what each way costs.

    python examples/compress.py                            # embedded corpus, no network
    python examples/compress.py --task sst2 --data folder  # train.tsv.gz and dev*.tsv
    python examples/compress.py --task wnut17 --data folder    # *.conll.gz, entity F1

A small BERT is trained from scratch (dense), then pruned to 50, 70, 80 and 90 % zeros,
trained for int8 (QAT), trained for int8 with its zeros kept (PQAT), clustered, and cut
to half of its heads and feed-forward units. Each rung becomes `.tflite` files, float
models also a post-training int8 one, and every number is measured on the files, on
LiteRT. Pruning trains on for a while; what that alone does is the rung "dense, longer".
The dense model quantized by Keras itself (int8, int4, GPTQ, AWQ) stands beside them:
that stays in Keras, LiteRT cannot read it.

Every finished rung stays in the output folder. Stopped and started again with the same
options, the script goes on where it was.
"""

import argparse
import gzip
import json
import os
import pathlib
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import run_options
from compress_report import write_report

import keras_tformer as kt

SIZES = {"small": (4, 4, 128), "tiny": (2, 2, 16)}  # layers, heads, width
BATCH_SIZE = 32
EPOCHS = 3  # a rung's steps are cut into as many; after each, dev is scored
NUM_CLUSTERS = 16
KERAS_MODES = ("int8", "int4", "gptq", "awq")
# Rung: the rung it starts from, its share of --steps, the peak of its learning rate.
RUNGS = {
    "dense": (None, 1.0, 1e-3),
    "dense, longer": ("dense", 0.3, 5e-4),
    "50 % sparse": ("dense", 0.3, 5e-4),
    "70 % sparse": ("dense", 0.3, 5e-4),
    "80 % sparse": ("dense", 0.3, 5e-4),
    "90 % sparse": ("dense", 0.3, 5e-4),
    "QAT": ("dense", 0.2, 2e-4),
    "80 % sparse, QAT": ("80 % sparse", 0.2, 2e-4),
    "80 % sparse, PQAT": ("80 % sparse", 0.2, 2e-4),
    "clustered": ("dense", 0.2, 2e-4),
    "structured": ("dense", 0.3, 5e-4),
    "structured, QAT": ("structured", 0.2, 2e-4),
}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--task", choices=("corpus", "sst2", "wnut17"), default="corpus")
    add("--data", type=pathlib.Path, help="folder of the task's files")
    add("--output", type=pathlib.Path, default=pathlib.Path("compress_output"))
    add("--size", choices=sorted(SIZES), default="small")
    add("--steps", type=int, default=1500, help="of the dense rung; others take shares")
    add("--sequence-length", type=int, default=48)
    add("--vocabulary-size", type=int, default=6000)
    rungs = f"and what they start from; all of {', '.join(map(repr, RUNGS))}"
    add(
        "--rungs",
        nargs="+",
        choices=RUNGS,
        metavar="RUNG",
        help=rungs.replace("%", "%%"),
    )
    add("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.task != "corpus" and options.data is None:
        parser.error(f"--task {options.task} needs --data, the folder of its files")
    options.output.mkdir(parents=True, exist_ok=True)
    run_options.refuse_others(options, {"output", "rungs"})

    task = read(options)
    run_options.write(options)
    rows, models = [], {}
    rungs = with_parents(options.rungs or RUNGS)
    for rung in rungs:
        models[rung] = trained(options, rung, models.get(RUNGS[rung][0]), task)
        rows += exported(options, rung, models[rung], task)
    if not options.rungs:
        rows += [quantized_by_keras(options, mode, task) for mode in KERAS_MODES]
    for row in rows:  # last and together, so that all meet the same machine
        if row["kind"].startswith("Keras"):
            continue
        latency = kt.export.benchmark(row["file"], num_threads=1, repetitions=200)
        row["milliseconds"] = latency["latency"][1]["best_ms"]
    is_tagging = task["head"] == "token_classifier"
    measure = "entity F1" if is_tagging else "accuracy"
    title = f"{options.task}: {measure} on {len(task['labels'])} dev examples"
    write_report(options.output, rows, title, rungs)


def with_parents(rungs):
    """The rungs and all that they start from, in the order of the ladder."""
    needed = set(rungs)
    for rung in reversed(RUNGS):  # a parent stands before its children
        if rung in needed:
            needed.add(RUNGS[rung][0])
    return [rung for rung in RUNGS if rung in needed]


def read(options):
    """The task's tokenizer, datasets, class names, and dev as arrays."""
    length, seed = options.sequence_length, options.seed
    head = "token_classifier" if options.task == "wnut17" else "sequence_classifier"
    if options.task == "wnut17":
        train, dev = (
            kt.data.read_conll(options.data / f"{part}.conll.gz")
            for part in ("train", "dev")
        )
        texts = [" ".join(sentence.words) for sentence in train]
    elif options.task == "sst2":
        files = options.data / "train.tsv.gz", *options.data.glob("dev*.tsv")
        train, dev = (
            kt.data.read_examples(file, text_column="sentence") for file in files
        )
        texts = train.texts
    else:  # which package does this paragraph document?
        documents = kt.data.deduplicate(kt.data.embedded_corpus())
        train, _, dev = kt.data.split_documents(documents, seed=seed)
        train, dev = kt.data.texts_and_labels(train), kt.data.texts_and_labels(dev)
        texts = train[0]
    file = options.output / "vocab.txt"
    if not file.exists():
        kt.text.WordPieceTokenizer.train(texts, options.vocabulary_size).save(file)
    tokenizer = kt.text.WordPieceTokenizer.load(file)

    shuffled = {"shuffle": True, "seed": seed, "drop_remainder": True}
    if options.task == "wnut17":
        names = sorted({tag for sentence in train for tag in sentence.tags})
        arguments = tokenizer, length, BATCH_SIZE, names
        train = kt.data.tagging_task(train, *arguments, **shuffled).dataset
        dev = kt.data.tagging_task(dev, *arguments).dataset
    else:
        if options.task == "sst2":
            train, dev = (train.texts, train.labels), (dev.texts, dev.labels)
        names = sorted(set(train[1]))
        arguments = tokenizer, length, BATCH_SIZE, names
        train = kt.data.classification_dataset(*train, *arguments, **shuffled)
        dev = kt.data.classification_dataset(*dev, *arguments)
    return {
        "head": head,
        "tokenizer": tokenizer,
        "names": names,
        "train": train,
        "dev": dev,
        "labels": np.concatenate([batch[1] for batch in dev]),
    }


def trained(options, rung, parent, task):
    """Makes a rung's model from its parent's and trains it, or loads what was made."""
    file = options.output / f"{slug(rung)}.keras"
    if file.exists():
        return keras.models.load_model(file, compile=False)
    keras.utils.set_random_seed(options.seed)
    _, share, rate = RUNGS[rung]
    steps = max(1, int(options.steps * share) // EPOCHS)
    model = built(options, rung, parent, task, steps * EPOCHS)
    schedule = kt.training.LinearWarmup(rate, steps * EPOCHS // 10 + 1, steps * EPOCHS)
    model.compile(
        kt.training.adamw(schedule), **kt.training.compile_arguments(task["head"])
    )
    resume = kt.training.ResumeFromCheckpoint(options.output / f"{slug(rung)}_state")
    model.fit(
        task["train"].repeat(),
        epochs=EPOCHS,
        steps_per_epoch=steps,
        validation_data=task["dev"],
        shuffle=False,  # the datasets shuffle themselves
        verbose=0,
        callbacks=[kt.training.RichProgress(rung), resume],
    )
    if rung.endswith(" % sparse"):
        model = kt.compress.strip_pruning(model)
    elif rung == "clustered":
        model = kt.compress.strip_clustering(model)
    model.compile()  # lets go of the optimizer, whose state would triple the file
    model.save(file.with_name(f"unfinished-{file.name}"))
    os.replace(file.with_name(f"unfinished-{file.name}"), file)
    return model


def built(options, rung, parent, task, steps):
    """The model of a rung before it is trained."""
    num_layers, num_heads, hidden_dim = SIZES[options.size]
    if parent is None:
        encoder = kt.models.bert_encoder(
            vocabulary_size=task["tokenizer"].vocabulary_size,
            num_layers=num_layers,
            num_heads=num_heads,
            hidden_dim=hidden_dim,
            intermediate_dim=4 * hidden_dim,
            initializer_range=0.05,  # 0.02 is meant for widths of 768 and more
            sequence_length=options.sequence_length,
            max_sequence_length=options.sequence_length,
        )
        head = getattr(kt.models, task["head"])
        return head(encoder, num_classes=len(task["names"]))
    if rung.endswith("QAT"):
        keeps_zeros = rung.endswith("PQAT")
        model = kt.compress.quantize_model(parent, preserve_sparsity=keeps_zeros)
        return kt.compress.calibrate(model, task["train"].take(20))
    # A copy from the file: the parent is measured, and others start from it as well.
    file = options.output / f"{slug(RUNGS[rung][0])}.keras"
    model = keras.models.load_model(file, compile=False)
    if rung == "clustered":
        return kt.compress.cluster_weights(model, NUM_CLUSTERS)
    if rung == "structured":
        model.compile(**kt.training.compile_arguments(task["head"]))
        importance = kt.compress.structure_importance(model, task["train"].take(50))
        return kt.compress.prune_structure(
            model, importance, num_heads // 2, 2 * hidden_dim
        )
    if rung.endswith("sparse"):
        frequency = max(1, steps // 60)
        schedule = kt.compress.PolynomialDecay(
            initial_sparsity=0.0,
            final_sparsity=int(rung[:2]) / 100,
            begin_step=0,
            end_step=frequency * max(1, steps // 2 // frequency),  # then trained on
            frequency=frequency,
        )
        return kt.compress.prune_low_magnitude(model, schedule, total_steps=steps)
    return model


def exported(options, rung, model, task):
    """Writes a rung's `.tflite` files and measures them on LiteRT."""
    rows = []
    for kind in ["QAT"] if rung.endswith("QAT") else ["float32", "post-training"]:
        file = options.output / f"{slug(rung)}_{slug(kind)}.tflite"
        result = file.with_suffix(".json")
        if not result.exists():
            written = kt.export.to_tflite(
                model,
                file,
                sequence_length=options.sequence_length,
                quantization=None if kind == "float32" else "int8",
                # A model that learned its ranges is left with them.
                representative_data=None if kind == "QAT" else task["train"].take(7),
                verify=False,  # compared below, on the whole dev set
            )
            (logits,) = kt.export.predict(file, task["dev"]).values()
            keras_logits = model.predict(task["dev"], verbose=0)
            counted = task["labels"] >= 0  # of words, the first piece
            row = {
                "rung": rung,
                "kind": kind if kind == "float32" else f"int8, {kind}",
                "file": str(file),
                "score": score(task, logits),
                "keras_score": score(task, keras_logits),
                "equal": float(
                    np.mean((logits.argmax(-1) == keras_logits.argmax(-1))[counted])
                ),
                **{k: written[k] for k in ("size_bytes", "gzip_bytes", "zeros")},
                "int8_macs_share": written["int8_macs_share"],
                "macs": written["macs"],
                "operators": written["operators"],
                "predictions": logits.argmax(-1)[counted].tolist(),
            }
            if kind == "post-training":  # its zeros are at each tensor's zero point
                del row["zeros"]
            kept(result, row)
        rows.append(json.loads(result.read_text()))
    return rows


def quantized_by_keras(options, mode, task):
    """The dense model after one of Keras' own ways of post-training quantization."""
    result = options.output / f"keras_{mode}.json"
    if result.exists():
        return json.loads(result.read_text())
    model = keras.models.load_model(options.output / "dense.keras", compile=False)
    warnings.filterwarnings("ignore", "Layer .* does not have a `quantize` method")
    if mode in ("int8", "int4"):
        model.quantize(mode)
    else:
        embeddings = model.get_layer("embeddings")
        # These two go through the blocks one by one, on windows of token ids.
        structure = {
            "pre_block_layers": [
                model.get_layer("token_embedding"),
                lambda x: embeddings(x, keras.ops.zeros(x.shape[:2], "int32")),
            ],
            "sequential_blocks": [
                layer for layer in model.layers if layer.name.startswith("encoder_")
            ],
        }
        kind = {"gptq": keras.quantizers.GPTQConfig, "awq": keras.quantizers.AWQConfig}
        config = kind[mode](
            [inputs["token_ids"].numpy() for inputs, *_ in task["train"].take(4)],
            task["tokenizer"],
            num_samples=16,
            sequence_length=options.sequence_length,
            group_size=32 if options.size == "small" else 8,
            quantization_layer_structure=structure,
        )
        model.quantize(mode, config=config)
    logits = model.predict(task["dev"], verbose=0)
    file = options.output / f"keras_{mode}.weights.h5"
    model.save_weights(file)
    row = {
        "rung": "dense",
        "kind": f"Keras {mode}",
        "file": str(file),
        "score": score(task, logits),
        "size_bytes": file.stat().st_size,
        "gzip_bytes": len(gzip.compress(file.read_bytes())),
    }
    return kept(result, row)


def kept(file, row):
    """Writes what was measured, all or nothing."""
    file.with_suffix(".new").write_text(json.dumps(row))
    os.replace(file.with_suffix(".new"), file)
    return row


def score(task, logits):
    """Accuracy, or F1 of named entities, in percent."""
    labels = task["labels"]
    if task["head"] == "sequence_classifier":
        return float(100 * np.mean(logits.argmax(-1) == labels))
    tags = [
        kt.training.decode_tags(labels, given, task["names"])
        for given in (np.eye(len(task["names"]))[np.maximum(labels, 0)], logits)
    ]
    return 100 * kt.training.entity_scores(*tags)["entity_f1"]


def slug(name):
    return "".join(c if c.isalnum() else "_" for c in name.replace(" %", ""))


if __name__ == "__main__":
    main()
