"""The page of `examples/web`: its tokenizer in Node, the page in headless Chromium."""

import contextlib
import functools
import http.server
import json
import pathlib
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import keras
import numpy as np
import pytest
from texts_for_apps import PIECES, SETTINGS, TEXTS

from keras_tformer.export import to_tflite
from keras_tformer.export.companions import describe_tokenizer
from keras_tformer.models import albert_encoder, sequence_classifier
from keras_tformer.text import WordPieceTokenizer

ROOT = pathlib.Path(__file__).resolve().parents[2]
WEB = ROOT / "examples" / "web"
CARD = ROOT / "savedmodels" / "quickstart" / "classifier_int8.json"
LOADING = "Loading the model ..."
SENTENCE = "Returns the element-wise square of a Keras tensor."
ENCODE = """
import { readFileSync } from "node:fs";
import { pack, readVocabulary, wordPieces } from "%s";
const { texts, vocabulary, card } = JSON.parse(readFileSync(0, "utf-8"));
const pieces = readVocabulary(vocabulary);
const rows = texts.map((text) => wordPieces(text, pieces, card));
const packed = rows.map((row) => Object.fromEntries(
  Object.entries(pack(row, card)).map(([name, ids]) => [name, Array.from(ids)])));
console.log(JSON.stringify({ rows, packed }));
"""


@pytest.fixture(scope="module")
def card():
    return json.loads(CARD.read_text(encoding="utf-8"))


def test_its_ids_are_the_tokenizers(card):
    from keras_tformer.data import embedded_corpus
    from keras_tformer.text import pack

    documents = embedded_corpus(("numpy", "language"), max_documents_per_label=20)
    texts = [text for document in documents for text in document.paragraphs]
    assert len(texts) > 150
    texts += TEXTS
    file = CARD.parent / card["vocabulary"]
    answer = encode_in_node(texts, file.read_text(encoding="utf-8"), card)
    tokenizer = WordPieceTokenizer(file)
    expected = tokenizer.encode(texts)
    for text, ours, theirs in zip(texts, expected, answer["rows"], strict=True):
        assert theirs == ours, text
    rows = pack(
        expected,
        sequence_length=card["sequence_length"],
        start_id=card["start_id"],
        end_id=card["end_id"],
        padding_id=card["padding_id"],
    )
    for name, ids in rows.items():
        assert [row[name] for row in answer["packed"]] == ids.tolist(), name


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_it_follows_the_settings_of_the_card(card, settings):
    tokenizer = WordPieceTokenizer(PIECES, **settings)
    told = card | json.loads(json.dumps(describe_tokenizer(tokenizer)))
    rows = encode_in_node(TEXTS, "".join(piece + "\n" for piece in PIECES), told)
    for text, ours, theirs in zip(
        TEXTS, tokenizer.encode(TEXTS), rows["rows"], strict=True
    ):
        assert theirs == ours, text


def test_its_shares_are_those_of_the_card(card):
    node = shutil.which("node") or pytest.skip("needs node")
    code = (
        f'import {{ shares }} from "{(WEB / "word_pieces.js").as_uri()}";'
        "const given = (values) => shares([1, 3, 2], { outputs: { a: { values } } });"
        'console.log(JSON.stringify(["logits", undefined, "probabilities"].map(given)))'
    )
    command = [node, "--input-type=module", "-e", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    logits, older, probabilities = json.loads(done.stdout)
    powers = np.exp([1, 3, 2])
    np.testing.assert_allclose(logits, powers / powers.sum())
    assert older == logits and probabilities == [1, 3, 2]


@pytest.mark.parametrize("sequence_length", [13, [13, 7]])
def test_its_rows_have_the_longest_length(card, sequence_length):
    """Of a file for several lengths; older cards list them all."""
    spec = {"shape": [1, 13], "dtype": "int32"}
    card = card | {"sequence_length": sequence_length, "inputs": {"token_ids": spec}}
    texts = {"a": [2, 5, 3, *[0] * 10], "a " * 30: [2, *[5] * 11, 3]}
    rows = encode_in_node([*texts], "\n" * 5 + "a\n", card)["packed"]
    assert [row["token_ids"] for row in rows] == [*texts.values()]


def encode_in_node(texts, vocabulary, card):
    """The ids of texts, plain and packed, by `word_pieces.js`."""
    node = shutil.which("node") or pytest.skip("needs node")
    done = subprocess.run(
        [node, "--input-type=module", "-e", ENCODE % (WEB / "word_pieces.js").as_uri()],
        input=json.dumps({"texts": texts, "vocabulary": vocabulary, "card": card}),
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def driver():
    if not (WEB / "node_modules" / "@litertjs" / "core").is_dir():
        pytest.skip("needs LiteRT's web runtime: npm install in examples/web")
    shutil.which("chromium") or pytest.skip("needs chromium")
    return shutil.which("chromedriver") or pytest.skip("needs chromium-driver")


@pytest.mark.slow
def test_a_sentence_typed_in_chromium(driver):
    assert_page_answers(driver, CARD)


@pytest.mark.slow
@pytest.mark.parametrize("quantization", [None, "dynamic_range", "int8"])
def test_a_loop_of_shared_calls_in_chromium(driver, quantization, tmp_path):
    """Twelve calls of one block: a WHILE operator, which some runtimes lack."""
    pytest.importorskip("ai_edge_litert", reason="the file is proved on it")
    keras.utils.set_random_seed(3)
    tokenizer = WordPieceTokenizer(CARD.parent / "vocab.txt")
    encoder = albert_encoder(
        vocabulary_size=tokenizer.vocabulary_size,
        embedding_dim=16,
        num_layers=12,
        num_heads=2,
        hidden_dim=36,
        intermediate_dim=48,
        max_sequence_length=31,
        initializer_range=0.3,  # shares that differ as a trained model's do
    )
    generator = np.random.default_rng(5)
    ids = generator.integers(5, tokenizer.vocabulary_size, (40, 31)).astype("int32")
    result = to_tflite(
        sequence_classifier(encoder, num_classes=3),
        tmp_path / "model.tflite",
        sequence_length=31,
        quantization=quantization,
        loop_shared_layers=True,
        representative_data=dict.fromkeys(encoder.input, 0 * ids + 1)
        | {"token_ids": ids, "segment_ids": 0 * ids},
        tokenizer=tokenizer,
        class_names=["first", "second", "third"],
    )
    assert result["operators"]["WHILE"]
    assert_page_answers(driver, pathlib.Path(result["card"]))


@pytest.mark.slow
def test_two_lengths_without_segments_and_names_in_chromium(driver, tmp_path):
    pytest.importorskip("ai_edge_litert", reason="the file is proved on it")
    keras.utils.set_random_seed(3)
    tokenizer = WordPieceTokenizer(CARD.parent / "vocab.txt")
    ids = keras.Input((None,), dtype="int32", name="token_ids")
    hidden = keras.layers.Embedding(tokenizer.vocabulary_size, 7)(ids)
    hidden = 30 * keras.layers.GlobalAveragePooling1D()(hidden)
    result = to_tflite(
        keras.Model({"token_ids": ids}, keras.layers.Dense(3)(hidden)),
        tmp_path / "model.tflite",
        sequence_length=(31, 7),
        tokenizer=tokenizer,
    )
    assert_page_answers(driver, pathlib.Path(result["card"]))


def assert_page_answers(driver, card):
    """The page shows the bars that `examples/run_tflite.py` prints."""
    with served(ROOT, card.parent) as address, browser(driver) as session:
        session("url", url=f"{address}/examples/web/?card=/card/{card.name}")
        wait_for(lambda: text_of(session, "#status") not in ("", LOADING))
        assert text_of(session, "#status") == "Type a sentence."
        box = element(session, "#text")
        session(f"element/{box}/value", text=SENTENCE)
        script = "return document.getElementById('bars').dataset.text"
        wait_for(lambda: session("execute/sync", script=script, args=[]) == SENTENCE)
        shown = text_of(session, "#bars").split("\n")
    command = [sys.executable, ROOT / "examples/run_tflite.py", "--model", card]
    done = subprocess.run(
        [*map(str, command), SENTENCE], capture_output=True, text=True, check=True
    )
    expected = [line.split() for line in done.stdout.splitlines()]
    assert shown[0::2] == [name for _, name in expected]
    shares = [float(share.split()[0]) for share in shown[1::2]]
    assert shares == pytest.approx([float(s.rstrip("%")) for s, _ in expected], abs=0.2)


@contextlib.contextmanager
def served(folder, card_folder):
    """The address of a server of a folder, and of another one as `/card`."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        extensions_map = {
            **http.server.SimpleHTTPRequestHandler.extensions_map,
            ".js": "text/javascript",
            ".wasm": "application/wasm",
        }

        def translate_path(self, path):
            if path.startswith("/card/"):
                return str(card_folder / path.removeprefix("/card/"))
            return super().translate_path(path)

        def log_message(self, *arguments):
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@contextlib.contextmanager
def browser(driver):
    """A function `(command, **body) -> value` that speaks W3C WebDriver."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [driver, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(lambda: request(f"{address}/status")["ready"])
        arguments = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage"]
        options = {"goog:chromeOptions": {"args": arguments}}
        body = {"capabilities": {"alwaysMatch": options}}
        number = request(f"{address}/session", body)["sessionId"]
        root = f"{address}/session/{number}"

        def session(command, **body):
            return request(f"{root}/{command}", body or None)

        yield session
        request(root, method="DELETE")
    finally:
        process.terminate()
        process.wait(timeout=30)


def request(address, body=None, method=None):
    content = None if body is None else json.dumps(body).encode()
    sent = urllib.request.Request(address, content, method=method)
    with urllib.request.urlopen(sent, timeout=120) as answer:
        return json.load(answer)["value"]


def element(session, selector):
    found = session("element", using="css selector", value=selector)
    return next(iter(found.values()))


def text_of(session, selector):
    return session(f"element/{element(session, selector)}/text")


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            if condition():
                return
        time.sleep(0.2)
    raise AssertionError("nothing came within two minutes")
