"""No paragraph on two sides of a split, and every label on each."""

import collections
import random

import pytest

from keras_tformer.data import (
    Document,
    deduplicate,
    split_documents,
    texts_and_labels,
)


def corpus(num_documents, seed=0):
    """Documents of 1 to 13 paragraphs; many paragraphs occur in several of them."""
    generator = random.Random(seed)
    return [
        Document(
            "abc"[number % 3],
            [
                f"Paragraph {generator.randrange(997)}"
                for _ in range(generator.randint(1, 13))
            ],
        )
        for number in range(num_documents)
    ]


def test_doubles_go_wherever_they_stand():
    documents = [
        Document("a", ["One  two.", "Three.", "one TWO."]),
        Document("b", [" three. "]),
        Document("b", ["Four.", "  "]),
    ]
    assert deduplicate(documents) == [
        Document("a", ["One  two.", "Three."]),
        Document("b", ["Four."]),
    ]


@pytest.mark.parametrize("seed", range(5))
def test_nothing_leaks(seed):
    documents = deduplicate(corpus(211, seed))
    parts = split_documents(documents, seed=seed)
    texts = [set(texts_and_labels(part)[0]) for part in parts]
    assert sum(len(part) for part in parts) == len(documents)
    assert sum(map(len, texts)) == len(set.union(*texts))


def test_shares_hold_for_every_label():
    parts = split_documents(corpus(307))
    counts = [collections.Counter(d.label for d in part) for part in parts]
    for label in "abc":
        total = sum(count[label] for count in counts)
        for count, share in zip(counts, (0.8, 0.1, 0.1), strict=True):
            assert abs(count[label] - share * total) < 1.5
    sizes = [len(texts_and_labels(part)[0]) for part in parts]
    for size, share in zip(sizes, (0.8, 0.1, 0.1), strict=True):
        assert abs(size / sum(sizes) - share) < 0.02


def test_a_label_that_would_be_missing_in_a_part():
    """Of six documents dealt out by tens, none is left for the last tenth."""
    documents = [Document("ab"[number < 6], [str(number)]) for number in range(29)]
    with pytest.raises(ValueError, match="'b' has too few documents, 6: .* part 3 of"):
        split_documents(documents)
    seven = [Document("ab"[number < 7], [str(number)]) for number in range(29)]
    for part in split_documents(seven):
        assert {document.label for document in part} == {"a", "b"}
    with pytest.raises(ValueError, match="'a' has too few documents, 1: .* part 2 of"):
        split_documents(seven, max_paragraphs_per_label=1)


def test_seed_decides():
    documents = corpus(101)
    assert split_documents(documents, seed=3) == split_documents(documents, seed=3)
    assert split_documents(documents, seed=3) != split_documents(documents, seed=4)


def test_parts_keep_the_order_of_the_corpus():
    documents = [Document("a", [str(number)]) for number in range(53)]
    for part in split_documents(documents, shares=(0.5, 0.5)):
        numbers = [int(document.paragraphs[0]) for document in part]
        assert numbers == sorted(numbers)


def test_largest_number_of_paragraphs():
    parts = split_documents(corpus(211), max_paragraphs_per_label=101)
    labels = [label for part in parts for label in texts_and_labels(part)[1]]
    counts = collections.Counter(labels)
    assert all(101 - 13 < counts[label] <= 101 for label in "abc")


def test_texts_and_labels():
    documents = [Document("a", ["x", "y"]), Document("b", ["z"])]
    assert texts_and_labels(documents) == (["x", "y", "z"], ["a", "a", "b"])


@pytest.mark.parametrize("shares", [(0.8, 0.1), (1.1, -0.1), (0.5, 0.5, 0.0)])
def test_wrong_shares(shares):
    with pytest.raises(ValueError, match="positive numbers that add up to 1"):
        split_documents(corpus(7), shares=shares)
