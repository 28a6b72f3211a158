"""What every task hands to `fit`."""

from typing import Any, NamedTuple


class Task(NamedTuple):
    """Batches of one task, and what is in them.

    Attributes:
        dataset: `tf.data.Dataset` of `(inputs, labels)` or `(inputs, labels, sample
            weights)`, ready for `model.fit`.
        class_names: list of strings, the name of class n at n; empty where the task
            has no classes.
        class_counts: list of ints, how many labels of each class there are.
        num_examples: int. Rows of one epoch.
        skipped: dict of ints by reason: what was left out of the input.
    """

    dataset: Any
    class_names: list
    class_counts: list
    num_examples: int
    skipped: dict


def padding_share(dataset, num_batches=None):
    """Tells what share of all positions in the batches hold padding.

    Args:
        dataset: `tf.data.Dataset` whose inputs are a dict with one or more
            `"...padding_mask"`.
        num_batches: int, or None to read one whole epoch.

    Returns:
        float from 0 to 1.

    Raises:
        ValueError: if there is no batch or no padding mask.
    """
    kept = total = 0
    for inputs, *_ in dataset if num_batches is None else dataset.take(num_batches):
        for name, mask in inputs.items():
            if name.endswith("padding_mask"):
                kept += int(mask.numpy().sum())
                total += mask.numpy().size
    if not total:
        raise ValueError(
            "The data set gave no padding mask; expected at least one batch with an "
            'input whose name ends in "padding_mask".'
        )
    return 1 - kept / total
