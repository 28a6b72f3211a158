"""Two workers on this machine prepare what one process would."""

import collections
import os
import pathlib
import socket
import subprocess
import sys

import pytest

tf = pytest.importorskip("tensorflow", reason="the data sets are tf.data's")
pytest.importorskip("tokenizers", reason="the engine on the host")

import keras_tformer  # noqa: E402
from keras_tformer.data import (  # noqa: E402
    from_data_service,
    pretraining_records_dataset,
    read_documents,
    sentence_order_dataset,
    write_pretraining_records,
)
from keras_tformer.text import WordPieceTokenizer  # noqa: E402


@pytest.fixture
def address():
    """A dispatcher and two workers, started by the documented commands."""
    with socket.socket() as any_port:
        any_port.bind(("localhost", 0))
        port = any_port.getsockname()[1]
    address = f"localhost:{port}"
    root = str(pathlib.Path(keras_tformer.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root, "TF_CPP_MIN_LOG_LEVEL": "3"}
    servers = []

    def start(*arguments):
        command = [sys.executable, "-m", "keras_tformer.data.data_service", *arguments]
        servers.append(
            subprocess.Popen(
                command,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        )

    try:
        start("dispatcher", "--port", str(port))
        for _ in range(2):
            start("worker", "--dispatcher", address)
        for server in servers:
            assert server.stdout.readline().endswith(" is running\n")
        yield address
    finally:
        for server in servers:
            server.kill()
            server.wait()


def rows(batches):
    return collections.Counter(
        tuple(ids)
        for inputs, _, _ in batches
        for ids in inputs["token_ids"].numpy().tolist()
    )


@pytest.fixture
def tokenizer(data_folder):
    return WordPieceTokenizer(data_folder / "vocab/bert-base-uncased-vocab.txt")


@pytest.fixture
def documents(data_folder):
    stream = read_documents(data_folder / "wiki" / "enwiki_sample.txt.xz")
    return [document for document, _ in zip(stream, range(11), strict=False)]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_workers(address, tokenizer, documents):
    dataset = sentence_order_dataset(documents, tokenizer, 61, 7, num_epochs=1)
    batches = list(dataset)
    served = list(from_data_service(dataset, address))
    # Each once. (A batch is lost where a worker dies that holds it.)
    assert rows(served) == rows(batches)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_workers_share_an_epoch_of_records(address, tokenizer, documents, tmp_path):
    documents = [
        document._replace(paragraphs=document.paragraphs[start : start + 3])
        for document in documents
        for start in range(0, len(document.paragraphs), 3)
    ]
    totals = write_pretraining_records(
        documents, tmp_path, tokenizer, 61, documents_per_shard=2, masking="subword"
    )
    assert totals["num_shards"] > 2 * 16
    arguments = tmp_path, tokenizer, 7
    whole = rows(pretraining_records_dataset(*arguments, num_epochs=1))
    dataset = pretraining_records_dataset(
        *arguments, num_epochs=1, has_known_length=False
    )
    served = rows(from_data_service(dataset, address))
    once = totals["rows"]
    # Less than a batch is left over: once here, once on each of the workers.
    assert once - 7 < whole.total() <= once
    assert once - 2 * 7 < served.total() <= once
    assert sum((served - whole).values()) < 7
    assert sum((whole - served).values()) < 2 * 7


def test_errors():
    dataset = tf.data.Dataset.range(3)
    with pytest.raises(ValueError, match="sharding is 'static'"):
        from_data_service(dataset, "localhost:5050", "static")
    with pytest.raises(ValueError, match="expected an address with a port"):
        from_data_service(dataset, "localhost")
