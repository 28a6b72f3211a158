"""Lay a model of composite layers flat: one graph of leaves."""

import inspect
import re

import keras
from keras import ops

from keras_tformer.compress.flatten_checks import (
    check_no_python_state,
    does_the_same_in_training,
    plain_attributes,
)


def flatten(model, sequence_length=None, keep=()):
    """Rebuilds a functional model as one graph of leaf layers and operations.

    Every nested model and every composite layer (a layer whose `call` is made of
    sublayers and `keras.ops`) is replaced by what its `call` does. The outputs are the
    same to the last bit and the weights are the *same objects*: training the flat model
    trains the given one, and what was shared stays shared. The given model is not
    changed. Leaves are named after their path, `"encoder.attention.query"`; a leaf that
    is called several times remains one layer with several call sites. The flat model is
    not compiled.

    Args:
        model: a built functional or Sequential `keras.Model`. Its composite layers may
            come from any library.
        sequence_length: int, length given to every input whose second dimension is
            open, or {input name: length}. Layers that reshape by the length need it.
        keep: names of layers to leave whole, for instance a composite layer that
            cannot be traced.

    Returns:
        A functional `keras.Model` with the inputs and outputs of `model`.

    Raises:
        ValueError: if `model` is not a built functional or Sequential model, or if a
            layer in it cannot be laid flat: its `call` does not run on symbolic
            tensors, changes a Python attribute, or computes something else in training,
            or it has both sublayers and weights of its own.

    Example:

    >>> import keras
    >>> inner = keras.Sequential([keras.Input((3,)), keras.layers.Dense(5)], name="a")
    >>> x = keras.Input((3,))
    >>> flat = flatten(keras.Model(x, keras.layers.ReLU(name="b")(inner(x))))
    >>> [layer.name for layer in flat.layers[1:]]
    ['a.dense', 'b']
    """
    graph = _functional_graph(model)
    inputs = _symbolic_inputs(graph, sequence_length)
    paths = {}
    name_layers(graph, paths)
    before = [
        (layer, layer.name, len(layer._inbound_nodes), len(layer._outbound_nodes))
        for _, layer in paths.values()
    ]
    try:
        _set_unique_names([layer for layer, *_ in before], paths)
        return _expand_all(graph, inputs, keep, paths)
    finally:  # the given layers were renamed and called: take that back
        for layer, name, num_inbound, num_outbound in before:
            layer.__dict__["name"] = name
            del layer._inbound_nodes[num_inbound:]
            del layer._outbound_nodes[num_outbound:]


def _expand_all(graph, inputs, keep, paths):
    expanded = True
    while expanded:
        graph, expanded = _expand(graph, inputs, keep, paths)
    taken = {tensor.name for tensor in graph.inputs}
    return keras.models.clone_model(
        graph,
        input_tensors=inputs,
        clone_function=lambda layer: _leaf(layer, paths, taken),
    )


def _expand(graph, inputs, keep, paths):
    """Replaces the composites of a graph by their sublayers, one level deep."""
    expanded = set()

    def call(layer, *args, **kwargs):
        path = paths[id(layer)][0] if id(layer) in paths else layer.name
        if path in keep or not _is_composite(layer):
            return layer(*args, **kwargs)
        outputs = _call_composite(
            layer, args, kwargs, path, is_first_call=id(layer) not in expanded
        )
        if outputs is None:  # a weightless layer that is not traceable is a leaf
            return layer(*args, **kwargs)
        expanded.add(id(layer))
        _name_operations(outputs, args, kwargs, path, paths)
        return outputs

    graph = keras.models.clone_model(
        graph,
        input_tensors=inputs,
        clone_function=lambda layer: layer,
        call_function=call,
    )
    return graph, expanded


def name_layers(graph, paths):
    """Fills `paths`, {id: (dotted path, layer)}, for all layers under `graph`."""
    for operation in graph.operations:  # the outermost name of a shared layer wins
        paths[id(operation)] = (operation.name, operation)
    for operation in graph.operations:
        _name_sublayers(operation, operation.name, paths)


def _name_sublayers(layer, prefix, paths):
    if not isinstance(layer, keras.layers.Layer):
        return
    for sublayer in layer._flatten_layers(include_self=False, recursive=False):
        if isinstance(sublayer, keras.layers.InputLayer):
            continue
        path = f"{prefix}.{sublayer.name}"
        known = paths.setdefault(id(sublayer), (path, sublayer))
        if known[0] == path:
            _name_sublayers(sublayer, path, paths)


def _functional_graph(model):
    if not isinstance(model, keras.Model):
        raise ValueError(
            f"Expected a keras.Model to flatten, received {type(model).__name__}."
        )
    if not model.built:
        raise ValueError(
            f"Model '{model.name}' has no weights yet. Call it once, or give its first "
            "layer a keras.Input, before you compress it."
        )
    if isinstance(model, keras.Sequential):
        outputs = model.outputs if len(model.outputs) > 1 else model.outputs[0]
        return keras.Model(model.inputs[0], outputs, name=model.name)
    if isinstance(model, keras.Function):
        return keras.Model(model.input, model.output, name=model.name)
    raise ValueError(
        f"Model '{model.name}' is a subclassed model ({type(model).__name__}): what "
        "its call does is known to Python only. Build it from keras.Input tensors with "
        "the functional API; layers of your own class may stay as they are."
    )


def _symbolic_inputs(graph, sequence_length):
    def symbolic_input(tensor):
        length = sequence_length
        if isinstance(sequence_length, dict):
            length = sequence_length.get(tensor.name)
        shape = list(tensor.shape)
        if length is not None and len(shape) > 1 and shape[1] is None:
            shape[1] = length
        return keras.Input(batch_shape=shape, dtype=tensor.dtype, name=tensor.name)

    return keras.tree.map_structure(symbolic_input, graph.input)


def _is_composite(layer):
    """Whether a layer is laid flat by running its `call` on symbolic tensors.

    Of Keras' own layers those are models and the attention layers: the others with
    sublayers (recurrent, wrappers, preprocessing) loop or hold state in Python.
    """
    if not isinstance(layer, keras.layers.Layer):
        return False
    if isinstance(layer, (keras.Function, keras.Sequential)):
        return True
    if type(layer).__module__.startswith("keras.src."):
        return isinstance(
            layer,
            (keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention),
        )
    own_state = layer._trainable_variables or layer._non_trainable_variables
    if _has_sublayers(layer):
        if own_state:
            raise ValueError(
                f"Layer '{layer.name}' ({type(layer).__name__}) has sublayers and also "
                "weights of its own, so it cannot be laid flat. Put these weights into "
                f"a sublayer, or leave the layer whole: keep=['{layer.name}'] "
                "(skip= in quantize_model)."
            )
        return True
    return not own_state and not layer._seed_generators


def _has_sublayers(layer):
    return any(True for _ in layer._flatten_layers(include_self=False, recursive=False))


def _call_composite(layer, args, kwargs, path, is_first_call):
    """Runs `layer.call` on symbolic tensors; None if a leaf must stay whole."""
    if layer.autocast:  # what Layer.__call__ does with the arguments

        def cast(x):
            is_float = isinstance(x, keras.KerasTensor) and "float" in x.dtype
            if is_float and x.dtype != layer.compute_dtype:
                return ops.cast(x, layer.compute_dtype)
            return x

        args = keras.tree.map_structure(cast, args)
        kwargs = keras.tree.map_structure(cast, kwargs)
    kwargs = _with_implicit_masks(layer, args, kwargs)
    attributes = plain_attributes(layer)
    try:
        outputs = layer.call(*args, **kwargs)
        is_the_same_in_training = not is_first_call or does_the_same_in_training(
            layer, outputs, args, kwargs
        )
    except Exception as error:
        if not _has_sublayers(layer):
            return None
        raise ValueError(
            f"Layer '{path}' ({type(layer).__name__}) cannot be laid "
            "flat: its call does not run on symbolic tensors. Write it with sublayers "
            "and keras.ops only, or leave it whole: "
            f"keep=['{layer.name}'] (skip= in quantize_model). Keras said: {error}"
        ) from error
    check_no_python_state(layer, attributes, path)
    if not all(isinstance(x, keras.KerasTensor) for x in keras.tree.flatten(outputs)):
        if not _has_sublayers(layer):
            return None  # a constant that depends on the input's shape only
        raise ValueError(
            f"Layer '{path}' ({type(layer).__name__}) cannot be laid "
            "flat: it returns something that is not a tensor."
        )
    if not is_the_same_in_training:
        if not _has_sublayers(layer):
            return None
        raise ValueError(
            f"Layer '{path}' ({type(layer).__name__}) cannot be laid flat: its call "
            "takes other operations with training=True, and a graph has those of one "
            "value. Put what differs into a sublayer with a weight or a seed generator "
            "of its own, as keras.layers.Dropout does, or leave the layer whole: "
            f"keep=['{layer.name}'] (skip= in quantize_model)."
        )
    return outputs


def _with_implicit_masks(layer, args, kwargs):
    """Adds the masks that `Layer.__call__` reads from `mask_zero` embeddings."""
    signature = inspect.signature(layer.call)
    bound = signature.bind(*args, **kwargs).arguments
    tensors = {
        name: value
        for name, value in bound.items()
        if isinstance(value, keras.KerasTensor)
    }
    added = {}
    for name, tensor in tensors.items():
        argument = "mask" if len(tensors) == 1 else f"{name}_mask"
        mask = getattr(tensor, "_keras_mask", None)
        if (
            mask is not None
            and argument in signature.parameters
            and bound.get(argument) is None
        ):
            added[argument] = mask
    return kwargs | added


def _name_operations(outputs, args, kwargs, prefix, paths):
    """Names the operations that a composite's `call` left in the graph."""
    known = {
        id(x)
        for x in keras.tree.flatten((args, kwargs))
        if isinstance(x, keras.KerasTensor)
    }
    tensors = list(keras.tree.flatten(outputs))
    while tensors:
        tensor = tensors.pop()
        if id(tensor) in known:
            continue
        known.add(id(tensor))
        operation, node_index, _ = tensor._keras_history
        if id(operation) not in paths:
            name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(operation).__name__)
            paths[id(operation)] = (f"{prefix}.{name.lower()}", operation)
        tensors += operation._inbound_nodes[node_index].input_tensors


def _set_unique_names(layers, paths):
    taken = set()
    for layer in layers:
        layer.__dict__["name"] = _unique_name(paths[id(layer)][0], taken)


def _unique_name(path, taken):
    name, count = path, 1
    while name in taken:
        name, count = f"{path}_{count}", count + 1
    taken.add(name)
    return name


def _leaf(layer, paths, taken):
    """A second layer object over the same weights, with its own name and no nodes.

    So the given model's layers keep their names and their places in its graph.
    """
    leaf = object.__new__(type(layer))
    leaf.__dict__.update(layer.__dict__)
    path = paths[id(layer)][0] if id(layer) in paths else layer.name
    name = _unique_name(path, taken)
    leaf.__dict__.update(name=name, _inbound_nodes=[], _outbound_nodes=[])
    return leaf
