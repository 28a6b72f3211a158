"""Prove that an artefact computes what the Keras model computes."""

import numpy as np

from keras_tformer.export.batches import numpy_batches
from keras_tformer.export.prediction import open_artefact
from keras_tformer.export.tracing import call_flat, input_specs


def verify(
    artefact,
    model,
    dataset,
    tolerance=None,
    relative_tolerance=None,
    minimum_agreement=None,
    num_threads=1,
    use_default_delegate=True,
    in_separate_process=False,
    max_examples=None,
):
    """Run an artefact on its real runtime and compare every output with the model's.

    Args:
        artefact: a `.tflite` file (runs on `ai_edge_litert`) or a SavedModel folder
            (runs on TensorFlow).
        model: the `keras.Model` that it was exported from.
        dataset: as in `predict`; with labels, both sides are scored as well.
        tolerance: largest absolute difference allowed, measured in units of the
            model's largest output where that is above 1.
        relative_tolerance: largest mean absolute difference allowed, in units of
            the output's standard deviation (the measure for quantized files).
        minimum_agreement: smallest share of equal predictions allowed.
        num_threads: threads of the LiteRT interpreter.
        use_default_delegate: False turns XNNPACK off (`.tflite` only).
        in_separate_process: run a SavedModel in a fresh process without Keras.
        max_examples: compare no more rows than this.

    Returns:
        A dict: `runtime`, `num_threads`, `use_default_delegate`, `examples`,
        `largest_difference`, `mean_difference`, `relative_difference`, `agreement`
        (share of equal argmax over the last axis; None where outputs have one value),
        each the worst of all outputs; `outputs` with the same per output; and with
        labels `accuracy` and `macro_f1`, each `{"artefact": ..., "model": ...}`.
        Positions that the padding mask leaves out are not compared.

    Raises:
        ValueError: a tolerance is passed, the artefact's numbers are not finite,
            an output is missing, or the dataset is empty.

    Example:
        >>> import keras, tempfile
        >>> from keras_tformer.export import to_saved_model
        >>> x = keras.Input((5,), name="x")
        >>> model = keras.Model({"x": x}, keras.layers.Dense(3)(x))
        >>> folder = tempfile.mkdtemp() + "/model"
        >>> report = to_saved_model(model, folder)
        >>> data = {"x": np.ones((7, 5), "float32")}, np.zeros(7, "int32")
        >>> result = verify(folder, model, data, tolerance=1e-5)
        >>> result["examples"], sorted(result["accuracy"])
        (7, ['artefact', 'model'])
    """
    runner = open_artefact(
        artefact,
        num_threads,
        use_default_delegate,
        in_separate_process=in_separate_process,
    )
    ours, theirs, kept, labels, weights = {}, {}, {}, [], []
    examples = 0
    batches, references = [], []
    # An input that the model ignores may be gone from the artefact.
    shapes = {name: tuple(spec.shape) for name, spec in input_specs(model).items()}
    shapes |= runner.shapes
    for inputs, label, weight in numpy_batches(dataset, shapes, max_examples):
        examples += len(next(iter(inputs.values())))
        batches.append(inputs)
        references.append(
            {
                name: np.asarray(value, "float32")
                for name, value in call_flat(model, inputs).items()
            }
        )
        labels.append(label)
        weights.append(weight)
    if not batches:
        raise ValueError(
            "The dataset is empty: nothing was compared. Hand over at least one "
            "example (a dataset that repeats or was used up yields none)."
        )
    outputs = runner(batches)
    _check_names(outputs, references[0])
    for name in references[0]:
        rows = [reference[name] for reference in references]
        theirs[name] = np.concatenate(_same_length(rows))
        ours[name] = _pad_to(outputs[name], theirs[name].shape)
        kept[name] = _kept_positions(batches, theirs[name])
    compared = {name: _compare(ours[name], theirs[name], kept[name]) for name in ours}
    result = {
        "runtime": runner.runtime,
        "num_threads": num_threads,
        "use_default_delegate": use_default_delegate,
        "examples": examples,
        **_worst(compared),
        "outputs": compared,
    }
    result.update(_scores(ours, theirs, labels, weights))
    _check(result, tolerance, relative_tolerance, minimum_agreement)
    return result


def _check_names(outputs, reference):
    missing = sorted(set(reference) - set(outputs))
    if missing:
        raise ValueError(
            f"The artefact lacks the outputs {missing}; it has {sorted(outputs)}. "
            "Was it exported from this model?"
        )


def _same_length(parts):
    length = max(part.shape[1] for part in parts) if parts[0].ndim > 1 else 0
    return [
        part
        if part.ndim < 2 or part.shape[1] == length
        else _pad_to(part, (len(part), length, *part.shape[2:]))
        for part in parts
    ]


def _pad_to(array, shape):
    return np.pad(array, [(0, n - array.shape[i]) for i, n in enumerate(shape)])


def _kept_positions(batches, output):
    """(B, T) booleans where an output has one value or row for each token."""
    if "padding_mask" not in batches[0] or output.ndim < 2:
        return None
    masks = _same_length([batch["padding_mask"] for batch in batches])
    mask = np.concatenate(masks).astype(bool)
    return mask if mask.shape == output.shape[:2] else None


def _compare(ours, theirs, kept):
    agreement = None
    if theirs.ndim > 1 and theirs.shape[-1] > 1:
        equal = ours.argmax(-1) == theirs.argmax(-1)
        by_token = kept is not None and equal.shape == kept.shape
        agreement = float(np.mean(equal[kept] if by_token else equal))
    if kept is not None:
        ours, theirs = ours[kept], theirs[kept]
    difference = np.abs(ours.astype("float64") - theirs)
    spread = max(float(np.std(theirs)), 1e-3 * float(np.abs(theirs).max()), 1e-12)
    return {
        "largest_difference": float(difference.max()),
        "mean_difference": float(difference.mean()),
        "relative_difference": float(difference.mean() / spread),
        "largest_output": float(np.abs(theirs).max()),
        "agreement": agreement,
    }


def _worst(compared):
    worst = {
        key: max(part[key] for part in compared.values())
        for key in ("largest_difference", "mean_difference", "relative_difference")
    }
    agreements = [part["agreement"] for part in compared.values()]
    agreements = [share for share in agreements if share is not None]
    return {**worst, "agreement": min(agreements) if agreements else None}


def _scores(ours, theirs, labels, weights):
    """Accuracy and macro F1 of both sides, where class labels are there."""
    scores = {}
    for name, output in theirs.items():
        truth = _gather(labels, name, len(theirs) == 1)
        if truth is None or output.ndim < 2 or output.shape[-1] < 2:
            continue
        if truth.shape == output.shape:
            truth = truth.argmax(-1)  # one-hot
        elif truth.shape == (*output.shape[:-1], 1):
            truth = truth[..., 0]
        if truth.shape != output.shape[:-1]:
            continue
        weight = _gather(weights, name, len(theirs) == 1)
        known = np.ones(truth.shape, bool) if weight is None else weight > 0
        known = np.broadcast_to(known, truth.shape) & (truth >= 0)
        for side, values in (("artefact", ours[name]), ("model", theirs[name])):
            predicted = values.argmax(-1)[known]
            accuracy = float(np.mean(predicted == truth[known]))
            macro_f1 = _macro_f1(truth[known], predicted)
            for measure, value in (("accuracy", accuracy), ("macro_f1", macro_f1)):
                key = measure if len(theirs) == 1 else f"{name}_{measure}"
                scores.setdefault(key, {})[side] = value
    return scores


def _gather(parts, name, is_only_output):
    """All batches' labels of one output: by name, or as they are for the only one."""
    if isinstance(parts[0], dict):
        parts = [part.get(name) for part in parts]
    elif not is_only_output:
        return None
    if any(part is None for part in parts):
        return None
    return np.concatenate(_same_length([np.asarray(part) for part in parts]))


def _macro_f1(truth, predicted):
    scores = []
    for label in np.union1d(truth, predicted):
        hit = np.sum((truth == label) & (predicted == label))
        scores.append(2 * hit / (np.sum(truth == label) + np.sum(predicted == label)))
    return float(np.mean(scores)) if scores else 0.0


def _check(result, tolerance, relative_tolerance, minimum_agreement):
    complaints = []
    if not np.isfinite(result["mean_difference"]):
        complaints.append("its outputs are not finite numbers")
    for name, part in result["outputs"].items():
        scale = max(1.0, part["largest_output"])
        if tolerance is not None and part["largest_difference"] > tolerance * scale:
            complaints.append(
                f"{name}: largest difference {part['largest_difference']:.3g} "
                f"(allowed {tolerance * scale:.3g})"
            )
        relative = part["relative_difference"]
        if relative_tolerance is not None and relative > relative_tolerance:
            complaints.append(
                f"{name}: mean difference is {relative:.3g} of the output's standard "
                f"deviation (allowed {relative_tolerance:.3g})"
            )
        agreement = part["agreement"]
        if minimum_agreement is not None and agreement is not None:
            if agreement < minimum_agreement:
                complaints.append(
                    f"{name}: {agreement:.1%} of the predictions are equal (at least "
                    f"{minimum_agreement:.1%} expected)"
                )
    if complaints:
        raise ValueError(
            "The artefact does not compute what the Keras model computes: "
            + "; ".join(complaints)
            + f". Compared on {result['examples']} examples with {result['runtime']}."
        )
