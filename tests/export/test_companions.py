"""A `.tflite` file, its vocabulary and its card: all of them are new, or none."""

import errno
import hashlib
import json
import os

import pytest

from keras_tformer import export
from keras_tformer.text import WordPieceTokenizer

pytest.importorskip("ai_edge_litert", reason="the files are proved on ai_edge_litert")

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
OLDER = WordPieceTokenizer([*SPECIAL, "dog", "cat"])
NEWER = WordPieceTokenizer([*SPECIAL, "cat", "dog", "##s"])
REPLACE, LINK = os.replace, os.link


@pytest.fixture(scope="module")
def converted(model, tmp_path_factory):
    file = tmp_path_factory.mktemp("converted") / "model.tflite"
    export.to_tflite(model, file, sequence_length=5)
    return file.read_bytes()


@pytest.fixture
def write(model, converted, tmp_path, monkeypatch):
    """Writes the model under a name; it is converted once for all tests."""
    name = "keras_tformer.export.tflite.convert"
    monkeypatch.setattr(name, lambda *_: converted)

    def write(name, tokenizer, **arguments):
        arguments = {"verify": False, "sequence_length": 5} | arguments
        file = tmp_path / name
        return export.to_tflite(model, file, tokenizer=tokenizer, **arguments)

    return write


def vocabulary_of(folder, name):
    """The pieces that the card of a file leads to."""
    card = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return (folder / card["vocabulary"]).read_text(encoding="utf-8").split()


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_two_files_with_two_vocabularies_in_one_folder(write, tmp_path):
    write("a.tflite", OLDER)
    result = write("b.tflite", NEWER)
    assert vocabulary_of(tmp_path, "a") == [*SPECIAL, "dog", "cat"]
    assert vocabulary_of(tmp_path, "b") == [*SPECIAL, "cat", "dog", "##s"]
    assert result["vocabulary"] == str(tmp_path / "b_vocab.txt")
    # Again with another vocabulary: its own name is free for it.
    write("b.tflite", WordPieceTokenizer([*SPECIAL, "cow"]))
    assert vocabulary_of(tmp_path, "a") == [*SPECIAL, "dog", "cat"]
    assert vocabulary_of(tmp_path, "b") == [*SPECIAL, "cow"]
    names = ["a.json", "a.tflite", "b.json", "b.tflite", "b_vocab.txt", "vocab.txt"]
    assert sorted(contents(tmp_path)) == names


def test_one_vocabulary_serves_all_files_that_have_it(write, tmp_path):
    for name in ("a.tflite", "b.tflite"):
        assert write(name, OLDER)["vocabulary"] == str(tmp_path / "vocab.txt")
    # Now two cards name it: the newer one of `a` must not become that of `b`.
    write("a.tflite", NEWER)
    assert vocabulary_of(tmp_path, "a") == [*SPECIAL, "cat", "dog", "##s"]
    assert vocabulary_of(tmp_path, "b") == [*SPECIAL, "dog", "cat"]


def test_a_file_written_again_replaces_its_vocabulary(write, tmp_path):
    (tmp_path / "other.json").write_text("[]")  # no card
    for tokenizer in (OLDER, NEWER):
        result = write("model.tflite", tokenizer)
        assert result["vocabulary"] == str(tmp_path / "vocab.txt")
        assert vocabulary_of(tmp_path, "model") == tokenizer.vocabulary
    names = ["model.json", "model.tflite", "other.json", "vocab.txt"]
    assert sorted(contents(tmp_path)) == names


def test_vocabularies_that_no_card_names_are_somebodys(write, tmp_path):
    (tmp_path / "vocab.txt").write_text("mine\n")
    assert write("a.tflite", OLDER)["vocabulary"] == str(tmp_path / "a_vocab.txt")
    (tmp_path / "b_vocab.txt").write_text("mine, too\n")
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=r"b_vocab.txt' hold others. Choose another"):
        write("b.tflite", OLDER)
    assert contents(tmp_path) == before


def test_a_vocabulary_that_is_missed_is_not_replaced_by_another(write, tmp_path):
    write("a.tflite", OLDER)
    (tmp_path / "vocab.txt").unlink()
    assert write("b.tflite", NEWER)["vocabulary"] == str(tmp_path / "b_vocab.txt")
    assert write("a.tflite", OLDER)["vocabulary"] == str(tmp_path / "vocab.txt")


def test_an_older_card_does_not_outlive_its_file(write, tmp_path):
    write("model.tflite", OLDER, class_names=["a", "b", "c"])
    (tmp_path / "other.json").write_text('{"file": "another.tflite"}')
    result = write("model.tflite", None)
    card = json.loads((tmp_path / "model.json").read_text(encoding="utf-8"))
    assert (card["classes"], card["vocabulary"]) == (None, None)
    assert card["sha256"] == result["sha256"]
    assert write("other.tflite", None)["card"] is None


def test_the_card_says_every_length(tmp_path, classifier):
    export.to_tflite(
        classifier,
        tmp_path / "model.tflite",
        sequence_length=(7, 13),
        tokenizer=OLDER,
        verify=False,
    )
    card = json.loads((tmp_path / "model.json").read_text(encoding="utf-8"))
    assert card["sequence_length"] == 13 and card["lengths"] == [13, 7]
    assert card["inputs"]["token_ids"]["shape"] == [1, 13]
    assert card["signatures"] == ["serving_default", "shorter_7"]


@pytest.mark.parametrize("taken", ["model.tflite", "model.json"])
def test_a_folder_in_the_way_is_refused_before_any_work(
    write, tmp_path, monkeypatch, taken
):
    def convert(*_):
        raise AssertionError("the model was converted")

    monkeypatch.setattr("keras_tformer.export.tflite.convert", convert)
    (tmp_path / taken).mkdir()
    (tmp_path / "vocab.txt").write_text("mine\n")
    with pytest.raises(ValueError, match=f"{taken}': a folder is there. Choose"):
        write("model.tflite", OLDER)
    assert sorted(contents_of_files(tmp_path)) == ["vocab.txt"]
    assert (tmp_path / "vocab.txt").read_text() == "mine\n"


def contents_of_files(folder):
    return {
        path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_a_vocabulary_goes_beside_a_folder_of_its_name(write, tmp_path):
    (tmp_path / "vocab.txt").mkdir()
    assert write("a.tflite", OLDER)["vocabulary"] == str(tmp_path / "a_vocab.txt")


@pytest.mark.parametrize("name", ["model.json", "vocab.txt"])
def test_a_file_that_would_be_its_own_companion(write, tmp_path, name):
    with pytest.raises(ValueError, match="Choose another one, such as .*.tflite'"):
        write(name, OLDER)
    assert not contents(tmp_path)


@pytest.mark.parametrize("has_links", [True, False])
@pytest.mark.parametrize("is_there", [True, False])
@pytest.mark.parametrize("failing", ["model.tflite", "vocab.txt", "model.json"])
def test_what_cannot_be_renamed_leaves_the_older_files(
    write, tmp_path, monkeypatch, failing, is_there, has_links
):
    if is_there:
        write("model.tflite", OLDER)
    before = contents(tmp_path)

    def replace(source, target):
        is_new = os.path.basename(source).endswith(f"-{failing}")
        if is_new and os.path.basename(target) == failing:
            raise PermissionError(errno.EACCES, "it is held open")
        REPLACE(source, target)

    def link(source, target):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(os, "link", LINK if has_links else link)
    with pytest.raises(ValueError, match="held open. What was there .* is untouched"):
        write("model.tflite", NEWER)
    monkeypatch.setattr(os, "replace", REPLACE)
    assert contents(tmp_path) == before
    write("model.tflite", NEWER)
    assert vocabulary_of(tmp_path, "model") == NEWER.vocabulary


def test_no_step_leaves_a_card_of_other_files(write, tmp_path, monkeypatch):
    """A process may be killed between any two renamings."""
    write("model.tflite", OLDER)
    seen = []

    def look(path):
        if os.path.dirname(path) != str(tmp_path):
            return
        content = (tmp_path / "model.tflite").read_bytes()
        card = tmp_path / "model.json"
        if not card.exists():
            seen.append(None)
            return
        told = json.loads(card.read_text(encoding="utf-8"))
        assert told["sha256"] == hashlib.sha256(content).hexdigest()
        seen.append(vocabulary_of(tmp_path, "model"))

    def replace(source, target):
        REPLACE(source, target)
        look(source if ".old-" in str(target) else str(target))

    def link(source, target):
        LINK(source, target)
        look(source)

    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(os, "link", link)
    write("model.tflite", NEWER)  # with another checksum, too
    assert seen == [OLDER.vocabulary] * 2 + [None] * 3 + [NEWER.vocabulary]


@pytest.mark.parametrize("measure", [export.report, export.benchmark])
def test_a_picture_where_a_folder_is(write, tmp_path, monkeypatch, measure):
    file = write("model.tflite", None)["file"]
    (tmp_path / "report.png").mkdir()

    def inspect_file(*_):
        raise AssertionError("the file was read")

    monkeypatch.setattr("keras_tformer.export.reporting.inspect_file", inspect_file)
    with pytest.raises(ValueError, match="report.png': a folder is there"):
        measure(file, show=False, picture=tmp_path / "report.png")


def test_a_picture_without_a_suffix(write, tmp_path):
    pytest.importorskip("matplotlib", reason="draws the picture")
    file = write("model.tflite", None)["file"]
    export.report(file, show=False, picture=tmp_path / "report")
    assert sorted(contents(tmp_path)) == ["model.tflite", "report"]
    assert (tmp_path / "report").read_bytes().startswith(b"\x89PNG")


def test_a_saved_model_over_something_else(model, tmp_path, monkeypatch):
    def serving_function(*_):
        raise AssertionError("the model was traced")

    monkeypatch.setattr(
        "keras_tformer.export.saved_model.serving_function", serving_function
    )
    (tmp_path / "model").write_text("mine")
    with pytest.raises(ValueError, match="something else is there"):
        export.to_saved_model(model, tmp_path / "model")
    assert contents(tmp_path) == {"model": b"mine"}


def test_a_saved_model_that_cannot_be_renamed(model, tmp_path, monkeypatch):
    export.to_saved_model(model, tmp_path / "model")
    before = contents_of_files(tmp_path)

    def replace(source, target):
        if os.path.basename(target) == "model" and ".old-" not in source:
            raise PermissionError(errno.EACCES, "it is held open")
        REPLACE(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(ValueError, match="held open. What was there"):
        export.to_saved_model(model, tmp_path / "model")
    assert contents_of_files(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
