"""Texts with classes as batches for a sequence classifier."""

import numpy as np

from keras_tformer.data.import_tensorflow import import_tensorflow
from keras_tformer.text import pack


def classification_dataset(
    texts,
    labels,
    tokenizer,
    sequence_length,
    batch_size,
    class_names=None,
    shuffle=False,
    seed=0,
    second_texts=None,
    drop_remainder=False,
):
    """Turns labelled texts, or pairs of texts, into batches of packed ids.

    Texts are tokenized once, here; ids stay in memory and every batch packs its
    own rows.

    Args:
        texts: list of strings.
        labels: list of class names or of class numbers, one per text, or of floats
            for regression.
        tokenizer: `WordPieceTokenizer` or `SentencePieceTokenizer`.
        sequence_length: int. Length `T` of a row.
        batch_size: int. Rows `B` of a batch.
        class_names: list of strings: the number of a class is its position. The
            sorted labels by default. Leave it out for labels that are numbers.
        shuffle: bool. Another order in every epoch.
        seed: int. Seed of the order.
        second_texts: list of strings, the second text of each pair, or None.
        drop_remainder: bool. Leave out the last batch if it is not full, for
            shapes that are static.

    Returns:
        A `tf.data.Dataset` of `(inputs, labels)`: inputs are a dict of int32
        `(B, T)` with `"token_ids"`, `"segment_ids"` and `"padding_mask"`, labels
        are int32 `(B,)`, or float32 where floats were given.

    Raises:
        ValueError: if there are no texts, if texts, labels or second texts differ
            in number, or if a label is not among the class names.
    """
    tf = import_tensorflow()
    texts = list(texts)
    if not texts:
        raise ValueError("There are no texts; expected at least one text and label.")
    numbers = _class_numbers(list(labels), class_names)
    if len(numbers) != len(texts):
        raise ValueError(
            f"There are {len(texts)} texts and {len(numbers)} labels; expected one "
            "label for every text."
        )
    columns = [_ragged_ids(tf, tokenizer, texts)]
    if second_texts is not None:
        second_texts = list(second_texts)
        if len(second_texts) != len(texts):
            raise ValueError(
                f"There are {len(texts)} texts and {len(second_texts)} second texts; "
                "expected one second text for every text."
            )
        columns.append(_ragged_ids(tf, tokenizer, second_texts))

    def make_batch(indices):
        inputs = pack(
            *[tf.gather(column, indices) for column in columns],
            sequence_length=sequence_length,
            start_id=tokenizer.start_id,
            end_id=tokenizer.end_id,
            padding_id=tokenizer.padding_id,
        )
        batch = indices.shape[0]  # known where the remainder is dropped
        inputs = {
            name: tf.ensure_shape(value, (batch, sequence_length))
            for name, value in inputs.items()
        }
        return inputs, tf.gather(numbers, indices)

    dataset = tf.data.Dataset.range(len(texts))
    if shuffle:
        dataset = dataset.shuffle(len(texts), seed=seed)
    dataset = dataset.batch(batch_size, drop_remainder=drop_remainder)
    dataset = dataset.map(make_batch, num_parallel_calls=tf.data.AUTOTUNE)
    return dataset.prefetch(tf.data.AUTOTUNE)


def _class_numbers(labels, class_names):
    if class_names is None:
        if labels and not isinstance(labels[0], str):
            numbers = np.asarray(labels)
            return numbers.astype("float32" if numbers.dtype.kind == "f" else "int32")
        class_names = sorted(set(labels))
    numbers = {name: number for number, name in enumerate(class_names)}
    unknown = sorted({str(label) for label in labels if label not in numbers})
    if unknown:
        raise ValueError(
            f"The label(s) {', '.join(unknown[:5])} are not among the class names "
            f"{', '.join(map(str, class_names))}; add them, or leave these texts out."
        )
    return np.asarray([numbers[label] for label in labels], "int32")


def _ragged_ids(tf, tokenizer, texts):
    ids = tokenizer.encode(texts)
    lengths = np.fromiter(map(len, ids), "int64", len(ids))
    flat = np.fromiter((i for row in ids for i in row), "int32", int(lengths.sum()))
    return tf.RaggedTensor.from_row_lengths(flat, lengths)
