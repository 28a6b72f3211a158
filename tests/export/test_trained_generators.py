"""Decoders that have learned, in every mode, run where nothing else is loaded."""

import keras
import numpy as np
import pytest
from test_trained_heads import VOCABULARY, assert_every_mode

from keras_tformer import data, export, models, text

LENGTH, ROWS, KEPT = 16, 2200, 100
EPOCHS = {"causal_lm": 5, "transformer": 12}
SIZES = {
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 64,
    "intermediate_dim": 128,
    "max_sequence_length": LENGTH,
    "dropout": 0.0,
}


@pytest.fixture(scope="module", params=["causal_lm", "transformer"])
def trained(request):
    """A decoder, rows to calibrate with, and rows of documents that it has not seen."""
    keras.utils.set_random_seed(5)
    documents = data.deduplicate(data.embedded_corpus(("numpy", "language"), 80))
    train, held_out = data.split_documents(documents, (0.8, 0.2))
    inputs, following, asked = make_rows(request.param, train, ROWS)
    rows, truth, told = make_rows(request.param, held_out, KEPT)
    sizes = SIZES | {
        "vocabulary_size": text.WordPieceTokenizer(VOCABULARY).vocabulary_size
    }
    if request.param == "causal_lm":
        model = models.causal_lm(attention_dropout=0.0, mask_value=-30.0, **sizes)
    else:
        model = models.transformer(**sizes)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss)
    epochs = EPOCHS[request.param]
    model.fit(inputs, following, 32, epochs, verbose=0, sample_weight=asked)
    told = told.astype(bool)
    right = model.predict(rows, verbose=0).argmax(-1) == truth
    assert right[told].mean() > 0.8, right[told].mean()
    return model, {name: x[:200] for name, x in inputs.items()}, rows, told


def make_rows(kind, documents, count):
    """Inputs, the next tokens, and a mask of those that are asked for: `count` rows."""
    texts = [part for document in documents for part in document.paragraphs]
    tokenizer = text.WordPieceTokenizer(VOCABULARY)
    rows = [pieces for pieces in tokenizer.encode(texts) if len(pieces) > 6][:count]
    if kind == "causal_lm":  # says everything twice
        rows = [[*pieces[:7], tokenizer.end_id, *pieces[:7]] for pieces in rows]
    ids = np.zeros((len(rows), LENGTH), "int32")
    for row, pieces in zip(ids, rows, strict=True):
        row[1:] = np.pad(pieces[: LENGTH - 1], (0, max(0, LENGTH - 1 - len(pieces))))
    ids[:, 0] = tokenizer.start_id
    following = np.roll(ids, -1, axis=1)
    kept = (following > 0).astype("int32")
    kept[:, -1] = 0
    if kind == "causal_lm":  # asked to say again what it was told
        asked = kept * (np.arange(LENGTH) > 7)
        return {"token_ids": ids, "padding_mask": kept}, following, asked
    # Reads the words in reverse, and writes them as they were.
    inputs = {
        "encoder_token_ids": following[:, ::-1] * kept[:, ::-1],
        "encoder_padding_mask": kept[:, ::-1],
        "decoder_token_ids": ids * kept,
        "decoder_padding_mask": kept,
    }
    return inputs, following, kept


@pytest.mark.slow
def test_every_mode_in_a_process_of_its_own(trained, tmp_path):
    model, calibration, rows, told = trained
    assert_every_mode(model, calibration, rows, told, tmp_path)
    folder = tmp_path / "model"
    export.to_saved_model(model, folder)
    export.verify(folder, model, rows, tolerance=1e-5, in_separate_process=True)
