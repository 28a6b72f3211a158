"""Prove that an artefact computes what the Keras model computes."""

import os

import numpy as np

from keras_tformer.export.batches import numpy_batches
from keras_tformer.export.prediction import open_artefact
from keras_tformer.export.token_outputs import mask_name, token_outputs
from keras_tformer.export.tracing import call_flat, input_specs

FURTHER_EXAMPLES = 16  # of every setting after the first; without XNNPACK is slow
NEAR_TIE = 0.5  # standard deviations of an output between two of its values
# What holds where the caller gives no limit: as far as `to_tflite` lets int8 files go.
RELATIVE_TOLERANCE, MINIMUM_CLEAR_AGREEMENT = 0.15, 0.9


def verify(
    artefact,
    model,
    dataset,
    tolerance=None,
    relative_tolerance=None,
    minimum_agreement=None,
    minimum_clear_agreement=None,
    num_threads=(1, 2),
    use_default_delegate=(True, False),
    in_separate_process=False,
    max_examples=None,
    signature="serving_default",
):
    """Run an artefact on its real runtime and compare every output with the model's.

    A `.tflite` file runs in several settings, each thread count with and without the
    default delegate: a file may be right in one and wrong in another. The first setting
    answers all examples, the others the first 16, each under the same tolerances.
    Where none is given, `relative_tolerance=0.15` and `minimum_clear_agreement=0.9`
    hold: no file of another model passes. To measure only, give
    `tolerance=float("inf")`.

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
        minimum_clear_agreement: the same, where a near tie counts as equal: what the
            artefact predicts lies, in the model's output, less than half of the
            output's standard deviation below what the model predicts. Right files of
            any model have nearly 1, files of a model that has not learned as well.
        num_threads: thread counts of the LiteRT interpreter, or one.
        use_default_delegate: whether XNNPACK is on, both, or one (`.tflite` only).
        in_separate_process: run a SavedModel in a fresh process without Keras.
        max_examples: compare no more rows than this.
        signature: which function of the artefact is compared.

    Returns:
        A dict of the first setting: `runtime`, `num_threads`, `use_default_delegate`,
        `examples`, `largest_difference`, `mean_difference`, `relative_difference`,
        `agreement` (share of equal argmax over the last axis; None where outputs have
        one value), `clear_agreement` (near ties count as equal), each the worst of all
        outputs; `outputs` with the same per output;
        and with labels `accuracy` and `macro_f1`, for outputs of one value `pearson`
        (undefined, so left out, where all are equal) and `mean_squared_error`, each
        `{"artefact": ..., "model": ...}`; and `settings`, a list of the same (without
        labels) for every setting.
        Positions that the padding mask leaves out are not compared.

    Raises:
        ValueError: a tolerance is passed in any setting, the artefact does not load or
            its numbers or the model's are not finite, an output is missing, or the
            dataset is empty.

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
    shares = (minimum_agreement, minimum_clear_agreement)
    if all(limit is None for limit in (tolerance, relative_tolerance, *shares)):
        relative_tolerance = RELATIVE_TOLERANCE
        minimum_clear_agreement = MINIMUM_CLEAR_AGREEMENT
    settings = _settings(artefact, num_threads, use_default_delegate)
    runner = open_artefact(artefact, *settings[0], signature, in_separate_process)
    batches, references, labels, weights = [], [], [], []
    # An input that the model ignores may be gone from the artefact.
    shapes = {name: tuple(spec.shape) for name, spec in input_specs(model).items()}
    shapes |= runner.shapes
    for inputs, label, weight in numpy_batches(dataset, shapes, max_examples):
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
    theirs = {
        name: np.concatenate(_same_length([part[name] for part in references]))
        for name in references[0]
    }
    kept = _kept_positions(batches, theirs, model)
    for name, output in theirs.items():
        known = output if kept[name] is None else output[kept[name]]
        if not np.isfinite(known).all():
            raise ValueError(
                f"The Keras model's own output '{name}' is not finite on these "
                "examples (NaN or infinity), so nothing can be compared with it. Look "
                "at its weights and inputs: a training may have diverged."
            )
    ours = _answers(runner, batches, theirs)
    result = _compare_all(ours, theirs, kept, runner.runtime, settings[0])
    limits = (tolerance, relative_tolerance)
    shares = {"": minimum_agreement, "clear_": minimum_clear_agreement}
    complaints = _complaints(result, *limits, shares)
    result["settings"] = [dict(result)]
    result.update(_scores(ours, theirs, labels, weights))
    some = _first_rows(batches, FURTHER_EXAMPLES)
    for setting in settings[1:]:
        runner = open_artefact(artefact, *setting, signature)
        answers = _answers(runner, some, theirs)
        further = _compare_all(answers, theirs, kept, runner.runtime, setting)
        result["settings"].append(further)
        one = 1 / further["examples"]  # of so few rows, one may differ
        few = {k: x if x is None else min(x, 1 - one) for k, x in shares.items()}
        complaints += _complaints(further, *limits, few)
    if complaints:
        raise ValueError(
            "The artefact does not compute what the Keras model computes: "
            + "; ".join(complaints)
            + f". Compared on {result['examples']} examples with {result['runtime']}."
        )
    return result


def _settings(artefact, num_threads, use_default_delegate):
    """Pairs of a thread count and whether the delegate is on, the usual one first."""
    if os.path.isdir(artefact):
        return [(1, True)]
    threads = [num_threads] if isinstance(num_threads, int) else list(num_threads)
    delegates = use_default_delegate
    delegates = [delegates] if isinstance(delegates, bool) else list(delegates)
    if not threads or min(threads) < 1 or not delegates:
        raise ValueError(
            f"Received num_threads={num_threads!r}, use_default_delegate="
            f"{use_default_delegate!r}. Expected positive numbers, True or False."
        )
    return [(count, delegate) for delegate in delegates for count in threads]


def _answers(runner, batches, theirs):
    outputs = runner(batches)
    missing = sorted(set(theirs) - set(outputs))
    if missing:
        raise ValueError(
            f"The artefact lacks the outputs {missing}; it has {sorted(outputs)}. "
            "Was it exported from this model?"
        )
    return {
        name: _pad_to(outputs[name], (len(outputs[name]), *output.shape[1:]))
        for name, output in theirs.items()
    }


def _first_rows(batches, rows):
    """The first rows of all batches together."""
    some = []
    for batch in batches:
        size = len(next(iter(batch.values())))
        if rows > 0:
            some.append({name: array[:rows] for name, array in batch.items()})
        rows -= size
    return some


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


def _kept_positions(batches, theirs, model):
    """`{output: (B, T) booleans or None}`, not None where it has a value a token."""
    kept = dict.fromkeys(theirs)
    name = mask_name(model)
    if name is None:
        return kept
    masks = _same_length([batch[name] for batch in batches])
    mask = np.concatenate(masks).astype(bool)  # (B, T)
    return kept | dict.fromkeys(token_outputs(model, name, mask.shape[1]), mask)


def _compare_all(ours, theirs, kept, runtime, setting):
    """All outputs of one setting; `ours` may have the first rows only."""
    compared = {name: _compare(ours[name], theirs[name], kept[name]) for name in theirs}
    worst = {
        key: max(part[key] for part in compared.values())
        for key in ("largest_difference", "mean_difference", "relative_difference")
    }
    for key in ("agreement", "clear_agreement"):
        shares = [part[key] for part in compared.values() if part[key] is not None]
        worst[key] = min(shares) if shares else None
    return {
        "runtime": runtime,
        "num_threads": setting[0],
        "use_default_delegate": setting[1],
        "examples": len(next(iter(ours.values()))),
        **worst,
        "outputs": compared,
    }


def _compare(ours, theirs, kept):
    known = theirs if kept is None else theirs[kept]
    scale = float(np.abs(known).max())
    spread = max(float(np.std(known)), 1e-3 * scale, 1e-12)
    rows = len(ours)
    theirs = theirs[:rows]
    kept = None if kept is None else kept[:rows]
    agreement = clear_agreement = None
    if theirs.ndim > 1 and theirs.shape[-1] > 1:
        chosen = ours.argmax(-1)[..., None]
        equal = chosen[..., 0] == theirs.argmax(-1)
        short = theirs.max(-1) - np.take_along_axis(theirs, chosen, -1)[..., 0]
        if kept is not None and equal.shape == kept.shape:
            equal, short = equal[kept], short[kept]
        agreement = float(np.mean(equal))
        clear_agreement = float(np.mean(equal | (short < NEAR_TIE * spread)))
    if kept is not None:
        ours, theirs = ours[kept], theirs[kept]
    difference = np.abs(ours.astype("float64") - theirs)
    return {
        "largest_difference": float(difference.max()),
        "mean_difference": float(difference.mean()),
        "relative_difference": float(difference.mean() / spread),
        "largest_output": scale,
        "agreement": agreement,
        "clear_agreement": clear_agreement,
    }


def _scores(ours, theirs, labels, weights):
    """Both sides' accuracy and macro F1, of single numbers correlation and error."""
    scores = {}

    def add(name, side, measures):
        for measure, value in measures.items():
            key = measure if len(theirs) == 1 else f"{name}_{measure}"
            scores.setdefault(key, {})[side] = value

    for name, output in theirs.items():
        truth = _gather(labels, name, len(theirs) == 1)
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
        weight = _gather(weights, name, len(theirs) == 1)
        known = np.ones(truth.shape, bool) if weight is None else weight > 0
        known = np.broadcast_to(known, truth.shape) & (truth >= 0)
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


def _complaints(result, tolerance, relative_tolerance, minimum_shares):
    """What is wrong in one setting, as sentences."""
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
        for kind, least in minimum_shares.items():
            share = part[f"{kind}agreement"]
            if least is not None and share is not None and share < least:
                aside = ", near ties aside" if kind else ""
                complaints.append(
                    f"{name}: {share:.1%} of the predictions are equal{aside} "
                    f"(at least {least:.1%} expected)"
                )
    delegate = "on" if result["use_default_delegate"] else "off"
    where = f" with {result['num_threads']} thread(s), delegate {delegate}"
    return [complaint + where for complaint in complaints]
