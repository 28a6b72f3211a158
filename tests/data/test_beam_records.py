"""Beam's workers write the same bytes as a single process."""

import sys

import pytest

pytest.importorskip("tensorflow", reason="the data sets are tf.data's")
pytest.importorskip("tokenizers", reason="the engine on the host")

from keras_tformer.data import (  # noqa: E402
    read_documents,
    read_manifest,
    write_pretraining_records,
    write_pretraining_records_with_beam,
)
from keras_tformer.text import WordPieceTokenizer  # noqa: E402


@pytest.mark.slow
def test_same_bytes_as_without_beam(data_folder, tmp_path):
    pytest.importorskip("apache_beam", reason="Apache Beam is not installed")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    stream = read_documents(data_folder / "wiki" / "enwiki_sample.txt.xz")
    short = (document for document in stream if len(document.paragraphs) < 19)
    for number in range(5):
        texts = ["\n".join(next(short).paragraphs) for _ in range(3)]
        (corpus / f"{number}.txt").write_text("\n\n".join(texts), "utf-8")
    vocabulary = data_folder / "vocab" / "bert-base-uncased-vocab.txt"
    options = {"pair_task": "sentence_order", "masking": "ngram", "seed": 3}

    def with_beam():
        return write_pretraining_records_with_beam(
            corpus, tmp_path / "beam", WordPieceTokenizer, vocabulary, 61, **options
        )

    def shards(folder):
        return [file.read_bytes() for file in sorted(folder.glob("*.tfrecord"))]

    found = with_beam()
    expected = write_pretraining_records(
        read_documents(corpus), tmp_path / "plain", WordPieceTokenizer(vocabulary), 61,
        documents_per_shard=3, **options,
    )  # fmt: skip
    assert found == expected
    cards = [read_manifest(tmp_path / name)["shards"] for name in ("beam", "plain")]
    assert cards[0] == cards[1]
    assert shards(tmp_path / "beam") == shards(tmp_path / "plain")
    # Once more, after one shard was lost.
    (tmp_path / "beam" / "shard-000003.tfrecord").unlink()
    assert with_beam() == found
    assert shards(tmp_path / "beam") == shards(tmp_path / "plain")


def test_without_beam(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(ImportError, match=r"keras_tformer\[beam\]"):
        write_pretraining_records_with_beam(
            tmp_path, tmp_path, WordPieceTokenizer, tmp_path, 61
        )
