"""What only Python knows of a layer's `call` and no graph of operations can hold."""

import inspect

import keras
import numpy as np

_PLAIN = (bool, int, float, complex, str, bytes, np.generic, type(None))
# What Keras itself notes on any layer: losses, calls, the state of its tracker.
_OF_EVERY_LAYER = frozenset(vars(keras.layers.Layer())) | {"_build_shapes_dict"}


def plain_attributes(layer):
    """Returns {name: value} of the numbers, words and containers of them on a layer.

    Args:
        layer: a `keras.layers.Layer`. Of Keras' own classes nothing is returned.

    Returns:
        A dict of copies. An attribute that holds anything else is left out.

    Example:

    >>> import keras
    >>> class Counted(keras.layers.Layer):
    ...     calls = 0
    ...     def call(self, x):
    ...         self.calls += 1
    ...         return x
    >>> layer = Counted()
    >>> x = layer.call(keras.Input((3,)))
    >>> plain_attributes(layer)
    {'calls': 1}
    """
    if _is_of(layer, "keras.src."):
        return {}
    copies = {
        name: _copy(value)
        for name, value in vars(layer).items()
        if name not in _OF_EVERY_LAYER
    }
    return {name: value for name, value in copies.items() if value is not _OTHER}


def check_no_python_state(layer, before, path):
    """Refuses a layer whose `call` has changed one of its attributes.

    Args:
        layer: a `keras.layers.Layer`, called since.
        before: what `plain_attributes` returned before that call.
        path: str, the layer's name in the message.

    Raises:
        ValueError: if an attribute has another value now.

    Example:

    >>> import keras
    >>> layer = keras.layers.Dense(3)
    >>> check_no_python_state(layer, plain_attributes(layer), "dense")
    """
    for name, value in plain_attributes(layer).items():
        old = before.get(name, _OTHER)
        if old is not value and old != value:
            raise ValueError(
                f"Layer '{path}' ({type(layer).__name__}) cannot be laid flat: its "
                f"call changes the attribute '{name}', a Python value that every call "
                "would find otherwise and a graph cannot hold. Count in a weight "
                "(add_weight with trainable=False) of a sublayer, or do without."
            )


def does_the_same_in_training(layer, outputs, args, kwargs):
    """Traces `call` with the other value of `training` and compares the operations.

    Keras' own layers and those of this package are not traced again: in training these
    write out a shorter gradient of the same numbers.

    Args:
        layer: a `keras.layers.Layer`, traced already.
        outputs: the symbolic tensors that its `call` returned.
        args: what it was called with, tensors and others.
        kwargs: the same, by name.

    Returns:
        bool, whether the same layers and operations follow each other in both.

    Example:

    >>> import keras
    >>> class Noisy(keras.layers.Layer):
    ...     def call(self, x, training=False):
    ...         return x + 100 if training else x + 0
    >>> x, layer = keras.Input((3,)), Noisy()
    >>> does_the_same_in_training(layer, layer.call(x), (x,), {})
    False
    """
    signature = inspect.signature(layer.call)
    if "training" not in signature.parameters or _is_of(
        layer, "keras.src.", "keras_tformer.layers."
    ):
        return True
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    bound.arguments["training"] = not bound.arguments["training"]
    operations = layer._flatten_layers() + [
        tensor._keras_history.operation
        for tensor in keras.tree.flatten((args, kwargs))
        if isinstance(tensor, keras.KerasTensor)
    ]
    before = [(x, len(x._inbound_nodes), len(x._outbound_nodes)) for x in operations]
    try:
        others = layer.call(*bound.args, **bound.kwargs)
        return _is_same_graph(outputs, others)
    finally:  # only the first trace stays in the graph
        for operation, num_inbound, num_outbound in before:
            del operation._inbound_nodes[num_inbound:]
            del operation._outbound_nodes[num_outbound:]


def _is_same_graph(outputs, others):
    pairs, compared = [(outputs, others)], set()
    while pairs:
        one, other = (keras.tree.flatten(x) for x in pairs.pop())
        if len(one) != len(other):
            return False
        for a, b in zip(one, other, strict=True):
            if a is b or (id(a), id(b)) in compared:
                continue
            if not all(isinstance(x, keras.KerasTensor) for x in (a, b)):
                if not _is_same_value(a, b):
                    return False
                continue
            compared.add((id(a), id(b)))
            a, b = a._keras_history, b._keras_history
            if a.tensor_index != b.tensor_index or not _is_same_operation(
                a.operation, b.operation
            ):
                return False
            pairs.append((_arguments(a), _arguments(b)))
    return True


def _is_same_operation(a, b):
    if a is b:
        return a is not None  # without one it is an input, of which there are two
    if type(a) is not type(b) or isinstance(a, keras.layers.Layer):
        return False
    one, other = (
        {k: v for k, v in vars(x).items() if k != "name" and not k.startswith("_")}
        for x in (a, b)
    )
    return one.keys() == other.keys() and all(
        _is_same_graph(one[name], other[name]) for name in one
    )


def _arguments(history):
    """What an operation was called with, by name, without `training`."""
    arguments = history.operation._inbound_nodes[history.node_index].arguments
    call = history.operation.call
    bound = inspect.signature(call).bind(*arguments.args, **arguments.kwargs)
    bound.apply_defaults()
    return [value for name, value in bound.arguments.items() if name != "training"]


def _is_same_value(a, b):
    if isinstance(a, keras.Variable) or isinstance(b, keras.Variable):
        return False  # not the same object
    if hasattr(a, "shape") and hasattr(b, "shape"):
        return np.array_equal(*map(keras.ops.convert_to_numpy, (a, b)))
    return type(a) is type(b) and a == b


_OTHER = object()


def _copy(value):
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, dict):
        value = [list(value), list(value.values())]
    elif isinstance(value, (set, frozenset)):
        value = sorted(value, key=repr)
    elif not isinstance(value, (list, tuple)):
        return _OTHER
    copies = [_copy(x) for x in value]
    return _OTHER if any(x is _OTHER for x in copies) else copies


def _is_of(layer, *packages):
    """Whether the `call` of a layer is one that these packages wrote."""
    return type(layer).call.__module__.startswith(packages)
