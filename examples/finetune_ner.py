"""Fine-tunes a tagger of named entities on files in CoNLL's columns.

    python examples/finetune_ner.py --data train.conll.gz --dev dev.conll.gz \\
        --output out
    python examples/finetune_ner.py --checkpoint bert-base-cased --learning-rate 3e-5 \\
        --data train.conll --dev dev.conll --output out

A word a line, its tag in the last column (`B-person`, `I-person`, `O`), a blank line
between sentences. The score is the F1 of whole entities (CoNLL-2003, by seqeval); a
word that did not fit into `--sequence-length` counts as one that was not found.
"""

import fine_tuning
import numpy as np

import keras_tformer as kt


def main(arguments=None):
    parser = fine_tuning.parser(
        __doc__, epochs=20, learning_rate=1e-3, sequence_length=64
    )
    parser.add_argument(
        "--class-weights",
        action="store_true",
        help="weigh tags by the root of their rarity, so that O does not rule",
    )
    options = parser.parse_args(arguments)

    train, dev = (kt.data.read_conll(file) for file in (options.data, options.dev))
    texts = [" ".join(sentence.words) for sentence in train]
    encoder, tokenizer = fine_tuning.start(options, texts)
    sizes = tokenizer, options.sequence_length, options.batch_size
    train_task = kt.data.tagging_task(
        train, *sizes, shuffle=True, seed=options.seed, drop_remainder=True
    )
    names = train_task.class_names
    dev_task = kt.data.tagging_task(dev, *sizes, tag_names=names)

    model = kt.models.token_classifier(encoder, num_classes=len(names))

    def measure(labels, logits):
        predicted = kt.training.decode_tags(labels, logits, names)
        return kt.training.entity_scores(
            [sentence.tags for sentence in dev],
            [filled(tags, s) for tags, s in zip(predicted, dev, strict=True)],
        )

    dataset = train_task.dataset
    if options.class_weights:
        dataset = dataset.map(weigher(train_task.class_counts))
    history = fine_tuning.fit(
        options,
        model,
        dataset,
        train_task.num_examples,
        kt.training.compile_arguments("token_classifier", num_classes=len(names)),
        monitor="val_entity_f1",
        validation_data=dev_task.dataset,
        callbacks=[kt.training.EpochScores(dev_task.dataset, measure)],
    )

    logits = model.predict(dev_task.dataset, verbose=0)
    labels = np.concatenate([label.numpy() for _, label, _ in dev_task.dataset])
    predicted = kt.training.decode_tags(labels, logits, names)
    write_predictions(options, dev, predicted)
    counts = labels >= 0
    fine_tuning.draw_confusion_matrix(
        options.output / "confusion_matrix.png",
        labels[counts],
        logits.argmax(-1)[counts],
        names,
    )
    fine_tuning.write_class_names(options, names)
    fine_tuning.write_results(options, model, measure(labels, logits), history)


def filled(tags, sentence):
    """The predicted tags, and O for words at the end that did not fit."""
    return tags + ["O"] * (len(sentence.words) - len(tags))


def weigher(counts):
    """Gives a function that weighs each word by the root of its tag's rarity."""
    rarity = sum(counts) / np.maximum(counts, 1)
    weights = np.sqrt(rarity / len(counts)).astype("float32")

    def weigh(inputs, labels, sample_weights):
        import tensorflow as tf

        return (
            inputs,
            labels,
            sample_weights * tf.gather(weights, tf.maximum(labels, 0)),
        )

    return weigh


def write_predictions(options, sentences, predicted):
    """Writes a word, its tag and the predicted tag a line, as CoNLL's scorer reads."""
    file = options.output / "predictions.conll"
    with open(file, "w", encoding="utf-8") as stream:
        for sentence, tags in zip(sentences, predicted, strict=True):
            rows = zip(
                sentence.words, sentence.tags, filled(tags, sentence), strict=True
            )
            stream.writelines("\t".join(row) + "\n" for row in rows)
            stream.write("\n")


if __name__ == "__main__":
    main()
