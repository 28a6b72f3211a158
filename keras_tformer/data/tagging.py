"""Tagged words, such as named entities, from CoNLL columns to batches."""

import collections
import pathlib
from typing import NamedTuple

import numpy as np

from keras_tformer.data.import_tensorflow import import_tensorflow
from keras_tformer.data.task import Task
from keras_tformer.data.text_lines import bad_line, read_lines

IGNORED_LABEL = -100


class TaggedSentence(NamedTuple):
    """The words of a sentence and one tag for each.

    Attributes:
        words: list of strings.
        tags: list of strings, such as `"B-person"`.
    """

    words: list
    tags: list


def read_conll(file, word_column=0, tag_column=-1, separator=None, skipped=None):
    r"""Reads tagged words: one a line, a blank line between sentences.

    Args:
        file: path of a UTF-8 file, plain or packed (`.gz`, `.xz`).
        word_column: int. Column of the word.
        tag_column: int. Column of the tag; by default the last one.
        separator: str, or None for a tab where a line has one and else white space.
        skipped: None, or a `collections.Counter`. With a counter, a sentence with a
            line that cannot be read is left out and counted there by reason.

    Returns:
        A list of `TaggedSentence`. Lines that begin with `-DOCSTART-` are left out.

    Raises:
        ValueError: naming file and line, if the file is missing or holds no sentence,
            or for the first line that cannot be read when `skipped` is None.

    Example:
        >>> import pathlib
        >>> _ = pathlib.Path("a.conll").write_text("Ann B-person\nran O\n\nNo O\n")
        >>> [sentence.tags for sentence in read_conll("a.conll")]
        [['B-person', 'O'], ['O']]
    """
    file = pathlib.Path(file)
    sentences, words, tags, bad = [], [], [], False
    needed = max(
        column + 1 if column >= 0 else -column for column in (word_column, tag_column)
    )
    own_skipped = None if skipped is None else collections.Counter()
    last_number = 0

    def finish():
        nonlocal words, tags, bad
        if words and not bad:
            sentences.append(TaggedSentence(words, tags))
        words, tags, bad = [], [], False

    for number, line in read_lines(file, skipped=own_skipped):
        bad |= number != last_number + 1  # a line was left out in between
        last_number = number
        if not line.strip():
            finish()
            continue
        if line.startswith("-DOCSTART-"):
            continue
        cut_at = separator or ("\t" if "\t" in line else None)
        fields = [field.strip() for field in line.strip("\r\n").split(cut_at)]
        enough = len(fields) >= max(needed, 2)
        if not enough or not fields[word_column] or not fields[tag_column]:
            bad_line(
                own_skipped,
                "missing word or tag",
                f"{file}, line {number}: {len(fields)} columns, expected a word in "
                f"column {word_column} and a tag in column {tag_column}; correct the "
                "line or name the columns.",
            )
            bad = True
            continue
        words.append(fields[word_column])
        tags.append(fields[tag_column])
    finish()
    if skipped is not None:
        skipped.update(own_skipped)
    if not sentences:
        raise ValueError(
            f"{file} holds no readable sentence; expected one word and its tag a line."
        )
    return sentences


def tagging_task(
    sentences,
    tokenizer,
    sequence_length,
    batch_size,
    tag_names=None,
    shuffle=False,
    seed=0,
    drop_remainder=False,
):
    """Turns tagged sentences into batches for a token classifier.

    Every word is cut into pieces by itself. Its first piece bears the word's tag;
    the others, the special tokens and padding have label -100 and weight 0
    (Devlin et al. 2018, section 5.3). A sentence that is too long loses its last
    words.

    Args:
        sentences: list of `TaggedSentence`, or the path of a file for `read_conll`.
        tokenizer: `WordPieceTokenizer` or `SentencePieceTokenizer`.
        sequence_length: int. Length `T` of a row.
        batch_size: int. Rows `B` of a batch.
        tag_names: list of strings: the number of a tag is its position. By default
            `"O"`, then the tags of the sentences in sorted order. Give those of the
            training set for a dev set.
        shuffle: bool. Another order in every epoch.
        seed: int. Seed of the order.
        drop_remainder: bool. Leave out the last batch if it is not full.

    Returns:
        A `Task`. Its dataset holds `(inputs, labels, sample weights)`: int32
        `"token_ids"`, `"segment_ids"` and `"padding_mask"` `(B, T)`, labels int32
        `(B, T)`, weights float32 `(B, T)`. `class_counts` counts labelled words that
        are in the rows; `skipped["word that did not fit"]` the others.

    Raises:
        ValueError: if there are no sentences, if a tag is not among the tag names, or
            if the sequence has no room.

    Example:
        >>> from keras_tformer.text import WordPieceTokenizer
        >>> names = "[PAD] [UNK] [CLS] [SEP] [MASK] an ##n ran".split()
        >>> sentences = [TaggedSentence(["Ann", "ran"], ["B-person", "O"])]
        >>> task = tagging_task(sentences, WordPieceTokenizer(names), 6, 1)
        >>> inputs, labels, weights = next(iter(task.dataset))
        >>> inputs["token_ids"].numpy().tolist(), labels.numpy().tolist()
        ([[2, 5, 6, 7, 3, 0]], [[-100, 1, -100, 0, -100, -100]])
        >>> task.class_names
        ['O', 'B-person']
    """
    tf = import_tensorflow()
    skipped = {}
    if not isinstance(sentences, (list, tuple)):
        sentences = read_conll(sentences)
    if not sentences:
        raise ValueError("There are no sentences; expected at least one.")
    if sequence_length < 3:
        raise ValueError(
            f"sequence_length is {sequence_length}; expected at least 3, room for two "
            "special tokens and one id."
        )
    found = {tag for sentence in sentences for tag in sentence.tags}
    if tag_names is None:
        tag_names = [*(["O"] if "O" in found else []), *sorted(found - {"O"})]
    numbers = {name: number for number, name in enumerate(tag_names)}
    unknown = sorted(found - set(numbers))
    if unknown:
        raise ValueError(
            f"The tag(s) {', '.join(unknown[:5])} are not among the tag names "
            f"{', '.join(tag_names)}; add them, or leave these sentences out."
        )
    shape = (len(sentences), sequence_length)
    token_ids = np.full(shape, tokenizer.padding_id, "int32")
    padding_mask = np.zeros(shape, "int32")
    labels = np.full(shape, IGNORED_LABEL, "int32")
    pieces = iter(tokenizer.encode([w for s in sentences for w in s.words]))
    left_out = 0
    for row, sentence in enumerate(sentences):
        length = 1
        fits = True
        token_ids[row, 0] = tokenizer.start_id
        for tag in sentence.tags:
            # A word without any piece, such as a lone control character.
            ids = next(pieces) or [tokenizer.unknown_id]
            fits = fits and length + len(ids) < sequence_length
            if not fits:
                left_out += 1
                continue
            token_ids[row, length : length + len(ids)] = ids
            labels[row, length] = numbers[tag]
            length += len(ids)
        token_ids[row, length] = tokenizer.end_id
        padding_mask[row, : length + 1] = 1
    if left_out:
        skipped["word that did not fit"] = left_out
    inputs = {
        "token_ids": token_ids,
        "segment_ids": np.zeros(shape, "int32"),
        "padding_mask": padding_mask,
    }
    weights = (labels != IGNORED_LABEL).astype("float32")
    dataset = tf.data.Dataset.from_tensor_slices((inputs, labels, weights))
    if shuffle:
        dataset = dataset.shuffle(len(sentences), seed=seed)
    dataset = dataset.batch(batch_size, drop_remainder=drop_remainder)
    counts = np.bincount(labels[labels >= 0], minlength=len(tag_names)).tolist()
    return Task(
        dataset.prefetch(tf.data.AUTOTUNE),
        list(tag_names),
        counts,
        len(sentences),
        skipped,
    )
