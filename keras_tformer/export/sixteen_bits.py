"""What TensorFlow's quantizer for 16 bit activations needs, and does not do itself."""

import copy

import numpy as np

from keras_tformer.export.flatbuffer import is_float, named_operators, parse, schema
from keras_tformer.export.graph_edits import (
    copied_constant,
    forget_unused_operators,
    operator_code,
    read_instead,
    take_bias_out,
)
from keras_tformer.export.packing import pack
from keras_tformer.export.ranges import raise_masks
from keras_tformer.export.tables import has_bias, tied_operators


def prepared_for_sixteen_bits(content):
    """The bytes of a float file in operators of which each has a 16 bit kernel."""
    model = parse(content)
    _take_biases_out(model)
    _square_by_products(model)
    forget_unused_operators(model)
    return pack(model)


def quantize_to_sixteen_bits(measured, feed):
    """A parsed float file with its ranges -> the bytes of an int16x8 file.

    Args:
        measured: a `ModelT`; changed in place.
        feed: function that yields `(signature, {input name: array})`.
    """
    import tensorflow as tf
    from tensorflow.lite.python.optimize.calibrator import Calibrator

    _part_kernels(measured)
    raise_masks(measured)
    _give_integers_ranges(measured)
    _part_biases(measured)
    # It takes no ranges but those that it measures itself. What has no kernel for 16
    # bits stays float.
    return Calibrator(pack(measured)).calibrate_and_quantize(
        feed, tf.float32, tf.float32, True, tf.int16, tf.int64
    )


def _square_by_products(model):
    """SQUARED_DIFFERENCE, as in Keras' own layer normalization -> SUB, then MUL."""
    generated = schema()
    for graph in model.subgraphs:
        for name, operator in named_operators(model, graph):
            if name != "SQUARED_DIFFERENCE" or not is_float(
                graph.tensors[operator.outputs[0]]
            ):
                continue
            graph.tensors.append(copy.copy(graph.tensors[operator.outputs[0]]))
            graph.tensors[-1].name += b"/difference"
            new = len(graph.tensors) - 1
            product = generated.OperatorT(
                opcodeIndex=operator_code(model, "MUL", 1),
                inputs=np.array([new, new], "int32"),
                outputs=operator.outputs,
                builtinOptionsType=generated.BuiltinOptions.MulOptions,
                builtinOptions=generated.MulOptionsT(),
            )
            graph.operators.insert(graph.operators.index(operator) + 1, product)
            operator.opcodeIndex = operator_code(model, "SUB", 1)
            operator.outputs = np.array([new], "int32")
            operator.builtinOptionsType = generated.BuiltinOptions.SubOptions
            operator.builtinOptions = generated.SubOptionsT()


def _give_integers_ranges(model):
    """Give integers and truth values of a graph the range from 0 to 1.

    The quantizer asks for one wherever arithmetic reads them, measures none, and leaves
    them as they are.
    """
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            if not is_float(tensor) and model.buffers[tensor.buffer].data is None:
                tensor.quantization = schema().QuantizationParametersT()
                tensor.quantization.min = np.array([0], "float32")
                tensor.quantization.max = np.array([1], "float32")


def _take_biases_out(model):
    """FULLY_CONNECTED by a tied table with a bias -> without one, then ADD.

    A bias of integers has the scales of the product's own table: it would keep that
    from being the table that is looked up.
    """
    for graph in model.subgraphs:
        for _, product in tied_operators(model, graph):
            take_bias_out(model, graph, product)


def _part_biases(model):
    """Give each product a bias of its own, where a layer is called more than once.

    Integers of a bias have the scale of what its product reads, another one at each
    call; the quantizer gives a bias that of the first.
    """
    for graph in model.subgraphs:
        read = set()
        for name, product in named_operators(model, graph):
            if name != "FULLY_CONNECTED" or not has_bias(product):
                continue
            if int(product.inputs[2]) in read:
                own = copied_constant(model, graph, product.inputs[2])
                read_instead(product, 2, own)
            read.add(int(product.inputs[2]))


def _part_kernels(model):
    """Give products kernels of their own where other operators read them, too.

    The quantizer gives a kernel 8 bits and a scale for each row, also where a sum of
    16 bits reads it.
    """
    for graph in model.subgraphs:
        products, others = [], []
        for name, operator in named_operators(model, graph):
            if name == "FULLY_CONNECTED":
                products.append(operator)
            elif name != "GATHER":
                others.append(operator)
        read = {int(index) for operator in others for index in operator.inputs}
        for product in products:
            kernel = int(product.inputs[1])
            is_constant = model.buffers[graph.tensors[kernel].buffer].data is not None
            if kernel in read and is_constant:
                read_instead(product, 1, copied_constant(model, graph, kernel))
