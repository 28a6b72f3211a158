"""ALBERT's sentence pieces: on the host and in the graph."""

import os
import pathlib
import re
import tempfile
import unicodedata

import numpy as np

# The names that ALBERT's model file gives to the special pieces.
_SPECIAL_TOKENS = ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")


class SentencePieceTokenizer:
    """Cuts text into the pieces of a SentencePiece model and numbers them.

    Text is prepared as ALBERT's was: doubled quotes become one sign, (with
    `lowercase`) letters lose their accents and their case; then the model's own
    segmentation applies. Kudo and Richardson 2018 (arXiv 1808.06226); Lan et al.
    2019 (arXiv 1909.11942), section 4.1.

    `encode` works on Python strings with `sentencepiece`, `tokenize` on string
    tensors with `tensorflow_text.FastSentencepieceTokenizer`. Neither adds `[CLS]` or
    `[SEP]` (`keras_tformer.text.pack` does).

    Args:
        model_file: path of the `.model` file. It must hold the pieces `<pad>`,
            `<unk>`, `[CLS]`, `[SEP]` and `[MASK]`, as ALBERT's does.
        lowercase: bool. Lower-case the text and strip its accents. True for
            ALBERT's published models.

    Raises:
        ValueError: if the file is missing or no SentencePiece model, or if a
            special piece is missing.
    """

    def __init__(self, model_file, lowercase=True):
        sentencepiece = _import_sentencepiece()
        file = pathlib.Path(model_file)
        if not file.is_file():
            raise ValueError(
                f"The model file {file} does not exist; expected a SentencePiece "
                "`.model` file."
            )
        self._model = file.read_bytes()
        self._lowercase = bool(lowercase)
        self._host = sentencepiece.SentencePieceProcessor()
        try:
            self._host.LoadFromSerializedProto(self._model)
        except RuntimeError:
            raise ValueError(
                f"The file {file} is not a SentencePiece model; expected the `.model` "
                "file that SentencePiece's trainer writes."
            ) from None
        size = self._host.GetPieceSize()
        self._vocabulary = [self._host.IdToPiece(i) for i in range(size)]
        ids = {piece: i for i, piece in enumerate(self._vocabulary)}
        missing = [token for token in _SPECIAL_TOKENS if token not in ids]
        if missing:
            raise ValueError(
                f"The model {file} lacks the special piece(s) {', '.join(missing)}; "
                f"expected all of {', '.join(_SPECIAL_TOKENS)}. Train it with "
                "user-defined or control symbols of these names."
            )
        self._special_ids = [ids[token] for token in _SPECIAL_TOKENS]
        self._graph = None

    @classmethod
    def load(cls, file, lowercase=True):
        """Opens the `.model` file that `save` (or SentencePiece) wrote."""
        return cls(file, lowercase=lowercase)

    def save(self, file):
        """Writes the model to `file`, atomically."""
        file = pathlib.Path(file)
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=file.name)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(self._model)
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
        return [self._host.EncodeAsIds(self._prepared(text)) for text in texts]

    def _prepared(self, text):
        text = re.sub("``|''", '"', text)
        if self._lowercase:
            text = unicodedata.normalize("NFKD", text)
            text = "".join(c for c in text if unicodedata.category(c) != "Mn").lower()
        return text

    def tokenize(self, strings):
        """Turns a string tensor into ragged ids, as operations of the graph.

        Args:
            strings: `(B,)` string tensor (UTF-8).

        Returns:
            `(B, None)` int32 `tf.RaggedTensor`, without special tokens.
        """
        tf, tf_text = _import_tensorflow_text()
        if self._graph is None:
            # Made outside of any graph that is being traced, so that every later
            # graph can capture the same model.
            # The model is a constant there; in `tf_text.SentencepieceTokenizer` it
            # is a resource, which a SavedModel refuses unless somebody tracks it.
            with tf.init_scope():
                self._graph = tf_text.FastSentencepieceTokenizer(self._model)
        strings = tf.strings.regex_replace(strings, "``|''", '"')
        if self._lowercase:
            strings = tf_text.normalize_utf8(strings, "NFKD")
            strings = tf.strings.regex_replace(strings, r"\p{Mn}", "")
            strings = tf.strings.lower(strings, encoding="utf-8")
        return self._graph.tokenize(strings)

    def decode(self, ids, skip_special_tokens=True):
        """Joins the pieces of one list of ids to a readable string."""
        ids = [int(i) for i in np.asarray(ids).ravel()]
        if skip_special_tokens:
            hidden = set(self._special_ids) - {self.unknown_id}
            ids = [i for i in ids if i not in hidden]
        return self._host.DecodeIds(ids)

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
        return self._special_ids[0]

    @property
    def unknown_id(self):
        return self._special_ids[1]

    @property
    def start_id(self):
        return self._special_ids[2]

    @property
    def end_id(self):
        return self._special_ids[3]

    @property
    def mask_id(self):
        return self._special_ids[4]

    @property
    def starts_word(self):
        """`(V,)` bool array: True where a piece begins a word."""
        starts = np.array([piece.startswith("\u2581") for piece in self._vocabulary])
        starts[self._special_ids] = True
        return starts


def _import_sentencepiece():
    try:
        import sentencepiece
    except ImportError:
        raise ImportError(
            "Sentence pieces need the package `sentencepiece`. Install it with: "
            'pip install "keras_tformer[text]"'
        ) from None
    return sentencepiece


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
