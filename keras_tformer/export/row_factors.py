"""Steps of its own for each row of an int8 table that also makes the logits."""

import copy

import numpy as np

from keras_tformer.export.flatbuffer import (
    constant_values,
    is_float,
    named_operators,
    schema,
)
from keras_tformer.export.graph_edits import (
    add_after,
    add_tensor,
    operator_code,
    read_instead,
    take_bias_out,
)
from keras_tformer.export.tables import tied_lookups, tied_operators

STEPS = 127


def scale_rows(model, weights):
    """Let the rows of tied tables have factors, by which lookups and logits multiply.

    Frequent words have short rows, rare ones long: one scale for all leaves the former
    few of 256 steps, and the nearest of two words may become the other. LiteRT looks
    rows up in tables with one scale only, so the scale of a row is that of the table
    times a factor, itself 1 to 127 steps: a byte for each row.

    Args:
        model: a parsed int8 or dynamic-range file, a `ModelT`; changed in place.
        weights: the model's float matrices; a table that is none of them stays as is.
    """
    lookups, products = tied_lookups(model), []
    for graph in model.subgraphs:
        found = {id(part): part for _, part in tied_operators(model, graph)}
        products += [(graph, part) for part in found.values()]
    for values in weights:
        ours = [x for x in lookups if _reads(model, *x, 0, values)]
        theirs = [x for x in products if _reads(model, *x, 1, values)]
        rows = [_dequantize_after(model, *x) for x in ours]
        if not ours or not theirs or not all(rows):
            continue
        if not all(is_float(graph.tensors[part.inputs[0]]) for graph, part in theirs):
            continue
        scale, codes, steps = _rounded(values)
        model.buffers.append(schema().BufferT(data=steps.ravel().view("uint8")))
        table = len(model.buffers) - 1
        model.buffers.append(schema().BufferT(data=codes.view("uint8")))
        factors = len(model.buffers) - 1
        for (graph, lookup), dequantize in zip(ours, rows, strict=True):
            _scale_looked_up(model, graph, lookup, dequantize, scale, table, factors)
        for graph, product in theirs:
            _scale_logits(model, graph, product, scale, table, factors)


def _reads(model, graph, operator, place, values):
    """Whether an operator reads a matrix, rounded to int8 with one scale."""
    tensor = graph.tensors[operator.inputs[place]]
    if tensor.type != schema().TensorType.INT8 or list(tensor.shape) != [*values.shape]:
        return False
    stored = constant_values(model, tensor)
    limit = 0.51 * np.max(tensor.quantization.scale) + 1e-6 * np.abs(values).max()
    return stored is not None and bool(np.abs(stored - values).max() <= limit)


def _dequantize_after(model, graph, lookup):
    """The DEQUANTIZE of looked up rows; None where another operator reads them."""
    row = lookup.outputs[0]
    readers = [part for part in named_operators(model, graph) if row in part[1].inputs]
    is_alone = [name for name, _ in readers] == ["DEQUANTIZE"]
    return readers[0][1] if is_alone and row not in graph.outputs else None


def _rounded(values):
    """A scale, each row's factor in steps, and the rows in steps of both."""
    largest = np.maximum(np.abs(values).max(1), 1e-12)  # (V,)
    scale = largest.max() / STEPS
    codes = np.ceil(largest / largest.max() * STEPS).astype("int8")
    steps = np.round(values / (scale * codes / STEPS)[:, None])
    return scale, codes, np.clip(steps, -STEPS, STEPS).astype("int8")


def _scale_looked_up(model, graph, lookup, dequantize, scale, table, factors):
    """GATHER, DEQUANTIZE -> these, times what is gathered of the factors."""
    old, rows = (graph.tensors[i] for i in (lookup.inputs[0], lookup.outputs[0]))
    source = add_tensor(graph, old, b"rows", old.shape, scale, table)
    read_instead(lookup, 0, source)
    rows.quantization = graph.tensors[source].quantization
    column = [*graph.tensors[lookup.inputs[1]].shape, 1]
    step = 1 / STEPS
    every = add_tensor(graph, old, b"factors", [old.shape[0], 1], step, factors)
    steps = add_tensor(graph, rows, b"factor_steps", column, step)
    factor = add_tensor(graph, rows, b"factors", column)
    gather, dequantize_factors = copy.copy(lookup), copy.copy(dequantize)
    gather.inputs = np.array([every, *lookup.inputs[1:]], "int32")
    gather.outputs = np.array([steps], "int32")
    dequantize_factors.inputs = gather.outputs
    dequantize_factors.outputs = np.array([factor], "int32")
    place = graph.operators.index(dequantize)
    graph.operators[place:place] = [gather, dequantize_factors]
    add_after(model, graph, dequantize, "MUL", factor)


def _scale_logits(model, graph, product, scale, table, factors):
    """FULLY_CONNECTED -> without its bias, times the factors, plus the bias."""
    take_bias_out(model, graph, product)
    old = graph.tensors[product.inputs[1]]
    read_instead(product, 1, add_tensor(graph, old, b"rows", old.shape, scale, table))
    size = [old.shape[0]]
    steps = add_tensor(graph, old, b"factor_steps", size, 1 / STEPS, factors)
    factor = add_tensor(graph, old, b"factors", size)
    dequantize = schema().OperatorT(
        opcodeIndex=operator_code(model, "DEQUANTIZE", 2),
        inputs=np.array([steps], "int32"),
        outputs=np.array([factor], "int32"),
    )
    graph.operators.insert(graph.operators.index(product), dequantize)
    add_after(model, graph, product, "MUL", factor)
