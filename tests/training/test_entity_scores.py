import builtins

import numpy as np
import pytest

from keras_tformer.training import decode_tags, entity_scores

NAMES = ["O", "B-place", "I-place", "B-person", "I-person"]


def spans(tags):
    """Entities by CoNLL's rules, found another way than seqeval does."""
    found, start = set(), None
    for place, tag in enumerate([*tags, "O"]):
        kind = tag[2:]
        if start is not None and (tag[0] in "BO" or kind != start[1]):
            found.add((start[0], place, start[1]))
            start = None
        if tag != "O" and start is None:
            start = place, kind
    return found


def random_tags(random):
    return [
        [NAMES[tag] for tag in random.integers(0, 5, random.integers(1, 13))]
        for _ in range(53)
    ]


def test_scores_equal_a_count_of_spans():
    pytest.importorskip("seqeval", reason="needs [scores]")
    random = np.random.default_rng(1)
    true = random_tags(random)
    predicted = [
        [tag if random.random() < 0.6 else NAMES[random.integers(5)] for tag in tags]
        for tags in true
    ]
    pairs = [(spans(a), spans(b)) for a, b in zip(true, predicted, strict=True)]
    hits = sum(len(a & b) for a, b in pairs)
    precision = hits / sum(len(b) for _, b in pairs)
    recall = hits / sum(len(a) for a, _ in pairs)
    assert entity_scores(true, predicted) == pytest.approx(
        {
            "entity_precision": precision,
            "entity_recall": recall,
            "entity_f1": 2 * precision * recall / (precision + recall),
        }
    )


def test_nothing_found_is_zero_without_a_warning(recwarn):
    pytest.importorskip("seqeval", reason="needs [scores]")
    scores = entity_scores([["B-place", "O"]], [["O", "O"]])
    assert set(scores.values()) == {0.0}
    assert not [w for w in recwarn if "seqeval" in w.filename]


def test_unequal_lengths_are_told():
    pytest.importorskip("seqeval", reason="needs [scores]")
    with pytest.raises(ValueError, match="2 true tags in 1 sentences and 1"):
        entity_scores([["O", "O"]], [["O"]])


def test_without_seqeval_it_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def missing(name, *arguments, **keywords):
        if name.startswith("seqeval"):
            raise ImportError(name)
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=r"keras_tformer\[scores\]"):
        entity_scores([["O"]], [["O"]])


def test_decoded_tags_stand_for_the_words_that_count():
    labels = np.array([[-100, 3, -100, 0], [-100, -100, -100, -100]])
    logits = np.eye(5)[np.array([[4, 3, 4, 2], [0, 1, 2, 3]])]
    assert decode_tags(labels, logits, NAMES) == [["B-person", "I-place"], []]
