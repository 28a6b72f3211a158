"""BERT's word pieces: on the host through Rust, in the graph through TF Text."""

import collections
import os
import pathlib
import tempfile
import unicodedata

import numpy as np

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class WordPieceTokenizer:
    """Cuts text into BERT's word pieces and numbers them.

    Text is cleaned, (with `lowercase`) lower-cased and stripped of accents, split
    at white space, punctuation and Chinese characters, then every word is cut
    greedily into the longest pieces of the vocabulary. Devlin et al. 2018
    (arXiv 1810.04805), section 3; greedy matching as in Song et al. 2021
    (arXiv 2012.15524).

    `encode` works on Python strings with the `tokenizers` library, `tokenize` on
    string tensors with `tensorflow_text.FastBertTokenizer`. Neither adds `[CLS]`
    or `[SEP]` (`keras_tformer.text.pack` does), and neither reads the names of
    special tokens out of the text: a user who writes "[SEP]" gets its letters.

    Args:
        vocabulary: list of strings (the position of a piece is its id), or the
            path of a `vocab.txt` with one piece a line.
        lowercase: bool. Lower-case the text and strip its accents. Must be the
            value that the vocabulary was trained with.

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

    def __init__(self, vocabulary, lowercase=True):
        if isinstance(vocabulary, (str, os.PathLike)):
            vocabulary = _read_vocabulary(vocabulary)
        self._vocabulary = list(vocabulary)
        self._lowercase = bool(lowercase)
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
        self._host = None
        self._graph = {}

    # === Making and keeping ===

    @classmethod
    def train(cls, texts, vocabulary_size, lowercase=True, show_progress=True):
        """Learns a vocabulary from `texts` and returns its tokenizer.

        The same texts give the same vocabulary. The special tokens come first:
        `[PAD]` is 0, then `[UNK]`, `[CLS]`, `[SEP]`, `[MASK]`.

        Args:
            texts: iterable of strings.
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
        tokenizers = _import_tokenizers()
        if vocabulary_size <= len(SPECIAL_TOKENS):
            raise ValueError(
                f"vocabulary_size is {vocabulary_size}; expected more than the "
                f"{len(SPECIAL_TOKENS)} special tokens. A few thousand is usual."
            )
        normalizer = _normalizer(tokenizers, lowercase)
        texts, continuations = _alphabet([normalizer.normalize_str(t) for t in texts])
        engine = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
        engine.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
        trainer = tokenizers.trainers.WordPieceTrainer(
            vocab_size=vocabulary_size,
            min_frequency=2,
            # Left alone, the trainer numbers "##a", "##b" ... in the order of a hash
            # table, other in every process, and resolves ties by these numbers.
            special_tokens=[*SPECIAL_TOKENS, *continuations],
            continuing_subword_prefix="##",
            show_progress=show_progress,
        )
        engine.train_from_iterator(texts, trainer)
        pieces = engine.get_vocab()
        if len(pieces) == len(SPECIAL_TOKENS):
            raise ValueError(
                "The texts hold no word to learn from; expected an iterable of "
                "non-empty strings."
            )
        if len(pieces) > vocabulary_size:
            raise ValueError(
                f"vocabulary_size is {vocabulary_size}; expected at least "
                f"{len(pieces)}, the special tokens and the letters of the texts. A "
                "few thousand is usual."
            )
        return cls(sorted(pieces, key=pieces.get), lowercase=lowercase)

    @classmethod
    def load(cls, file, lowercase=True):
        """Opens the `vocab.txt` that `save` (or BERT) wrote: one piece a line."""
        return cls(file, lowercase=lowercase)

    def save(self, file):
        """Writes the vocabulary to `file` as BERT's `vocab.txt`, atomically."""
        file = pathlib.Path(file)
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=file.name)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as stream:
                stream.writelines(piece + "\n" for piece in self._vocabulary)
            os.chmod(temporary, 0o644)
            os.replace(temporary, file)
        except BaseException:
            pathlib.Path(temporary).unlink(missing_ok=True)
            raise

    # === Text to ids and back ===

    def encode(self, texts):
        """Turns Python strings into lists of ids, without special tokens.

        Args:
            texts: list of strings.

        Returns:
            A list with one list of ints per string.

        Raises:
            ValueError: if `texts` is one string instead of a list of them.
        """
        if isinstance(texts, (str, bytes)):
            raise ValueError(
                f"encode received one {type(texts).__name__}, expected a list of "
                "strings. Write encode([text])."
            )
        if self._host is None:
            tokenizers = _import_tokenizers()
            self._host = tokenizers.Tokenizer(
                tokenizers.models.WordPiece(self._ids, unk_token="[UNK]")
            )
            self._host.normalizer = _normalizer(tokenizers, self._lowercase)
            self._host.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
        encodings = self._host.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def tokenize(self, strings, only_tflite_operations=False):
        """Turns a string tensor into ragged ids, as operations of the graph.

        Args:
            strings: `(B,)` string tensor (UTF-8).
            only_tflite_operations: bool. TensorFlow Lite lacks the operations that
                lower-case as BERT does. With True, TF Text's own normalizer does
                it, which TensorFlow Lite has: ids differ from `encode` where a
                sign stands for others, such as the ellipsis in one character.

        Returns:
            `(B, None)` int32 `tf.RaggedTensor`, without special tokens.
        """
        tf, tf_text = _import_tensorflow_text()
        if not only_tflite_operations:
            # TF Text makes control characters spaces, BERT drops them.
            strings = tf.strings.regex_replace(strings, r"[\t\n\r]", " ")
            strings = tf.strings.regex_replace(
                strings, r"[\p{Cc}\p{Cf}\p{Co}\x{FFFD}]", ""
            )
        if self._lowercase and not only_tflite_operations:
            strings = tf_text.normalize_utf8(strings, "NFD")
            strings = tf.strings.regex_replace(strings, r"\p{Mn}", "")
            # By itself a capital sigma would become another letter at a word's end.
            strings = tf.strings.regex_replace(strings, "\u03a3", "\u03c3")
            strings = tf.strings.lower(strings, encoding="utf-8")
        lowercase = self._lowercase and only_tflite_operations
        if lowercase not in self._graph:
            # Made outside of any graph that is being traced, so that every later
            # graph can capture the same lookup tables.
            with tf.init_scope():
                self._graph[lowercase] = tf_text.FastBertTokenizer(
                    vocab=self._vocabulary,
                    token_out_type=tf.int32,
                    unknown_token="[UNK]",
                    lower_case_nfd_strip_accents=lowercase,
                )
        return self._graph[lowercase].tokenize(strings)

    def decode(self, ids, skip_special_tokens=True):
        """Joins the pieces of one list of ids to a readable string."""
        words = []
        for i in np.asarray(ids, dtype=np.int64).ravel():
            piece = self._vocabulary[i]
            if skip_special_tokens and piece in SPECIAL_TOKENS and piece != "[UNK]":
                continue
            if piece.startswith("##") and len(piece) > 2 and words:
                words[-1] += piece[2:]
            else:
                words.append(piece)
        return " ".join(words)

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
        return np.array([not piece.startswith("##") for piece in self._vocabulary])


def _alphabet(texts, max_characters=1000):
    """Replaces rare characters by spaces where there are more than `max_characters`.

    Returns:
        The texts, and the pieces "##c" for all characters c that go on with a word.
    """
    words = collections.Counter()
    for text in texts:
        words.update(text.split())
    counts = collections.Counter()
    pairs = set()
    for word, count in words.items():
        for character in word:
            counts[character] += count
        pairs.update(zip(word, word[1:], strict=False))
    common = sorted(counts, key=lambda c: (-counts[c], c))[:max_characters]
    if len(common) < len(counts):
        rare = dict.fromkeys(map(ord, counts.keys() - set(common)), " ")
        texts = [text.translate(rare) for text in texts]
    inside = {c for c in common if not _is_punctuation(c)}
    continuing = {after for before, after in pairs if before in inside} & inside
    return texts, ["##" + c for c in sorted(continuing)]


def _is_punctuation(character):
    """What BERT splits at: Unicode's punctuation, and all of ASCII's signs."""
    return unicodedata.category(character).startswith("P") or (
        character.isascii() and not character.isalnum()
    )


def _normalizer(tokenizers, lowercase):
    return tokenizers.normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=True,
        strip_accents=lowercase,
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


def _import_tokenizers():
    try:
        import tokenizers
    except ImportError:
        raise ImportError(
            "Word pieces on the host need the package `tokenizers`. Install it with: "
            'pip install "keras_tformer[text]"'
        ) from None
    return tokenizers


def _import_tensorflow_text():
    try:
        import tensorflow as tf
        import tensorflow_text as tf_text
    except ImportError:
        raise ImportError(
            "Tokenizing inside the TensorFlow graph needs the package "
            "`tensorflow-text`, in the version of your TensorFlow. Install it with: "
            'pip install "keras_tformer[text]"'
        ) from None
    return tf, tf_text
