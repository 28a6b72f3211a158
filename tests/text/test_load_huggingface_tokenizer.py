"""What a folder says is followed, or refused by its name."""

import json

import pytest

from keras_tformer.text import WordPieceTokenizer, load_huggingface_tokenizer

PIECES = "[PAD] [UNK] [CLS] [SEP] [MASK] un ##do it a I".split()


def write(folder, settings=None, pieces=PIECES, **files):
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", "utf-8")
    if settings is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def test_settings_are_followed(tmp_path):
    settings = {"do_lower_case": False, "model_max_length": 17, "sep_token": "[SEP]"}
    tokenizer = load_huggingface_tokenizer(write(tmp_path, settings))
    assert not tokenizer.lowercase
    assert tokenizer.max_sequence_length == 17
    assert tokenizer.encode(["I undo [SEP]"]) == [[9, 5, 6, 3]]
    assert WordPieceTokenizer(PIECES).encode(["[SEP]"]) == [[1, 1, 1]]


def test_added_tokens(tmp_path):
    folder = write(tmp_path, {"model_max_length": 10**30}, added_tokens={"[E1]": 10})
    tokenizer = load_huggingface_tokenizer(folder)
    assert tokenizer.max_sequence_length is None
    assert tokenizer.encode(["a [E1]it"]) == [[8, 10, 7]]
    tf = pytest.importorskip("tensorflow", reason="tokenizes in the graph")
    pytest.importorskip("tensorflow_text", reason="tokenizes in the graph")
    assert tokenizer.tokenize(tf.constant(["a [E1]it"])).to_list() == [[8, 10, 7]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"padding_side": "left"}, "padding_side 'left'; expected 'right'"),
        ({"unk_token": "<unk>"}, r"unk_token '<unk>'; expected '\[UNK\]'"),
        ({"do_basic_tokenize": False}, "do_basic_tokenize False"),
        ({"normalizes_numbers": True}, "normalizes_numbers True"),
        ({"tokenizer_class": "RobertaTokenizer"}, "family 'roberta'"),
        ({"tokenizer_class": "MarianTokenizer"}, "family 'marian'"),
    ],
)
def test_what_cannot_be_followed(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load_huggingface_tokenizer(write(tmp_path, settings))


def test_a_folder_that_contradicts_itself(tmp_path):
    WordPieceTokenizer(PIECES, lowercase=False).save(tmp_path / "tokenizer.json")
    with pytest.raises(ValueError, match="do_lower_case is False in tokenizer.json"):
        load_huggingface_tokenizer(tmp_path)


def test_broken_folders(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        load_huggingface_tokenizer(tmp_path / "none")
    with pytest.raises(ValueError, match=r"neither tokenizer.json nor vocab.txt"):
        load_huggingface_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match="no readable JSON"):
        load_huggingface_tokenizer(tmp_path)
