"""Which weights of a layer are rounded."""

import keras

_RULES = {}  # {layer type: function(layer) -> weights}


def quantizable_weights(layer):
    """Returns the kernels and embedding tables that a layer itself holds."""
    for layer_type, weights in _RULES.items():
        if isinstance(layer, layer_type):
            return list(weights(layer))
    own = [*layer._trainable_variables, *layer._non_trainable_variables]
    return [
        weight
        for weight in own
        if len(weight.shape) > 1
        and weight.name.endswith(("kernel", "embeddings"))
        and "Normalization" not in type(layer).__name__
    ]


def quantization_rule(layer_type, weights):
    """Says which weights of a layer type `quantize_model` rounds.

    Without a rule these are the weights named `kernel` and `embeddings`, and a layer
    that holds its matrices under other names is refused. Of a weight whose name has
    "kernel" in it each output channel (last axis) has a scale, of others the whole
    weight. A saved model needs the rule again before it is loaded.

    Args:
        layer_type: a subclass of `keras.layers.Layer`.
        weights: function(layer) -> list of the layer's own weights; an empty list
            leaves the layer in float.

    Example:

    >>> import keras
    >>> class Scale(keras.layers.Layer):
    ...     def build(self, shape):
    ...         self.factors = self.add_weight(name="factors", shape=shape[1:])
    ...     def call(self, x):
    ...         return x * self.factors
    >>> quantization_rule(Scale, lambda layer: [layer.factors])
    """
    if not (isinstance(layer_type, type) and issubclass(layer_type, keras.Layer)):
        raise ValueError(f"Expected a type of layers, received {layer_type!r}.")
    if not callable(weights):
        raise ValueError(
            f"Expected a function(layer) -> list of weights, received {weights!r}."
        )
    _RULES[layer_type] = weights


def check_known(layer):
    """Raises ValueError if a leaf holds matrices that no rule speaks of."""
    if any(isinstance(layer, layer_type) for layer_type in _RULES):
        return
    kind = type(layer).__name__
    matrices = [w.path for w in layer.trainable_weights if len(w.shape) > 1]
    known = quantizable_weights(layer) or "Normalization" in kind or kind == "PReLU"
    if matrices and not known:
        raise ValueError(
            f"Layer '{layer.name}' ({kind}) holds {', '.join(matrices)}, and how to "
            "quantize that is not known. Say so with one function, "
            f"kt.compress.quantization_rule({kind}, lambda layer: [the weights to "
            "round]), where an empty list leaves it in float; or leave this layer in "
            f"float: skip=['{layer.name}']."
        )
