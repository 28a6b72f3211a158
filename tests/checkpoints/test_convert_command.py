"""The command that converts: every way round, and what it says when it cannot."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_tformer import models
from keras_tformer.checkpoints.__main__ import main
from keras_tformer.checkpoints.save_tf_checkpoint import save_tf_checkpoint

tf = pytest.importorskip("tensorflow", reason="it writes the checkpoints")

SIZES = {
    "vocabulary_size": 31,
    "num_layers": 2,
    "num_heads": 3,
    "hidden_dim": 21,
    "intermediate_dim": 11,
    "max_sequence_length": 13,
    "activation": "gelu_tanh",
}


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(3)
    encoder = models.albert_encoder(**SIZES, embedding_dim=5, dropout=0.1)
    return models.sequence_classifier(encoder, num_classes=5)


@pytest.fixture
def prefix(model, tmp_path):
    save_tf_checkpoint(model, tmp_path / "google" / "model.ckpt")
    return str(tmp_path / "google" / "model.ckpt")


def read(prefix):
    reader = tf.train.load_checkpoint(str(prefix))
    return {
        name: reader.get_tensor(name) for name in reader.get_variable_to_dtype_map()
    }


def convert(*words):
    return main(["convert", *map(str, words)])


def assert_equal_checkpoints(one, other):
    one, other = read(one), read(other)
    assert one.keys() == other.keys()
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name], err_msg=name)


def test_to_keras_and_back(prefix, tmp_path, capsys):
    file, back = tmp_path / "model.keras", tmp_path / "back" / "model.ckpt"
    assert convert(prefix, file, "--to", "keras", "--mask-value", "-30") == 0
    loaded = keras.saving.load_model(file)
    assert loaded.get_layer("encoder_group_0_layer_0").mask_value == -30.0
    assert convert(file, back, "--to", "tf1") == 0
    assert_equal_checkpoints(prefix, back)
    told = capsys.readouterr()
    assert told.err == ""
    assert f"reading {prefix} (tf1)\nwriting {file} (keras)\n{file}: " in told.out
    assert f"sequence_classifier, {loaded.count_params():,} weights" in told.out
    names = ["albert_config.json", "model.ckpt.data-00000-of-00001", "model.ckpt.index"]
    assert sorted(os.listdir(tmp_path / "back")) == names
    assert sorted(os.listdir(tmp_path)) == ["back", "google", "model.keras"]


def test_to_huggingface_and_back(prefix, tmp_path):
    pytest.importorskip("safetensors", reason="Hugging Face's files need it")
    folder, back = tmp_path / "folder", tmp_path / "back" / "model.ckpt"
    # A folder with one checkpoint is as good as its prefix.
    assert convert(os.path.dirname(prefix), folder, "--to", "huggingface") == 0
    assert {"config.json", "model.safetensors"} <= set(os.listdir(folder))
    (folder / "spiece.model").write_bytes(b"vocabulary")
    assert convert(folder, back, "--to", "tf1") == 0
    assert_equal_checkpoints(prefix, back)
    assert (tmp_path / "back" / "spiece.model").read_bytes() == b"vocabulary"


def test_a_task_and_a_configuration_can_be_named(prefix, tmp_path, capsys):
    elsewhere = tmp_path / "elsewhere.json"
    os.rename(os.path.join(os.path.dirname(prefix), "albert_config.json"), elsewhere)
    file = tmp_path / "encoder.keras"
    assert convert(prefix, file, "--to", "keras") == 2
    assert "Pass the configuration with --config" in capsys.readouterr().err
    words = ["--to", "keras", "--task", "encoder", "--config", elsewhere]
    assert convert(prefix + ".index", file, *words, "--from", "tf1") == 0
    told = capsys.readouterr()
    assert told.err.startswith("note: The checkpoint") and "output_weights" in told.err
    assert keras.saving.load_model(file).name == "albert_encoder"


def test_overwrites_only_when_told_to(prefix, model, tmp_path, capsys):
    file = tmp_path / "model.keras"
    file.write_text("somebody's work", "utf-8")
    assert convert(prefix, file, "--to", "keras") == 2
    assert "is there already. Pass --force" in capsys.readouterr().err
    assert file.read_text("utf-8") == "somebody's work"
    assert convert(prefix, file, "--to", "keras", "--force") == 0
    assert convert(file, prefix, "--to", "tf1") == 2
    assert convert(file, prefix, "--to", "tf1", "--force") == 0
    other = os.path.join(os.path.dirname(prefix), "other.ckpt")
    assert convert(file, other, "--to", "tf1") == 2
    assert "albert_config.json' is there already" in capsys.readouterr().err
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("mine", "utf-8")
    assert convert(file, tmp_path / "folder", "--to", "huggingface") == 2
    assert os.listdir(tmp_path / "folder") == ["notes.txt"]


def write_bad_files(folder):
    (folder / "text.keras").write_text("not a model", "utf-8")
    (folder / "empty").mkdir()
    (folder / "two").mkdir()
    for name in ("a.index", "b.index"):
        (folder / "two" / name).write_bytes(b"")
    (folder / "half").mkdir()
    (folder / "half" / "a.index").write_bytes(b"not an index")
    (folder / "half" / "bert_config.json").write_text("{", "utf-8")
    (folder / "half" / "a.data-00000-of-00001").write_bytes(b"")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("missing.keras t --to huggingface", "There is no file 'missing.keras'"),
        ("text.keras t --to huggingface", "cannot be opened as a .keras file"),
        ("text.keras t --to tf1 --task encoder", "Received --task for a .keras file"),
        ("empty t.keras --to keras", "Cannot tell what 'empty' is"),
        ("bert/model.ckpt t.keras --to keras", "Cannot tell what 'bert/model.ckpt' is"),
        ("two t.keras --to keras", "has 2 checkpoints"),
        ("half t.keras --to keras", "cannot be read"),
        ("half t.bin --to keras", "ends with .keras"),
        ("half text.keras --to huggingface", "'text.keras' is a file"),
    ],
)
def test_errors_are_one_line_and_code_2(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_bad_files(tmp_path)
    before = sorted(os.listdir(tmp_path))
    assert convert(*words.split()) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and told.count("\n") == 1 and message in told
    assert sorted(os.listdir(tmp_path)) == before


def test_a_model_that_the_target_cannot_hold(tmp_path, capsys):
    inputs = keras.Input((3,))
    keras.Model(inputs, keras.layers.Dense(2)(inputs)).save(tmp_path / "other.keras")
    for kind in ("tf1", "huggingface"):
        target = tmp_path / "target"
        assert convert(tmp_path / "other.keras", target, "--to", kind) == 2
        assert capsys.readouterr().err.startswith("error: ")
        assert os.listdir(tmp_path) == ["other.keras"]


def test_wrong_words_are_told_by_the_parser(capsys):
    for words in ([], ["convert", "a", "b"], ["convert", "a", "b", "--to", "onnx"]):
        with pytest.raises(SystemExit) as caught:
            main(words)
        assert caught.value.code == 2
    assert "invalid choice: 'onnx'" in capsys.readouterr().err


@pytest.mark.slow
def test_as_a_program(prefix, tmp_path):
    def run(*words):
        return subprocess.run(
            [sys.executable, "-m", "keras_tformer.checkpoints", "convert", *words],
            capture_output=True,
            text=True,
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
            cwd=tmp_path,
        )

    done = run(prefix, "model.keras", "--to", "keras")
    assert done.returncode == 0, done.stderr
    assert "model.keras: sequence_classifier" in done.stdout
    config = json.loads((tmp_path / "google" / "albert_config.json").read_text("utf-8"))
    assert config["hidden_act"] == "gelu"
