"""Where exports go: what is there, who else writes, what is left behind."""

import os
import pathlib
import stat
import subprocess
import sys

import pytest

from keras_tformer import export
from keras_tformer.export.files import replaced_files, replaced_folder
from keras_tformer.text import WordPieceTokenizer

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "dog", "cat"]
TOKENIZER = WordPieceTokenizer(PIECES)


@pytest.fixture(scope="module")
def converted(model, tmp_path_factory):
    pytest.importorskip("ai_edge_litert", reason="the files are proved on it")
    file = tmp_path_factory.mktemp("converted") / "model.tflite"
    export.to_tflite(model, file, sequence_length=5)
    return file.read_bytes()


@pytest.fixture
def to_tflite(model, converted, monkeypatch):
    name = "keras_tformer.export.tflite.convert"
    monkeypatch.setattr(name, lambda *_: converted)
    return lambda file, **arguments: export.to_tflite(
        model, file, sequence_length=5, verify=False, **arguments
    )


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize(
    "theirs", ["model.keras", "assets.extra/tf_serving_warmup_requests", ".notes"]
)
def test_other_files_in_an_older_saved_model(model, tmp_path, theirs):
    folder = tmp_path / "model"
    for _ in range(2):
        export.to_saved_model(model, folder, class_names=["a", "b", "c"])
    (folder / theirs).write_text("years of work")
    before = names(tmp_path)
    with pytest.raises(ValueError, match=f"'{theirs}' in it would be lost. Move"):
        export.to_saved_model(model, folder)
    assert names(tmp_path) == before
    assert (folder / theirs).read_text() == "years of work"
    (folder / theirs).unlink()
    export.to_saved_model(model, folder)
    assert not (folder / "assets.extra").exists()


def test_a_refused_export_leaves_no_folders(model, to_tflite, tmp_path):
    (tmp_path / "there").mkdir()
    for start in ("new", "there/new"):
        with pytest.raises(ValueError, match="2 class_names"):
            export.to_saved_model(
                model, tmp_path / start / "a" / "model", class_names=["a", "b"]
            )
        with pytest.raises(ValueError, match="2 class_names"):
            to_tflite(tmp_path / start / "a" / "m.tflite", class_names=["a", "b"])
        with pytest.raises(KeyError), replaced_files(tmp_path / start / "m") as stage:
            stage(tmp_path / start / "m")
            raise KeyError
    assert names(tmp_path) == ["there"]
    to_tflite(tmp_path / "new" / "a" / "m.tflite")
    export.to_saved_model(model, tmp_path / "new" / "b" / "model")
    assert names(tmp_path / "new")[:4] == ["a", "a/m.tflite", "b", "b/model"]


@pytest.mark.parametrize("path", [None, b"model", "", 7])
def test_what_is_no_path(model, to_tflite, path):
    for write in (to_tflite, lambda path: export.to_saved_model(model, path)):
        with pytest.raises(ValueError, match="Received the path .*Expected a string"):
            write(path)


def test_names_that_are_too_long(model, to_tflite, tmp_path):
    for name in ("m" * 256, "ü" * 128, "new/" + "m" * 256 + "/model"):
        for write in (to_tflite, lambda path: export.to_saved_model(model, path)):
            with pytest.raises(ValueError, match="File name too long. Expected"):
                write(tmp_path / name)
    to_tflite(tmp_path / "m.tflite", tokenizer=TOKENIZER)
    with pytest.raises(ValueError, match="File name too long. Expected"):
        other = WordPieceTokenizer([*PIECES, "cow"])  # for <stem>_vocab.txt
        to_tflite(tmp_path / ("k" * 248 + ".tflite"), tokenizer=other)
    for name in ("m" * 248 + ".tflite", "ü" * 123 + ".tflite"):
        to_tflite(tmp_path / name)
        (tmp_path / name).unlink()
        export.to_saved_model(model, tmp_path / name)


def test_links_are_followed(model, to_tflite, tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "links").mkdir()
    for name in ("m.tflite", "model"):
        (tmp_path / "links" / name).symlink_to(tmp_path / "store" / name)
    for _ in range(2):
        to_tflite(tmp_path / "links" / "m.tflite", tokenizer=TOKENIZER)
        export.to_saved_model(model, tmp_path / "links" / "model")
    assert names(tmp_path / "links") == ["m.json", "m.tflite", "model", "vocab.txt"]
    assert [p.name for p in sorted((tmp_path / "store").iterdir())] == [
        "m.tflite",
        "model",
    ]
    assert all((tmp_path / "links" / n).is_symlink() for n in ("m.tflite", "model"))
    assert (tmp_path / "store" / "model" / "saved_model.pb").exists()
    (tmp_path / "links" / "nowhere").symlink_to(tmp_path / "gone" / "m")
    for write in (to_tflite, lambda path: export.to_saved_model(model, path)):
        with pytest.raises(ValueError, match="gone', which is not there. Remove"):
            write(tmp_path / "links" / "nowhere")


@pytest.mark.skipif(os.name != "posix", reason="permissions as POSIX has them")
@pytest.mark.parametrize("mask", [0o077, 0o022, 0o002])
def test_permissions_are_those_that_the_user_gives_new_files(
    model, to_tflite, tmp_path, mask
):
    before = os.umask(mask)
    try:
        to_tflite(tmp_path / "new" / "m.tflite", tokenizer=TOKENIZER)
        export.to_saved_model(
            model, tmp_path / "new" / "model", TOKENIZER, class_names=["a", "b", "c"]
        )
    finally:
        os.umask(before)
    assert len(names(tmp_path / "new")) == 13
    for path in (tmp_path / "new").rglob("*"):
        expected = (0o777 if path.is_dir() else 0o666) & ~mask
        assert stat.S_IMODE(path.stat().st_mode) == expected, path


WRITER = """
import os, sys
from keras_tformer.export.files import replaced_files, replaced_folder
folder, who = sys.argv[1:]
for number in range(100):
    content = f"{who}{number}"
    with replaced_folder(f"{folder}/model") as temporary:
        os.mkdir(f"{temporary}/variables")
        for name in ("saved_model.pb", "variables/variables.index"):
            with open(f"{temporary}/{name}", "w") as stream:
                stream.write(content)
    with replaced_files(f"{folder}/m.tflite") as stage:
        for name in ("m.tflite", "vocab.txt", "m.json"):
            with open(stage(f"{folder}/{name}"), "w") as stream:
                stream.write(content)
"""


def test_two_processes_that_write_the_same_names(tmp_path):
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    processes = [
        subprocess.Popen([*command, who], stderr=subprocess.PIPE, text=True)
        for who in "ab"
    ]
    for process in processes:
        _, told = process.communicate(timeout=120)
        assert process.returncode == 0, told[-2000:]
    expected = ["m.json", "m.tflite", "model", "vocab.txt"]
    assert sorted(os.listdir(tmp_path)) == expected
    for group in (
        ("m.tflite", "vocab.txt", "m.json"),
        ("model/saved_model.pb", "model/variables/variables.index"),
    ):
        assert len({(tmp_path / name).read_text() for name in group}) == 1


def test_without_locks(tmp_path, monkeypatch):
    """Windows has no `fcntl`: one process alone writes as ever."""
    monkeypatch.setitem(sys.modules, "fcntl", None)
    for content in "ab":
        with replaced_folder(tmp_path / "model") as temporary:
            pathlib.Path(temporary, "saved_model.pb").write_text(content)
        with replaced_files(tmp_path / "m") as stage:
            for name in "mn":
                pathlib.Path(stage(tmp_path / name)).write_text(content)
    assert names(tmp_path) == ["m", "model", "model/saved_model.pb", "n"]
    assert (tmp_path / "model" / "saved_model.pb").read_text() == "b"
