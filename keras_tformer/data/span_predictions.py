"""From a span classifier's logits back to the text of the answers."""

import collections
from typing import NamedTuple

import numpy as np


class SpanPrediction(NamedTuple):
    """The answer to one question.

    Attributes:
        text: str, the best answer as it stands in the context; "" for no answer.
        n_best: list of `(text, probability)`, best first, with "" for no answer where
            that was asked for.
        null_difference: float. Score of no answer less score of the best answer.
    """

    text: str
    n_best: list
    null_difference: float


def span_predictions(
    start_logits,
    end_logits,
    task,
    n_best_size=20,
    max_answer_length=30,
    allow_no_answer=False,
    null_threshold=0.0,
):
    """Turns the logits of all windows into one answer for each question.

    The score of a span is its start logit plus its end logit. Spans count that lie in
    the context, are not too long, and begin with a piece of which no other window of
    the question shows more surroundings. No answer scores as the span of `[CLS]`, in
    the window where that is lowest. Devlin et al. 2018 (arXiv 1810.04805), sections
    4.2 and 4.3.

    Args:
        start_logits: `(N, T)` array, one row for each window in its order.
        end_logits: `(N, T)` array.
        task: the `SpanTask` that the logits were computed on, not shuffled.
        n_best_size: int. Number of answers to list, and of starts and ends that are
            tried in each window.
        max_answer_length: int. Most pieces of an answer.
        allow_no_answer: bool. Whether a question may stay without an answer (SQuAD
            v2.0).
        null_threshold: float. No answer is given where its score is higher than the
            best answer's by more than this; tune it on a dev set.

    Returns:
        A dict from each question's identifier to its `SpanPrediction`.

    Raises:
        ValueError: if there is not one row of logits for each window.

    Example:
        >>> from keras_tformer.data.question_answering import question_answering_task
        >>> from keras_tformer.data.squad import Question
        >>> from keras_tformer.text import WordPieceTokenizer
        >>> names = "[PAD] [UNK] [CLS] [SEP] [MASK] who ran ann today".split()
        >>> question = Question("q", "Who ran", "Ann  ran today", ["Ann"], [0])
        >>> task = question_answering_task(
        ...     [question], WordPieceTokenizer(names), 8, 1, doc_stride=2
        ... )
        >>> start, end = np.eye(8)[[4]] * 9, np.eye(8)[[5]] * 9
        >>> span_predictions(start, end, task)["q"].text
        'Ann  ran'
    """
    start_logits = np.asarray(start_logits, "float32")
    end_logits = np.asarray(end_logits, "float32")
    windows = task.windows
    num_windows = len(windows.starts)
    for name, logits in (("start_logits", start_logits), ("end_logits", end_logits)):
        if logits.ndim != 2 or len(logits) != num_windows:
            raise ValueError(
                f"{name} has shape {logits.shape}; expected ({num_windows}, T), one "
                "row for each window. Predict on the whole data set, not shuffled and "
                "without drop_remainder."
            )
    rows_of_question = collections.defaultdict(list)
    for row, number in enumerate(windows.question_numbers.tolist()):
        rows_of_question[number].append(row)
    predictions = {}
    for number, question in enumerate(task.questions):
        rows = rows_of_question[number]
        spans = windows.character_spans[number]
        best_window = _best_windows(windows, rows, len(spans))
        null_score = min(float(start_logits[r, 0] + end_logits[r, 0]) for r in rows)
        found = []
        for row in rows:
            first = windows.context_starts[row]
            position = windows.context_positions[row]
            length = windows.context_lengths[row]
            start = start_logits[row, position : position + length]
            end = end_logits[row, position : position + length]
            starts = _largest(start, n_best_size)
            starts = starts[best_window[first + starts] == row]
            ends = _largest(end, n_best_size)
            fits = (ends >= starts[:, None]) & (
                ends < starts[:, None] + max_answer_length
            )
            for i, j in np.argwhere(fits):
                s, e = starts[i], ends[j]
                found.append((float(start[s] + end[e]), first + s, first + e))
        found.sort(key=lambda candidate: (-candidate[0], candidate[1:]))
        scores = {}
        for score, s, e in found:
            text = question.context[spans[s, 0] : spans[e, 1]].strip()
            if text and text not in scores:
                scores[text] = score
            if len(scores) == n_best_size:
                break
        best = next(iter(scores), "")
        difference = null_score - scores.get(best, -np.inf)
        if allow_no_answer or not scores:
            scores[""] = null_score
        ranked = sorted(scores.items(), key=lambda item: -item[1])
        weights = np.exp(np.array([score for _, score in ranked]) - ranked[0][1])
        shares = (weights / weights.sum()).tolist()
        if allow_no_answer and difference > null_threshold:
            best = ""
        n_best = [(text, p) for (text, _), p in zip(ranked, shares, strict=True)]
        predictions[question.identifier] = SpanPrediction(best, n_best, difference)
    return predictions


def _largest(values, count):
    """Positions of the largest values, largest first."""
    return np.argsort(-values, kind="stable")[:count]


def _best_windows(windows, rows, num_pieces):
    """Tells for each piece of a context which window shows most around it."""
    best_row = np.full(num_pieces, rows[0])
    best_score = np.full(num_pieces, -1.0)
    for row in rows:
        length = int(windows.context_lengths[row])
        first = int(windows.context_starts[row])
        place = np.arange(length)
        score = np.minimum(place, length - 1 - place) + 0.01 * length
        here = slice(first, first + length)
        better = score > best_score[here]
        best_row[here][better] = row
        best_score[here][better] = score[better]
    return best_row
