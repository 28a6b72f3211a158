"""Host ids = graph ids = Hugging Face's ids, and a vocabulary that never varies."""

import gzip
import lzma
import os
import subprocess
import sys

import numpy as np
import pytest

from keras_tformer.text import WordPieceTokenizer

PIECES = "[PAD] [UNK] [CLS] [SEP] [MASK] un ##do ##n it a caf ##e , !".split()
# Case, accents, ligatures, control characters, wide letters, scripts without spaces.
ODD = [
    "\u0130stanbul \u01c5 \u03a3\u0391\u03a3 \ufb01ne m\u00b3 \u2026 na\u00efve",
    "so\u00adft \ufeffbom x\u0301y\x07z\tq \u200bzw \ufffd \U0001f600",
    "\u4e2d\u6587\u5b57 \u00bd \u00df \u017f \u212a \uff41\uff42 \u0e44\u0e17\u0e22",
    "[SEP] [MASK] it's don't 3.14 a_b",
    "",
    " \n ",
]


def pages():
    topics = pytest.importorskip(
        "pydoc_data.topics", reason="this Python has no documentation"
    ).topics
    return [page[:4000] for _, page in sorted(topics.items())]


@pytest.fixture(scope="module")
def trained():
    return WordPieceTokenizer.train(pages(), 997, show_progress=False)


def graph_ids(tokenizer, texts):
    tf = pytest.importorskip("tensorflow", reason="the graph is TensorFlow's")
    pytest.importorskip("tensorflow_text", reason="tokenizes in the graph")
    return tokenizer.tokenize(tf.constant(texts)).to_list()


def assert_same_as_hugging_face(tokenizer, texts, folder):
    transformers = pytest.importorskip("transformers", reason="the reference")
    tokenizer.save(folder / "vocab.txt")
    reference = transformers.BertTokenizer.from_pretrained(
        folder, do_lower_case=tokenizer.lowercase
    )
    expected = reference(list(texts), add_special_tokens=False)["input_ids"]
    assert tokenizer.encode(texts) == expected


def test_by_hand():
    tokenizer = WordPieceTokenizer(PIECES)
    assert tokenizer.encode(["Undo it!", "caf\u00e9,un", "zz"]) == [
        [5, 6, 8, 13],
        [10, 11, 12, 5],
        [1],
    ]
    assert tokenizer.decode([2, 5, 6, 8, 3, 0]) == "undo it"
    assert tokenizer.decode([2, 5, 1], skip_special_tokens=False) == "[CLS] un [UNK]"
    assert tokenizer.vocabulary_size == 14
    special = "padding_id unknown_id start_id end_id mask_id".split()
    assert [getattr(tokenizer, name) for name in special] == [0, 1, 2, 3, 4]
    assert tokenizer.starts_word.tolist() == [not p.startswith("##") for p in PIECES]


def test_graph_joins_pieces_as_the_host_does():
    pytest.importorskip("tensorflow", reason="the graph is TensorFlow's")
    words = "un ##do ##it it [x] . ## do".split()
    tokenizer = WordPieceTokenizer(
        ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    )
    ids = np.random.default_rng(5).integers(0, 13, (101, 7), "int32")
    expected = []
    for row in ids.tolist():
        end = row.index(tokenizer.end_id) if tokenizer.end_id in row else None
        expected.append(tokenizer.decode(row[:end]))
    found = tokenizer.detokenize(ids).numpy()
    assert [text.decode() for text in found] == expected


def test_case_is_kept_on_request():
    tokenizer = WordPieceTokenizer([*PIECES, "It"], lowercase=False)
    assert tokenizer.encode(["It it"]) == [[14, 8]]
    assert graph_ids(tokenizer, ["It it"]) == [[14, 8]]


@pytest.mark.parametrize("lowercase", [True, False])
def test_host_graph_and_hugging_face_agree(lowercase, tmp_path):
    texts = pages()[:23] + ODD
    tokenizer = WordPieceTokenizer.train(
        texts, 997, lowercase=lowercase, show_progress=False
    )
    assert graph_ids(tokenizer, texts) == tokenizer.encode(texts)
    # The reference reads the names of special tokens out of the text.
    plain = [text for text in texts if "[SEP]" not in text]
    assert_same_as_hugging_face(tokenizer, plain, tmp_path)


@pytest.mark.parametrize("case", ["uncased", "cased"])
def test_published_vocabularies_on_real_text(case, data_folder, tmp_path):
    tokenizer = WordPieceTokenizer(
        data_folder / "vocab" / f"bert-base-{case}-vocab.txt",
        lowercase=case == "uncased",
    )
    with lzma.open(
        data_folder / "wiki/enwiki_sample.txt.xz", "rt", encoding="utf8"
    ) as f:
        texts = [next(f) for _ in range(4001)][::3]
    with gzip.open(data_folder / "sst2/train.tsv.gz", "rt", encoding="utf8") as f:
        texts += [next(f).split("\t")[0] for _ in range(1501)]
    assert graph_ids(tokenizer, texts) == tokenizer.encode(texts)
    assert_same_as_hugging_face(tokenizer, texts, tmp_path)


def test_special_tokens_come_first(trained):
    first = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert trained.vocabulary[:5] == first
    assert trained.vocabulary_size == 997
    assert trained.padding_id == 0


def test_no_word_of_the_training_text_is_unknown(trained):
    ids = trained.encode(pages())
    assert not any(trained.unknown_id in row for row in ids)


@pytest.mark.slow
def test_another_process_learns_the_same_vocabulary(trained):
    script = (
        "from pydoc_data.topics import topics\n"
        "from keras_tformer.text import WordPieceTokenizer\n"
        "pages = [page[:4000] for _, page in sorted(topics.items())]\n"
        "found = WordPieceTokenizer.train(pages, 997, show_progress=False)\n"
        "print('\\n'.join(map(ascii, found.vocabulary)))"
    )
    outcome = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        # One process a hash seed: what depends on the order of a set would differ.
        env={**os.environ, "PYTHONHASHSEED": "7", "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert outcome.stdout.split("\n")[:-1] == list(map(ascii, trained.vocabulary))


def test_save_and_load(trained, tmp_path):
    file = tmp_path / "new" / "vocab.txt"
    trained.save(file)
    trained.save(file)
    assert [path.name for path in file.parent.iterdir()] == ["vocab.txt"]
    loaded = WordPieceTokenizer.load(file)
    assert loaded.vocabulary == trained.vocabulary
    assert loaded.encode(ODD) == trained.encode(ODD)


def test_exported_graph_needs_no_python(trained, tmp_path):
    tf = pytest.importorskip("tensorflow", reason="SavedModel is TensorFlow's")
    pytest.importorskip("tensorflow_text", reason="tokenizes in the graph")
    module = tf.Module()
    module.serve = tf.function(
        lambda strings: trained.tokenize(strings).to_tensor(),
        input_signature=[tf.TensorSpec([None], tf.string)],
    )
    tf.saved_model.save(module, str(tmp_path))
    text = "The quick brown function"
    found = tf.saved_model.load(str(tmp_path)).serve(tf.constant([text]))
    assert found.numpy().tolist() == trained.encode([text])


def test_inside_of_a_data_pipeline(trained):
    tf = pytest.importorskip("tensorflow", reason="tf.data is TensorFlow's")
    pytest.importorskip("tensorflow_text", reason="tokenizes in the graph")
    texts = ["one function", "a class of two"]
    dataset = tf.data.Dataset.from_tensor_slices(texts).batch(2).map(trained.tokenize)
    assert next(iter(dataset)).to_list() == trained.encode(texts)


def test_only_tflite_operations(trained):
    tf = pytest.importorskip("tensorflow", reason="TFLite's converter is there")
    pytest.importorskip("tensorflow_text", reason="tokenizes in the graph")

    @tf.function(input_signature=[tf.TensorSpec([1], tf.string)])
    def serve(strings):
        ragged = trained.tokenize(strings, only_tflite_operations=True)
        return ragged.to_tensor(0, shape=[None, 7])

    text = "Some plain text here"
    found = serve(tf.constant([text])).numpy()[0]
    expected = trained.encode([text])[0] + 7 * [0]
    assert found.tolist() == expected[:7]
    operations = {
        op.type for op in serve.get_concrete_function().graph.get_operations()
    }
    assert not operations & {"StringLower", "NormalizeUTF8", "StaticRegexReplace"}


def test_errors(tmp_path):
    with pytest.raises(ValueError, match="holds the piece 'a' twice"):
        WordPieceTokenizer([*PIECES, "a"])
    with pytest.raises(ValueError, match=r"lacks the special token\(s\) \[MASK\]"):
        WordPieceTokenizer(PIECES[:4])
    with pytest.raises(ValueError, match="vocab.txt does not exist"):
        WordPieceTokenizer(tmp_path / "vocab.txt")
    (tmp_path / "vocab.txt").write_bytes(b"[PAD]\n\xff\n")
    with pytest.raises(ValueError, match=r"not UTF-8 \(byte 6\)"):
        WordPieceTokenizer(tmp_path / "vocab.txt")
    with pytest.raises(ValueError, match="received one str"):
        WordPieceTokenizer(PIECES).encode("text")
    with pytest.raises(ValueError, match="more than the 5 special tokens"):
        WordPieceTokenizer.train(["text"], 5, show_progress=False)
    with pytest.raises(ValueError, match="hold no word"):
        WordPieceTokenizer.train([" "], 7, show_progress=False)
    with pytest.raises(ValueError, match="expected at least 12"):
        WordPieceTokenizer.train(["abcd"], 7, show_progress=False)


def test_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    monkeypatch.setitem(sys.modules, "tensorflow_text", None)
    tokenizer = WordPieceTokenizer(PIECES)
    for use in (tokenizer.encode, tokenizer.tokenize):
        with pytest.raises(ImportError, match=r"pip install \"keras_tformer\[text\]\""):
            use(["text"])
