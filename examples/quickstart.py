"""From text to a phone: everything the package promises, on real text, in one run.

Corpus -> WordPiece vocabulary -> ALBERT pretrained with masked words and sentence
order -> classifier -> pruned -> quantization-aware -> SavedModel and `.tflite`, each
artefact run on its own runtime and compared. Takes about ten minutes on two CPU cores
and needs no network: the default corpus is the docstrings of the installed packages,
and the task is to tell which package a paragraph documents. `examples/README.md` shows
what comes out.

    ./run quickstart                                    # does its own set-up
    python examples/quickstart.py --data reviews.csv    # columns `text` and `label`
    python examples/quickstart.py --data my_texts/      # pretrains on a folder of text

Stopped and started again with the same `--output`, it goes on in the stage it was in.
"""

import argparse
import contextlib
import json
import os
import pathlib
import shutil
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from quickstart_report import (
    keras_row,
    majority_row,
    saved_model_row,
    tflite_row,
    write_report,
)

import keras_tformer as kt

# ALBERT in sizes that a CPU trains in minutes.
SIZES = {
    "tiny": {
        "embedding_dim": 48,
        "num_layers": 2,
        "num_heads": 2,
        "hidden_dim": 96,
        "intermediate_dim": 384,
    },
    "small": {
        "embedding_dim": 64,
        "num_layers": 3,
        "num_heads": 4,
        "hidden_dim": 128,
        "intermediate_dim": 512,
    },
    "medium": {
        "embedding_dim": 128,
        "num_layers": 6,
        "num_heads": 4,
        "hidden_dim": 256,
        "intermediate_dim": 1024,
    },
}
VOCABULARY_SIZE = 4000
SEQUENCE_LENGTH = 64
BATCH_SIZE = 32
SPARSITY = 0.7
PARTS = ("train", "dev", "test")
# A stage is cut in epochs: after each the dev set is scored and a checkpoint written.
EPOCHS = {
    "pretraining": 10,
    "without_pretraining": 5,
    "fine_tuned": 5,
    "pruned": 5,
    "pruned_quantized": 4,
}
# Steps of a stage as a share of --steps, and the peak of its learning rate.
SHARES = {
    "pretraining": 1.0,
    "without_pretraining": 0.4,
    "fine_tuned": 0.4,
    "pruned": 0.3,
    "pruned_quantized": 0.2,
}
RATES = {
    "pretraining": 2e-3,
    "without_pretraining": 1e-3,
    "fine_tuned": 1e-3,
    "pruned": 1e-3,
    "pruned_quantized": 3e-4,
}


def main(arguments=None):
    """Runs the stages; a wrong input ends in one sentence instead of a traceback."""
    options = parse(arguments)
    try:
        run(options)
    except KeyboardInterrupt:
        print(f"\nStopped. The same command with --output {options.output} goes on.")
        return 130
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def parse(arguments):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data",
        help="a CSV or TSV file with a text and a label column, or a folder of text "
        "files to pretrain on as well; default: the embedded corpus",
    )
    parser.add_argument("--text-column", default="text")
    parser.add_argument("--label-column", default="label")
    parser.add_argument(
        "--output", type=pathlib.Path, default=pathlib.Path("quickstart_output")
    )
    parser.add_argument("--size", choices=sorted(SIZES), default="small")
    parser.add_argument(
        "--steps",
        type=int,
        default=800,
        help="steps of pretraining; the other stages take shares of it",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--strategy", default="auto", help="a name for get_strategy")
    options = parser.parse_args(arguments)
    if options.steps < 100:
        parser.error(f"--steps is {options.steps}; expected at least 100")
    return options


def run(options):
    models = options.output / "models"

    say(1, "corpus: read, deduplicated, split by document")
    splits = corpus(options)
    texts = {part: kt.data.texts_and_labels(splits[part]) for part in PARTS}
    class_names = sorted(set(texts["train"][1]))
    for part in PARTS:
        print(f"  {part}: {len(splits[part])} documents, {len(texts[part][0])} texts")
    print(f"  classes: {', '.join(class_names)}")

    say(2, "vocabulary: word pieces trained on the train part")
    tokenizer = vocabulary(options, splits)
    print(f"  {tokenizer.vocabulary_size} pieces in {options.output / 'vocab.txt'}")
    train, dev, test = (
        labelled(texts[part], class_names, tokenizer, options, shuffle=part == "train")
        for part in PARTS
    )

    strategy = kt.distribute.get_strategy(options.strategy)
    with strategy.scope():
        say(3, "pretraining: ALBERT learns masked words and the order of sentences")
        pretrained = pretrain(options, splits, tokenizer)

        say(4, "fine-tuning: a classifier without pretraining, and one with it")

        def without_pretraining():
            return classifier(new_encoder(options, tokenizer), class_names)

        def with_pretraining():
            return classifier(pretrained, class_names)

        scratch = tune(options, "without_pretraining", without_pretraining, train, dev)
        fine_tuned = tune(options, "fine_tuned", with_pretraining, train, dev)

        say(5, f"pruning: {SPARSITY:.0%} of the kernels and tables become zero")

        def prunable():
            # A copy from the file: the fine-tuned model is measured later as it is.
            model = keras.models.load_model(models / "fine_tuned.keras", compile=False)
            steps = int(options.steps * SHARES["pruned"])
            schedule = kt.compress.PolynomialDecay(
                initial_sparsity=0.0,
                final_sparsity=SPARSITY,
                begin_step=0,
                end_step=steps // 20 * 10,  # reached half-way, then trained on
                frequency=10,
            )
            return kt.compress.prune_low_magnitude(model, schedule)

        pruned = tune(options, "pruned", prunable, train, dev)

        say(6, "quantization-aware training: int8 in mind, and zeros stay zeros")

        def quantization_aware():
            model = kt.compress.quantize_model(pruned)
            kt.compress.calibrate(model, train.take(20))
            return model

        quantized = tune(options, "pruned_quantized", quantization_aware, train, dev)

    say(7, "export: SavedModel with raw strings in, .tflite in three precisions")
    folder = options.output / "saved_model"
    kt.export.to_saved_model(quantized, folder, tokenizer, class_names=class_names)
    print(f"  {folder}")
    files = {}
    for name, model, quantization in (
        ("float32", pruned, None),
        ("dynamic_range", pruned, "dynamic_range"),
        ("int8", quantized, "int8"),
    ):
        files[name] = options.output / f"classifier_{name}.tflite"
        result = kt.export.to_tflite(
            model,
            files[name],
            sequence_length=SEQUENCE_LENGTH,
            quantization=quantization,
            # A model that learned its ranges in training keeps to them.
            representative_data=None if model is quantized else train.take(7),
            tokenizer=tokenizer,
            class_names=class_names,
        )
        print(f"  {files[name]}: {result['size_bytes']:,} bytes, verified")

    say(8, "measuring every artefact on its own runtime")
    rows = [
        majority_row(texts["train"][1], texts["test"][1]),
        keras_row("without pretraining", models / "without_pretraining", scratch, test),
        keras_row("fine-tuned", models / "fine_tuned", fine_tuned, test),
        keras_row("pruned", models / "pruned", pruned, test),
        keras_row("pruned + QAT", models / "pruned_quantized", quantized, test),
        saved_model_row("SavedModel (QAT)", folder, quantized, texts["test"], test),
        tflite_row("float32 .tflite", files["float32"], pruned, test),
        tflite_row("dynamic-range .tflite", files["dynamic_range"], pruned, test),
        tflite_row("int8 .tflite (QAT)", files["int8"], quantized, test),
    ]
    for name, measured in zip(files, rows[-len(files) :], strict=True):
        complete_card(options, files[name].with_suffix(".json"), measured)
    write_report(options.output, rows, tuple(EPOCHS), len(texts["test"][0]))


def say(number, sentence):
    print(f"\n[{number}/8] {sentence}", flush=True)


def corpus(options):
    """Reads the documents, or the split that an earlier run left in the output."""
    check_output(options)
    file = options.output / "corpus.json"
    if file.exists():
        splits = json.loads(file.read_text(encoding="utf-8"))
        return {
            part: [kt.data.Document(*document) for document in documents]
            for part, documents in splits.items()
        }
    unlabelled = []
    if options.data is not None and not os.path.isdir(options.data):
        documents = kt.data.read_table(
            options.data, options.text_column, options.label_column
        )
    else:
        documents = kt.data.embedded_corpus()
    if options.data is not None and os.path.isdir(options.data):
        folder = kt.data.read_folder(options.data)
        unlabelled = [kt.data.Document("", document.paragraphs) for document in folder]
    # Labelled text first: what the folder repeats of it is dropped from the folder.
    documents = kt.data.deduplicate([*documents, *unlabelled])
    unlabelled = [document for document in documents if not document.label]
    documents = [document for document in documents if document.label]
    parts = kt.data.split_documents(documents, seed=options.seed)
    splits = {**dict(zip(PARTS, parts, strict=True)), "unlabelled": unlabelled}
    write(options.output / "settings.json", settings(options))
    write(file, splits)
    return splits


def settings(options):
    chosen = {key: value for key, value in vars(options).items() if key != "output"}
    del chosen["strategy"]  # another machine may finish the run
    return chosen | {"data": options.data and os.path.abspath(options.data)}


def check_output(options):
    if options.output.exists() and not options.output.is_dir():
        raise ValueError(f"--output {options.output} is a file; expected a folder.")
    file = options.output / "settings.json"
    if file.exists():
        before = json.loads(file.read_text(encoding="utf-8"))
        changed = {k: v for k, v in before.items() if v != settings(options).get(k)}
        if changed:
            was = ", ".join(f"--{key} was {value}" for key, value in changed.items())
            raise ValueError(
                f"{options.output} holds a run with other settings ({was}); repeat "
                "them to go on with it, or give another --output."
            )


def vocabulary(options, splits):
    file = options.output / "vocab.txt"
    if not file.exists():
        documents = splits["train"] + splits["unlabelled"]
        texts = [text for document in documents for text in document.paragraphs]
        kt.text.WordPieceTokenizer.train(texts, VOCABULARY_SIZE).save(file)
    return kt.text.WordPieceTokenizer.load(file)


def labelled(texts_and_labels, class_names, tokenizer, options, shuffle):
    texts, labels = texts_and_labels
    if shuffle and len(texts) < BATCH_SIZE:
        raise ValueError(
            f"The train part has {len(texts)} texts; expected at least {BATCH_SIZE}."
        )
    return kt.data.classification_dataset(
        texts,
        labels,
        tokenizer,
        SEQUENCE_LENGTH,
        BATCH_SIZE,
        class_names=class_names,
        shuffle=shuffle,
        seed=options.seed,
        drop_remainder=shuffle,
    )


def new_encoder(options, tokenizer):
    keras.utils.set_random_seed(options.seed)
    encoder = kt.models.albert_encoder(
        vocabulary_size=tokenizer.vocabulary_size,
        max_sequence_length=SEQUENCE_LENGTH,
        sequence_length=SEQUENCE_LENGTH,
        initializer_range=0.05,  # 0.02 is meant for widths of 768 and more
        **SIZES[options.size],
    )
    # Learned positions start as sines: from random ones, a run as short as this does
    # not get to learn which tokens are neighbours.
    positions = encoder.get_layer("embeddings").position_embedding.embeddings
    sines = kt.layers.SinusoidalPositionEncoding()
    positions.assign(0.1 * sines(keras.ops.zeros((1, *positions.shape)))[0])
    return encoder


def classifier(encoder, class_names):
    return kt.models.sequence_classifier(encoder, num_classes=len(class_names))


def pretrain(options, splits, tokenizer):
    """Trains an encoder, or loads what an earlier run trained."""
    encoder = new_encoder(options, tokenizer)
    file = options.output / "models" / "encoder.weights.h5"
    if file.exists():
        encoder.load_weights(file)
        return encoder
    resume = checkpoints(options, "pretraining")
    arguments = (tokenizer, SEQUENCE_LENGTH, BATCH_SIZE)
    # Small models and short runs learn more from 40 % than from BERT's 15 % (Wettig et
    # al. 2023, "Should you mask 15% in masked language modeling?").
    masking = {"masking": "subword", "mask_share": 0.4}
    train = kt.data.sentence_order_dataset(
        splits["train"] + splits["unlabelled"],
        *arguments,
        seed=options.seed,
        **masking,
    )
    dev = kt.data.sentence_order_dataset(
        splits["dev"], *arguments, seed=options.seed, num_epochs=1, **masking
    )
    model = kt.models.albert_pretrainer(encoder)
    model.compile(
        optimizer(options, "pretraining"),
        **kt.training.compile_arguments("albert_pretrainer"),
    )
    fit(options, model, "pretraining", train, dev.take(20), resume)
    with finished(options, "pretraining", file) as temporary:
        encoder.save_weights(temporary)
    return encoder


def tune(options, name, build, train, dev):
    """Trains what `build` makes, or loads what an earlier run trained."""
    file = options.output / "models" / f"{name}.keras"
    if file.exists():
        print(f"  {name}: done before, loaded from {file}")
        return keras.models.load_model(file, compile=False)
    keras.utils.set_random_seed(options.seed)
    model = build()
    model.compile(
        optimizer(options, name),
        **kt.training.compile_arguments(
            "sequence_classifier", num_classes=model.output.shape[-1]
        ),
    )
    resume = checkpoints(options, name)
    fit(options, model, name, train.repeat(), dev, resume)
    if name == "pruned":
        model = kt.compress.strip_pruning(model)
    model.compile()  # lets go of the optimizer, whose state would triple the file
    with finished(options, name, file) as temporary:
        model.save(temporary)
    return model


def epoch_steps(options, name):
    return max(1, int(options.steps * SHARES[name]) // EPOCHS[name])


def optimizer(options, name):
    steps = epoch_steps(options, name) * EPOCHS[name]
    schedule = kt.training.LinearWarmup(RATES[name], steps // 10, steps)
    return kt.training.adamw(schedule)


def checkpoints(options, name):
    return kt.training.ResumeFromCheckpoint(options.output / "checkpoints" / name)


def fit(options, model, name, train, dev, resume):
    model.fit(
        train,
        epochs=EPOCHS[name],
        steps_per_epoch=epoch_steps(options, name),
        validation_data=dev,
        shuffle=False,  # the datasets shuffle themselves
        verbose=0,
        callbacks=[kt.training.RichProgress(f"  {name}"), resume],
    )
    write(options.output / "histories" / f"{name}.json", resume.history)


@contextlib.contextmanager
def finished(options, name, file):
    """Yields a name to write to; the stage is done when the file has its own name."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f"unfinished-{file.name}")
    yield temporary
    os.replace(temporary, file)
    shutil.rmtree(options.output / "checkpoints" / name, ignore_errors=True)


def complete_card(options, file, measured):
    """Adds to an artefact's card what made it and what it was measured to score."""
    card = json.loads(file.read_text(encoding="utf-8"))
    card["made_by"] = {
        "command": "examples/quickstart.py",
        "settings": settings(options)
        | {"data": options.data and os.path.basename(options.data)},
        "keras_tformer": kt.__version__,
        "keras": keras.__version__,
    }
    card["measured"] = measured
    write(file, card, indent=2)


def write(file, content, indent=None):
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f"unfinished-{file.name}")
    text = json.dumps(content, ensure_ascii=False, indent=indent)
    temporary.write_text(text + "\n", encoding="utf-8")
    os.replace(temporary, file)


if __name__ == "__main__":
    sys.exit(main())
