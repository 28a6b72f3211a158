"""A `.tflite` file taken apart: operators, products, weights and memory."""

import collections
import os
import struct

import numpy as np

# Kernels and tables.
_WEIGHT_DTYPES = ("float32", "float16", "int8")
# Operators that multiply and add up.
_PRODUCTS = ("FULLY_CONNECTED", "BATCH_MATMUL", "CONV_2D", "DEPTHWISE_CONV_2D")


def inspect_file(file):
    """What `report` reads from the file itself, without running or compressing it."""
    path = os.fspath(file)
    model = read_model(path)
    names = _names(schema().TensorType)
    operator_names = _names(schema().BuiltinOperator)
    operators = collections.defaultdict(collections.Counter)
    macs = collections.Counter()
    signatures = _signatures(model, names)
    default = signatures.get("serving_default") or next(iter(signatures.values()), {})
    for graph, times in reached(model, default.pop("subgraph", 0)):
        for operator in graph.operators:
            name = _operator_name(model, operator, operator_names)
            tensors = [graph.tensors[i] for i in operator.inputs if i >= 0]
            outputs = [graph.tensors[i] for i in operator.outputs]
            dtype = _operator_dtype(name, tensors, outputs, names)
            operators[name][dtype] += 1
            macs[dtype] += times * _macs(name, tensors, outputs)
    macs = {dtype: count for dtype, count in macs.items() if count}
    total = sum(macs.values())
    return {
        "file": path,
        "size_bytes": os.path.getsize(path),
        "inputs": default.get("inputs", {}),
        "outputs": default.get("outputs", {}),
        "signatures": sorted(signatures),
        "num_operators": sum(sum(kind.values()) for kind in operators.values()),
        "operators": {name: dict(operators[name]) for name in sorted(operators)},
        "macs": total,
        "macs_by_dtype": macs,
        "int8_macs_share": macs.get("int8", 0) / total if total else 0.0,
        **_constants(model, names),
        "activation_bytes": max(
            _peak_bytes(graph, model, names) for graph in model.subgraphs
        ),
    }


def _constants(model, names):
    """Bytes of constants by dtype, each stored one once, and the share of zeros."""
    weights = collections.Counter()
    seen = set()
    zeros = values = 0
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            data = model.buffers[tensor.buffer].data
            # Equal buffers may refer to one place in the file.
            place = None if data is None else data.ctypes.data
            if place is None or place in seen:
                continue
            seen.add(place)
            weights[names[tensor.type]] += len(data)
            is_matrix = tensor.shape is not None and len(tensor.shape) == 2
            if names[tensor.type] in _WEIGHT_DTYPES and is_matrix:
                matrix = np.frombuffer(data, names[tensor.type])
                zeros += int((matrix == _zero_of(tensor)).sum())
                values += matrix.size
    return {
        "weight_bytes": dict(weights),
        "zeros": zeros / values if values else 0.0,
    }


def _zero_of(tensor):
    """The stored value that means 0; post-training tables have another than 0."""
    points = getattr(tensor.quantization, "zeroPoint", None)
    return 0 if points is None or len(points) == 0 else points[0]


def _operator_name(model, operator, operator_names):
    code = model.operatorCodes[operator.opcodeIndex]
    name = operator_names[max(code.builtinCode, code.deprecatedBuiltinCode)]
    return code.customCode.decode() if name == "CUSTOM" else name


def reached(model, index):
    """`[(subgraph, how often a call runs it)]`: one, and those that it loops over."""
    left, found = [(index, 1)], []
    while left:
        index, times = left.pop()
        graph = model.subgraphs[index]
        found.append((graph, times))
        for name, operator in named_operators(model, graph):
            if name == "WHILE":
                options = operator.builtinOptions
                rounds = times * _rounds(model, graph, operator)
                left.append((options.condSubgraphIndex, rounds))
                left.append((options.bodySubgraphIndex, rounds))
    return found


def _rounds(model, graph, loop):
    """How often a loop runs that counts by 1 to a constant; 1 for any other loop."""
    condition, body = (
        model.subgraphs[index]
        for index in (
            loop.builtinOptions.condSubgraphIndex,
            loop.builtinOptions.bodySubgraphIndex,
        )
    )
    tests = named_operators(model, condition)
    if [name for name, _ in tests] != ["LESS"]:
        return 1
    counter, limit = tests[0][1].inputs
    place = [int(index) for index in condition.inputs].index(counter)
    adds = [
        operator
        for name, operator in named_operators(model, body)
        if name == "ADD" and body.outputs[place] in operator.outputs
    ]
    if not adds or body.inputs[place] not in adds[0].inputs:
        return 1
    step = sum(adds[0].inputs) - body.inputs[place]  # the other input
    start, limit, step = (
        _whole_number(model, part.tensors[index])
        for part, index in (
            (graph, loop.inputs[place]),
            (condition, limit),
            (body, step),
        )
    )
    return max(limit - start, 1) if None not in (start, limit) and step == 1 else 1


def _whole_number(model, tensor):
    data = model.buffers[tensor.buffer].data
    if data is None or tensor.type != schema().TensorType.INT32 or len(data) != 4:
        return None
    return int(data.view("int32")[0])


def parse(content):
    """The bytes of a `.tflite` file as the format's generated `ModelT`."""
    return schema().ModelT.InitFromPackedBuf(content, 0)


def named_operators(model, graph):
    """`[(name, operator)]` of one subgraph, in the order in which they run."""
    names = _names(schema().BuiltinOperator)
    return [(_operator_name(model, part, names), part) for part in graph.operators]


def operators_by_output(model, graph):
    """`{tensor: (name, operator that makes it)}` of one subgraph."""
    named = named_operators(model, graph)
    return {int(index): part for part in named for index in part[1].outputs}


def is_float(tensor):
    """Whether a tensor of a parsed file is float32."""
    return tensor.type == schema().TensorType.FLOAT32


def constant_values(model, tensor):
    """The numbers that a constant stands for as floats; None where they are not.

    Constants of float32, int8 and int16 are, unless stored sparsely.
    """
    data = model.buffers[tensor.buffer].data
    dtype = _names(schema().TensorType)[tensor.type]
    if data is None or dtype not in ("float32", "int8", "int16"):
        return None
    if tensor.sparsity is not None:
        return None
    values = np.frombuffer(data, dtype).reshape(tensor.shape)
    if dtype == "float32":
        return values
    scale, zero = (
        np.reshape(part, [-1] + [1] * (values.ndim - 1)) if len(part) > 1 else part[0]
        for part in (tensor.quantization.scale, tensor.quantization.zeroPoint)
    )
    return (values.astype("float32") - zero) * scale


def custom_operators(content):
    """Names of the operators in a file's bytes that LiteRT itself does not have."""
    model = parse(content)
    codes = [code.customCode for code in model.operatorCodes]
    return [code.decode() for code in codes if code is not None]


def schema():
    """The generated reader and writer of `.tflite` files."""
    try:
        from ai_edge_litert import schema_py_generated as generated
    except ImportError:
        from tensorflow.lite.python import schema_py_generated as generated
    return generated


def read_model(path):
    """A file as the format's generated `ModelT`; ValueError if it is another one."""
    if not os.path.isfile(path):
        raise ValueError(f"There is no file at {path!r}. Expected a .tflite file.")
    with open(path, "rb") as stream:
        content = stream.read()
    if content[4:8] != b"TFL3":
        raise ValueError(
            f"{path!r} is not a TFLite file (its identifier is {content[4:8]!r}, "
            "expected b'TFL3')."
        )
    try:
        return parse(content)
    except (struct.error, IndexError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path!r} begins as a TFLite file of {len(content)} bytes but cannot be "
            f"read to its end ({error}). It may have been cut off: copy it again."
        ) from error


def _names(enumeration):
    names = {
        value: name
        for name, value in vars(enumeration).items()
        if isinstance(value, int) and not name.startswith("_")
    }
    if hasattr(enumeration, "FLOAT32"):
        names = {value: name.lower() for value, name in names.items()}
    return names


def _signatures(model, names):
    """`{name: {"inputs", "outputs", "subgraph"}}`."""
    result = {}
    for signature in model.signatureDefs or ():
        tensors = model.subgraphs[signature.subgraphIndex].tensors
        result[signature.signatureKey.decode()] = {
            "inputs": _tensors(signature.inputs, tensors, names),
            "outputs": _tensors(signature.outputs, tensors, names),
            "subgraph": signature.subgraphIndex,
        }
    return result


def _tensors(parts, tensors, names):
    described = {}
    for part in parts:
        tensor = tensors[part.tensorIndex]
        shape = [] if tensor.shape is None else [int(size) for size in tensor.shape]
        dtype = names[tensor.type]
        described[part.name.decode()] = {"shape": shape, "dtype": dtype}
    return described


def _operator_dtype(name, inputs, outputs, names):
    if name in _PRODUCTS:
        left, right = names[inputs[0].type], names[inputs[1].type]
        return left if left == right else f"{left}*{right}"
    return names[outputs[0].type] if outputs else "none"


def _macs(name, inputs, outputs):
    if name not in _PRODUCTS:
        return 0
    count = 1
    for size in outputs[0].shape if outputs[0].shape is not None else ():
        count *= int(size)
    if name == "FULLY_CONNECTED":
        return count * int(inputs[1].shape[-1])
    if name == "CONV_2D":  # kernel (out, height, width, in)
        return count * int(np.prod(inputs[1].shape[1:]))
    if name == "DEPTHWISE_CONV_2D":  # kernel (1, height, width, out)
        return count * int(np.prod(inputs[1].shape[1:3]))
    # (..., m, k) x (..., k, n): both transpose flags leave k out of the output.
    total = 1
    for size in inputs[0].shape:
        total *= int(size)
    rows = int(outputs[0].shape[-2])
    batch = count // (rows * int(outputs[0].shape[-1]))
    left_batch = 1
    for size in inputs[0].shape[:-2]:
        left_batch *= int(size)
    inner = total // (left_batch * rows)
    return batch * rows * int(outputs[0].shape[-1]) * inner


_BYTES = {
    "float64": 8,
    "int64": 8,
    "uint64": 8,
    "float32": 4,
    "int32": 4,
    "uint32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int16": 2,
}


def _peak_bytes(graph, model, names):
    """Most bytes of activations that are alive at one operator."""
    last = {}
    for step, operator in enumerate(graph.operators):
        for index in [*operator.inputs, *operator.outputs]:
            last[index] = step
    for index in [*graph.inputs, *graph.outputs]:
        last[index] = len(graph.operators)

    def size(index):
        tensor = graph.tensors[index]
        if model.buffers[tensor.buffer].data is not None:
            return 0  # a constant stays in the file
        count = _BYTES.get(names[tensor.type], 1)
        for dimension in tensor.shape if tensor.shape is not None else ():
            count *= int(dimension)
        return count

    alive = {index: size(index) for index in graph.inputs}
    peak = sum(alive.values())
    for step, operator in enumerate(graph.operators):
        alive.update({index: size(index) for index in operator.outputs})
        peak = max(peak, sum(alive.values()))
        alive = {index: n for index, n in alive.items() if last[index] > step}
    return peak
