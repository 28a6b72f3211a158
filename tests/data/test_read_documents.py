"""Documents from files, and what happens to files that are broken."""

import collections
import gzip
import importlib
import lzma
import tracemalloc

import pytest

from keras_tformer.data import Document, read_documents
from keras_tformer.data.text_lines import read_lines


def test_plain_text(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes("\ufeffOne  two.\r\nThree.\r\n\r\n \n\nNa\u00efve".encode())
    expected = [Document("", ["One two.", "Three."]), Document("", ["Na\u00efve"])]
    assert list(read_documents(file)) == expected
    for packed, name in ((gzip, "b.txt.gz"), (lzma, "b.txt.xz")):
        (tmp_path / name).write_bytes(packed.compress(file.read_bytes()))
        assert list(read_documents(tmp_path / name)) == expected


def test_json_lines(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "A.\\nB.", "from": "x"}\n\n{"text": "C.", "from": 5}\n')
    expected = [Document("", ["A.", "B."]), Document("", ["C."])]
    assert list(read_documents(file)) == expected
    labels = [d.label for d in read_documents(file, label_field="from")]
    assert labels == ["x", "5"]


def test_folders(tmp_path):
    (tmp_path / "b" / "c").mkdir(parents=True)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "a.txt").write_text("No.")
    (tmp_path / "picture.png").write_bytes(b"\x00")
    (tmp_path / "z.md").write_text("Last.")
    (tmp_path / "b" / "c.txt").symlink_to(tmp_path / "b" / "c")  # no file
    (tmp_path / "b" / "c" / "y.txt").write_text("Two.")
    (tmp_path / "a.jsonl").write_text('{"text": "One."}')
    documents = list(read_documents(tmp_path))
    assert [document.paragraphs[0] for document in documents] == [
        "One.",
        "Two.",
        "Last.",
    ]
    assert [document.label for document in documents] == ["", "b", ""]


def test_a_file_without_blank_lines_comes_in_parts(tmp_path, monkeypatch):
    """Memory holds one document, so that none may be as large as its file."""
    module = importlib.import_module("keras_tformer.data.read_documents")
    monkeypatch.setattr(module, "_MOST_CHARACTERS", 11)
    (tmp_path / "a.txt").write_text("Five.\nSix ..\nA line of 19 signs.\nab\n\ncd\n")
    found = [document.paragraphs for document in read_documents(tmp_path)]
    assert found == [["Five.", "Six .."], ["A line of 19 signs."], ["ab"], ["cd"]]


def test_real_corpus(data_folder):
    documents = read_documents(data_folder / "wiki" / "enwiki_sample.txt.xz")
    counts = [len(document.paragraphs) for document in documents]
    assert len(counts) == 1730
    assert sum(counts) == 59608


WRONG = {
    "utf-8": ("a.txt", b"one\n\ntw\xff\n", "a.txt, line 3: not UTF-8 (byte 0xff)"),
    "null": ("a.txt", b"one\n\x00\n", "a.txt, line 2: a null character"),
    "json": ("a.jsonl", b'{"text": "a"}\n{"text": \n', "a.jsonl, line 2: not JSON"),
    "list": ("a.jsonl", b'{"text": "a"}\n[1]\n', "line 2: a JSON list"),
    "field": ("a.jsonl", b'{"text": "a"}\n{"t": "a"}\n', "no text in the field 'text'"),
    "number": ("a.jsonl", b'{"text": "a"}\n{"text": 5}\n', "line 2: no text in"),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_lines_end_the_run_or_are_counted(tmp_path, case):
    name, content, message = WRONG[case]
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(ValueError) as error:
        list(read_documents(file))
    assert message in str(error.value)
    skipped = collections.Counter()
    assert len(list(read_documents(file, skipped=skipped))) == 1
    assert skipped.total() == 1


def test_empty_and_missing_files(tmp_path):
    (tmp_path / "a.txt").write_text("One.")
    (tmp_path / "b.txt").write_text(" \n\n")
    with pytest.raises(ValueError, match="b.txt holds no text"):
        list(read_documents(tmp_path))
    skipped = collections.Counter()
    assert len(list(read_documents(tmp_path, skipped=skipped))) == 1
    assert skipped == {"empty file": 1}
    with pytest.raises(ValueError, match="none does not exist"):
        list(read_documents(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no text files"):
        list(read_documents(tmp_path / "empty"))


@pytest.mark.parametrize(("packed", "name"), [(gzip, "a.txt.gz"), (lzma, "a.txt.xz")])
def test_damaged_archives(tmp_path, packed, name):
    file = tmp_path / name
    content = packed.compress(bytes(range(32, 127)) * 997 + b"\n")
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=f"{name}, after line 0: .* is damaged"):
        list(read_lines(file))
    file.write_bytes(b"no archive at all")
    with pytest.raises(ValueError, match="is damaged"):
        list(read_lines(file))


def giant(tmp_path, megabytes):
    """A file with one line of that size between two short ones."""
    file = tmp_path / "giant.txt"
    with open(file, "wb") as stream:
        stream.write(b"One.\n")
        for _ in range(megabytes):
            stream.write(b"a " * (1 << 19))
        stream.write(b"\nTwo.\n")
    tracemalloc.start()
    with pytest.raises(ValueError, match="giant.txt, line 2: longer than 16777216 byt"):
        list(read_lines(file))
    skipped = collections.Counter()
    lines = list(read_lines(file, skipped=skipped))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert lines == [(1, "One."), (3, "Two.")]
    assert skipped == {"longer than the limit": 1}
    return peak


def test_giant_line(tmp_path):
    assert giant(tmp_path, 23) < 60e6


@pytest.mark.slow
def test_line_of_200_megabytes(tmp_path):
    assert giant(tmp_path, 200) < 60e6
