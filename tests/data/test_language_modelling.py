"""Running text in blocks, whole documents side by side, and nothing lost."""

import collections

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow", reason="the data sets are tf.data's")
pytest.importorskip("tokenizers", reason="the engine on the host")

from keras_tformer.data import (  # noqa: E402
    document_attention_mask,
    fill_rows,
    language_modelling_task,
    pack_rows,
    padding_share,
    read_documents,
)
from keras_tformer.layers import TransformerEncoder  # noqa: E402
from keras_tformer.text import WordPieceTokenizer  # noqa: E402

T = 61


@pytest.fixture(scope="module")
def tokenizer(data_folder):
    return WordPieceTokenizer(data_folder / "vocab" / "bert-base-uncased-vocab.txt")


@pytest.fixture(scope="module")
def documents(data_folder):
    stream = read_documents(data_folder / "wiki" / "enwiki_sample.txt.xz")
    paragraphs = [p for d, _ in zip(stream, range(7), strict=False) for p in d[1]]
    return [[p] for p in paragraphs[:211]]


def test_blocks_lose_no_token(documents, tokenizer):
    task = language_modelling_task(documents, tokenizer, T, 7)
    ids = [tokenizer.encode(document)[0] for document in documents]
    running = sum(([2 + 99, *row, 3 + 99] for row in ids), [])
    found = [running[0]]
    for inputs, labels, weights in task.dataset:
        kept = weights.numpy() > 0
        assert (inputs["padding_mask"].numpy() == kept).all()
        tokens = inputs["token_ids"].numpy()[kept].tolist()
        assert tokens[0] == found[-1]
        found += labels.numpy()[kept].tolist()
        assert tokens[1:] == found[-len(tokens) : -1]
    assert found == running
    assert padding_share(task.dataset) < T / len(running)


def test_documents_apart(documents, tokenizer):
    task = language_modelling_task(
        documents, tokenizer, T, 7, keep_documents_apart=True, shuffle=True
    )
    found = collections.Counter()
    for inputs, labels, weights in task.dataset:
        assert set(inputs) == {
            "token_ids",
            "padding_mask",
            "position_ids",
            "attention_mask",
        }
        positions = inputs["position_ids"].numpy()
        for row in range(len(positions)):
            length = int(inputs["padding_mask"][row].numpy().sum())
            starts = [*np.flatnonzero(positions[row, :length] == 0), length]
            mask = np.zeros((T, T), int)
            for start, end in zip(starts[:-1], starts[1:], strict=True):
                mask[start:end, start:end] = 1
                found[tuple(labels[row, start:end].numpy())] += 1
                tokens = inputs["token_ids"][row, start:end].numpy()
                assert (tokens[1:] == labels[row, start : end - 1].numpy()).all()
            assert (inputs["attention_mask"][row].numpy() == mask).all()
            assert weights[row].numpy().sum() == length
    expected = collections.Counter()
    for document in documents:
        ids = [*tokenizer.encode(document)[0], tokenizer.end_id]
        ids = [tokenizer.start_id, *ids]
        for start in range(0, len(ids) - 1, T):
            expected[tuple(ids[start + 1 : start + 1 + T])] += 1
    assert found == expected
    alone = 1 - sum(map(len, found.elements())) / (T * found.total())
    assert padding_share(task.dataset) < 0.25 * alone


@pytest.mark.parametrize("seed", range(5))
def test_packing(seed):
    draw = np.random.default_rng(seed)
    lengths = draw.integers(0, 97, 307).tolist()
    rows = pack_rows(lengths, 41)
    ids = [[(text << 8) + i for i in range(n)] for text, n in enumerate(lengths)]
    filled = fill_rows(rows, ids, padding_id=-1)
    kept = sorted(filled[rows.document_numbers > 0].tolist())
    assert kept == sum(ids, [])
    assert (filled[rows.document_numbers == 0] == -1).all()
    # Best fit is within 11/9 of the fewest possible rows.
    assert len(rows.pieces) <= 11 / 9 * -(-sum(lengths) // 41) + 1
    assert rows.padding_share == pytest.approx(1 - sum(lengths) / (41 * len(filled)))


def test_documents_do_not_see_each_other():
    """Two texts in one row give what each gives alone."""
    rows = pack_rows([5, 3], 11)
    draw = np.random.default_rng(0)
    x = draw.normal(size=(1, 11, 14)).astype("float32")
    layer = TransformerEncoder(num_heads=2, intermediate_dim=13, mask_value=-1e9)
    together = layer(x, attention_mask=document_attention_mask(rows.document_numbers))
    for start, end in ((0, 5), (5, 8)):
        alone = layer(x[:, start:end])
        np.testing.assert_allclose(together[:, start:end], alone, atol=2e-6)


def test_nothing():
    tokenizer = WordPieceTokenizer("[PAD] [UNK] [CLS] [SEP] [MASK] a".split())
    with pytest.raises(ValueError, match="hold no token"):
        language_modelling_task([""], tokenizer, 5, 1)
    with pytest.raises(ValueError, match="nothing to pack"):
        pack_rows([0], 5)
