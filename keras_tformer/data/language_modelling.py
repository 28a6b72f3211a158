"""Running text as batches for a causal language model."""

import numpy as np

from keras_tformer.data.document_packing import fill_rows, pack_rows
from keras_tformer.data.documents import encode_documents
from keras_tformer.data.import_tensorflow import import_tensorflow
from keras_tformer.data.task import Task


def language_modelling_task(
    documents,
    tokenizer,
    sequence_length,
    batch_size,
    has_packed_documents=False,
    shuffle=False,
    seed=0,
    drop_remainder=False,
):
    """Turns documents into batches in which every token is to be predicted.

    Documents are read as `[CLS] text [SEP]`, one behind the other, and cut into blocks
    of `sequence_length` (Radford et al. 2019, section 2); only the last block holds
    padding. With `has_packed_documents` each row holds whole documents, as many as
    fit, and says which token belongs to which, so that none looks at another.

    Args:
        documents: iterable of `Document`, of lists of paragraphs or of strings.
        tokenizer: `WordPieceTokenizer` or `SentencePieceTokenizer`.
        sequence_length: int. Length `T` of a row.
        batch_size: int. Rows `B` of a batch.
        has_packed_documents: bool. Pack whole documents, for
            `models.causal_lm(..., has_packed_documents=True)`: int32 `"document_ids"`
            `(B, T)` is one more input. Documents longer than a row are cut.
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
    tf = import_tensorflow()
    sequences = [
        [tokenizer.start_id, *ids, tokenizer.end_id]
        for ids in encode_documents(documents, tokenizer)
    ]
    if not sequences:
        raise ValueError("The documents hold no token; expected some text.")
    if has_packed_documents:
        rows = pack_rows([len(ids) - 1 for ids in sequences], sequence_length)
        token_ids = fill_rows(rows, [s[:-1] for s in sequences], tokenizer.padding_id)
        labels = fill_rows(rows, [s[1:] for s in sequences], tokenizer.padding_id)
        padding_mask = (rows.document_ids > 0).astype("int32")
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
    if has_packed_documents:
        inputs["document_ids"] = rows.document_ids
    weights = padding_mask.astype("float32")
    dataset = tf.data.Dataset.from_tensor_slices((inputs, labels, weights))
    if shuffle:
        dataset = dataset.shuffle(len(labels), seed=seed)
    dataset = dataset.batch(batch_size, drop_remainder=drop_remainder)
    return Task(dataset.prefetch(tf.data.AUTOTUNE), [], [], len(labels), {})
