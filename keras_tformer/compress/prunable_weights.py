"""Which weights of a model a layer choice means."""

import difflib

import keras

# Names of weights that are never pruned or quantized per channel, whatever their rank.
_VECTORS = ("bias", "gamma", "beta", "moving_mean", "moving_variance")
# Operations that may stand between the last classifier and a model's output.
_AFTER_CLASSIFIER = {
    *("Softmax", "Sigmoid", "Activation", "Identity", "Cast", "GetItem", "Split"),
    *("Squeeze", "Reshape", "Unstack", "VocabularyBias", "Flatten"),
}


def choose_layers(model, choice, argument):
    """Returns the layers that a user's choice names, at any depth.

    Args:
        model: a built `keras.Model`.
        choice: a list of layer names (a layer's own name or its path with dots) and
            layer types, or a function(layer) -> bool.
        argument: name of the argument, for the message.

    Returns:
        A list of layers; with a composite layer come all layers inside it.

    Raises:
        ValueError: if a name or a type is not in the model, or nothing is chosen.
    """
    paths = layer_paths(model)
    if callable(choice) and not isinstance(choice, type):
        chosen = [layer for _, layer in paths.values() if choice(layer)]
    else:
        entries = [choice] if isinstance(choice, (str, type)) else list(choice)
        chosen = []
        for entry in entries:
            found = [
                layer
                for path, layer in paths.values()
                if _matches(entry, path, layer, argument)
            ]
            if not found:
                raise ValueError(_unknown_layer(entry, paths, argument))
            chosen += found
    if not chosen:
        raise ValueError(f"{argument}={choice} chooses no layer of '{model.name}'.")
    with_sublayers = {}
    for layer in chosen:
        for inner in layer._flatten_layers():
            with_sublayers[id(inner)] = inner
    return list(with_sublayers.values())


def layer_paths(model):
    """Returns {id: (dotted path, layer)} for all layers of `model`, outermost first."""
    paths = {}

    def walk(layer, prefix):
        for inner in layer._flatten_layers(include_self=False, recursive=False):
            path = f"{prefix}.{inner.name}" if prefix else inner.name
            if id(inner) not in paths:
                paths[id(inner)] = (path, inner)
                walk(inner, path)

    walk(model, "")
    return paths


def prunable_weights(model, layers, tables):
    """Returns [(path, weight)] of the weights to prune.

    Args:
        model: a built `keras.Model`.
        layers: the user's choice, see `choose_layers`; None means kernels and (if
            `tables`) embedding tables, but not the last classifier.
        tables: bool, whether the default includes embedding tables.
    """
    if layers is None:
        chosen = list(model._flatten_layers())
        left_out = _last_classifiers(model)
    else:
        chosen = choose_layers(model, layers, "layers")
        left_out = set()
    weights = {}
    for layer in chosen:
        for weight in layer._trainable_variables:
            is_table = "embedding" in weight.name
            if (
                len(weight.shape) < 2
                or any(word in weight.name for word in _VECTORS)
                or "Normalization" in type(layer).__name__
                or id(weight) in left_out
                or (is_table and layers is None and not tables)
            ):
                continue
            weights[id(weight)] = (weight.path, weight)
    return list(weights.values())


def _matches(entry, path, layer, argument):
    if isinstance(entry, str):
        return entry in (path, layer.name)
    if isinstance(entry, type):
        return isinstance(layer, entry)
    raise ValueError(
        f"{argument} is a list of layer names and layer types, or a function"
        f"(layer) -> bool; it holds {entry!r}."
    )


def _unknown_layer(entry, paths, argument):
    if not isinstance(entry, str):
        return f"{argument}: the model has no layer of type {entry.__name__}."
    names = {path for path, _ in paths.values()} | {
        layer.name for _, layer in paths.values()
    }
    close = difflib.get_close_matches(entry, names, n=3, cutoff=0.4)
    hint = f" Near it: {', '.join(close)}." if close else ""
    return f"{argument}: the model has no layer '{entry}'.{hint}"


def _last_classifiers(model):
    """Ids of the weights of the layers that make a model's outputs.

    A layer with an activation of its own other than softmax or sigmoid (a pooler) is
    no classifier, and neither is a token table used in reverse.
    """
    from keras_tformer.compress.flatten import flatten

    try:
        try:
            graph = flatten(model)
        except ValueError:
            graph = flatten(model, sequence_length=2)  # any length shows the graph
    except ValueError as error:
        raise ValueError(
            f"Which layer of '{model.name}' is its last classifier cannot be told from "
            "its graph, so say which layers to prune: layers=[names, types] or a "
            f"function(layer) -> bool. {error}"
        ) from error
    weights, tensors, seen = set(), list(keras.tree.flatten(graph.output)), set()
    while tensors:
        operation, node_index, _ = tensors.pop()._keras_history
        if (id(operation), node_index) in seen:
            continue
        seen.add((id(operation), node_index))
        if type(operation).__name__ in _AFTER_CLASSIFIER:
            tensors += operation._inbound_nodes[node_index].input_tensors
        elif hasattr(operation, "kernel"):
            activation = getattr(operation, "activation", None)
            if getattr(activation, "__name__", "linear") in (
                *("linear", "softmax", "sigmoid", "log_softmax"),
            ):
                weights |= {id(weight) for weight in operation.weights}
    return weights
