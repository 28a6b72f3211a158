"""Rows of several documents, in every mode, by a model that can part them."""

import keras
import numpy as np
import pytest
from test_trained_heads import VOCABULARY, assert_every_mode

from keras_tformer import data, models, text

LENGTH, KEPT = 32, 100


def make_rows(documents):
    """Rows, and for each token what kind of piece its own document begins with."""
    texts = [part for document in documents for part in document.paragraphs]
    tokenizer = text.WordPieceTokenizer(VOCABULARY)
    pieces = [ids[:11] for ids in tokenizer.encode(texts) if len(ids) > 4]
    packed = data.pack_rows([len(ids) for ids in pieces], LENGTH)
    order = np.random.default_rng(3).permutation(len(packed.pieces))
    ids, first = np.zeros((2, len(order), LENGTH), "int32")
    for row, parts in enumerate(packed.pieces):
        start = 0
        for number, _, _ in parts:
            end = start + len(pieces[number])
            ids[row, start:end] = pieces[number]
            first[row, start:end] = pieces[number][0]
            start = end
    rows = {
        "token_ids": ids[order],
        "padding_mask": (packed.document_ids[order] > 0).astype("int32"),
        "document_ids": packed.document_ids[order],
    }
    return rows, first[order] % 3


@pytest.fixture(scope="module")
def trained():
    keras.utils.set_random_seed(5)
    documents = data.deduplicate(data.embedded_corpus(("numpy", "language"), 80))
    train, held_out = data.split_documents(documents, (0.8, 0.2))
    (inputs, labels), (rows, truth) = make_rows(train), make_rows(held_out)
    encoder = models.bert_encoder(
        vocabulary_size=text.WordPieceTokenizer(VOCABULARY).vocabulary_size,
        num_layers=2,
        num_heads=2,
        hidden_dim=64,
        intermediate_dim=128,
        max_sequence_length=LENGTH,
        num_segments=None,
        dropout=0.0,
        initializer_range=0.08,
        has_packed_documents=True,
    )
    model = models.token_classifier(encoder, num_classes=3)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss)
    kept = inputs["padding_mask"]
    model.fit(inputs, labels, 32, epochs=8, verbose=0, sample_weight=kept)
    rows = {name: x[:KEPT] for name, x in rows.items()}
    kept = rows["padding_mask"].astype(bool)
    right = model.predict(rows, verbose=0).argmax(-1) == truth[:KEPT]
    assert right[kept].mean() > 0.9, right[kept].mean()
    return model, {name: x[:200] for name, x in inputs.items()}, rows, kept


@pytest.mark.slow
def test_every_mode_in_a_process_of_its_own(trained, tmp_path):
    model, calibration, rows, kept = trained
    assert_every_mode(model, calibration, rows, kept, tmp_path)
