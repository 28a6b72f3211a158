"""One shard of pretraining records: from documents to a file."""

import hashlib
import json
import os
import pathlib

import numpy as np

from keras_tformer.data.masking import (
    mask_tokens,
    maskable_tokens,
    ordinary_ids,
    row_uniform,
)
from keras_tformer.data.record_manifest import file_checksum, write_json
from keras_tformer.data.segment_pairs import segment_pairs
from keras_tformer.text import pack

_MASK_BATCH = 256


def shard_name(number):
    """The file name of shard `number`."""
    return f"shard-{number:06d}.tfrecord"


def documents_checksum(documents):
    """Returns the SHA-256 of documents' text."""
    found = hashlib.sha256()
    for document in documents:
        text = json.dumps(list(getattr(document, "paragraphs", document)))
        found.update(text.encode() + b"\n")
    return found.hexdigest()


def write_shard(folder, number, documents, tokenizer, settings):
    """Writes the rows of some documents, in random order, as a TFRecord file.

    The file gets its name when it is whole; a card with its counts and checksum
    appears beside it after that, and says that the shard is done.

    Args:
        folder: path, existing.
        number: int. Number of the shard; with `settings["seed"]` it decides all
            random choices.
        documents: list of `Document`, or of lists of paragraphs.
        tokenizer: `WordPieceTokenizer` or `SentencePieceTokenizer`.
        settings: dict of `write_pretraining_records`.

    Returns:
        The card, a dict.
    """
    import tensorflow as tf

    folder = pathlib.Path(folder)
    rows = []
    for duplicate in range(settings["num_duplicates"]):
        pairs = list(
            segment_pairs(
                documents,
                tokenizer,
                settings["sequence_length"],
                settings["pair_task"],
                settings["negative_share"],
                settings["short_sequence_share"],
                # Another seed for every shard, whose documents have the same numbers.
                seed=settings["seed"] + (number << 32),
                duplicate=duplicate,
            )
        )
        indices = [(number << 32) + len(rows) + place for place in range(len(pairs))]
        if settings["masking"] is None:
            rows += [
                {
                    "first": pair.first,
                    "second": pair.second,
                    "label": [pair.label],
                    "index": [index],
                }
                for pair, index in zip(pairs, indices, strict=True)
            ]
        else:
            rows += _masked_rows(tf, pairs, indices, tokenizer, settings)
    draw = np.random.default_rng([settings["seed"], number])
    name = shard_name(number)
    temporary = folder / f".{name}.{os.getpid()}"
    try:
        with tf.io.TFRecordWriter(str(temporary)) as writer:
            for place in draw.permutation(len(rows)).tolist():
                writer.write(_serialized(tf, rows[place]))
        card = {
            "file": name,
            "documents": len(documents),
            "rows": len(rows),
            "tokens": sum(len(r["first"]) + len(r["second"]) for r in rows),
            "bytes": temporary.stat().st_size,
            "sha256": file_checksum(temporary),
            "input_sha256": documents_checksum(documents),
        }
        os.replace(temporary, folder / name)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    write_json(folder / f"{name}.json", card)
    return card


def _serialized(tf, row):
    features = {
        name: tf.train.Feature(int64_list=tf.train.Int64List(value=values))
        for name, values in row.items()
    }
    example = tf.train.Example(features=tf.train.Features(feature=features))
    # Maps have no order of their own; the same row must give the same bytes.
    return example.SerializeToString(deterministic=True)


def _masked_rows(tf, pairs, indices, tokenizer, settings):
    starts_word = tokenizer.starts_word
    replacements = ordinary_ids(tokenizer)
    rows = []
    for begin in range(0, len(pairs), _MASK_BATCH):
        some = pairs[begin : begin + _MASK_BATCH]
        keys = np.array(indices[begin : begin + _MASK_BATCH], "int64")
        packed = pack(
            [pair.first for pair in some],
            [pair.second for pair in some],
            sequence_length=settings["sequence_length"],
            start_id=tokenizer.start_id,
            end_id=tokenizer.end_id,
            padding_id=tokenizer.padding_id,
        )
        masked = mask_tokens(
            tf.constant(packed["token_ids"]),
            tf.constant(maskable_tokens(packed, tokenizer)),
            tf.constant(starts_word[packed["token_ids"]]),
            tokenizer.mask_id,
            tf.constant(replacements),
            settings["max_predictions"],
            settings["mask_share"],
            settings["masking"],
            row_uniform(settings["seed"], keys, np.zeros_like(keys)),
        )
        ids, positions, hidden, weights = (value.numpy() for value in masked)
        for row, pair in enumerate(some):
            first_end = 1 + len(pair.first)
            second_end = first_end + 1 + len(pair.second)
            count = int(weights[row].sum())
            rows.append(
                {
                    "first": ids[row, 1:first_end].tolist(),
                    "second": ids[row, first_end + 1 : second_end].tolist(),
                    "label": [pair.label],
                    "index": [int(keys[row])],
                    "mask_positions": positions[row, :count].tolist(),
                    "masked_lm": hidden[row, :count].tolist(),
                }
            )
    return rows
