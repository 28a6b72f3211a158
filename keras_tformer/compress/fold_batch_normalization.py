"""Batch normalization worked into the convolution before it."""

import keras
import numpy as np

_FOLDABLE = (
    *(keras.layers.Dense, keras.layers.Conv1D, keras.layers.Conv2D),
    *(keras.layers.Conv3D, keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D),
)


def fold_batch_normalization(graph, keep=()):
    """Works every batch normalization of a flat model into the layer before it.

    Jacob et al. 2018, section 3.2, with the moving statistics: at inference a batch
    normalization multiplies and shifts each channel, and so can the kernel and the bias
    of the convolution or Dense layer before it. Integer inference does the same, so
    what is trained afterwards is what is exported.

    Args:
        graph: what `flatten` returned.
        keep: names of layers to leave as they are.

    Returns:
        A flat `keras.Model` with the same outputs at inference, to rounding. Folded
        layers have weights of their own, others the same weight objects. A batch
        normalization stays where its input is used twice, has an activation, or comes
        from another kind of layer.

    Example:

    >>> import keras
    >>> from keras_tformer.compress import flatten
    >>> x = keras.Input((8, 8, 3))
    >>> y = keras.layers.Conv2D(5, 3, use_bias=False, name="conv")(x)
    >>> model = keras.Model(x, keras.layers.BatchNormalization(name="norm")(y))
    >>> [layer.name for layer in fold_batch_normalization(flatten(model)).layers[1:]]
    ['conv']
    """
    outputs = {id(tensor) for tensor in graph.outputs}
    folds = {}  # {id of a layer: the normalization after it}
    for layer in graph.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            before = _foldable(layer, outputs)
            if before and not {layer.name, before.name} & set(keep):
                folds[id(before)] = layer
    if not folds:
        return graph
    folded = {id(normalization) for normalization in folds.values()}

    def copy(layer):
        return _with(layer, folds[id(layer)]) if id(layer) in folds else layer

    def call(layer, *args, **kwargs):
        return args[0] if id(layer) in folded else layer(*args, **kwargs)

    return keras.models.clone_model(graph, clone_function=copy, call_function=call)


def _foldable(normalization, outputs):
    """The layer that a normalization can be worked into, or None."""
    if len(normalization._inbound_nodes) != 1:
        return None
    tensor = normalization._inbound_nodes[0].arguments.keras_tensors[0]
    layer = tensor._keras_history[0]
    if (
        type(layer) not in _FOLDABLE
        or getattr(layer.activation, "__name__", "linear") != "linear"
        or len(layer._inbound_nodes) != 1
        or len(layer._outbound_nodes) != 1
        or id(tensor) in outputs
        or normalization.axis not in (-1, len(tensor.shape) - 1)
        or getattr(layer, "data_format", "channels_last") != "channels_last"
    ):
        return None
    return layer


def _with(layer, normalization):
    """A copy of a layer that also normalizes."""
    mean = normalization.moving_mean.numpy()
    variance = normalization.moving_variance.numpy()
    scale = 1 / np.sqrt(variance + normalization.epsilon)
    if normalization.scale:
        scale = scale * normalization.gamma.numpy()
    bias = -mean * scale
    if layer.use_bias:
        bias = bias + layer.bias.numpy() * scale
    if normalization.center:
        bias = bias + normalization.beta.numpy()
    copy = type(layer).from_config({**layer.get_config(), "use_bias": True})
    copy.build_from_config(layer.get_build_config())
    kernel = layer.kernel.numpy()
    if "Depthwise" in type(layer).__name__:  # (..., channels, outputs for each)
        scale = scale.reshape(kernel.shape[-2:])
    copy.kernel.assign(kernel * scale)
    copy.bias.assign(bias)
    return copy
