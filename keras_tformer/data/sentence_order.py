"""ALBERT's pretraining batches: masked words and the order of two segments."""

from keras_tformer.data.masking import check_share
from keras_tformer.data.pretraining_batches import pretraining_batches


def sentence_order_dataset(
    documents,
    tokenizer,
    sequence_length,
    batch_size,
    max_predictions=None,
    mask_share=0.15,
    masking="whole_word",
    seed=0,
    swap_share=0.5,
    short_sequence_share=0.1,
    num_epochs=None,
    first_step=0,
):
    """Turns documents into batches for masked words and sentence order.

    Each row packs two segments that follow each other in one document, swapped in
    `swap_share` of the rows, and hides some of its words: of the chosen tokens
    80 % become `[MASK]`, 10 % another token, 10 % stay. Documents are tokenized
    once, here. Segments are cut, swapped, masked and ordered anew in every epoch.
    Rows are whole sentences, as many as fit: one that ended within a sentence would
    give the order away. Only a sentence of more than half a row is cut.
    Lan et al. 2019 (arXiv 1909.11942), section 3.1; Devlin et al. 2018 (arXiv
    1810.04805), appendix A.

    A batch depends on `seed` and its number alone. So a run that stopped after
    `n` steps goes on with `first_step=n` as if it had never stopped.

    Args:
        documents: list of `Document`, or of lists of paragraphs.
        tokenizer: `WordPieceTokenizer` or `SentencePieceTokenizer`.
        sequence_length: int. Length `T` of a row.
        batch_size: int. Rows `B` of a batch; all batches are full.
        max_predictions: int. Most masked tokens `P` of a row. By default
            `mask_share` of `sequence_length`, rounded up.
        mask_share: float. Share of the tokens, special ones not counted, that is
            chosen; at least one word a row.
        masking: `"whole_word"` hides all pieces of a word, `"ngram"` one to three
            words in a row (with chances 6 : 3 : 2), `"subword"` single pieces.
        seed: int. Seed of every random choice.
        swap_share: float. Share of the rows whose segments are swapped.
        short_sequence_share: float. Share of the rows that are cut to a random
            shorter length.
        num_epochs: int, or None to repeat without end.
        first_step: int. Number of batches to skip, at no cost.

    Returns:
        A `tf.data.Dataset` of `(inputs, targets, sample_weights)`:
        inputs: int32 `"token_ids"`, `"segment_ids"`, `"padding_mask"` `(B, T)` and
        `"mask_positions"` `(B, P)`, ascending, then 0;
        targets: int32 `"masked_lm"` `(B, P)`, the hidden ids, and
        `"sentence_order"` `(B,)`, 1 where swapped;
        sample weights: float32 `"masked_lm"` `(B, P)`, 1 where a position counts,
        and `"sentence_order"` `(B,)`, all 1.

    Raises:
        ValueError: if a share is outside of 0 to 1, `masking` is unknown, the
            sequence has no room, or the documents hold fewer rows than a batch.
    """
    check_share("swap_share", swap_share)
    return pretraining_batches(
        "sentence_order",
        documents,
        tokenizer,
        sequence_length,
        batch_size,
        max_predictions,
        mask_share,
        masking,
        seed,
        swap_share,
        short_sequence_share,
        num_epochs,
        first_step,
    )
