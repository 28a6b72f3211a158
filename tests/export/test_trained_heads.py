"""Every head on a trained encoder, in every mode, run where nothing else is loaded.

One model carries all heads, so that a mode costs one conversion. The text is real (the
embedded corpus); what is asked of it is easy enough to be learned in a minute. Files
and models answer rows of documents that neither training nor calibration has seen.
"""

import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_tformer import data, export, models, text
from keras_tformer.compress import calibrate, quantize_model

VOCABULARY = pathlib.Path(__file__).parents[2] / "savedmodels/quickstart/vocab.txt"
LENGTH, PREDICTIONS, ROWS, KEPT = 32, 12, 2160, 200
SHORTER = {"mask_positions": PREDICTIONS}
CLASSES = ("numpy", "language")
MODES = (None, "float16", "dynamic_range", "int8")
ALONE = """
import sys
import numpy as np
from ai_edge_litert.interpreter import Interpreter
source, target, *files = sys.argv[1:]
with np.load(source) as arrays:
    inputs = dict(arrays)
outputs = {}
for number, file in enumerate(files):
    run = Interpreter(model_path=file).get_signature_runner("serving_default")
    rows = len(next(iter(inputs.values())))
    answers = [run(**{k: x[i : i + 1] for k, x in inputs.items()}) for i in range(rows)]
    for name in answers[0]:
        value = np.concatenate([answer[name] for answer in answers])
        outputs[f"{number}/{name}"] = value
assert not {"keras", "keras_tformer", "tensorflow"} & set(sys.modules)
np.savez(target, **outputs)
"""

pytest.importorskip("ai_edge_litert", reason="the files are proved on ai_edge_litert")


@pytest.fixture(scope="module")
def examples():
    """Inputs and labels to train on, and others of documents that are held out."""
    documents = data.deduplicate(data.embedded_corpus(CLASSES, 80))
    train, held_out = data.split_documents(documents, (0.8, 0.2))
    return make_rows(train, ROWS), make_rows(held_out, KEPT)


def make_rows(documents, count):
    """Half of the rows say a text twice, with words missing the second time."""
    texts, packages = data.texts_and_labels(documents)
    generator = np.random.default_rng(3)
    chosen = generator.choice(len(texts), count, replace=False)
    tokenizer = text.WordPieceTokenizer(VOCABULARY)
    rows = tokenizer.encode([texts[i] for i in chosen])
    packed = text.pack(
        [ids[:10] if row % 2 else ids[:17] for row, ids in enumerate(rows)],
        [ids[:10] if row % 2 else [] for row, ids in enumerate(rows)],
        sequence_length=LENGTH,
        start_id=tokenizer.start_id,
        end_id=tokenizer.end_id,
    )
    ids, kept = packed["token_ids"], packed["padding_mask"]
    pieces = VOCABULARY.read_text("utf-8").split("\n")
    kinds = [0 if p.startswith("##") else 1 + (len(p) < 3) for p in pieces[:-1]]
    last = kept.sum(1) - 1
    positions = (generator.random((count, PREDICTIONS)) * last[:, None]).astype("int32")
    labels = {
        "label": np.array([CLASSES.index(packages[i]) for i in chosen]),
        "tags": np.array(kinds)[ids],
        "start": (ids == tokenizer.end_id).argmax(1),
        "end": last,
        "masked_lm": np.take_along_axis(ids, positions, 1),
        "pair": np.arange(count) % 2,
        "filled": (kept.mean(1, keepdims=True) - 0.6) / 0.1,  # a regression
    }
    hidden = ids.copy()
    again = np.take_along_axis(packed["segment_ids"], positions, 1)
    pieces = np.where(again, tokenizer.mask_id, labels["masked_lm"])
    np.put_along_axis(hidden, positions, pieces, 1)
    inputs = {**packed, "token_ids": hidden, "mask_positions": positions}
    return {name: x.astype("int32") for name, x in inputs.items()}, labels


def run_apart(files, rows, folder):
    """What each file answers to the rows on LiteRT alone: dicts by output name."""
    source, target = folder / "inputs.npz", folder / "outputs.npz"
    np.savez(source, **rows)
    command = [sys.executable, "-c", ALONE, source, target, *files]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, cwd=folder
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answers = [{} for _ in files]
    with np.load(target) as outputs:
        for key in outputs.files:
            number, name = key.split("/")
            answers[int(number)][name] = outputs[key]
    return answers


def assert_every_mode(model, calibration, rows, kept, folder):
    """One output: the logits of each mode's file beside Keras', where `kept` says."""
    files = [folder / f"{mode}.tflite" for mode in MODES]
    for mode, file in zip(MODES, files, strict=True):
        export.to_tflite(
            model,
            file,
            sequence_length=kept.shape[1],
            quantization=mode,
            representative_data=calibration,
        )
    expected = model.predict(rows, verbose=0)[kept]
    for mode, outputs in zip(MODES, run_apart(files, rows, folder), strict=True):
        logits = outputs["output"][kept]
        if mode in (None, "float16"):
            limit = 1e-4 if mode is None else 1e-2
            scale = max(1, np.abs(expected).max())
            assert np.abs(logits - expected).max() < limit * scale, mode
        else:
            equal = logits.argmax(-1) == expected.argmax(-1)
            assert equal.mean() >= 0.98, (mode, equal.mean())


def own_names(model, prefix):
    """The model's output, its layers named apart from those of other heads."""
    for layer in model.layers:
        if layer.name.startswith("classifier"):
            layer.name = f"{prefix}_{layer.name}"
    return model.output


@pytest.fixture(scope="module", params=["bert", "albert"])
def trained(request, examples):
    """A model with all heads on one encoder, trained on all of their labels."""
    keras.utils.set_random_seed(5)
    sizes = {
        "vocabulary_size": len(VOCABULARY.read_text("utf-8").split("\n")) - 1,
        "num_layers": 2,
        "num_heads": 2,
        "hidden_dim": 64,
        "intermediate_dim": 128,
        "max_sequence_length": LENGTH,
        "initializer_range": 0.08,
        "sequence_length": LENGTH,
    }
    if request.param == "bert":
        encoder = models.bert_encoder(dropout=0.0, **sizes)
        pretrainer = models.bert_pretrainer(encoder, max_predictions=PREDICTIONS)
        pair = pretrainer.output["next_sentence"]
    else:
        encoder = models.albert_encoder(embedding_dim=48, **sizes)
        pretrainer = models.albert_pretrainer(encoder, max_predictions=PREDICTIONS)
        pair = pretrainer.output["sentence_order"]
    heads = {
        "label": own_names(models.sequence_classifier(encoder, num_classes=2), "label"),
        "tags": own_names(models.token_classifier(encoder, num_classes=3), "tags"),
        **own_names(models.span_classifier(encoder), "span"),
        "masked_lm": pretrainer.output["masked_lm"],
        "pair": pair,
        "filled": own_names(models.sequence_classifier(encoder, num_classes=1), "size"),
    }
    model = keras.Model(pretrainer.input, heads)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    losses = dict.fromkeys(heads, loss) | {"filled": "mean_squared_error"}
    model.compile(keras.optimizers.Adam(3e-3), losses)
    (inputs, labels), (rows, truth) = examples
    model.fit(inputs, labels, batch_size=48, epochs=9, verbose=0)
    embedding = models.text_embedder(encoder, normalize=True).output
    whole = keras.Model(pretrainer.input, {**heads, "embedding": embedding})
    answers = model.predict(rows, verbose=0)
    filled = answers.pop("filled")
    assert np.corrcoef(filled[:, 0], truth["filled"][:, 0])[0, 1] > 0.95
    for name, logits in answers.items():
        right = np.mean(logits.argmax(-1) == truth[name])
        least = {"masked_lm": 0.8, "label": 0.72}.get(name, 0.9)
        assert right > least, (name, right)
    calibration = {name: x[:KEPT] for name, x in inputs.items()}
    return whole, calibration, rows


@pytest.mark.slow
def test_every_mode_in_a_process_of_its_own(trained, tmp_path):
    model, calibration, rows = trained
    files = []
    for mode in MODES:
        files.append(tmp_path / f"{mode}.tflite")
        export.to_tflite(
            model,
            files[-1],
            sequence_length=LENGTH,
            quantization=mode,
            representative_data=calibration,
            tolerance={None: 1e-4, "float16": 1e-2}.get(mode),
        )
    lengths = {**dict.fromkeys(rows, LENGTH), **SHORTER}
    aware = quantize_model(model, sequence_length=lengths)
    calibrate(aware, [calibration])
    files.append(tmp_path / "aware.tflite")
    export.to_tflite(
        aware,
        files[-1],
        sequence_length=LENGTH,
        quantization="int8",
        representative_data=calibration,
    )
    outputs = run_apart(files, rows, tmp_path)
    expected = model.predict(rows, verbose=0)
    learned = aware.predict(rows, verbose=0)
    kept = rows["padding_mask"].astype(bool)
    for mode, answers in zip((*MODES, "aware"), outputs, strict=True):
        for name, logits in (learned if mode == "aware" else expected).items():
            ours, theirs = answers[name], logits
            if name == "tags":
                ours, theirs = ours[kept], theirs[kept]
            if mode in (None, "float16"):
                limit = 1e-4 if mode is None else 1e-2
                scale = max(1, np.abs(theirs).max())
                assert np.abs(ours - theirs).max() < limit * scale, (mode, name)
            elif name == "embedding":  # unit vectors: no class, but a direction
                cosines = np.sum(ours * theirs, axis=-1)
                assert cosines.mean() > 0.995, (mode, cosines.mean())
                assert np.mean(cosines > 0.95) >= 0.98, (mode, np.sort(cosines)[:5])
            elif name == "filled":
                error = np.abs(ours - theirs).mean() / theirs.std()
                assert error < 0.05, (mode, error)
                assert np.corrcoef(ours[:, 0], theirs[:, 0])[0, 1] > 0.995, mode
            else:
                equal = ours.argmax(-1) == theirs.argmax(-1)
                assert equal.mean() >= 0.98, (mode, name, equal.mean())


@pytest.mark.slow
def test_saved_model_in_a_process_of_its_own(trained, tmp_path):
    model, _, rows = trained
    export.to_saved_model(model, tmp_path / "model")
    result = export.verify(
        tmp_path / "model", model, rows, tolerance=1e-5, in_separate_process=True
    )
    assert result["examples"] == KEPT
    assert set(result["outputs"]) == set(model.output)
