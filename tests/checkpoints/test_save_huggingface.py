"""What `save_huggingface` writes and refuses."""

import json
import os

import keras
import numpy as np
import pytest

import keras_tformer as kt
from keras_tformer.checkpoints import load_huggingface, save_huggingface

pytest.importorskip("safetensors", reason="the [hub] extra is not installed")

SIZES = {
    "vocabulary_size": 23,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 14,
    "intermediate_dim": 11,
    "max_sequence_length": 13,
}


@pytest.fixture(scope="module")
def encoder():
    return kt.models.bert_encoder(**SIZES)


@pytest.fixture(scope="module")
def classifier(encoder):
    return kt.models.sequence_classifier(encoder, num_classes=3)


def config_in(folder):
    return json.loads((folder / "config.json").read_text("utf-8"))


def test_a_new_folder_and_an_old_one(classifier, tmp_path):
    folder = tmp_path / "new" / "folder"
    save_huggingface(classifier, folder)
    assert sorted(os.listdir(folder)) == ["config.json", "model.safetensors"]
    assert os.listdir(folder.parent) == ["folder"]  # Nothing temporary stays.
    (folder / "notes.txt").write_text("mine")
    save_huggingface(classifier, folder, class_names="a b c".split())
    assert sorted(os.listdir(folder))[-1] == "notes.txt"
    assert config_in(folder)["id2label"] == {"0": "a", "1": "b", "2": "c"}
    assert config_in(folder)["label2id"] == {"a": 0, "b": 1, "c": 2}
    assert list(load_huggingface(folder).class_names) == ["a", "b", "c"]


def test_a_failure_leaves_what_was_there(classifier, tmp_path, monkeypatch):
    save_huggingface(classifier, tmp_path / "folder")
    before = {file.name: file.read_bytes() for file in (tmp_path / "folder").iterdir()}
    words = "[PAD] [UNK] [CLS] [SEP] [MASK] a".split()
    tokenizer = kt.text.WordPieceTokenizer(words)

    def save(path):
        raise OSError("disk full")

    monkeypatch.setattr(tokenizer, "save", save)
    with pytest.raises(OSError, match="disk full"):
        save_huggingface(classifier, tmp_path / "folder", tokenizer=tokenizer)
    after = {file.name: file.read_bytes() for file in (tmp_path / "folder").iterdir()}
    assert before == after
    assert os.listdir(tmp_path) == ["folder"]


def test_wrong_class_names(classifier, encoder, tmp_path):
    for names in (["a", "b"], ["a", "b", "b"]):
        with pytest.raises(ValueError, match="has 3 classes. Received: class_names"):
            save_huggingface(classifier, tmp_path / "x", class_names=names)
    with pytest.raises(ValueError, match="has no classes to name"):
        save_huggingface(encoder, tmp_path / "x", class_names=["a"])
    assert not os.listdir(tmp_path)


def test_models_that_are_not_ours(encoder, tmp_path):
    foreign = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    embedder = kt.models.text_embedder(encoder)
    for model in (foreign, embedder, None):
        with pytest.raises(ValueError, match="one of this package's builders"):
            save_huggingface(model, tmp_path / "x")
    flat = kt.compress.flatten(kt.models.bert_encoder(**SIZES, sequence_length=7))
    with pytest.raises(ValueError, match="quantized or flattened"):
        save_huggingface(flat, tmp_path / "x")
    assert not os.listdir(tmp_path)


def test_what_the_family_does_not_compute(encoder, classifier, tmp_path):
    build = kt.models.bert_encoder
    for model, family, said in (
        (encoder, "t5", "family='t5'"),
        (encoder, "roberta", "positions without offset"),
        (encoder, "electra", None),
        (classifier, "electra", "activation 'tanh'. Expected 'gelu'"),
        (classifier, "distilbert", "num_segments=2. Expected None"),
        (kt.models.bert_pretrainer(encoder), "electra", "head of 'bert_pretrainer'"),
        (kt.models.albert_pretrainer(encoder), None, "head of 'albert_pretrainer'"),
        (build(**SIZES, embedding_dim=5), "bert", "a projection"),
        (build(**SIZES, num_segments=None), "bert", "has no segments"),
        (build(**SIZES, activation="softsign"), None, "no name for .* 'softsign'"),
        (build(**SIZES, layer_norm_epsilon=1e-5, num_segments=None), None, "epsilon"),
        (kt.models.transformer(**SIZES), None, "layer_norm_epsilon=1e-06"),
        (
            kt.models.transformer(
                **SIZES, layer_norm_epsilon=1e-5, normalize_first=True
            ),
            None,
            "normalize_first=True",
        ),
        (
            kt.models.transformer(**SIZES, layer_norm_epsilon=1e-5, position="learned"),
            None,
            "learned positions",
        ),
    ):
        if said is None:
            with pytest.warns(UserWarning, match="not written: pooler/dense/kernel"):
                save_huggingface(model, tmp_path / "electra", family=family)
            continue
        with pytest.raises(ValueError, match=said):
            save_huggingface(model, tmp_path / "x", family=family)
    assert os.listdir(tmp_path) == ["electra"]


def test_blocks_that_differ(tmp_path):
    model = kt.models.bert_encoder(**SIZES)
    model.get_layer("encoder_layer_1").activation = keras.activations.relu
    with pytest.raises(ValueError, match="differ from each other"):
        save_huggingface(model, tmp_path / "x")


def test_what_came_with_a_checkpoint_goes_back(encoder, tmp_path):
    save_huggingface(kt.models.masked_lm(encoder), tmp_path / "one")
    config = config_in(tmp_path / "one")
    config |= {"pad_token_id": 7, "hidden_act": "gelu_python", "use_cache": False}
    (tmp_path / "one" / "config.json").write_text(json.dumps(config))
    save_huggingface(load_huggingface(tmp_path / "one"), tmp_path / "two")
    assert config_in(tmp_path / "two") == config


def test_albert_counts_its_calls(tmp_path):
    model = kt.models.albert_encoder(
        **{**SIZES, "num_layers": 6}, embedding_dim=5, num_groups=2
    )
    model(model.input)  # Called once more: what counts is the model's own graph.
    save_huggingface(model, tmp_path)
    config = config_in(tmp_path)
    assert (config["num_hidden_layers"], config["num_hidden_groups"]) == (6, 2)


def test_half_precision(tmp_path):
    for dtype in ("float16", "bfloat16"):
        model = kt.models.bert_encoder(**SIZES, dtype=dtype)
        save_huggingface(model, tmp_path / dtype)
        assert config_in(tmp_path / dtype)["dtype"] == dtype
        again = load_huggingface(tmp_path / dtype)
        for one, other in zip(model.weights, again.weights, strict=True):
            np.testing.assert_array_equal(
                keras.ops.convert_to_numpy(keras.ops.cast(one, "float32")), other
            )


def test_tokenizers(encoder, tmp_path):
    words = "[PAD] [UNK] [CLS] [SEP] [MASK] a b".split()
    tokenizer = kt.text.WordPieceTokenizer(words, lowercase=False)
    save_huggingface(encoder, tmp_path / "one", tokenizer=tokenizer)
    assert (tmp_path / "one" / "vocab.txt").read_text().split() == words
    written = json.loads((tmp_path / "one" / "tokenizer_config.json").read_text())
    assert written == {
        "do_lower_case": False,
        "model_max_length": 13,
        "strip_accents": False,
        "tokenizer_class": "BertTokenizer",
    }
    again = kt.text.load_huggingface_tokenizer(tmp_path / "one")
    assert again.encode(["a b A"]) == tokenizer.encode(["a b A"])
    with pytest.raises(ValueError, match="cannot write a dict for a 'bert' model"):
        save_huggingface(encoder, tmp_path / "two", tokenizer={})
    more = kt.text.WordPieceTokenizer(words + [f"w{i}" for i in range(17)])
    with pytest.raises(ValueError, match="has 24 tokens and the model a table of 23"):
        save_huggingface(encoder, tmp_path / "two", tokenizer=more)
    assert not (tmp_path / "two").exists()


def test_albert_goes_with_sentence_pieces(tmp_path, data_folder):
    file = data_folder / "vocab" / "albert-30k-clean.model"
    tokenizer = kt.text.SentencePieceTokenizer(file)
    model = kt.models.albert_encoder(
        **{**SIZES, "vocabulary_size": 30000}, embedding_dim=3
    )
    save_huggingface(model, tmp_path, tokenizer=tokenizer)
    assert (tmp_path / "spiece.model").read_bytes() == file.read_bytes()
    again = kt.text.load_huggingface_tokenizer(tmp_path)
    texts = ["Déjà vu: the CAT's 1,000 mats.", "[MASK]ed"]
    assert again.encode(texts[:1]) == tokenizer.encode(texts[:1])
    with pytest.raises(ValueError, match="SentencePieceTokenizer for a 'bert' model"):
        save_huggingface(
            kt.models.bert_encoder(**SIZES), tmp_path / "x", tokenizer=tokenizer
        )


def test_somewhere_that_cannot_be_written(encoder, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="is a file. Expected a folder"):
        save_huggingface(encoder, tmp_path / "file")
    with pytest.raises(ValueError, match="Cannot write to"):
        save_huggingface(encoder, tmp_path / "file" / "below")
    assert os.listdir(tmp_path) == ["file"]
