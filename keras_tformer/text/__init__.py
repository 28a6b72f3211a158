"""Strings to token ids: word pieces, sentence pieces and packing.

`encode`, `encode_batch` and `pack` on Python lists run on the host without TensorFlow,
`tokenize` and `pack` on ragged tensors are graph operations that work inside `tf.data`
and leave with a SavedModel. Both give the same ids.
"""

from keras_tformer.text.batch_encoding import encode_batch
from keras_tformer.text.load_huggingface_tokenizer import load_huggingface_tokenizer
from keras_tformer.text.packing import pack
from keras_tformer.text.sentence_piece import SentencePieceTokenizer
from keras_tformer.text.word_piece import WordPieceTokenizer

__all__ = [
    "SentencePieceTokenizer",
    "WordPieceTokenizer",
    "encode_batch",
    "load_huggingface_tokenizer",
    "pack",
]
