"""A tokenizer's file: its name and its content."""

import os
import tempfile

from keras_tformer.export.files import full_disk_explained


def vocabulary_name(tokenizer):
    """`vocab.txt` for word pieces, `sentencepiece.model` for sentence pieces."""
    word_pieces = type(tokenizer).__name__ == "WordPieceTokenizer"
    return "vocab.txt" if word_pieces else "sentencepiece.model"


def vocabulary_content(tokenizer):
    """The bytes of the tokenizer's file."""
    with tempfile.TemporaryDirectory() as scratch:
        path = os.path.join(scratch, vocabulary_name(tokenizer))
        with full_disk_explained(path):
            tokenizer.save(path)
        with open(path, "rb") as stream:
            return stream.read()
