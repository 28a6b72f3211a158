"""Prose out of the docstrings of whatever is installed."""

import collections
import re
import sys

import pytest

from keras_tformer.data import embedded_corpus, texts_and_labels

pytest.importorskip("pydoc_data.topics", reason="this Python has no documentation")


@pytest.fixture(scope="module")
def documents():
    return embedded_corpus(max_documents_per_label=23)


def test_labels_and_sizes(documents):
    labels = [document.label for document in documents]
    assert labels == sorted(labels)
    assert collections.Counter(labels) == dict.fromkeys(
        ["keras", "language", "numpy", "python", "tensorflow"], 23
    )
    assert all(document.paragraphs for document in documents)


def test_it_is_prose(documents):
    texts, _ = texts_and_labels(documents)
    assert len(texts) > 997
    for text in texts:
        assert len(re.findall(r"[A-Za-z']+", text)) >= 8
        assert text == " ".join(text.split())
        assert not re.search(
            r">>>|```|``|:(class|func|meth):|----|\bdeprecated\b", text
        )


def test_always_the_same(documents):
    assert embedded_corpus(max_documents_per_label=23) == documents


def test_more_documents_hold_the_fewer(documents):
    more = embedded_corpus(labels=["numpy"], max_documents_per_label=29)
    fewer = [document for document in documents if document.label == "numpy"]
    assert len(more) == 29
    assert all(document in more for document in fewer)


def test_nothing_is_imported():
    before = set(sys.modules)
    embedded_corpus(labels=["python"], max_documents_per_label=7)
    assert set(sys.modules) - before <= {"pydoc_data", "pydoc_data.topics"}


def test_a_module_worked_out_by_hand(tmp_path, monkeypatch):
    package = tmp_path / "little_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (
        package / "module.py"
    ).write_text('''"""This is the first line of a module that does nothing.

Too short.
"""

def function(x):
    """Takes the value of `x` and gives it back as it was before.

    Args:
        x: The value that is taken in and given back, of any type at all.

    Returns:
        The value that was taken in, without a change of any kind.

    >>> function(3)
    3

    A list of the things that you might want to know:

    * It does not look at the value, so that it is fast in all cases.
    * Short.

    .. deprecated:: 3.0
    """

class Thing:
    """It is the thing that holds :class:`others` in the order of their age.

    Parameters
    ----------
    x : int
        The number of things that are held by this thing at a time.

    Notes
    -----
    The order is kept when one of the others is taken out [1]_.
    """
''')
    monkeypatch.syspath_prepend(tmp_path)
    (document,) = embedded_corpus(labels=["little_package"])
    assert document == (
        "little_package",
        [
            "This is the first line of a module that does nothing.",
            "Takes the value of x and gives it back as it was before.",
            "A list of the things that you might want to know:",
            "It does not look at the value, so that it is fast in all cases.",
            "It is the thing that holds others in the order of their age.",
            "The order is kept when one of the others is taken out.",
        ],
    )


def test_package_that_is_not_there():
    with pytest.raises(ValueError, match="no installed package 'no_such_package'"):
        embedded_corpus(labels=["no_such_package"])
