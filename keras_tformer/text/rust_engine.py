"""What the tokenizers share on the host: the library `tokenizers`, checked texts."""


def import_tokenizers():
    """Imports the library `tokenizers`, or says what to install."""
    try:
        import tokenizers
    except ImportError:
        raise ImportError(
            "Tokenizing on the host needs the package `tokenizers`. Install it with: "
            'pip install "keras_tformer[text]"'
        ) from None
    return tokenizers


def read_special_tokens(engine, tokens):
    """Lets `engine` give the special `tokens` their ids where a text names them."""
    tokenizers = import_tokenizers()
    engine.add_special_tokens(
        [tokenizers.AddedToken(t, normalized=False, special=True) for t in tokens]
    )


def encode_texts(engine, texts, with_offsets=False):
    """Runs `engine` on a list of strings (or of lists of words).

    Returns:
        A list of the library's `Encoding`, one per text, without special tokens.

    Raises:
        ValueError: if `texts` is no list of strings, naming the first that is none.
    """
    if isinstance(texts, (str, bytes)):
        raise ValueError(
            f"encode received one {type(texts).__name__}, expected a list of "
            "strings. Write encode([text])."
        )
    texts = list(texts)
    words_given = bool(texts) and isinstance(texts[0], (list, tuple))
    # The fast way leaves out the offsets.
    encode = engine.encode_batch if with_offsets else engine.encode_batch_fast
    try:
        return encode(texts, is_pretokenized=words_given, add_special_tokens=False)
    except (TypeError, UnicodeEncodeError):
        for i, text in enumerate(texts):
            _check_text(i, text, words_given)
        raise


def _check_text(i, text, words_given):
    if words_given and isinstance(text, (list, tuple)):
        for word in text:
            _check_text(i, word, False)
        return
    if not isinstance(text, str):
        expected = "a list of words" if words_given else "a string"
        raise ValueError(
            f"Text {i} is a {type(text).__name__}; expected {expected}, as the "
            "others are."
        )
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"Text {i} holds half a surrogate pair at character {error.start}, which "
            "is no Unicode text. Read the file with errors='replace', or remove it."
        ) from None
