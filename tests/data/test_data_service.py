"""Two workers on this machine prepare what one process would."""

import collections
import os
import pathlib
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
    start_dispatcher,
)
from keras_tformer.text import WordPieceTokenizer  # noqa: E402


@pytest.fixture
def address():
    """A dispatcher, and two workers started by the documented command."""
    dispatcher = start_dispatcher()
    address = dispatcher.target.split("://")[1]
    root = str(pathlib.Path(keras_tformer.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-m", "keras_tformer.data.data_service", "worker"]
    workers = [
        subprocess.Popen(
            [*command, "--dispatcher", address],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        for worker in workers:
            assert worker.stdout.readline() == "worker is running\n"
        yield address
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


@pytest.mark.slow
@pytest.mark.timeout(180)
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

    # At most once each; all of them unless a worker dies.
    assert not rows(served) - rows(batches)
    assert rows(served).total() >= 0.8 * rows(batches).total()


def test_errors():
    dataset = tf.data.Dataset.range(3)
    with pytest.raises(ValueError, match="sharding is 'static'"):
        from_data_service(dataset, "localhost:5050", "static")
    with pytest.raises(ValueError, match="expected an address with a port"):
        from_data_service(dataset, "localhost")
