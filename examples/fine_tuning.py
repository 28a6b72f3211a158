"""What the fine-tuning scripts share: options, where to start from, `fit`, pictures."""

import argparse
import json
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import matplotlib
import run_options

matplotlib.use("Agg")
from matplotlib import pyplot, ticker
from open_checkpoint import open_encoder, save_tokenizer, tokenizer_beside

import keras_tformer as kt

# Layers, width, heads, embeddings (ALBERT): what a CPU trains from scratch in minutes.
SIZES = {"tiny": (2, 32, 2, 16), "small": (4, 128, 4, 64), "medium": (6, 256, 4, 128)}
# Such an --output may be used again: nothing was trained.
LEFT_BY_A_FAILED_START = {"tokenizer.json", "vocab.txt", "spiece.model", "options.json"}


def parser(description, epochs, learning_rate, sequence_length):
    """Makes a parser with the options that every fine-tuning script has."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = made.add_argument
    add("--data", required=True, help="file to train on")
    add("--dev", required=True, help="file to score, never trained on")
    add(
        "--checkpoint",
        help="encoder.keras or model.keras of these scripts, a Hugging Face folder or "
        "name, or the prefix of a TF1 checkpoint; default: a small model, afresh",
    )
    add(
        "--cased",
        action=argparse.BooleanOptionalAction,
        help="whether capitals count; default: if the checkpoint's vocabulary has any",
    )
    add("--family", choices=("albert", "bert"), default="albert", help="if afresh")
    add("--size", choices=sorted(SIZES), default="small", help="if afresh")
    add("--vocabulary-size", type=positive, default=8000, help="if afresh")
    add("--output", type=pathlib.Path, required=True, help="folder for what comes out")
    add(
        "--resume",
        action="store_true",
        help="go on with the run in --output, with the options it began with (see its "
        "options.json; --epochs, --patience and --micro-batches may change)",
    )
    add("--epochs", type=positive, default=epochs)
    add("--batch-size", type=positive, default=32)
    add(
        "--micro-batches",
        type=positive,
        default=1,
        help="parts in which a batch is computed, where the memory has no room for it",
    )
    add(
        "--learning-rate",
        type=float,
        default=learning_rate,
        help="default: %(default)s, for small models; published ones take 2e-5 to 5e-5",
    )
    add("--sequence-length", type=positive, default=sequence_length)
    add(
        "--patience",
        type=int,
        default=2,
        help="epochs without a better dev score after which training stops; those that "
        "score exactly what the first one did are not counted until one differs",
    )
    add("--steps", type=positive, help="stop an epoch after so many steps")
    add("--seed", type=int, default=0)
    return made


def positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number}; expected 1 or more")
    return number


def start(options, texts):
    """Gives an encoder and its tokenizer, from the checkpoint or untrained.

    Args:
        options: what the parser of `parser` gave.
        texts: list of strings to learn a vocabulary from, where there is no checkpoint.

    Returns:
        A pair of the encoder, a `keras.Model`, and the tokenizer.
    """
    prepare_output(options)
    if options.checkpoint is not None:
        encoder, tokenizer = open_encoder(options.checkpoint, options.cased)
        save_tokenizer(tokenizer, options.output)
        return encoder, tokenizer
    tokenizer = learn_vocabulary(options, texts)
    return untrained(options, tokenizer.vocabulary_size), tokenizer


def prepare_output(options):
    """Makes the output folder, or refuses one that holds another run."""
    keras.utils.set_random_seed(options.seed)
    options.output.mkdir(parents=True, exist_ok=True)
    found = {file.name for file in options.output.iterdir()} - LEFT_BY_A_FAILED_START
    if found and not options.resume:
        raise SystemExit(
            f"{options.output} is not empty. Add --resume to go on with the run in it, "
            "or name another --output."
        )
    if options.resume:  # what a failed start left binds nobody
        run_options.refuse_others(options)


def learn_vocabulary(options, texts):
    """Learns word pieces from the texts; a run that goes on has learned them."""
    if options.resume and (options.output / "vocab.txt").exists():
        return tokenizer_beside(options.output, options.cased)
    tokenizer = kt.text.WordPieceTokenizer.train(
        texts, options.vocabulary_size, lowercase=not options.cased
    )
    save_tokenizer(tokenizer, options.output)
    return tokenizer


def untrained(options, vocabulary_size):
    num_layers, hidden_dim, num_heads, embedding_dim = SIZES[options.size]
    build = {"albert": kt.models.albert_encoder, "bert": kt.models.bert_encoder}
    return build[options.family](
        vocabulary_size=vocabulary_size,
        num_layers=num_layers,
        num_heads=num_heads,
        hidden_dim=hidden_dim,
        intermediate_dim=4 * hidden_dim,
        embedding_dim=embedding_dim if options.family == "albert" else None,
        dropout=0.1,
        initializer_range=0.05,  # 0.02 is meant for widths of 768 and more
        max_sequence_length=options.sequence_length,
    )


def fit(options, model, dataset, num_examples, arguments, monitor, **more):
    """Trains until the dev score stops rising; the model keeps its best weights.

    Args:
        options: what the parser of `parser` gave.
        model: `keras.Model`, not compiled.
        dataset: `tf.data.Dataset` to train on, one epoch of full batches.
        num_examples: int. Rows of an epoch.
        arguments: dict for `model.compile`, from `kt.training.compile_arguments`.
        monitor: str, name of the dev score in the logs; higher is better, unless it
            ends in `loss` or `perplexity`.
        **more: for `model.fit`, such as `validation_data`; `callbacks` are added to.

    Returns:
        A dict from names to lists, one number for each epoch.
    """
    if num_examples < options.batch_size:
        raise SystemExit(
            f"{options.data} gives {num_examples} training rows, fewer than "
            f"--batch-size {options.batch_size}: there is no full batch to train on. "
            f"Give --batch-size {max(num_examples, 1)} or less, or more data."
        )
    run_options.write(options)
    steps = num_examples // options.batch_size
    steps = min(steps, options.steps or steps)
    total = steps * options.epochs
    schedule = kt.training.LinearWarmup(options.learning_rate, total // 10, total)
    model.compile(kt.training.adamw(schedule), **arguments)
    if options.micro_batches != 1:
        kt.training.accumulate_gradients(model, options.micro_batches)
    early_stopping = keras.callbacks.EarlyStopping(
        monitor,
        mode="min" if monitor.endswith(("loss", "perplexity")) else "max",
        patience=options.patience,
        restore_best_weights=True,
    )
    resume = kt.training.ResumeFromCheckpoint(
        options.output / "checkpoints", early_stopping=early_stopping
    )
    stop = kt.training.StopOnNaN(options.output)

    def count_from_the_first_change(epoch, logs):
        # Some scores are 0 until a model tells more than the commonest class.
        score = float(logs[monitor])
        if {*resume.history.get(monitor, ()), score} == {score}:
            early_stopping.best = None

    model.fit(
        stop.watch(dataset.take(steps)),
        epochs=options.epochs,
        shuffle=False,  # the datasets shuffle themselves
        verbose=0,
        **more
        | {
            "callbacks": [
                *more.get("callbacks", ()),  # first: they add scores to the logs
                kt.training.RichProgress("fine-tuning"),
                keras.callbacks.LambdaCallback(
                    on_epoch_end=count_from_the_first_change
                ),
                stop,  # before what saves
                resume,
            ]
        },
    )
    best, epochs = early_stopping.best_epoch + 1, len(resume.history[monitor])
    print(f"the model of epoch {best} of {epochs} is kept, by its {monitor}")
    return resume.history


def write_results(options, model, scores, history):
    """Writes the model, the scores and the curves into the output folder."""
    model.compile()  # lets go of the optimizer, whose state would triple the file
    for name, write in (
        ("model.keras", model.save),
        ("scores.json", lambda file: file.write_text(json.dumps(scores, indent=2))),
        ("curves.png", lambda file: draw_curves(file, history)),
    ):
        write_whole(options.output / name, write)
    numbers = {name: x for name, x in scores.items() if not isinstance(x, str)}
    print(", ".join(f"{name} {number:.4f}" for name, number in numbers.items()))
    print(f"model, predictions, scores and pictures are in {options.output}")


def write_class_names(options, names):
    """Writes the names behind the model's outputs, in their order."""
    content = json.dumps(names, indent=1, ensure_ascii=False)
    file = options.output / "classes.json"
    write_whole(file, lambda file: file.write_text(content, encoding="utf-8"))


def write_whole(file, write):
    """Calls `write` with another name, then renames: never half of a file."""
    unfinished = file.with_name(f"unfinished-{file.name}")
    write(unfinished)
    os.replace(unfinished, file)


def draw_curves(file, history):
    """Draws each measure over the epochs, train beside dev."""
    names = [name for name in history if not name.startswith("val_")]
    names += [n for n in history if n.startswith("val_") and n[4:] not in history]
    figure, axes = pyplot.subplots(
        1, len(names), figsize=(3.6 * len(names), 3), squeeze=False
    )
    for axis, name in zip(axes[0], names, strict=True):
        for key, label in ((name, "train"), (f"val_{name}", "dev")):
            if key in history:
                label = "dev" if key.startswith("val_") else label
                epochs = range(1, len(history[key]) + 1)
                axis.plot(epochs, history[key], marker="o", label=label)
        axis.set(title=name.removeprefix("val_"), xlabel="epoch")
        axis.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, min_n_ticks=1))
        if name.endswith("perplexity"):  # its beginning would hide the rest
            numbers = ticker.StrMethodFormatter("{x:,.0f}")
            axis.set_yscale("log")
            axis.yaxis.set_minor_locator(ticker.LogLocator(subs=(2, 5)))
            axis.yaxis.set_major_formatter(numbers)
            axis.yaxis.set_minor_formatter(numbers)
        axis.legend()
    figure.tight_layout()
    figure.savefig(file, format="png", dpi=120)
    pyplot.close(figure)


def draw_confusion_matrix(file, labels, predictions, names):
    """Draws how often each class was taken for each other one.

    Args:
        file: path of the picture.
        labels: list of class numbers.
        predictions: list of class numbers.
        names: list of strings.
    """
    counts = [[0] * len(names) for _ in names]
    for label, prediction in zip(labels, predictions, strict=True):
        counts[label][prediction] += 1
    shares = [[n / max(sum(row), 1) for n in row] for row in counts]
    size = 1.6 + 0.7 * len(names)
    figure, axis = pyplot.subplots(figsize=(size + 1, size))
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axis.set(
        xticks=range(len(names)),
        yticks=range(len(names)),
        yticklabels=names,
        xlabel="predicted",
        ylabel="true",
    )
    axis.set_xticklabels(names, rotation=45, ha="right")
    for row, numbers in enumerate(counts):
        for column, number in enumerate(numbers):
            color = "white" if shares[row][column] > 0.5 else "black"
            axis.text(column, row, number, ha="center", va="center", color=color)
    figure.tight_layout()
    figure.savefig(file, format="png", dpi=120)
    pyplot.close(figure)
