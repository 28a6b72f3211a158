"""The examples in the docstrings run and print what they say."""

import doctest
import importlib
import pkgutil

import keras
import numpy as np
import pytest

import keras_tformer as kt

MODULES = [
    f"{room.__name__}.{module.name}"
    for room in (kt.training, kt.distribute)
    for module in pkgutil.iter_modules(room.__path__)
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    # By name: a function of the same name may hide the module in its room.
    module = importlib.import_module(name)
    names = {**vars(module), "keras": keras, "np": np, "kt": kt}
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    result = doctest.testmod(module, extraglobs=names, optionflags=flags)
    assert result.failed == 0
