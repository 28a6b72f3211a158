"""What a checkpoint holds beside the weights and the optimizer, in the same file."""

import json
import math

import keras

_COUNTS = ("best", "best_epoch", "stopped_epoch", "wait")  # of early stopping


def write_state(path, model, history, early_stopping=None):
    """Writes a model in training, with all that its next steps depend on.

    Args:
        path: path of the file; its name ends in `.weights.h5`.
        model: compiled `keras.Model`.
        history: dict from names to lists of floats.
        early_stopping: `keras.callbacks.EarlyStopping` of this training, or None.
    """
    import h5py

    model.save_weights(path, overwrite=True)
    with h5py.File(path, "a") as file:
        group = file.create_group("resume")
        group.attrs["history"] = json.dumps(history)
        for index, state in enumerate(_generator_states(model)):
            group[str(index)] = keras.ops.convert_to_numpy(state)
        if early_stopping is not None:
            stopping = group.create_group("early_stopping")
            counts = {name: getattr(early_stopping, name) for name in _COUNTS}
            if counts["best"] is not None:
                counts["best"] = float(counts["best"])
            stopping.attrs["counts"] = json.dumps(counts)
            for index, weight in enumerate(early_stopping.best_weights or ()):
                is_unknown_to_hdf5 = weight.dtype.kind == "V"  # bfloat16
                weight = weight.astype("float32") if is_unknown_to_hdf5 else weight
                stopping[str(index)] = weight


def read_state(path, model, early_stopping=None):
    """Gives a model, and early stopping, what `write_state` wrote.

    Args:
        path: path of the file.
        model: compiled `keras.Model`, changed in place.
        early_stopping: as in `write_state`, changed in place; begins anew if the file
            is of a training without.

    Returns:
        The history.
    """
    import h5py

    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    model.load_weights(path)
    with h5py.File(path, "r") as file:
        group = file["resume"]
        for index, state in enumerate(_generator_states(model)):
            state.assign(group[str(index)][()])
        if early_stopping is not None and "early_stopping" in group:
            stopping = group["early_stopping"]
            for name, value in json.loads(stopping.attrs["counts"]).items():
                setattr(early_stopping, name, value)
            weights = [stopping[str(index)][()] for index in range(len(stopping))]
            early_stopping.best_weights = weights or None
        return json.loads(group.attrs["history"])


def state_size(model, early_stopping=None):
    """Counts the bytes that `write_state` takes at the most.

    Args:
        model: compiled `keras.Model`.
        early_stopping: as in `write_state`.

    Returns:
        An int.

    Example:
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        >>> model.compile("sgd", "mse")
        >>> model.optimizer.build(model.trainable_variables)
        >>> state_size(model) >= 4 * (3 * 2 + 2)
        True
    """
    variables = model.variables + model.optimizer.variables
    if early_stopping is not None:
        variables += model.weights
    # Numbers, and what HDF5 writes about each variable and each group.
    return sum(16384 + 4 * math.prod(variable.shape) for variable in variables)


def not_finite(model):
    """Names the first trainable weight that has a NaN or an infinity in it.

    Args:
        model: `keras.Model`.

    Returns:
        A str, the weight's path, or None.

    Example:
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        >>> not_finite(model)
        >>> _ = model.layers[0].bias.assign([1.0, np.nan])
        >>> not_finite(model)
        'sequential.../dense.../bias'
    """
    for weight in model.trainable_variables:
        is_finite = keras.ops.all(keras.ops.isfinite(weight))
        if not bool(keras.ops.convert_to_numpy(is_finite)):
            return weight.path
    return None


def _generator_states(model):
    """States of dropout and the like: variables, but no weights and no metrics."""
    known = {id(weight) for weight in model.weights}
    known |= {id(v) for metric in model.metrics for v in metric.variables}
    return [v for v in model.variables if id(v) not in known]
