"""Pretraining batches of masked words alone, with one document a row or several."""

import numpy as np

from keras_tformer.data.document_packing import fill_rows, pack_rows
from keras_tformer.data.documents import encode_documents
from keras_tformer.data.import_tensorflow import import_tensorflow
from keras_tformer.data.masking import check_masking, masker, row_uniform
from keras_tformer.data.pretraining_rows import (
    batches_by_step,
    cut_at_words,
    shuffled_rows,
)


def masked_lm_dataset(
    documents,
    tokenizer,
    sequence_length,
    batch_size,
    has_packed_documents=False,
    max_predictions=None,
    mask_share=0.15,
    masking="whole_word",
    seed=0,
    num_epochs=None,
    first_step=0,
):
    """Turns documents into batches for masked words, without pairs of segments.

    A document is `[CLS] text [SEP]`, cut at words where it is longer than a row (Liu et
    al. 2019, arXiv 1907.11692, section 4.2, "doc-sentences"). It has a row for itself,
    or shares it with others where `has_packed_documents` (Krell et al. 2021, arXiv
    2107.02027): less padding, so more text in each step. Documents are tokenized and
    packed once, here; words are masked and rows ordered anew in every epoch.

    A batch depends on `seed` and its number alone. So a run that stopped after
    `n` steps goes on with `first_step=n` as if it had never stopped.

    Args:
        documents: iterable of `Document`, of lists of paragraphs or of strings.
        tokenizer: `WordPieceTokenizer` or `SentencePieceTokenizer`.
        sequence_length: int. Length `T` of a row.
        batch_size: int. Rows `B` of a batch; all batches are full.
        has_packed_documents: bool. Put several documents into a row, for an encoder
            that was built with `has_packed_documents=True` and keeps them apart.
        max_predictions: int. Most masked tokens `P` of a row. By default
            `mask_share` of `sequence_length`, rounded up.
        mask_share, masking: see `sentence_order_dataset`.
        seed: int. Seed of every random choice.
        num_epochs: int, or None to repeat without end.
        first_step: int. Number of batches to skip, at no cost.

    Returns:
        A `tf.data.Dataset` of `(inputs, targets, sample_weights)` for `masked_lm`:
        inputs: int32 `"token_ids"`, `"segment_ids"` (all 0), `"padding_mask"`, with
        packed documents `"document_ids"` (1, 2 ... in each row, 0 for padding)
        `(B, T)`, and `"mask_positions"` `(B, P)`, ascending, then 0;
        targets: int32 `"masked_lm"` `(B, P)`, the hidden ids;
        sample weights: float32 `"masked_lm"` `(B, P)`, 1 where a position counts.

    Raises:
        ValueError: if a share is outside of 0 to 1, `masking` is unknown, the
            sequence has no room, or the documents hold fewer rows than a batch.

    Example:
        >>> from keras_tformer.text import WordPieceTokenizer
        >>> tokenizer = WordPieceTokenizer("[PAD] [UNK] [CLS] [SEP] [MASK] a b".split())
        >>> dataset = masked_lm_dataset([["a b"], ["b"]], tokenizer, 7, 1, True)
        >>> inputs, targets, weights = next(iter(dataset))
        >>> inputs["document_ids"].numpy().tolist()
        [[1, 1, 1, 1, 2, 2, 2]]
    """
    tf = import_tensorflow()
    max_predictions = check_masking(
        sequence_length, max_predictions, mask_share, masking
    )
    texts = texts_that_fit(documents, tokenizer, sequence_length)
    if has_packed_documents and texts:
        rows = pack_rows([len(ids) for ids in texts], sequence_length)
        document_ids = rows.document_ids
        token_ids = fill_rows(rows, texts, tokenizer.padding_id)
    else:
        shape = (len(texts), sequence_length)
        document_ids = np.zeros(shape, "int32")
        token_ids = np.full(shape, tokenizer.padding_id, "int32")
        for row, ids in enumerate(texts):
            document_ids[row, : len(ids)] = 1
            token_ids[row, : len(ids)] = ids
    num_rows = len(token_ids)
    with tf.init_scope():
        all_token_ids, all_document_ids = map(tf.constant, (token_ids, document_ids))
    mask = masker(tokenizer, max_predictions, mask_share, masking)

    def make_batch(step):
        index, epochs = shuffled_rows(step, batch_size, num_rows, seed)
        token_ids = tf.gather(all_token_ids, index)  # (B, T)
        document_ids = tf.gather(all_document_ids, index)
        inputs = {
            "token_ids": token_ids,
            "segment_ids": tf.zeros_like(token_ids),
            "padding_mask": tf.cast(document_ids > 0, tf.int32),
        }
        if has_packed_documents:
            inputs["document_ids"] = document_ids
        inputs, hidden_ids, weights = mask(inputs, row_uniform(seed, index, epochs))
        return inputs, {"masked_lm": hidden_ids}, {"masked_lm": weights}

    return batches_by_step(
        make_batch, num_rows, sequence_length, batch_size, num_epochs, first_step
    )


def texts_that_fit(documents, tokenizer, sequence_length):
    """Returns documents as `[CLS] text [SEP]`, long ones as several texts."""
    starts_word = tokenizer.starts_word
    return [
        [tokenizer.start_id, *piece, tokenizer.end_id]
        for ids in encode_documents(documents, tokenizer)
        for piece in cut_at_words(ids, starts_word, sequence_length - 2)
    ]
