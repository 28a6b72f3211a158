"""SentencePiece's `.model` files: read, written, trained."""

import io

# What the numbers of `ModelProto.SentencePiece.Type` mean.
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6


def import_sentencepiece():
    """Imports `sentencepiece` and its file format, or says what to install."""
    try:
        import sentencepiece
        from sentencepiece import sentencepiece_model_pb2
    except ImportError:
        raise ImportError(
            "Sentence pieces need the package `sentencepiece`. Install it with: "
            'pip install "keras_tformer[text]"'
        ) from None
    return sentencepiece, sentencepiece_model_pb2


def parse_model(content, file):
    """Reads a unigram model.

    Args:
        content: bytes of a `.model` file.
        file: its name, for messages.

    Returns:
        A list of `(piece, score, is special)`, and the bytes of its normalization
        rules.

    Raises:
        ValueError: if it is no SentencePiece model, or one with settings that ALBERT
            does not have, naming them.
    """
    _, format_of = import_sentencepiece()
    model = format_of.ModelProto()
    try:
        model.ParseFromString(content)
    except Exception:  # protobuf's own class of error, which moves between versions
        model.Clear()
    if not model.pieces:
        raise ValueError(
            f"The file {file} is not a SentencePiece model; expected the `.model` "
            "file that SentencePiece's trainer writes."
        )
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    settings = {
        "model_type": (trainer.model_type, trainer.UNIGRAM),
        "byte_fallback": (trainer.byte_fallback, False),
        "treat_whitespace_as_suffix": (trainer.treat_whitespace_as_suffix, False),
        "add_dummy_prefix": (normalizer.add_dummy_prefix, True),
        "remove_extra_whitespaces": (normalizer.remove_extra_whitespaces, True),
        "escape_whitespaces": (normalizer.escape_whitespaces, True),
    }
    wrong = [
        f"{name} {found} instead of {expected}"
        for name, (found, expected) in settings.items()
        if found != expected
    ]
    if wrong:
        raise ValueError(
            f"The model {file} has {', '.join(wrong)}; expected a unigram model with "
            "ALBERT's settings."
        )
    special = {_UNKNOWN, _CONTROL, _UNUSED}
    pieces = [
        (piece.piece, piece.score, piece.type in special) for piece in model.pieces
    ]
    return pieces, normalizer.precompiled_charsmap


def build_model(pieces, special_tokens, unknown_id, rules):
    """Writes a unigram model from its pieces.

    Args:
        pieces: list of `(piece, score)` in the order of their ids.
        special_tokens: pieces that no text gives.
        unknown_id: int.
        rules: bytes, SentencePiece's compiled normalization rules.

    Returns:
        The bytes of a `.model` file.
    """
    _, format_of = import_sentencepiece()
    model = format_of.ModelProto()
    for i, (piece, score) in enumerate(pieces):
        kind = _CONTROL if piece in special_tokens else _NORMAL
        kind = _UNKNOWN if i == unknown_id else kind
        model.pieces.add(piece=piece, score=score, type=kind)
    model.trainer_spec.model_type = model.trainer_spec.UNIGRAM
    model.trainer_spec.vocab_size = len(pieces)
    model.trainer_spec.unk_id = unknown_id
    model.normalizer_spec.name = "user_defined"
    model.normalizer_spec.precompiled_charsmap = rules
    return model.SerializeToString()


def train_model(lines, vocabulary_size, special_tokens, show_progress):
    """Learns a unigram model from lines of text; returns the bytes of a `.model`.

    Raises:
        ValueError: if `vocabulary_size` leaves no room, or if there is no word.
    """
    sentencepiece, _ = import_sentencepiece()
    if vocabulary_size <= len(special_tokens):
        raise ValueError(
            f"vocabulary_size is {vocabulary_size}; expected more than the "
            f"{len(special_tokens)} special tokens. A few thousand is usual."
        )
    padding, unknown, *control = special_tokens
    writer = io.BytesIO()
    lines = iter(line for line in lines if line.strip())
    first = next(lines, None)
    if first is None:
        raise ValueError(
            "The texts hold no word to learn from; expected an iterable of "
            "non-empty strings."
        )

    def all_lines():
        yield first
        yield from lines

    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=all_lines(),
            model_writer=writer,
            vocab_size=vocabulary_size,
            hard_vocab_limit=False,
            pad_id=0,
            unk_id=1,
            bos_id=-1,
            eos_id=-1,
            pad_piece=padding,
            unk_piece=unknown,
            control_symbols=control,
            # Its threads add in an order of their own; one gives equal models.
            num_threads=1,
            max_sentence_length=1 << 20,
            minloglevel=0 if show_progress else 2,
        )
    except RuntimeError as error:
        raise ValueError(
            f"SentencePiece could not learn {vocabulary_size} pieces: {error}. Raise "
            "vocabulary_size above the number of letters, or give more text."
        ) from None
    return writer.getvalue()
