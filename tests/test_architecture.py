"""Holds the arrows of the README: who may import whom, and when."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "keras_tformer"
MAY_IMPORT = {
    "layers": set(),
    "models": {"layers"},
    "checkpoints": {"models"},
    "text": set(),
    "data": {"text"},
    "training": set(),
    "distribute": set(),
    "compress": {"layers"},
    "export": {"models", "text"},
}
ALWAYS_THERE = {"keras", "numpy"}
FILES = sorted(PACKAGE.rglob("*.py"))
IDS = [str(file.relative_to(PACKAGE)) for file in FILES]


def outside_functions(node):
    """Yields the nodes that run when the module is imported."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from outside_functions(child)


def imported(nodes, file):
    """Yields the full dotted name of every module that the import statements name."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = ["keras_tformer", *file.relative_to(PACKAGE).parts[:-1]]
            parts = parts[: len(parts) - node.level + 1] if node.level else []
            module = ".".join([*parts, *filter(None, [node.module])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("file", FILES, ids=IDS)
def test_imports_only_the_rooms_that_it_may(file):
    room = file.relative_to(PACKAGE).parts[0]
    if room == "__init__.py":
        return
    for name in imported(ast.walk(ast.parse(file.read_text("utf-8"))), file):
        assert name != "keras_tformer" or file.name == "__init__.py", (
            f"{file}: import the room that is meant, not the whole package"
        )
        parts = name.split(".")
        if parts[0] == "keras_tformer" and len(parts) > 1 and parts[1] in MAY_IMPORT:
            allowed = MAY_IMPORT[room] | {room}
            assert parts[1] in allowed, f"{file}: {room} may not import {name}"


@pytest.mark.parametrize("file", FILES, ids=IDS)
def test_imports_nothing_heavy_until_it_is_used(file):
    import sys

    light = ALWAYS_THERE | {"keras_tformer"} | sys.stdlib_module_names
    for name in imported(outside_functions(ast.parse(file.read_text("utf-8"))), file):
        assert name.split(".")[0] in light, f"{file}: import {name} where it is used"


@pytest.mark.parametrize("file", FILES, ids=IDS)
def test_never_touches_the_keras_inside_tensorflow(file):
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Attribute) and node.attr == "keras":
            assert not (isinstance(node.value, ast.Name) and node.value.id == "tf")


def test_every_room_has_a_rule():
    rooms = {folder.parent.name for folder in PACKAGE.glob("*/__init__.py")}
    assert rooms <= set(MAY_IMPORT)
