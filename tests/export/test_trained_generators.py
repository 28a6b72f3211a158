"""Decoders that have learned, in every mode, run where nothing else is loaded."""

import keras
import numpy as np
import pytest
from test_trained_heads import MODES, VOCABULARY, run_apart

from keras_tformer import data, export, models, text

LENGTH, KEPT = 16, 100
ROWS = {"causal_lm": 192, "transformer": 480}
EPOCHS = {"causal_lm": 80, "transformer": 30}
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
    """A decoder that knows its texts by heart, and the texts."""
    keras.utils.set_random_seed(5)
    documents = data.deduplicate(data.embedded_corpus(("numpy",), 80))
    texts = [part for document in documents for part in document.paragraphs]
    tokenizer = text.WordPieceTokenizer(VOCABULARY)
    rows = [ids[: LENGTH - 1] for ids in tokenizer.encode(texts) if len(ids) > 5]
    rows = rows[: ROWS[request.param]]
    ids = np.zeros((len(rows), LENGTH), "int32")
    for row, pieces in zip(ids, rows, strict=True):
        row[1 : len(pieces) + 1] = pieces
    ids[:, 0] = tokenizer.start_id
    following = np.roll(ids, -1, axis=1)
    kept = (following > 0).astype("int32")
    kept[:, -1] = 0
    sizes = SIZES | {"vocabulary_size": tokenizer.vocabulary_size}
    if request.param == "causal_lm":
        inputs = {"token_ids": ids, "padding_mask": kept}
        model = models.causal_lm(attention_dropout=0.0, mask_value=-30.0, **sizes)
    else:  # reads the words in reverse, and writes them as they were
        inputs = {
            "encoder_token_ids": following[:, ::-1] * kept[:, ::-1],
            "encoder_padding_mask": kept[:, ::-1],
            "decoder_token_ids": ids * kept,
            "decoder_padding_mask": kept,
        }
        model = models.transformer(**sizes)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(2e-3), loss)
    epochs = EPOCHS[request.param]
    model.fit(inputs, following, 32, epochs, verbose=0, sample_weight=kept)
    inputs = {name: array[:KEPT] for name, array in inputs.items()}
    logits = model.predict(inputs, verbose=0)
    kept = kept[:KEPT].astype(bool)
    right = logits.argmax(-1) == following[:KEPT]
    assert right[kept].mean() > 0.7, right[kept].mean()
    return model, inputs, kept


@pytest.mark.slow
def test_every_mode_in_a_process_of_its_own(trained, tmp_path):
    model, rows, kept = trained
    files = []
    for mode in MODES:
        files.append(tmp_path / f"{mode}.tflite")
        export.to_tflite(
            model,
            files[-1],
            sequence_length=LENGTH,
            quantization=mode,
            representative_data=rows,
        )
    expected = model.predict(rows, verbose=0)[kept]
    for mode, outputs in zip(MODES, run_apart(files, rows, tmp_path), strict=True):
        logits = outputs["output"][kept]
        if mode in (None, "float16"):
            limit = 1e-4 if mode is None else 1e-2
            scale = max(1, np.abs(expected).max())
            assert np.abs(logits - expected).max() < limit * scale, mode
        else:
            equal = logits.argmax(-1) == expected.argmax(-1)
            assert equal.mean() >= 0.98, (mode, equal.mean())
    folder = tmp_path / "model"
    export.to_saved_model(model, folder)
    export.verify(folder, model, rows, tolerance=1e-5, in_separate_process=True)
