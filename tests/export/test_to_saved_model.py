import json
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_tformer import export

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##s", "sat", "."]
TEXTS = ["The cats sat.", "cat", "", "the dog sat on the cat " * 5]

# A server: TensorFlow and the text operators, none of this package.
SERVER = """
import json, sys
import numpy as np
import tensorflow as tf
import tensorflow_text
model = tf.saved_model.load(sys.argv[1])
texts = json.loads(sys.argv[2])
result = model.signatures["serve_text"](texts=tf.constant(texts))
assert "keras_tformer" not in sys.modules
json.dump({
    "probabilities": result["probabilities"].numpy().tolist(),
    "labels": [label.decode() for label in result["labels"].numpy()],
    "classes": [name.decode() for name in result["classes"].numpy()[0]],
}, sys.stdout)
"""


def variable_bytes(folder):
    return sum(f.stat().st_size for f in pathlib.Path(folder).glob("variables/*data*"))


def test_ids_signature_equals_model_at_any_batch_and_length(
    saved_model, classifier, examples
):
    short = {name: ids[:5, :7] for name, ids in examples.items()}
    for data in (examples, short):
        outputs = export.predict(saved_model, data)
        expected = classifier.predict(data, verbose=0)
        np.testing.assert_allclose(outputs["output"], expected, atol=1e-5)


@pytest.mark.slow
def test_fixed_shapes_and_chosen_signatures(classifier, examples, tmp_path):
    text = pytest.importorskip("keras_tformer.text", reason="needs the text room")
    pytest.importorskip("tensorflow_text", reason="needs tensorflow-text")
    tokenizer = text.WordPieceTokenizer(PIECES)
    folder = tmp_path / "model"
    sizes = {"sequence_length": 13, "batch_size": 5}
    names = ["serving_default", "serve_text"]
    report = export.to_saved_model(
        classifier, folder, tokenizer, signatures=names, **sizes
    )
    assert list(report["signatures"]) == names
    inputs = [report["signatures"][name]["inputs"] for name in names]
    assert {tuple(spec["shape"]) for spec in inputs[0].values()} == {(5, 13)}
    assert inputs[1]["texts"]["shape"] == [5]
    data = {name: ids[:5] for name, ids in examples.items()}
    outputs = export.predict(folder, data)["output"]
    expected = classifier.predict(data, verbose=0)
    np.testing.assert_allclose(outputs, expected, atol=1e-5)
    for wrong in (["serve_text"], []):
        with pytest.raises(ValueError, match="expected names among"):
            export.to_saved_model(classifier, folder, signatures=wrong)
    with pytest.raises(ValueError, match="batch_size=0"):
        export.to_saved_model(classifier, folder, batch_size=0)


def test_every_weight_is_stored_once(saved_model, classifier):
    expected = 4 * classifier.count_params()
    # The file has a header of some bytes for each of the variables.
    names = 60 * len(classifier.weights)
    assert expected <= variable_bytes(saved_model) <= 1.05 * expected + names


@pytest.mark.slow
def test_shared_weights_are_stored_once(shared_classifier, tmp_path):
    report = export.to_saved_model(shared_classifier, tmp_path / "model")
    stored = variable_bytes(tmp_path / "model")
    assert stored <= 1.05 * 4 * report["parameters"]


@pytest.mark.slow
def test_raw_strings_in_a_process_without_this_package(classifier, tmp_path):
    text = pytest.importorskip("keras_tformer.text", reason="needs the text room")
    pytest.importorskip("tensorflow_text", reason="needs tensorflow-text")
    tokenizer = text.WordPieceTokenizer(PIECES)
    names = ["red", "grün", "blue"]
    folder = tmp_path / "model"
    report = export.to_saved_model(
        classifier, folder, tokenizer=tokenizer, class_names=names
    )
    assert set(report["signatures"]) == {
        "serving_default",
        "serve_text",
        "serve_text_pair",
    }
    done = subprocess.run(
        [sys.executable, "-c", SERVER, str(folder), json.dumps(TEXTS)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        env={"PATH": "", "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONIOENCODING": "utf-8"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answer = json.loads(done.stdout)
    # The host's own tokenizer (Rust) as the other way to the ids.
    inputs = text.pack(
        tokenizer.encode(TEXTS),
        sequence_length=17,
        start_id=tokenizer.start_id,
        end_id=tokenizer.end_id,
    )
    logits = classifier.predict(inputs, verbose=0)
    expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-5)
    assert answer["classes"] == names
    assert answer["labels"] == [names[i] for i in logits.argmax(-1)]
    assert (folder / "assets.extra" / "vocab.txt").read_text().split() == PIECES

    pairs = export.predict(
        folder,
        {"texts": np.array(TEXTS), "second_texts": np.array(TEXTS[::-1])},
        signature="serve_text_pair",
    )
    inputs = text.pack(
        tokenizer.encode(TEXTS),
        tokenizer.encode(TEXTS[::-1]),
        sequence_length=17,
        start_id=tokenizer.start_id,
        end_id=tokenizer.end_id,
    )
    expected = classifier.predict(inputs, verbose=0)
    np.testing.assert_allclose(pairs["output"], expected, atol=1e-5)


def test_an_older_saved_model_is_replaced_and_other_files_are_kept(tmp_path):
    ids = keras.Input((None,), dtype="int32", name="token_ids")
    hidden = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(11, 7)(ids))
    model = keras.Model({"token_ids": ids}, keras.layers.Dense(3)(hidden))
    for _ in range(2):
        export.to_saved_model(model, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="something else is there"):
        export.to_saved_model(model, tmp_path / "other")
    assert (tmp_path / "other" / "thesis.txt").read_text() == "years of work"


def test_errors(classifier, tmp_path):
    folder = tmp_path / "model"
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="Cannot write to the folder"):
        export.to_saved_model(classifier, tmp_path / "file" / "model")
    with pytest.raises(ValueError, match="positions for 17 tokens"):
        export.to_saved_model(classifier, folder, sequence_length=19)
    with pytest.raises(ValueError, match="2 class_names"):
        export.to_saved_model(classifier, folder, class_names=["a", "b"])
    with pytest.raises(ValueError, match="not built"):
        export.to_saved_model(keras.Sequential([keras.layers.Dense(3)]), folder)
    text = keras.Input((), dtype="string", name="text")
    strings = keras.Model(text, keras.layers.Identity()(text))
    with pytest.raises(ValueError, match="takes strings"):
        export.to_saved_model(strings, folder)
    assert not folder.exists()


def test_half_precision_model_leaves_float32(tmp_path):
    ids = keras.Input((None,), dtype="int32", name="token_ids")
    hidden = keras.layers.Embedding(11, 7, dtype="mixed_bfloat16")(ids)
    model = keras.Model({"token_ids": ids}, hidden)
    report = export.to_saved_model(model, tmp_path / "model")
    outputs = report["signatures"]["serving_default"]["outputs"]
    assert outputs["output"]["dtype"] == "float32"
    with pytest.raises(ValueError, match="bfloat16"):
        export.to_tflite(model, tmp_path / "model.tflite", sequence_length=5)


@pytest.mark.slow
def test_model_under_mirrored_strategy_is_stored_once(tmp_path):
    script = tmp_path / "mirrored.py"
    script.write_text(
        """
import pathlib
import sys
import keras, numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, two)
from keras_tformer import export
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    ids = keras.Input((None,), dtype="int32", name="token_ids")
    hidden = keras.layers.Embedding(4999, 17)(ids)
    hidden = keras.layers.GlobalAveragePooling1D()(hidden)
    model = keras.Model({"token_ids": ids}, keras.layers.Dense(3)(hidden))
export.to_saved_model(model, sys.argv[1])
data = {"token_ids": np.arange(35).reshape(5, 7)}
export.verify(sys.argv[1], model, data, tolerance=1e-5, in_separate_process=True)
(file,) = pathlib.Path(sys.argv[1]).glob("variables/*data*")
assert file.stat().st_size < 1.05 * 4 * model.count_params(), file.stat().st_size
"""
    )
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "model")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
