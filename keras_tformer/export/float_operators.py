"""What an int8 file computes in float, because int8 would cost more than it saves."""

from keras_tformer.export.flatbuffer import (
    constant_values,
    is_float,
    named_operators,
    operators_by_output,
)
from keras_tformer.export.tables import tied_lookups, tied_operators

ACTIVATIONS = ("GELU", "TANH")
MOVES = ("RESHAPE", "TRANSPOSE", "SELECT_V2")
# What turns queries and keys by their positions, and gates hidden units.
TURNS = ("SPLIT", "SPLIT_V", "NEG", "PACK", "TILE", "CONCATENATION", "MUL", "ADD")
PASSED = (*MOVES, *ACTIVATIONS, *TURNS)
# What masks and scales scores, and what makes of them.
MASKS = ("ADD", "SUB", "MUL", "REDUCE_MAX", *MOVES)
SQUARES = ("MUL", "SQUARE", "SQUARED_DIFFERENCE")


def float_operators(model, integer_only, sparse):
    """Names of the tensors that leave the operators to keep in float.

    Layer normalization squares its input, which 256 steps hold badly, and XNNPACK has
    no int8 RSQRT: the graph would be cut in two at each one. The same is true of
    attention: it has no int8 SOFTMAX, and most weights are less than a step of 1 / 256.
    What such operators read would be rounded to int8 only to become float again, and so
    would the products that made it: of these a few channels are far larger than all
    others (Bondarenko et al. 2021, arXiv 2109.12948, section 3), which one range for
    all rounds badly. Such a product keeps an int8 kernel, see `store_kernels`. The
    logits of a vocabulary are so many that some would tie in 256 steps.

    Args:
        model: a parsed float file, a `ModelT`.
        integer_only: leave out normalizations, attention and sums.
        sparse: leave out products by kernels: a sparse one takes int8 inputs only.
    """
    names = {
        graph.tensors[lookup.outputs[0]].name.decode()
        for graph, lookup in tied_lookups(model)
    }
    for graph in model.subgraphs:
        kept = []
        for _, product in tied_operators(model, graph):
            kept += [product, *_around_logits(model, graph, product)]
        if not integer_only:
            readers = _normalizations(model, graph)
            readers += _products_of_activations(model, graph)
            kept += readers
            if not sparse:
                kept += _products_before(model, graph, readers)
        for operator in kept:
            names.add(graph.tensors[operator.outputs[0]].name.decode())
    return sorted(names)


def _around_logits(model, graph, product):
    """The RESHAPEs before and after a product, and its bias: they would round it."""
    makers, readers = _neighbours(model, graph)
    return _reached(product, makers, ("RESHAPE",)) + _reached(
        product, readers, ("RESHAPE", "ADD")
    )


def _neighbours(model, graph):
    """Two functions: what makes an operator's inputs, and what reads its first output.

    Both return `[(name, operator)]`.
    """
    made, readers = operators_by_output(model, graph), _readers(model, graph)
    return (
        lambda operator: [made[int(i)] for i in operator.inputs if int(i) in made],
        lambda operator: readers.get(int(operator.outputs[0]), [])[:],
    )


def _reached(start, step, passed, last=""):
    """The operators that steps lead to over those of the names `passed`."""
    found, left = {}, step(start)
    while left:
        name, operator = left.pop()
        if id(operator) not in found and name in (*passed, last):
            found[id(operator)] = operator
            left += step(operator) if name in passed else []
    return list(found.values())


def _readers(model, graph):
    """`{tensor: [(name, operator that reads it)]}` of one subgraph."""
    readers = {}
    for part in named_operators(model, graph):
        for index in part[1].inputs:
            readers.setdefault(int(index), []).append(part)
    return readers


def _products_before(model, graph, operators):
    """Products that operators read, with the moves and activations around them.

    None whose kernel training has learned to round.
    """
    makers, _ = _neighbours(model, graph)
    names = {id(part): name for name, part in named_operators(model, graph)}
    found = []
    for operator in operators:
        before = _reached(operator, makers, PASSED, "FULLY_CONNECTED")
        products = [
            part
            for part in before
            if names[id(part)] == "FULLY_CONNECTED"
            and is_float(graph.tensors[part.inputs[1]])
            and constant_values(model, graph.tensors[part.inputs[1]]) is not None
        ]
        for product in products:
            found += [product, *_reached(product, makers, PASSED)]
        if products:
            found += [x for x in before if names[id(x)] != "FULLY_CONNECTED"]
    return found


def _products_of_activations(model, graph):
    """BATCH_MATMULs, the masks and softmax before them, and the moves after them."""
    makers, readers = _neighbours(model, graph)
    names = {id(part): name for name, part in named_operators(model, graph)}
    found = []
    for name, product in named_operators(model, graph):
        if name != "BATCH_MATMUL" or not is_float(graph.tensors[product.outputs[0]]):
            continue
        after = _reached(product, readers, (*MOVES, "MUL"))
        found += [product, *after]
        for operator in after:  # times whether a row keeps any position
            if names[id(operator)] == "MUL":
                found += _reached(operator, makers, MASKS)
        before = _reached(product, makers, MOVES, "SOFTMAX")
        for softmax in [part for part in before if names[id(part)] == "SOFTMAX"]:
            found += [*before, *_reached(softmax, makers, MASKS)]
    return found


def _normalizations(model, graph):
    """The operators of every layer normalization in a graph, and the sums they read."""
    operators = named_operators(model, graph)
    made, readers = operators_by_output(model, graph), _readers(model, graph)

    def makers_of(operator, *names):
        """The operators of these names that make an input of another."""
        parts = [made[int(i)] for i in operator.inputs if int(i) in made]
        return [part for name, part in parts if name in names]

    found = []
    for name, root in operators:
        shifted = makers_of(root, "ADD") or [root]  # variance + epsilon
        variance = makers_of(shifted[0], "MEAN")
        squares = makers_of(variance[0], *SQUARES) if variance else []
        if name != "RSQRT" or not squares:
            continue
        centred = makers_of(squares[0], "SUB")
        mean = makers_of((centred or squares)[0], "MEAN")
        found += [*shifted, *variance, *squares, *centred, *mean]
        sums = [part for start in mean for part in makers_of(start, "ADD")]
        while sums:
            found.append(sums.pop())
            sums += makers_of(found[-1], "ADD", "MUL")  # scaled embeddings
        products = [root]
        while products:  # times the scale and gamma, then plus beta
            found.append(products.pop())
            for name, reader in readers.get(int(found[-1].outputs[0]), ()):
                if name == "MUL":
                    products.append(reader)
                elif name in ("ADD", "SUB"):
                    found.append(reader)
    return found
