"""Texts to padded rows of ids, with spans back into the texts."""

import numpy as np

TRUNCATIONS = ("longest_first", "only_first", "only_second", False)


def encode_batch(
    tokenizer,
    first,
    second=None,
    *,
    sequence_length=None,
    truncation="longest_first",
    pad_to_sequence_length=True,
    add_special_tokens=True,
    return_offsets=False,
):
    """Turns texts or pairs of texts into rows `[CLS] first [SEP] second [SEP]`.

    Runs on the host without TensorFlow. Rows that are too long lose ids at the end of
    a text: with `"longest_first"` one by one from the longer text, from the second
    where both are equally long, as BERT's own data preparation and `pack` do. (The
    Rust library behind `transformers` 5 keeps the odd id in the other text.)

    Args:
        tokenizer: `WordPieceTokenizer` or `SentencePieceTokenizer`.
        first: list of strings, or of lists of words.
        second: the same for the second text of each pair, or None.
        sequence_length: int or None. Longest row; None means the tokenizer's
            `max_sequence_length`, and no limit where that is None too.
        truncation: `"longest_first"`, `"only_first"`, `"only_second"`: which text is
            cut; or False: a row that is too long is an error.
        pad_to_sequence_length: bool. All rows `sequence_length` long; otherwise, or
            where that is None, as long as the longest of them.
        add_special_tokens: bool. Put `[CLS]` and `[SEP]`.
        return_offsets: bool. Tell which characters and words the ids came from.

    Returns:
        Dict of int32 `(B, T)` arrays: `"token_ids"`; `"segment_ids"`, 1 in the second
        text and its `[SEP]`, else 0; `"padding_mask"`, 1 where a token stands. With
        `return_offsets` also `"offsets"` `(B, T, 2)`, such that
        `text[start:end]` of the original string gave the id, (0, 0) for special
        tokens and padding (in given words: spans within the word); and `"word_ids"`
        `(B, T)`, the number of the word within its text, -1 for special tokens and
        padding.

    Raises:
        ValueError: if `first` and `second` differ in number, if there is no room, if
            `truncation` is unknown, or if what it may cut is too short.

    Example:
        >>> from keras_tformer.text import WordPieceTokenizer, encode_batch
        >>> names = "[PAD] [UNK] [CLS] [SEP] [MASK] un ##do it".split()
        >>> tokenizer = WordPieceTokenizer(names)
        >>> batch = encode_batch(tokenizer, ["Undo  it"], return_offsets=True)
        >>> batch["token_ids"].tolist()
        [[2, 5, 6, 7, 3]]
        >>> batch["offsets"].tolist()
        [[[0, 0], [0, 2], [2, 4], [6, 8], [0, 0]]]
    """
    if truncation not in TRUNCATIONS:
        raise ValueError(
            f"truncation is {truncation!r}; expected one of "
            f"{', '.join(map(repr, TRUNCATIONS))}."
        )
    if second is None and truncation == "only_second":
        raise ValueError(
            "truncation is 'only_second' without second texts; expected them."
        )
    if second is not None and len(first) != len(second):
        raise ValueError(
            f"first has {len(first)} texts and second {len(second)}; expected one "
            "second text for every first."
        )
    sides = [_encode(tokenizer, first, return_offsets)]
    if second is not None:
        sides.append(_encode(tokenizer, second, return_offsets))
    limit = sequence_length
    if limit is None:
        limit = tokenizer.max_sequence_length
    num_special = (1 + len(sides)) * bool(add_special_tokens)
    kept = [
        _kept_lengths(
            [len(ids) for ids, _, _ in row], limit, num_special, truncation, i
        )
        for i, row in enumerate(zip(*sides, strict=True))
    ]
    length = max((sum(lengths) for lengths in kept), default=0) + num_special
    if sequence_length is not None and pad_to_sequence_length:
        length = sequence_length
    outputs = {
        "token_ids": np.full((len(first), length), tokenizer.padding_id, "int32"),
        "segment_ids": np.zeros((len(first), length), "int32"),
        "padding_mask": np.zeros((len(first), length), "int32"),
    }
    if return_offsets:
        outputs["offsets"] = np.zeros((len(first), length, 2), "int32")
        outputs["word_ids"] = np.full((len(first), length), -1, "int32")
    for i, lengths in enumerate(kept):
        at = int(add_special_tokens)
        outputs["token_ids"][i, :at] = tokenizer.start_id
        for segment, (side, count) in enumerate(zip(sides, lengths, strict=True)):
            ids, offsets, words = side[i]
            end = at + count
            outputs["token_ids"][i, at:end] = ids[:count]
            if return_offsets and count:
                outputs["offsets"][i, at:end] = offsets[:count]
                outputs["word_ids"][i, at:end] = words[:count]
            if add_special_tokens:
                outputs["token_ids"][i, end] = tokenizer.end_id
                end += 1
            outputs["segment_ids"][i, at:end] = segment
            at = end
        outputs["padding_mask"][i, :at] = 1
    return outputs


def _encode(tokenizer, texts, return_offsets):
    if return_offsets:
        return tokenizer.encode_with_offsets(texts)
    return [(ids, None, None) for ids in tokenizer.encode(texts)]


def _kept_lengths(lengths, limit, num_special, truncation, row):
    """How many ids of each text stay, in a row of at most `limit`."""
    if limit is None or sum(lengths) + num_special <= limit:
        return lengths
    room = limit - num_special
    problem = f"Row {row} has {sum(lengths) + num_special} ids, sequence_length {limit}"
    if room < len(lengths):
        raise ValueError(
            f"{problem}: too short for {num_special} special tokens and an id of each "
            "text. Raise sequence_length."
        )
    if truncation is False:
        raise ValueError(
            f"{problem} and truncation is False. Raise sequence_length, or choose what "
            "may be cut."
        )
    if truncation == "longest_first" and len(lengths) == 2:
        # What popping from the longer text, else from the second, comes to.
        first = min(lengths[0], max(room - room // 2, room - lengths[1]))
        return [first, min(lengths[1], room - first)]
    cut = 1 if truncation == "only_second" else 0
    kept = list(lengths)
    kept[cut] = room - (sum(lengths) - lengths[cut])
    if kept[cut] < 1:
        raise ValueError(
            f"{problem}, and truncation {truncation!r} cannot make room: the other "
            "text alone is too long. Choose 'longest_first'."
        )
    return kept
