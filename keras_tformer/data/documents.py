"""A corpus is a list of documents; cleaning it of doubles and cutting it in parts."""

import collections
import random
from typing import NamedTuple

from keras_tformer.data.bulk_encoding import encode_in_bulk


class Document(NamedTuple):
    """Paragraphs that follow each other, and the class they share.

    Attributes:
        label: str. Empty where the text has no class.
        paragraphs: list of strings.
    """

    label: str
    paragraphs: list[str]


def texts_and_labels(documents):
    """Lays the paragraphs of all documents side by side, each with its label.

    Returns:
        Two lists of equal length: the paragraphs and their labels.
    """
    texts = [text for document in documents for text in document.paragraphs]
    labels = [d.label for d in documents for _ in d.paragraphs]
    return texts, labels


def deduplicate(documents):
    """Keeps the first of paragraphs that are equal but for case and white space.

    Equal over the whole corpus, not within a document, so that no paragraph can
    stand on both sides of a later split. Documents left empty are dropped.

    Args:
        documents: list of `Document`.

    Returns:
        A new list of `Document`, in the same order.

    Example:
        >>> documents = [Document("a", ["One two."]), Document("b", ["one  TWO."])]
        >>> deduplicate(documents)
        [Document(label='a', paragraphs=['One two.'])]
    """
    seen = set()
    kept_documents = []
    for document in documents:
        kept = []
        for paragraph in document.paragraphs:
            key = " ".join(paragraph.casefold().split())
            if key and key not in seen:
                seen.add(key)
                kept.append(paragraph)
        if kept:
            kept_documents.append(Document(document.label, kept))
    return kept_documents


def split_documents(
    documents, shares=(0.8, 0.1, 0.1), seed=0, max_paragraphs_per_label=None
):
    """Cuts a corpus into parts by document, the same shares of every label.

    Documents of a label are dealt out by size, so that every part gets its share
    of long and of short ones; which of those of about equal size go where is
    random.

    Args:
        documents: list of `Document`, best after `deduplicate`.
        shares: floats that add up to 1; train, dev and test by default.
        seed: int. Another seed gives another split.
        max_paragraphs_per_label: int, or None for all. Leaves out random documents
            of a label while it has more paragraphs.

    Returns:
        A tuple with one list of `Document` per share, each in corpus order.

    Raises:
        ValueError: if a share is not positive, the shares do not add up to 1, or a
            label has too few documents to stand in every part.
    """
    if min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(
            f"shares is {tuple(shares)}; expected positive numbers that add up to 1, "
            "such as (0.8, 0.1, 0.1)."
        )
    by_label = collections.defaultdict(list)
    for index, document in enumerate(documents):
        by_label[document.label].append(index)
    sizes = [len(document.paragraphs) for document in documents]
    block = round(1 / min(shares))
    parts = [[] for _ in shares]
    for label in sorted(by_label):
        generator = random.Random(f"{seed} {label}")
        indices = by_label[label]
        generator.shuffle(indices)
        if max_paragraphs_per_label is not None:
            while len(indices) > 1 and (
                sum(sizes[i] for i in indices) > max_paragraphs_per_label
            ):
                indices.pop()
        indices.sort(key=lambda i: -sizes[i])
        counts = [0 for _ in shares]
        for first in range(0, len(indices), block):
            dealt = indices[first : first + block]
            generator.shuffle(dealt)
            for number, index in enumerate(dealt, first + 1):
                lacks = [s * number - c for s, c in zip(shares, counts, strict=True)]
                part = lacks.index(max(lacks))
                parts[part].append(index)
                counts[part] += 1
        if not all(counts):
            raise ValueError(
                f"The label {label!r} has too few documents, {len(indices)}: none is "
                f"left for part {counts.index(0) + 1} of {len(shares)}. Give more of "
                "them, or shorter ones where max_paragraphs_per_label leaves some "
                "out, or leave the label out."
            )
    return tuple([documents[i] for i in sorted(part)] for part in parts)


def encode_documents(documents, tokenizer):
    """Turns each document into one list of ids, without special tokens.

    Args:
        documents: iterable of `Document`, of lists of paragraphs or of strings.
        tokenizer: `WordPieceTokenizer` or `SentencePieceTokenizer`.

    Returns:
        A list of lists of ints; documents without a token are left out.

    Example:
        >>> from keras_tformer.text import WordPieceTokenizer
        >>> tokenizer = WordPieceTokenizer("[PAD] [UNK] [CLS] [SEP] [MASK] a b".split())
        >>> encode_documents([["a", "b a"], [" "], "b"], tokenizer)
        [[5, 6, 5], [6]]
    """
    texts, counts = [], []
    for document in documents:
        paragraphs = getattr(document, "paragraphs", document)
        paragraphs = [paragraphs] if isinstance(paragraphs, str) else paragraphs
        texts += paragraphs
        counts.append(len(paragraphs))
    encoded = iter(encode_in_bulk(tokenizer, texts))
    rows = [[i for _ in range(count) for i in next(encoded)] for count in counts]
    return [ids for ids in rows if ids]
