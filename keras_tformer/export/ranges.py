"""Ranges of activations that int8 can use, measured in a float file."""

import copy

import numpy as np

from keras_tformer.export.flatbuffer import (
    constant_values,
    is_float,
    named_operators,
    operators_by_output,
    parse,
    schema,
)
from keras_tformer.export.packing import pack

# exp(-10) is what a masked position weighs beside the best one in the worst of cases:
# less than a hundredth of the step of an int8 softmax, 1 / 256. For integer
# attention alone: in float, scores beyond those measured would show what is masked.
FAR_BELOW = np.float32(10)
# LiteRT's ADD ends the process where a summand's steps are too large for the sum's, as
# those of a mask of -1e9 are.
MOST_CUT = 100
MOVES = ("RESHAPE", "TRANSPOSE")  # one range before and after


def measure_ranges(content, feed, custom_operators=()):
    """Run a float file on examples, and note the least and largest of all activations.

    TensorFlow's calibrator looks at what an operator reads once more after it has run.
    Where the runtime computed a sum or a product in the place of its input, it takes
    the one for the other, and the range is too wide (tensorflow issue 127842: scores
    get the range of masked scores, embeddings that of scaled ones). What a graph
    returns stays in a place of its own, so here graphs return all that they compute.

    Args:
        content: bytes of a file that the converter has measured once.
        feed: function that yields `(signature, {input name: array})`.
        custom_operators: what registers operators that LiteRT does not have.

    Returns:
        The parsed file, a `ModelT`. What is inside of loops is measured by the
        calibrator alone: a loop's graph returns what it takes.
    """
    from tensorflow.lite.python.optimize.calibrator import Calibrator

    model = parse(content)
    outputs = [graph.outputs for graph in model.subgraphs]
    for graph in _graphs_outside_of_loops(model):
        made = [int(i) for operator in graph.operators for i in operator.outputs]
        made = [index for index in made if is_float(graph.tensors[index])]
        graph.outputs = np.array([*dict.fromkeys([*graph.outputs, *made])], "int32")
    for graph in model.subgraphs:
        for tensor in filter(is_float, graph.tensors):
            tensor.quantization = None
    calibrator = Calibrator(
        pack(model), custom_op_registerers_by_func=list(custom_operators)
    )
    measured = parse(calibrator.calibrate(feed))
    for graph, own in zip(measured.subgraphs, outputs, strict=True):
        graph.outputs = own
    return measured


def _graphs_outside_of_loops(model):
    inside = set()
    for graph in model.subgraphs:
        for name, operator in named_operators(model, graph):
            if name == "WHILE":
                options = operator.builtinOptions
                inside |= {options.condSubgraphIndex, options.bodySubgraphIndex}
    return [part for i, part in enumerate(model.subgraphs) if i not in inside]


def make_symmetric(model):
    """Give keys and values, the second factors of products, a zero point of 0.

    XNNPACK's int8 product of two activations takes no other: it leaves them to a slow
    kernel, and cuts the graph in two at each one.

    Args:
        model: a parsed float file (`ModelT`) with measured ranges; changed in place.
    """
    for graph in model.subgraphs:
        makers = operators_by_output(model, graph)
        for name, operator in named_operators(model, graph):
            if name == "BATCH_MATMUL":
                for index in _moved(makers, operator.inputs[1]):
                    _widen(graph.tensors[index])


def _moved(makers, index):
    """A tensor, and those that only had their numbers moved to become it."""
    found = [int(index)]
    while makers.get(found[-1], ("",))[0] in MOVES:
        found.append(int(makers[found[-1]][1].inputs[0]))
    return found


def _widen(tensor):
    ranges = tensor.quantization
    if not _is_measured(ranges):
        return
    largest = np.maximum(np.abs(ranges.min), np.abs(ranges.max))
    # From -128 to 127 steps: with as much on both sides the zero point would be -0.5.
    ranges.min, ranges.max = -largest * np.float32(128 / 127), largest


def raise_masks(model):
    """Let a mask that is far lower than it takes to hide scores just hide them.

    Of -1e9 each of 256 steps is wider than all scores together. Masks are found that
    are a product with one number (0 or 1 times -1e9), or constants.

    Args:
        model: a parsed float file (`ModelT`) with measured ranges; changed in place.
    """
    for graph in model.subgraphs:
        makers, lowest = operators_by_output(model, graph), {}
        found = _masked_scores(model, graph, makers)
        for scores, mask, _ in found:
            least = np.min(scores.min - FAR_BELOW - scores.max)
            lowest[mask] = min(least, lowest.get(mask, least))
        raised = {
            mask
            for mask, least in lowest.items()
            if _raise_mask(model, graph, makers, mask, least)
        }
        for scores, mask, sums in found:
            if mask in raised:
                sums.min = np.maximum(sums.min, scores.min + lowest[mask])


def _raise_mask(model, graph, makers, mask, least):
    """Whether a mask was far below, and is `least` now."""
    path = _moved(makers, mask)
    name, operator = makers.get(path[-1], ("", None))
    inputs = (
        [path[-1]] if operator is None else operator.inputs if name == "MUL" else ()
    )
    for place, index in enumerate(map(int, inputs)):
        tensor = graph.tensors[index]
        values = constant_values(model, tensor)
        is_number = values is not None and (operator is None or values.size == 1)
        if not is_number or values.min() >= MOST_CUT * least:
            continue
        raised = np.maximum(values, np.float32(least))
        new = copy.copy(tensor)
        new.buffer = len(model.buffers)
        data = np.frombuffer(raised.astype("float32").tobytes(), "uint8")
        model.buffers.append(schema().BufferT(data=data))
        if operator is None:
            graph.tensors[index] = new
        else:
            graph.tensors.append(new)  # others may read the number, too
            operator.inputs = operator.inputs.copy()
            operator.inputs[place] = len(graph.tensors) - 1
        for moved in path:
            ranges = graph.tensors[moved].quantization
            if ranges is not None and _is_measured(ranges):
                ranges.min = np.maximum(ranges.min, np.float32(least))
        return True
    return False


def cut_masked_scores(model):
    """Let masked scores of attention end little below the least score that is kept.

    A mask of -30 takes most of the 256 steps, and leaves few to the scores.

    Args:
        model: a parsed float file (`ModelT`) with measured ranges; changed in place.
    """
    for graph in model.subgraphs:
        for scores, _, sums in _masked_scores(
            model, graph, operators_by_output(model, graph)
        ):
            least = np.maximum(sums.min, scores.min - FAR_BELOW)
            if (sums.max - sums.min <= MOST_CUT * (sums.max - least)).all():
                sums.min = least


def _masked_scores(model, graph, makers):
    """`[(ranges of scores, index of the mask, ranges of their sum)]` of attentions."""
    found = []
    for name, operator in named_operators(model, graph):
        if name != "SOFTMAX":
            continue
        kind, masked = makers.get(int(operator.inputs[0]), ("", None))
        if kind not in ("ADD", "SELECT_V2"):  # Keras' own attention selects
            continue
        sums = graph.tensors[masked.outputs[0]].quantization
        pair = masked.inputs[-2:]
        for index, other in zip(pair, pair[::-1], strict=True):
            scores = graph.tensors[index].quantization
            is_product = _is_product(model, graph, makers, index)
            if is_product and _is_measured(scores) and _is_measured(sums):
                found.append((scores, int(other), sums))
    return found


def _is_product(model, graph, makers, index):
    """Whether numbers are a BATCH_MATMUL's, moved or times one number or not."""
    index = _moved(makers, index)[-1]
    name, operator = makers.get(index, ("", None))
    if name == "MUL":
        sizes = [constant_values(model, graph.tensors[i]) for i in operator.inputs]
        sizes = [None if values is None else values.size for values in sizes]
        if sizes[1] == 1:
            return _is_product(model, graph, makers, operator.inputs[0])
    return name == "BATCH_MATMUL"


def _is_measured(ranges):
    """Not so in the int8 parts of a quantization-aware model."""
    return ranges is not None and ranges.min is not None and ranges.max is not None
