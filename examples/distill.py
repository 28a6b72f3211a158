"""Distils a BERT teacher into a small ALBERT, beside the same ALBERT without a teacher.

    python examples/distill.py                      # embedded corpus, no network
    python examples/distill.py --data train.csv --dev dev.csv   # `text` and `label`
    python examples/distill.py --task sst2 --data train.tsv --dev dev.tsv \\
        --losses soft_targets hidden_states relations --layer-map 1:2 2:3 --students 3

`--losses` are what the student learns beside the labels: the teacher's logits, its
hidden states (through a learned projection where widths differ), its attention (as many
heads needed) and MiniLM's relations of the last layer. A shared block has a layer for
each of its calls. Stopped and started again with the same options, the script goes on.
"""

import argparse
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import run_options
from distill_models import LOSSES, TEACHERS, losses, read, untrained
from distill_report import report
from open_checkpoint import open_encoder

import keras_tformer as kt

EPOCHS = 5  # the steps are cut into as many; after each, dev is scored and all is saved
STUDENT_RATE = 1e-3


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", help="a table to train on; default: the embedded corpus")
    add("--dev", help="a table to score; needed with --data")
    add("--task", choices=sorted(kt.data.tables.GLUE_COLUMNS.keys() - {"stsb"}))
    add("--text-column", default="text")
    add("--second-text-column")
    add("--label-column", default="label")
    add("--teacher-checkpoint", help="an encoder to fine-tune; see finetune_glue.py")
    add("--teacher-rate", type=float, default=5e-4, help="3e-5 for a published one")
    add("--losses", nargs="+", choices=LOSSES, default=["soft_targets"])
    add("--layer-map", nargs="+", type=pair, metavar="STUDENT:TEACHER", help="layers "
        "for hidden_states and attention, from 1; default: evenly")  # fmt: skip
    add("--output", type=pathlib.Path, default=pathlib.Path("distill_output"))
    add("--size", choices=sorted(TEACHERS), default="small")
    add("--students", type=int, default=1, help="pairs of students, a seed for each")
    add("--steps", type=int, default=1000, help="for each model, of 32 texts")
    add("--sequence-length", type=int, default=48)
    add("--vocabulary-size", type=int, default=4000)
    options = parser.parse_args(arguments)
    run_options.refuse_others(options, {"layer_map", "losses", "output", "students"})

    train, dev = read(options)
    classes = train.class_names
    tokenizer, teacher_encoder = start(
        options, train.texts + (train.second_texts or [])
    )
    run_options.write(options)
    teacher, weights, hits = None, {}, {}

    def dataset(examples, shuffle=False):
        sizes = tokenizer, options.sequence_length, 32
        more = {"class_names": classes, "shuffle": shuffle}
        return kt.data.table_task(examples, *sizes, **more).dataset

    def model_and_data(role):
        if role != "distilled":
            encoder = teacher_encoder if role == "teacher" else None
            encoder = encoder or untrained(options, role, tokenizer.vocabulary_size)
            model = kt.models.sequence_classifier(encoder, num_classes=len(classes))
            return model, dataset(train, shuffle=True)
        student, _ = model_and_data("alone")
        model = kt.training.Distiller(
            teacher, student, losses(options), student_loss_weight=0.3
        )
        if options.losses != ["soft_targets"]:  # hidden states take gigabytes on disk
            return model, dataset(train, shuffle=True)
        files, data = options.output / "answers", dataset(train)
        return model, kt.training.cache_teacher(model, data, files, 32, shuffle=True)

    dev_set, truth = dataset(dev), np.array([classes.index(x) for x in dev.labels])
    for seed in range(options.students):
        for role in ("teacher", "alone", "distilled")[min(seed, 1) :]:
            model = trained(options, role, seed, model_and_data, dev_set)
            teacher = model if role == "teacher" else teacher
            predicted = model.predict(dev_set, verbose=0).argmax(-1)
            hits.setdefault(role, []).append(predicted == truth)
            weights[role] = model.count_params()
    report(hits, weights)


def pair(text):
    student, teacher = text.split(":")
    return int(student), int(teacher)


def start(options, texts):
    """Gives the tokenizer, and the teacher's encoder if it has a checkpoint."""
    options.output.mkdir(parents=True, exist_ok=True)
    if options.teacher_checkpoint:
        encoder, tokenizer = open_encoder(options.teacher_checkpoint)
        return tokenizer, encoder
    file = options.output / "vocab.txt"
    if not file.exists():
        kt.text.WordPieceTokenizer.train(texts, options.vocabulary_size).save(file)
    return kt.text.WordPieceTokenizer.load(file), None


def trained(options, role, seed, model_and_data, dev_set):
    """Trains a model, or loads what was trained before."""
    name = f"{role}_{seed}"
    if role == "distilled":  # several kinds may share a teacher and an output
        pairs = [f"{a}to{b}" for a, b in options.layer_map or ()]
        name = "_".join((*options.losses, *pairs, name))
    file = options.output / f"{name}.keras"
    if file.exists():
        return keras.models.load_model(file, compile=False)
    keras.utils.set_random_seed(seed)
    model, data = model_and_data(role)
    rate = options.teacher_rate if role == "teacher" else STUDENT_RATE
    steps = options.steps // EPOCHS
    schedule = kt.training.LinearWarmup(rate, steps // 2, steps * EPOCHS)
    arguments = kt.training.compile_arguments("sequence_classifier")
    model.compile(kt.training.adamw(schedule), **arguments)
    resume = kt.training.ResumeFromCheckpoint(options.output / "checkpoints" / name)
    stop = kt.training.StopOnNaN(options.output)
    model.fit(
        stop.watch(data.repeat()),
        epochs=EPOCHS,
        steps_per_epoch=steps,
        validation_data=dev_set,
        shuffle=False,  # the datasets shuffle themselves
        verbose=0,
        callbacks=[kt.training.RichProgress(name), stop, resume],
    )
    model = getattr(model, "student", model)  # a distiller hands its student back
    model.save(file.with_name(f"unfinished-{file.name}"))
    os.replace(file.with_name(f"unfinished-{file.name}"), file)
    return model


if __name__ == "__main__":
    main()
