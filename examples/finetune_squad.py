"""Fine-tunes a model that finds the answers to questions in a text.

    python examples/finetune_squad.py --data train-v1.1.json --dev dev-v1.1.json \\
        --output out
    python examples/finetune_squad.py --version 2.0 --checkpoint albert-base-v2 \\
        --learning-rate 3e-5 --data train-v2.0.json --dev dev-v2.0.json --output out

Files in SQuAD's JSON layout. The scores are the official exact match and F1 (Rajpurkar
et al. 2016, 2018) over the dev questions. In version 2.0 a question may have no answer:
from which score on none is given is chosen on `--threshold-share` of the dev questions
and scored on the others; `predictions.json` goes by it, and `null_odds.json` holds the
scores, both as the official evaluation reads them.
"""

import json
import zlib

import fine_tuning
import keras

import keras_tformer as kt


def main(arguments=None):
    parser = fine_tuning.parser(
        __doc__, epochs=5, learning_rate=5e-4, sequence_length=384
    )
    parser.add_argument("--version", choices=("1.1", "2.0"), default="1.1")
    parser.add_argument("--doc-stride", type=int, default=128)
    parser.add_argument("--max-question-length", type=int, default=64)
    parser.add_argument("--max-answer-length", type=int, default=30)
    parser.add_argument("--threshold-share", type=float, default=0.2)
    options = parser.parse_args(arguments)

    train, dev = (kt.data.read_squad(file) for file in (options.data, options.dev))
    parts = split_for_threshold(options, dev)
    texts = list({question.context for question in train})
    texts += [question.question for question in train]
    encoder, tokenizer = fine_tuning.start(options, texts)
    sizes = tokenizer, options.sequence_length, options.batch_size
    windows = {
        "doc_stride": options.doc_stride,
        "max_question_length": options.max_question_length,
    }
    train_task = kt.data.question_answering_task(
        train, *sizes, **windows, shuffle=True, seed=options.seed, drop_remainder=True
    )
    dev_task = kt.data.question_answering_task(dev, *sizes, **windows)

    model = kt.models.span_classifier(encoder)

    def predict(logits, null_threshold=0.0):
        return kt.data.span_predictions(
            logits["start"],
            logits["end"],
            dev_task,
            max_answer_length=options.max_answer_length,
            allow_no_answer=options.version == "2.0",
            null_threshold=null_threshold,
        )

    def measure(_, logits):
        return scores(predict(logits), dev, options.version)

    history = fine_tuning.fit(
        options,
        model,
        train_task.dataset,
        len(train_task.windows.starts),
        kt.training.compile_arguments("span_classifier"),
        monitor="val_f1",
        validation_data=dev_task.dataset,
        callbacks=[kt.training.EpochScores(dev_task.dataset, measure)],
    )

    logits = model.predict(dev_task.dataset, verbose=0)
    logits = keras.tree.map_structure(keras.ops.convert_to_numpy, logits)
    final, threshold = measure(None, logits), 0.0
    if parts is not None:
        chosen = choose_threshold(options, predict, logits, *parts)
        final, threshold = final | chosen, chosen["null_threshold"]
    write_predictions(options, predict(logits, threshold))
    fine_tuning.write_results(options, model, final, history)


def scores(predictions, questions, version):
    return kt.training.squad_scores(
        {name: prediction.text for name, prediction in predictions.items()},
        {question.identifier: question.answers for question in questions},
        version,
    )


def split_for_threshold(options, dev):
    """Gives the questions to choose the threshold on, and those to score it on."""
    if options.version != "2.0":
        return None
    parts = [], []
    for question in dev:
        # By a checksum of the identifier, so that the share is the same in every run.
        place = zlib.crc32(question.identifier.encode()) / 2**32
        parts[place >= options.threshold_share].append(question)
    if not all(parts):
        raise SystemExit(
            f"--threshold-share {options.threshold_share} leaves {len(parts[0])} of "
            f"{len(dev)} dev questions to choose the threshold on and {len(parts[1])} "
            "to score it on; expected some for both. Give another share, or more."
        )
    return parts


def choose_threshold(options, predict, logits, chosen_on, scored_on):
    answered = predict(logits, null_threshold=float("inf"))
    threshold, _ = kt.training.best_null_threshold(
        {q.identifier: answered[q.identifier].text for q in chosen_on},
        {q.identifier: answered[q.identifier].null_difference for q in chosen_on},
        {q.identifier: q.answers for q in chosen_on},
    )
    scored = scores(predict(logits, threshold), scored_on, options.version)
    named = {f"with_threshold_{name}": score for name, score in scored.items()}
    return {"null_threshold": threshold, **named}


def write_predictions(options, predictions):
    files = {"predictions.json": {n: p.text for n, p in predictions.items()}}
    if options.version == "2.0":
        odds = {name: p.null_difference for name, p in predictions.items()}
        files["null_odds.json"] = odds
    for name, content in files.items():
        text = json.dumps(content, ensure_ascii=False, indent=1)
        (options.output / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
