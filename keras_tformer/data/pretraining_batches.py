"""Batches for pretraining out of documents that fit into memory."""

import numpy as np

from keras_tformer.data.import_tensorflow import import_tensorflow
from keras_tformer.data.masking import check_masking, check_share, masker
from keras_tformer.data.pretraining_rows import (
    batches_by_step,
    flatten_documents,
    shuffled_rows,
    tile_documents,
)
from keras_tformer.text import pack


def pretraining_batches(
    pair_task,
    documents,
    tokenizer,
    sequence_length,
    batch_size,
    max_predictions,
    mask_share,
    masking,
    seed,
    negative_share,
    short_sequence_share,
    num_epochs,
    first_step,
):
    """Makes the batches of `sentence_order_dataset` and `next_sentence_dataset`.

    Args:
        pair_task: `"sentence_order"` or `"next_sentence"`.
        negative_share: float. Share of the rows with label 1: swapped, or with a
            second segment from another document.
        documents, tokenizer, sequence_length, batch_size, max_predictions, mask_share,
            masking, seed, short_sequence_share, num_epochs, first_step: as there.

    Returns:
        A `tf.data.Dataset`, see there.

    Raises:
        ValueError: see there.
    """
    tf = import_tensorflow()
    check_share("short_sequence_share", short_sequence_share)
    max_predictions = check_masking(
        sequence_length, max_predictions, mask_share, masking
    )
    room = sequence_length - 3
    ids, words, sentences, document_ends = flatten_documents(
        documents, tokenizer, tokenizer.starts_word
    )
    starts, ends = tile_documents(words, sentences, document_ends, room)
    num_rows = len(starts)
    # Documents without a word are nobody's neighbour.
    document_ends = np.unique(np.append(0, document_ends)).astype("int32")[1:]
    if pair_task == "next_sentence" and len(document_ends) < 2:
        raise ValueError(
            "There is one document; expected at least two, so that a segment can come "
            "from another one. Give more text, or use sentence_order_dataset."
        )
    with tf.init_scope():
        ids, words, sentences = map(tf.constant, (ids, words, sentences))
        starts, ends = tf.constant(starts), tf.constant(ends)  # (rows,)
        document_ends = tf.constant(document_ends)  # (documents,)
    mask = masker(tokenizer, max_predictions, mask_share, masking)

    def other_segment(start, split, end, below):
        """A segment of another document, where it can as long as the right one."""
        number = tf.searchsorted(document_ends, start, side="right")  # (B,)
        num_documents = len(document_ends)
        other = (number + 1 + below(15, tf.fill([batch_size], num_documents - 1))) % (
            num_documents
        )
        other_start = tf.where(
            other > 0, tf.gather(document_ends, tf.maximum(other - 1, 0)), 0
        )
        other_end = tf.gather(document_ends, other)
        # From a random sentence to the last word that fits.
        lowest = tf.searchsorted(sentences, other_start, side="left")
        highest = tf.searchsorted(sentences, other_end, side="left")
        begin = tf.gather(sentences, lowest + below(16, highest - lowest))
        length = tf.gather(words, end) - tf.gather(words, split)
        begin_position = tf.gather(words, begin)
        limit = tf.minimum(begin_position + length, tf.gather(words, other_end))
        last = tf.gather(words, tf.searchsorted(words, limit, side="right") - 1)
        # A word that is longer than the segment is cut.
        return begin_position, tf.where(last > begin_position, last, limit)

    def make_batch(step):
        def uniform(number, *shape):
            """Random numbers that depend on seed, step and `number` alone."""
            key = tf.random.experimental.stateless_fold_in([seed, number], step)
            return tf.random.stateless_uniform(shape, key)

        def below(number, limit):
            """Random whole numbers from 0 to `limit - 1`, `(B,)`."""
            drawn = uniform(number, batch_size) * tf.cast(limit, tf.float32)
            return tf.minimum(tf.cast(drawn, tf.int32), limit - 1)

        index, _ = shuffled_rows(step, batch_size, num_rows, seed)

        # From which word to which, and where the second segment begins: at a
        # sentence where the row holds one, else at any word.
        start, end = tf.gather(starts, index), tf.gather(ends, index)
        short = uniform(10, batch_size) < short_sequence_share
        end = tf.where(short, start + 2 + below(11, end - start - 1), end)
        lowest = tf.searchsorted(sentences, start, side="right")
        highest = tf.searchsorted(sentences, end, side="left")
        sentence = lowest + below(12, tf.maximum(highest - lowest, 1))
        sentence = tf.gather(sentences, tf.minimum(sentence, len(sentences) - 1))
        split = tf.where(
            highest > lowest, sentence, start + 1 + below(13, end - start - 1)
        )
        negative = uniform(14, batch_size) < negative_share
        if pair_task == "sentence_order":
            start, split, end = (tf.gather(words, r) for r in (start, split, end))
            first_from, first_to = _either(tf, negative, split, end, start, split)
            second_from, second_to = _either(tf, negative, start, split, split, end)
        else:
            other_from, other_to = other_segment(start, split, end, below)
            first_from, first_to = tf.gather(words, start), tf.gather(words, split)
            second_from, second_to = _either(
                tf, negative, other_from, other_to, first_to, tf.gather(words, end)
            )
        packed = pack(
            tf.gather(ids, tf.ragged.range(first_from, first_to)),
            tf.gather(ids, tf.ragged.range(second_from, second_to)),
            sequence_length=sequence_length,
            start_id=tokenizer.start_id,
            end_id=tokenizer.end_id,
            padding_id=tokenizer.padding_id,
        )
        packed = {
            name: tf.ensure_shape(value, (batch_size, sequence_length))
            for name, value in packed.items()
        }
        inputs, hidden_ids, weights = mask(packed, uniform)
        targets = {
            "masked_lm": hidden_ids,
            pair_task: tf.cast(negative, tf.int32),
        }
        sample_weights = {
            "masked_lm": weights,
            pair_task: tf.ones([batch_size]),
        }
        return inputs, targets, sample_weights

    return batches_by_step(
        make_batch, num_rows, sequence_length, batch_size, num_epochs, first_step
    )


def _either(tf, condition, a, b, c, d):
    """The pair `a, b` where the condition holds, else the pair `c, d`."""
    return tf.where(condition, a, c), tf.where(condition, b, d)
