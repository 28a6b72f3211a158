"""What in a graph is a mask: made of integer inputs alone."""

import keras
import numpy as np


def is_mask(tensor):
    """Whether a tensor depends on integer inputs only, not on any weight."""
    tensors, seen = [tensor], set()
    while tensors:
        tensor = tensors.pop()
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        operation, arguments = producer(tensor)
        if isinstance(operation, keras.layers.Layer) and operation.weights:
            return False
        if isinstance(operation, keras.layers.InputLayer) and is_float(tensor):
            return False
        tensors += arguments.keras_tensors
    return True


def mask_range(tensor):
    """The values that a mask takes when all integers are 0, and when all are 1."""
    inputs, tensors, seen = [], [tensor], set()
    while tensors:
        current = tensors.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        operation, arguments = producer(current)
        if isinstance(operation, keras.layers.InputLayer):
            inputs.append(current)
        tensors += arguments.keras_tensors
    function = keras.Function(inputs, tensor)
    values = []
    for fill in (0, 1):
        arrays = [np.full([d or 2 for d in x.shape], fill, x.dtype) for x in inputs]
        values.append(np.asarray(function(arrays)))
    smallest, largest = min(v.min() for v in values), max(v.max() for v in values)
    smallest, largest = min(float(smallest), 0.0), max(float(largest), 0.0)
    return (smallest, largest) if smallest < largest else None


def producer(tensor):
    """Returns the operation that made a tensor, and its call's arguments."""
    operation, node_index, _ = tensor._keras_history
    return operation, operation._inbound_nodes[node_index].arguments


def is_float(tensor):
    return "float" in keras.backend.standardize_dtype(tensor.dtype)
