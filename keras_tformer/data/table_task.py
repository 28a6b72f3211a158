"""Classification and regression from a table to batches."""

from keras_tformer.data.classification import classification_dataset
from keras_tformer.data.tables import Examples, read_examples
from keras_tformer.data.task import Task


def table_task(
    examples,
    tokenizer,
    sequence_length,
    batch_size,
    glue_task=None,
    class_names=None,
    shuffle=False,
    seed=0,
    drop_remainder=False,
):
    """Turns texts or pairs of texts into batches with class or number labels.

    Args:
        examples: `Examples` of `read_examples`, or the path of a file with columns
            `text` and `label` (or those of `glue_task`).
        tokenizer: `WordPieceTokenizer` or `SentencePieceTokenizer`.
        sequence_length: int. Length `T` of a row.
        batch_size: int. Rows `B` of a batch.
        glue_task: str, or None, for a path: see `read_examples`.
        class_names: list of strings, or None for those of the examples. Give those of
            the training set for a dev set that may lack a class.
        shuffle: bool. Another order in every epoch.
        seed: int. Seed of the order.
        drop_remainder: bool. Leave out the last batch if it is not full.

    Returns:
        A `Task`. Its dataset holds `(inputs, labels)`: int32 `"token_ids"`,
        `"segment_ids"` and `"padding_mask"` `(B, T)`; labels int32 `(B,)`, or
        float32 for regression, where `class_names` is empty.

    Raises:
        ValueError: see `read_examples` and `classification_dataset`.

    Example:
        >>> from keras_tformer.text import WordPieceTokenizer
        >>> tokenizer = WordPieceTokenizer("[PAD] [UNK] [CLS] [SEP] [MASK] a b".split())
        >>> examples = Examples(["a b", "b"], None, ["x", "y"], ["x", "y"], [1, 1], {})
        >>> task = table_task(examples, tokenizer, 5, 2)
        >>> task.class_names, task.class_counts
        (['x', 'y'], [1, 1])
    """
    if not isinstance(examples, Examples):
        examples = read_examples(examples, glue_task=glue_task)
    regression = not examples.class_names
    if not regression and class_names is None:
        class_names = examples.class_names
    names = list(class_names or [])
    dataset = classification_dataset(
        examples.texts,
        examples.labels,
        tokenizer,
        sequence_length,
        batch_size,
        class_names=None if regression else names,
        shuffle=shuffle,
        seed=seed,
        second_texts=examples.second_texts,
        drop_remainder=drop_remainder,
    )
    counts = dict(zip(examples.class_names, examples.class_counts, strict=True))
    return Task(
        dataset,
        [] if regression else names,
        [counts.get(name, 0) for name in names],
        len(examples.texts),
        examples.skipped,
    )
