"""Running text as batches for a causal language model."""

import numpy as np

from keras_tformer.data.document_packing import (
    document_attention_mask,
    fill_rows,
    pack_rows,
)
from keras_tformer.data.task import Task


def language_modelling_task(
    documents,
    tokenizer,
    sequence_length,
    batch_size,
    keep_documents_apart=False,
    shuffle=False,
    seed=0,
    drop_remainder=False,
):
    """Turns documents into batches in which every token is to be predicted.

    Documents are read as `[CLS] text [SEP]`, one behind the other, and cut into blocks
    of `sequence_length` (Radford et al. 2019, section 2); only the last block holds
    padding. With `keep_documents_apart` each row holds whole documents, as many as
    fit, and a mask that lets none look at another.

    Args:
        documents: iterable of `Document`, of lists of paragraphs or of strings.
        tokenizer: `WordPieceTokenizer` or `SentencePieceTokenizer`.
        sequence_length: int. Length `T` of a row.
        batch_size: int. Rows `B` of a batch.
        keep_documents_apart: bool. Pack whole documents, and add inputs for models
            that take them: int32 `"attention_mask"` `(B, T, T)` and `"position_ids"`
            `(B, T)`. Documents longer than a row are cut.
        shuffle: bool. Another order of rows in every epoch.
        seed: int. Seed of the order.
        drop_remainder: bool. Leave out the last batch if it is not full.

    Returns:
        A `Task`. Its dataset holds `(inputs, labels, sample weights)`: int32
        `"token_ids"` and `"padding_mask"` `(B, T)`, labels int32 `(B, T)`, the token
        that follows each, weights float32 `(B, T)`, 0 at padding.

    Raises:
        ValueError: if the documents hold no token.

    Example:
        >>> from keras_tformer.text import WordPieceTokenizer
        >>> tokenizer = WordPieceTokenizer("[PAD] [UNK] [CLS] [SEP] [MASK] a b".split())
        >>> task = language_modelling_task(["a b", "b"], tokenizer, 4, 2)
        >>> inputs, labels, weights = next(iter(task.dataset))
        >>> inputs["token_ids"].numpy().tolist(), labels.numpy().tolist()
        ([[2, 5, 6, 3], [2, 6, 0, 0]], [[5, 6, 3, 2], [6, 3, 0, 0]])
    """
    import tensorflow as tf

    texts, counts = [], []
    for document in documents:
        paragraphs = getattr(document, "paragraphs", document)
        paragraphs = [paragraphs] if isinstance(paragraphs, str) else paragraphs
        texts += paragraphs
        counts.append(len(paragraphs))
    encoded = iter(tokenizer.encode(texts))
    sequences = []
    for count in counts:
        ids = [i for _ in range(count) for i in next(encoded)]
        if ids:
            sequences.append([tokenizer.start_id, *ids, tokenizer.end_id])
    if not sequences:
        raise ValueError("The documents hold no token; expected some text.")
    if keep_documents_apart:
        rows = pack_rows([len(ids) - 1 for ids in sequences], sequence_length)
        token_ids = fill_rows(rows, [s[:-1] for s in sequences], tokenizer.padding_id)
        labels = fill_rows(rows, [s[1:] for s in sequences], tokenizer.padding_id)
        padding_mask = (rows.document_numbers > 0).astype("int32")
    else:
        running = np.fromiter((i for s in sequences for i in s), "int32")
        num_rows = -(-(len(running) - 1) // sequence_length)
        padded = np.full(num_rows * sequence_length + 1, tokenizer.padding_id, "int32")
        padded[: len(running)] = running
        token_ids = padded[:-1].reshape(num_rows, sequence_length)
        labels = padded[1:].reshape(num_rows, sequence_length)
        padding_mask = np.zeros(num_rows * sequence_length, "int32")
        padding_mask[: len(running) - 1] = 1
        padding_mask = padding_mask.reshape(num_rows, sequence_length)
        token_ids = np.where(padding_mask == 1, token_ids, tokenizer.padding_id)
    inputs = {"token_ids": token_ids, "padding_mask": padding_mask}
    if keep_documents_apart:
        inputs["document_numbers"] = rows.document_numbers
        inputs["position_ids"] = rows.position_ids
    weights = padding_mask.astype("float32")
    dataset = tf.data.Dataset.from_tensor_slices((inputs, labels, weights))
    if shuffle:
        dataset = dataset.shuffle(len(labels), seed=seed)
    dataset = dataset.batch(batch_size, drop_remainder=drop_remainder)
    if keep_documents_apart:
        dataset = dataset.map(_with_mask, num_parallel_calls=tf.data.AUTOTUNE)
    return Task(dataset.prefetch(tf.data.AUTOTUNE), [], [], len(labels), {})


def _with_mask(inputs, labels, weights):
    inputs = dict(inputs)
    numbers = inputs.pop("document_numbers")
    inputs["attention_mask"] = document_attention_mask(numbers)
    return inputs, labels, weights
