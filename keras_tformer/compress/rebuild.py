"""A second model with the same graph and other numbers."""

import keras


def rebuild(model, changes, dropped=()):
    """Builds the layers of a functional model anew, some with another configuration.

    Args:
        model: a functional `keras.Model`.
        changes: {layer name: {entry of its configuration: value}}.
        dropped: names of layers that are left out; what comes into them goes on as it
            is.

    Returns:
        The new model, with new weights and not compiled; and [(layer of `model`, its
        copy)]. Layers that stand inside others as well, such as a token table in a
        masked LM head, are one layer there, too.

    Example:

    >>> import keras
    >>> x = keras.Input((2,))
    >>> model = keras.Model(x, keras.layers.Dense(3, name="a")(x))
    >>> rebuild(model, {"a": {"units": 5}})[0].output.shape
    (None, 5)
    """
    copies, passed = {}, set()  # {id of a layer: (layer, copy)}, ids of copies

    def copy_layer(layer):
        if not isinstance(layer, keras.layers.Layer):
            return layer
        config = {**layer.get_config(), **changes.get(layer.name, {})}
        inner = {
            name: copies[id(vars(layer)[name])][1]
            for name in config
            if id(vars(layer).get(name)) in copies
        }
        if inner:  # made of layers that have copies already
            copy = type(layer)(**{**config, **inner})
        else:
            copy = type(layer).from_config(config)
        if layer.name in dropped:
            passed.add(id(copy))
        else:
            copies[id(layer)] = (layer, copy)
        return copy

    def call_copy(copy, *args, **kwargs):
        return args[0] if id(copy) in passed else copy(*args, **kwargs)

    graph = keras.Model(model.input, model.output, name=model.name)  # not compiled
    smaller = keras.models.clone_model(
        graph, clone_function=copy_layer, call_function=call_copy
    )
    return smaller, list(copies.values())
