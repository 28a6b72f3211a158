"""What the tokenizers share inside of the TensorFlow graph."""

import re

import numpy as np


def import_tensorflow_text():
    """Imports TensorFlow and TF Text, or says what to install."""
    try:
        import tensorflow as tf
        import tensorflow_text as tf_text
    except ImportError:
        raise ImportError(
            "Tokenizing inside the TensorFlow graph needs the package "
            "`tensorflow-text`, in the version of your TensorFlow. Install it with: "
            'pip install "keras_tformer[text]"'
        ) from None
    return tf, tf_text


def change_beyond_ascii(strings, change):
    """Applies `change` to the strings of a batch that are not all ASCII.

    Unicode's tables are slow to search, and most text needs none of them.

    Args:
        strings: `(B,)` string tensor.
        change: function `(N,)` string tensor -> `(N,)` string tensor.

    Returns:
        `(B,)` string tensor.
    """
    import tensorflow as tf

    beyond = tf.where(
        tf.strings.length(strings) != tf.strings.length(strings, "UTF8_CHAR")
    )
    changed = change(tf.gather_nd(strings, beyond))
    return tf.tensor_scatter_nd_update(strings, beyond, changed)


def tokenize_around(strings, special_ids, tokenize):
    """Tokenizes what stands between special tokens, each of which gives its id.

    Args:
        strings: `(B,)` string tensor (UTF-8).
        special_ids: dict, special token -> id.
        tokenize: function `(P,)` string tensor -> `(P, None)` int32 ragged ids.

    Returns:
        `(B, None)` int32 `tf.RaggedTensor`.
    """
    import tensorflow as tf

    # The longest first: where two tokens begin at one place, it is the one found.
    names = sorted(special_ids, key=len, reverse=True)
    # U+0001 separates. Both tokenizers drop it from text, as they drop U+0002.
    strings = tf.strings.regex_replace(strings, "\x01", "\x02")
    pattern = "|".join(map(re.escape, names))
    strings = tf.strings.regex_replace(strings, f"({pattern})", "\x01\\1\x01")
    parts = tf.strings.split(strings, "\x01")  # (B, None)
    equal = parts.values[:, None] == tf.constant(names)[None, :]  # (P, specials)
    ids = tf.constant([special_ids[name] for name in names], tf.int32)
    special_id = tf.reduce_max(tf.where(equal, ids[None, :], -1), axis=1)  # (P,)
    special = special_id >= 0
    ordinary = tokenize(tf.where(special, "", parts.values))  # (P, None)
    alone = tf.RaggedTensor.from_row_lengths(
        tf.boolean_mask(special_id, special), tf.cast(special, tf.int64)
    )
    return parts.with_values(tf.concat([ordinary, alone], axis=1)).merge_dims(1, 2)


def hide_long_words(ids, starts_word, lengths, unknown_id, max_characters):
    """Makes one unknown id of every word of more than `max_characters`.

    Args:
        ids: `(B, None)` int32 `tf.RaggedTensor`.
        starts_word: `(V,)` bool array, True where a piece begins a word.
        lengths: `(V,)` int array, characters of each piece.
        unknown_id: int.
        max_characters: int.

    Returns:
        `(B, None)` int32 `tf.RaggedTensor`.
    """
    import tensorflow as tf

    flat = ids.values
    first = tf.gather(tf.constant(starts_word), flat)
    word = tf.cumsum(tf.cast(first, tf.int32)) - 1  # the word that a piece is of
    length = tf.math.segment_sum(
        tf.gather(tf.constant(lengths, tf.int32), flat), tf.maximum(word, 0)
    )
    long = tf.gather(length > max_characters, tf.maximum(word, 0))
    hidden = ids.with_values(tf.where(long, unknown_id, flat))
    return tf.ragged.boolean_mask(hidden, ids.with_values(first | ~long))


def join_pieces(ids, vocabulary, end_id, hidden_ids, separator, changes):
    """Joins the pieces of each row to a string; what follows an end is left out.

    Args:
        ids: `(B, T)` int32 tensor.
        vocabulary: list of V strings.
        end_id: int.
        hidden_ids: list of ints that stand for nothing readable.
        separator: str between two pieces.
        changes: list of pairs, a regular expression and what replaces it afterwards.

    Returns:
        `(B,)` string tensor.
    """
    import tensorflow as tf

    is_hidden = np.isin(np.arange(len(vocabulary)), hidden_ids)
    is_end = tf.cast(ids == end_id, "int32")
    after_end = tf.cumsum(is_end, axis=1) > 0
    kept = ~after_end & ~tf.gather(tf.constant(is_hidden), ids)
    rows = tf.ragged.boolean_mask(ids, kept)
    pieces = rows.with_values(tf.gather(tf.constant(vocabulary), rows.values))
    texts = tf.strings.reduce_join(pieces, axis=1, separator=separator)
    for expression, replacement in changes:
        texts = tf.strings.regex_replace(texts, expression, replacement)
    return texts
