"""Layers that are called again and again, as one loop in the graph."""

import collections

import keras

FEWEST_CALLS = 3  # below that a loop costs more than it saves
# A loop makes all positions in its last call, too. Where only one is asked for, that is
# four fifths of a call in vain: a tenth of all of nine.
FEWEST_WHOLE_CALLS = 9


def call_in_loops(model, inputs):
    """Call a functional model at inference; calls in a row become `tf.while_loop`s.

    ALBERT's block, called twelve times, is then in the graph once. A run of calls is
    one of the same layer, or of the same few layers in turn, each on what the call
    before returned and with the same other arguments; nothing else reads what is
    between them. A last call for some positions (`num_queries`) is one of the run: it
    is made for all, and cut.

    Args:
        model: a functional `keras.Model`, which may hold others.
        inputs: what it takes.

    Returns:
        What it returns.
    """
    values = {
        id(symbol): x
        for symbol, x in zip(
            model.inputs, model._standardize_inputs(inputs), strict=True
        )
    }
    runs = {id(calls[0]): (calls, length) for calls, length in repeated_calls(model)}
    for node in graph_calls(model):
        if any(id(symbol) not in values for symbol in node.input_tensors):
            continue  # within a run, which was computed as a whole
        if id(node) in runs:
            calls, length = runs[id(node)]
            outputs, node = _loop(calls, length, values), calls[-1]
            num_queries = node.arguments.kwargs.get("num_queries")
            if num_queries is not None:
                outputs = outputs[:, :num_queries, :]  # (B, T, D)
        else:
            args, kwargs = node.arguments.fill_in(values)
            outputs = _call(node.operation, args, kwargs)
        flat = keras.tree.flatten(outputs)
        values |= {id(s): x for s, x in zip(node.output_tensors, flat, strict=True)}
    return keras.tree.map_structure(lambda symbol: values[id(symbol)], model.output)


def has_repeated_calls(model):
    """Whether `call_in_loops` would find a run of calls, at any depth."""
    return is_functional(model) and (
        bool(repeated_calls(model))
        or any(has_repeated_calls(node.operation) for node in graph_calls(model))
    )


def loops_are_cheap(model):
    """Whether no run ends in a call for some positions that would weigh in a loop."""
    if not is_functional(model):
        return True
    runs = [calls for calls, _ in repeated_calls(model)]
    return all(
        calls[-1].arguments.kwargs.get("num_queries") is None
        or len(calls) >= FEWEST_WHOLE_CALLS
        for calls in runs
    ) and all(loops_are_cheap(node.operation) for node in graph_calls(model))


def called_beside_loops(model):
    """Names of the layers that are called in a run of calls, and elsewhere, too."""
    if not is_functional(model):
        return []
    operations = [node.operation for node in graph_calls(model)]
    names = []
    for calls, length in repeated_calls(model):
        for node in calls[:length]:
            in_run = sum(node.operation is call.operation for call in calls)
            if sum(node.operation is x for x in operations) > in_run:
                names.append(node.operation.name)
    return names + [name for x in operations for name in called_beside_loops(x)]


def repeated_calls(model):
    """`[(calls in their order, how many of them are one round)]` of a graph's runs."""
    nodes = graph_calls(model)
    readers = collections.defaultdict(list)
    for node in nodes:
        for symbol in node.input_tensors:
            readers[id(symbol)].append(node)
    for symbol in model.outputs:
        readers[id(symbol)].append(None)
    runs, seen = [], set()
    for node in nodes:
        chain = []
        while node is not None and id(node) not in seen:
            seen.add(id(node))
            chain.append(node)
            node = _next(node, readers)
        runs += _runs(chain)
    return runs


def _next(node, readers):
    """The only reader of a call's only output, if that is its first argument."""
    if len(node.output_tensors) != 1 or len(readers[id(node.output_tensors[0])]) != 1:
        return None
    (reader,) = readers[id(node.output_tensors[0])]
    if reader is None or not reader.arguments.args:
        return None
    return reader if reader.arguments.args[0] is node.output_tensors[0] else None


def _runs(chain):
    """The runs of a chain in which every call reads what the one before returned."""
    runs, start = [], 0
    while start < len(chain):
        found = [
            (calls, length)
            for length in range(1, (len(chain) - start) // FEWEST_CALLS + 1)
            if (calls := _rounds(chain[start:], length))
        ]
        if found:
            runs.append(found[0])
            start += len(found[0][0])
        else:
            start += 1
    return runs


def _rounds(chain, length):
    """The calls of a chain that repeat its first `length` calls, or None."""
    size = length
    while size < len(chain) and _is_same_call(chain[size - length], chain[size]):
        size += 1
    size -= size % length
    round_ = chain[:length]
    if size < FEWEST_CALLS * length or not all(node.arguments.args for node in round_):
        return None
    source, target = round_[0].arguments.args[0], round_[-1].output_tensors[0]
    fits = (source.shape, source.dtype) == (target.shape, target.dtype)
    weighs = any(getattr(node.operation, "weights", ()) for node in round_)
    # What a later call reads besides must be there before the first one.
    known = {id(symbol) for symbol in round_[0].input_tensors}
    knows = all(known.issuperset(map(id, node.input_tensors[1:])) for node in round_)
    return chain[:size] if fits and weighs and knows else None


def _is_same_call(first, second):
    kwargs, others = (
        {name: x for name, x in node.arguments.kwargs.items() if name != "num_queries"}
        for node in (first, second)
    )
    ours = keras.tree.flatten((first.arguments.args[1:], kwargs))
    theirs = keras.tree.flatten((second.arguments.args[1:], others))
    return (
        first.operation is second.operation
        and list(kwargs) == list(others)
        and len(ours) == len(theirs)
        and all(map(_is_same, ours, theirs))
    )


def _is_same(first, second):
    plain = isinstance(first, (bool, int, float, str))
    return first is second or (plain and first == second)


def _loop(calls, length, values):
    import tensorflow as tf

    x = values[id(calls[0].arguments.args[0])]
    placed = values | {id(node.arguments.args[0]): x for node in calls[:length]}
    filled = [node.arguments.fill_in(placed) for node in calls[:length]]
    others = [(args[1:], kwargs) for args, kwargs in filled]
    if getattr(x, "_keras_mask", None) is not None:  # would get lost in a loop
        for index, node in enumerate(calls):
            args, kwargs = others[index % length]
            x = node.operation(x, *args, **kwargs)
        return x

    def one_round(index, x):
        y = x
        for node, (args, kwargs) in zip(calls, others, strict=False):
            y = _call(node.operation, (y, *args), kwargs)
        return index + 1, tf.ensure_shape(y, x.shape)

    rounds = len(calls) // length
    return tf.while_loop(lambda index, _: index < rounds, one_round, (0, x))[1]


def _call(operation, args, kwargs):
    given = any(x is not None for x in keras.tree.flatten(kwargs))  # masks may be None
    if is_functional(operation) and len(args) == 1 and not given:
        return call_in_loops(operation, args[0])
    return operation(*args, **kwargs)


def graph_calls(model):
    """The calls of a graph in an order in which they can be made."""
    by_depth = model._nodes_by_depth
    return [
        node
        for depth in sorted(by_depth, reverse=True)
        for node in by_depth[depth]
        if node.operation and not node.is_input
    ]


def is_functional(operation):
    """Whether calling a model is calling its graph, and nothing else."""
    from keras.src.models.functional import Functional

    return isinstance(operation, Functional) and type(operation).call is Functional.call
