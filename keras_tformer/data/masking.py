"""Which tokens a masked language model has to guess, as graph operations."""

import numpy as np

MASKINGS = ("whole_word", "subword", "ngram")
# Chances of 1, 2 and 3 words in a row: proportional to 1/n (ALBERT, section 3.1).
_NGRAM_THRESHOLDS = np.cumsum([6 / 11, 3 / 11])
_MIX = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)  # SplitMix64's multipliers


def mask_tokens(
    token_ids,
    maskable,
    starts_word,
    mask_id,
    ordinary_ids,
    max_predictions,
    mask_share,
    masking,
    uniform,
):
    """Hides some tokens of every row and says where they stood.

    Words (or runs of words, or single pieces) are put in random order and taken
    from the front until `mask_share` of the row is reached, to within half a word.
    Of the chosen tokens 80 % become `mask_id`, 10 % a random one of
    `ordinary_ids`, 10 % stay (Devlin et al. 2018, appendix A.1).

    Args:
        token_ids: `(B, T)` int32 tensor.
        maskable: `(B, T)` bool tensor, False at special tokens and padding.
        starts_word: `(B, T)` bool tensor, True where a word begins.
        mask_id: int.
        ordinary_ids: int32 tensor of the ids that may replace a token.
        max_predictions: int. Most chosen tokens `P` of a row.
        mask_share: float.
        masking: one of `MASKINGS`.
        uniform: function of a number and a shape that returns random numbers in
            [0, 1), the same for the same number.

    Returns:
        Four tensors: masked token ids `(B, T)`, mask positions int32 `(B, P)`,
        ascending and then 0, the ids hidden there int32 `(B, P)`, and their
        weights float32 `(B, P)`, 0 where there are fewer than `P`.
    """
    import tensorflow as tf

    batch_size, length = token_ids.shape
    shape = (batch_size, length)
    # A group is hidden whole. It never reaches over a special token.
    after_special = tf.pad(~maskable[:, :-1], [[0, 0], [1, 0]], constant_values=True)
    barrier = ~maskable | after_special
    begins = barrier if masking != "subword" else tf.ones_like(maskable)
    if masking == "whole_word":
        begins = barrier | starts_word
    elif masking == "ngram":
        words = tf.cumsum(tf.cast(barrier | starts_word, tf.int32), axis=1) - 1
        drawn = uniform(0, *shape)
        run = 1 + tf.reduce_sum(
            tf.cast(drawn[..., None] >= _NGRAM_THRESHOLDS, tf.int32), axis=-1
        )
        runs = tf.searchsorted(tf.cumsum(run, axis=1), words, side="right")  # (B, T)
        before = tf.pad(runs[:, :-1], [[0, 0], [1, 0]], constant_values=-1)
        begins = barrier | (runs != before)
    group = tf.cumsum(tf.cast(begins, tf.int32), axis=1) - 1  # (B, T)

    # Length and first position of each token's group.
    lengths = tf.math.bincount(group, minlength=length, maxlength=length, axis=-1)
    lengths = tf.ensure_shape(lengths, shape)
    firsts = tf.cumsum(lengths, axis=1, exclusive=True)
    group_length = tf.gather(lengths, group, batch_dims=1)  # (B, T)
    within = tf.range(length) - tf.gather(firsts, group, batch_dims=1)

    # Groups in random order; a token's rank less its place in the group is the
    # number of tokens that were taken before the group.
    score = tf.gather(uniform(1, *shape), group, batch_dims=1)  # (B, T)
    possible = maskable & (group_length <= max_predictions)
    score = tf.where(possible, score, 2.0)
    rank = tf.argsort(tf.argsort(score, stable=True))  # (B, T)
    taken = rank - within
    count = tf.reduce_sum(tf.cast(maskable, tf.float32), axis=1, keepdims=True)
    middle = tf.cast(2 * taken + group_length, tf.float32) / 2  # (B, T)
    chosen = possible & ((taken == 0) | (middle <= mask_share * count))
    chosen &= taken + group_length <= max_predictions

    # Chosen positions in ascending order, then the rest.
    order = tf.argsort(tf.cast(~chosen, tf.int32), stable=True)[:, :max_predictions]
    counts = tf.gather(chosen, order, batch_dims=1)  # (B, P)
    positions = tf.where(counts, order, 0)
    hidden_ids = tf.where(counts, tf.gather(token_ids, positions, batch_dims=1), 0)

    fate = uniform(2, *shape)
    number = tf.cast(tf.shape(ordinary_ids)[0], tf.float32)
    drawn = tf.cast(uniform(3, *shape) * number, tf.int32)
    other_ids = tf.gather(ordinary_ids, drawn)
    masked_ids = tf.where(chosen & (fate < 0.9), other_ids, token_ids)
    masked_ids = tf.where(chosen & (fate < 0.8), mask_id, masked_ids)
    return masked_ids, positions, hidden_ids, tf.cast(counts, tf.float32)


def masker(tokenizer, max_predictions, mask_share, masking):
    """Returns a function that hides tokens of packed rows.

    Args:
        tokenizer: `WordPieceTokenizer` or `SentencePieceTokenizer`.
        max_predictions, mask_share, masking: see `mask_tokens`.

    Returns:
        A function `(inputs, uniform) -> (inputs, hidden ids, weights)`: it takes the
        packed rows as a dict of `(B, T)` tensors and the random numbers of
        `mask_tokens`, and returns the rows with masks and `"mask_positions"`
        `(B, P)`, the ids hidden there `(B, P)` and their weights `(B, P)`.
    """
    import tensorflow as tf

    with tf.init_scope():
        starts_word = tf.constant(tokenizer.starts_word)  # (V,)
        replacements = tf.constant(ordinary_ids(tokenizer))

    def mask(inputs, uniform):
        token_ids = inputs["token_ids"]
        masked_ids, positions, hidden_ids, weights = mask_tokens(
            token_ids,
            maskable_tokens(inputs, tokenizer),
            tf.gather(starts_word, token_ids),
            tokenizer.mask_id,
            replacements,
            max_predictions,
            mask_share,
            masking,
            uniform,
        )
        inputs = {**inputs, "token_ids": masked_ids, "mask_positions": positions}
        return inputs, hidden_ids, weights

    return mask


def check_masking(sequence_length, max_predictions, mask_share, masking):
    """Checks what pretraining was asked for and returns the number of predictions.

    Args:
        sequence_length: int. Length `T` of a row.
        max_predictions: int, or None for `mask_share` of the row, rounded up.
        mask_share: float.
        masking: str.

    Returns:
        int. Most chosen tokens `P` of a row.

    Raises:
        ValueError: if one of them is out of range.

    Example:
        >>> check_masking(128, None, 0.15, "whole_word")
        20
    """
    check_share("mask_share", mask_share)
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
    return max_predictions


def check_share(name, share):
    """Raises ValueError where a share is not a number from 0 to 1."""
    if not 0 <= share <= 1:
        raise ValueError(f"{name} is {share}; expected a number from 0 to 1.")


def ordinary_ids(tokenizer):
    """Returns the ids that may stand in for a masked token, an int32 array."""
    special_ids = [
        tokenizer.padding_id,
        tokenizer.unknown_id,
        tokenizer.start_id,
        tokenizer.end_id,
        tokenizer.mask_id,
    ]
    ids = np.setdiff1d(np.arange(tokenizer.vocabulary_size), special_ids)
    return ids.astype("int32")


def maskable_tokens(packed, tokenizer):
    """Says where a packed row holds text: `(B, T)` bool, False at special tokens."""
    token_ids = packed["token_ids"]
    return (
        (packed["padding_mask"] == 1)
        & (token_ids != tokenizer.start_id)
        & (token_ids != tokenizer.end_id)
    )


def row_uniform(seed, row_numbers, epochs):
    """Makes random numbers that each row has for itself, wherever it is computed.

    TensorFlow's stateless generators take one key for a whole batch, so that a row's
    numbers would depend on the rows beside it. Here every number is a hash of seed,
    row, epoch, draw and position: SplitMix64 (Steele et al. 2014, figure 16).

    Args:
        seed: int.
        row_numbers: `(B,)` int64 tensor, another one for every row of the corpus.
        epochs: `(B,)` int64 tensor.

    Returns:
        A function of a number and the shape `(B, T)` that returns float32 in [0, 1),
        the same for the same number.
    """
    import tensorflow as tf

    def mixed(x):
        x = (x ^ tf.bitwise.right_shift(x, _word(tf, 30))) * _word(tf, _MIX[0])
        x = (x ^ tf.bitwise.right_shift(x, _word(tf, 27))) * _word(tf, _MIX[1])
        return x ^ tf.bitwise.right_shift(x, _word(tf, 31))

    step = _word(tf, 0x9E3779B97F4A7C15)
    key = mixed(_word(tf, seed % (1 << 64)) + step)
    key = mixed(key + step * tf.cast(row_numbers, tf.uint64))
    key = mixed(key + step * tf.cast(epochs, tf.uint64))[:, None]  # (B, 1)

    def uniform(number, batch_size, length):
        del batch_size  # the keys know it
        position = tf.cast(tf.range(length), tf.uint64) + _word(tf, (number + 1) << 32)
        bits = mixed(key + step * position)  # (B, T)
        bits = tf.bitwise.right_shift(bits, _word(tf, 40))  # float32 holds 24 exactly
        return tf.cast(tf.cast(bits, tf.int32), tf.float32) / (1 << 24)

    return uniform


def _word(tf, number):
    return tf.constant(number, tf.uint64)
