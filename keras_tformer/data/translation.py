"""Parallel sentences as batches for an encoder-decoder Transformer."""

import collections
import itertools

import numpy as np

from keras_tformer.data.import_tensorflow import import_tensorflow
from keras_tformer.data.task import Task
from keras_tformer.data.text_lines import bad_line, read_lines


def read_parallel(source_file, target_file, skipped=None):
    """Reads two files whose lines n translate each other.

    Args:
        source_file: path of a UTF-8 file, plain or packed (`.gz`, `.xz`).
        target_file: path of a file with as many lines.
        skipped: None, or a `collections.Counter`. With a counter, pairs with an empty
            line are left out and counted there.

    Returns:
        Two lists of strings of equal length.

    Raises:
        ValueError: naming file and line, if a file is missing, is not UTF-8 or has
            fewer lines than the other, or for the first empty line when `skipped` is
            None.

    Example:
        >>> import pathlib
        >>> _ = pathlib.Path("a.en").write_text("One.\\nTwo.\\n")
        >>> _ = pathlib.Path("a.de").write_text("Eins.\\nZwei.\\n")
        >>> read_parallel("a.en", "a.de")
        (['One.', 'Two.'], ['Eins.', 'Zwei.'])
    """
    sources, targets = [], []
    # Here a line that cannot be read must end the run: leaving it out would pair all
    # lines after it with the wrong ones.
    pairs = itertools.zip_longest(read_lines(source_file), read_lines(target_file))
    for source, target in pairs:
        if source is None or target is None:
            shorter = source_file if source is None else target_file
            raise ValueError(
                f"{shorter} ends after line {(source or target)[0] - 1}, before "
                f"{target_file if source is None else source_file}; expected line n of "
                "both to translate each other."
            )
        number = source[0]
        source, target = source[1].strip(), target[1].strip()
        if not source or not target:
            bad_line(
                skipped,
                "empty line",
                f"{target_file if source else source_file}, line {number}: empty; "
                "remove the line from both files.",
            )
            continue
        sources.append(source)
        targets.append(target)
    if not sources:
        raise ValueError(
            f"{source_file} and {target_file} hold no pair of lines; expected at least "
            "one."
        )
    return sources, targets


def translation_task(
    sources,
    targets,
    tokenizer,
    target_tokenizer=None,
    tokens_per_batch=4096,
    bucket_lengths=(8, 12, 16, 24, 32, 48, 64, 96, 128),
    shuffle=False,
    seed=0,
    drop_remainder=False,
):
    """Turns pairs of sentences into batches of similar length for the Transformer.

    The encoder reads `source [SEP]`, the decoder `[CLS] target`, and its labels are
    `target [SEP]`. Pairs go into the shortest bucket that holds both sides; a batch
    comes from one bucket, is filled up to its length and holds about
    `tokens_per_batch` positions a side, so that shapes are few and fixed. Vaswani et
    al. 2017, section 5.1.

    Args:
        sources: list of strings.
        targets: list of as many strings.
        tokenizer: `WordPieceTokenizer` or `SentencePieceTokenizer` of the source, and
            of the target unless it has its own.
        target_tokenizer: the same, or None.
        tokens_per_batch: int. Positions of a batch on each side, at most; one pair at
            least.
        bucket_lengths: ints in ascending order. Pairs longer than the last one are
            left out and counted.
        shuffle: bool. Another order in every epoch.
        seed: int. Seed of the order.
        drop_remainder: bool. Leave out the last batch of a bucket if it is not full.
            With a single bucket every shape is known beforehand, as a TPU needs.

    Returns:
        A `Task`. Its dataset holds `(inputs, labels, sample weights)`: int32
        `"encoder_token_ids"` and `"encoder_padding_mask"` `(B, S)`,
        `"decoder_token_ids"` and `"decoder_padding_mask"` `(B, T)`; labels int32
        `(B, T)`; weights float32 `(B, T)`. S = T = the length of the bucket.

    Raises:
        ValueError: if there are no pairs that fit, the lists differ in length, or
            `bucket_lengths` are not in ascending order.

    Example:
        >>> from keras_tformer.text import WordPieceTokenizer
        >>> tokenizer = WordPieceTokenizer("[PAD] [UNK] [CLS] [SEP] [MASK] a b".split())
        >>> task = translation_task(["a b"], ["b"], tokenizer, bucket_lengths=(3,))
        >>> inputs, labels, weights = next(iter(task.dataset))
        >>> inputs["encoder_token_ids"].numpy().tolist(), labels.numpy().tolist()
        ([[5, 6, 3]], [[6, 3, 0]])
    """
    tf = import_tensorflow()
    if len(sources) != len(targets) or not sources:
        raise ValueError(
            f"There are {len(sources)} sources and {len(targets)} targets; expected "
            "at least one, and one target for every source."
        )
    lengths = list(bucket_lengths)
    if not lengths or lengths != sorted(set(lengths)) or lengths[0] < 2:
        raise ValueError(
            f"bucket_lengths is {bucket_lengths}; expected ascending numbers from 2 on."
        )
    target_tokenizer = target_tokenizer or tokenizer
    source_ids = tokenizer.encode(sources)
    target_ids = target_tokenizer.encode(targets)
    needed = np.array(
        [
            max(len(source), len(target)) + 1 if source and target else 1 << 30
            for source, target in zip(source_ids, target_ids, strict=True)
        ]
    )
    kept = np.flatnonzero(needed <= lengths[-1])
    if not len(kept):
        raise ValueError(
            f"No pair fits into {lengths[-1]} positions; raise the last of "
            "bucket_lengths."
        )
    skipped = {}
    if len(kept) < len(needed):
        skipped["longer than the longest bucket"] = len(needed) - len(kept)
    buckets = np.searchsorted(lengths, needed[kept])
    batch_sizes = [max(1, tokens_per_batch // length) for length in lengths]
    with tf.init_scope():
        source_rows = _ragged(tf, [source_ids[i] for i in kept])
        target_rows = _ragged(tf, [target_ids[i] for i in kept])
        bucket_of = tf.constant(buckets)
        padded_lengths = tf.constant(lengths)

    def make_batch(indices, bucket):
        shape = tf.stack([-1, padded_lengths[bucket]])
        source, target = (
            tf.gather(source_rows, indices),
            tf.gather(target_rows, indices),
        )
        end = tf.fill([tf.size(indices), 1], tokenizer.end_id)
        last = tf.fill([tf.size(indices), 1], target_tokenizer.end_id)
        first = tf.fill([tf.size(indices), 1], target_tokenizer.start_id)
        source = tf.concat([source, end], axis=1)
        labels = tf.concat([target, last], axis=1)
        target = tf.concat([first, target], axis=1)
        mask = tf.ones_like(labels).to_tensor(0, shape=shape)
        inputs = {
            "encoder_token_ids": source.to_tensor(tokenizer.padding_id, shape=shape),
            "encoder_padding_mask": tf.ones_like(source).to_tensor(0, shape=shape),
            "decoder_token_ids": target.to_tensor(
                target_tokenizer.padding_id, shape=shape
            ),
            "decoder_padding_mask": mask,
        }
        labels = labels.to_tensor(target_tokenizer.padding_id, shape=shape)
        return inputs, labels, tf.cast(mask, tf.float32)

    dataset = tf.data.Dataset.range(len(kept))
    if shuffle:
        dataset = dataset.shuffle(len(kept), seed=seed)
    dataset = dataset.group_by_window(
        key_func=lambda index: tf.cast(tf.gather(bucket_of, index), tf.int64),
        reduce_func=lambda bucket, window: window.batch(
            tf.gather(tf.constant(batch_sizes, tf.int64), bucket),
            drop_remainder=drop_remainder,
        ).map(lambda indices: (indices, bucket)),
        window_size_func=lambda bucket: tf.gather(
            tf.constant(batch_sizes, tf.int64), bucket
        ),
    )
    dataset = dataset.map(make_batch, num_parallel_calls=tf.data.AUTOTUNE)
    if len(lengths) == 1 and drop_remainder:
        known = (batch_sizes[0], lengths[0])
        dataset = dataset.map(
            lambda *batch: tf.nest.map_structure(
                lambda tensor: tf.ensure_shape(tensor, known), batch
            )
        )
    counts = collections.Counter(buckets.tolist())
    num_batches = sum(
        count // batch_sizes[bucket]
        if drop_remainder
        else -(-count // batch_sizes[bucket])
        for bucket, count in counts.items()
    )
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(num_batches))
    return Task(dataset.prefetch(tf.data.AUTOTUNE), [], [], len(kept), skipped)


def _ragged(tf, rows):
    flat = np.fromiter((i for row in rows for i in row), "int32")
    return tf.RaggedTensor.from_row_lengths(flat, list(map(len, rows)))
