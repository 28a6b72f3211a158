"""What is inside a `.tflite` file, read from the file itself."""

import collections
import os

import numpy as np

from keras_tformer.export.files import gzip_size

# Kernels and tables; zero is stored as zero in each (int8 weights are symmetric).
_WEIGHT_DTYPES = ("float32", "float16", "int8")


def report(file, show=True):
    """Read a `.tflite` file and say what it holds.

    Args:
        file: path of a `.tflite` file.
        show: print it as well, as a table where `rich` is installed.

    Returns:
        A dict: `file`, `size_bytes`, `gzip_bytes`, `inputs` and `outputs`
        (`{name: {"shape", "dtype"}}`), `num_operators`, `operators`
        (`{type: {dtype: count}}`), `macs` (multiply-accumulates of one call),
        `macs_by_dtype`, `int8_macs_share`, `weight_bytes` (by dtype), `zeros`
        (share of zeros in the rank-2 constants, the kernels and tables) and
        `activation_bytes`: the most bytes of activations alive at once, the least
        that the runtime's arena must hold. A dtype such as `float32*int8` is that of
        activations and weights where they differ.

    Raises:
        ValueError: no such file, or not a TFLite file.

    Example:
        >>> import keras, tempfile
        >>> from keras_tformer.export import to_tflite
        >>> x = keras.Input((5,), name="x")
        >>> model = keras.Model({"x": x}, keras.layers.Dense(3)(x))
        >>> file = tempfile.mkdtemp() + "/model.tflite"
        >>> _ = to_tflite(model, file)
        >>> result = report(file, show=False)
        >>> result["operators"], result["macs"]
        ({'FULLY_CONNECTED': {'float32': 1}}, 15)
    """
    result = inspect_file(file)
    result["gzip_bytes"] = gzip_size(file)
    if show:
        show_report(result)
    return result


def inspect_file(file):
    """`report` without the slow part, the compressed size."""
    path = os.fspath(file)
    schema, model = _read(path)
    names = _names(schema.TensorType)
    operator_names = _names(schema.BuiltinOperator)
    operators = collections.defaultdict(collections.Counter)
    macs = collections.Counter()
    weights = collections.Counter()
    constants = {}
    zeros = values = 0
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            data = model.buffers[tensor.buffer].data
            if data is not None and tensor.buffer not in constants:
                constants[tensor.buffer] = len(data)
                weights[names[tensor.type]] += len(data)
                if names[tensor.type] in _WEIGHT_DTYPES and len(tensor.shape) == 2:
                    matrix = np.frombuffer(data, names[tensor.type])
                    zeros += int((matrix == 0).sum())
                    values += matrix.size
        for operator in graph.operators:
            code = model.operatorCodes[operator.opcodeIndex]
            number = max(code.builtinCode, code.deprecatedBuiltinCode)
            name = operator_names[number]
            if name == "CUSTOM":
                name = code.customCode.decode()
            tensors = [graph.tensors[i] for i in operator.inputs if i >= 0]
            outputs = [graph.tensors[i] for i in operator.outputs]
            dtype = _operator_dtype(name, tensors, outputs, names)
            operators[name][dtype] += 1
            macs[dtype] += _macs(name, tensors, outputs)
    macs = {dtype: count for dtype, count in macs.items() if count}
    total = sum(macs.values())
    return {
        "file": path,
        "size_bytes": os.path.getsize(path),
        **_signature(model, names),
        "num_operators": sum(sum(kind.values()) for kind in operators.values()),
        "operators": {name: dict(operators[name]) for name in sorted(operators)},
        "macs": total,
        "macs_by_dtype": macs,
        "int8_macs_share": macs.get("int8", 0) / total if total else 0.0,
        "weight_bytes": dict(weights),
        "zeros": zeros / values if values else 0.0,
        "activation_bytes": max(
            _peak_bytes(graph, model, names) for graph in model.subgraphs
        ),
    }


def show_report(result):
    """Print a report, as a table where `rich` is installed, else as plain lines."""
    rows = [
        ("file", result["file"]),
        ("size", f"{result['size_bytes']:,} bytes"),
        ("gzip", f"{result['gzip_bytes']:,} bytes"),
        ("operators", f"{result['num_operators']:,}"),
        ("multiply-accumulates", f"{result['macs']:,}"),
        ("of them in int8", f"{result['int8_macs_share']:.1%}"),
        ("activations alive at once", f"{result['activation_bytes']:,} bytes"),
    ]
    for threads, times in result.get("latency", {}).items():
        text = f"median {times['median_ms']:.2f} ms, p90 {times['p90_ms']:.2f} ms"
        rows.append((f"latency, {threads} thread(s)", text))
    for kind in ("inputs", "outputs"):
        for name, spec in result[kind].items():
            rows.append((f"{kind[:-1]} {name}", f"{spec['dtype']} {spec['shape']}"))
    for name, dtypes in result["operators"].items():
        counts = ", ".join(f"{count} {dtype}" for dtype, count in dtypes.items())
        rows.append((name, counts))
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        width = max(len(left) for left, _ in rows)
        print("\n".join(f"{left:<{width}}  {right}" for left, right in rows))
        return
    table = Table(show_header=False)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def _read(path):
    try:
        from ai_edge_litert import schema_py_generated as schema
    except ImportError:
        from tensorflow.lite.python import schema_py_generated as schema

    if not os.path.isfile(path):
        raise ValueError(f"There is no file at {path!r}. Expected a .tflite file.")
    with open(path, "rb") as stream:
        content = stream.read()
    if content[4:8] != b"TFL3":
        raise ValueError(
            f"{path!r} is not a TFLite file (its identifier is {content[4:8]!r}, "
            "expected b'TFL3')."
        )
    return schema, schema.ModelT.InitFromPackedBuf(content, 0)


def _names(enumeration):
    names = {
        value: name
        for name, value in vars(enumeration).items()
        if isinstance(value, int) and not name.startswith("_")
    }
    if hasattr(enumeration, "FLOAT32"):
        names = {value: name.lower() for value, name in names.items()}
    return names


def _signature(model, names):
    tensors = model.subgraphs[0].tensors
    result = {"inputs": {}, "outputs": {}}
    if not model.signatureDefs:
        return result
    signature = model.signatureDefs[0]
    for kind, parts in (("inputs", signature.inputs), ("outputs", signature.outputs)):
        for part in parts:
            tensor = tensors[part.tensorIndex]
            shape = [] if tensor.shape is None else [int(size) for size in tensor.shape]
            result[kind][part.name.decode()] = {
                "shape": shape,
                "dtype": names[tensor.type],
            }
    return result


def _operator_dtype(name, inputs, outputs, names):
    if name in ("FULLY_CONNECTED", "BATCH_MATMUL", "CONV_2D"):
        left, right = names[inputs[0].type], names[inputs[1].type]
        return left if left == right else f"{left}*{right}"
    return names[outputs[0].type] if outputs else "none"


def _macs(name, inputs, outputs):
    if name not in ("FULLY_CONNECTED", "BATCH_MATMUL"):
        return 0
    count = 1
    for size in outputs[0].shape if outputs[0].shape is not None else ():
        count *= int(size)
    if name == "FULLY_CONNECTED":
        return count * int(inputs[1].shape[-1])
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
