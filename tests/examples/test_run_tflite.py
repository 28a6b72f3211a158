"""The forty lines that an app developer copies, and the artefact beside them."""

import hashlib
import importlib.util
import json
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
CARD = ROOT / "savedmodels" / "quickstart" / "classifier_int8.json"

pytest.importorskip("ai_edge_litert", reason="needs ai-edge-litert")


@pytest.fixture(scope="module")
def run_tflite():
    spec = importlib.util.spec_from_file_location(
        "run_tflite", ROOT / "examples" / "run_tflite.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_its_tokens_are_those_of_the_reference(run_tflite):
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    from keras_tformer.data import embedded_corpus

    card = json.loads(CARD.read_text(encoding="utf-8"))
    file = CARD.parent / card["vocabulary"]
    lines = file.read_text(encoding="utf-8").splitlines()
    vocabulary = {piece: index for index, piece in enumerate(lines)}
    reference = transformers.BertTokenizerFast(vocab=vocabulary, do_lower_case=True)
    documents = embedded_corpus(("numpy", "language"), max_documents_per_label=40)
    texts = [text for document in documents for text in document.paragraphs]
    assert len(texts) > 300
    for text in texts:
        ours = list(run_tflite.word_pieces(text, vocabulary))
        assert ours == reference(text, add_special_tokens=False)["input_ids"], text


def test_committed_artefact_knows_its_classes(run_tflite, capsys):
    run_tflite.main(["Returns the element-wise square of a Keras tensor."])
    lines = capsys.readouterr().out.splitlines()
    card = json.loads(CARD.read_text(encoding="utf-8"))
    assert sorted(line.split()[-1] for line in lines) == sorted(card["classes"])
    shares = [float(line.split("%")[0]) for line in lines]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(100, abs=0.5)


def test_committed_artefact_is_what_its_card_says():
    card = json.loads(CARD.read_text(encoding="utf-8"))
    content = (CARD.parent / card["file"]).read_bytes()
    assert hashlib.sha256(content).hexdigest() == card["sha256"]
    assert len(content) == card["size_bytes"] <= 3_000_000
