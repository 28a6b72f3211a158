"""Magnitude pruning of any Keras 3 model while it trains."""

import contextlib

import numpy as np

from keras_tformer.compress.magnitude_pruning import (
    MagnitudePruning,
    PruningState,
    SharedThreshold,
)
from keras_tformer.compress.movement_pruning import PRUNING, MovementPruning
from keras_tformer.compress.prunable_weights import prunable_weights
from keras_tformer.compress.pruning_checks import (
    check_finished,
    check_model,
    check_schedule,
    check_weight,
    two_positive_numbers,
)


def prune_low_magnitude(
    model,
    pruning_schedule,
    block_size=(1, 1),
    block_pooling_type="AVG",
    sparsity_m_by_n=None,
    layers=None,
    global_threshold=False,
    total_steps=None,
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
            batches trained so far, from 1) -> (prune now?, sparsity in [0, 1)). None
            chooses nothing: the weights that are zero now stay zero, as when a model
            that was pruned in pretraining is fine-tuned (Zafrir et al. 2021, "Prune
            once for all"). Weights without any zero are left alone.
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
        global_threshold: bool, whether the sparsity holds for all chosen weights
            together, with one threshold, so that layers of small weights lose more;
            otherwise it holds for each weight.
        total_steps: int, the batches that training will have, epochs times steps an
            epoch. A schedule that ends later is refused here; without the number, by
            `strip_pruning` when training is over.

    Returns:
        `model`.

    Raises:
        ValueError: if the model is not built, is pruned already, a layer is unknown, a
            block does not divide a weight, the schedule is none or ends after
            `total_steps`, or the compiled optimizer keeps an exponential moving
            average of the weights.

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
    check_model(model)
    if pruning_schedule is not None:
        check_schedule(pruning_schedule, total_steps)
    block_size = two_positive_numbers(block_size, "block_size")
    if block_pooling_type not in ("AVG", "MAX"):
        raise ValueError(
            f"block_pooling_type is 'AVG' or 'MAX', not {block_pooling_type!r}."
        )
    if sparsity_m_by_n is not None:
        sparsity_m_by_n = two_positive_numbers(sparsity_m_by_n, "sparsity_m_by_n")
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
        if global_threshold:
            raise ValueError(
                "Choose one: sparsity_m_by_n leaves as many weights in every group, "
                "global_threshold=True those that are largest of all."
            )
    structured = block_size != (1, 1) or sparsity_m_by_n is not None
    weights = _choose(model, layers, tables=not structured)
    for weight in weights:
        check_weight(weight.path, weight, block_size, sparsity_m_by_n)
    if pruning_schedule is None:
        weights = _with_zeros(weights)
    with strategy_scope(model):
        state = PruningState(
            weights,
            is_frozen=pruning_schedule is None,
            has_threshold=global_threshold,
        )
        if pruning_schedule is None:
            for weight, mask in zip(weights, state.masks, strict=True):
                mask.assign(weight.numpy() != 0)
    threshold = SharedThreshold(state.threshold, weights) if global_threshold else None
    for index, weight in enumerate(weights):
        weight.constraint = MagnitudePruning(
            pruning_schedule,
            state.masks[index],
            state.steps[index],
            block_size,
            block_pooling_type,
            sparsity_m_by_n,
            threshold,
            inner=weight.constraint,
        )
    _attach(model, state)
    return model


def prune_by_movement(model, pruning_schedule, layers=None, total_steps=None):
    """Makes a model prune, while it is fine-tuned, the weights that move to zero.

    Sanh et al. 2020, "Movement pruning", section 4, with the top-v mask and the
    straight-through estimator. In fine-tuning the size of a weight tells what it meant
    to the pretraining; whether it grows or shrinks tells what it means to the task. A
    weight's score is the sum over the steps of weight times change (with plain SGD, the
    learning rate times the paper's -weight * gradient; other optimizers bring their own
    steps); the largest scores live. A pruned weight keeps its value and its score goes
    on, so that it can come back.

    All else is as in `prune_low_magnitude`: the same model object, a constraint on
    every chosen weight, `strip_pruning` at the end. The optimizer should not decay
    these weights: that moves all of them to zero.

    Args:
        model: a built, pretrained `keras.Model` of the TensorFlow backend.
        pruning_schedule: as in `prune_low_magnitude`.
        layers: as in `prune_low_magnitude`.
        total_steps: as in `prune_low_magnitude`.

    Returns:
        `model`.

    Raises:
        ValueError: as `prune_low_magnitude`.

    Example:

    >>> import keras
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4),
    ...                           keras.layers.Dense(1)])
    >>> model = prune_by_movement(model, lambda step: (True, 0.75))
    >>> model.compile("sgd", "mse")
    >>> inputs = keras.random.normal((6, 8))
    >>> history = model.fit(inputs, inputs[:, :1], batch_size=2, verbose=0)
    >>> from keras_tformer.compress import sparsity
    >>> [share for share in sparsity(strip_pruning(model)).values()]
    [0.75, 0.0]
    """
    check_model(model)
    check_schedule(pruning_schedule, total_steps)
    weights = _choose(model, layers, tables=True)
    with strategy_scope(model):
        state = PruningState(weights, has_scores=True)
        for weight, original in zip(weights, state.originals, strict=True):
            original.assign(weight.numpy())
    for index, weight in enumerate(weights):
        weight.constraint = MovementPruning(
            pruning_schedule,
            state.masks[index],
            state.steps[index],
            state.originals[index],
            state.scores[index],
            inner=weight.constraint,
        )
    _attach(model, state)
    return model


def strip_pruning(model, allows_unfinished=False):
    """Takes the pruning constraints off a model; the zeros stay.

    The masks are applied once more, so that weights which an optimizer replaced after
    its last step (`use_ema=True`) have their zeros, too.

    Args:
        model: a model that `prune_low_magnitude` returned, trained.
        allows_unfinished: bool, whether a model may be stripped before its schedule has
            reached its end, with fewer zeros than the schedule says.

    Returns:
        The same model object, plain again: it saves and loads without this package's
        compression. Compile it again before you train on; plain training lets the zeros
        grow back, `quantize_model(preserve_sparsity=True)` does not.

    Raises:
        ValueError: if the model is not pruned, or its schedule ends after training.

    Example:

    >>> import keras
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4),
    ...                           keras.layers.Dense(1)])
    >>> model = prune_low_magnitude(model, lambda step: (step == 1, 0.5))
    >>> strip_pruning(model) is model
    True
    """
    pruned = [w for w in model.weights if isinstance(w.constraint, PRUNING)]
    if not pruned:
        raise ValueError(f"Model '{model.name}' is not pruned: nothing to strip.")
    if not allows_unfinished:
        check_finished(pruned[0].constraint)
    for weight in pruned:
        mask = weight.constraint.mask.numpy()
        weight.assign(np.where(mask, weight.numpy(), 0))
        weight.constraint = weight.constraint.inner
    model.__dict__.pop("pruning_state", None)
    _forget_compiled_steps(model)
    return model


def _choose(model, layers, tables):
    """The weights of a choice, in the order in which optimizers come to them."""
    chosen = {id(weight) for _, weight in prunable_weights(model, layers, tables)}
    if not chosen:
        raise ValueError(
            f"The choice layers={layers} holds no kernel and no embedding table."
        )
    weights = [weight for weight in model.trainable_weights if id(weight) in chosen]
    if not weights:
        raise ValueError(
            f"The layers that layers={layers} chooses are frozen (trainable=False): "
            "they do not train, so they cannot be pruned while they do."
        )
    return weights


def _with_zeros(weights):
    # A weight that starts as zeros is not a pruned one.
    found = [w for w in weights if 0 < np.mean(w.numpy() == 0) < 1]
    if not found:
        raise ValueError(
            "pruning_schedule=None keeps the zeros that are there, and the chosen "
            "weights have none. Load the pruned weights first, or give a schedule."
        )
    return found


def _attach(model, state):
    # Not a tracked attribute: the masks are saved with the model but are not among its
    # weights, so that get_weights and summary stay those of the model.
    model.__dict__["pruning_state"] = state
    _forget_compiled_steps(model)


def strategy_scope(model):
    """Returns the scope of the distribution strategy that holds a model's weights."""
    value = model.weights[0].value if model.weights else None
    strategy = getattr(value, "distribute_strategy", None)
    return strategy.scope() if strategy is not None else contextlib.nullcontext()


def _forget_compiled_steps(model):
    # A step that was traced before does not know the constraints.
    model.train_function = None
