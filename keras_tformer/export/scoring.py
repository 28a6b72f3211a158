"""What the labels say of an artefact's outputs and of its model's."""

import numpy as np

from keras_tformer.export.fixed_rows import joined


def scores_of(ours, theirs, labels, weights):
    """Both sides' accuracy and macro F1, of single numbers correlation and error."""
    scores = {}

    def add(name, side, measures):
        for measure, value in measures.items():
            key = measure if len(theirs) == 1 else f"{name}_{measure}"
            scores.setdefault(key, {})[side] = value

    for name, output in theirs.items():
        place = list(theirs).index(name) if len(theirs) > 1 else None
        truth = _gather(labels, name, place)
        if truth is None:
            continue
        if output.shape in ((len(output),), (len(output), 1)):
            if truth.size == len(output):
                for side, values in (("artefact", ours[name]), ("model", output)):
                    add(name, side, _regression_scores(truth.ravel(), values.ravel()))
            continue
        if output.ndim < 2 or output.shape[-1] < 2:
            continue
        if truth.shape == output.shape:
            truth = truth.argmax(-1)  # one-hot
        elif truth.shape == (*output.shape[:-1], 1):
            truth = truth[..., 0]
        if truth.shape != output.shape[:-1]:
            continue
        if truth.dtype.kind not in "biuf":
            raise ValueError(
                f"The labels of {name!r} are no numbers ({truth.dtype}). Expected the "
                "index of the class, or one-hot rows."
            )
        weight = _gather(weights, name, place)
        known = _known(truth, weight) & (truth >= 0)
        if not known.any():
            continue
        for side, values in (("artefact", ours[name]), ("model", theirs[name])):
            predicted = values.argmax(-1)[known]
            accuracy = float(np.mean(predicted == truth[known]))
            macro_f1 = _macro_f1(truth[known], predicted)
            add(name, side, {"accuracy": accuracy, "macro_f1": macro_f1})
    return scores


def _regression_scores(truth, values):
    truth, values = truth.astype("float64"), values.astype("float64")
    scores = {"mean_squared_error": float(np.mean((truth - values) ** 2))}
    if truth.std() and values.std():
        scores["pearson"] = float(np.corrcoef(truth, values)[0, 1])
    return scores


def _known(truth, weight):
    """Booleans in the shape of the labels: which of them have any weight."""
    if weight is None:
        return np.ones(truth.shape, bool)
    weight = weight > 0
    if weight.ndim > truth.ndim and weight.shape[-1] == 1:
        weight = weight[..., 0]
    while weight.ndim < truth.ndim:  # one weight a row
        weight = weight[..., None]
    return np.broadcast_to(weight, truth.shape)


def _gather(parts, name, place):
    """All batches' labels of one output: by name or place, as they are where None."""
    if isinstance(parts[0], dict):
        parts = [part.get(name) for part in parts]
    elif isinstance(parts[0], tuple):
        place = place or 0
        parts = [part[place] if place < len(part) else None for part in parts]
    elif place is not None:
        return None
    if any(part is None for part in parts):
        return None
    return joined([np.asarray(part) for part in parts])


def _macro_f1(truth, predicted):
    scores = []
    for label in np.union1d(truth, predicted):
        hit = np.sum((truth == label) & (predicted == label))
        scores.append(2 * hit / (np.sum(truth == label) + np.sum(predicted == label)))
    return float(np.mean(scores)) if scores else 0.0
