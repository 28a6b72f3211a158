"""ALBERT's pieces: the graph gives what `sentencepiece` gives."""

import lzma
import unicodedata

import numpy as np
import pytest
from random_texts import every_character, random_texts

from keras_tformer.text import SentencePieceTokenizer, pack

sentencepiece = pytest.importorskip("sentencepiece", reason="the engine on the host")


SPECIAL_PIECES = {  # ALBERT's, for SentencePiece's trainer
    "pad_id": 0,
    "unk_id": 1,
    "bos_id": -1,
    "eos_id": -1,
    "pad_piece": "<pad>",
    "control_symbols": ["[CLS]", "[SEP]", "[MASK]"],
    "minloglevel": 2,
}


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
        **SPECIAL_PIECES,
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


SCRIPTS = [
    "The Café, ``Ångström'' \ufb01ne İstanbul straße ½ ①",
    "Привет, мир! Йод",
    "Ελλάδα ΣΑΣ",
    "東京タワー 日本語テスト \uff21\uff22\uff23",
    "مرحبا שלום हिन्दी",
    "한국어 문장을 쓴다",
    "Tiếng Việt rất hay",
]


def prepared(text, lowercase):
    """What comes before the model, written with Python's own tables."""
    text = text.replace("``", '"').replace("''", '"')
    if not lowercase:
        return text
    text = unicodedata.normalize("NFKD", text)
    # By itself each: at a word's end a capital sigma has another small letter.
    return "".join(c.lower() for c in text if unicodedata.category(c)[0] != "M")


@pytest.mark.slow
@pytest.mark.parametrize("lowercase", [True, False])
def test_preparation_inside_of_the_rules(lowercase):
    pytest.importorskip("tensorflow_text", reason="tokenizes in the graph")
    tokenizer = SentencePieceTokenizer.train(
        SCRIPTS * 7, 211, lowercase, show_progress=False
    )
    texts = [unicodedata.normalize(form, t) for t in SCRIPTS for form in ("NFC", "NFD")]
    texts += [text.upper() for text in texts] + ["", "  ", "a\x0bb", "\u3000 a`` '' "]
    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer._model)
    expected = [processor.encode(prepared(text, lowercase)) for text in texts]
    found = tokenizer.tokenize(texts, only_tflite_operations=True).to_list()
    assert found == expected
    # Every script has pieces: it is no comparison of unknown with unknown.
    assert all(np.mean(np.array(row) == 1) < 0.2 for row in found[: 2 * len(SCRIPTS)])


@pytest.mark.slow
def test_published_model_with_preparation_inside(data_folder):
    pytest.importorskip("tensorflow_text", reason="tokenizes in the graph")
    tokenizer = SentencePieceTokenizer(data_folder / "vocab" / "albert-30k-clean.model")
    texts = [*random_texts(503), *every_character()[::7]]
    with lzma.open(
        data_folder / "wiki/enwiki_sample.txt.xz", "rt", encoding="utf8"
    ) as f:
        texts += [next(f) for _ in range(4001)][::3]
    found = tokenizer.tokenize(texts, only_tflite_operations=True).to_list()
    assert found == tokenizer.encode(texts)


def test_a_model_without_rules(tmp_path):
    pytest.importorskip("tensorflow_text", reason="tokenizes in the graph")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["one two three naive"] * 9),
        model_prefix=str(tmp_path / "plain"),
        vocab_size=41,
        hard_vocab_limit=False,
        normalization_rule_name="identity",
        **SPECIAL_PIECES,
    )
    tokenizer = SentencePieceTokenizer(tmp_path / "plain.model")
    texts = ["One na\u00efve``\u3000TWO", "two\x0bthree", ""]
    found = tokenizer.tokenize(texts, only_tflite_operations=True).to_list()
    assert found == tokenizer.encode(texts)


def test_what_tensorflow_lite_cannot_do_is_said(small_model):
    pytest.importorskip("tensorflow_text", reason="tokenizes in the graph")
    for more in ({"never_split": ("[MASK]",)}, {"split_comma_after_digit": True}):
        tokenizer = SentencePieceTokenizer(small_model, **more)
        with pytest.raises(ValueError, match="no operations for never_split or for"):
            tokenizer.tokenize(["a"], only_tflite_operations=True)
