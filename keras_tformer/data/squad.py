"""Questions on texts, in the JSON layout of SQuAD."""

import collections
import json
import pathlib
from typing import NamedTuple

from keras_tformer.data.text_lines import OPENERS, bad_line


class Question(NamedTuple):
    """A question on a text, and where its answers stand.

    Attributes:
        identifier: str.
        question: str.
        context: str. The text that holds the answer, if there is one.
        answers: list of strings, empty where the question has no answer.
        answer_starts: list of ints, the character of `context` that each begins at.
    """

    identifier: str
    question: str
    context: str
    answers: list
    answer_starts: list


def read_squad(file, skipped=None):
    """Reads a file in the JSON layout of SQuAD v1.1 or v2.0.

    Rajpurkar et al. 2016 (arXiv 1606.05250); 2018 (arXiv 1806.03822), whose questions
    marked `is_impossible` have no answer.

    Args:
        file: path of a UTF-8 file, plain or packed (`.gz`, `.xz`).
        skipped: None, or a `collections.Counter`. With a counter, questions with an
            answer that does not stand where it should, and those that lack a field,
            are left out and counted there by reason.

    Returns:
        A list of `Question`. Questions on one paragraph share one context string.

    Raises:
        ValueError: naming the file and the line or the question, if the file is
            missing, damaged or not in this layout, or for the first wrong question
            when `skipped` is None.
    """
    file = pathlib.Path(file)
    if not file.is_file():
        raise ValueError(f"{file} does not exist; expected a JSON file of SQuAD.")
    try:
        with OPENERS.get(file.suffix.lower(), open)(file, "rb") as stream:
            articles = json.loads(stream.read().decode("utf-8-sig"))["data"]
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{file}, line {error.lineno}: not JSON ({error.msg}); fetch it again."
        ) from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{file}, line {line}: not UTF-8 (byte {error.object[error.start]:#04x}); "
            "fetch the file again."
        ) from None
    except (KeyError, TypeError):
        raise ValueError(
            f'{file}: no list "data" at the top; expected the layout of SQuAD.'
        ) from None
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(
            f"{file}: the compressed file is damaged ({error}); fetch it again."
        ) from None
    except Exception as error:  # lzma.LZMAError has no base class of its own
        raise ValueError(f"{file}: cannot be read ({error}).") from None
    questions = []
    for context, fields, place in _questions(file, articles, skipped):
        question = _question(file, context, fields, place, skipped)
        if question is not None:
            questions.append(question)
    if not questions:
        raise ValueError(f"{file} holds no readable question; expected at least one.")
    repeated = collections.Counter(question.identifier for question in questions)
    twice = next((name for name, count in repeated.items() if count > 1), None)
    if twice is not None:
        raise ValueError(
            f"{file}: the id {twice!r} stands at more than one question; predictions "
            "are told apart by it, so give every question its own."
        )
    return questions


def _questions(file, articles, skipped):
    for article_number, article in enumerate(articles):
        try:
            paragraphs = article["paragraphs"]
        except (KeyError, TypeError):
            bad_line(
                skipped,
                "missing field",
                f'{file}, article {article_number}: no field "paragraphs"; expected '
                "the layout of SQuAD.",
            )
            continue
        for paragraph_number, paragraph in enumerate(paragraphs):
            place = f"article {article_number}, paragraph {paragraph_number}"
            try:
                context, found = paragraph["context"], paragraph["qas"]
            except (KeyError, TypeError):
                bad_line(
                    skipped,
                    "missing field",
                    f'{file}, {place}: no field "context" or "qas"; expected the '
                    "layout of SQuAD.",
                )
                continue
            for fields in found:
                yield context, fields, place


def _question(file, context, fields, place, skipped):
    try:
        identifier, question = str(fields["id"]), fields["question"].strip()
        answers = [] if fields.get("is_impossible") else fields["answers"]
        texts = [answer["text"] for answer in answers]
        starts = [answer["answer_start"] for answer in answers]
    except (KeyError, TypeError, AttributeError):
        bad_line(
            skipped,
            "missing field",
            f'{file}, {place}: a question lacks "id", "question" or "answers"; expected'
            " the layout of SQuAD.",
        )
        return None
    for text, start in zip(texts, starts, strict=True):
        # No negative index: it would count from the end.
        if start < 0 or not text or context[start : start + len(text)] != text:
            there = context[max(start, 0) : max(start, 0) + len(text)]
            bad_line(
                skipped,
                "answer not at its offset",
                f"{file}, question {identifier!r}: the answer {text[:40]!r} is said to "
                f"begin at character {start}, where {there[:40]!r} stands; correct "
                "answer_start.",
            )
            return None
    return Question(identifier, question, context, texts, starts)
