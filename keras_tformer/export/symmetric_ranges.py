"""Ranges that XNNPACK's int8 products can use."""

import numpy as np

from keras_tformer.export.flatbuffer import named_operators


def make_symmetric(model):
    """Give keys and values, the second factors of products, a zero point of 0.

    XNNPACK's int8 product of two activations takes no other: it leaves them to a slow
    kernel, and cuts the graph in two at each one.

    Args:
        model: a parsed float file (`ModelT`) with measured ranges; changed in place.
    """
    for graph in model.subgraphs:
        makers = {}
        for name, operator in named_operators(model, graph):
            makers.update({int(i): (name, operator) for i in operator.outputs})
            if name != "BATCH_MATMUL":
                continue
            index = int(operator.inputs[1])
            _widen(graph.tensors[index])
            # What only moves numbers has one range before and after.
            while makers.get(index, ("",))[0] in ("RESHAPE", "TRANSPOSE"):
                index = int(makers[index][1].inputs[0])
                _widen(graph.tensors[index])


def _widen(tensor):
    ranges = tensor.quantization
    if ranges is None or ranges.min is None or ranges.max is None:
        return
    largest = np.maximum(np.abs(ranges.min), np.abs(ranges.max))
    # From -128 to 127 steps: with as much on both sides the zero point would be -0.5.
    ranges.min, ranges.max = -largest * np.float32(128 / 127), largest
