"""The user's own text: tables with labels, folders of plain text."""

import csv
import io
import pathlib
import re

from keras_tformer.data.documents import Document


def read_table(file, text_column="text", label_column="label"):
    """Reads a CSV or TSV file with a header: one document per row.

    A `.tsv` file is cut at tabs and its quotation marks are text, as in GLUE;
    otherwise the header tells which of comma, semicolon and tab separates, and
    fields may stand in double quotes.

    Args:
        file: path of a UTF-8 file.
        text_column: str. Name of the column that holds the text.
        label_column: str. Name of the column that holds the class.

    Returns:
        A list of `Document`, in file order.

    Raises:
        ValueError: in one sentence that names the file and the line, if the file
            is missing, empty or not UTF-8, lacks its header or a column, holds an
            empty text or label, a row of wrong length, or fewer than two labels.
    """
    file = pathlib.Path(file)
    text = _read_text(file)
    if not text.strip():
        raise ValueError(
            f"{file} is empty; expected a header line and at least one row."
        )
    first_line = text.lstrip("\n").split("\n", 1)[0]
    tabs = file.suffix.lower() in (".tsv", ".tab") or "\t" in first_line
    separator = "\t" if tabs else ","
    if not tabs and ";" in first_line and "," not in first_line:
        separator = ";"
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=separator,
        quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL,
    )
    # Long documents may pass the default limit of 131072 characters a field.
    previous_limit = csv.field_size_limit(1 << 30)
    try:
        return _read_rows(file, reader, text_column, label_column)
    except csv.Error as error:
        raise ValueError(
            f"{file}, line {reader.line_num}: not a readable table ({error})."
        ) from None
    finally:
        csv.field_size_limit(previous_limit)


def _read_rows(file, reader, text_column, label_column):
    header = next(row for row in reader if row)
    header = [name.strip() for name in header]
    missing = [name for name in (text_column, label_column) if name not in header]
    if len(missing) == 2:
        found = ", ".join(repr(name[:40]) for name in header[:10])
        raise ValueError(
            f"{file}, line {reader.line_num}: no header with the columns "
            f"{text_column!r} and {label_column!r}, found {found}; add a header line "
            "or name the columns."
        )
    if missing:
        found = ", ".join(repr(name[:40]) for name in header[:10])
        raise ValueError(
            f"{file}, line {reader.line_num}: no column {missing[0]!r}, found {found}; "
            "rename the column or name the right one."
        )
    text_index, label_index = header.index(text_column), header.index(label_column)
    documents = []
    for row in reader:
        if not row:
            continue
        if len(row) != len(header):
            raise ValueError(
                f"{file}, line {reader.line_num}: {len(row)} fields where the header "
                f"has {len(header)}; quote fields that hold the separator."
            )
        text, label = row[text_index].strip(), row[label_index].strip()
        if not text:
            raise ValueError(
                f"{file}, line {reader.line_num}: the text is empty; fill in or remove "
                "the row."
            )
        if not label:
            raise ValueError(
                f"{file}, line {reader.line_num}: the label is empty; every row needs "
                "a class."
            )
        documents.append(Document(label, [text]))
    if not documents:
        raise ValueError(
            f"{file} has a header but no rows; expected at least one row for each of "
            "two labels."
        )
    labels = {document.label for document in documents}
    if len(labels) < 2:
        raise ValueError(
            f"{file} has only one label, {documents[0].label!r}; a classifier needs at "
            "least two."
        )
    return documents


def read_folder(folder, suffixes=(".txt", ".md")):
    """Reads every text file below `folder`: one document per file.

    Paragraphs are separated by blank lines; a line break inside of one is a space.
    The label is the first folder below `folder` that the file is in, or "".

    Args:
        folder: path. Hidden files and folders are left out.
        suffixes: tuple of strings. Names of text files end so.

    Returns:
        A list of `Document` ordered by path.

    Raises:
        ValueError: in one sentence, if the folder is missing or holds no text
            file, or if a file is empty or not UTF-8.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; expected a folder of text files.")
    names = [
        path.relative_to(folder)
        for path in folder.rglob("*")
        if path.suffix.lower() in suffixes and path.is_file()
    ]
    names = sorted(
        (name for name in names if not any(p.startswith(".") for p in name.parts)),
        key=lambda name: name.parts,
    )
    if not names:
        raise ValueError(
            f"{folder} holds no text files; expected names that end in "
            f"{' or '.join(suffixes)}."
        )
    documents = []
    for name in names:
        blocks = re.split(r"\n\s*\n", _read_text(folder / name))
        paragraphs = [" ".join(block.split()) for block in blocks]
        paragraphs = [paragraph for paragraph in paragraphs if paragraph]
        if not paragraphs:
            raise ValueError(f"{folder / name} is empty; fill in or remove the file.")
        label = name.parts[0] if len(name.parts) > 1 else ""
        documents.append(Document(label, paragraphs))
    return documents


def _read_text(file):
    if not file.exists():
        raise ValueError(f"{file} does not exist; expected a UTF-8 text file.")
    if not file.is_file():
        raise ValueError(f"{file} is not a file; expected a UTF-8 text file.")
    data = file.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{file}, line {line}: not UTF-8 (byte {data[error.start]:#04x}); save the "
            "file as UTF-8."
        ) from None
    if "\x00" in text:
        line = text.count("\n", 0, text.index("\x00")) + 1
        raise ValueError(
            f"{file}, line {line}: a null character; expected a text file, not a "
            "binary one."
        )
    return text.replace("\r\n", "\n").replace("\r", "\n")
