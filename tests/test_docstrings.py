"""Every Example in the package's docstrings runs and prints what it says."""

import ast
import doctest
import importlib
import pathlib

import keras
import numpy as np
import pytest

import keras_tformer as kt

PACKAGE = pathlib.Path(kt.__file__).parent
FILES = sorted(x for x in PACKAGE.rglob("*.py") if ">>>" in x.read_text("utf-8"))
IDS = [str(file.relative_to(PACKAGE)) for file in FILES]
# What runs on every backend; the other rooms are TensorFlow's.
EVERYWHERE = {"layers", "models"}


@pytest.mark.parametrize("file", FILES, ids=IDS)
def test_examples_run(file, tmp_path, monkeypatch):
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    if keras.backend.backend() != "tensorflow" and parts[1] not in EVERYWHERE:
        pytest.skip("an example of the TensorFlow backend")
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(".".join(parts).removesuffix(".__init__"))
    given = {**vars(module), "keras": keras, "kt": kt, "np": np}
    runner = doctest.DocTestRunner(
        optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    )
    count, report = 0, []
    for test in doctest.DocTestFinder().find(module, extraglobs=given):
        # Automatic names count from the start again.
        keras.utils.clear_session(free_memory=False)
        keras.utils.set_random_seed(20)
        runner.run(test, out=report.append)
        count += len(test.examples)
    assert not runner.failures, "".join(report)
    written = file.read_text("utf-8").count(">>> ")
    assert count == written, f"{written - count} examples are out of doctest's reach"


@pytest.mark.parametrize("room", [kt.layers, kt.models], ids=["layers", "models"])
def test_every_public_name_shows_an_example(room):
    for name in room.__all__:
        thing = getattr(room, name)
        if callable(thing):
            assert "Example:" in (thing.__doc__ or ""), name


@pytest.mark.parametrize("room", sorted(EVERYWHERE))
def test_docstrings_keep_their_order(room):
    sections = ["Args:", "Call arguments:", "Returns:", "Raises:", "Example:"]
    for file in (PACKAGE / room).glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                lines = [x.strip() for x in (ast.get_docstring(node) or "").split("\n")]
                found = [x for x in lines if x in sections]
                assert found == [x for x in sections if x in found], node.name
