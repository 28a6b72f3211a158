"""Tables and folders of the user, and one clear sentence for each that is wrong."""

import re

import pytest

from keras_tformer.data import Document, read_folder, read_table


def written(folder, text, name="table.csv"):
    file = folder / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


EXPECTED = [Document("x", ['One, "two"']), Document("y", ["na\u00efve"])]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", 'text,label\n"One, ""two""",x\nna\u00efve,y\n'),
        ("t.csv", '\ufefftext;label\n"One, ""two""";x\nna\u00efve;y\n'),
        ("t.csv", 'label,id,text\r\nx,1,"One, ""two"""\r\n\r\ny,2,na\u00efve'),
        ("t.tsv", 'text\tlabel\nOne, "two"\tx\nna\u00efve\ty\n'),
        ("t.txt", 'text\tlabel\nOne, "two"\tx\nna\u00efve\ty\n'),
    ],
)
def test_tables(tmp_path, name, text):
    assert read_table(written(tmp_path, text, name)) == EXPECTED


def test_lone_quotation_mark_in_tsv(tmp_path):
    file = written(tmp_path, 's\tc\n"so it goes\tx\nend\ty\n', "t.tsv")
    assert read_table(file, "s", "c")[0] == Document("x", ['"so it goes'])


def test_real_tables(data_folder):
    documents = read_table(data_folder / "sst2" / "dev_a.tsv", "sentence")
    labels = [document.label for document in documents]
    assert (labels.count("1"), labels.count("0")) == (224, 212)
    documents = read_table(data_folder / "glue_small" / "cola_dev_a.tsv", "sentence")
    assert len(documents) == 522


WRONG = {
    "empty": ("", "is empty"),
    "blank": (" \n\n", "is empty"),
    "no header": ("good,1\nbad,0\n", "line 1: no header with the columns 'text'"),
    "no text": ("sentence,label\na,1\n", "line 1: no column 'text', found 'sentence'"),
    "no label": ("text,class\na,1\n", "line 1: no column 'label', found 'text', 'cl"),
    "no rows": ("text,label\n", "has a header but no rows"),
    "empty text": ("text,label\na,1\n  ,0\n", "line 3: the text is empty"),
    "empty label": ("text,label\na,1\nb,\n", "line 3: the label is empty"),
    "one label": ("text,label\na,1\nb,1\n", "has only one label, '1'"),
    "fields": ("text,label\na,1\nb,c,0\n", "line 3: 3 fields where the header has 2"),
    "latin-1": (b"text,label\na,1\nna\xefve,0\n", "line 3: not UTF-8 (byte 0xef)"),
    "binary": (b"text,label\na,1\n\x00,0\n", "line 3: a null character"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_tables(tmp_path, case):
    text, message = WRONG[case]
    file = written(tmp_path, text)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        read_table(file)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_table(tmp_path):
    with pytest.raises(ValueError, match="none.csv does not exist"):
        read_table(tmp_path / "none.csv")
    with pytest.raises(ValueError, match="is not a file"):
        read_table(tmp_path)


def test_folder(tmp_path):
    (tmp_path / "b" / "c").mkdir(parents=True)
    (tmp_path / ".hidden").mkdir()
    written(tmp_path, "One\ntwo.\n \n\nThree.\n", "z.txt")
    written(tmp_path / "b" / "c", "Four.", "y.md")
    written(tmp_path / ".hidden", "No.", "x.txt")
    written(tmp_path, b"\x00", "picture.png")
    assert read_folder(tmp_path) == [
        Document("b", ["Four."]),
        Document("", ["One two.", "Three."]),
    ]


def test_wrong_folders(tmp_path):
    with pytest.raises(ValueError, match="none is not a folder"):
        read_folder(tmp_path / "none")
    with pytest.raises(ValueError, match=r"no text files; expected .* \.txt or \.md"):
        read_folder(tmp_path)
    file = written(tmp_path, b"a\nb \xff\n", "a.txt")
    with pytest.raises(ValueError, match="a.txt, line 2: not UTF-8"):
        read_folder(tmp_path)
    file.write_text("\n \n")
    with pytest.raises(ValueError, match="a.txt is empty"):
        read_folder(tmp_path)
