"""Batches out of pretraining records, masked while they are read."""

import itertools
import pathlib

import numpy as np

from keras_tformer.data.import_tensorflow import import_tensorflow
from keras_tformer.data.masking import check_masking, masker, row_uniform
from keras_tformer.data.pretraining_rows import BATCHES_AHEAD
from keras_tformer.data.record_manifest import (
    check_shard,
    read_cards,
    read_header,
    vocabulary_checksum,
)
from keras_tformer.data.text_lines import bad_line
from keras_tformer.text import pack

# Shards that are read at once, a row of each in turn.
SIDE_BY_SIDE = 16


def pretraining_records_dataset(
    folder,
    tokenizer,
    batch_size,
    max_predictions=None,
    mask_share=0.15,
    masking="whole_word",
    seed=0,
    shuffle_buffer=10_000,
    num_epochs=None,
    worker_index=0,
    num_workers=1,
    first_step=0,
    verify_checksums=True,
    skipped=None,
    has_known_length=True,
):
    """Reads what `write_pretraining_records` wrote, as batches for a pretrainer.

    Every epoch goes over the shards in another order, reads 16 side by side, and
    shuffles their rows in a buffer. Unless the records hold fixed masks, every row gets
    other masks in every epoch. All choices depend on the seed, the epoch and the row
    alone: the same seed gives the same batches on any number of threads, and a row the
    same masks on whichever worker. All batches are full, across epochs.

    Args:
        folder: path of the records.
        tokenizer: the tokenizer that they were made with.
        batch_size: int. Rows `B` of a batch.
        max_predictions, mask_share, masking: see `sentence_order_dataset`. Left aside
            where the records hold fixed masks.
        seed: int.
        shuffle_buffer: int. Rows to draw the next one from; 1 keeps the order.
        num_epochs: int, or None to repeat without end.
        worker_index: int. Which of the workers this is, from 0.
        num_workers: int. Every worker reads its own shards: worker w takes every
            `num_workers`-th one from the w-th on.
        first_step: int. Number of batches to skip (they are read, at the speed of the
            input).
        verify_checksums: bool. Read every shard of this worker first, which takes time
            where there are terabytes, and compare its checksum. Sizes are always
            compared. Without, a byte that is wrong ends the epoch with TensorFlow's
            `DataLossError`.
        skipped: None, or a `collections.Counter`. With a counter, damaged shards are
            left out and counted there.
        has_known_length: bool. Say how many batches there are, for progress bars; not
            for `from_data_service`, whose workers have a part of them each.

    Returns:
        A `tf.data.Dataset` as of `sentence_order_dataset`, with `"sentence_order"` or
        `"next_sentence"` beside `"masked_lm"`, as the records were made; of documents
        side by side as `masked_lm_dataset(..., has_packed_documents=True)` has them.

    Raises:
        ValueError: naming the file, if records are missing or damaged, not complete,
            or were made with another vocabulary; or if there are fewer shards than
            workers.
    """
    tf = import_tensorflow()
    folder = pathlib.Path(folder)
    header = read_header(folder)
    settings = header["settings"]
    if not header["complete"]:
        raise ValueError(
            f"{folder} is not complete; run write_pretraining_records again, it goes "
            "on where it stopped."
        )
    if settings["vocabulary_sha256"] != vocabulary_checksum(tokenizer):
        raise ValueError(
            f"{folder} was written with another vocabulary; give the tokenizer that it "
            "was made with."
        )
    sequence_length, pair_task = settings["sequence_length"], settings["pair_task"]
    fixed_masks = settings["masking"] is not None
    if fixed_masks:
        max_predictions = settings["max_predictions"]
    max_predictions = check_masking(
        sequence_length, max_predictions, mask_share, masking
    )
    if not 0 <= worker_index < num_workers or header["num_shards"] < num_workers:
        raise ValueError(
            f"worker_index is {worker_index} of {num_workers} workers, with "
            f"{header['num_shards']} shards; expected 0 <= worker_index < "
            "num_workers, and at least one shard for each. Lower documents_per_shard "
            "when writing."
        )

    def whole_shards():
        cards = itertools.islice(read_cards(folder), worker_index, None, num_workers)
        for card in cards:
            wrong = check_shard(folder, card, verify_checksums)
            if wrong is None:
                yield card["file"].encode(), card["rows"]
            else:
                bad_line(skipped, "damaged shard", wrong)

    # 40 bytes a shard, however many there are.
    shards = np.fromiter(whole_shards(), np.dtype("S32, int64"))
    files, num_rows = shards["f0"], int(shards["f1"].sum())
    if num_rows == 0 or (num_epochs is not None and num_rows * num_epochs < batch_size):
        raise ValueError(
            f"{folder} holds {num_rows} rows for this worker, fewer than one batch of "
            f"{batch_size}; give more text or a smaller batch_size."
        )
    with tf.init_scope():
        files = tf.constant(files)
    mask = masker(tokenizer, max_predictions, mask_share, masking)
    names = ["token_ids", "document_ids"] if pair_task is None else ["first", "second"]
    names += ["mask_positions", "masked_lm"] if fixed_masks else []
    features = {name: tf.io.RaggedFeature(tf.int64) for name in names}
    features["index"] = tf.io.FixedLenFeature([], tf.int64)
    if pair_task is not None:
        features["label"] = tf.io.FixedLenFeature([], tf.int64)

    num_groups = -(-len(files) // SIDE_BY_SIDE)

    # Groups, not epochs: workers of a data service then share an epoch.
    def one_group(number):
        epoch, group = number // num_groups, number % num_groups
        order_seed = tf.stack([tf.cast(seed, tf.int64), epoch])
        order = tf.random.experimental.stateless_shuffle(files, order_seed)
        order = order[group * SIDE_BY_SIDE : (group + 1) * SIDE_BY_SIDE]
        rows = tf.data.Dataset.from_tensor_slices(order).interleave(
            lambda file: tf.data.TFRecordDataset(
                tf.strings.join([str(folder), file], separator="/")
            ),
            cycle_length=min(SIDE_BY_SIDE, len(files)),
            block_length=16,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        if shuffle_buffer > 1:
            # Seeds 0 and 0 would mean: another order every time.
            rows = rows.shuffle(
                shuffle_buffer, seed=seed + 1 + number, reshuffle_each_iteration=False
            )
        return rows.map(lambda row: (row, epoch))

    def filled(row, width, padding_id=0):
        shape = (batch_size, width)
        tensor = tf.cast(row.to_tensor(padding_id, shape=shape), tf.int32)
        return tf.ensure_shape(tensor, shape)  # to_tensor forgets the batch size

    def read_inputs(rows):
        if pair_task is None:
            document_ids = filled(rows["document_ids"], sequence_length)
            return {
                "token_ids": filled(
                    rows["token_ids"], sequence_length, tokenizer.padding_id
                ),
                "segment_ids": tf.zeros_like(document_ids),
                "padding_mask": tf.cast(document_ids > 0, tf.int32),
                "document_ids": document_ids,
            }
        packed = pack(
            tf.cast(rows["first"], tf.int32),
            tf.cast(rows["second"], tf.int32),
            sequence_length=sequence_length,
            start_id=tokenizer.start_id,
            end_id=tokenizer.end_id,
            padding_id=tokenizer.padding_id,
        )
        shape = (batch_size, sequence_length)
        return {name: tf.ensure_shape(value, shape) for name, value in packed.items()}

    def make_batch(serialized, epochs):
        rows = tf.io.parse_example(serialized, features)
        inputs = read_inputs(rows)
        if fixed_masks:
            positions, hidden_ids = (
                filled(rows[name], max_predictions)
                for name in ("mask_positions", "masked_lm")
            )
            counts = tf.cast(rows["masked_lm"].row_lengths(), tf.int32)
            counts = tf.ensure_shape(counts, (batch_size,))
            weights = tf.sequence_mask(counts, max_predictions, tf.float32)
            inputs["mask_positions"] = positions
        else:
            numbers = tf.ensure_shape(rows["index"], (batch_size,))
            inputs, hidden_ids, weights = mask(
                inputs, row_uniform(seed, numbers, epochs)
            )
        targets, sample_weights = {"masked_lm": hidden_ids}, {"masked_lm": weights}
        if pair_task is not None:
            labels = tf.cast(rows["label"], tf.int32)
            targets[pair_task] = tf.ensure_shape(labels, (batch_size,))
            sample_weights[pair_task] = tf.ones([batch_size])
        return inputs, targets, sample_weights

    last = np.iinfo("int64").max if num_epochs is None else num_epochs * num_groups
    dataset = tf.data.Dataset.range(last).flat_map(one_group)
    dataset = dataset.batch(batch_size, drop_remainder=True).skip(first_step)
    dataset = dataset.map(make_batch, num_parallel_calls=tf.data.AUTOTUNE)
    if num_epochs is not None and has_known_length:
        num_batches = max(0, num_rows * num_epochs // batch_size - first_step)
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(num_batches))
    return dataset.prefetch(BATCHES_AHEAD)
