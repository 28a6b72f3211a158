"""ALBERT's pretraining batches: masked words and the order of two segments."""

import re

import numpy as np

from keras_tformer.data.masking import MASKINGS, mask_tokens
from keras_tformer.text import pack

# Where a sentence ends and another one begins; no more than a good guess is needed.
_SENTENCE_BREAK = re.compile(
    r"""(?:(?<=[.!?])|(?<=[.!?]["')\]]))\s+(?=["'(\[]*[A-Z0-9])"""
)


def sentence_order_dataset(
    documents,
    tokenizer,
    sequence_length,
    batch_size,
    max_predictions=None,
    mask_share=0.15,
    masking="whole_word",
    seed=0,
    swap_share=0.5,
    short_sequence_share=0.1,
    num_epochs=None,
    first_step=0,
):
    """Turns documents into batches for masked words and sentence order.

    Each row packs two segments that follow each other in one document, swapped in
    `swap_share` of the rows, and hides some of its words: of the chosen tokens
    80 % become `[MASK]`, 10 % another token, 10 % stay. Documents are tokenized
    once, here. Segments are cut, swapped, masked and ordered anew in every epoch.
    Lan et al. 2019 (arXiv 1909.11942), section 3.1; Devlin et al. 2018 (arXiv
    1810.04805), appendix A.

    A batch depends on `seed` and its number alone. So a run that stopped after
    `n` steps goes on with `first_step=n` as if it had never stopped.

    Args:
        documents: list of `Document`, or of lists of paragraphs.
        tokenizer: `WordPieceTokenizer` or `SentencePieceTokenizer`.
        sequence_length: int. Length `T` of a row.
        batch_size: int. Rows `B` of a batch; all batches are full.
        max_predictions: int. Most masked tokens `P` of a row. By default
            `mask_share` of `sequence_length`, rounded up.
        mask_share: float. Share of the tokens, special ones not counted, that is
            chosen; at least one word a row.
        masking: `"whole_word"` hides all pieces of a word, `"ngram"` one to three
            words in a row (with chances 6 : 3 : 2), `"subword"` single pieces.
        seed: int. Seed of every random choice.
        swap_share: float. Share of the rows whose segments are swapped.
        short_sequence_share: float. Share of the rows that are cut to a random
            shorter length.
        num_epochs: int, or None to repeat without end.
        first_step: int. Number of batches to skip, at no cost.

    Returns:
        A `tf.data.Dataset` of `(inputs, targets, sample_weights)`:
        inputs: int32 `"token_ids"`, `"segment_ids"`, `"padding_mask"` `(B, T)` and
        `"mask_positions"` `(B, P)`, ascending, then 0;
        targets: int32 `"masked_lm"` `(B, P)`, the hidden ids, and
        `"sentence_order"` `(B,)`, 1 where swapped;
        sample weights: float32 `"masked_lm"` `(B, P)`, 1 where a position counts,
        and `"sentence_order"` `(B,)`, all 1.

    Raises:
        ValueError: if a share is outside of 0 to 1, `masking` is unknown, the
            sequence has no room, or the documents hold fewer rows than a batch.
    """
    import tensorflow as tf

    shares = {
        "mask_share": mask_share,
        "swap_share": swap_share,
        "short_sequence_share": short_sequence_share,
    }
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ValueError(f"{name} is {share}; expected a number from 0 to 1.")
    if masking not in MASKINGS:
        raise ValueError(
            f"masking is {masking!r}; expected one of {', '.join(MASKINGS)}."
        )
    room = sequence_length - 3
    if room < 2:
        raise ValueError(
            f"sequence_length is {sequence_length}; expected at least 5, room for "
            "three special tokens and two segments."
        )
    if max_predictions is None:
        max_predictions = int(np.ceil(mask_share * sequence_length))
    if not 1 <= max_predictions <= room:
        raise ValueError(
            f"max_predictions is {max_predictions}; expected 1 to {room}, the tokens "
            f"of a row of {sequence_length} that are not special."
        )
    starts_word = tokenizer.starts_word
    ids, words, sentences, documents_end = _flatten(documents, tokenizer, starts_word)
    starts, ends = _windows(words, sentences, documents_end, room)
    num_rows = len(starts)
    if num_rows == 0 or (num_epochs is not None and num_rows * num_epochs < batch_size):
        raise ValueError(
            f"The documents hold {num_rows} rows of {sequence_length} tokens, fewer "
            f"than one batch of {batch_size}; give more text or a smaller batch_size."
        )
    special_ids = [
        tokenizer.padding_id,
        tokenizer.unknown_id,
        tokenizer.start_id,
        tokenizer.end_id,
        tokenizer.mask_id,
    ]
    ordinary_ids = np.setdiff1d(np.arange(tokenizer.vocabulary_size), special_ids)
    with tf.init_scope():
        ids, words, sentences = map(tf.constant, (ids, words, sentences))
        starts, ends = tf.constant(starts), tf.constant(ends)  # (rows,)
        starts_word = tf.constant(starts_word)  # (V,)
        ordinary_ids = tf.constant(ordinary_ids.astype("int32"))

    def make_batch(step):
        def uniform(number, *shape):
            """Random numbers that depend on seed, step and `number` alone."""
            key = tf.random.experimental.stateless_fold_in([seed, number], step)
            return tf.random.stateless_uniform(shape, key)

        def below(number, limit):
            """Random whole numbers from 0 to `limit - 1`, `(B,)`."""
            drawn = uniform(number, batch_size) * tf.cast(limit, tf.float32)
            return tf.minimum(tf.cast(drawn, tf.int32), limit - 1)

        # Which rows: every epoch has its own order.
        row = step * batch_size + tf.range(batch_size, dtype=tf.int64)  # (B,)
        epoch, place = row // num_rows, row % num_rows
        order_seed = tf.stack([0 * epoch + seed, epoch, 0 * epoch], axis=1)  # (B, 3)
        # The wrapper in tf.random.experimental takes no seed per index.
        index = tf.raw_ops.RandomIndexShuffle(
            index=place,
            seed=tf.cast(order_seed, tf.int32),
            max_index=tf.constant(num_rows - 1, tf.int64),
            rounds=4,
        )

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
        swapped = uniform(14, batch_size) < swap_share
        start, split, end = (tf.gather(words, rank) for rank in (start, split, end))
        packed = pack(
            tf.gather(
                ids, tf.ragged.range(*_either(tf, swapped, split, end, start, split))
            ),
            tf.gather(
                ids, tf.ragged.range(*_either(tf, swapped, start, split, split, end))
            ),
            sequence_length=sequence_length,
            start_id=tokenizer.start_id,
            end_id=tokenizer.end_id,
            padding_id=tokenizer.padding_id,
        )
        packed = {
            name: tf.ensure_shape(value, (batch_size, sequence_length))
            for name, value in packed.items()
        }
        token_ids = packed["token_ids"]
        masked_ids, positions, hidden_ids, weights = mask_tokens(
            token_ids,
            (packed["padding_mask"] == 1)
            & (token_ids != tokenizer.start_id)
            & (token_ids != tokenizer.end_id),
            tf.gather(starts_word, token_ids),
            tokenizer.mask_id,
            ordinary_ids,
            max_predictions,
            mask_share,
            masking,
            uniform,
        )
        inputs = {**packed, "token_ids": masked_ids, "mask_positions": positions}
        targets = {
            "masked_lm": hidden_ids,
            "sentence_order": tf.cast(swapped, tf.int32),
        }
        sample_weights = {
            "masked_lm": weights,
            "sentence_order": tf.ones([batch_size]),
        }
        return inputs, targets, sample_weights

    last_step = np.iinfo("int64").max
    if num_epochs is not None:
        last_step = num_rows * num_epochs // batch_size
    dataset = tf.data.Dataset.range(first_step, last_step)
    dataset = dataset.map(make_batch, num_parallel_calls=tf.data.AUTOTUNE)
    return dataset.prefetch(tf.data.AUTOTUNE)


def _either(tf, condition, a, b, c, d):
    """The pair `a, b` where the condition holds, else the pair `c, d`."""
    return tf.where(condition, a, c), tf.where(condition, b, d)


def _flatten(documents, tokenizer, starts_word):
    """Lays the whole corpus out as one row of ids.

    Returns:
        Four int32 arrays: the ids; the position of every word and, at the end, of
        the end; the number of the word that begins each sentence; the number of
        the word after each document.
    """
    texts, sentences_of = [], []
    for document in documents:
        paragraphs = getattr(document, "paragraphs", document)
        found = [s for p in paragraphs for s in _SENTENCE_BREAK.split(p) if s]
        texts += found
        sentences_of.append(len(found))
    encoded = tokenizer.encode(texts)
    lengths = np.fromiter(map(len, encoded), "int64", len(encoded))
    total = int(lengths.sum())
    ids = np.fromiter((i for row in encoded for i in row), "int32", total)
    sentence_ends = np.cumsum(lengths)
    is_word = starts_word[ids] if total else np.zeros(0, bool)
    # The first piece of a sentence begins a word, whatever it looks like.
    is_word[(sentence_ends - lengths)[lengths > 0]] = True
    words = np.append(np.flatnonzero(is_word), total)
    sentences = np.searchsorted(words, (sentence_ends - lengths)[lengths > 0])
    document_ends = np.append(0, sentence_ends)[np.cumsum(sentences_of)]
    document_ends = np.searchsorted(words, document_ends)
    return ids, *(a.astype("int32") for a in (words, sentences, document_ends))


def _windows(words, sentences, document_ends, room):
    """Tiles every document with rows of at most `room` ids.

    A row is filled to the last word that fits; the next one begins at the last
    sentence that begins in it, so that rows begin with sentences.

    Returns:
        Two int32 arrays: the first word of every row and the word after its last.
    """
    starts, ends = [], []
    document_start = 0
    for document_end in document_ends.tolist():
        start = document_start
        while start < document_end:
            fits = np.searchsorted(words, words[start] + room, side="right") - 1
            end = min(int(fits), document_end)
            if end - start >= 2:  # two segments of at least one word each
                starts.append(start)
                ends.append(end)
            if end == document_end:
                break
            sentence = np.searchsorted(sentences, end, side="right") - 1
            sentence = int(sentences[sentence])
            # A sentence longer than the row goes on where the row ended; a word
            # longer than the row is left out.
            start = sentence if sentence > start else max(end, start + 1)
        document_start = document_end
    return np.array(starts, "int32"), np.array(ends, "int32")
