"""Documents, and their ids as `tf.data` batches.

A corpus is a list of `Document(label, paragraphs)`. Where it comes from (installed
packages, a table, a folder) makes no difference to what follows.
"""

from keras_tformer.data.classification import classification_dataset
from keras_tformer.data.documents import (
    Document,
    deduplicate,
    split_documents,
    texts_and_labels,
)
from keras_tformer.data.embedded_corpus import embedded_corpus
from keras_tformer.data.files import read_folder, read_table
from keras_tformer.data.sentence_order import sentence_order_dataset

__all__ = [
    "Document",
    "classification_dataset",
    "deduplicate",
    "embedded_corpus",
    "read_folder",
    "read_table",
    "sentence_order_dataset",
    "split_documents",
    "texts_and_labels",
]
