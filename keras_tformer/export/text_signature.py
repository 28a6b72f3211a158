"""The tokenizer as a function of its own inside a `.tflite` file."""

import numpy as np

SIGNATURE = "tokenize"
TOKENIZERS = ("WordPieceTokenizer", "SentencePieceTokenizer")
INPUTS = {"token_ids", "segment_ids", "padding_mask"}


def tokenize_function(tokenizer, shapes):
    """A concrete function from `texts` to the inputs of a model.

    It holds TF Text's fast word pieces or sentence pieces, which LiteRT has as custom
    operators, and ends with `[CLS] pieces [SEP]`, cut and padded; LiteRT has no ragged
    `pack`.

    Args:
        tokenizer: a `WordPieceTokenizer` or `SentencePieceTokenizer`.
        shapes: `{input name: (B, T)}` of the model.

    Returns:
        A concrete function `texts` `(B,)` strings -> `{input name: (B, T) int32}`.

    Raises:
        ValueError: another kind of tokenizer, inputs that no text can feed, or rows
            without room for a piece.
    """
    import tensorflow as tf

    if type(tokenizer).__name__ not in TOKENIZERS:
        raise ValueError(
            f"tokenizer_inside=True with a {type(tokenizer).__name__}: only a "
            f"{' or a '.join(TOKENIZERS)} can go into the file. Leave "
            "tokenizer_inside=False: its vocabulary is written beside the file."
        )
    if not {"token_ids"} <= set(shapes) <= INPUTS:
        raise ValueError(
            f"A tokenizer can feed the inputs {sorted(INPUTS)} only; this model takes "
            f"{sorted(shapes)}. Leave tokenizer_inside=False."
        )
    rows, length = shapes["token_ids"]
    if length < 3:
        raise ValueError(
            f"tokenizer_inside=True with sequence_length={length}: a row needs 3 or "
            "more, 2 special tokens and one piece. Give a greater one."
        )
    tokenizer.tokenize(tf.constant(["a"]), only_tflite_operations=True)  # its tables

    @tf.function(autograph=False)
    def tokenize(texts):
        pieces = tokenizer.tokenize(texts, only_tflite_operations=True)
        ids = pieces.to_tensor(tokenizer.padding_id, shape=[None, length - 2])
        ids = tf.pad(ids, [[0, 0], [1, 1]])  # (B, T)
        count = tf.minimum(pieces.row_lengths(), length - 2)
        end = tf.expand_dims(tf.cast(count, tf.int32), 1) + 1  # (B, 1)
        position = tf.expand_dims(tf.range(length), 0)  # (1, T)
        ids = tf.where(position == 0, tokenizer.start_id, ids)
        ids = tf.where(position == end, tokenizer.end_id, ids)
        ids = tf.where(position > end, tokenizer.padding_id, ids)
        ids = tf.reshape(tf.cast(ids, tf.int32), (rows, length))
        mask = tf.reshape(tf.cast(position <= end, tf.int32), (rows, length))
        inputs = {
            "token_ids": ids,
            "segment_ids": tf.zeros((rows, length), tf.int32),
            "padding_mask": mask,
        }
        return {name: tf.identity(inputs[name], name=name) for name in shapes}

    spec = tf.TensorSpec((rows,), tf.string, name="texts")
    return tokenize.get_concrete_function(texts=spec)


def text_operators():
    """TF Text's operators for LiteRT, as functions that register them."""
    try:
        from tensorflow_text import tflite_registrar
    except ImportError as error:
        raise ImportError(
            "A tokenizer inside of a .tflite file needs tensorflow-text: pip install "
            "'keras_tformer[text]'."
        ) from error
    return tflite_registrar.SELECT_TFTEXT_OPS


def check_tokenizer(runner, function, tokenizer):
    """Compare the ids of the file with those of TensorFlow, on made-up texts.

    Sentence pieces are also compared with what the tokenizer gives where it prepares
    text by operations that LiteRT lacks.

    Raises:
        ValueError: an id differs.
    """
    import tensorflow as tf

    generator = np.random.default_rng(7)
    low = min(5, tokenizer.vocabulary_size - 1)
    if type(tokenizer).__name__ == "SentencePieceTokenizer":
        _check_rules(tokenizer, generator.integers(low, tokenizer.vocabulary_size, 200))
    texts = ["", "a"]
    for pieces in (3, 17, 700):  # also more than any row holds
        ids = generator.integers(low, tokenizer.vocabulary_size, pieces)
        texts.append(tokenizer.decode(ids.tolist()))
    rows = function.structured_outputs["token_ids"].shape[0]
    texts = np.array([text.encode("utf-8") for text in texts] * rows, object)
    answers = runner([{"texts": texts}])
    for start in range(0, len(texts), rows):
        expected = function(texts=tf.constant(texts[start : start + rows]))
        for name, ids in expected.items():
            if not np.array_equal(answers[name][start : start + rows], ids):
                raise ValueError(
                    f"No file was written: its tokenizer gives other {name} than "
                    f"TensorFlow's for {texts[start : start + rows].tolist()!r:.300}. "
                    "Use tokenizer_inside=False."
                )


def _check_rules(tokenizer, ids):
    texts = [tokenizer.decode([i]) for i in ids.tolist()]
    texts += [text.upper() for text in texts]
    found = tokenizer.tokenize(texts, only_tflite_operations=True).to_list()
    expected = tokenizer.tokenize(texts).to_list()
    wrong = [text for i, text in enumerate(texts) if found[i] != expected[i]]
    if wrong:
        raise ValueError(
            "No file was written: with the preparation of text inside its model's "
            f"rules, the tokenizer gives other ids for {wrong!r:.300}. Use "
            "tokenizer_inside=False."
        )
