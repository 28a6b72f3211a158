"""What must hold for every pretraining batch, whatever the random numbers are."""

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow", reason="the data sets are tf.data's")
pytest.importorskip("tokenizers", reason="the engine on the host")
topics = pytest.importorskip(
    "pydoc_data.topics", reason="this Python has no documentation"
).topics

from keras_tformer.data import Document, sentence_order_dataset  # noqa: E402
from keras_tformer.text import WordPieceTokenizer  # noqa: E402

T, B, P = 43, 31, 11
START, END, MASK = 2, 3, 4


@pytest.fixture(scope="module")
def documents():
    names = sorted(topics)[:29]
    return [Document(name, topics[name].split("\n\n")) for name in names]


@pytest.fixture(scope="module")
def tokenizer(documents):
    texts = [text for document in documents for text in document.paragraphs]
    return WordPieceTokenizer.train(texts, 499, show_progress=False)


@pytest.fixture(scope="module")
def make(documents, tokenizer):
    def make(**options):
        options = {"max_predictions": P, **options}
        return sentence_order_dataset(documents, tokenizer, T, B, **options)

    return make


def collected(dataset, num_batches):
    """Batches as one flat dict of NumPy arrays, with the rows before masking."""
    batches = [tf.nest.map_structure(np.asarray, b) for b in dataset.take(num_batches)]

    def joined(part, name):
        return np.concatenate([batch[part][name] for batch in batches])

    rows = {name: joined(0, name) for name in batches[0][0]}
    rows["hidden_ids"] = joined(1, "masked_lm")
    rows["swapped"] = joined(1, "sentence_order")
    rows["weights"] = joined(2, "masked_lm")
    rows["order_weights"] = joined(2, "sentence_order")
    rows["original_ids"] = rows["token_ids"].copy()
    row, place = np.nonzero(rows["weights"])
    positions = rows["mask_positions"][row, place]
    rows["original_ids"][row, positions] = rows["hidden_ids"][row, place]
    rows["chosen"] = np.zeros(rows["token_ids"].shape, bool)
    rows["chosen"][row, positions] = True
    return rows


def words_of(ids, starts_word):
    """Ranges of the words in one row of ids."""
    begins = [
        i for i in range(len(ids)) if starts_word[ids[i]] or ids[i - 1] in (START, END)
    ]
    return list(zip(begins, [*begins[1:], len(ids)], strict=True))


def test_shapes_and_types(make):
    inputs, targets, weights = make().element_spec
    for name in ("token_ids", "segment_ids", "padding_mask"):
        assert inputs[name] == tf.TensorSpec((B, T), tf.int32)
    assert inputs["mask_positions"] == tf.TensorSpec((B, P), tf.int32)
    assert targets["masked_lm"] == tf.TensorSpec((B, P), tf.int32)
    assert targets["sentence_order"] == tf.TensorSpec((B,), tf.int32)
    assert weights["masked_lm"] == tf.TensorSpec((B, P), tf.float32)
    assert weights["sentence_order"] == tf.TensorSpec((B,), tf.float32)


@pytest.mark.parametrize("masking", ["whole_word", "subword", "ngram"])
def test_masking(make, tokenizer, masking):
    rows = collected(make(masking=masking), 29)
    ids, chosen = rows["original_ids"], rows["chosen"]
    ordinary = (rows["padding_mask"] == 1) & (ids != START) & (ids != END)
    # Never special tokens or padding; the hidden ids are where they are said to be.
    assert not (chosen & ~ordinary).any()
    assert (rows["weights"].sum(axis=1) == chosen.sum(axis=1)).all()
    assert (
        np.diff(np.where(rows["weights"] > 0, rows["mask_positions"], T)) >= 0
    ).all()
    assert not rows["hidden_ids"][rows["weights"] == 0].any()
    assert not rows["mask_positions"][rows["weights"] == 0].any()
    assert (chosen.sum(axis=1) >= 1).all()
    # The share, and what became of it.
    assert 0.14 < chosen.sum() / ordinary.sum() < 0.16
    now, before = rows["token_ids"][chosen], ids[chosen]
    assert 0.77 < (now == MASK).mean() < 0.83
    assert 0.07 < (now == before).mean() < 0.13
    assert (rows["token_ids"][~chosen] == ids[~chosen]).all()
    other = now[(now != MASK) & (now != before)]
    assert other.min() >= 5
    assert len(set(other.tolist())) > 0.5 * len(other)


@pytest.mark.parametrize("masking", ["whole_word", "ngram"])
def test_words_are_hidden_whole(make, tokenizer, masking):
    rows = collected(make(masking=masking), 13)
    starts_word = tokenizer.starts_word
    lengths = []
    for ids, chosen, mask in zip(
        rows["original_ids"], rows["chosen"], rows["padding_mask"], strict=True
    ):
        for start, end in words_of(ids[: mask.sum()], starts_word):
            assert chosen[start:end].all() or not chosen[start:end].any()
            if chosen[start]:
                lengths.append(end - start)
    assert max(lengths) > 1


def test_ngrams_hide_neighbours(make, tokenizer):
    def share_of_neighbours(masking):
        rows = collected(make(masking=masking), 13)
        pairs = [
            (chosen[a[0]], chosen[b[0]])
            for ids, chosen in zip(rows["original_ids"], rows["chosen"], strict=True)
            for a, b in zip(
                words_of(ids, tokenizer.starts_word)[:-1],
                words_of(ids, tokenizer.starts_word)[1:],
                strict=True,
            )
        ]
        after = [second for first, second in pairs if first]
        return sum(after) / len(after)

    assert share_of_neighbours("ngram") > 2 * share_of_neighbours("whole_word")


def test_ngram_lengths_follow_albert(make, tokenizer):
    """One run of whole words a row: 1, 2, 3 as 1, 1/2, 1/3 but for ends of rows."""
    options = {"masking": "ngram", "mask_share": 0.001, "max_predictions": 37}
    rows = collected(make(**options), 47)
    counts = np.zeros(5, int)
    for ids, chosen in zip(rows["original_ids"], rows["chosen"], strict=True):
        words = words_of(ids, tokenizer.starts_word)
        counts[sum(bool(chosen[start]) for start, _ in words)] += 1
    assert counts[0] == counts[4] == 0
    shares, expected = counts[1:4] / counts.sum(), np.array([6, 3, 2]) / 11
    deviation = np.sqrt(expected * (1 - expected) / counts.sum())
    assert (np.abs(shares - expected) < 4 * deviation + 0.02).all(), shares


def test_segments(make, documents, tokenizer):
    rows = collected(make(mask_share=0.15), 29)
    assert 0.44 < rows["swapped"].mean() < 0.56
    assert (rows["order_weights"] == 1).all()
    text = {
        document.label: " ".join(
            map(str, sum(tokenizer.encode(document.paragraphs), []))
        )
        + " "
        for document in documents
    }
    short = 0
    for ids, segments, mask, swapped in zip(
        rows["original_ids"],
        rows["segment_ids"],
        rows["padding_mask"],
        rows["swapped"],
        strict=True,
    ):
        length = mask.sum()
        assert mask[:length].all()
        assert not mask[length:].any()
        first_length = length - segments.sum()
        assert segments[first_length:length].all()
        assert ids[0] == START
        assert ids[first_length - 1] == ids[length - 1] == END
        first = ids[1 : first_length - 1].tolist()
        second = ids[first_length : length - 1].tolist()
        assert first
        assert second
        pair = second + first if swapped else first + second
        together = " ".join(map(str, pair)) + " "
        # Consecutive, in one document, and in the order that the label says.
        assert any(together in whole for whole in text.values())
        short += length < T - 5
    assert 0.05 < short / len(rows["swapped"]) < 0.5


def test_segments_begin_with_sentences(tokenizer):
    """Sentences of a distinct first word: the second segment begins with it too."""
    sentence = "Value of the type. "
    documents = [Document("", [sentence * 23])]
    first_id = tokenizer.encode(["Value"])[0][0]
    dataset = sentence_order_dataset(
        documents, tokenizer, T, 3, num_epochs=5, short_sequence_share=0.0
    )
    rows = collected(dataset, 5)
    for ids, segments, mask in zip(
        rows["original_ids"], rows["segment_ids"], rows["padding_mask"], strict=True
    ):
        assert ids[1] == first_id
        assert ids[mask.sum() - segments.sum()] == first_id


def test_swap_and_short_shares_at_their_ends(make):
    rows = collected(make(swap_share=0.0, short_sequence_share=0.0), 5)
    assert not rows["swapped"].any()
    # Full, but for the sentence that would have been too much.
    assert (rows["padding_mask"].sum(axis=1) > T // 2).mean() > 0.9
    assert collected(make(swap_share=1.0), 5)["swapped"].all()


def test_same_seed_same_batches(make):
    first, again = collected(make(seed=5), 3), collected(make(seed=5), 3)
    other = collected(make(seed=6), 3)
    for name, value in first.items():
        np.testing.assert_array_equal(value, again[name])
    assert (first["token_ids"] != other["token_ids"]).any()


def test_restart_goes_on_as_if_nothing_had_happened(make):
    whole = list(make().take(7).as_numpy_iterator())
    rest = list(make(first_step=4).take(3).as_numpy_iterator())
    for expected, found in zip(whole[4:], rest, strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, found, expected)


def test_every_epoch_has_every_row_and_other_masks(tokenizer):
    words = [p for p in tokenizer.vocabulary if p.isalpha() and len(p) > 2][:59]
    documents = [Document("", [f"{word} of {word} is {word}."]) for word in words]
    dataset = sentence_order_dataset(
        documents, tokenizer, 13, 59, short_sequence_share=0.0
    )
    first, second = (
        {name: value[part] for name, value in collected(dataset, 2).items()}
        for part in (slice(0, 59), slice(59, 118))
    )

    def rows(batch):
        return sorted(map(sorted, batch["original_ids"].tolist()))

    assert rows(first) == rows(second)
    assert len({str(row) for row in rows(first)}) == 59
    assert (first["original_ids"] != second["original_ids"]).any()
    assert (first["chosen"] != second["chosen"]).any()


def test_number_of_epochs(make, documents, tokenizer):
    once = int(make(num_epochs=1).cardinality())
    assert int(make(num_epochs=3).cardinality()) in range(3 * once, 3 * once + 3)
    assert int(make(num_epochs=3, first_step=2).cardinality()) in range(
        3 * once - 2, 3 * once + 1
    )


def test_no_token_is_lost(tokenizer):
    """Sentences and words of more than half a row and a whole one are cut, not lost."""
    long = "qzqxqjqzqxqjqzqxqj"
    texts = [f"The value {long} of the type is a {long} name.", "The type. Of a name."]
    documents = [Document("", texts)] * 7
    dataset = sentence_order_dataset(
        documents, tokenizer, 11, 1, num_epochs=1, short_sequence_share=0.0
    )
    rows = collected(dataset, -1)
    assert (rows["padding_mask"].sum(axis=1) <= 11).all()
    kept = rows["original_ids"][rows["padding_mask"] == 1]
    kept = kept[(kept != START) & (kept != END)]
    expected = sum(tokenizer.encode(texts), []) * 7
    assert sorted(kept.tolist()) == sorted(expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_share": 1.5}, "mask_share is 1.5; expected a number from 0 to 1"),
        ({"swap_share": -1}, "swap_share is -1"),
        ({"short_sequence_share": 2}, "short_sequence_share is 2"),
        ({"masking": "words"}, "expected one of whole_word, subword, ngram"),
        ({"max_predictions": 41}, "max_predictions is 41; expected 1 to 40"),
    ],
)
def test_wrong_options(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_too_little(tokenizer):
    with pytest.raises(ValueError, match="expected at least 5"):
        sentence_order_dataset([Document("", ["a b"])], tokenizer, 4, 1)
    for paragraphs in (["a b c"], ["a"], []):
        with pytest.raises(ValueError, match="fewer than one batch of 7"):
            sentence_order_dataset(
                [Document("", paragraphs)], tokenizer, 11, 7, num_epochs=1
            )
