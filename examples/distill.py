"""Distils a BERT teacher into a small ALBERT, beside the same ALBERT without a teacher.

    python examples/distill.py                      # embedded corpus, no network
    python examples/distill.py --data train.csv --dev dev.csv   # `text` and `label`
    python examples/distill.py --data sst2/train.tsv.gz --dev sst2/dev.tsv \\
        --text-column sentence --students 3

The teacher answers every text once; its answers lie in the output folder. Stopped and
started again with the same options, the script goes on where it was.
"""

import argparse
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

import keras_tformer as kt

EPOCHS = 5  # the steps are cut into as many; after each, dev is scored and all is saved
RATES = {"teacher": 5e-4, "alone": 1e-3, "distilled": 1e-3}
TEACHERS = {"small": (3, 192, 192), "tiny": (2, 32, 32)}  # layers, width, embeddings
STUDENTS = {"small": (2, 128, 64), "tiny": (2, 16, 8)}  # calls of one block, and so on


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", help="a table to train on; default: the embedded corpus")
    add("--dev", help="a table to score; needed with --data")
    add("--text-column", default="text")
    add("--output", type=pathlib.Path, default=pathlib.Path("distill_output"))
    add("--size", choices=sorted(TEACHERS), default="small")
    add("--students", type=int, default=1, help="pairs of students, a seed for each")
    add("--steps", type=int, default=1000, help="for each model, of 32 texts")
    add("--sequence-length", type=int, default=48)
    add("--vocabulary-size", type=int, default=4000)
    options = parser.parse_args(arguments)

    (texts, labels), dev = read(options)
    classes = sorted(set(labels))
    file = options.output / "vocab.txt"
    if not file.exists():
        options.output.mkdir(parents=True, exist_ok=True)
        kt.text.WordPieceTokenizer.train(texts, options.vocabulary_size).save(file)
    tokenizer = kt.text.WordPieceTokenizer.load(file)
    weights, hits, teacher = {}, {}, None

    def dataset(texts, labels, shuffle=False):
        sizes = options.sequence_length, 32, classes, shuffle
        return kt.data.classification_dataset(texts, labels, tokenizer, *sizes)

    def model_and_data(role):
        if role != "distilled":
            model = classifier(options, role, tokenizer, len(classes))
            return model, dataset(texts, labels, shuffle=True)
        student, _ = model_and_data("alone")
        model = kt.training.Distiller(teacher, student, student_loss_weight=0.3)
        files, data = options.output / "answers", dataset(texts, labels)
        return model, kt.training.cache_teacher(model, data, files, 32, shuffle=True)

    dev_set, truth = dataset(*dev), np.array([classes.index(x) for x in dev[1]])
    for seed in range(options.students):
        for role in RATES if seed == 0 else ("alone", "distilled"):
            model = trained(options, role, seed, model_and_data, dev_set)
            teacher = model if role == "teacher" else teacher
            predicted = model.predict(dev_set, verbose=0).argmax(-1)
            hits.setdefault(role, []).append(predicted == truth)
            weights[role] = model.count_params()
    report(hits, weights)


def read(options):
    """Gives texts and labels of the train and of the dev part."""
    if options.data is None:  # which package does this paragraph document?
        documents = kt.data.deduplicate(kt.data.embedded_corpus())
        train, _, dev = kt.data.split_documents(documents, seed=0)
        return kt.data.texts_and_labels(train), kt.data.texts_and_labels(dev)
    if options.dev is None:
        raise SystemExit("--data needs --dev, a table to score.")
    files, column = (options.data, options.dev), options.text_column
    tables = (kt.data.read_examples(file, text_column=column) for file in files)
    return [(table.texts, table.labels) for table in tables]


def classifier(options, role, tokenizer, num_classes):
    is_teacher = role == "teacher"
    build = kt.models.bert_encoder if is_teacher else kt.models.albert_encoder
    sizes = (TEACHERS if is_teacher else STUDENTS)[options.size]
    encoder = build(
        vocabulary_size=tokenizer.vocabulary_size,
        **dict(zip(("num_layers", "hidden_dim", "embedding_dim"), sizes, strict=True)),
        num_heads=4,
        intermediate_dim=4 * sizes[1],
        dropout=0.1,
        initializer_range=0.05,  # 0.02 is meant for widths of 768 and more
        sequence_length=options.sequence_length,
        max_sequence_length=options.sequence_length,
    )
    return kt.models.sequence_classifier(encoder, num_classes=num_classes)


def trained(options, role, seed, model_and_data, dev_set):
    """Trains a model, or loads what was trained before."""
    name = f"{role}_{seed}"
    file = options.output / f"{name}.keras"
    if file.exists():
        return keras.models.load_model(file, compile=False)
    keras.utils.set_random_seed(seed)
    model, data = model_and_data(role)
    steps = options.steps // EPOCHS
    schedule = kt.training.LinearWarmup(RATES[role], steps // 2, steps * EPOCHS)
    arguments = kt.training.compile_arguments("sequence_classifier")
    model.compile(kt.training.adamw(schedule), **arguments)
    resume = kt.training.ResumeFromCheckpoint(options.output / "checkpoints" / name)
    model.fit(
        data.repeat(),
        epochs=EPOCHS,
        steps_per_epoch=steps,
        validation_data=dev_set,
        shuffle=False,  # the datasets shuffle themselves
        verbose=0,
        callbacks=[kt.training.RichProgress(name), resume],
    )
    model = getattr(model, "student", model)  # a distiller hands its student back
    model.save(file.with_name(f"unfinished-{file.name}"))
    os.replace(file.with_name(f"unfinished-{file.name}"), file)
    return model


def report(hits, weights):
    """Prints accuracies and the gain; its error is that of a mean over the dev rows."""
    table = Table("model", "weights", "dev accuracy %", "of each seed")
    for role, rows in hits.items():
        mean, *seeds = (f"{100 * x:.1f}" for x in (np.mean(rows), *map(np.mean, rows)))
        table.add_row(role, f"{weights[role]:,}", mean, " ".join(seeds))
    Console().print(table)
    gains = 100 * (np.mean(hits["distilled"], axis=0) - np.mean(hits["alone"], axis=0))
    error = gains.std(ddof=1) / np.sqrt(len(gains))
    print(f"distillation gains {gains.mean():+.1f} points, standard error {error:.1f}")


if __name__ == "__main__":
    main()
