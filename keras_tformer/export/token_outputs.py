"""Which outputs of a model have one value or row for each token of a mask."""

import keras

from keras_tformer.export.repeated_calls import is_functional
from keras_tformer.export.tracing import named_inputs, named_outputs

MASKS = ("padding_mask", "decoder_padding_mask")


def mask_name(model):
    """The input that says which of an output's tokens are padding, or None."""
    return next((name for name in MASKS if name in named_inputs(model)), None)


def token_outputs(model, mask, length):
    """Names of the outputs whose second axis is the padding mask's.

    Their sizes do not tell: there may be as many classes as tokens, or a row as wide as
    a text is long. So what counts is whether the second axis follows the mask's length
    where that changes.

    Args:
        model: a built `keras.Model` with one graph.
        mask: name of its input of shape `(B, T)`.
        length: int, length T of the masks to come.

    Returns:
        A set of names of outputs.
    """
    tensors = named_inputs(model)
    side = mask.removesuffix("padding_mask")
    free = tensors[mask].shape[1]
    following = {
        name
        for name, tensor in tensors.items()
        if name.startswith(side) and name != "mask_positions"
        if len(tensor.shape) > 1 and tensor.shape[1] == free
    }
    beside = [tensors[name] for name in set(tensors) - following]
    outputs = named_outputs(model.output)
    if free is None and all(None not in tensor.shape[1:] for tensor in beside):
        return {
            name
            for name, tensor in outputs.items()
            if len(tensor.shape) > 1 and tensor.shape[1] is None
        }
    first, second = (
        _output_shapes(model, tensors, following, size)
        for size in (length, length - 1 if length > 2 else length + 1)
    )
    if first is None or second is None:  # a graph that runs at one length only
        return {name for name, part in outputs.items() if _keeps_tokens(part, length)}
    return {name for name in first if first[name][1:2] != second[name][1:2]}


def _keeps_tokens(tensor, length):
    """Whether an output of fixed length is, or was squeezed from, rows a token."""
    while len(tensor.shape) == 2 and tensor.shape[1] == length:
        operation, node, _ = tensor._keras_history
        sources = operation._inbound_nodes[node].input_tensors
        if len(sources) != 1:
            return False
        if len(sources[0].shape) == 3:
            # Of rows as wide as a text is long, one row or their mean may be left.
            return sources[0].shape[1] == length != sources[0].shape[2]
        tensor = sources[0]
    return len(tensor.shape) > 2 and tensor.shape[1] == length


def _output_shapes(model, tensors, following, length):
    """`{output name: shape}` at one length, or None where the model has another."""
    specs = {}
    for name, tensor in tensors.items():
        shape = list(tensor.shape)
        if name in following:
            shape[1] = length
        specs[id(tensor)] = keras.KerasTensor(shape, tensor.dtype)
    if not is_functional(model):
        return None
    try:
        outputs = model._run_through_graph(
            [specs[id(tensor)] for tensor in model.inputs],
            operation_fn=lambda operation: operation.compute_output_spec,
        )
    except (ValueError, TypeError, RuntimeError):
        return None
    return {name: tuple(x.shape) for name, x in named_outputs(outputs).items()}
