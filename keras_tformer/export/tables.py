"""Embedding tables in a quantized file: once where they are tied, and in int8."""

import copy

import numpy as np

from keras_tformer.export.flatbuffer import (
    constant_values,
    is_float,
    named_operators,
    schema,
)
from keras_tformer.export.graph_edits import add_int8, operator_code, read_instead

LARGE = 1024  # values; the converter leaves what is smaller in float, too


def tied_operators(model, graph):
    """`[(lookup, product)]`: the GATHERs and FULLY_CONNECTEDs that share a table.

    Args:
        model: a parsed file, a `ModelT`.
        graph: one of its subgraphs.
    """
    products = [
        operator
        for name, operator in named_operators(model, graph)
        if name == "FULLY_CONNECTED"
    ]
    return [
        (lookup, product)
        for lookup in _lookups(model, graph)
        for product in products
        if _is_same_table(
            model, _table(graph, lookup), graph.tensors[product.inputs[1]]
        )
    ]


def tied_lookups(model):
    """`[(graph, GATHER)]` of tables that a product in some graph of a file reads.

    A file that writes text looks up its sources in one graph, and multiplies by the
    table in the other.
    """
    tied = [
        _table(graph, lookup)
        for graph in model.subgraphs
        for lookup, _ in tied_operators(model, graph)
    ]
    return [
        (graph, lookup)
        for graph in model.subgraphs
        for lookup in _lookups(model, graph)
        if any(_is_same_table(model, _table(graph, lookup), table) for table in tied)
    ]


def _lookups(model, graph):
    return [part for name, part in named_operators(model, graph) if name == "GATHER"]


def _table(graph, lookup):
    return graph.tensors[lookup.inputs[0]]


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


def share_tables(model, quantization):
    """Let lookups and products read one table; in int8 and int16x8 files in int8.

    The converter quantizes the two uses of a table apart: one scale where rows are
    looked up, one for each row, or none at all, in the product. With 16 bit
    activations it stores what is looked up in 16 bits, too.

    Args:
        model: a parsed file, a `ModelT`; changed in place.
        quantization: as in `to_tflite`.
    """
    if quantization == "int8":
        for graph, lookup in tied_lookups(model):
            if is_float(_table(graph, lookup)):
                _look_up_in_int8(model, graph, lookup, "DEQUANTIZE")
    elif quantization == "dynamic_range":
        for graph in model.subgraphs:
            _look_up_before_dequantizing(model, graph)
    pairs = [
        (graph, *pair)
        for graph in model.subgraphs
        for pair in tied_operators(model, graph)
    ]
    if quantization == "int16x8":
        for graph in model.subgraphs:
            for lookup in _lookups(model, graph):
                values = constant_values(model, _table(graph, lookup))
                if values is not None and values.size >= LARGE:
                    _look_up_in_int8(model, graph, lookup, "QUANTIZE")
    for graph, lookup, product in pairs:
        is_float_product = is_float(graph.tensors[product.inputs[0]])
        # A bias of integers has the scales of the product's own table.
        if is_float_product or not has_bias(product):
            read_instead(product, 1, lookup.inputs[0])
        if is_float_product and not is_float(_table(graph, lookup)):
            # Each row that it multiplies has a range of its own.
            product.builtinOptions.asymmetricQuantizeInputs = True


def has_bias(product):
    return len(product.inputs) > 2 and product.inputs[2] >= 0


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
                source = add_int8(model, graph, tensor, values)
                tensor.buffer = 0  # the empty one: an activation from here on
                first = next(x for x in graph.operators if index in x.inputs)
                _insert(model, graph, "DEQUANTIZE", first, source, int(index))


def _look_up_before_dequantizing(model, graph):
    """DEQUANTIZE of a whole table that two GATHERs read -> of the rows they find."""
    operators = named_operators(model, graph)
    whole = {int(op.outputs[0]): op for name, op in operators if name == "DEQUANTIZE"}
    for lookup in _lookups(model, graph):
        maker = whole.get(int(lookup.inputs[0]))
        if maker is not None:
            source = int(maker.inputs[0])
            if graph.tensors[source].type == schema().TensorType.INT8:
                _look_up_in_int8(model, graph, lookup, "DEQUANTIZE", source)
    read = {int(index) for operator in graph.operators for index in operator.inputs}
    read |= set(map(int, graph.outputs))
    unread = [operator for index, operator in whole.items() if index not in read]
    graph.operators = [x for x in graph.operators if not any(x is y for y in unread)]


def _look_up_in_int8(model, graph, lookup, after, source=None):
    """GATHER in another table -> GATHER in an int8 table, then the operator `after`.

    `source` is the int8 table where there is one already.
    """
    table, rows = (graph.tensors[i] for i in (lookup.inputs[0], lookup.outputs[0]))
    if source is None:
        source = add_int8(model, graph, table, constant_values(model, table))
    looked_up = copy.copy(rows)
    looked_up.type = schema().TensorType.INT8
    looked_up.quantization = graph.tensors[source].quantization
    graph.tensors.append(looked_up)
    reader = graph.operators[graph.operators.index(lookup) + 1]
    new = len(graph.tensors) - 1
    _insert(model, graph, after, reader, new, int(lookup.outputs[0]))
    lookup.inputs = np.array([source, *lookup.inputs[1:]], "int32")
    lookup.outputs = np.array([new], "int32")


def _insert(model, graph, name, reader, source, target):
    """Insert (DE)QUANTIZE between two tensors before the operator that reads them."""
    operator = schema().OperatorT(
        opcodeIndex=operator_code(model, name, 2),
        inputs=np.array([source], "int32"),
        outputs=np.array([target], "int32"),
    )
    graph.operators.insert(graph.operators.index(reader), operator)
