"""The official measures of SQuAD: exact match and F1 of answers."""

import collections
import re
import string

VERSIONS = ("1.1", "2.0")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text):
    """Lower-cases, drops ASCII punctuation, then a, an and the, and extra white space.

    Args:
        text: str.

    Returns:
        str. Answers that only differ in what this takes off are equal.

    Example:
        >>> normalize_answer(" The  U.S.  Army's")
        'us armys'
    """
    text = text.lower().translate(_WITHOUT_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", text).split())


def answer_scores(prediction, answers, version="2.0"):
    """Scores one answer against those that were given, the best one counting.

    Exact match is 1 where the normalized texts are equal. F1 is `2 P R / (P + R)`, P
    the share of the prediction's words that stand in the answer too, each as often as
    it does, R that of the answer's words in the prediction.

    Args:
        prediction: str; "" is no answer.
        answers: list of strings; empty where there is no answer.
        version: `"1.1"` or `"2.0"`. In 2.0 an answer of which nothing is left by
            `normalize_answer` is no answer, and no answer has F1 1 against itself.

    Returns:
        A pair of floats in [0, 1], exact match and F1.

    Example:
        >>> answer_scores("the old house", ["house", "a very old house"])
        (0.0, 0.8)
    """
    if version == "2.0":
        answers = [answer for answer in answers if normalize_answer(answer)] or [""]
    exact = f1 = 0.0
    predicted = normalize_answer(prediction)
    words = predicted.split()
    for answer in map(normalize_answer, answers):
        exact = max(exact, float(predicted == answer))
        there = answer.split()
        common = collections.Counter(words) & collections.Counter(there)
        hits = sum(common.values())
        if hits:
            precision, recall = hits / len(words), hits / len(there)
            f1 = max(f1, 2 * precision * recall / (precision + recall))
        elif version == "2.0" and not words and not there:
            f1 = 1.0
    return exact, f1


def squad_scores(predictions, answers, version="2.0"):
    """Scores predicted answers as SQuAD's `evaluate-v1.1` and `evaluate-v2.0` do.

    The means over all questions of `answer_scores`, times 100. Rajpurkar et al. 2016
    (arXiv 1606.05250), section 6.1; 2018 (arXiv 1806.03822).

    Args:
        predictions: dict from a question's identifier to the predicted text, "" for no
            answer.
        answers: dict from every question's identifier to a list of right answers,
            empty where the question has none.
        version: `"1.1"` or `"2.0"`. In 2.0 the means over the questions that have an
            answer, and over those that have none, are added where there are both kinds.

    Returns:
        A dict of floats from 0 to 100: `"exact_match"`, `"f1"` and, in 2.0,
        `"has_answer_exact_match"`, `"has_answer_f1"` and `"no_answer_exact_match"` (its
        F1 is the same). Hand a function that returns it to `EpochScores`.

    Raises:
        ValueError: if the version is unknown, there is no question, a prediction is
            missing, or in 1.1 a question has no answer.

    Example:
        >>> predictions = {"q1": "The house.", "q2": "Ann", "q3": ""}
        >>> answers = {"q1": ["house"], "q2": ["Ann Lee"], "q3": []}
        >>> scores = squad_scores(predictions, answers)
        >>> {name: round(score, 1) for name, score in scores.items()}
        {'exact_match': 66.7, 'f1': 88.9, 'has_answer_exact_match': 50.0, \
'has_answer_f1': 83.3, 'no_answer_exact_match': 100.0}
    """
    scores = _scores_by_question(predictions, answers, version)
    rows = {"": list(scores.values())}
    if version == "2.0":
        answered = [scores[name] for name in answers if answers[name]]
        unanswered = [scores[name] for name in answers if not answers[name]]
        if answered and unanswered:
            rows |= {"has_answer_": answered, "no_answer_": unanswered}
    result = {}
    for prefix, pairs in rows.items():
        exact, f1 = (
            100 * sum(column) / len(pairs) for column in zip(*pairs, strict=True)
        )
        result[f"{prefix}exact_match"] = exact
        if prefix != "no_answer_":
            result[f"{prefix}f1"] = f1
    return result


def best_null_threshold(predictions, null_differences, answers):
    """Finds from which score on no answer should be given, as `evaluate-v2.0` does.

    Tries every question's own difference, the smallest first, and takes the one with
    the highest mean F1; one below them all where no answers at all score best. Choose
    it on other questions than those that are reported, or it flatters.

    Args:
        predictions: dict from a question's identifier to the best text that is not "".
        null_differences: dict from the identifier to the score of no answer less that
            of the best text.
        answers: dict from the identifier to the list of right answers.

    Returns:
        A pair: the threshold, above which a question stays without an answer, and the
        mean F1 from 0 to 100 that it has here.

    Raises:
        ValueError: as `squad_scores`.

    Example:
        >>> predictions = {"q1": "Ann", "q2": "Bo", "q3": "Cy"}
        >>> differences = {"q1": -2.0, "q2": 1.5, "q3": 0.5}
        >>> answers = {"q1": ["Ann"], "q2": [], "q3": ["Cy"]}
        >>> best_null_threshold(predictions, differences, answers)
        (0.5, 100.0)
    """
    scores = _scores_by_question(predictions, answers, "2.0")
    score = sum(not texts for texts in answers.values())
    # Below every difference: no question is answered.
    best, threshold = score, min(null_differences[name] for name in answers) - 1.0
    ranked = sorted(answers, key=lambda name: null_differences[name])
    for place, name in enumerate(ranked):
        if answers[name]:
            score += scores[name][1]
        elif predictions[name]:
            score -= 1
        following = ranked[place + 1 : place + 2]
        tied = any(null_differences[n] == null_differences[name] for n in following)
        if score > best and not tied:
            best, threshold = score, null_differences[name]
    return float(threshold), 100 * best / len(answers)


def _scores_by_question(predictions, answers, version):
    if version not in VERSIONS:
        raise ValueError(
            f"Received version={version!r}. Expected one of {', '.join(VERSIONS)}. Use "
            '"2.0" where questions may have no answer.'
        )
    missing = [name for name in answers if name not in predictions]
    if missing or not answers:
        raise ValueError(
            f"Received {len(predictions)} predictions and {len(answers)} questions, of "
            f"which {len(missing)} have no prediction. Expected a prediction for every "
            'question, one or more. Predict "" for no answer.'
        )
    if version == "1.1":
        empty = next((name for name, texts in answers.items() if not texts), None)
        if empty is not None:
            raise ValueError(
                f"The question {empty!r} has no answer. Expected one or more in "
                'version 1.1. Use version="2.0".'
            )
    return {
        name: answer_scores(predictions[name], answers[name], version)
        for name in answers
    }
