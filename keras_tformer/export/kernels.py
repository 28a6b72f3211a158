"""Kernels of products in an int8 file that also has float products."""

import copy

import numpy as np

from keras_tformer.export.flatbuffer import (
    constant_values,
    is_float,
    named_operators,
    schema,
)
from keras_tformer.export.graph_edits import (
    add_int8,
    read_instead,
    row_scales,
)

PRODUCT = "FULLY_CONNECTED"
SUMS = ("ADD", "SUB", "MUL")


def rescale_what_sums_read(model):
    """Give constants that a sum or scaling shares with a product one scale there.

    The converter gives a kernel a scale for each row; LiteRT ends the process where
    another operator reads such a constant. Copies made before it are one again after.

    Args:
        model: a parsed file, a `ModelT`; changed in place.
    """
    for graph in model.subgraphs:
        for name, operator in named_operators(model, graph):
            for place, index in enumerate(operator.inputs):
                tensor = graph.tensors[index]
                if name not in SUMS or is_float(tensor) or tensor.quantization is None:
                    continue
                values = constant_values(model, tensor)
                if values is not None and len(tensor.quantization.scale) > 1:
                    own = add_int8(model, graph, tensor, values)
                    read_instead(operator, place, own)


def store_kernels(model):
    """Keep kernels of float products in int8: LiteRT rounds what they multiply, too.

    Args:
        model: a parsed file, a `ModelT`; changed in place.
    """
    generated = schema()
    for graph in model.subgraphs:
        stored = {}
        for name, product in named_operators(model, graph):
            if name != PRODUCT or not is_float(graph.tensors[product.inputs[0]]):
                continue
            index = int(product.inputs[1])
            kernel = graph.tensors[index]
            values = constant_values(model, kernel)
            if values is not None and is_float(kernel) and index not in stored:
                scales = np.maximum(np.abs(values).max(1), 1e-12) / np.float32(127)
                steps = np.round(values / scales[:, None]).astype("int8").ravel()
                model.buffers.append(generated.BufferT(data=steps.view("uint8")))
                graph.tensors.append(copy.copy(kernel))
                kernel = graph.tensors[-1]
                kernel.type = generated.TensorType.INT8
                kernel.buffer = len(model.buffers) - 1
                kernel.quantization = row_scales(scales)
                stored[index] = len(graph.tensors) - 1
            if index in stored:
                read_instead(product, 1, stored[index])
            if graph.tensors[product.inputs[1]].type == generated.TensorType.INT8:
                product.builtinOptions.asymmetricQuantizeInputs = True
