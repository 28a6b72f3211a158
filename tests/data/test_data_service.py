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
    read_documents,
    sentence_order_dataset,
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


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_workers(address, data_folder):
    tokenizer = WordPieceTokenizer(data_folder / "vocab/bert-base-uncased-vocab.txt")
    stream = read_documents(data_folder / "wiki" / "enwiki_sample.txt.xz")
    documents = [document for document, _ in zip(stream, range(11), strict=False)]
    dataset = sentence_order_dataset(documents, tokenizer, 61, 7, num_epochs=1)
    batches = list(dataset)
    served = list(from_data_service(dataset, address))

    def rows(batches):
        return collections.Counter(
            tuple(ids)
            for inputs, _, _ in batches
            for ids in inputs["token_ids"].numpy().tolist()
        )

    # Each once. (A batch is lost where a worker dies that holds it.)
    assert rows(served) == rows(batches)


def test_errors():
    dataset = tf.data.Dataset.range(3)
    with pytest.raises(ValueError, match="sharding is 'static'"):
        from_data_service(dataset, "localhost:5050", "static")
    with pytest.raises(ValueError, match="expected an address with a port"):
        from_data_service(dataset, "localhost")
