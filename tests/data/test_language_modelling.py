"""Running text in blocks, whole documents side by side, and nothing lost."""

import collections

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow", reason="the data sets are tf.data's")
pytest.importorskip("tokenizers", reason="the engine on the host")

from keras_tformer.data import (  # noqa: E402
    fill_rows,
    language_modelling_task,
    pack_rows,
    padding_share,
    read_documents,
)
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
        documents, tokenizer, T, 7, has_packed_documents=True, shuffle=True
    )
    found = collections.Counter()
    for inputs, labels, weights in task.dataset:
        assert set(inputs) == {"token_ids", "padding_mask", "document_ids"}
        document_ids = inputs["document_ids"].numpy()
        for row in range(len(document_ids)):
            length = int(inputs["padding_mask"][row].numpy().sum())
            assert not document_ids[row, length:].any()
            for number in range(1, document_ids[row].max() + 1):
                (places,) = np.nonzero(document_ids[row] == number)
                start, end = places[0], places[-1] + 1
                assert len(places) == end - start
                found[tuple(labels[row, start:end].numpy())] += 1
                tokens = inputs["token_ids"][row, start:end].numpy()
                assert (tokens[1:] == labels[row, start : end - 1].numpy()).all()
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
    kept = sorted(filled[rows.document_ids > 0].tolist())
    assert kept == sum(ids, [])
    assert (filled[rows.document_ids == 0] == -1).all()
    # Best fit is within 11/9 of the fewest possible rows.
    assert len(rows.pieces) <= 11 / 9 * -(-sum(lengths) // 41) + 1
    assert rows.padding_share == pytest.approx(1 - sum(lengths) / (41 * len(filled)))


def test_nothing():
    tokenizer = WordPieceTokenizer("[PAD] [UNK] [CLS] [SEP] [MASK] a".split())
    with pytest.raises(ValueError, match="hold no token"):
        language_modelling_task([""], tokenizer, 5, 1)
    with pytest.raises(ValueError, match="nothing to pack"):
        pack_rows([0], 5)
