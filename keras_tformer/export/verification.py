"""Prove that an artefact computes what the Keras model computes."""

import os

import numpy as np

from keras_tformer.export.arguments import true_and_false, whole_numbers
from keras_tformer.export.batches import numpy_batches
from keras_tformer.export.comparison import compare_all, kept_positions
from keras_tformer.export.fixed_rows import filled, joined_outputs, unreadable
from keras_tformer.export.limits import Limits, kind_of
from keras_tformer.export.prediction import open_artefact
from keras_tformer.export.scoring import scores_of
from keras_tformer.export.tracing import (
    as_float32,
    call_flat,
    check_exportable,
    input_specs,
)

FURTHER_EXAMPLES = 16  # of every setting after the first; without XNNPACK is slow


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
    Without `tolerance` and `relative_tolerance` those that suit the artefact hold: of a
    SavedModel or float32 file 1e-4 and 0.01, of one with float16 weights 0.01 and 0.05,
    of a quantized one (or a model that computes in half precision or rounds itself)
    `relative_tolerance=0.15`; without any limit, `minimum_clear_agreement=0.9` as well.
    To measure only, give `tolerance=float("inf")`.

    Args:
        artefact: a `.tflite` file (runs on `ai_edge_litert`) or a SavedModel folder
            (runs on TensorFlow).
        model: the `keras.Model` that it was exported from.
        dataset: as in `predict`; with labels, both sides are scored as well.
        tolerance: largest absolute difference allowed, measured in units of the
            model's largest output where that is above 1.
        relative_tolerance: largest mean absolute difference allowed, in units of
            the output's standard deviation (the measure for quantized files). It must
            also be less than 5 to 7.5 times as many standard deviations around the
            means of the classes (from 8 rows on; 0.75 of them where 0.1 to 0.15 is
            allowed): those are what inputs change, not biases.
        minimum_agreement: smallest share of equal predictions allowed. Outputs of one
            value have none.
        minimum_clear_agreement: the same, where a near tie counts as equal: what the
            artefact predicts lies, in the model's output, less than half of the
            output's standard deviation below what the model predicts. Right files of
            any model have nearly 1, files of a model that has not learned as well.
        num_threads: thread counts of the LiteRT interpreter, or one.
        use_default_delegate: whether XNNPACK is on, both, or one (`.tflite` only).
        in_separate_process: run a SavedModel in a fresh process without Keras.
        max_examples: compare no more rows than this; needed for an endless dataset.
        signature: which function of the artefact is compared.

    Returns:
        A dict of the first setting: `runtime`, `num_threads`, `use_default_delegate`,
        `examples`, `largest_difference`, `mean_difference`, `relative_difference`,
        `centred_difference` (around the means of classes), `agreement` (share of equal
        argmax over the last axis; None where outputs have one value),
        `clear_agreement` (near ties count as equal), each the worst of all outputs;
        `outputs` with the same per output;
        and with labels `accuracy` and `macro_f1` (left out where all weights are 0),
        for outputs of one value `pearson` (undefined, so left out, where all are equal)
        and `mean_squared_error`, each `{"artefact": ..., "model": ...}`; and
        `settings`, a list of the same (without labels) for every setting.
        Positions that the padding mask leaves out are not compared.

    Raises:
        ValueError: a limit is passed in any setting or is no number from 0 on, shares
            are the only limit and there are none, the artefact does not load, its
            numbers or the model's are not finite, an output is missing or has another
            shape, or the dataset is empty or does not fit.

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
    check_exportable(model)
    limits = Limits(
        tolerance, relative_tolerance, minimum_agreement, minimum_clear_agreement
    )
    settings = _settings(artefact, num_threads, use_default_delegate)
    runner = open_artefact(artefact, *settings[0], signature, in_separate_process)
    if limits.are_open:
        limits.suit(kind_of(artefact, model, runner))
    # An input that the model ignores may be gone from the artefact.
    specs = input_specs(model)
    shapes = {name: tuple(spec.shape) for name, spec in specs.items()}
    dtypes = {name: spec.dtype.as_numpy_dtype for name, spec in specs.items()}
    has_order = len(specs) > 1 and isinstance(model.input, (list, tuple))
    order = tuple(specs) if has_order else ()
    data = numpy_batches(
        dataset,
        shapes | runner.shapes,
        max_examples,
        dtypes | runner.dtypes,
        order,
    )
    elements = list(data)
    if not elements:
        raise ValueError(
            "The dataset is empty: nothing was compared. Hand over at least one "
            "example (a dataset that repeats or was used up yields none)."
        )
    batches, labels, weights = zip(*elements, strict=True)
    theirs = _references(model, batches, specs)
    kept = kept_positions(batches, theirs, model)
    for name, output in theirs.items():
        known = output if kept[name] is None else output[kept[name]]
        if not np.isfinite(known).all():
            raise ValueError(
                f"The Keras model's own output '{name}' is not finite on these "
                "examples (NaN or infinity), so nothing can be compared with it. Look "
                "at its weights and inputs: a training may have diverged."
            )
    ours = _answers(runner, batches, theirs)
    result = compare_all(ours, theirs, kept, runner.runtime, settings[0])
    limits.check_shares(result)
    complaints = limits.complaints(result)
    result["settings"] = [dict(result)]
    result.update(scores_of(ours, theirs, labels, weights))
    some = _first_rows(batches, FURTHER_EXAMPLES)
    for setting in settings[1:]:
        runner = open_artefact(artefact, *setting, signature)
        answers = _answers(runner, some, theirs)
        further = compare_all(answers, theirs, kept, runner.runtime, setting)
        result["settings"].append(further)
        complaints += limits.complaints(further, is_first=False)
    if complaints:
        raise ValueError(
            "The artefact does not compute what the Keras model computes: "
            + "; ".join(complaints)
            + f". Compared on {result['examples']} examples with {result['runtime']}."
        )
    return result


def _settings(artefact, num_threads, use_default_delegate):
    """Pairs of a thread count and whether the delegate is on, the usual one first."""
    threads = whole_numbers("num_threads", num_threads)
    delegates = true_and_false("use_default_delegate", use_default_delegate)
    if os.path.isdir(artefact):
        return [(1, True)]
    return [(count, delegate) for delegate in delegates for count in threads]


def _references(model, batches, specs):
    """The model's outputs, from a graph as in `predict`; the artefact's is one, too.

    Called op by op, a model that computes in half precision rounds otherwise.
    """
    import tensorflow as tf

    known = {}
    for name, spec in specs.items():
        sizes = {batch[name].shape[1:] for batch in batches}
        shape = sizes.pop() if len(sizes) == 1 else spec.shape[1:]
        known[name] = tf.TensorSpec([spec.shape[0], *shape], spec.dtype, name)

    @tf.function(autograph=False)
    def call(inputs):
        outputs = call_flat(model, inputs)
        return {name: as_float32(value, None) for name, value in outputs.items()}

    call = call.get_concrete_function(known)  # one for all: nothing is traced again

    def run(feed):
        feed = {
            name: tf.constant(array.astype(known[name].dtype.as_numpy_dtype))
            for name, array in feed.items()
        }
        try:
            return {name: value.numpy() for name, value in call(feed).items()}
        except tf.errors.OpError as error:
            raise unreadable(model.name, "The Keras model", error.message) from error

    rows = next(iter(specs.values())).shape[0]
    return joined_outputs(batches, specs, rows, run)


def _answers(runner, batches, theirs):
    outputs = runner(batches)
    missing = sorted(set(theirs) - set(outputs))
    if missing:
        raise ValueError(
            f"The artefact lacks the outputs {missing}; it has {sorted(outputs)}. "
            "Was it exported from this model?"
        )
    ours = {}
    for name, output in theirs.items():
        rows = len(outputs[name])
        # Fewer rows may all be shorter.
        longest = output[:rows].shape if rows < len(output) else outputs[name].shape
        if outputs[name].shape[1:] != output.shape[1:] and rows == len(output):
            raise ValueError(
                f"The artefact's output {name!r} has the shape {outputs[name].shape}, "
                f"the model's {output.shape}. Was it exported from this model?"
            )
        ours[name] = filled(outputs[name], longest)
    return ours


def _first_rows(batches, rows):
    """The first rows of all batches together."""
    some = []
    for batch in batches:
        size = len(next(iter(batch.values())))
        if rows > 0:
            some.append({name: array[:rows] for name, array in batch.items()})
        rows -= size
    return some
