"""Documents and labelled texts, and their ids as `tf.data` batches.

A corpus is a list of `Document(label, paragraphs)`. Where it comes from (installed
packages, a table, a folder) makes no difference to what follows. What fits into memory
becomes batches in one call; a larger corpus is written as pretraining records first. A
task (`..._task`) hands over its batches together with the names of its classes.
"""

from keras_tformer.data.beam_records import write_pretraining_records_with_beam
from keras_tformer.data.classification import classification_dataset
from keras_tformer.data.data_service import (
    from_data_service,
    start_dispatcher,
    start_worker,
)
from keras_tformer.data.document_packing import fill_rows, pack_rows
from keras_tformer.data.documents import (
    Document,
    deduplicate,
    split_documents,
    texts_and_labels,
)
from keras_tformer.data.embedded_corpus import embedded_corpus
from keras_tformer.data.files import read_folder, read_table
from keras_tformer.data.language_modelling import language_modelling_task
from keras_tformer.data.masked_lm import masked_lm_dataset
from keras_tformer.data.next_sentence import next_sentence_dataset
from keras_tformer.data.pretraining_records import write_pretraining_records
from keras_tformer.data.pretraining_records_dataset import pretraining_records_dataset
from keras_tformer.data.question_answering import question_answering_task
from keras_tformer.data.read_documents import read_documents, text_files
from keras_tformer.data.record_manifest import read_manifest
from keras_tformer.data.segment_pairs import segment_pairs
from keras_tformer.data.sentence_order import sentence_order_dataset
from keras_tformer.data.span_predictions import span_predictions
from keras_tformer.data.squad import read_squad
from keras_tformer.data.table_task import table_task
from keras_tformer.data.tables import read_examples
from keras_tformer.data.tagging import read_conll, tagging_task
from keras_tformer.data.task import padding_share
from keras_tformer.data.translation import read_parallel, translation_task

__all__ = [
    "Document",
    "classification_dataset",
    "deduplicate",
    "embedded_corpus",
    "fill_rows",
    "from_data_service",
    "language_modelling_task",
    "masked_lm_dataset",
    "next_sentence_dataset",
    "pack_rows",
    "padding_share",
    "pretraining_records_dataset",
    "question_answering_task",
    "read_conll",
    "read_documents",
    "read_examples",
    "read_folder",
    "read_manifest",
    "read_parallel",
    "read_squad",
    "read_table",
    "segment_pairs",
    "sentence_order_dataset",
    "span_predictions",
    "split_documents",
    "start_dispatcher",
    "start_worker",
    "table_task",
    "tagging_task",
    "text_files",
    "texts_and_labels",
    "translation_task",
    "write_pretraining_records",
    "write_pretraining_records_with_beam",
]
