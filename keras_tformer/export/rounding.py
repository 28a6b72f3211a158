"""Kernels of a float file on the steps that int8 has, rounded by what they multiply."""

import hashlib

import numpy as np

from keras_tformer.export.flatbuffer import (
    constant_values,
    is_float,
    named_operators,
    operators_by_output,
)
from keras_tformer.export.packing import pack
from keras_tformer.export.tables import tied_operators

STEPS = 127
DAMPING = 0.01  # of the mean square of an input, as in the paper
COLUMNS = 128  # rounded before later ones hear of it: faster, and the same numbers
FEW_VALUES = 256  # a clustered kernel stays clustered


def round_kernels(model, feed, custom_operators=()):
    """Round kernels so that each column makes up for what those before it have lost.

    Frantar et al. 2023, "GPTQ: accurate post-training quantization for generative
    pre-trained transformers" (arXiv 2210.17323), algorithm 1. Rounded to the nearest
    step, all weights of a channel err by themselves; what they multiply is correlated,
    so that one error can undo another. Each channel keeps its largest weight, and by it
    the steps that it is given later. Zeros stay zeros.

    Args:
        model: a parsed float file, a `ModelT`; its kernels are changed in place.
        feed: function that yields `(signature, {input name: array})`.
        custom_operators: what registers operators that LiteRT does not have.
    """
    kernels = _kernels(model)
    moments = _moments(model, kernels, feed, custom_operators)
    for kernel, buffers, places in kernels:
        # What overflows has no moments: its kernel is left for the converter to round.
        if places in moments and np.isfinite(moments[places]).all():
            data = _rounded(kernel, moments[places]).ravel().view("uint8")
            for buffer in buffers:
                model.buffers[buffer].data = data


def _kernels(model):
    """`[(kernel, buffers, places)]` of all that only products read.

    A place is `(graph's number, index of what is multiplied)`; graphs of several
    lengths may have a copy of a kernel each, which stay copies of one another.
    """
    found, others = {}, set()
    for number, graph in enumerate(model.subgraphs):
        tied = {id(product) for _, product in tied_operators(model, graph)}
        for name, operator in named_operators(model, graph):
            is_product = name == "FULLY_CONNECTED" and id(operator) not in tied
            for place, index in enumerate(map(int, operator.inputs)):
                if index < 0:
                    continue
                tensor = graph.tensors[index]
                if not (is_product and place == 1 and is_float(tensor)):
                    others.add(tensor.buffer)
                elif (values := constant_values(model, tensor)) is not None:
                    key = values.shape, hashlib.sha256(values).digest()
                    _, buffers, places = found.setdefault(key, (values, set(), set()))
                    buffers.add(tensor.buffer)
                    places.add((number, int(operator.inputs[0])))
    return [
        (values, buffers, frozenset(places))
        for values, buffers, places in found.values()
        if not buffers & others and len(np.unique(values)) > FEW_VALUES
    ]


def _moments(model, kernels, feed, custom_operators):
    """`{places: x^T x}`, summed up over all rows x at these places.

    Loops have none: what is computed inside of them stays there.
    """
    from tensorflow.lite.python.interpreter import InterpreterWithCustomOps

    numbers = {
        signature.signatureKey.decode(): signature.subgraphIndex
        for signature in model.signatureDefs
    }
    all_places = {places for _, _, places in kernels}
    read = {number: {} for number in numbers.values()}
    for places in all_places:
        for number, index in places:
            if number in read:
                read[number].setdefault(index, []).append(places)
    outputs = [graph.outputs for graph in model.subgraphs]
    for number, indices in read.items():
        graph = model.subgraphs[number]
        made = operators_by_output(model, graph)
        seen = [index for index in indices if index in made]
        graph.outputs = np.array([*dict.fromkeys([*graph.outputs, *seen])], "int32")
    runtime = InterpreterWithCustomOps(
        custom_op_registerers=list(custom_operators), model_content=bytes(pack(model))
    )
    for graph, own in zip(model.subgraphs, outputs, strict=True):
        graph.outputs = own
    runners = {name: runtime.get_signature_runner(name) for name in numbers}
    moments = {}
    for signature, inputs in feed():
        runners[signature](**inputs)
        for index, readers in read[numbers[signature]].items():
            rows = runtime.get_tensor(index, numbers[signature])
            rows = rows.reshape(-1, rows.shape[-1])  # (B * T, E)
            with np.errstate(over="ignore", invalid="ignore"):
                product = rows.T @ rows  # (E, E)
                for places in readers:
                    moments[places] = moments.get(places, 0) + product
    return moments


def _rounded(kernel, moment):
    """A kernel of shape (channels, E) in whole steps of each channel, as float32."""
    size, kernel = len(moment), kernel.astype("float64")
    widest = np.abs(kernel).argmax(1)
    scales = np.abs(kernel).max(1) / STEPS
    scales = np.where(scales > 0, scales, 1)
    is_zero = kernel == 0
    ends = np.sign(kernel[np.arange(len(kernel)), widest]) * STEPS
    moment = moment.astype("float64")
    damping = DAMPING * max(np.trace(moment) / size, np.finfo("float32").tiny)
    inverse = np.linalg.inv(moment + damping * np.eye(size))
    factor = np.linalg.cholesky(inverse).T  # upper triangular, F^T F = H^-1
    rounded = np.zeros_like(kernel)
    for start in range(0, size, COLUMNS):
        end = min(start + COLUMNS, size)
        lost = np.zeros((len(kernel), end - start))
        for column in range(start, end):
            steps = np.clip(np.round(kernel[:, column] / scales), -STEPS, STEPS)
            steps = np.where(widest == column, ends, steps)
            rounded[:, column] = np.where(is_zero[:, column], 0, steps * scales)
            left = kernel[:, column] - rounded[:, column]
            left /= factor[column, column]
            later = slice(column + 1, end)
            kernel[:, later] -= np.outer(left, factor[column, later])
            lost[:, column - start] = left
        kernel[:, end:] -= lost @ factor[start:end, end:]
    return rounded.astype("float32")
