"""What `--checkpoint` opens: ours, Hugging Face's, Google's, with their tokenizers."""

import pathlib

import keras
import numpy as np
import pytest

import keras_tformer as kt

pytest.importorskip("safetensors", reason="the [hub] extra is not installed")
tokenizers = pytest.importorskip("tokenizers", reason="needs the [text] extra")

SENTENCES = ["Ann saw the red house", "the old house saw Ann"] * 3
SIZES = {
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 14,
    "intermediate_dim": 11,
    "max_sequence_length": 13,
}


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(pathlib.Path(__file__).parents[2] / "examples"))
    import open_checkpoint

    return open_checkpoint


def tokenizer_of(case):
    lowercase = case == "uncased"
    return kt.text.WordPieceTokenizer.train(
        SENTENCES, 60, lowercase=lowercase, show_progress=False
    )


def outputs(encoder):
    ids = np.array([[2, 7, 11, 5, 3]])
    inputs = {"token_ids": ids, "segment_ids": 0 * ids, "padding_mask": ids > 0}
    return {name: np.asarray(x) for name, x in encoder(inputs).items()}


def assert_same(first, second, tolerance=0.0):
    first, second = outputs(first), outputs(second)
    for name in ("sequence_output", "pooled_output"):
        np.testing.assert_allclose(first[name], second[name], rtol=0, atol=tolerance)


@pytest.mark.parametrize("case", ["cased", "uncased"])
def test_googles_prefix_or_folder_keeps_the_case_of_its_vocabulary(
    tmp_path, script, case
):
    tokenizer = tokenizer_of(case)
    encoder = kt.models.bert_encoder(
        vocabulary_size=tokenizer.vocabulary_size, activation="gelu_tanh", **SIZES
    )
    kt.checkpoints.save_tf_checkpoint(encoder, tmp_path / "bert_model.ckpt")
    with pytest.raises(SystemExit, match=r"no vocab.txt and no spiece.model"):
        script.open_encoder(tmp_path)
    tokenizer.save(tmp_path / "vocab.txt")
    for name in (tmp_path, tmp_path / "bert_model.ckpt"):
        opened, found = script.open_encoder(name)
        assert_same(opened, encoder)
        assert found.encode(SENTENCES) == tokenizer.encode(SENTENCES)
        assert found.lowercase == (case == "uncased")
    assert script.open_encoder(name, cased=case != "cased")[1].lowercase != (
        case == "uncased"
    )
    config = tmp_path / "bert_config.json"
    config.rename(tmp_path / "other.json")
    with pytest.raises(SystemExit, match=r"there are 0 files \*bert_config\*.json"):
        script.open_encoder(tmp_path)


def test_published_vocabularies(data_folder, script):
    for name, case in (
        ("bert-base-cased-vocab.txt", True),
        ("bert-base-uncased-vocab.txt", False),
        ("bert-base-chinese-vocab.txt", False),
    ):
        tokenizer = kt.text.WordPieceTokenizer(data_folder / "vocab" / name)
        assert script.has_capitals(tokenizer.vocabulary) == case
    pieces = data_folder / "vocab" / "albert-30k-clean.model"
    assert not script.has_capitals(kt.text.SentencePieceTokenizer(pieces).vocabulary)


def test_a_folder_of_hugging_face(tmp_path, script):
    tokenizer = tokenizer_of("cased")
    encoder = kt.models.bert_encoder(vocabulary_size=tokenizer.vocabulary_size, **SIZES)
    kt.checkpoints.save_huggingface(encoder, tmp_path / "bert", tokenizer)
    opened, found = script.open_encoder(tmp_path / "bert")
    assert_same(opened, encoder)
    assert found.encode(SENTENCES) == tokenizer.encode(SENTENCES)
    with pytest.raises(SystemExit, match="says itself, in tokenizer_config.json"):
        script.open_encoder(tmp_path / "bert", cased=False)


@pytest.mark.parametrize("family", ["albert", "bert"])
def test_the_encoder_of_a_model_with_a_head(tmp_path, script, capsys, family):
    tokenizer = tokenizer_of("cased")
    sizes = SIZES | {"vocabulary_size": tokenizer.vocabulary_size, "dropout": 0.1}
    if family == "albert":
        encoder = kt.models.albert_encoder(embedding_dim=5, num_groups=2, **sizes)
    else:
        encoder = kt.models.bert_encoder(**sizes)
    script.save_tokenizer(tokenizer, tmp_path)
    for name, model in (
        ("encoder", encoder),
        ("pair", kt.models.sequence_classifier(encoder, num_classes=3)),
    ):
        model.save(tmp_path / f"{name}.keras")
        opened, found = script.open_encoder(tmp_path / f"{name}.keras")
        assert_same(opened, encoder)
        assert not found.lowercase  # the settings are in tokenizer.json
        assert found.encode(SENTENCES) == tokenizer.encode(SENTENCES)
        block = opened.layers[-2]
        assert block.name.startswith("encoder_") and block.dropout == 0.1
    assert "no pooler" not in capsys.readouterr().out
    tags = kt.models.token_classifier(encoder, num_classes=3)
    tags.save(tmp_path / "tags.keras")
    opened, _ = script.open_encoder(tmp_path / "tags.keras")
    assert "no pooler: it starts untrained" in capsys.readouterr().out
    np.testing.assert_array_equal(
        outputs(opened)["sequence_output"], outputs(encoder)["sequence_output"]
    )


def test_language_models_of_ours_and_gpt2(tmp_path, script):
    keras.utils.set_random_seed(5)
    trained = tokenizers.ByteLevelBPETokenizer()
    trained.train_from_iterator(SENTENCES, 270, special_tokens=["<|endoftext|>"])
    size = trained.get_vocab_size()
    model = kt.models.causal_lm(vocabulary_size=size, **SIZES)
    kt.checkpoints.save_huggingface(model, tmp_path / "gpt2")
    config = tmp_path / "gpt2" / "config.json"
    config.write_text(config.read_text().replace("50256", "0"))
    trained.save_model(str(tmp_path / "gpt2"))
    opened, tokenizer = script.open_language_model(tmp_path / "gpt2")
    ids = {"token_ids": np.array([[0, 9, 7]]), "padding_mask": np.ones((1, 3), "int32")}
    np.testing.assert_array_equal(np.asarray(opened(ids)), np.asarray(model(ids)))
    assert tokenizer.encode(SENTENCES) == [trained.encode(s).ids for s in SENTENCES]
    assert tokenizer.decode(tokenizer.encode(["Ann saw"])[0]) == "Ann saw"
    task = kt.data.language_modelling_task(["Ann", "saw"], tokenizer, 5, 2)
    inputs, labels, _ = next(iter(task.dataset))
    running = [0, *trained.encode("Ann").ids, 0, 0, *trained.encode("saw").ids, 0]
    assert (
        inputs["token_ids"].numpy().ravel()[: len(running) - 1].tolist()
        == (running[:-1])
    )
    assert labels.numpy().ravel()[: len(running) - 1].tolist() == running[1:]

    # A further run opens what the first one left.
    opened.save(tmp_path / "model.keras")
    script.save_tokenizer(tokenizer, tmp_path)
    again, kept = script.open_language_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(np.asarray(again(ids)), np.asarray(model(ids)))
    assert kept.encode(SENTENCES) == tokenizer.encode(SENTENCES)
    assert kept.end_id == 0
