"""BERT's pretraining batches: masked words and whether two segments belong together."""

from keras_tformer.data.masking import check_share
from keras_tformer.data.pretraining_batches import pretraining_batches


def next_sentence_dataset(
    documents,
    tokenizer,
    sequence_length,
    batch_size,
    max_predictions=None,
    mask_share=0.15,
    masking="whole_word",
    seed=0,
    random_share=0.5,
    short_sequence_share=0.1,
    num_epochs=None,
    first_step=0,
):
    """Turns documents into batches for masked words and next sentences.

    Each row packs two segments, the second one from another document in
    `random_share` of the rows and else what follows the first, and hides some of its
    words: of the chosen tokens 80 % become `[MASK]`, 10 % another token, 10 % stay.
    Documents are tokenized once, here. Segments are cut, paired, masked and ordered
    anew in every epoch. They are whole sentences, as many as fit: one that ended within
    a sentence would give the label away. Only a sentence of more than half a row is
    cut, and a random one where none that fits is found. Devlin et al. 2018 (arXiv
    1810.04805), section 3.1 and appendix A. A segment that gave way to another
    document's stays out of that epoch; `segment_pairs`, as BERT's own preparation, puts
    it back.

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
        random_share: float. Share of the rows whose second segment comes from another
            document.
        short_sequence_share: float. Share of the rows that are cut to a random
            shorter length.
        num_epochs: int, or None to repeat without end.
        first_step: int. Number of batches to skip, at no cost.

    Returns:
        A `tf.data.Dataset` of `(inputs, targets, sample_weights)`:
        inputs: int32 `"token_ids"`, `"segment_ids"`, `"padding_mask"` `(B, T)` and
        `"mask_positions"` `(B, P)`, ascending, then 0;
        targets: int32 `"masked_lm"` `(B, P)`, the hidden ids, and
        `"next_sentence"` `(B,)`, 1 where random;
        sample weights: float32 `"masked_lm"` `(B, P)`, 1 where a position counts,
        and `"next_sentence"` `(B,)`, all 1.

    Raises:
        ValueError: if a share is outside of 0 to 1, `masking` is unknown, the
            sequence has no room, there is only one document, or the documents hold
            fewer rows than a batch.
    """
    check_share("random_share", random_share)
    return pretraining_batches(
        "next_sentence",
        documents,
        tokenizer,
        sequence_length,
        batch_size,
        max_predictions,
        mask_share,
        masking,
        seed,
        random_share,
        short_sequence_share,
        num_epochs,
        first_step,
    )
