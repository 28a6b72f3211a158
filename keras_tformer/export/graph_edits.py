"""The smallest changes to a parsed `.tflite` file, of which others are made."""

import copy

import numpy as np

from keras_tformer.export.flatbuffer import schema


def copied_constant(model, graph, index):
    """The index of a constant that is a copy of another."""
    tensor = copy.copy(graph.tensors[index])
    tensor.name += b"/%d" % len(graph.tensors)
    model.buffers.append(copy.copy(model.buffers[tensor.buffer]))
    tensor.buffer = len(model.buffers) - 1
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def read_instead(operator, place, index):
    """Let an operator read another tensor at a place of its inputs."""
    operator.inputs = operator.inputs.copy()  # a view of the file
    operator.inputs[place] = index


def operator_code(model, name, version):
    """Where a file lists an operator; it is added to the list where it is missing."""
    generated = schema()
    builtin = getattr(generated.BuiltinOperator, name)
    codes = [code.builtinCode for code in model.operatorCodes]
    if builtin not in codes:
        code = generated.OperatorCodeT(builtin, version=version, builtinCode=builtin)
        model.operatorCodes.append(code)
        codes.append(builtin)
    return codes.index(builtin)


def forget_unused_operators(model):
    """Take out of a file's list the operators that no graph uses."""
    used = sorted({x.opcodeIndex for graph in model.subgraphs for x in graph.operators})
    model.operatorCodes = [model.operatorCodes[index] for index in used]
    for graph in model.subgraphs:
        for operator in graph.operators:
            operator.opcodeIndex = used.index(operator.opcodeIndex)


def row_scales(scales):
    """One scale for a whole tensor, or one for each of its rows."""
    quantization = schema().QuantizationParametersT()
    quantization.scale = np.array(scales, "float32")
    quantization.zeroPoint = np.zeros(len(scales), "int64")
    return quantization


def add_tensor(graph, like, name, shape, scale=None, buffer=0):
    """Add a tensor: as another, but for name, shape and what it holds; its index."""
    generated = schema()
    tensor = copy.copy(like)
    tensor.name = like.name + b"/" + name
    tensor.shape, tensor.shapeSignature = np.array(shape, "int32"), None
    is_float = scale is None
    kinds = generated.TensorType
    tensor.type = kinds.FLOAT32 if is_float else kinds.INT8
    tensor.quantization = None if is_float else row_scales([scale])
    tensor.buffer = buffer
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def add_after(model, graph, operator, name, other):
    """Let ADD or MUL bring another tensor to what an operator returns."""
    generated = schema()
    output = graph.tensors[operator.outputs[0]]
    before = add_tensor(graph, output, name.lower().encode(), output.shape)
    options = getattr(generated, f"{name.capitalize()}OptionsT")()
    if hasattr(operator.builtinOptions, "fusedActivationFunction"):
        activation = operator.builtinOptions.fusedActivationFunction
        options.fusedActivationFunction = activation
        operator.builtinOptions.fusedActivationFunction = 0
    added = generated.OperatorT(
        opcodeIndex=operator_code(model, name, 1),
        inputs=np.array([before, other], "int32"),
        outputs=operator.outputs,
        builtinOptionsType=getattr(
            generated.BuiltinOptions, f"{name.capitalize()}Options"
        ),
        builtinOptions=options,
    )
    operator.outputs = np.array([before], "int32")
    graph.operators.insert(graph.operators.index(operator) + 1, added)


def take_bias_out(model, graph, product):
    """FULLY_CONNECTED with a bias -> without one, then ADD."""
    *inputs, bias = map(int, product.inputs)
    if len(inputs) == 2 and bias >= 0:
        product.inputs = np.array([*inputs, -1], "int32")
        add_after(model, graph, product, "ADD", bias)


def add_int8(model, graph, tensor, values):
    """Add a constant as int8 with one scale; its index comes back."""
    generated = schema()
    scale = np.float32(max(np.abs(values).max(), 1e-12) / 127)
    steps = np.round(values / scale).astype("int8").ravel()
    model.buffers.append(generated.BufferT(data=steps.view("uint8")))
    new = copy.copy(tensor)
    new.type, new.buffer = generated.TensorType.INT8, len(model.buffers) - 1
    new.quantization = row_scales([scale])
    graph.tensors.append(new)
    return len(graph.tensors) - 1
