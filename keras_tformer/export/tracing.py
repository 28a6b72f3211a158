"""From a Keras model to one TensorFlow graph with named inputs and outputs."""

import contextlib
import keyword
import re

import keras

from keras_tformer.export.repeated_calls import call_in_loops, is_functional

_SAME_NUMBERS = ("Reshape", "Transpose", "Identity", "Cast")


def check_exportable(model):
    """Refuse, in plain words, a model that cannot become a TensorFlow graph."""
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"Export runs on the TensorFlow backend; Keras runs on "
            f"{keras.backend.backend()!r}. Save the model as `.keras`, set "
            "KERAS_BACKEND=tensorflow, load it there and export."
        )
    if not isinstance(model, keras.Model):
        raise ValueError(f"Expected a keras.Model, received {type(model).__name__}.")
    if not model.built or getattr(model, "inputs", None) is None:
        raise ValueError(
            f"The model {model.name!r} has no inputs yet (not built, or a subclass of "
            "keras.Model). Expected a functional or built Sequential model. Wrap it: "
            "keras.Model(inputs, model(inputs))."
        )
    for name, tensor in named_inputs(model).items():
        if keras.backend.standardize_dtype(tensor.dtype) == "string":
            raise ValueError(
                f"The input {name!r} takes strings. Expected numbers (token ids). "
                "Export the model behind the tokenizer and hand the tokenizer over: "
                "to_saved_model(model, folder, tokenizer=tokenizer)."
            )
    for layer in leaf_layers(model):
        if getattr(layer, "quantization_mode", None) is not None:
            raise ValueError(
                f"The layer {layer.name!r} was quantized by Keras itself (mode "
                f"{layer.quantization_mode!r}); the TFLite converter cannot read "
                "such layers. Export the float model with "
                "quantization='dynamic_range' or 'int8', or train it through "
                "keras_tformer.compress.quantize_model."
            )


def leaf_layers(model):
    """Every layer of a model at any depth, the model itself left out."""
    return list(model._flatten_layers(include_self=False))


def named_inputs(model):
    """The inputs of a functional or Sequential model as `{name: KerasTensor}`."""
    structure = _input_structure(model)
    if isinstance(structure, dict):
        return dict(structure)
    return {tensor.name: tensor for tensor in model.inputs}


def _input_structure(model):
    """One tensor, a list or a dict: a Sequential model has no `input` until called."""
    if isinstance(model, keras.Sequential):
        return model.inputs[0] if len(model.inputs) == 1 else model.inputs
    return model.input


def model_outputs(model):
    """The outputs of a functional or Sequential model as `{name: KerasTensor}`."""
    if isinstance(model, keras.Sequential):
        return named_outputs(model.outputs[0])
    return named_outputs(model.output)


def named_outputs(outputs):
    """Outputs as a flat dict, named by their way: `output`, `key`, `key_0`, `key_a`.

    Raises:
        ValueError: two outputs would have one name.
    """
    if isinstance(outputs, dict):
        pairs = [pair for key, value in outputs.items() for pair in _flat(key, value)]
    else:
        pairs = _flat("output", outputs)
    flat = dict(pairs)
    if len(flat) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(
            f"Two outputs of the model would be called {twice!r} (an output within "
            "another is called by both names). Give one of them another name: "
            "keras.Model(model.inputs, {'name': output, ...})."
        )
    return flat


def _flat(name, value):
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    else:
        return [(str(name), value)]
    return [pair for key, part in items for pair in _flat(f"{name}_{key}", part)]


def input_specs(model, batch_size=None, sequence_length=None):
    """`{name: tf.TensorSpec}`; unknown dimensions take the two numbers given."""
    import tensorflow as tf

    specs = {}
    for name, tensor in named_inputs(model).items():
        shape = list(tensor.shape)
        if shape[0] is not None and batch_size is not None and shape[0] != batch_size:
            raise ValueError(
                f"The model was built for batches of {shape[0]}, received "
                f"batch_size={batch_size}. Use batch_size={shape[0]} or build the "
                "model with a free batch dimension."
            )
        shape[0] = batch_size if shape[0] is None else shape[0]
        if (
            sequence_length is not None
            and len(shape) > 1
            and shape[1] not in (None, sequence_length)
            and "int" in keras.backend.standardize_dtype(tensor.dtype)
            and name != "mask_positions"
        ):
            raise ValueError(
                f"The input {name!r} was built for sequences of {shape[1]}, received "
                f"sequence_length={sequence_length}. Use sequence_length={shape[1]} "
                "or build the model with a free sequence dimension."
            )
        shape[1:] = [sequence_length if d is None else d for d in shape[1:]]
        specs[name] = tf.TensorSpec(shape, tensor.dtype, name=name)
    return specs


def check_sequence_length(model, sequence_length):
    """Refuse a length that the model has no position embeddings for."""
    if sequence_length is None:
        return
    if not isinstance(sequence_length, int) or sequence_length < 1:
        raise ValueError(
            f"Received sequence_length={sequence_length!r}, expected a positive "
            "whole number."
        )
    longest = max_sequence_length(model)
    if longest is not None and sequence_length > longest:
        raise ValueError(
            f"Received sequence_length={sequence_length}, but the model has positions "
            f"for {longest} tokens only. Use sequence_length={longest} or less, or "
            f"build the model with max_sequence_length={sequence_length}."
        )


def max_sequence_length(model):
    """The longest sequence that the position embeddings reach, or None."""
    lengths = [
        layer.max_sequence_length
        for layer in leaf_layers(model)
        if isinstance(getattr(layer, "max_sequence_length", None), int)
    ]
    if not lengths:
        lengths = [
            weight.shape[0]
            for weight in model.weights
            if "position" in weight.path and len(weight.shape) == 2
        ]
    return min(lengths) if lengths else None


def call_flat(model, inputs, in_loops=False):
    """Call the model at inference on `{name: tensor}`; `{name: tensor}` comes back."""
    structure = _input_structure(model)
    if not isinstance(structure, dict):
        inputs = [inputs[name] for name in named_inputs(model)]
        inputs = inputs if isinstance(structure, (list, tuple)) else inputs[0]
    if in_loops and is_functional(model):
        return named_outputs(call_in_loops(model, inputs))
    return named_outputs(model(inputs, training=False))


def check_names(model, for_converter=False):
    """Refuse names that TensorFlow would change or not take.

    Raises:
        ValueError: naming the input or output, and what is allowed.
    """
    fits = re.compile(r"[A-Za-z0-9.][A-Za-z0-9_./>-]*").fullmatch
    signs = "letters of English, digits and _ . - / > (no _ at the beginning)"
    for name in model_outputs(model):
        if not fits(name):
            raise ValueError(
                f"The model has an output called {name!r}. Expected {signs}. Name it "
                "anew: keras.Model(model.inputs, {'name': output})."
            )
    if not for_converter:  # the inputs of a SavedModel's function are Python's words
        fits = re.compile(r"[A-Za-z][A-Za-z0-9_]*").fullmatch
        signs = "letters of English, digits and _, with a letter at the beginning"
    for name in named_inputs(model):
        if not fits(name) or keyword.iskeyword(name) or name == "self":
            raise ValueError(
                f"The model has an input called {name!r}. Expected {signs}, and no "
                "word of Python. Build the model with keras.Input(..., name='name')."
            )


def serving_function(model, specs, for_converter=False, in_loops=False):
    """A concrete function `(**inputs) -> {name: tensor}`; floats leave as float32.

    `for_converter` traces it under `converter_operations`; all shapes must be fixed.
    `in_loops` makes loops of repeated calls, see `call_in_loops`.
    """
    import tensorflow as tf

    check_names(model, for_converter)

    @tf.function(autograph=False)
    def serve(**inputs):
        outputs = call_flat(model, inputs, in_loops)
        return {name: as_float32(value, name) for name, value in outputs.items()}

    operations = contextlib.nullcontext()
    if for_converter:
        operations = converter_operations(_shared_variables(model))
    with operations:
        return serve.get_concrete_function(**specs)


@contextlib.contextmanager
def converter_operations(shared=()):
    """Trace two of Keras' operations in the form that the converter keeps whole.

    `keras.ops.take` becomes a bare GATHER. Keras wraps negative indices around: LESS,
    ADD and SELECT on int32 before every embedding. LiteRT has no use for them, and the
    converter cannot quantize that ADD to 16 bit ("Empty min/max for tensor
    serving_default_segment_ids").

    `keras.ops.matmul` by a variable that is read elsewhere, too (a looked-up table, a
    kernel in `shared`), gets a reshape before it; by a table, where the converter would
    undo that behind the product, the larger of each number and itself. The converter
    would multiply the scale of a layer normalization before it into the variable: a
    second copy, which is another one only once the model has learned.

    Args:
        shared: ids of the handles of variables, as `_variable_read` returns them.
    """
    import tensorflow as tf
    from keras.src.backend.tensorflow import numpy as keras_numpy

    looked_up = set()

    def take(x, indices, axis=None):
        if not isinstance(indices, tf.Tensor):  # ragged and sparse ones stay Keras'
            return keras_take(x, indices, axis)
        x = tf.convert_to_tensor(x)
        looked_up.add(_variable_read(x))
        return tf.gather(x, indices, axis=axis)

    def matmul(x1, x2):
        if isinstance(x2, keras.Variable):
            x2 = tf.convert_to_tensor(x2)
        variable = _variable_read(x2) if isinstance(x2, tf.Tensor) else None
        if variable is not None and variable in looked_up | set(shared):
            x1 = tf.convert_to_tensor(x1)
            # A rounded factor has no scale left to multiply into a table.
            is_rounded = x1.op.type.startswith("FakeQuant")
            undone = len(x1.shape) > 2 and variable in looked_up
            if undone and not is_rounded:
                return keras_matmul(tf.maximum(x1, x1), x2)
            product = tf.matmul(tf.reshape(x1, (1, 1, *x1.shape)), x2)
            return tf.reshape(product, (*x1.shape[:-1], x2.shape[-1]))
        return keras_matmul(x1, x2)

    keras_take, keras_matmul = keras_numpy.take, keras_numpy.matmul
    keras_numpy.take, keras_numpy.matmul = take, matmul
    try:
        yield
    finally:
        keras_numpy.take, keras_numpy.matmul = keras_take, keras_matmul


def _shared_variables(model):
    """Ids of the handles of the weights of layers that are called more than once."""
    return {
        id(weight.value.handle)
        for layer in leaf_layers(model)
        if len(layer._inbound_nodes) > 1
        for weight in layer.weights
        if hasattr(weight.value, "handle")
    }


def _variable_read(tensor):
    """Id of the handle of the variable that a graph's tensor is, or None."""
    operation = getattr(tensor, "op", None)
    while operation is not None and operation.type in _SAME_NUMBERS:
        operation = operation.inputs[0].op
    if operation is None or operation.type != "ReadVariableOp":
        return None
    inside = operation.inputs[0]
    for handle, placeholder in getattr(inside.graph, "captures", ()):
        if placeholder is inside:
            return id(handle)
    return None


def as_float32(value, name):
    """A half precision output leaves as float32, under its own name."""
    import tensorflow as tf

    if value.dtype.is_floating:
        value = tf.cast(value, "float32")
    return tf.identity(value, name=name)


def model_variables(model, functions):
    """The `tf.Variable`s to store, each once: the weights, and what graphs read.

    The weights go in as `weight.value`: a `tf.Module` that holds Keras variables
    becomes a `.tflite` without any weights, and Keras' own exporter stores every
    weight twice (keras issue 23553).
    """
    import tensorflow as tf

    variables = [weight.value for weight in model.weights]
    seen = {id(variable) for variable in variables}
    for variable in variables:  # graphs read a mirrored variable's own replica
        if isinstance(variable, tf.distribute.DistributedValues):
            seen.update(id(replica) for replica in variable.values)
    for function in functions:
        for variable in function.graph.variables:
            if id(variable) not in seen:
                seen.add(id(variable))
                variables.append(variable)
    return variables


def is_fake_quantized(function):
    """Whether a graph, at any depth, holds fake-quantization operators."""
    graph = function.graph.as_graph_def()
    nodes = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
    return any(node.op.startswith("FakeQuant") for node in nodes)
