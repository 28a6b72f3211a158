"""English prose that every installation has: what the installed packages say."""

import ast
import importlib.util
import inspect
import os
import pathlib
import re
import sysconfig
import zlib

from keras_tformer.data.documents import Document

LABELS = ("keras", "language", "numpy", "python", "tensorflow")

# Tests, generated re-exports, copies of other packages.
_LEFT_OUT = {
    "__pycache__",
    "_api",
    "_tf_keras",
    "compat",
    "dist-packages",
    "idlelib",
    "lib2to3",
    "pydoc_data",
    "site-packages",
    "test",
    "testing",
    "tests",
    "turtledemo",
}
_LEFT_OUT_OF = {"tensorflow": {"include", "keras", "lite", "tools"}}
# Sections of a docstring that list names and types instead of telling something.
_TABLES = {
    "args",
    "arguments",
    "attributes",
    "call arguments",
    "input shape",
    "keyword arguments",
    "keyword args",
    "methods",
    "other parameters",
    "output shape",
    "parameters",
    "raises",
    "receives",
    "reference",
    "references",
    "returns",
    "see also",
    "warns",
    "yields",
}
# Sentences that were copied to hundreds of places.
_BOILERPLATE = re.compile(
    r"deprecat|versionadded|versionchanged|new in version|changed in version"
    r"|copyright|licen[sc]e|all rights reserved|migrate to tf2|compat\.v1"
    r"|this function is disabled|will be removed in|http",
    re.IGNORECASE,
)
_COMMON_WORDS = set(
    "a an and are as be by can for from if in is it not of on or that the this to "
    "when which with".split()
)


def embedded_corpus(labels=LABELS, max_documents_per_label=300):
    """Reads the prose in the docstrings of installed packages.

    Real text that is there without a download: the docstrings of Keras, NumPy,
    TensorFlow and Python's standard library, and the pages of Python's language
    reference in `pydoc_data.topics`. Source files are parsed, not imported. A
    document is a module or a page; its label is the package that it documents.
    Code, tables of parameters, deprecation notices and markup are left out, and
    paragraphs shorter than 8 words. Paragraphs may still occur twice:
    see `deduplicate`.

    Args:
        labels: names of the packages: any of `"keras"`, `"language"`, `"numpy"`,
            `"python"`, `"tensorflow"`, or of another installed package.
        max_documents_per_label: int, or None for all. Keep at most so many documents
            of a label: the same ones each time, spread over the package.

    Returns:
        A list of `Document`, ordered by label, then by path. Other versions of
        the packages give slightly other text.

    Raises:
        ValueError: if a package is not installed.
    """
    documents = []
    for label in labels:
        if label == "language":
            pages = _language_pages()
        else:
            pages = _module_texts(label)
        # A checksum of the name is an order that is arbitrary but always the same.
        pages.sort(key=lambda page: zlib.crc32(page[0].encode()))
        found = {}
        for name, read in pages:
            if len(found) == max_documents_per_label:
                break
            paragraphs = [p for text in read() for p in _prose(text)]
            if paragraphs:
                found[name] = Document(label, paragraphs)
        documents += [found[name] for name in sorted(found)]
    return documents


def _language_pages():
    from pydoc_data.topics import topics

    return [(name, lambda name=name: [topics[name]]) for name in topics]


def _module_texts(label):
    """Pairs of a module's relative path and a function that reads its docstrings."""
    if label == "python":
        root = pathlib.Path(sysconfig.get_paths()["stdlib"])
    else:
        spec = importlib.util.find_spec(label)
        if spec is None or not spec.submodule_search_locations:
            raise ValueError(
                f"There is no installed package {label!r} to read; expected names "
                f"such as {', '.join(LABELS)}. Install it or leave it out."
            )
        root = pathlib.Path(spec.submodule_search_locations[0])
    left_out = _LEFT_OUT | _LEFT_OUT_OF.get(label, set())
    pages = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in left_out]
        for name in names:
            if not name.endswith(".py") or name.endswith(("_test.py", "_pb2.py")):
                continue
            if name.startswith(("test_", "gen_")):
                continue
            path = pathlib.Path(folder, name)
            pages.append(
                (
                    path.relative_to(root).as_posix(),
                    lambda path=path: _docstrings(path),
                )
            )
    return pages


def _docstrings(path):
    """The docstrings of a source file in their order."""
    source = path.read_bytes()
    if b'"""' not in source:
        return []
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return []
    found = []
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    waiting = [tree]
    while waiting:  # statements only: docstrings never hide in an expression
        node = waiting.pop()
        if isinstance(node, documented):
            text = ast.get_docstring(node, clean=False)
            if text:
                found.append((node.body[0].lineno, text))
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            found += _added_docstrings(node.value)
        for field in ("body", "orelse", "handlers", "finalbody"):
            waiting += getattr(node, field, [])
    return [inspect.cleandoc(text) for _, text in sorted(found)]


def _added_docstrings(call):
    """NumPy documents what is written in C by `add_newdoc(place, name, text)`."""
    if not getattr(call.func, "id", "").startswith("add_newdoc"):
        return []
    return [
        (constant.lineno, constant.value)
        for argument in call.args
        for constant in (argument.elts if hasattr(argument, "elts") else [argument])
        if isinstance(constant, ast.Constant) and "\n" in str(constant.value)
    ]


def _prose(text):
    """Paragraphs of prose in one docstring or page, each on one line."""
    text = text.translate(str.maketrans("\u2018\u2019\u201c\u201d", "''\"\""))
    text = re.sub(r"^ *(```|~~~).*?(^ *\1|\Z)", "", text, flags=re.S | re.M)
    lines = _without_tables(text.expandtabs().split("\n"))
    found = []
    for block in re.split(r"\n\s*\n", "\n".join(lines)):
        for paragraph in _paragraphs(block):
            paragraph = _without_markup(paragraph)
            if _is_prose(paragraph):
                found.append(paragraph)
    return found


_UNDERLINE = re.compile(r"([-=~*#^])\1{2,}")
_HEADING = re.compile(r"[A-Za-z ]+:")
_BULLET = re.compile(r"([-*+\u2022]|\d+[.)])\s+")


def _without_tables(lines):
    """Leaves out headings, and the sections that are tables."""
    kept = []
    table = None  # None, or the indentation of the table's heading
    underlined = False  # NumPy's headings are underlined, Google's end in a colon
    for number, line in enumerate(lines):
        stripped = line.strip()
        indent = len(line) - len(line.lstrip())
        below = lines[number + 1].strip() if number + 1 < len(lines) else ""
        if stripped and _UNDERLINE.fullmatch(below):
            table = indent if stripped.lower() in _TABLES else None
            underlined = True
            continue
        if _UNDERLINE.fullmatch(stripped):
            continue
        if _HEADING.fullmatch(stripped) and stripped[:-1].lower() in _TABLES:
            table, underlined = indent, False
            continue
        if stripped and table is not None and not underlined and indent <= table:
            table = None
        kept.append("" if table is not None else line)
    return kept


def _paragraphs(block):
    """Cuts a block at bullets, and ends it where something is typed in."""
    paragraphs, bullet = [], None
    for line in block.split("\n"):
        stripped = line.strip()
        indent = len(line) - len(line.lstrip())
        if stripped.startswith((">>>", "$ ", "..", "|")):
            break
        item = _BULLET.match(stripped)
        if item:
            bullet = indent
            paragraphs.append(stripped[item.end() :])
        elif paragraphs and (bullet is None or indent > bullet):
            paragraphs[-1] += " " + stripped
        elif stripped:
            bullet = None
            paragraphs.append(stripped)
    return paragraphs


def _without_markup(text):
    text = re.sub(r":[a-z:]+:`[~!]?([^`<]*?)(?:\s*<[^>]*>)?`", r"\1", text)
    text = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", text)  # Markdown links
    text = re.sub(r"`+", "", text)
    text = re.sub(r"\*\*([^*]+)\*\*", r"\1", text)
    text = re.sub(r"(?<![\w*])\*(\w[^*]*)\*(?![\w*])", r"\1", text)
    text = re.sub(r"\s*\[\d+\]_?", "", text)  # citations
    text = text.replace("::", ":")
    return " ".join(text.split())


def _is_prose(text):
    words = re.findall(r"[A-Za-z']+", text)
    if len(words) < 8 or _BOILERPLATE.search(text):
        return False
    if not re.match(r"[\"'(]?[A-Z]", text) or not re.search(r"[.!?:;)\"']$", text):
        return False
    if len(set(words) & _COMMON_WORDS) < 2:
        return False
    signs = len(re.findall(r"[^A-Za-z ,.']", text))
    return signs <= 0.1 * len(text)
