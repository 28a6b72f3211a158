"""How well named entities were found, as CoNLL and seqeval count it."""

import numpy as np


def decode_tags(labels, logits, tag_names, ignored_label=-100):
    """Reads the tags of words off a token classifier's logits.

    Args:
        labels: `(N, T)` int array; a position whose label is `ignored_label` bears no
            word.
        logits: `(N, T, C)` float array.
        tag_names: list of strings, the name of tag n at n.
        ignored_label: int.

    Returns:
        A list with a list of tag names for each row, one name a word.

    Example:
        >>> logits = np.eye(3)[[[1, 0, 2, 0]]]
        >>> decode_tags([[-100, 0, 1, -100]], logits, ["O", "B-place", "I-place"])
        [['O', 'I-place']]
    """
    kept = np.asarray(labels) != ignored_label
    best = np.asarray(logits).argmax(-1)
    return [
        [tag_names[tag] for tag in row[counts].tolist()]
        for row, counts in zip(best, kept, strict=True)
    ]


def entity_scores(true_tags, predicted_tags):
    """Scores named entities: one is right if its words and its type all are.

    Precision is the share of the predicted entities that are right, recall that of the
    true ones that were found, F1 `2 P R / (P + R)`, over all types together: the
    measure of the CoNLL-2003 shared task (Tjong Kim Sang and De Meulder 2003), as
    `seqeval` counts it in its default mode, where an entity may begin with `I-`.

    Args:
        true_tags: list with a list of tags for each sentence, such as `"B-person"`.
        predicted_tags: the same for the predictions. Name a word that was never
            predicted, because it did not fit, `"O"`.

    Returns:
        A dict of floats in [0, 1]: `"entity_precision"`, `"entity_recall"` and
        `"entity_f1"`. Hand a function that returns it to `EpochScores`.

    Raises:
        ImportError: if seqeval is missing.
        ValueError: if a sentence has not as many predicted as true tags.
    """
    try:
        from seqeval.metrics import f1_score, precision_score, recall_score
    except ImportError:
        raise ImportError(
            "Scoring entities needs seqeval. Install it with: "
            'pip install "keras_tformer[scores]"'
        ) from None
    lengths = [list(map(len, tags)) for tags in (true_tags, predicted_tags)]
    if lengths[0] != lengths[1]:
        raise ValueError(
            f"Received {sum(lengths[0])} true tags in {len(lengths[0])} sentences and "
            f"{sum(lengths[1])} predicted ones in {len(lengths[1])}. Expected one "
            'predicted tag for every true one. Fill up with "O" what was not predicted.'
        )
    measures = {
        "entity_precision": precision_score,
        "entity_recall": recall_score,
        "entity_f1": f1_score,
    }
    # 0 where nothing was found, which is so after the first steps: no warning.
    return {
        name: float(measure(true_tags, predicted_tags, zero_division=0))
        for name, measure in measures.items()
    }
