"""Where sentences end, and how a corpus is cut into rows."""

import re

import numpy as np

from keras_tformer.data.bulk_encoding import encode_in_bulk

# Batches that lie ready. AUTOTUNE lets them become some hundred over a long run.
BATCHES_AHEAD = 8

# Where a sentence ends and another one begins; no more than a good guess is needed.
_SENTENCE_BREAK = re.compile(
    r"""(?:(?<=[.!?])|(?<=[.!?]["')\]]))\s+(?=["'(\[]*[A-Z0-9])"""
)


def split_sentences(paragraphs):
    """Cuts paragraphs into sentences, by their punctuation.

    Example:
        >>> split_sentences(["One is 1.5 long. Two?", "Three"])
        ['One is 1.5 long.', 'Two?', 'Three']
    """
    return [s for p in paragraphs for s in _SENTENCE_BREAK.split(p) if s]


def word_starts(ids, starts_word):
    """Lists the places where a word begins; the first id begins one in any case.

    Args:
        ids: list of ints, at least one.
        starts_word: `(V,)` bool array.

    Example:
        >>> word_starts([1, 1, 0], np.array([True, False]))
        [0, 2]
    """
    return [0, *(np.flatnonzero(starts_word[ids[1:]]) + 1).tolist()]


def cut_at_words(ids, starts_word, longest):
    """Cuts ids at words into pieces of at most `longest`; a longer word is cut, too.

    Args:
        ids: list of ints, at least one.
        starts_word: `(V,)` bool array. Whatever it says, the first id begins a word.
        longest: int.

    Returns:
        A list of lists of ids.

    Example:
        >>> cut_at_words([0, 1, 0, 1, 1], np.array([True, False]), 4)
        [[0, 1], [0, 1, 1]]
    """
    pieces, start = [], 0
    while len(ids) - start > longest:
        starts = word_starts(ids[start : start + longest + 1], starts_word)
        end = start + (starts[-1] or longest)
        pieces.append(ids[start:end])
        start = end
    return [*pieces, ids[start:]]


def flatten_documents(documents, tokenizer, starts_word, longest):
    """Lays the whole corpus out as one row of ids.

    A sentence of more than `longest` ids counts as several, and so does a word.

    Returns:
        Four int32 arrays: the ids; the position of every word and, at the end, of
        the end; the number of the word that begins each sentence and, at the end,
        of the end; the number of the sentence after each document.
    """
    texts, counts = [], []
    for document in documents:
        found = split_sentences(getattr(document, "paragraphs", document))
        texts += found
        counts.append(len(found))
    encoded = encode_in_bulk(tokenizer, texts)
    total = sum(map(len, encoded))
    ids = np.fromiter((i for row in encoded for i in row), "int32", total)
    lengths, sentence_counts = [], [0]
    for row in encoded:
        if len(row) > longest:
            lengths += [len(p) for p in cut_at_words(row, starts_word, longest)]
        elif len(row):
            lengths.append(len(row))
        sentence_counts.append(len(lengths))
    sentence_starts = np.append(0, np.cumsum(lengths)).astype("int64")
    is_word = np.append(starts_word[ids], True) if total else np.ones(1, bool)
    # The first piece of a sentence begins a word, whatever it looks like.
    is_word[sentence_starts] = True
    words = np.flatnonzero(is_word)
    sentences = np.searchsorted(words, sentence_starts)
    document_ends = np.array(sentence_counts)[np.cumsum(counts, dtype="int64")]
    return ids, *(a.astype("int32") for a in (words, sentences, document_ends))


def tile_documents(words, sentences, document_ends, room):
    """Tiles every document with rows of whole sentences, at most `room` ids each.

    A row takes sentences until the next one does not fit, but leaves no sentence
    alone at the end where it can. Every other document is tiled from its end: the
    sentence that still fits is a short one, and were it always the last of its row,
    lengths would tell the order of two segments.

    Args:
        words, sentences, document_ends: from `flatten_documents`, where `longest` was
            at most half of `room`.
        room: int.

    Returns:
        Two int32 arrays: the first sentence of every row and the one after its last.
    """
    lengths = np.diff(words[sentences])
    rows = []
    begin = 0
    for number, end in enumerate(document_ends.tolist()):
        if number % 2:
            found = _tile(lengths[begin:end][::-1], room)
            rows += [(end - last, end - first) for first, last in found]
        else:
            found = _tile(lengths[begin:end], room)
            rows += [(begin + first, begin + last) for first, last in found]
        begin = end
    # A word for each segment.
    rows = [(a, b) for a, b in rows if sentences[b] - sentences[a] >= 2]
    starts, ends = np.array(rows, "int32").reshape(-1, 2).T
    return starts, ends


def _tile(lengths, room):
    """Gives the first sentence of every row and the one after its last."""
    positions = np.append(0, np.cumsum(lengths))
    rows, start, total = [], 0, len(lengths)
    while start < total:
        end = int(np.searchsorted(positions, positions[start] + room, side="right")) - 1
        if total - end == 1 and end - start > 2:
            end -= 1
        rows.append((start, end))
        start = end
    return rows


def shuffled_rows(step, batch_size, num_rows, seed):
    """Says which rows a batch holds: every epoch has its own order of all rows.

    Args:
        step: int64 scalar tensor, number of the batch.
        batch_size: int.
        num_rows: int.
        seed: int.

    Returns:
        Two int64 tensors `(B,)`: the numbers of the rows and their epochs.
    """
    import tensorflow as tf

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
    return index, epoch


def batches_by_step(
    make_batch, num_rows, sequence_length, batch_size, num_epochs, first_step
):
    """Returns the data set of what `make_batch` makes of each step's number.

    Raises:
        ValueError: if there are fewer rows than a batch.
    """
    import tensorflow as tf

    if num_rows == 0 or (num_epochs is not None and num_rows * num_epochs < batch_size):
        raise ValueError(
            f"The documents hold {num_rows} rows of {sequence_length} tokens, fewer "
            f"than one batch of {batch_size}; give more text or a smaller batch_size."
        )
    last_step = np.iinfo("int64").max
    if num_epochs is not None:
        last_step = num_rows * num_epochs // batch_size
    dataset = tf.data.Dataset.range(first_step, last_step)
    dataset = dataset.map(make_batch, num_parallel_calls=tf.data.AUTOTUNE)
    return dataset.prefetch(BATCHES_AHEAD)
