"""Masked words alone: no token lost, packed or not, and rows that models learn from."""

import collections

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow", reason="the data sets are tf.data's")
pytest.importorskip("tokenizers", reason="the engine on the host")

from keras_tformer import models, training  # noqa: E402
from keras_tformer.data import (  # noqa: E402
    masked_lm_dataset,
    padding_share,
    read_documents,
)
from keras_tformer.text import WordPieceTokenizer  # noqa: E402

T, B = 61, 7
START, END, MASK = 101, 102, 103


@pytest.fixture(scope="module")
def tokenizer(data_folder):
    return WordPieceTokenizer(data_folder / "vocab" / "bert-base-uncased-vocab.txt")


@pytest.fixture(scope="module")
def documents(data_folder):
    """Single sentences, and some paragraphs that are longer than a row."""
    stream = read_documents(data_folder / "wiki" / "enwiki_sample.txt.xz")
    paragraphs = [p for d, _ in zip(stream, range(5), strict=False) for p in d[1]]
    return [[p] for p in paragraphs[:23]] + [
        [p.split(". ")[0]] for p in paragraphs[23:150]
    ]


def restored(inputs, targets, weights):
    """Rows with the hidden tokens back in their places."""
    ids = inputs["token_ids"].copy()
    row, place = np.nonzero(weights["masked_lm"])
    positions = inputs["mask_positions"][row, place]
    ids[row, positions] = targets["masked_lm"][row, place]
    return ids


def test_packed_rows_hold_every_document_once(documents, tokenizer):
    found = collections.Counter()
    dataset = masked_lm_dataset(documents, tokenizer, T, 1, True, num_epochs=1)
    for batch in dataset.as_numpy_iterator():
        (ids,), (document_ids,) = restored(*batch), batch[0]["document_ids"]
        assert ((document_ids > 0) == batch[0]["padding_mask"][0]).all()
        for number in range(1, document_ids.max() + 1):
            text = ids[document_ids == number].tolist()
            assert text[0] == START and text[-1] == END
            assert START not in text[1:] and END not in text[:-1]
            found[tuple(text[1:-1])] += 1
    short = collections.Counter()
    num_ids = 0
    for (ids,) in map(tokenizer.encode, documents):
        num_ids += len(ids)
        if len(ids) <= T - 2:
            short[tuple(ids)] += 1
    assert not short - found
    assert sum(map(len, found.elements())) == num_ids


def test_padding_is_saved(documents, tokenizer):
    shares = [
        padding_share(
            masked_lm_dataset(documents, tokenizer, T, 1, packed, num_epochs=1)
        )
        for packed in (False, True)
    ]
    assert shares[1] < 0.05 < 0.2 < shares[0]


@pytest.mark.parametrize("masking", ["whole_word", "ngram", "subword"])
def test_masks(documents, tokenizer, masking):
    dataset = masked_lm_dataset(documents, tokenizer, T, B, True, masking=masking)
    chosen = text = 0
    fates = collections.Counter()
    for inputs, targets, weights in dataset.take(29).as_numpy_iterator():
        row, place = np.nonzero(weights["masked_lm"])
        hidden = targets["masked_lm"][row, place]
        assert not np.isin(hidden, [0, START, END]).any()
        now = inputs["token_ids"][row, inputs["mask_positions"][row, place]]
        fates["mask"] += (now == MASK).sum()
        fates["same"] += (now == hidden).sum()
        chosen += len(hidden)
        special = np.isin(inputs["token_ids"], [0, START, END]).sum()
        text += inputs["token_ids"].size - special
    assert 0.135 < chosen / text < 0.165
    deviation = chosen**-0.5
    assert abs(fates["mask"] / chosen - 0.8) < 4 * 0.4 * deviation
    assert abs(fates["same"] / chosen - 0.1) < 4 * 0.3 * deviation


def test_same_seed_same_batches(documents, tokenizer):
    def batches(count=11, **options):
        dataset = masked_lm_dataset(documents, tokenizer, T, B, True, **options)
        return list(dataset.take(count).as_numpy_iterator())

    first = batches()
    for one, other in zip(first[7:], batches(4, first_step=7), strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, one, other)
    others = batches(1, seed=1)
    assert (others[0][0]["token_ids"] != first[0][0]["token_ids"]).any()


def test_masks_are_new_in_every_epoch(documents, tokenizer):
    """Each row twice, with other words hidden."""
    seen = collections.defaultdict(set)
    dataset = masked_lm_dataset(documents, tokenizer, T, 1, True, num_epochs=2)
    for batch in dataset.as_numpy_iterator():
        seen[tuple(restored(*batch)[0])].add(tuple(batch[0]["mask_positions"][0]))
    assert np.mean([len(masks) == 2 for masks in seen.values()]) > 0.95


@pytest.mark.slow
def test_an_encoder_learns_from_packed_rows(documents, tokenizer):
    encoder = models.albert_encoder(
        vocabulary_size=tokenizer.vocabulary_size,
        embedding_dim=11,
        num_layers=1,
        num_heads=2,
        hidden_dim=26,
        intermediate_dim=17,
        max_sequence_length=T,
        has_packed_documents=True,
    )
    model = models.masked_lm(encoder)
    model.compile(training.adamw(1e-2), **training.compile_arguments("masked_lm"))
    dataset = masked_lm_dataset(documents, tokenizer, T, B, True)
    for spec in tf.nest.flatten(dataset.element_spec):
        assert spec.shape.is_fully_defined()
    history = model.fit(dataset, steps_per_epoch=11, epochs=2, shuffle=False, verbose=0)
    losses = history.history["loss"]
    assert losses[1] < losses[0] - 0.3


def test_too_little(tokenizer):
    for packed in (False, True):
        with pytest.raises(ValueError, match="hold 0 rows of 61 tokens"):
            masked_lm_dataset([[" "]], tokenizer, T, B, packed)
    with pytest.raises(ValueError, match="hold 1 rows of 61 tokens"):
        masked_lm_dataset([["one"]], tokenizer, T, B, num_epochs=1)
