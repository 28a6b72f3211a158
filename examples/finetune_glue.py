"""Fine-tunes a classifier, or a regression, of texts or pairs: GLUE's tasks and yours.

    python examples/finetune_glue.py --task sst2 --data train.tsv --dev dev.tsv \\
        --output out
    python examples/finetune_glue.py --task mrpc --checkpoint bert-base-uncased \\
        --learning-rate 2e-5 --data train.tsv --dev dev.tsv --output out
    python examples/finetune_glue.py --data reviews.csv --dev held_out.csv \\
        --text-column review --label-column stars --output out

Scores are those of the GLUE paper (Wang et al. 2019, table 1). `--output` gets the
model, predictions of the dev file, scores, training curves and a confusion matrix.
"""

import csv

import fine_tuning
import numpy as np

import keras_tformer as kt


def main(arguments=None):
    parser = fine_tuning.parser(
        __doc__, epochs=5, learning_rate=1e-3, sequence_length=64
    )
    parser.add_argument("--task", choices=sorted(kt.data.tables.GLUE_COLUMNS))
    parser.add_argument("--text-column", default="text")
    parser.add_argument("--second-text-column")
    parser.add_argument("--label-column", default="label")
    parser.add_argument("--regression", action="store_true", help="labels are numbers")
    parser.add_argument(
        "--threshold",
        type=float,
        help="regression: also score how often both are above, or both below",
    )
    parser.add_argument(
        "--class-weights",
        action="store_true",
        help="rare classes count as much in the loss as common ones",
    )
    options = parser.parse_args(arguments)

    train, dev = (read(options, file) for file in (options.data, options.dev))
    texts = train.texts + (train.second_texts or [])
    encoder, tokenizer = fine_tuning.start(options, texts)
    sizes = tokenizer, options.sequence_length, options.batch_size
    train_task = kt.data.table_task(
        train, *sizes, shuffle=True, seed=options.seed, drop_remainder=True
    )
    names = train_task.class_names
    dev_task = kt.data.table_task(dev, *sizes, class_names=names or None)

    model = kt.models.sequence_classifier(encoder, num_classes=len(names) or 1)
    arguments = kt.training.compile_arguments(
        "sequence_classifier" if names else "regressor"
    )
    callbacks = []
    if names:
        arguments["weighted_metrics"] += more_metrics(options, names)
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
        predictions = [names[n] for n in outputs.argmax(-1)]
        file = options.output / "confusion_matrix.png"
        fine_tuning.draw_confusion_matrix(file, labels, outputs.argmax(-1), names)
    else:
        scores = measure(labels, outputs)
        predictions = [f"{number:.4f}" for number in outputs[:, 0]]
    write_predictions(options, dev, predictions)
    fine_tuning.write_results(options, model, scores, history)


def read(options, file):
    return kt.data.read_examples(
        file,
        options.text_column,
        options.second_text_column,
        options.label_column,
        glue_task=options.task,
        regression=options.regression,
    )


def balanced(task):
    """Weights by which every class counts the same, 1 on average over the examples."""
    share = task.num_examples / len(task.class_counts)
    return {number: share / count for number, count in enumerate(task.class_counts)}


def more_metrics(options, names):
    """What the task is scored by beside accuracy; the last one picks the epoch."""
    if options.task == "cola":
        return [kt.training.MatthewsCorrelation(len(names))]
    if options.task in ("mrpc", "qqp"):  # of the pairs that say the same
        return [kt.training.MicroF1(len(names), classes=[names.index("1")], name="f1")]
    return []


def correlations(threshold):
    def measure(labels, outputs):
        numbers = outputs[:, 0]
        pearson = kt.training.PearsonCorrelation()
        pearson.update_state(labels, numbers)
        scores = {
            "pearson": float(pearson.result()),
            "spearman": kt.training.spearman_correlation(labels, numbers),
        }
        if threshold is not None:
            is_right = (labels >= threshold) == (numbers >= threshold)
            scores["accuracy_at_threshold"] = float(is_right.mean())
        return scores

    return measure


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
