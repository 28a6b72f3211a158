"""How often quantized files of models that choose words choose as Keras does.

    python benchmarks/int8_words.py translation RUN --data train.en train.de \\
        --dev val.en val.de
    python benchmarks/int8_words.py causal RUN --data train.txt --dev valid.txt
    python benchmarks/int8_words.py masked RUN --data wiki.txt

RUN is the output folder of `examples/train_translation.py`, `train_causal_lm.py`,
`pretrain_bert.py` or `pretrain_albert.py` (`--family`; the size "cpu" and the split of
the documents are that script's). Every mode's file is made with ranges from 200 rows of
the training data, and answers rows that were not trained on, given the right words
before. `error` is that of the logits in their standard deviations, each row's mean
taken off; `sure` are the words to which the Keras model gives more than one half.
"""

import argparse
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.append(str(pathlib.Path(__file__).parents[1] / "examples"))

import keras
import numpy as np
import pretrain_albert
import pretrain_bert
import train_causal_lm
from rich.console import Console
from rich.table import Table

import keras_tformer as kt

MODES = ("dynamic_range", "int8", "int16x8")
CALIBRATION, PREDICTIONS, BATCH = 200, 10, 50


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("kind", choices=("translation", "causal", "masked"))
    add("run", type=pathlib.Path)
    add("--data", nargs="+", required=True, help="what RUN was trained on")
    add("--dev", nargs="+", help="what it was not; masked: a part of --data")
    add("--format", choices=("text", "wikitext"), default="text", help="of causal's")
    add("--family", choices=("bert", "albert"), default="bert")
    add("--held-out-share", type=float, default=0.04, help="of masked's documents")
    add("--sequence-length", type=int, default=64)
    add("--rows", type=int, default=300)
    options = parser.parse_args(arguments)
    kinds = {"translation": translation, "causal": causal, "masked": masked}
    model, calibration, (rows, words, kept) = kinds[options.kind](options)
    console = Console(width=100)
    table = Table()
    for name in ("file", "bytes", "of float32", "error", "equal", "equal, sure"):
        table.add_column(name, justify="left" if name == "file" else "right")
    expected = word_logits(model.predict(rows, verbose=0))[kept]
    right = np.mean(expected.argmax(-1) == words[kept])
    sure = keras.ops.convert_to_numpy(keras.ops.softmax(expected)).max(-1) > 0.5
    for mode in MODES:
        file = options.run / f"{mode}.tflite"
        try:
            report = kt.export.to_tflite(
                model,
                file,
                sequence_length=options.sequence_length,
                quantization=mode,
                representative_data=calibration,
            )
        except ValueError as error:
            console.print(f"{mode}: {error}")
            continue
        logits = word_logits(kt.export.predict(file, rows))[kept]
        error = logits - expected
        error -= error.mean(-1, keepdims=True)
        equal = logits.argmax(-1) == expected.argmax(-1)
        table.add_row(
            mode,
            f"{report['size_bytes']:,}",
            f"{report['size_bytes'] / 4 / report['parameters']:.3f}",
            f"{error.std() / expected.std():.4f}",
            f"{equal.mean():.2%}",
            f"{equal[sure].mean():.2%}",
        )
    console.print(
        f"{kept.sum():,} words, of which the Keras model knows {right:.1%}; it gives "
        f"{sure.mean():.1%} of its choices more than one half"
    )
    console.print(table)


def word_logits(outputs):
    if isinstance(outputs, dict):
        return outputs["masked_lm"] if "masked_lm" in outputs else outputs["output"]
    return outputs


def translation(options):
    """The model, rows to calibrate with, and `(rows, next words, which count)`."""
    tokenizer = kt.text.SentencePieceTokenizer.load(
        options.run / "spiece.model", lowercase=False
    )

    def of(files, count):
        pairs = [texts[:count] for texts in kt.data.read_parallel(*files)]
        sources, targets = map(tokenizer.encode, pairs)
        source, kept = padded([[*ids, tokenizer.end_id] for ids in sources])
        target, target_kept = padded([[tokenizer.start_id, *ids] for ids in targets])
        words, _ = padded([[*ids, tokenizer.end_id] for ids in targets])
        rows = {
            "encoder_token_ids": source,
            "encoder_padding_mask": kept,
            "decoder_token_ids": target,
            "decoder_padding_mask": target_kept,
        }
        return rows, words, target_kept > 0

    def padded(rows):
        ids = np.zeros((len(rows), options.sequence_length), "int32")
        mask = np.zeros_like(ids)
        for row, pieces in enumerate(rows):
            pieces = pieces[: options.sequence_length]
            ids[row, : len(pieces)], mask[row, : len(pieces)] = pieces, 1
        return ids, mask

    model = keras.models.load_model(options.run / "model.keras", compile=False)
    return model, of(options.data, CALIBRATION)[0], of(options.dev, options.rows)


def causal(options):
    model = keras.models.load_model(options.run / "model.keras", compile=False)
    tokenizer = kt.text.WordPieceTokenizer.load(options.run / "tokenizer.json")
    length = options.sequence_length

    def of(files, count):
        texts = train_causal_lm.joined(train_causal_lm.read(options, files[0])[:80])
        task = kt.data.language_modelling_task(texts, tokenizer, length, BATCH)
        return collected(task.dataset.take(count // BATCH))

    return model, of(options.data, CALIBRATION)[0], of(options.dev, options.rows)


def masked(options):
    tokenizer = kt.text.WordPieceTokenizer.load(options.run / "vocab.txt")
    documents = kt.data.deduplicate(kt.data.read_documents(options.data[0]))
    documents = [kt.data.Document("", document.paragraphs) for document in documents]
    shares = 1 - options.held_out_share, options.held_out_share
    parts = kt.data.split_documents(documents, shares, seed=0)
    size = {"vocabulary_size": tokenizer.vocabulary_size}
    if options.family == "bert":
        encoder = kt.models.bert_encoder(**size, **pretrain_bert.SIZES["cpu"])
        model = kt.models.bert_pretrainer(encoder, max_predictions=PREDICTIONS)
        make = kt.data.next_sentence_dataset
    else:
        encoder = kt.models.albert_encoder(**size, **pretrain_albert.SIZES["cpu"])
        model = kt.models.albert_pretrainer(encoder, max_predictions=PREDICTIONS)
        make = kt.data.sentence_order_dataset
    model.load_weights(max((options.run / "first_phase").glob("*.weights.h5")))

    def of(documents, count):
        sizes = tokenizer, options.sequence_length, BATCH
        dataset = make(documents, *sizes, num_epochs=1, masking="whole_word", seed=0)
        return collected(dataset.take(count // BATCH))

    return model, of(parts[0], CALIBRATION)[0], of(parts[1], options.rows)


def collected(dataset):
    inputs, words, weights = zip(*dataset.as_numpy_iterator(), strict=True)
    rows = {name: np.concatenate([part[name] for part in inputs]) for name in inputs[0]}
    if isinstance(words[0], dict):
        words = [part["masked_lm"] for part in words]
        weights = [part["masked_lm"] for part in weights]
    return rows, np.concatenate(words), np.concatenate(weights) > 0


if __name__ == "__main__":
    main()
