"""Fine-tunes a classifier, or a regression, of texts or pairs: GLUE's tasks and yours.

    python examples/finetune_glue.py --task sst2 --data train.tsv --dev dev.tsv \\
        --output out
    python examples/finetune_glue.py --task mrpc --checkpoint bert-base-uncased \\
        --learning-rate 2e-5 --data train.tsv --dev dev.tsv --output out
    python examples/finetune_glue.py --data reviews.csv --dev held_out.csv \\
        --text-column review --label-column stars --output out

Scores are those of the GLUE paper (Wang et al. 2019, table 1). `--output` gets the
model with its tokenizer and the names of its classes, predictions of the dev file,
scores, training curves and a confusion matrix.
"""

import csv

import fine_tuning
import numpy as np
from glue_scores import correlations, more_metrics

import keras_tformer as kt


def main(arguments=None):
    parser = fine_tuning.parser(
        __doc__, epochs=5, learning_rate=1e-3, sequence_length=64
    )
    add = parser.add_argument
    add("--task", choices=sorted(kt.data.tables.GLUE_COLUMNS))
    add("--text-column", default="text")
    add("--second-text-column")
    add("--label-column", default="label")
    add("--skip-bad-rows", action="store_true", help="leave out what cannot be read")
    add("--regression", action="store_true", help="labels are numbers")
    add("--threshold", type=float, help="regression: also score the share of rows "
        "with label and prediction on the same side of it")  # fmt: skip
    add("--class-weights", action="store_true", help="rare classes count as much")
    add("--second-dev", help="also scored at the end, such as MNLI's mismatched")
    options = parser.parse_args(arguments)

    train, dev = (read(options, file) for file in (options.data, options.dev))
    second = read(options, options.second_dev) if options.second_dev else None
    check(parser, options, train)
    texts = train.texts + (train.second_texts or [])
    encoder, tokenizer = fine_tuning.start(options, texts)
    sizes = tokenizer, options.sequence_length, options.batch_size
    train_task = kt.data.table_task(
        train, *sizes, shuffle=True, seed=options.seed, drop_remainder=True
    )
    names = train_task.class_names
    dev_task = kt.data.table_task(dev, *sizes, class_names=names or None)
    if second:
        second_dataset = kt.data.table_task(second, *sizes, class_names=names).dataset

    model = kt.models.sequence_classifier(encoder, num_classes=len(names) or 1)
    arguments = kt.training.compile_arguments(
        "sequence_classifier" if names else "regressor"
    )
    callbacks = []
    if names:
        arguments["weighted_metrics"] += more_metrics(options.task, names)
        monitor = f"val_{arguments['weighted_metrics'][-1].name}"
    else:
        measure = correlations(options.threshold)
        callbacks = [kt.training.EpochScores(dev_task.dataset, measure)]
        monitor = "val_spearman"
    history = fine_tuning.fit(
        options,
        model,
        train_task.dataset,
        train_task.num_examples,
        arguments,
        monitor,
        validation_data=dev_task.dataset,
        callbacks=callbacks,
        class_weight=balanced(train_task) if options.class_weights else None,
    )

    outputs = model.predict(dev_task.dataset, verbose=0)
    labels = np.concatenate([label.numpy() for _, label in dev_task.dataset])
    if names:
        scores = model.evaluate(dev_task.dataset, verbose=0, return_dict=True)
        if second:
            more = model.evaluate(second_dataset, verbose=0, return_dict=True)
            scores |= {f"second_{name}": score for name, score in more.items()}
        predictions = [names[n] for n in outputs.argmax(-1)]
        file = options.output / "confusion_matrix.png"
        fine_tuning.draw_confusion_matrix(file, labels, outputs.argmax(-1), names)
    else:
        scores = measure(labels, outputs)
        predictions = [f"{number:.7g}" for number in outputs[:, 0]]
    write_predictions(options, dev, predictions)
    fine_tuning.write_class_names(options, names)
    fine_tuning.write_results(options, model, scores, history)


def read(options, file):
    examples = kt.data.read_examples(
        file,
        options.text_column,
        options.second_text_column,
        options.label_column,
        glue_task=options.task,
        regression=options.regression,
        skip_bad_rows=options.skip_bad_rows,
    )
    if examples.skipped:
        print(f"{file}: left out {examples.skipped}")
    return examples


def check(parser, options, train):
    """Refuses, before anything is trained, what would train nothing of use."""
    names = train.class_names
    if not names and options.class_weights:
        parser.error("--class-weights is for classes; a regression has none")
    if names and options.threshold is not None:
        parser.error("--threshold is for regressions; add --regression or leave it out")
    if not names and options.second_dev:
        parser.error("--second-dev is for classes; leave it out")
    if len(names) == 1:
        parser.error(
            f"{options.data} has one class, {names[0]!r}; expected two or more"
        )
    if options.task in ("mrpc", "qqp") and names != ["0", "1"]:
        parser.error(f"{options.data} has the labels {names}; expected 0 and 1")


def balanced(task):
    """Weights by which every class counts the same, 1 on average over the examples."""
    share = task.num_examples / len(task.class_counts)
    return {number: share / count for number, count in enumerate(task.class_counts)}


def write_predictions(options, examples, predictions):
    seconds = examples.second_texts or [""] * len(examples.texts)
    rows = zip(examples.labels, predictions, examples.texts, seconds, strict=True)
    file = options.output / "predictions.csv"
    with open(file, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["label", "prediction", "text", "second_text"])
        writer.writerows(rows)


if __name__ == "__main__":
    main()
