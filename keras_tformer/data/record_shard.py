"""One shard of pretraining records: from documents to a file."""

import hashlib
import json
import os
import pathlib

import numpy as np

from keras_tformer.data.document_packing import fill_rows, pack_rows
from keras_tformer.data.masked_lm import texts_that_fit
from keras_tformer.data.masking import masker, row_uniform
from keras_tformer.data.record_manifest import file_checksum, write_card
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
    """
    import tensorflow as tf

    folder = pathlib.Path(folder)
    make_rows = _packed_rows if settings["pair_task"] is None else _pair_rows
    rows = []
    for duplicate in range(settings["num_duplicates"]):
        first_index = (number << 32) + len(rows)
        rows += make_rows(documents, tokenizer, settings, duplicate, first_index)
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
            "tokens": sum(
                len(row[name])
                for row in rows
                for name in ("first", "second", "token_ids")
                if name in row
            ),
            "bytes": temporary.stat().st_size,
            "sha256": file_checksum(temporary),
            "input_sha256": documents_checksum(documents),
        }
        os.replace(temporary, folder / name)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    write_card(folder, card)


def _serialized(tf, row):
    features = {
        name: tf.train.Feature(int64_list=tf.train.Int64List(value=values))
        for name, values in row.items()
    }
    example = tf.train.Example(features=tf.train.Features(feature=features))
    # Maps have no order of their own; the same row must give the same bytes.
    return example.SerializeToString(deterministic=True)


def _pair_rows(documents, tokenizer, settings, duplicate, first_index):
    """Rows of two segments, with fixed masks where the settings have them."""
    pairs = list(
        segment_pairs(
            documents,
            tokenizer,
            settings["sequence_length"],
            settings["pair_task"],
            settings["negative_share"],
            settings["short_sequence_share"],
            # Another seed for every shard, whose documents have the same numbers.
            seed=settings["seed"] + (first_index >> 32 << 32),
            duplicate=duplicate,
        )
    )
    rows = [
        {"first": pair.first, "second": pair.second, "label": [pair.label]}
        for pair in pairs
    ]
    for place, row in enumerate(rows):
        row["index"] = [first_index + place]
    if settings["masking"] is None:
        return rows
    for some in _batches(rows):
        packed = pack(
            [row["first"] for row in some],
            [row["second"] for row in some],
            sequence_length=settings["sequence_length"],
            start_id=tokenizer.start_id,
            end_id=tokenizer.end_id,
            padding_id=tokenizer.padding_id,
        )
        for row, ids in zip(
            some, _mask(some, packed, tokenizer, settings), strict=True
        ):
            first_end = 1 + len(row["first"])
            second_end = first_end + 1 + len(row["second"])
            row["first"] = ids[1:first_end]
            row["second"] = ids[first_end + 1 : second_end]
    return rows


def _packed_rows(documents, tokenizer, settings, duplicate, first_index):
    """Rows of whole documents, with fixed masks where the settings have them."""
    del duplicate  # other masks, in the same rows
    length = settings["sequence_length"]
    texts = texts_that_fit(documents, tokenizer, length)
    if not texts:
        return []
    layout = pack_rows([len(ids) for ids in texts], length)
    token_ids = fill_rows(layout, texts, tokenizer.padding_id)
    ends = (layout.document_ids > 0).sum(axis=1)
    rows = [
        {
            "token_ids": token_ids[place, :end].tolist(),
            "document_ids": layout.document_ids[place, :end].tolist(),
            "index": [first_index + place],
        }
        for place, end in enumerate(ends.tolist())
    ]
    if settings["masking"] is None:
        return rows
    for start, some in zip(
        range(0, len(rows), _MASK_BATCH), _batches(rows), strict=True
    ):
        part = slice(start, start + _MASK_BATCH)
        kept = (layout.document_ids[part] > 0).astype("int32")
        packed = {"token_ids": token_ids[part], "padding_mask": kept}
        for row, ids in zip(
            some, _mask(some, packed, tokenizer, settings), strict=True
        ):
            row["token_ids"] = ids[: len(row["token_ids"])]
    return rows


def _batches(rows):
    return [rows[at : at + _MASK_BATCH] for at in range(0, len(rows), _MASK_BATCH)]


def _mask(rows, packed, tokenizer, settings):
    """Adds hidden tokens to some rows and returns their ids with masks, as lists."""
    import tensorflow as tf

    keys = np.array([row["index"][0] for row in rows], "int64")
    mask = masker(
        tokenizer,
        settings["max_predictions"],
        settings["mask_share"],
        settings["masking"],
    )
    inputs, hidden, weights = mask(
        {name: tf.constant(value) for name, value in packed.items()},
        row_uniform(settings["seed"], keys, np.zeros_like(keys)),
    )
    hidden, weights = hidden.numpy(), weights.numpy()
    positions = inputs["mask_positions"].numpy()
    for place, row in enumerate(rows):
        count = int(weights[place].sum())
        row["mask_positions"] = positions[place, :count].tolist()
        row["masked_lm"] = hidden[place, :count].tolist()
    return inputs["token_ids"].numpy().tolist()
