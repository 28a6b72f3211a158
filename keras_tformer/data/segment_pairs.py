"""Pairs of segments for pretraining, cut as BERT and ALBERT cut them."""

from typing import NamedTuple

import numpy as np

from keras_tformer.data.bulk_encoding import encode_in_bulk
from keras_tformer.data.masking import check_share
from keras_tformer.data.pretraining_rows import (
    cut_at_words,
    split_sentences,
    word_starts,
)

PAIR_TASKS = ("next_sentence", "sentence_order")


class SegmentPair(NamedTuple):
    """Two segments of text as ids, without special tokens.

    Attributes:
        first: list of ints.
        second: list of ints.
        label: int, 0 where the second segment follows the first; 1 where it comes
            from another document (next sentence) or both were swapped (sentence
            order).
    """

    first: list
    second: list
    label: int


def segment_pairs(
    documents,
    tokenizer,
    sequence_length,
    pair_task="next_sentence",
    negative_share=0.5,
    short_sequence_share=0.1,
    seed=0,
    duplicate=0,
):
    """Cuts documents into pairs of segments that fill a row together.

    Sentences are gathered until the next one would not fit, and cut at a random one
    into two segments. For `"next_sentence"`, `negative_share` of the pairs get another
    document's text as second segment, and the sentences that it replaced begin the
    next pair. For `"sentence_order"`, `negative_share` of the pairs are swapped.
    Devlin et al. 2018 (arXiv 1810.04805), appendix A.2; Lan et al. 2019 (arXiv
    1909.11942), section 3.1.

    Where segments begin and end says nothing about the label, as far as can be: all of
    them are whole sentences. Every token stands in just one pair (in other documents'
    second segments besides).
    BERT's own preparation cuts off what does not fit, and makes every sentence that
    is left alone a negative; here a sentence longer than half a row is cut into
    pieces, and one that is left alone is cut in two. Only a document of one word, which
    has no order, is left out for `"sentence_order"` (and the last of three words that
    are each about a third of a row long).

    Args:
        documents: list of `Document`, or of lists of paragraphs.
        tokenizer: `WordPieceTokenizer` or `SentencePieceTokenizer`.
        sequence_length: int. Length `T` of a row with its three special tokens.
        pair_task: `"next_sentence"` or `"sentence_order"`.
        negative_share: float. Share of the pairs with label 1.
        short_sequence_share: float. Share of the pairs with a random shorter length.
        seed: int, 0 or more. Seed of every random choice.
        duplicate: int. Number of the pass over the documents: another one cuts them
            otherwise.

    Yields:
        `SegmentPair`s, in the order of the documents. A pair depends on `seed`,
        `duplicate` and the documents alone.

    Raises:
        ValueError: if an argument is out of range, or if there is only one document
            to take next sentences from.

    Example:
        >>> from keras_tformer.text import WordPieceTokenizer
        >>> names = "[PAD] [UNK] [CLS] [SEP] [MASK] a b . c".split()
        >>> pairs = segment_pairs(
        ...     [["A b. C.", "B c."]], WordPieceTokenizer(names), 13, "sentence_order",
        ...     negative_share=0.0, short_sequence_share=0.0,
        ... )
        >>> [pair.first + pair.second for pair in pairs]
        [[5, 6, 7, 8, 7, 6, 8, 7]]
    """
    check_share("negative_share", negative_share)
    check_share("short_sequence_share", short_sequence_share)
    if pair_task not in PAIR_TASKS:
        raise ValueError(
            f"pair_task is {pair_task!r}; expected one of {', '.join(PAIR_TASKS)}."
        )
    room = sequence_length - 3
    if room < 2:
        raise ValueError(
            f"sequence_length is {sequence_length}; expected at least 5, room for "
            "three special tokens and two segments."
        )
    corpus = _encoded(documents, tokenizer, room // 2)
    filled = [number for number, pieces in enumerate(corpus) if pieces]
    starts_word = tokenizer.starts_word
    random_second = pair_task == "next_sentence"
    if random_second and len(filled) < 2:
        raise ValueError(
            f"There are {len(filled)} documents with text; expected at least two, so "
            'that a segment can come from another one. Use pair_task="sentence_order".'
        )
    for place, number in enumerate(filled):
        draw = np.random.default_rng([seed, duplicate, number])
        pieces, index = corpus[number], 0
        while index < len(pieces):
            target = room
            if draw.random() < short_sequence_share:
                target = int(draw.integers(2, room + 1))
            chunk, length = [pieces[index]], len(pieces[index])
            while (
                index + len(chunk) < len(pieces)
                and length + len(pieces[index + len(chunk)]) <= target
            ):
                chunk.append(pieces[index + len(chunk)])
                length += len(chunk[-1])
            negative = bool(draw.random() < negative_share)
            if not (random_second and negative):
                followers = pieces[index + len(chunk) : index + len(chunk) + 2]
                _with_company(chunk, followers, length, room, starts_word)
            used = len(chunk)
            if len(chunk) == 1 and not (random_second and negative):
                chunk = _halves(chunk[0], starts_word, draw)
            if len(chunk) == 1 and not random_second:
                index += used  # one word alone has no order
                continue
            end = int(draw.integers(1, len(chunk))) if len(chunk) > 1 else 1
            first, second = _joined(chunk[:end]), _joined(chunk[end:])
            if random_second and (negative or not second):
                other = int(draw.integers(len(filled) - 1))
                other = filled[other + (other >= place)]
                size = max(target, len(first) + 1) - len(first)
                if second and index + used == len(pieces):  # what ends the document
                    size = len(second)
                second = _cut(corpus[other], size, starts_word, draw)
                used = min(used, end)
                negative = True
            if pair_task == "sentence_order" and negative:
                first, second = second, first
            index += used
            yield SegmentPair(first, second, int(negative))


def _encoded(documents, tokenizer, longest):
    """Turns documents into lists of sentences, long ones in pieces: lists of ids."""
    texts, counts = [], []
    for document in documents:
        found = split_sentences(getattr(document, "paragraphs", document))
        texts += found
        counts.append(len(found))
    encoded = iter(encode_in_bulk(tokenizer, texts))
    starts_word = tokenizer.starts_word
    corpus = []
    for count in counts:
        pieces = []
        for _, ids in zip(range(count), encoded, strict=False):
            if ids:
                pieces += cut_at_words(ids, starts_word, longest)
        corpus.append(pieces)
    return corpus


def _with_company(chunk, followers, length, room, starts_word):
    """Lets no single word stand alone, here or at the end of the document.

    Args:
        chunk: list of pieces; one may be added or taken off.
        followers: list of at most two pieces that come after it in the document.
        length: int, number of ids in the chunk.
        room: int, the most that there may be.
        starts_word: `(V,)` bool array.
    """

    def is_one_word(piece):
        return len(word_starts(piece, starts_word)) == 1

    if len(followers) == 1 and is_one_word(followers[0]):
        if length + len(followers[0]) <= room:
            chunk.append(followers.pop())
        elif len(chunk) > 1:
            followers.insert(0, chunk.pop())
    if len(chunk) == 1 and is_one_word(chunk[0]) and followers:
        chunk.append(followers[0])


def _halves(piece, starts_word, draw):
    """Cuts one piece in two at a random word, or returns it where it is one word."""
    starts = word_starts(piece, starts_word)
    if len(starts) < 2:
        return [piece]
    cut = starts[int(draw.integers(1, len(starts)))]
    return [piece[:cut], piece[cut:]]


def _cut(pieces, size, starts_word, draw):
    """Takes at most `size` ids from a random piece on, whole pieces where it can.

    The right second segment ends with a sentence, so this one has to, too, or where it
    ends would give the label away.
    """
    for _ in range(8):
        begin = int(draw.integers(len(pieces)))
        if len(pieces[begin]) <= size:
            break
    else:
        starts = word_starts(pieces[begin], starts_word)
        end = max(start for start in starts if start <= size)
        return pieces[begin][: end or size]
    ids = []
    for piece in pieces[begin:]:
        if len(ids) + len(piece) > size:
            break
        ids += piece
    return ids


def _joined(chunk):
    return [i for ids in chunk for i in ids]
