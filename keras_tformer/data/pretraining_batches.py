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
    # Half of a row at most, so that any two sentences have room in one.
    ids, words, sentences, document_ends = flatten_documents(
        documents, tokenizer, tokenizer.starts_word, max(room // 2, 1)
    )
    starts, ends = tile_documents(words, sentences, document_ends, room)
    num_rows = len(starts)
    # Documents without a word are nobody's neighbour.
    document_ends = np.unique(np.append(0, document_ends)).astype("int32")[1:]
    num_documents = len(document_ends)
    if pair_task == "next_sentence" and num_documents < 2:
        raise ValueError(
            "There is one document; expected at least two, so that a segment can come "
            "from another one. Give more text, or use sentence_order_dataset."
        )
    with tf.init_scope():
        positions = tf.constant(words[sentences])  # where each sentence begins
        ids, words, sentences = map(tf.constant, (ids, words, sentences))
        starts, ends = tf.constant(starts), tf.constant(ends)  # (rows,)
        document_ends = tf.constant(document_ends)  # (documents,)
    mask = masker(tokenizer, max_predictions, mask_share, masking)

    def other_segment(document, size, below):
        """Sentences of another document, as many as fit into `size` ids."""
        other = document + 1 + below(15, tf.fill([batch_size], num_documents - 1))
        other = other % num_documents
        lowest = tf.where(
            other > 0, tf.gather(document_ends, tf.maximum(other - 1, 0)), 0
        )
        highest = tf.gather(document_ends, other)
        # Where no tried sentence fits, the last one is cut: as rarely as can be, for
        # the right second segment ends with a sentence always.
        for attempt in range(8):
            begin = lowest + below(16 + attempt, highest - lowest)
            fits = tf.gather(positions, begin + 1) - tf.gather(positions, begin) <= size
            if attempt == 0:
                chosen, found = begin, fits
            chosen, found = tf.where(found, chosen, begin), found | fits
        begin = tf.gather(positions, chosen)
        limit = tf.minimum(begin + size, tf.gather(positions, highest))
        last_sentence = tf.searchsorted(positions, limit, side="right") - 1
        last_word = tf.searchsorted(words, limit, side="right") - 1
        end = tf.where(
            found, tf.gather(positions, last_sentence), tf.gather(words, last_word)
        )
        # A word that is longer than the segment is cut.
        return begin, tf.where(end > begin, end, limit)

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

        # From which sentence to which, and at which one the second segment begins; a
        # sentence that is alone is cut at any word.
        first, last = tf.gather(starts, index), tf.gather(ends, index)
        document = tf.searchsorted(document_ends, first, side="right")
        is_short = uniform(10, batch_size) < short_sequence_share
        # Where nothing else could follow, or the row is to be shorter.
        is_full = ~is_short & (last < tf.gather(document_ends, document))
        is_alone = last - first < 2
        others = tf.maximum(last - first - 1, 1)
        last = tf.where(is_short & ~is_alone, first + 2 + below(11, others), last)
        others = tf.maximum(last - first - 1, 1)
        first_word, last_word = tf.gather(sentences, first), tf.gather(sentences, last)
        split_word = tf.where(
            is_alone,
            first_word + 1 + below(13, tf.maximum(last_word - first_word - 1, 1)),
            tf.gather(sentences, first + tf.where(is_alone, 0, 1 + below(12, others))),
        )
        start, split, end = (
            tf.gather(words, word) for word in (first_word, split_word, last_word)
        )
        negative = uniform(14, batch_size) < negative_share
        if pair_task == "sentence_order":
            first_from, first_to = _either(tf, negative, split, end, start, split)
            second_from, second_to = _either(tf, negative, start, split, split, end)
        else:
            size = tf.where(is_full, room - (split - start), end - split)
            other_from, other_to = other_segment(document, size, below)
            first_from, first_to = start, split
            second_from, second_to = _either(
                tf, negative, other_from, other_to, split, end
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
