"""Windows over long contexts, against Hugging Face's fast tokenizer."""

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow", reason="the data sets are tf.data's")
transformers = pytest.importorskip(
    "transformers", reason="the oracle is Hugging Face's own tokenizer"
)

from keras_tformer.data import question_answering_task, read_squad  # noqa: E402
from keras_tformer.text import WordPieceTokenizer  # noqa: E402

T, STRIDE = 179, 61


def test_windows_spans_and_labels(data_folder):
    """Ids, characters, and the answer's place as their course computes it."""
    vocabulary = str(data_folder / "vocab" / "bert-base-uncased-vocab.txt")
    questions = read_squad(data_folder / "squad" / "train_part-v1.1.json.xz")[:4370:19]
    task = question_answering_task(
        questions, WordPieceTokenizer(vocabulary), T, 64, doc_stride=STRIDE
    )
    theirs = transformers.BertTokenizerFast(vocab=vocabulary, do_lower_case=True)
    inputs = {
        name: np.concatenate([batch[name].numpy() for batch, _ in task.dataset])
        for name in ("token_ids", "segment_ids", "padding_mask")
    }
    windows = task.windows
    row = 0
    for number, question in enumerate(questions):
        length = len(theirs(question.question, add_special_tokens=False)["input_ids"])
        expected = theirs(
            question.question,
            question.context,
            truncation="only_second",
            max_length=T,
            stride=T - 3 - length - STRIDE,  # theirs is the overlap
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            padding="max_length",
        )
        for window, ids in enumerate(expected["input_ids"]):
            assert windows.question_numbers[row] == number
            assert inputs["token_ids"][row].tolist() == ids
            for ours, name in (
                ("segment_ids", "token_type_ids"),
                ("padding_mask", "attention_mask"),
            ):
                assert inputs[ours][row].tolist() == expected[name][window]
            in_context = np.array(expected["token_type_ids"][window], bool)
            in_context[np.flatnonzero(in_context)[-1]] = False  # the last [SEP]
            spans = np.array(expected["offset_mapping"][window])
            first = windows.context_starts[row]
            count = windows.context_lengths[row]
            np.testing.assert_array_equal(
                windows.character_spans[number][first : first + count],
                spans[in_context],
            )
            begin = question.answer_starts[0]
            end = begin + len(question.answers[0])
            holds = np.flatnonzero(
                in_context & (spans[:, 0] < end) & (spans[:, 1] > begin)
            )
            context = spans[in_context]
            whole = context[0, 0] <= begin and context[-1, 1] >= end
            label = (holds[0], holds[-1]) if whole else (0, 0)
            assert (windows.starts[row], windows.ends[row]) == label
            row += 1
    assert row == len(windows.starts)
    assert row > len(questions)
