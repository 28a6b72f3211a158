"""BERT's word pieces: on the host through Rust, in the graph through TF Text."""

import os
import pathlib

import numpy as np

from keras_tformer.text.characters_unlike_rust import LETTERS_IN_BERT, UNKNOWN_LETTER
from keras_tformer.text.files import write_atomically
from keras_tformer.text.graph_operations import (
    change_beyond_ascii,
    hide_long_words,
    import_tensorflow_text,
    join_pieces,
    tokenize_around,
)
from keras_tformer.text.rust_engine import (
    encode_texts,
    import_tokenizers,
    read_special_tokens,
)
from keras_tformer.text.train_word_pieces import SPECIAL_TOKENS, train_word_pieces

# Longer words are unknown, in BERT and in all that followed it.
MAX_CHARACTERS_PER_WORD = 100


class WordPieceTokenizer:
    """Cuts text into BERT's word pieces and numbers them.

    Text is cleaned, (with `lowercase`) lower-cased and stripped of accents, split
    at white space, punctuation and Chinese characters, then every word is cut
    greedily into the longest pieces of the vocabulary; a word of more than 100
    characters is unknown. Devlin et al. 2018 (arXiv 1810.04805), section 3; greedy
    matching as in Song et al. 2021 (arXiv 2012.15524).

    `encode` works on Python strings with the Rust library `tokenizers`, which Hugging
    Face's BERT uses too; `tokenize` on string tensors with
    `tensorflow_text.FastBertTokenizer`, prepared to give the same ids for any text.
    (One exception: a vocabulary of your own that holds one of the some 800 characters
    of `characters_unlike_rust`, which no published one does.) Neither adds `[CLS]` or
    `[SEP]` (`pack` and `encode_batch` do).

    Text is data: a user who writes "[SEP]" gets its letters, and nobody can end a
    sequence from within. To have special tokens read out of the text, as
    `transformers` does, name them in `never_split`.

    Args:
        vocabulary: list of strings (the position of a piece is its id), or the
            path of a `vocab.txt` with one piece a line.
        lowercase: bool. Lower-case the text. Must be the value that the vocabulary
            was trained with.
        strip_accents: bool. Strip letters of their accents; None means as
            `lowercase` says.
        split_chinese_characters: bool. Make every Chinese character a word.
        never_split: tuple of pieces that stand for themselves in the text, such as
            `WordPieceTokenizer.SPECIAL_TOKENS`.
        max_sequence_length: int or None. Longest row that `encode_batch` makes
            when it is not told.

    Raises:
        ValueError: if a piece occurs twice, if a special token is missing, or if
            the file is missing or not UTF-8.

    Example:
        >>> pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "un", "##do", "it"]
        >>> tokenizer = WordPieceTokenizer(pieces)
        >>> tokenizer.encode(["Undo it", "undid"])
        [[5, 6, 7], [1]]
        >>> tokenizer.decode([5, 6, 7])
        'undo it'
    """

    SPECIAL_TOKENS = SPECIAL_TOKENS

    def __init__(
        self,
        vocabulary,
        lowercase=True,
        strip_accents=None,
        split_chinese_characters=True,
        never_split=(),
        max_sequence_length=None,
    ):
        if isinstance(vocabulary, (str, os.PathLike)):
            vocabulary = _read_vocabulary(vocabulary)
        self._vocabulary = list(vocabulary)
        self._lowercase = bool(lowercase)
        self._strip_accents = self._lowercase
        if strip_accents is not None:
            self._strip_accents = bool(strip_accents)
        self._split_chinese_characters = bool(split_chinese_characters)
        self._never_split = tuple(never_split)
        self._max_sequence_length = max_sequence_length
        self._ids = {piece: i for i, piece in enumerate(self._vocabulary)}
        if len(self._ids) != len(self._vocabulary):
            seen = set()
            twice = next(p for p in self._vocabulary if p in seen or seen.add(p))
            raise ValueError(
                f"The vocabulary holds the piece {twice!r} twice; every piece must "
                "occur once. Remove the second one."
            )
        missing = [token for token in SPECIAL_TOKENS if token not in self._ids]
        if missing:
            raise ValueError(
                f"The vocabulary lacks the special token(s) {', '.join(missing)}; "
                f"expected all of {', '.join(SPECIAL_TOKENS)}. Add them."
            )
        missing = [token for token in self._never_split if token not in self._ids]
        if missing:
            raise ValueError(
                f"never_split names {', '.join(map(repr, missing))}, which the "
                "vocabulary lacks; expected pieces of the vocabulary."
            )
        # Not while a graph is traced: AutoGraph takes a second over these loops.
        self._starts_word = np.array([not p.startswith("##") for p in self._vocabulary])
        self._lengths = [len(piece.removeprefix("##")) for piece in self._vocabulary]
        self._host = None
        self._graph = {}

    # === Making and keeping ===

    @classmethod
    def train(cls, texts, vocabulary_size, lowercase=True, show_progress=True):
        """Learns a vocabulary from `texts` and returns its tokenizer.

        The same texts give the same vocabulary. The special tokens come first:
        `[PAD]` is 0, then `[UNK]`, `[CLS]`, `[SEP]`, `[MASK]`.

        Args:
            texts: iterable of strings. They are held in memory: give a sample of what
                is larger, whose words are in a few hundred megabytes of it.
            vocabulary_size: int. Largest number of pieces, special tokens
                included; little text may give fewer.
            lowercase: bool. Lower-case the text and strip its accents first.
            show_progress: bool. Draw the progress bars of `tokenizers`.

        Returns:
            A `WordPieceTokenizer`.

        Raises:
            ValueError: if `vocabulary_size` leaves no room beside the special
                tokens, or if the texts hold no word.
        """
        normalizer = _normalizer(lowercase, lowercase, True)
        pieces = train_word_pieces(texts, vocabulary_size, normalizer, show_progress)
        return cls(pieces, lowercase=lowercase)

    @classmethod
    def load(cls, file, lowercase=True):
        """Opens the `vocab.txt` that `save` (or BERT) wrote: one piece a line.

        A `tokenizer.json` comes with its own settings, `lowercase` among them.
        """
        if pathlib.Path(file).suffix == ".json":
            from keras_tformer.text.tokenizer_json import word_piece_arguments

            return cls(**word_piece_arguments(file))
        return cls(file, lowercase=lowercase)

    def save(self, file):
        """Writes `vocab.txt`, or a `tokenizer.json` where `file` ends so; atomically.

        The JSON file opens in `tokenizers.Tokenizer.from_file` and gives the same ids.
        """
        content = "".join(piece + "\n" for piece in self._vocabulary)
        if pathlib.Path(file).suffix == ".json":
            from keras_tformer.text.tokenizer_json import finished_engine

            tokenizers = import_tokenizers()
            decoder = tokenizers.decoders.WordPiece(prefix="##")
            ends = {token: self._ids[token] for token in ("[CLS]", "[SEP]")}
            content = finished_engine(self._engine(), decoder, ends).to_str(pretty=True)
        write_atomically(file, content.encode("utf-8"))

    # === Text to ids and back ===

    def _engine(self):
        if self._host is None:
            tokenizers = import_tokenizers()
            self._host = tokenizers.Tokenizer(
                tokenizers.models.WordPiece(
                    self._ids,
                    unk_token="[UNK]",
                    max_input_chars_per_word=MAX_CHARACTERS_PER_WORD,
                )
            )
            self._host.normalizer = _normalizer(
                self._lowercase, self._strip_accents, self._split_chinese_characters
            )
            self._host.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
            read_special_tokens(self._host, self._never_split)
        return self._host

    def encode(self, texts):
        """Turns Python strings into lists of ids, without special tokens.

        Args:
            texts: list of strings, or of lists of words.

        Returns:
            A list with one list of ints per string.

        Raises:
            ValueError: if `texts` is one string instead of a list of them, or if a
                text is no string or holds half a surrogate pair.
        """
        return [encoding.ids for encoding in encode_texts(self._engine(), texts)]

    def encode_with_offsets(self, texts):
        """Turns strings into ids and says where in the text each came from.

        Args:
            texts: list of strings, or of lists of words.

        Returns:
            A list with one tuple per string: the list of ids; the list of spans
            `(start, end)` such that `text[start:end]` gave the id (in given words:
            spans of that word); the list of word numbers, counted from 0.
        """
        encodings = encode_texts(self._engine(), texts, with_offsets=True)
        return [(e.ids, e.offsets, e.word_ids) for e in encodings]

    def tokenize(self, strings, only_tflite_operations=False):
        """Turns a string tensor into ragged ids, as operations of the graph.

        Args:
            strings: `(B,)` string tensor (UTF-8).
            only_tflite_operations: bool. TensorFlow Lite lacks the operations that
                lower-case as BERT does. With True, TF Text's own normalizer does
                it, which TensorFlow Lite has: ids differ from `encode` where a
                sign stands for others, such as the ellipsis in one character, and
                words are unknown beyond 100 bytes instead of characters.

        Returns:
            `(B, None)` int32 `tf.RaggedTensor`, without special tokens.

        Raises:
            ValueError: for settings that TF Text cannot follow.
        """
        tf, tf_text = import_tensorflow_text()
        if not self._split_chinese_characters:
            raise ValueError(
                "split_chinese_characters is False; TF Text always splits them. Use "
                "encode on the host, or a vocabulary trained with splitting."
            )
        if only_tflite_operations:
            if self._never_split or self._strip_accents != self._lowercase:
                raise ValueError(
                    "TensorFlow Lite has no operations for never_split or for "
                    "strip_accents unlike lowercase. Make the tokenizer without them."
                )
            return self._fast_tokenizer(tf, tf_text, True).tokenize(strings)
        if not self._never_split:
            return self._tokenize_plain(strings)
        special_ids = {token: self._ids[token] for token in self._never_split}
        return tokenize_around(strings, special_ids, self._tokenize_plain)

    def _tokenize_plain(self, strings):
        tf, tf_text = import_tensorflow_text()
        strings = change_beyond_ascii(strings, self._prepare)
        # TF Text makes control characters spaces, BERT drops them.
        strings = tf.strings.regex_replace(strings, r"[\t\n\r]", " ")
        strings = tf.strings.regex_replace(strings, r"[\x00-\x1F\x7F]", "")
        if self._lowercase:
            strings = tf.strings.lower(strings)
        ids = self._fast_tokenizer(tf, tf_text, False).tokenize(strings)
        return hide_long_words(
            ids,
            self._starts_word,
            self._lengths,
            self.unknown_id,
            MAX_CHARACTERS_PER_WORD,
        )

    def _prepare(self, strings):
        """Cleans strings with letters beyond ASCII as BERT does."""
        tf, tf_text = import_tensorflow_text()
        replace = tf.strings.regex_replace
        strings = replace(strings, LETTERS_IN_BERT, UNKNOWN_LETTER)
        strings = replace(strings, r"[\t\n\r\x{2028}]", " ")
        strings = replace(strings, r"[\p{Cc}\p{Cf}\p{Co}\x{FFFD}]", "")
        # Punctuation to the Rust library, which has an older Unicode.
        strings = replace(strings, r"[\x{166D}\x{111C9}]", f" {UNKNOWN_LETTER} ")
        if self._strip_accents:
            strings = tf_text.normalize_utf8(strings, "NFD")
            strings = replace(strings, r"[\p{Mn}\x{1734}]", "")
        if self._lowercase:
            # By itself a capital sigma would become another letter at a word's end.
            strings = replace(strings, "\u03a3", "\u03c3")
            strings = tf.strings.lower(strings, encoding="utf-8")
        return strings

    def _fast_tokenizer(self, tf, tf_text, only_tflite_operations):
        lowercase = self._lowercase and only_tflite_operations
        # TF Text counts bytes; a character of UTF-8 has up to four.
        bytes_per_character = 1 if only_tflite_operations else 4
        if only_tflite_operations not in self._graph:
            # Made outside of any graph that is being traced, so that every later
            # graph can capture the same lookup tables.
            with tf.init_scope():
                self._graph[only_tflite_operations] = tf_text.FastBertTokenizer(
                    vocab=self._vocabulary,
                    token_out_type=tf.int32,
                    unknown_token="[UNK]",
                    max_bytes_per_word=bytes_per_character * MAX_CHARACTERS_PER_WORD,
                    lower_case_nfd_strip_accents=lowercase,
                )
        return self._graph[only_tflite_operations]

    def decode(self, ids, skip_special_tokens=True, clean_up=False):
        """Joins the pieces of one list of ids to a readable string.

        Args:
            ids: list or array of ints.
            skip_special_tokens: bool. Leave out all special tokens but `[UNK]`.
            clean_up: bool. Take out the spaces before punctuation and in English
                contractions, as `transformers` does: "do n't !" becomes "don't!".

        Returns:
            str.
        """
        tokenizers = import_tokenizers()
        pieces = [self._vocabulary[i] for i in np.asarray(ids, dtype=np.int64).ravel()]
        if skip_special_tokens:
            hidden = {*SPECIAL_TOKENS} - {"[UNK]"}
            pieces = [piece for piece in pieces if piece not in hidden]
        return tokenizers.decoders.WordPiece("##", cleanup=clean_up).decode(pieces)

    def detokenize(self, ids):
        """Joins the pieces of each row up to its end, as operations of the graph.

        As `decode` without special tokens, so that an exported model can give text.

        Args:
            ids: `(B, T)` int32 tensor.

        Returns:
            `(B,)` string tensor (UTF-8).
        """
        hidden = {*SPECIAL_TOKENS} - {"[UNK]"}
        hidden = [i for i, piece in enumerate(self._vocabulary) if piece in hidden]
        return join_pieces(
            ids, self.vocabulary, self.end_id, hidden, " ", [(" ##", "")]
        )

    # === What the ids mean ===

    @property
    def vocabulary(self):
        return list(self._vocabulary)

    @property
    def vocabulary_size(self):
        return len(self._vocabulary)

    @property
    def lowercase(self):
        return self._lowercase

    @property
    def strip_accents(self):
        return self._strip_accents

    @property
    def split_chinese_characters(self):
        return self._split_chinese_characters

    @property
    def never_split(self):
        return self._never_split

    @property
    def max_sequence_length(self):
        return self._max_sequence_length

    @property
    def padding_id(self):
        return self._ids["[PAD]"]

    @property
    def unknown_id(self):
        return self._ids["[UNK]"]

    @property
    def start_id(self):
        return self._ids["[CLS]"]

    @property
    def end_id(self):
        return self._ids["[SEP]"]

    @property
    def mask_id(self):
        return self._ids["[MASK]"]

    @property
    def starts_word(self):
        """`(V,)` bool array: True where a piece begins a word."""
        return self._starts_word.copy()


def _normalizer(lowercase, strip_accents, split_chinese_characters):
    return import_tokenizers().normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=split_chinese_characters,
        strip_accents=strip_accents,
        lowercase=lowercase,
    )


def _read_vocabulary(file):
    file = pathlib.Path(file)
    if not file.is_file():
        raise ValueError(
            f"The vocabulary file {file} does not exist; expected a vocab.txt with "
            "one piece a line."
        )
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"The vocabulary file {file} is not UTF-8 (byte {error.start}); expected "
            "a vocab.txt with one piece a line. Convert it to UTF-8."
        ) from None
    # Not `splitlines`: BERT's Chinese vocabulary holds U+2028 as a piece.
    lines = text.replace("\r\n", "\n").split("\n")
    if lines and lines[-1] == "":
        lines.pop()
    return lines
