"""Windows that hold the answer, and the way back from logits to its text."""

import collections
import json
import re
import string

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow", reason="the data sets are tf.data's")
pytest.importorskip("tokenizers", reason="the engine on the host")

from keras_tformer.data import (  # noqa: E402
    question_answering_task,
    read_squad,
    span_predictions,
)
from keras_tformer.data.squad import Question  # noqa: E402
from keras_tformer.text import SentencePieceTokenizer, WordPieceTokenizer  # noqa: E402

PIECES = "[PAD] [UNK] [CLS] [SEP] [MASK] who ran a b c d e f g".split()


def hand_made(**options):
    questions = [
        Question("first", "Who ran", "a b c d e f g", ["e f"], [8]),
        Question("none", "Who", "a b c", [], []),
    ]
    options = {"sequence_length": 9, "batch_size": 7, "doc_stride": 2, **options}
    return question_answering_task(questions, WordPieceTokenizer(PIECES), **options)


def test_windows_by_hand():
    task = hand_made()
    inputs, labels = next(iter(task.dataset))
    assert inputs["token_ids"].numpy().tolist() == [
        [2, 5, 6, 3, 7, 8, 9, 10, 3],
        [2, 5, 6, 3, 9, 10, 11, 12, 3],
        [2, 5, 6, 3, 11, 12, 13, 3, 0],
        [2, 5, 3, 7, 8, 9, 3, 0, 0],
    ]
    assert labels["start"].numpy().tolist() == [0, 6, 4, 0]
    assert labels["end"].numpy().tolist() == [0, 7, 5, 0]
    assert task.num_unanswerable == 2
    assert task.windows.question_numbers.tolist() == [0, 0, 0, 1]


def logits_of(task, sequence_length, score=9.0):
    """Logits that are sure of the labels."""
    shape = (len(task.windows.starts), sequence_length)
    start, end = np.zeros(shape), np.zeros(shape)
    rows = np.arange(shape[0])
    start[rows, task.windows.starts] = score
    end[rows, task.windows.ends] = score
    return start, end


def test_predictions_by_hand():
    task = hand_made()
    start, end = logits_of(task, 9)
    # The first window is sure that there is none, the others know better.
    found = span_predictions(start, end, task)
    assert found["first"].text == "e f"
    assert found["first"].n_best[0][0] == "e f"
    assert found["first"].null_difference == -18.0
    assert sum(share for _, share in found["first"].n_best) == pytest.approx(1)
    found = span_predictions(start, end, task, allow_no_answer=True)
    assert (found["first"].text, found["none"].text) == ("e f", "")
    assert found["none"].n_best[0][0] == ""
    assert found["none"].null_difference == 18.0
    sure = span_predictions(start, end, task, allow_no_answer=True, null_threshold=19)
    assert sure["none"].text != ""
    short = span_predictions(start, end, task, max_answer_length=1)
    assert " " not in short["first"].text
    with pytest.raises(ValueError, match=r"start_logits has shape \(3, 9\)"):
        span_predictions(start[:3], end[:3], task)


def test_best_span_by_trying_all():
    """Against every span of every window, without short cuts."""
    task = hand_made()
    draw = np.random.default_rng(3)
    start, end = draw.normal(size=(2, 4, 9))
    found = span_predictions(start, end, task, n_best_size=97, max_answer_length=3)
    windows = task.windows
    # Which window shows a piece with most around it, of 7 pieces in windows of
    # 0-3, 2-5 and 4-6: Devlin et al.'s rule, by hand.
    best = [0, 0, 0, 1, 1, 2, 2]
    scores = collections.defaultdict(lambda: -np.inf)
    for row in range(3):
        first, position = windows.context_starts[row], windows.context_positions[row]
        for i in range(windows.context_lengths[row]):
            for j in range(i, min(i + 3, windows.context_lengths[row])):
                if best[first + i] == row:
                    text = " ".join("abcdefg"[first + i : first + j + 1])
                    score = start[row, position + i] + end[row, position + j]
                    scores[text] = max(scores[text], score)
    ranked = sorted(scores, key=scores.get, reverse=True)
    assert [text for text, _ in found["first"].n_best] == ranked
    weights = np.exp([scores[text] for text in ranked])
    np.testing.assert_allclose(
        [share for _, share in found["first"].n_best], weights / weights.sum(), 1e-5
    )


def normalized(text):
    """The official measure: case, punctuation, articles and white space aside."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def token_f1(found, gold):
    found, gold = normalized(found).split(), normalized(gold).split()
    common = sum((collections.Counter(found) & collections.Counter(gold)).values())
    if not common:
        return float(found == gold)
    return 2 * common / (len(found) + len(gold))


@pytest.mark.parametrize(
    ("kind", "name", "sequence_length", "lowest"),
    [
        ("word_piece", "squad/train_part-v1.1.json.xz", 384, 0.985),
        ("word_piece", "qamr/dev.json.xz", 128, 0.995),
        ("sentence_piece", "qamr/dev.json.xz", 128, 0.995),
    ],
)
def test_real_answers_come_back(data_folder, kind, name, sequence_length, lowest):
    questions = read_squad(data_folder / name)[:701]
    vocabularies = data_folder / "vocab"
    if kind == "word_piece":
        file = vocabularies / "bert-base-uncased-vocab.txt"
        tokenizer = WordPieceTokenizer(file)
    else:
        pytest.importorskip("sentencepiece", reason="the engine on the host")
        tokenizer = SentencePieceTokenizer(vocabularies / "albert-30k-clean.model")
    task = question_answering_task(
        questions, tokenizer, sequence_length, doc_stride=sequence_length // 3
    )
    start, end = logits_of(task, sequence_length)
    found = span_predictions(start, end, task, n_best_size=3, max_answer_length=99)
    pairs = [(found[q.identifier].text, q.answers[0]) for q in questions]
    exact = np.mean([normalized(text) == normalized(gold) for text, gold in pairs])
    assert exact > lowest
    assert np.mean([token_f1(text, gold) for text, gold in pairs]) > lowest + 0.003
    # What is not the same is longer: the answer ends inside of a piece.
    for text, gold in pairs:
        if normalized(text) != normalized(gold):
            assert gold.strip() in text


def squad_json(**changes):
    question = {
        "id": "x",
        "question": "Who?",
        "answers": [{"text": "Ann", "answer_start": 2}],
        **changes,
    }
    good = {"id": "y", "question": "What?", "is_impossible": True, "answers": []}
    paragraph = {"context": "O Ann ran.", "qas": [question, good]}
    return json.dumps({"data": [{"paragraphs": [paragraph]}]}, indent=1)


def test_squad_files(tmp_path):
    file = tmp_path / "a.json"
    file.write_text(squad_json())
    first, second = read_squad(file)
    assert first == Question("x", "Who?", "O Ann ran.", ["Ann"], [2])
    assert second.answers == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"answers": [{"text": "Ann", "answer_start": 3}]},
            "question 'x': the answer 'Ann' is said to begin at character 3, where "
            "'nn '",
        ),
        ({"answers": [{"text": "n.", "answer_start": -2}]}, "question 'x'"),
        ({"answers": [{"text": "Ann"}]}, "article 0, paragraph 0: a question lacks"),
        ({"question": None}, "a question lacks"),
    ],
)
def test_wrong_questions_end_the_run_or_are_counted(tmp_path, changes, message):
    file = tmp_path / "a.json"
    file.write_text(squad_json(**changes))
    with pytest.raises(ValueError) as error:
        read_squad(file)
    assert message in str(error.value)
    assert str(file) in str(error.value)
    skipped = collections.Counter()
    assert [q.identifier for q in read_squad(file, skipped)] == ["y"]
    assert skipped.total() == 1


def test_wrong_files(tmp_path):
    file = tmp_path / "a.json"
    for content, message in (
        (b'{"data": [\n\n{]}', "a.json, line 3: not JSON"),
        (b'{"data":\n"\xff"}', "a.json, line 2: not UTF-8"),
        (b"[]", 'no list "data" at the top'),
        (b'{"data": []}', "no readable question"),
        (squad_json(id="y").encode(), "the id 'y' stands at more than one"),
    ):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            read_squad(file)
    packed = tmp_path / "a.json.xz"
    packed.write_bytes(b"no archive")
    with pytest.raises(ValueError, match="a.json.xz: "):
        read_squad(packed)


def test_wrong_sizes():
    with pytest.raises(ValueError, match="room for 4 of 9 pieces, and doc_stride is 5"):
        hand_made(doc_stride=5)
    with pytest.raises(ValueError, match="at least 1"):
        hand_made(doc_stride=0)
    with pytest.raises(ValueError, match="no questions"):
        question_answering_task([], WordPieceTokenizer(PIECES))
