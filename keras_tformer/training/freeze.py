"""Layers that training leaves as they are."""

import math


def freeze(model, layers):
    """Keeps the weights of layers as they are, from the next `fit` on.

    In Keras, `layer.trainable = False` after a `fit` changes nothing and says nothing:
    the compiled training step goes on updating the layer until `compile` is called
    again, which forgets the optimizer's state. This sets the attribute and has the next
    `fit` trace its step anew; the state of the optimizer stays.

    Args:
        model: `keras.Model`, compiled or not.
        layers: list of str, names of layers as in `model.summary()`.

    Returns:
        int, the number of weights that training now leaves alone, of the whole model.

    Raises:
        ValueError: if the model has no layer of that name.

    Example:
        >>> encoder = kt.models.bert_encoder(
        ...     vocabulary_size=23, num_layers=2, num_heads=1, hidden_dim=5,
        ...     intermediate_dim=7, max_sequence_length=11)
        >>> model = kt.models.sequence_classifier(encoder, num_classes=3)
        >>> kt.training.freeze(model, ["token_embedding", "embeddings"])
        190
    """
    return _set_trainable(model, layers, False)


def unfreeze(model, layers):
    """Lets training change the weights of layers again, from the next `fit` on.

    Args:
        model: `keras.Model`.
        layers: list of str, names of layers that were frozen.

    Returns:
        int, the number of weights that training still leaves alone.

    Raises:
        ValueError: if the model has no layer of that name, or its optimizer began when
            the layer was frozen and so has no state for it.
    """
    return _set_trainable(model, layers, True)


def _set_trainable(model, names, is_trainable):
    layers = {layer.name: layer for layer in model.layers}
    if isinstance(names, str) or not set(names) <= set(layers):
        raise ValueError(
            f"Received layers={names!r}. Expected a list of names among "
            f"{list(layers)}. Take those that model.summary() shows."
        )
    before = {name: layers[name].trainable for name in names}
    for name in names:
        layers[name].trainable = is_trainable
    optimizer = getattr(model, "optimizer", None)  # not there before `compile`
    if optimizer is not None and optimizer.built:
        known = {id(variable) for variable in optimizer._trainable_variables}
        new = [v.path for v in model.trainable_variables if id(v) not in known]
        if new:
            for name in names:
                layers[name].trainable = before[name]
            raise ValueError(
                f"Received layers={names!r}, frozen when training began: the optimizer "
                f"has no state for {new[:3]}. Expected layers that were frozen later. "
                "Compile the model again with a new optimizer."
            )
    model.train_function = None  # `fit` traces the step again, with these variables
    return sum(math.prod(weight.shape) for weight in model.non_trainable_weights)
