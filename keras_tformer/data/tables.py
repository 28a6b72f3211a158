"""Labelled texts and pairs of texts out of tables: CSV, TSV, JSON lines, GLUE."""

import collections
import csv
import math
import pathlib
from typing import NamedTuple

from keras_tformer.data.read_documents import parse_json_line
from keras_tformer.data.text_lines import OPENERS, bad_line, read_lines

# Columns of the GLUE tasks (Wang et al. 2019, table 1) in the files that are handed
# round: text, second text, label. CoLA's own files have no header.
GLUE_COLUMNS = {
    "cola": ("sentence", None, "label"),
    "sst2": ("sentence", None, "label"),
    "mrpc": ("sentence1", "sentence2", "label"),
    "qqp": ("question1", "question2", "is_duplicate"),
    "stsb": ("sentence1", "sentence2", "score"),
    "mnli": ("sentence1", "sentence2", "gold_label"),
    "qnli": ("question", "sentence", "label"),
    "rte": ("sentence1", "sentence2", "label"),
    "wnli": ("sentence1", "sentence2", "label"),
}
# Other names of these columns: in MRPC's own files, and on the Hugging Face hub.
_OTHER_NAMES = {
    "label": ("Quality",),
    "sentence1": ("#1 String", "premise"),
    "sentence2": ("#2 String", "hypothesis"),
    "is_duplicate": ("label",),
    "gold_label": ("label",),
    "score": ("label",),
}
_COLA_HEADER = ["source", "label", "mark", "sentence"]


class Examples(NamedTuple):
    """Labelled texts, as they stood in a file.

    Attributes:
        texts: list of strings.
        second_texts: list of strings, or None where the texts are no pairs.
        labels: list of class names, or of floats for regression.
        class_names: list of strings, sorted, empty for regression.
        class_counts: list of ints, how many examples each class has.
        skipped: dict of ints by reason, rows that were left out.
    """

    texts: list
    second_texts: list | None
    labels: list
    class_names: list
    class_counts: list
    skipped: dict


def read_examples(
    file,
    text_column="text",
    second_text_column=None,
    label_column="label",
    glue_task=None,
    regression=False,
    skip_bad_rows=False,
):
    r"""Reads labelled texts, or pairs of texts, from a table.

    The name tells the kind: `.jsonl` is JSON lines, `.tsv` is cut at tabs and its
    quotation marks are text, anything else is comma-separated with fields that may
    stand in double quotes and hold line breaks. All may be packed (`.gz`, `.xz`).

    Args:
        file: path of a UTF-8 file. Tables begin with a header.
        text_column: str. Column or field of the text.
        second_text_column: str, or None. Column of the second text of a pair.
        label_column: str. Column of the class, or of the number for regression.
        glue_task: str, or None. A key of `GLUE_COLUMNS`, which then names the columns;
            `"stsb"` is regression. CoLA and MRPC are read in their own layout too, all
            with the names of the Hugging Face hub (`premise`, `label`). Unless a name
            ends in `.tsv`, the first line says whether tabs or commas separate.
        regression: bool. Labels are numbers, not classes.
        skip_bad_rows: bool. Leave out rows that cannot be read, and count them.

    Returns:
        `Examples`, in file order.

    Raises:
        ValueError: naming file and line, if the file is missing, empty or lacks a
            column, or for the first row that cannot be read without
            `skip_bad_rows`.

    Example:
        >>> import pathlib
        >>> _ = pathlib.Path("a.csv").write_text('text,label\n"A, b",x\nC,y\n')
        >>> examples = read_examples("a.csv")
        >>> examples.texts, examples.class_names, examples.class_counts
        (['A, b', 'C'], ['x', 'y'], [1, 1])
    """
    file = pathlib.Path(file)
    if glue_task is not None:
        if glue_task not in GLUE_COLUMNS:
            raise ValueError(
                f"glue_task is {glue_task!r}; expected one of "
                f"{', '.join(GLUE_COLUMNS)}, or None and the names of the columns."
            )
        text_column, second_text_column, label_column = GLUE_COLUMNS[glue_task]
        regression = regression or glue_task == "stsb"
    skipped = collections.Counter() if skip_bad_rows else None
    columns = [text_column, label_column]
    if second_text_column is not None:
        columns.insert(1, second_text_column)
    suffix = file.suffix.lower()
    if suffix in OPENERS:
        suffix = file.with_suffix("").suffix.lower()
    if suffix in (".jsonl", ".ndjson"):
        rows = _json_rows(file, columns, glue_task, skipped)
    elif suffix in (".tsv", ".tab") or (glue_task is not None and _has_tabs(file)):
        rows = _tab_rows(file, columns, glue_task, skipped)
    else:
        rows = _comma_rows(file, columns, glue_task, skipped)
    texts, second_texts, labels = [], [], []
    for number, row in rows:
        *row, label = (str(value).strip() for value in row)
        if not all(row) or not label:
            bad_line(
                skipped,
                "empty field",
                f"{file}, line {number}: the {'label' if all(row) else 'text'} is "
                "empty; fill in or remove the row.",
            )
            continue
        if regression:
            label = _number(file, number, label, skipped)
            if label is None:
                continue
        texts.append(row[0])
        second_texts.append(row[-1])
        labels.append(label)
    if not texts:
        raise ValueError(
            f"{file} holds no readable row; expected a header and at least one row."
        )
    counts = {} if regression else collections.Counter(labels)
    return Examples(
        texts,
        None if second_text_column is None else second_texts,
        labels,
        sorted(counts),
        [counts[name] for name in sorted(counts)],
        dict(skipped or {}),
    )


def _number(file, number, label, skipped):
    try:
        value = float(label)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        bad_line(
            skipped,
            "label is no number",
            f"{file}, line {number}: the label {label[:40]!r} is no finite number; "
            "correct it, or read the labels as classes.",
        )
        return None
    return value


def _has_tabs(file):
    """Whether the first line that is not blank holds a tab."""
    seen = collections.Counter()  # bad lines are told when the table is read
    lines = (line for _, line in read_lines(file, skipped=seen) if line.strip())
    return "\t" in next(lines, "")


def _names_in(found, columns, glue_task):
    """The columns under the names that a file of a GLUE task has for them."""
    if glue_task is None:
        return columns
    return [
        next((n for n in (name, *_OTHER_NAMES.get(name, ())) if n in found), name)
        for name in columns
    ]


# === The three kinds of files: pairs of a line number and the wanted fields ===


def _json_rows(file, columns, glue_task, skipped):
    for number, line in read_lines(file, skipped=skipped):
        fields = parse_json_line(file, number, line, skipped) if line.strip() else None
        if fields is None:
            continue
        names = _names_in(fields, columns, glue_task)
        missing = [name for name in names if fields.get(name) is None]
        if missing:
            bad_line(
                skipped,
                "missing field",
                f"{file}, line {number}: no field {missing[0]!r}, found "
                f"{sorted(fields)[:10]}; name the right one.",
            )
            continue
        yield number, [fields[name] for name in names]


def _tab_rows(file, columns, glue_task, skipped):
    header = None
    for number, line in read_lines(file, skipped=skipped):
        if not line.strip():
            continue
        fields = line.split("\t")
        if header is None:
            header = [name.strip() for name in fields]
            columns = _names_in(header, columns, glue_task)
            if glue_task == "cola" and "sentence" not in header and len(fields) == 4:
                header = _COLA_HEADER
            else:
                _check_header(file, number, header, columns)
                continue
        if _right_length(file, number, fields, header, skipped):
            yield number, [fields[header.index(name)] for name in columns]


def _comma_rows(file, columns, glue_task, skipped):
    lines = (line + "\n" for _, line in read_lines(file, skipped=skipped))
    # Long texts may pass the default limit of 131072 characters a field.
    previous_limit = csv.field_size_limit(1 << 30)
    try:
        reader = csv.reader(lines, strict=True)
        header = None
        while True:
            number = reader.line_num + 1  # where the row begins
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                bad_line(
                    skipped,
                    "not CSV",
                    f"{file}, line {number}: not a readable row ({error}); close every "
                    'quotation mark and double those inside a field ("").',
                )
                continue
            if not fields:
                continue
            if header is None:
                header = [name.strip() for name in fields]
                columns = _names_in(header, columns, glue_task)
                _check_header(file, number, header, columns)
            elif _right_length(file, number, fields, header, skipped):
                yield number, [fields[header.index(name)] for name in columns]
    finally:
        csv.field_size_limit(previous_limit)


def _check_header(file, number, header, columns):
    missing = [name for name in columns if name not in header]
    if missing:
        found = ", ".join(repr(name[:40]) for name in header[:10])
        raise ValueError(
            f"{file}, line {number}: no column {missing[0]!r}, found {found}; rename "
            "the column or name the right one."
        )


def _right_length(file, number, fields, header, skipped):
    if len(fields) == len(header):
        return True
    bad_line(
        skipped,
        "wrong number of fields",
        f"{file}, line {number}: {len(fields)} fields where the header has "
        f"{len(header)}; quote fields that hold the separator.",
    )
    return False
