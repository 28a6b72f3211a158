"""What an int8 file computes in float, because int8 would cost more than it saves."""

from keras_tformer.export.flatbuffer import (
    constant_values,
    is_float,
    named_operators,
)
from keras_tformer.export.tables import tied_lookups, tied_operators

PRODUCTS = ("FULLY_CONNECTED", "BATCH_MATMUL", "GATHER")
SQUARES = ("MUL", "SQUARE", "SQUARED_DIFFERENCE")


def float_operators(model, integer_only):
    """Names of the tensors that leave the operators to keep in float.

    Layer normalization squares its input, which 256 steps hold badly, and XNNPACK has
    no int8 RSQRT: the graph would be cut in two at each one. The sums that it reads
    would be rounded to int8 only to become float again. The logits of a vocabulary are
    so many that some would tie in 256 steps; the product that prepares them alone, as
    in the head for masked words, has outputs of which few are far larger than all
    others.

    Args:
        model: a parsed float file, a `ModelT`.
        integer_only: leave out normalizations and sums.
    """
    names = {
        graph.tensors[lookup.outputs[0]].name.decode()
        for graph, lookup in tied_lookups(model)
    }
    for graph in model.subgraphs:
        kept = []
        for _, product in tied_operators(model, graph):
            kept += [product, *_reshapes_before(model, graph, product)]
            if not integer_only:
                kept += _prepared_by(model, graph, product)
        if not integer_only:
            kept += _normalizations(model, graph)
        for operator in kept:
            names.add(graph.tensors[operator.outputs[0]].name.decode())
    return sorted(names)


def _reshapes_before(model, graph, operator):
    """The RESHAPEs of what an operator reads, which would round it for nothing."""
    makers = {
        int(index): part
        for part in named_operators(model, graph)
        for index in part[1].outputs
    }
    found = []
    name, maker = makers.get(int(operator.inputs[0]), ("", None))
    while name == "RESHAPE":
        found.append(maker)
        name, maker = makers.get(int(maker.inputs[0]), ("", None))
    return found


def _prepared_by(model, graph, product):
    """The one product that makes what another reads, and what is between the two.

    Nothing where several do, as all sums of residuals are made by, nor where training
    has learned how to round its kernel.
    """
    makers = {
        int(index): part
        for part in named_operators(model, graph)
        for index in part[1].outputs
    }
    found, products, unseen = [], [], [int(product.inputs[0])]
    while unseen:
        name, maker = makers.pop(unseen.pop(), ("", None))
        if name in PRODUCTS:
            products.append(maker)
        if maker is not None:
            found.append(maker)
            unseen += [] if name in PRODUCTS else map(int, maker.inputs)
    kernels = [graph.tensors[maker.inputs[1]] for maker in products]
    is_head = len(kernels) == 1 and constant_values(model, kernels[0]) is not None
    return found if is_head and is_float(kernels[0]) else []


def _normalizations(model, graph):
    """The operators of every layer normalization in a graph, and the sums they read."""
    operators = named_operators(model, graph)
    makers = {int(i): part for part in operators for i in part[1].outputs}
    readers = {}
    for part in operators:
        for index in part[1].inputs:
            readers.setdefault(int(index), []).append(part)

    def makers_of(operator, *names):
        """The operators of these names that make an input of another."""
        made = [makers[int(i)] for i in operator.inputs if int(i) in makers]
        return [part for name, part in made if name in names]

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
