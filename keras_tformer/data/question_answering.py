"""Questions on long texts as batches of windows for a span classifier."""

from typing import Any, NamedTuple

import numpy as np

from keras_tformer.data.import_tensorflow import import_tensorflow
from keras_tformer.data.squad import read_squad
from keras_tformer.text import pack


class SpanTask(NamedTuple):
    """Batches of windows, and what is needed to get from logits back to text.

    Attributes:
        dataset: `tf.data.Dataset` of `(inputs, labels)`, ready for `model.fit`.
        questions: list of `Question`, in the order of the file.
        windows: `Windows`, one for each row of an unshuffled epoch.
        num_unanswerable: int. Windows that do not hold their question's answer.
    """

    dataset: Any
    questions: list
    windows: Any
    num_unanswerable: int


class Windows(NamedTuple):
    """Which part of which context each row holds, row by row.

    Attributes:
        question_numbers: `(N,)` int32 array, positions in the list of questions.
        context_starts: `(N,)` int32 array, the first piece of the context in the row.
        context_lengths: `(N,)` int32 array, the number of pieces in the row.
        context_positions: `(N,)` int32 array, the position in the row of the first.
        character_spans: list with an int32 array `(pieces, 2)` for each *question*:
            from which character of the context to which each piece reaches.
        starts, ends: `(N,)` int32 arrays, positions in the row of the answer's first
            and last piece; 0, the position of `[CLS]`, where it is not in the window.
    """

    question_numbers: Any
    context_starts: Any
    context_lengths: Any
    context_positions: Any
    character_spans: list
    starts: Any
    ends: Any


def question_answering_task(
    questions,
    tokenizer,
    sequence_length=384,
    batch_size=32,
    doc_stride=128,
    max_question_length=64,
    shuffle=False,
    seed=0,
    drop_remainder=False,
):
    """Turns questions on texts into batches for a span classifier.

    A row is `[CLS] question [SEP] window of the context [SEP]`; a context that is too
    long is read through windows, each `doc_stride` pieces further on. Labels are the
    positions of the first answer's first and last piece, and 0 for both, the place of
    `[CLS]`, in windows without the whole answer and for questions without one.
    Devlin et al. 2018 (arXiv 1810.04805), sections 4.2 and 4.3.

    Args:
        questions: list of `Question`, or the path of a file for `read_squad`.
        tokenizer: `WordPieceTokenizer` or `SentencePieceTokenizer`.
        sequence_length: int. Length `T` of a row.
        batch_size: int. Rows `B` of a batch.
        doc_stride: int. Pieces from the beginning of a window to that of the next.
        max_question_length: int. Longer questions lose their end.
        shuffle: bool. Another order in every epoch. Leave it out for predictions,
            whose rows must be in the order of the windows.
        seed: int. Seed of the order.
        drop_remainder: bool. Leave out the last batch if it is not full.

    Returns:
        A `SpanTask`. Its dataset holds `(inputs, labels)`: int32 `"token_ids"`,
        `"segment_ids"` and `"padding_mask"` `(B, T)`; int32 `"start"` and `"end"`
        `(B,)`.

    Raises:
        ValueError: if there are no questions, or if the windows would leave out a part
            of the context or have no room.

    Example:
        >>> from keras_tformer.data.squad import Question
        >>> from keras_tformer.text import WordPieceTokenizer
        >>> names = "[PAD] [UNK] [CLS] [SEP] [MASK] who ran ann today".split()
        >>> question = Question("q", "Who ran", "Ann ran today", ["Ann"], [0])
        >>> task = question_answering_task(
        ...     [question], WordPieceTokenizer(names), 8, 1, doc_stride=2
        ... )
        >>> inputs, labels = next(iter(task.dataset))
        >>> inputs["token_ids"].numpy().tolist(), int(labels["start"][0])
        ([[2, 5, 6, 3, 7, 6, 8, 3]], 4)
    """
    tf = import_tensorflow()
    if not isinstance(questions, (list, tuple)):
        questions = read_squad(questions)
    if not questions:
        raise ValueError("There are no questions; expected at least one.")
    if max_question_length < 1 or doc_stride < 1:
        raise ValueError(
            f"max_question_length is {max_question_length} and doc_stride "
            f"{doc_stride}; expected both to be at least 1."
        )
    question_ids = [
        ids[:max_question_length] for ids in tokenizer.encode([q[1] for q in questions])
    ]
    room = sequence_length - 3 - max(map(len, question_ids))
    contexts = list(dict.fromkeys(question.context for question in questions))
    encoded = tokenizer.encode_with_offsets(contexts)
    context_ids = [np.array(ids, "int32") for ids, _, _ in encoded]
    context_spans = [np.array(s, "int32").reshape(-1, 2) for _, s, _ in encoded]
    longest = max(map(len, context_ids))
    if room < min(longest, 1) or (doc_stride > room and longest > room):
        raise ValueError(
            f"Beside the longest question a window has room for {room} of "
            f"{sequence_length} pieces, and doc_stride is {doc_stride}; expected it to "
            "be at most the room, or a part of the context would be in no window. "
            "Lower doc_stride or max_question_length, or raise sequence_length."
        )
    windows, flat_starts = _windows(
        questions,
        question_ids,
        {text: number for number, text in enumerate(contexts)},
        context_ids,
        context_spans,
        sequence_length,
        doc_stride,
    )
    with tf.init_scope():
        question_rows = tf.ragged.constant(question_ids, tf.int32, ragged_rank=1)
        flat = tf.constant(np.concatenate([*context_ids, []]).astype("int32"))
        numbers, starts, ends, first, length = map(
            tf.constant,
            (
                windows.question_numbers,
                windows.starts,
                windows.ends,
                flat_starts,
                windows.context_lengths,
            ),
        )

    def make_batch(index):
        begin = tf.gather(first, index)
        inputs = pack(
            tf.gather(question_rows, tf.gather(numbers, index)),
            tf.gather(flat, tf.ragged.range(begin, begin + tf.gather(length, index))),
            sequence_length=sequence_length,
            start_id=tokenizer.start_id,
            end_id=tokenizer.end_id,
            padding_id=tokenizer.padding_id,
        )
        inputs = {
            name: tf.ensure_shape(value, (index.shape[0], sequence_length))
            for name, value in inputs.items()
        }
        return inputs, {
            "start": tf.gather(starts, index),
            "end": tf.gather(ends, index),
        }

    num_windows = len(windows.starts)
    dataset = tf.data.Dataset.range(num_windows)
    if shuffle:
        dataset = dataset.shuffle(num_windows, seed=seed)
    dataset = dataset.batch(batch_size, drop_remainder=drop_remainder)
    dataset = dataset.map(make_batch, num_parallel_calls=tf.data.AUTOTUNE)
    return SpanTask(
        dataset.prefetch(tf.data.AUTOTUNE),
        list(questions),
        windows,
        int((windows.ends == 0).sum()),
    )


def _windows(
    questions,
    question_ids,
    context_numbers,
    context_ids,
    spans,
    sequence_length,
    stride,
):
    """Lays windows over the contexts; returns them and their starts in all ids."""
    offsets = np.cumsum([0, *map(len, context_ids)])
    rows, flat_starts, spans_of_question = [], [], []
    for number, question in enumerate(questions):
        context = context_numbers[question.context]
        span = spans[context]
        spans_of_question.append(span)
        position = len(question_ids[number]) + 2
        room = sequence_length - position - 1
        answer = None
        if question.answers:
            begin = question.answer_starts[0]
            end = begin + len(question.answers[0])
            inside = np.flatnonzero((span[:, 1] > begin) & (span[:, 0] < end))
            if len(inside):
                answer = inside[0], inside[-1]
        total, start = len(span), 0
        while True:
            length = min(room, total - start)
            begin = end = 0
            if answer and start <= answer[0] and answer[1] < start + length:
                begin = position + answer[0] - start
                end = position + answer[1] - start
            rows.append((number, start, length, position, begin, end))
            flat_starts.append(offsets[context] + start)
            if start + length >= total:
                break
            start += stride
    columns = np.array(rows, "int32").T
    windows = Windows(*columns[:4], spans_of_question, *columns[4:])
    return windows, np.array(flat_starts, "int32")
