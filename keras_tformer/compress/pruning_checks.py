"""What a model and the arguments of pruning must be like."""

import warnings

import keras

from keras_tformer.compress.movement_pruning import PRUNING
from keras_tformer.compress.weight_clustering import WeightClustering


def check_model(model):
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "Pruning runs on the TensorFlow backend of Keras; this is "
            f"'{keras.backend.backend()}'. Set KERAS_BACKEND=tensorflow."
        )
    if not isinstance(model, keras.Model):
        raise ValueError(
            f"Expected a keras.Model to prune, received {type(model).__name__}."
        )
    if not model.built:
        raise ValueError(
            f"Model '{model.name}' has no weights yet. Call it once, or give its first "
            "layer a keras.Input, before you prune it."
        )
    for weight in model.weights:
        if isinstance(weight.constraint, PRUNING):
            raise ValueError(
                f"Weight '{weight.path}' is pruned already. Two schedules on one "
                "weight would undo each other: call strip_pruning(model) first; the "
                "zeros stay."
            )
        if isinstance(weight.constraint, WeightClustering):
            raise ValueError(
                f"Weight '{weight.path}' is clustered: prune first, strip_pruning, "
                "then cluster_weights(preserve_sparsity=True)."
            )
    optimizer = getattr(model, "optimizer", None)
    if getattr(optimizer, "use_ema", False):
        raise ValueError(
            "The model is compiled with use_ema=True: the averages that replace the "
            "weights at the end of fit are not sparse. Compile without it, or compile "
            "after pruning and let strip_pruning restore the zeros before you evaluate."
        )


def check_schedule(schedule, total_steps=None):
    if not callable(schedule):
        raise ValueError(
            "pruning_schedule is a schedule object such as kt.compress.PolynomialDecay"
            f"(...), or a function of the step; received {schedule!r}."
        )
    import tensorflow as tf

    try:
        prune_now, share = schedule(tf.constant(1, tf.int64))
        share = float(share)
        bool(prune_now)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "pruning_schedule(step) returns (prune now?, sparsity); "
            f"{schedule!r} does not. {error}"
        ) from error
    if not 0 <= share < 1:
        raise ValueError(
            f"pruning_schedule(1) asks for a sparsity of {share}, not in [0, 1)."
        )
    begin, end, frequency = (
        getattr(schedule, name, None)
        for name in ("begin_step", "end_step", "frequency")
    )
    if hasattr(schedule, "final_sparsity") and (end - begin) % frequency:
        last = end - (end - begin) % frequency
        warnings.warn(
            f"The schedule prunes every {frequency} steps from {begin}, so last at "
            f"step {last}, before its end_step {end}: final_sparsity is not quite "
            "reached. Choose a frequency that divides end_step - begin_step.",
            stacklevel=3,
        )
    if total_steps is None:
        return
    if not isinstance(total_steps, int) or total_steps < 1:
        raise ValueError(f"total_steps is a whole number >= 1, not {total_steps!r}.")
    if end is not None and end > total_steps:  # ConstantSparsity may have -1
        raise ValueError(
            f"The schedule ends at step {end}, and training has {total_steps} steps: "
            "it would be over before the final sparsity is reached. Choose an end_step "
            f"of {total_steps} or less, better half of it (the weights that are left "
            "need time to settle), or train for longer."
        )


def check_finished(constraint):
    """Raises ValueError if training was over before the schedule was."""
    steps = int(constraint.step.numpy())
    end_step = getattr(constraint.schedule, "end_step", None)
    if end_step is not None and steps < end_step:  # ConstantSparsity may have -1
        raise ValueError(
            f"The model was trained for {steps} steps, and its schedule ends at step "
            f"{end_step}: it is less sparse than the schedule says. Train on, nothing "
            "is lost; next time choose an end_step that training reaches. To take the "
            "model as it is: strip_pruning(model, allows_unfinished=True)."
        )


def two_positive_numbers(value, name):
    try:
        first, second = (int(number) for number in value)
    except (TypeError, ValueError):
        first = second = 0
    if first < 1 or second < 1:
        raise ValueError(f"{name} is a pair of positive whole numbers, not {value!r}.")
    return first, second


def check_weight(path, weight, block_size, sparsity_m_by_n):
    shape = tuple(weight.shape)
    if sparsity_m_by_n is not None:
        if len(shape) not in (2, 4):
            raise ValueError(
                f"sparsity_m_by_n needs weights of rank 2 or 4; '{path}' has shape "
                f"{shape}. Leave its layer out with layers=."
            )
        if shape[-2] % sparsity_m_by_n[1]:
            raise ValueError(
                f"sparsity_m_by_n={sparsity_m_by_n} does not divide the {shape[-2]} "
                f"inputs of '{path}', shape {shape}. Leave its layer out with layers=."
            )
    elif block_size != (1, 1):
        if len(shape) != 2:
            raise ValueError(
                f"Blocks need weights of rank 2; '{path}' has shape {shape}. Leave its "
                "layer out with layers=."
            )
        if shape[0] % block_size[0] or shape[1] % block_size[1]:
            raise ValueError(
                f"block_size={block_size} does not divide '{path}', shape {shape}. "
                "Choose another block, or leave its layer out with layers=."
            )
