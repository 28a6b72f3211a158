"""What an int8 file computes in float, because int8 would cost more than it saves."""

from keras_tformer.export.flatbuffer import (
    constant_values,
    is_float,
    named_operators,
    operators_by_output,
)
from keras_tformer.export.tables import tied_lookups, tied_operators

ACTIVATIONS = ("GELU", "TANH")
SQUARES = ("MUL", "SQUARE", "SQUARED_DIFFERENCE")


def float_operators(model, integer_only, sparse):
    """Names of the tensors that leave the operators to keep in float.

    Layer normalization squares its input, which 256 steps hold badly, and XNNPACK has
    no int8 RSQRT: the graph would be cut in two at each one. The sums that it reads
    would be rounded to int8 only to become float again, and so would the products that
    they read: of these a few channels are far larger than all others (Bondarenko et al.
    2021, arXiv 2109.12948, section 3), which one range for all rounds badly. Such a
    product keeps an int8 kernel, see `store_kernels`. The logits of a vocabulary are so
    many that some would tie in 256 steps.

    Args:
        model: a parsed float file, a `ModelT`.
        integer_only: leave out normalizations and sums.
        sparse: leave out products: a sparse int8 kernel takes int8 inputs only.
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
            normalizations = _normalizations(model, graph)
            kept += normalizations
            if not sparse:
                kept += _products_before(model, graph, normalizations)
        for operator in kept:
            names.add(graph.tensors[operator.outputs[0]].name.decode())
    return sorted(names)


def _reshapes_before(model, graph, operator):
    """The RESHAPEs of what an operator reads, which would round it for nothing."""
    return _made_by(
        operators_by_output(model, graph), operator.inputs[0], ("RESHAPE",)
    )[1]


def _made_by(made, index, passed):
    """`((name, operator), [operators])`: what made a tensor, before these names."""
    found, part = [], made.get(int(index), ("", None))
    while part[0] in passed:
        found.append(part[1])
        part = made.get(int(part[1].inputs[0]), ("", None))
    return part, found


def _products_before(model, graph, operators):
    """Products that operators read, and the activations on both sides of these.

    None whose kernel training has learned to round.
    """
    made, found = operators_by_output(model, graph), []
    for operator in operators:
        for index in operator.inputs:
            (name, product), between = _made_by(made, index, ("RESHAPE", *ACTIVATIONS))
            if name != "FULLY_CONNECTED":
                continue
            kernel = graph.tensors[product.inputs[1]]
            if is_float(kernel) and constant_values(model, kernel) is not None:
                found += [*between, product]
                found += _made_by(made, product.inputs[0], ACTIVATIONS)[1]
    return found


def _normalizations(model, graph):
    """The operators of every layer normalization in a graph, and the sums they read."""
    operators = named_operators(model, graph)
    made, readers = operators_by_output(model, graph), {}
    for part in operators:
        for index in part[1].inputs:
            readers.setdefault(int(index), []).append(part)

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
