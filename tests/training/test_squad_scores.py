import json
import os
import pathlib
import random
import subprocess
import sys

import pytest

from keras_tformer.training import (
    best_null_threshold,
    normalize_answer,
    squad_scores,
)

SCRIPTS = os.environ.get("KERAS_TFORMER_SQUAD_SCRIPTS")
WORDS = "the a An house U.S. Ann's old, -- 1990s Über café state-of-the-art".split()


def random_case(empty_texts, unanswerable):
    """Random answers and predictions that share words, articles and punctuation."""
    draw = random.Random(17)

    def text():
        words = draw.choices(WORDS, k=draw.randint(0, 5))
        if not empty_texts:
            words.append("rooms")
        return draw.choice(["{}", " {} ", "{}."]).format("  ".join(words))

    answers, predictions, differences = {}, {}, {}
    for number in range(499):
        name = f"q{number}"
        count = 0 if unanswerable and draw.random() < 0.4 else draw.randint(1, 3)
        answers[name] = [text() for _ in range(count)]
        predictions[name] = text()
        if answers[name] and draw.random() < 0.3:
            predictions[name] = draw.choice(answers[name]).upper()
        differences[name] = draw.gauss(-1.0 if count else 0.5, 1.0)
    return answers, predictions, differences


# What the official scripts printed for these cases, six digits.
OFFICIAL_V1 = {"exact_match": 39.078156, "f1": 33.26542}
OFFICIAL_V2 = {
    "exact_match": 25.250501,
    "f1": 32.479244,
    "has_answer_exact_match": 25.742574,
    "has_answer_f1": 37.647336,
    "no_answer_exact_match": 24.489796,
}
OFFICIAL_V2_AT_ZERO = {
    "exact_match": 47.49499,
    "f1": 64.951042,
    "has_answer_exact_match": 31.353135,
    "has_answer_f1": 60.100891,
    "no_answer_exact_match": 72.44898,
}
OFFICIAL_THRESHOLD = (-0.233732, 66.041318)


def test_equals_evaluate_v1():
    answers, predictions, _ = random_case(empty_texts=True, unanswerable=False)
    ours = squad_scores(predictions, answers, version="1.1")
    assert ours == pytest.approx(OFFICIAL_V1, abs=1e-6)


def test_equals_evaluate_v2():
    answers, predictions, _ = random_case(empty_texts=True, unanswerable=True)
    ours = squad_scores(predictions, answers)
    assert ours == pytest.approx(OFFICIAL_V2, abs=1e-6)


def test_equals_evaluate_v2_with_a_threshold():
    answers, predictions, differences = random_case(False, unanswerable=True)
    shown = {
        name: "" if differences[name] > 0 else predictions[name] for name in answers
    }
    ours = squad_scores(shown, answers)
    assert ours == pytest.approx(OFFICIAL_V2_AT_ZERO, abs=1e-6)
    threshold, f1 = best_null_threshold(predictions, differences, answers)
    assert (threshold, f1) == pytest.approx(OFFICIAL_THRESHOLD, abs=1e-6)
    shown = {n: "" if differences[n] > threshold else predictions[n] for n in answers}
    assert squad_scores(shown, answers)["f1"] == pytest.approx(f1)


@pytest.mark.skipif(
    SCRIPTS is None,
    reason="KERAS_TFORMER_SQUAD_SCRIPTS names no folder with evaluate-v1.1.py and "
    "evaluate-v2.0.py, which SQuAD's authors hand out",
)
def test_the_official_scripts_print_these_numbers(tmp_path):
    def printed(script, answers, predictions, differences=None):
        questions = [
            {"id": name, "answers": [{"text": text} for text in texts]}
            for name, texts in answers.items()
        ]
        data = {"version": "1.1", "data": [{"paragraphs": [{"qas": questions}]}]}
        command = [sys.executable, pathlib.Path(SCRIPTS) / script]
        files = {"data.json": data, "predictions.json": predictions}
        for name, content in files.items():
            (tmp_path / name).write_text(json.dumps(content))
            command.append(tmp_path / name)
        if differences is not None:
            (tmp_path / "odds.json").write_text(json.dumps(differences))
            command += ["--na-prob-file", tmp_path / "odds.json"]
            command += ["--na-prob-thresh", "0"]
        return json.loads(subprocess.check_output(command))

    def renamed(scores):
        names = {"exact": "exact_match", "f1": "f1"}
        names |= {f"HasAns_{old}": f"has_answer_{new}" for old, new in names.items()}
        names["NoAns_exact"] = "no_answer_exact_match"
        return {new: scores[old] for old, new in names.items()}

    answers, predictions, _ = random_case(empty_texts=True, unanswerable=False)
    first = printed("evaluate-v1.1.py", answers, predictions)
    assert first == pytest.approx(OFFICIAL_V1, abs=1e-6)
    answers, predictions, _ = random_case(empty_texts=True, unanswerable=True)
    second = printed("evaluate-v2.0.py", answers, predictions)
    assert renamed(second) == pytest.approx(OFFICIAL_V2, abs=1e-6)
    third = printed("evaluate-v2.0.py", *random_case(False, unanswerable=True))
    assert renamed(third) == pytest.approx(OFFICIAL_V2_AT_ZERO, abs=1e-6)
    best = third["best_f1_thresh"], third["best_f1"]
    assert best == pytest.approx(OFFICIAL_THRESHOLD, abs=1e-6)


def test_threshold_never_cuts_between_equal_differences():
    answers = {"q1": ["Ann"], "q2": [], "q3": ["Bo"]}
    predictions = dict.fromkeys(answers, "Ann")
    threshold, f1 = best_null_threshold(
        predictions, dict.fromkeys(answers, 2.0), answers
    )
    # Answering all or none are the choices, one of three is right in both.
    assert threshold == 1.0
    assert f1 == pytest.approx(100 / 3)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  cat,\tan owl & a theatre", "cat owl theatre"),
        ("U.S.A.", "usa"),
        ("«Quoted» – café", "«quoted» – café"),
        ("a", ""),
    ],
)
def test_normalization(text, expected):
    assert normalize_answer(text) == expected


def test_best_of_several_answers_counts():
    answers = {"q": ["red house", "the big red house on the hill"]}
    scores = squad_scores({"q": "big red house"}, answers, version="1.1")
    # Against the first 2/3 and 2/2, against the second 3/3 and 3/5: 0.8 and 0.75.
    assert scores == pytest.approx({"exact_match": 0.0, "f1": 80.0})


def test_wrong_input_is_told():
    with pytest.raises(ValueError, match="1 have no prediction"):
        squad_scores({}, {"q": ["Ann"]})
    with pytest.raises(ValueError, match="version='2.1'"):
        squad_scores({"q": ""}, {"q": []}, version="2.1")
    with pytest.raises(ValueError, match="'q' has no answer"):
        squad_scores({"q": ""}, {"q": []}, version="1.1")
