"""Embedding tables in a quantized file: once where they are tied, and in int8."""

import copy

import numpy as np

from keras_tformer.export.flatbuffer import (
    constant_values,
    is_float,
    named_operators,
    schema,
)

LARGE = 1024  # values; the converter leaves what is smaller in float, too


def tied_operators(model, graph):
    """`[(lookup, product)]`: the GATHERs and FULLY_CONNECTEDs that share a table.

    Args:
        model: a parsed file, a `ModelT`.
        graph: one of its subgraphs.
    """
    operators = named_operators(model, graph)
    lookups = [operator for name, operator in operators if name == "GATHER"]
    tables = [(operator, graph.tensors[operator.inputs[0]]) for operator in lookups]
    return [
        (lookup, product)
        for name, product in operators
        if name == "FULLY_CONNECTED"
        for lookup, table in tables
        if _is_same_table(model, table, graph.tensors[product.inputs[1]])
    ]


def _is_same_table(model, table, kernel):
    """Whether two constants are the same numbers, but for the rounding to int8."""
    if list(table.shape) != list(kernel.shape):
        return False
    ours, theirs = constant_values(model, table), constant_values(model, kernel)
    if ours is None or theirs is None:
        return False
    scales = [part.quantization.scale for part in (table, kernel) if not is_float(part)]
    limit = 0.51 * sum(map(np.max, scales)) + 1e-6 * np.abs(ours).max()
    return bool(np.abs(ours - theirs).max() <= limit)


def share_tables(model, in_int8=False):
    """Let each product of float vectors by a looked-up table read the lookup's table.

    The converter quantizes the two uses of a table apart: one scale where rows are
    looked up, one for each row, or none at all, in the product.

    Args:
        model: a parsed file, a `ModelT`; changed in place.
        in_int8: make float tables int8, too.
    """
    for graph in model.subgraphs:
        for lookup, product in tied_operators(model, graph):
            if is_float(graph.tensors[lookup.inputs[0]]) and in_int8:
                _look_up_in_int8(model, graph, lookup)
            if is_float(graph.tensors[product.inputs[0]]):
                product.inputs = product.inputs.copy()  # a view of the file
                product.inputs[1] = lookup.inputs[0]


def store_summands(model):
    """Keep tables that a float sum adds, such as that of positions, in int8.

    Args:
        model: a parsed file, a `ModelT`; changed in place.
    """
    for graph in model.subgraphs:
        for name, operator in named_operators(model, graph):
            for index in operator.inputs if name == "ADD" else ():
                tensor = graph.tensors[index]
                values = constant_values(model, tensor)
                if values is None or not is_float(tensor) or values.size < LARGE:
                    continue
                source = _add_int8(model, graph, tensor, values)
                tensor.buffer = 0  # the empty one: an activation from here on
                _dequantize(model, graph, operator, source, int(index))


def _look_up_in_int8(model, graph, lookup):
    """GATHER in a float table -> GATHER in an int8 table, then DEQUANTIZE."""
    table, rows = (graph.tensors[i] for i in (lookup.inputs[0], lookup.outputs[0]))
    source = _add_int8(model, graph, table, constant_values(model, table))
    looked_up = copy.copy(rows)
    looked_up.type = schema().TensorType.INT8
    looked_up.quantization = graph.tensors[source].quantization
    graph.tensors.append(looked_up)
    after = graph.operators[graph.operators.index(lookup) + 1]
    new = len(graph.tensors) - 1
    _dequantize(model, graph, after, new, int(lookup.outputs[0]))
    lookup.inputs = np.array([source, *lookup.inputs[1:]], "int32")
    lookup.outputs = np.array([new], "int32")


def _add_int8(model, graph, tensor, values):
    """Add a float constant as int8 with one scale; its index comes back."""
    generated = schema()
    scale = np.float32(max(np.abs(values).max(), 1e-12) / 127)
    steps = np.round(values / scale).astype("int8").ravel()
    model.buffers.append(generated.BufferT(data=steps.view("uint8")))
    new = copy.copy(tensor)
    new.type, new.buffer = generated.TensorType.INT8, len(model.buffers) - 1
    new.quantization = generated.QuantizationParametersT()
    new.quantization.scale = np.array([scale])
    new.quantization.zeroPoint = np.array([0])
    graph.tensors.append(new)
    return len(graph.tensors) - 1


def _dequantize(model, graph, reader, source, target):
    """Insert a DEQUANTIZE between two tensors before the operator that reads it."""
    generated = schema()
    builtin = generated.BuiltinOperator.DEQUANTIZE
    codes = [code.builtinCode for code in model.operatorCodes]
    if builtin not in codes:
        code = generated.OperatorCodeT(builtin, version=2, builtinCode=builtin)
        model.operatorCodes.append(code)
        codes.append(builtin)
    operator = generated.OperatorT(
        opcodeIndex=codes.index(builtin),
        inputs=np.array([source], "int32"),
        outputs=np.array([target], "int32"),
    )
    graph.operators.insert(graph.operators.index(reader), operator)
