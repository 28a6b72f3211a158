"""Host and graph on random Unicode and long words, with small vocabularies."""

import pytest
from random_texts import long_words, random_texts

from keras_tformer.text import SentencePieceTokenizer, WordPieceTokenizer

tf = pytest.importorskip("tensorflow", reason="tokenizes in the graph")
pytest.importorskip("tensorflow_text", reason="tokenizes in the graph")

PIECES = "[PAD] [UNK] [CLS] [SEP] [MASK] un a ##a b ##b \u0434 ##\u0434 e ##e".split()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"lowercase": False},
        {"strip_accents": False},
        {"lowercase": False, "strip_accents": True},
        {"never_split": WordPieceTokenizer.SPECIAL_TOKENS},
    ],
)
def test_word_pieces(settings):
    tokenizer = WordPieceTokenizer(PIECES, **settings)
    texts = random_texts(503) + long_words()
    assert tokenizer.tokenize(tf.constant(texts)).to_list() == tokenizer.encode(texts)


def test_words_are_measured_in_characters():
    tokenizer = WordPieceTokenizer(PIECES)
    texts = ["\u0434" * 100, "\u0434" * 101, "a" * 100, "a" * 101 + " b"]
    assert [len(row) for row in tokenizer.encode(texts)] == [100, 1, 100, 2]
    assert tokenizer.tokenize(tf.constant(texts)).to_list() == tokenizer.encode(texts)


def test_sentence_pieces_learned_here():
    texts = ["The (first) line, of 2010, says na\u00efve things.", "Another line."] * 7
    tokenizer = SentencePieceTokenizer.train(texts, 53, show_progress=False)
    again = SentencePieceTokenizer.train(iter(texts), 53, show_progress=False)
    assert tokenizer.vocabulary == again.vocabulary
    assert tokenizer.vocabulary[:5] == list(SentencePieceTokenizer.SPECIAL_TOKENS)
    mixed = texts[:2] + random_texts(211) + ["\x00 a\x85b", ""]
    found = tokenizer.tokenize(tf.constant(mixed)).to_list()
    expected = tokenizer.encode(mixed)
    assert list(map(sorted, found)) == list(map(sorted, expected))
    with pytest.raises(ValueError, match="hold no word"):
        SentencePieceTokenizer.train([" "], 53, show_progress=False)


def test_half_a_surrogate_pair_is_named():
    tokenizer = WordPieceTokenizer(PIECES)
    with pytest.raises(ValueError, match="Text 1 holds half a surrogate pair at char"):
        tokenizer.encode(["a", "b\ud800"])
    with pytest.raises(ValueError, match="Text 2 is a NoneType; expected a string"):
        tokenizer.encode(["a", "b", None])


def test_what_the_graph_cannot_do_is_said():
    tokenizer = WordPieceTokenizer(PIECES, split_chinese_characters=False)
    with pytest.raises(ValueError, match="split_chinese_characters is False"):
        tokenizer.tokenize(tf.constant(["a"]))
