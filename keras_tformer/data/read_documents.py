"""Documents out of text files of any size, one after the other."""

import json
import os
import pathlib

from keras_tformer.data.documents import Document
from keras_tformer.data.text_lines import bad_line, read_lines

_PLAIN = (".txt", ".md", ".text")
_JSON_LINES = (".jsonl", ".ndjson")
_PACKED = (".gz", ".xz")
# More text than any book has; a file without blank lines must not fill the memory.
_MOST_CHARACTERS = 1 << 24


def read_documents(path, text_field="text", label_field=None, skipped=None):
    """Yields the documents of a file, or of all files below a folder.

    A plain text file holds one paragraph or sentence a line and a blank line between
    documents, as BERT's own preparation has it. A `.jsonl` file holds one document a
    line; the line breaks in its text separate paragraphs. Both may be packed (`.gz`,
    `.xz`). Nothing is kept, and a document of more than 16 million characters comes in
    parts, cut between paragraphs: memory does not grow with the corpus.

    Args:
        path: path of a file, or of a folder whose files are read in the order of
            their paths; hidden ones and those with other suffixes are left out.
        text_field: str. Field of a JSON line that holds the text.
        label_field: str, or None. Field that holds a label. Without one the label is
            the first folder below `path` that a file is in, or "".
        skipped: None, or a `collections.Counter`. With a counter, lines that cannot
            be read are left out and counted there by reason.

    Yields:
        `Document`s, in file order.

    Raises:
        ValueError: naming file and line, if there is nothing to read, a file is
            empty, or a line cannot be read and `skipped` is None.

    Example:
        >>> import pathlib
        >>> _ = pathlib.Path("a.txt").write_text("One.\\nTwo.\\n\\nThree.\\n")
        >>> [document.paragraphs for document in read_documents("a.txt")]
        [['One.', 'Two.'], ['Three.']]
    """
    path = pathlib.Path(path)
    for file in _each_text_file(path):
        folders = file.relative_to(path).parts[:-1] if path.is_dir() else ()
        label = folders[0] if folders else ""
        empty = True
        if _kind(file) in _JSON_LINES:
            documents = _json_documents(file, text_field, label_field, label, skipped)
        else:
            documents = _plain_documents(file, label, skipped)
        for document in documents:
            empty = False
            yield document
        if empty:
            bad_line(
                skipped,
                "empty file",
                f"{file} holds no text; fill in or remove the file.",
            )


def text_files(path):
    """Lists the text files at or below a path, in the order of their paths.

    Args:
        path: path of a file or folder.

    Returns:
        A list of `pathlib.Path`.

    Raises:
        ValueError: if the path does not exist or holds no text file.
    """
    return list(_each_text_file(pathlib.Path(path)))


def _each_text_file(path):
    if path.is_file():
        yield path
        return
    if not path.is_dir():
        raise ValueError(f"{path} does not exist; expected a text file or a folder.")
    empty = True
    for file in _each_file(path):
        if _kind(file) in _PLAIN + _JSON_LINES:
            empty = False
            yield file
    if empty:
        raise ValueError(
            f"{path} holds no text files; expected names that end in "
            f"{', '.join(_PLAIN + _JSON_LINES)}, or these and {' or '.join(_PACKED)}."
        )


def _each_file(folder):
    """Yields the files below a folder, in memory for the names of one folder."""
    for name in sorted(os.listdir(folder)):
        if name.startswith("."):
            continue
        file = folder / name
        if file.is_file():
            yield file
        elif file.is_dir() and not file.is_symlink():
            yield from _each_file(file)


def _kind(file):
    suffix = file.suffix.lower()
    return file.with_suffix("").suffix.lower() if suffix in _PACKED else suffix


def _plain_documents(file, label, skipped):
    paragraphs, length = [], 0
    for _, line in read_lines(file, skipped=skipped):
        line = " ".join(line.split())
        if paragraphs and (not line or length + len(line) > _MOST_CHARACTERS):
            yield Document(label, paragraphs)
            paragraphs, length = [], 0
        if line:
            paragraphs.append(line)
            length += len(line)
    if paragraphs:
        yield Document(label, paragraphs)


def _json_documents(file, text_field, label_field, label, skipped):
    for number, line in read_lines(file, skipped=skipped):
        if not line.strip():
            continue
        fields = parse_json_line(file, number, line, skipped)
        if fields is None:
            continue
        wanted = [text_field] + ([label_field] if label_field is not None else [])
        wrong = [name for name in wanted if name not in fields]
        if wrong or not isinstance(fields[text_field], str):
            bad_line(
                skipped,
                "missing field",
                f"{file}, line {number}: no text in the field "
                f"{(wrong or [text_field])[0]!r}, found {sorted(fields)[:10]}; name "
                "the fields that hold text and label.",
            )
            continue
        lines = (" ".join(part.split()) for part in fields[text_field].split("\n"))
        paragraphs = [part for part in lines if part]
        if paragraphs:
            own = label if label_field is None else str(fields[label_field])
            yield Document(own, paragraphs)


def parse_json_line(file, number, line, skipped):
    """Reads a JSON object out of a line; None where the line was left out."""
    try:
        fields = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        reason = getattr(error, "msg", "nested too deeply")
        bad_line(
            skipped,
            "not JSON",
            f"{file}, line {number}: not JSON ({reason}); expected one object a line.",
        )
        return None
    if not isinstance(fields, dict):
        bad_line(
            skipped,
            "not an object",
            f"{file}, line {number}: a JSON {type(fields).__name__}; expected one "
            "object a line.",
        )
        return None
    return fields
