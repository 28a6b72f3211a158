"""Every task's batches go straight into `fit` of the model that they are for."""

import keras
import numpy as np
import pytest

tf = pytest.importorskip("tensorflow", reason="the data sets are tf.data's")
pytest.importorskip("tokenizers", reason="the engine on the host")

from keras_tformer import data, models  # noqa: E402
from keras_tformer.data.tables import Examples  # noqa: E402
from keras_tformer.data.tagging import TaggedSentence  # noqa: E402
from keras_tformer.text import WordPieceTokenizer  # noqa: E402
from keras_tformer.training import compile_arguments  # noqa: E402

TOKENIZER = WordPieceTokenizer("[PAD] [UNK] [CLS] [SEP] [MASK] a b c d e".split())
SIZES = {
    "vocabulary_size": 10,
    "num_layers": 1,
    "num_heads": 2,
    "hidden_dim": 14,
    "intermediate_dim": 11,
}
TEXTS = ["a b", "c", "d e a b", "e"]
DOCUMENTS = [["A b c d e. B c d."], ["E d c b a. D c b a e."], ["C c a b. E a."]]
T, B = 13, 2


def encoder():
    return models.bert_encoder(**SIZES, max_sequence_length=T)


def classification():
    examples = Examples(TEXTS, TEXTS, list("xyxy"), ["x", "y"], [2, 2], {})
    task = data.table_task(examples, TOKENIZER, T, B)
    return models.sequence_classifier(encoder(), num_classes=2), task.dataset


def regression():
    examples = Examples(TEXTS, None, [0.5, 1.5, -2.0, 0.0], [], [], {})
    task = data.table_task(examples, TOKENIZER, T, B)
    return models.sequence_classifier(encoder(), num_classes=1), task.dataset


def tagging():
    sentences = [TaggedSentence(text.split(), text.split()) for text in TEXTS]
    task = data.tagging_task(sentences, TOKENIZER, T, B)
    return models.token_classifier(encoder(), num_classes=5), task.dataset


def question_answering():
    questions = [
        data.squad.Question(str(n), "a b", "a b c d e", ["c d"], [4]) for n in range(3)
    ]
    task = data.question_answering_task(questions, TOKENIZER, T, B, doc_stride=3)
    return models.span_classifier(encoder()), task.dataset


def translation():
    task = data.translation_task(TEXTS, TEXTS[::-1], TOKENIZER, tokens_per_batch=16)
    return models.transformer(**SIZES), task.dataset


def language_modelling():
    task = data.language_modelling_task(TEXTS, TOKENIZER, T, B)
    return models.causal_lm(**SIZES, max_sequence_length=T), task.dataset


def next_sentence():
    dataset = data.next_sentence_dataset(DOCUMENTS, TOKENIZER, T, B, num_epochs=2)
    return models.bert_pretrainer(encoder()), dataset


def sentence_order():
    dataset = data.sentence_order_dataset(DOCUMENTS, TOKENIZER, T, B, num_epochs=2)
    return models.albert_pretrainer(encoder()), dataset


TASKS = {
    "sequence_classifier": classification,
    "regressor": regression,
    "token_classifier": tagging,
    "span_classifier": question_answering,
    "transformer": translation,
    "causal_lm": language_modelling,
    "bert_pretrainer": next_sentence,
    "albert_pretrainer": sentence_order,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_fit(name):
    model, dataset = TASKS[name]()
    model.compile(keras.optimizers.Adam(), **compile_arguments(name))
    history = model.fit(dataset, epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    found = model.evaluate(dataset, verbose=0, return_dict=True)
    assert np.isfinite(list(found.values())).all()
