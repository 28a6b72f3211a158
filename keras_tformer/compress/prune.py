"""Magnitude pruning of any Keras 3 model while it trains."""

import contextlib
import warnings

import keras
import numpy as np

from keras_tformer.compress.magnitude_pruning import MagnitudePruning, PruningState
from keras_tformer.compress.prunable_weights import prunable_weights


def prune_low_magnitude(
    model,
    pruning_schedule,
    block_size=(1, 1),
    block_pooling_type="AVG",
    sparsity_m_by_n=None,
    layers=None,
):
    """Makes a model prune itself while it trains: its smallest weights become zero.

    Zhu and Gupta 2017, "To prune, or not to prune", in the words of TF-MOT
    (`tfmot.sparsity.keras.prune_low_magnitude`) and with its masks. Every chosen weight
    gets a constraint, which the optimizer applies after each update inside the compiled
    step: no callback is needed, and `jit_compile`, `steps_per_execution`, mixed
    precision, gradient accumulation and MirroredStrategy work as ever.

    The *same model object* is returned, with the constraints attached; compile it
    afterwards or before. Mask and step count are saved in the model's checkpoints and
    weight files (`model.pruning_state`): to resume, build the model, prune it again in
    the same way and load the weights. Such files also load into the plain model.

    Args:
        model: a built `keras.Model` of the TensorFlow backend; composite layers may
            stay composite. Under a distribution strategy it was built in its scope.
        pruning_schedule: a schedule of TF-MOT (`kt.compress.PolynomialDecay`,
            `kt.compress.ConstantSparsity`), or any function of the step (int64 tensor,
            batches trained so far, from 1) -> (prune now?, sparsity in [0, 1)).
        block_size: (input rows, output columns) of the blocks of a rank-2 weight that
            live and die together. LiteRT's sparse int8 kernels want (16, 1).
        block_pooling_type: `"AVG"` or `"MAX"`, the magnitude of a block.
        sparsity_m_by_n: (m, n), m zeros in every n consecutive weights along the input
            axis, as (2, 4). The mask is made at step 1 and stays; the schedule is not
            asked (as in TF-MOT).
        layers: which layers to prune: a list of names (of composite layers too) and
            types, or a function(layer) -> bool. None: all kernels and embedding tables
            (with blocks or m by n: kernels only), but not the last classifier. Biases
            and normalization layers are never pruned.

    Returns:
        `model`.

    Raises:
        ValueError: if the model is not built, is pruned already, a layer is unknown, a
            block does not divide a weight, the schedule is none, or the compiled
            optimizer keeps an exponential moving average of the weights.

    Example:

    >>> import keras
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4),
    ...                           keras.layers.Dense(1)])
    >>> schedule = lambda step: (step == 2, 0.75)  # so are TF-MOT's schedules
    >>> model = prune_low_magnitude(model, schedule)
    >>> model.compile("adam", "mse")
    >>> inputs, targets = keras.ops.ones((6, 8)), keras.ops.ones((6, 1))
    >>> history = model.fit(inputs, targets, batch_size=2, verbose=0)
    >>> from keras_tformer.compress import sparsity
    >>> [share for share in sparsity(strip_pruning(model)).values()]
    [0.75, 0.0]
    """
    _check_model(model)
    _check_schedule(pruning_schedule)
    block_size = _two_positive_numbers(block_size, "block_size")
    if block_pooling_type not in ("AVG", "MAX"):
        raise ValueError(
            f"block_pooling_type is 'AVG' or 'MAX', not {block_pooling_type!r}."
        )
    if sparsity_m_by_n is not None:
        sparsity_m_by_n = _two_positive_numbers(sparsity_m_by_n, "sparsity_m_by_n")
        if sparsity_m_by_n[0] >= sparsity_m_by_n[1]:
            raise ValueError(
                "sparsity_m_by_n=(m, n) makes m of n weights zero, so m is smaller "
                f"than n. Received {sparsity_m_by_n}."
            )
        if block_size != (1, 1):
            raise ValueError(
                f"Choose one: sparsity_m_by_n={sparsity_m_by_n} or "
                f"block_size={block_size}."
            )
    structured = block_size != (1, 1) or sparsity_m_by_n is not None
    weights = prunable_weights(model, layers, tables=not structured)
    if not weights:
        raise ValueError(
            f"The choice layers={layers} holds no kernel and no embedding table."
        )
    for path, weight in weights:
        _check_weight(path, weight, block_size, sparsity_m_by_n)
    with strategy_scope(model):
        state = PruningState([weight for _, weight in weights])
    for index, (_, weight) in enumerate(weights):
        weight.constraint = MagnitudePruning(
            pruning_schedule,
            state.masks[index],
            state.steps[index],
            block_size,
            block_pooling_type,
            sparsity_m_by_n,
            inner=weight.constraint,
        )
    # Not a tracked attribute: the masks are saved with the model but are not among its
    # weights, so that get_weights and summary stay those of the model.
    model.__dict__["pruning_state"] = state
    _forget_compiled_steps(model)
    return model


def strip_pruning(model):
    """Takes the pruning constraints off a model; the zeros stay.

    The masks are applied once more, so that weights which an optimizer replaced after
    its last step (`use_ema=True`) have their zeros, too.

    Args:
        model: a model that `prune_low_magnitude` returned, trained.

    Returns:
        The same model object, plain again: it saves and loads without this package's
        compression. Compile it again before you train on; plain training lets the zeros
        grow back, `quantize_model(preserve_sparsity=True)` does not.

    Raises:
        ValueError: if the model is not pruned.

    Example:

    >>> import keras
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4),
    ...                           keras.layers.Dense(1)])
    >>> model = prune_low_magnitude(model, lambda step: (step == 1, 0.5))
    >>> strip_pruning(model) is model
    True
    """
    pruned = [w for w in model.weights if isinstance(w.constraint, MagnitudePruning)]
    if not pruned:
        raise ValueError(f"Model '{model.name}' is not pruned: nothing to strip.")
    for weight in pruned:
        mask = weight.constraint.mask.numpy()
        weight.assign(np.where(mask, weight.numpy(), 0))
        weight.constraint = weight.constraint.inner
    model.__dict__.pop("pruning_state", None)
    _forget_compiled_steps(model)
    return model


def _check_model(model):
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
        if isinstance(weight.constraint, MagnitudePruning):
            raise ValueError(
                f"Weight '{weight.path}' is pruned already. Two schedules on one "
                "weight would undo each other: call strip_pruning(model) first; the "
                "zeros stay."
            )
    optimizer = getattr(model, "optimizer", None)
    if getattr(optimizer, "use_ema", False):
        raise ValueError(
            "The model is compiled with use_ema=True: the averages that replace the "
            "weights at the end of fit are not sparse. Compile without it, or compile "
            "after pruning and let strip_pruning restore the zeros before you evaluate."
        )


def _check_schedule(schedule):
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


def _two_positive_numbers(value, name):
    try:
        first, second = (int(number) for number in value)
    except (TypeError, ValueError):
        first = second = 0
    if first < 1 or second < 1:
        raise ValueError(f"{name} is a pair of positive whole numbers, not {value!r}.")
    return first, second


def _check_weight(path, weight, block_size, sparsity_m_by_n):
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


def strategy_scope(model):
    """Returns the scope of the distribution strategy that holds a model's weights."""
    value = model.weights[0].value if model.weights else None
    strategy = getattr(value, "distribute_strategy", None)
    return strategy.scope() if strategy is not None else contextlib.nullcontext()


def _forget_compiled_steps(model):
    # A step that was traced before does not know the constraints.
    model.train_function = None
