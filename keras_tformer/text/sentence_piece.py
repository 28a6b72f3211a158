"""ALBERT's sentence pieces: on the host through Rust, in the graph through TF Text."""

import pathlib
import re

import numpy as np

from keras_tformer.text.characters_unlike_rust import LETTERS_IN_ALBERT, UNKNOWN_LETTER
from keras_tformer.text.files import write_atomically
from keras_tformer.text.graph_operations import (
    import_tensorflow_text,
    join_pieces,
    tokenize_around,
)
from keras_tformer.text.rules_in_model import put_into_rules
from keras_tformer.text.rust_engine import (
    encode_texts,
    import_tokenizers,
    read_special_tokens,
)
from keras_tformer.text.sentence_piece_model import (
    parse_model,
    train_model,
)

# The names that ALBERT's model file gives to the special pieces.
SPECIAL_TOKENS = ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")
DOUBLED_QUOTES = ("``", "''")


class SentencePieceTokenizer:
    """Cuts text into the pieces of a SentencePiece unigram model and numbers them.

    Text is prepared as ALBERT's was: doubled quotes become one sign, letters lose
    (unless `keep_accents`) their accents and (with `lowercase`) their case, white
    space becomes single spaces; then the model's own rules and segmentation apply.
    Kudo and Richardson 2018 (arXiv 1808.06226); Lan et al. 2019 (arXiv 1909.11942),
    section 4.1.

    `encode` works on Python strings with the Rust library `tokenizers`, `tokenize` on
    string tensors with `tensorflow_text.FastSentencepieceTokenizer`, prepared to give
    the same ids, with two exceptions. Where two ways of cutting a word score the same
    to float32's precision, "ruling" may be "rul" "ing" for one and "ru" "ling" for
    the other. And where a model has Korean syllables, or letters with several accents
    written apart, `tokenize` joins them as SentencePiece does; Rust, and so `encode`
    and `AlbertTokenizer`, leaves them apart, unknown. Neither adds
    `[CLS]` or `[SEP]` (`pack` and `encode_batch` do). Names of special tokens are
    text, unless `never_split` has them.

    Ids are those of `transformers`' `AlbertTokenizer` (the Rust one, the only one
    since its version 5) on a `tokenizer.json`. Two things differ elsewhere: Google's
    ALBERT and the former slow tokenizer cut "2010," into "2010" and ",", which
    `split_comma_after_digit` does; and version 5 reading a `spiece.model` begins a new
    word after each user-defined symbol ("(", "-", "." ...), as neither Google's
    ALBERT nor SentencePiece does: a fault that is not repeated here.

    Args:
        model_file: path of the `.model` file, or its bytes. It must hold the pieces
            `<pad>`, `<unk>`, `[CLS]`, `[SEP]` and `[MASK]`, as ALBERT's does.
        lowercase: bool. Lower-case the text. True for ALBERT's published models.
        keep_accents: bool. Leave accents; None means the contrary of `lowercase`.
        split_comma_after_digit: bool. Cut a comma off the digits before it.
        never_split: tuple of pieces that stand for themselves in the text, such as
            `SentencePieceTokenizer.SPECIAL_TOKENS`.
        max_sequence_length: int or None. Longest row that `encode_batch` makes
            when it is not told.

    Raises:
        ValueError: if the file is missing or no SentencePiece unigram model, or if a
            special piece is missing.
    """

    SPECIAL_TOKENS = SPECIAL_TOKENS

    def __init__(
        self,
        model_file,
        lowercase=True,
        keep_accents=None,
        split_comma_after_digit=False,
        never_split=(),
        max_sequence_length=None,
    ):
        self._lowercase = bool(lowercase)
        self._keep_accents = not self._lowercase
        if keep_accents is not None:
            self._keep_accents = bool(keep_accents)
        self._split_comma_after_digit = bool(split_comma_after_digit)
        self._never_split = tuple(never_split)
        self._max_sequence_length = max_sequence_length
        if not isinstance(model_file, bytes):
            file = pathlib.Path(model_file)
            if not file.is_file():
                raise ValueError(
                    f"The model file {file} does not exist; expected a SentencePiece "
                    "`.model` file."
                )
            model_file = file.read_bytes()
        else:
            file = "given as bytes"
        self._model = model_file
        self._pieces, self._rules = parse_model(model_file, file)
        self._vocabulary = [piece for piece, _, _ in self._pieces]
        self._ids = {piece: i for i, piece in enumerate(self._vocabulary)}
        missing = [token for token in SPECIAL_TOKENS if token not in self._ids]
        if missing:
            raise ValueError(
                f"The model {file} lacks the special piece(s) {', '.join(missing)}; "
                f"expected all of {', '.join(SPECIAL_TOKENS)}. Train it with "
                "user-defined or control symbols of these names."
            )
        missing = [token for token in self._never_split if token not in self._ids]
        if missing:
            raise ValueError(
                f"never_split names {', '.join(map(repr, missing))}, which the model "
                "lacks; expected pieces of the model."
            )
        self._special_ids = [self._ids[token] for token in SPECIAL_TOKENS]
        self._host = None
        self._graph = {}
        self._cuts = None

    # === Making and keeping ===

    @classmethod
    def train(cls, texts, vocabulary_size, lowercase=True, show_progress=True):
        """Learns a unigram model from `texts` and returns its tokenizer.

        `<pad>` is 0, then `<unk>`, `[CLS]`, `[SEP]`, `[MASK]`, as in ALBERT's models.

        Args:
            texts: iterable of strings.
            vocabulary_size: int. Number of pieces, special tokens included; little
                text gives fewer.
            lowercase: bool. Lower-case the text and strip its accents first.
            show_progress: bool. Let `sentencepiece` write its log.

        Returns:
            A `SentencePieceTokenizer`.

        Raises:
            ValueError: if `vocabulary_size` leaves no room beside the special
                tokens and letters, or if the texts hold no word.
        """
        normalizer = _normalizer(lowercase, not lowercase, None)
        prepared = (
            line
            for text in texts
            for line in normalizer.normalize_str(text).splitlines()
        )
        model = train_model(prepared, vocabulary_size, SPECIAL_TOKENS, show_progress)
        return cls(model, lowercase=lowercase)

    @classmethod
    def load(cls, file, lowercase=True):
        """Opens the `.model` file that `save` (or SentencePiece) wrote.

        A `tokenizer.json` comes with its own settings, `lowercase` among them.
        """
        if pathlib.Path(file).suffix == ".json":
            from keras_tformer.text.tokenizer_json import sentence_piece_arguments

            return cls(**sentence_piece_arguments(file))
        return cls(file, lowercase=lowercase)

    def save(self, file):
        """Writes the model, or a `tokenizer.json` where `file` ends so; atomically.

        The JSON file opens in `tokenizers.Tokenizer.from_file` and gives the same ids
        (but for texts that name a special token without `never_split`, and without
        the comma rule, which the format cannot say).
        """
        content = self._model
        if pathlib.Path(file).suffix == ".json":
            from keras_tformer.text.tokenizer_json import finished_engine

            ends = {token: self._ids[token] for token in ("[CLS]", "[SEP]")}
            engine = finished_engine(self._new_engine(hidden=""), _decoder(), ends)
            content = engine.to_str(pretty=True).encode("utf-8")
        write_atomically(file, content)

    # === Text to ids and back ===

    def _engine(self):
        if self._host is None:
            # With a space, which no word holds, no text can name a special token.
            self._host = self._new_engine(hidden=" ")
            if self._split_comma_after_digit:
                self._cuts = self._comma_cuts()
        return self._host

    def _new_engine(self, hidden):
        tokenizers = import_tokenizers()
        kept = {*self._never_split}
        engine = tokenizers.Tokenizer(
            tokenizers.models.Unigram(
                [
                    (hidden + piece if special and piece not in kept else piece, score)
                    for piece, score, special in self._pieces
                ],
                self.unknown_id,
                False,
            )
        )
        engine.normalizer = _normalizer(
            self._lowercase, self._keep_accents, self._rules
        )
        before = tokenizers.pre_tokenizers
        engine.pre_tokenizer = before.Sequence(
            [before.WhitespaceSplit(), before.Metaspace("\u2581", "always")]
        )
        read_special_tokens(engine, self._never_split)
        return engine

    def _comma_cuts(self):
        """`{id: ids}` for the pieces that end in a digit and a comma."""
        cuts = {}
        for i, (piece, _, special) in enumerate(self._pieces):
            if special or not re.search(r"\d,$", piece):
                continue
            before = self._host.encode(
                piece[:-1].replace("\u2581", ""), add_special_tokens=False
            )
            names = [self._vocabulary[j] for j in before.ids]
            if not piece.startswith("\u2581") and names[0].startswith("\u2581"):
                names[0] = names[0][1:]
            names = [name for name in names if name] + [","]
            cuts[i] = [self._ids.get(name, self.unknown_id) for name in names]
        return cuts

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
        rows = [encoding.ids for encoding in encode_texts(self._engine(), texts)]
        if not self._cuts:
            return rows
        return [[j for i in row for j in self._cuts.get(i, (i,))] for row in rows]

    def encode_with_offsets(self, texts):
        """Turns strings into ids and says where in the text each came from.

        Args:
            texts: list of strings, or of lists of words.

        Returns:
            A list with one tuple per string: the list of ids; the list of spans
            `(start, end)` such that `text[start:end]` gave the id (in given words:
            spans of that word); the list of word numbers, counted from 0. Pieces that
            the comma rule cut share the span of what was before the comma.
        """
        encodings = encode_texts(self._engine(), texts, with_offsets=True)
        rows = [(e.ids, e.offsets, e.word_ids) for e in encodings]
        if not self._cuts:
            return rows
        return [self._cut_row(*row) for row in rows]

    def _cut_row(self, ids, offsets, words):
        cut = ([], [], [])
        for i, (start, end), word in zip(ids, offsets, words, strict=True):
            found = self._cuts.get(i, (i,))
            spans = [(start, end)]
            if i in self._cuts:
                middle = max(start, end - 1)
                spans = [(start, middle)] * (len(found) - 1) + [(middle, end)]
            cut[0].extend(found)
            cut[1].extend(spans)
            cut[2].extend([word] * len(found))
        return cut

    def tokenize(self, strings, only_tflite_operations=False):
        """Turns a string tensor into ragged ids, as operations of the graph.

        Args:
            strings: `(B,)` string tensor (UTF-8).
            only_tflite_operations: bool. TensorFlow Lite lacks the operations that
                prepare text. With True the model's own rules do it, compiled anew
                for that (some seconds, once). The ids are the same, but where two
                cuts score the same, or a Korean syllable stands before the letter
                that would close it.

        Returns:
            `(B, None)` int32 `tf.RaggedTensor`, without special tokens.

        Raises:
            ValueError: for settings that TensorFlow Lite cannot follow.
        """
        if only_tflite_operations:
            if self._never_split or self._split_comma_after_digit:
                raise ValueError(
                    "TensorFlow Lite has no operations for never_split or for "
                    "split_comma_after_digit. Make the tokenizer without them."
                )
            return self._fast_tokenizer(True).tokenize(strings)
        if not self._never_split:
            return self._tokenize_plain(strings)
        special_ids = {token: self._ids[token] for token in self._never_split}
        return tokenize_around(strings, special_ids, self._tokenize_plain)

    def _tokenize_plain(self, strings):
        tf, tf_text = import_tensorflow_text()
        replace = tf.strings.regex_replace
        strings = replace(strings, "``|''", '"')
        strings = replace(strings, r"\x{85}", " ")
        strings = replace(strings, LETTERS_IN_ALBERT, UNKNOWN_LETTER)
        if not self._keep_accents:
            strings = tf_text.normalize_utf8(strings, "NFKD")
            strings = replace(strings, r"[\p{M}\x{1CF2}\x{1CF3}]", "")
        if self._lowercase:
            # By itself a capital sigma would become another letter at a word's end.
            strings = replace(strings, "\u03a3", "\u03c3")
            strings = tf.strings.lower(strings, encoding="utf-8")
        ids = self._fast_tokenizer(False).tokenize(strings)
        ids = ids.with_row_splits_dtype(tf.int64)
        if not self._split_comma_after_digit:
            return ids
        self._engine()
        table = tf.ragged.constant(
            [self._cuts.get(i, [i]) for i in range(self.vocabulary_size)],
            dtype=tf.int32,
            row_splits_dtype=tf.int64,
        )
        return ids.with_values(tf.gather(table, ids.values)).merge_dims(1, 2)

    def _fast_tokenizer(self, only_tflite_operations):
        tf, tf_text = import_tensorflow_text()
        if only_tflite_operations not in self._graph:
            model = self._model
            if only_tflite_operations:
                prepare = _normalizer(self._lowercase, self._keep_accents, None)
                model = put_into_rules(model, prepare.normalize_str, DOUBLED_QUOTES)
            # Made outside of any graph that is being traced, so that every later
            # graph can capture the same model.
            # The model is a constant there; in `tf_text.SentencepieceTokenizer` it
            # is a resource, which a SavedModel refuses unless somebody tracks it.
            with tf.init_scope():
                fast = tf_text.FastSentencepieceTokenizer(model)
            self._graph[only_tflite_operations] = fast
        return self._graph[only_tflite_operations]

    def decode(self, ids, skip_special_tokens=True, clean_up=False):
        """Joins the pieces of one list of ids to a readable string.

        Args:
            ids: list or array of ints.
            skip_special_tokens: bool. Leave out all special tokens but `<unk>`.
            clean_up: bool. Take out the spaces before punctuation and in English
                contractions, as `transformers` does: "do n't !" becomes "don't!".

        Returns:
            str.
        """
        ids = [int(i) for i in np.asarray(ids).ravel()]
        if skip_special_tokens:
            hidden = set(self._special_ids) - {self.unknown_id}
            ids = [i for i in ids if i not in hidden]
        text = _decoder().decode([self._vocabulary[i] for i in ids])
        if clean_up:
            # The rules are in the library's other decoder; a word is a piece to it.
            decoder = import_tokenizers().decoders.WordPiece("##", cleanup=True)
            text = decoder.decode(text.split(" "))
        return text

    def detokenize(self, ids):
        """Joins the pieces of each row up to its end, as operations of the graph.

        As `decode` without special tokens, so that an exported model can give text.

        Args:
            ids: `(B, T)` int32 tensor.

        Returns:
            `(B,)` string tensor (UTF-8).
        """
        hidden = [i for i in self._special_ids if i != self.unknown_id]
        changes = [("\u2581", " "), ("^ ", "")]
        return join_pieces(ids, self.vocabulary, self.end_id, hidden, "", changes)

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
    def keep_accents(self):
        return self._keep_accents

    @property
    def split_comma_after_digit(self):
        return self._split_comma_after_digit

    @property
    def never_split(self):
        return self._never_split

    @property
    def max_sequence_length(self):
        return self._max_sequence_length

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


def _decoder():
    return import_tokenizers().decoders.Metaspace("\u2581", "always")


def _normalizer(lowercase, keep_accents, rules):
    normalizers = import_tokenizers().normalizers
    steps = [normalizers.Replace(quotes, '"') for quotes in DOUBLED_QUOTES]
    if not keep_accents:
        steps += [normalizers.NFKD(), normalizers.StripAccents()]
    if lowercase:
        steps.append(normalizers.Lowercase())
    if rules:
        steps.append(normalizers.Precompiled(rules))
    return normalizers.Sequence(steps)
