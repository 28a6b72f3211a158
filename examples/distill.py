"""Distils a BERT teacher into a small ALBERT, beside the same ALBERT without a teacher.

    python examples/distill.py                      # embedded corpus, no network
    python examples/distill.py --data train.csv --dev dev.csv   # `text` and `label`
    python examples/distill.py --data sst2/train.tsv.gz --dev sst2/dev.tsv \\
        --text-column sentence --students 3

The teacher answers every text once; its answers lie in the output folder. Stopped and
started again with the same `--output`, the script goes on where it was.
"""

import argparse
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

import keras_tformer as kt

EPOCHS = 5  # the steps are cut into as many; after each, dev is scored and all is saved
RATES = {"teacher": 5e-4, "alone": 1e-3, "distilled": 1e-3}


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", help="a table to train on; default: the embedded corpus")
    add("--dev", help="a table to score")
    add("--text-column", default="text")
    add("--label-column", default="label")
    add("--output", type=pathlib.Path, default=pathlib.Path("distill_output"))
    add("--teacher-layers", type=int, default=3)
    add("--teacher-dim", type=int, default=192)
    add("--student-layers", type=int, default=2, help="calls of the one ALBERT block")
    add("--student-dim", type=int, default=128)
    add("--students", type=int, default=1, help="pairs of students, a seed for each")
    add("--steps", type=int, default=1000, help="for each model")
    add("--batch-size", type=int, default=32)
    add("--sequence-length", type=int, default=48)
    add("--vocabulary-size", type=int, default=4000)
    add("--temperature", type=float, default=2.0)
    add("--label-share", type=float, default=0.3, help="of the labels in the loss")
    add("--hidden-states", action="store_true", help="match them, too: no cache, slow")
    options = parser.parse_args(arguments)
    if (options.data is None) != (options.dev is None):
        parser.error("--data and --dev go together")
    run(options)


def run(options):
    (texts, labels), dev = read(options)
    classes = sorted(set(labels))
    tokenizer = vocabulary(options, texts)

    def dataset(texts, labels, shuffle=False):
        sizes = options.sequence_length, options.batch_size, classes, shuffle
        return kt.data.classification_dataset(texts, labels, tokenizer, *sizes)

    shuffled, dev_set = dataset(texts, labels, shuffle=True), dataset(*dev)
    truth = np.array([classes.index(label) for label in dev[1]])

    def right(model):
        return model.predict(dev_set, verbose=0).argmax(-1) == truth

    def new_teacher():
        return classifier(options, "teacher", tokenizer, classes), shuffled

    def new_student():
        return classifier(options, "student", tokenizer, classes), shuffled

    def new_distiller():
        losses = [kt.training.SoftTargetDistillation(options.temperature)]
        if options.hidden_states:
            losses.append(kt.training.HiddenStateDistillation())
        distiller = kt.training.Distiller(
            teacher, new_student()[0], losses, student_loss_weight=options.label_share
        )
        if options.hidden_states:  # too large for the disk: the teacher runs each time
            return distiller, shuffled
        folder, size = options.output / "answers", options.batch_size
        answered = kt.training.cache_teacher(
            distiller, dataset(texts, labels), folder, size, shuffle=True
        )
        return distiller, answered

    teacher = trained(options, "teacher", 0, new_teacher, dev_set)
    hits = {"teacher": [right(teacher)], "student alone": [], "student distilled": []}
    for seed in range(options.students):
        student = trained(options, "alone", seed, new_student, dev_set)
        hits["student alone"].append(right(student))
        student = trained(options, "distilled", seed, new_distiller, dev_set)
        hits["student distilled"].append(right(student))
    report(hits, {"teacher": teacher.count_params(), "student": student.count_params()})


def read(options):
    """Gives texts and labels of the train and of the dev part."""
    if options.data is None:  # which package does this paragraph document?
        documents = kt.data.deduplicate(kt.data.embedded_corpus())
        train, _, dev = kt.data.split_documents(documents, seed=0)
        return kt.data.texts_and_labels(train), kt.data.texts_and_labels(dev)
    columns = {"text_column": options.text_column, "label_column": options.label_column}
    tables = [kt.data.read_examples(x, **columns) for x in (options.data, options.dev)]
    return [(table.texts, table.labels) for table in tables]


def vocabulary(options, texts):
    file = options.output / "vocab.txt"
    if not file.exists():
        options.output.mkdir(parents=True, exist_ok=True)
        kt.text.WordPieceTokenizer.train(texts, options.vocabulary_size).save(file)
    return kt.text.WordPieceTokenizer.load(file)


def classifier(options, role, tokenizer, classes):
    width = getattr(options, f"{role}_dim")
    is_bert = role == "teacher"
    encoder = (kt.models.bert_encoder if is_bert else kt.models.albert_encoder)(
        vocabulary_size=tokenizer.vocabulary_size,
        embedding_dim=width if is_bert else width // 2,
        num_layers=getattr(options, f"{role}_layers"),
        num_heads=4,
        hidden_dim=width,
        intermediate_dim=4 * width,
        dropout=0.1,
        initializer_range=0.05,  # 0.02 is meant for widths of 768 and more
        sequence_length=options.sequence_length,
        max_sequence_length=options.sequence_length,
    )
    return kt.models.sequence_classifier(encoder, num_classes=len(classes))


def trained(options, name, seed, build, dev_set):
    """Trains what `build` makes, or loads what was trained before."""
    file = options.output / f"{name}_{seed}.keras"
    if file.exists():
        return keras.models.load_model(file, compile=False)
    keras.utils.set_random_seed(seed)
    model, data = build()
    steps = max(1, options.steps // EPOCHS)
    schedule = kt.training.LinearWarmup(RATES[name], steps // 2, steps * EPOCHS)
    arguments = kt.training.compile_arguments("sequence_classifier")
    model.compile(kt.training.adamw(schedule), **arguments)
    resume = kt.training.ResumeFromCheckpoint(
        options.output / "checkpoints" / file.stem
    )
    model.fit(
        data.repeat().skip(resume.finished_epochs * steps),
        epochs=EPOCHS,
        steps_per_epoch=steps,
        validation_data=dev_set,
        shuffle=False,  # the datasets shuffle themselves
        verbose=0,
        callbacks=[kt.training.RichProgress(file.stem), resume],
    )
    model = getattr(model, "student", model)
    model.save(file.with_name(f"unfinished-{file.name}"))
    os.replace(file.with_name(f"unfinished-{file.name}"), file)
    return model


def report(hits, weights):
    """Prints accuracies and the gain; its error is that of a mean over the dev rows."""
    table = Table("model", "weights", "dev accuracy %", "of each seed")
    for name, rows in hits.items():
        seeds = " ".join(f"{100 * row.mean():.1f}" for row in rows)
        mean = f"{100 * np.mean(rows):.1f}"
        table.add_row(name, f"{weights[name.split()[0]]:,}", mean, seeds)
    Console().print(table)
    alone, distilled = hits["student alone"], hits["student distilled"]
    gains = 100 * (np.mean(distilled, axis=0) - np.mean(alone, axis=0))
    error = gains.std(ddof=1) / np.sqrt(len(gains))
    print(
        f"gain by distillation: {gains.mean():+.1f} points, standard error {error:.1f}"
    )


if __name__ == "__main__":
    sys.exit(main())
