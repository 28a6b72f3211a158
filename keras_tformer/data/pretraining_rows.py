"""Where sentences end, and how a corpus is cut into rows."""

import re

import numpy as np

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


def cut_at_words(ids, starts_word, longest):
    """Cuts ids at words into pieces of at most `longest`; a longer word is cut, too.

    Args:
        ids: list of ints, at least one.
        starts_word: `(V,)` bool array. Whatever it says, the first id begins a word.
        longest: int.

    Returns:
        A list of pieces `(ids, places where a word begins)`.

    Example:
        >>> cut_at_words([0, 1, 0, 1, 1], np.array([True, False]), 4)
        [([0, 1], [0]), ([0, 1, 1], [0])]
    """
    starts = [0, *(np.flatnonzero(starts_word[ids[1:]]) + 1).tolist()]
    pieces = []
    while len(ids) > longest:
        end = next((start for start in reversed(starts) if start <= longest), 0)
        end = end or longest
        pieces.append((ids[:end], [start for start in starts if start < end]))
        ids = ids[end:]
        starts = [start - end for start in starts if start >= end]
        starts = starts if starts and starts[0] == 0 else [0, *starts]
    return [*pieces, (ids, starts)]


def flatten_documents(documents, tokenizer, starts_word):
    """Lays the whole corpus out as one row of ids.

    Returns:
        Four int32 arrays: the ids; the position of every word and, at the end, of
        the end; the number of the word that begins each sentence; the number of
        the word after each document.
    """
    texts, sentences_of = [], []
    for document in documents:
        paragraphs = getattr(document, "paragraphs", document)
        found = split_sentences(paragraphs)
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


def tile_documents(words, sentences, document_ends, room):
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
