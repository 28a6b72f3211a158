"""ALBERT's pieces: the graph gives what `sentencepiece` gives."""

import lzma

import numpy as np
import pytest

from keras_tformer.text import SentencePieceTokenizer, pack

sentencepiece = pytest.importorskip("sentencepiece", reason="the engine on the host")


@pytest.fixture(scope="module")
def small_model(tmp_path_factory):
    """A model with ALBERT's special pieces, learned here."""
    topics = pytest.importorskip(
        "pydoc_data.topics", reason="this Python has no documentation"
    ).topics
    prefix = tmp_path_factory.mktemp("model") / "small"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter("\n".join(topics.values()).lower().split("\n")),
        model_prefix=str(prefix),
        vocab_size=499,
        pad_id=0,
        unk_id=1,
        bos_id=-1,
        eos_id=-1,
        pad_piece="<pad>",
        control_symbols=["[CLS]", "[SEP]", "[MASK]"],
        minloglevel=2,
    )
    return prefix.with_suffix(".model")


def test_ids_and_names(small_model):
    tokenizer = SentencePieceTokenizer(small_model)
    special = "padding_id unknown_id start_id end_id mask_id".split()
    assert [getattr(tokenizer, name) for name in special] == [0, 1, 2, 3, 4]
    assert tokenizer.vocabulary_size == 499
    ids = tokenizer.encode(["The na\u00efve Function"])[0]
    assert tokenizer.decode([2, *ids, 3, 0]) == "the naive function"
    first = [tokenizer.starts_word[i] for i in ids]
    assert sum(first) == 3
    assert first[0]


def test_graph_equals_host(small_model):
    tf = pytest.importorskip("tensorflow", reason="the graph is TensorFlow's")
    pytest.importorskip("tensorflow_text", reason="tokenizes in the graph")
    tokenizer = SentencePieceTokenizer(small_model)
    texts = [
        "The na\u00efve Function, ``quoted''  twice",
        "",
        "\u03a3\u0391\u03a3 9,9!",
    ]
    assert tokenizer.tokenize(tf.constant(texts)).to_list() == tokenizer.encode(texts)


def test_graph_joins_pieces_as_the_host_does(small_model):
    pytest.importorskip("tensorflow", reason="the graph is TensorFlow's")
    tokenizer = SentencePieceTokenizer(small_model)
    ids = np.random.default_rng(5).integers(0, 499, (101, 13), "int32")
    ids[7] = tokenizer.padding_id
    ids[11, 0] = tokenizer.end_id
    expected = []
    for row in ids.tolist():
        end = row.index(tokenizer.end_id) if tokenizer.end_id in row else None
        expected.append(tokenizer.decode(row[:end]))
    found = tokenizer.detokenize(ids).numpy()
    assert [text.decode() for text in found] == expected
    assert expected[7] == expected[11] == ""


def test_published_model_on_real_text(data_folder):
    tf = pytest.importorskip("tensorflow", reason="the graph is TensorFlow's")
    pytest.importorskip("tensorflow_text", reason="tokenizes in the graph")
    tokenizer = SentencePieceTokenizer(data_folder / "vocab" / "albert-30k-clean.model")
    with lzma.open(
        data_folder / "wiki/enwiki_sample.txt.xz", "rt", encoding="utf8"
    ) as f:
        texts = [next(f) for _ in range(4001)][::3]
    assert tokenizer.tokenize(tf.constant(texts)).to_list() == tokenizer.encode(texts)
    assert tokenizer.encode(["Hello world"]) == [[10975, 126]]
    assert (tokenizer.start_id, tokenizer.end_id, tokenizer.mask_id) == (2, 3, 4)


def test_exported_graph_needs_no_python(small_model, tmp_path):
    tf = pytest.importorskip("tensorflow", reason="SavedModel is TensorFlow's")
    pytest.importorskip("tensorflow_text", reason="tokenizes in the graph")
    tokenizer = SentencePieceTokenizer(small_model)
    numbers = {"sequence_length": 11, "start_id": 2, "end_id": 3}
    module = tf.Module()
    module.serve = tf.function(
        lambda strings: pack(tokenizer.tokenize(strings), **numbers)["token_ids"],
        input_signature=[tf.TensorSpec([None], tf.string)],
    )
    tf.saved_model.save(module, str(tmp_path))
    found = tf.saved_model.load(str(tmp_path)).serve(tf.constant(["one Function"]))
    expected = pack(tokenizer.encode(["one Function"]), **numbers)["token_ids"]
    assert found.numpy().tolist() == expected.tolist()


def test_save_and_load(small_model, tmp_path):
    tokenizer = SentencePieceTokenizer(small_model)
    tokenizer.save(tmp_path / "copy.model")
    loaded = SentencePieceTokenizer.load(tmp_path / "copy.model")
    assert loaded.vocabulary == tokenizer.vocabulary
    assert (tmp_path / "copy.model").read_bytes() == small_model.read_bytes()


def test_errors(small_model, tmp_path):
    with pytest.raises(ValueError, match="none.model does not exist"):
        SentencePieceTokenizer(tmp_path / "none.model")
    (tmp_path / "text.model").write_text("not a model")
    with pytest.raises(ValueError, match="is not a SentencePiece model"):
        SentencePieceTokenizer(tmp_path / "text.model")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["one two three"] * 9),
        model_prefix=str(tmp_path / "bare"),
        vocab_size=17,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    with pytest.raises(ValueError, match="lacks the special piece"):
        SentencePieceTokenizer(tmp_path / "bare.model")
    with pytest.raises(ValueError, match="received one str"):
        SentencePieceTokenizer(small_model).encode("text")
