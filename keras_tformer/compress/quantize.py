"""Quantization-aware training: a model that feels int8 while it learns."""

import keras
from keras import ops

from keras_tformer.compress.activation_quantizer import ActivationQuantizer
from keras_tformer.compress.flatten import flatten
from keras_tformer.compress.movement_pruning import PRUNING
from keras_tformer.compress.prunable_weights import choose_layers, layer_paths
from keras_tformer.compress.prune import strategy_scope
from keras_tformer.compress.quantized_graph import QuantizedGraph
from keras_tformer.compress.weight_clustering import WeightClustering
from keras_tformer.compress.weight_quantizer import WeightQuantizer


def quantize_model(
    model,
    sequence_length=None,
    num_bits=8,
    per_channel=True,
    range_decay=0.99,
    preserve_sparsity=True,
    preserve_clusters=True,
    skip=None,
):
    """Returns a model that trains with the rounding of int8 inference.

    Jacob et al. 2018, "Quantization and training of neural networks for efficient
    integer-arithmetic-only inference". The model is laid flat (`flatten`); every kernel
    and embedding table is fake-quantized where it is used (`WeightQuantizer`), and
    every *call site* gets a quantizer with a range of its own (`ActivationQuantizer`):
    a block that all depths share, as in ALBERT, has other ranges at other depths. They
    sit where the TFLite converter needs them to make all matrix products, softmaxes,
    activations and sums int8.

    The weights are *copies*: training the returned model leaves the given one as it is.
    The usual way on is `calibrate` on a few batches, `compile`, `fit` for a short time
    with a small learning rate, export with quantization "int8".

    Args:
        model: a built functional or Sequential `keras.Model`; a pruned one is stripped.
        sequence_length: int, length given to inputs that leave theirs open, or {input
            name: length}; see `flatten`.
        num_bits: int from 2 to 8, bits of the weights; activations have 8.
        per_channel: bool, one scale for each output channel of a kernel, or one for
            the whole kernel (older microcontroller runtimes).
        range_decay: float in [0, 1), see `ActivationQuantizer`.
        preserve_sparsity: bool, whether the zeros of a pruned model stay exactly zero
            while it trains (PQAT). A weight without any zero is not touched by it.
        preserve_clusters: bool, whether the weights of a clustered model keep as few
            distinct values while it trains (CQAT; both together are PCQAT). A weight
            that is not clustered is not touched by it. Optimizers that average weights
            (`use_ema`) undo it. Each channel has its own scale: for few distinct
            *integers* in the whole kernel, `per_channel=False`.
        skip: layers to leave in float: a list of names and types, or a function
            (layer) -> bool. A composite layer that cannot be laid flat is left whole.

    Returns:
        A flat functional `keras.Model`, not compiled, with the inputs and outputs of
        `model`. It saves and loads as `.keras`.

    Raises:
        ValueError: if the model is not built, subclassed, still pruning or already
            quantized, a number is out of range, or a layer in `skip` is unknown.

    Example:

    >>> import keras
    >>> x = keras.Input((2,))
    >>> model = keras.Model(x, keras.layers.Dense(3, activation="gelu", name="a")(x))
    >>> [layer.name for layer in quantize_model(model).layers[1:]]
    ['a.input.quantizer', 'a', 'a.quantizer', 'a.gelu', 'a.gelu.quantizer']
    """
    _check(model, num_bits, range_decay)
    skipped = []
    if skip is not None:
        paths = layer_paths(model)
        skipped = [paths[id(layer)][0] for layer in choose_layers(model, skip, "skip")]
    graph = _with_visible_attention(flatten(model, sequence_length, keep=skipped))
    with strategy_scope(model):
        rewriting = QuantizedGraph(
            num_bits,
            per_channel,
            range_decay,
            preserve_sparsity,
            preserve_clusters,
            skipped,
        )
        quantized = keras.models.clone_model(
            graph, clone_function=rewriting.copy, call_function=rewriting.call
        )
        rewriting.copy_weights()
    return quantized


def _with_visible_attention(graph):
    """Replaces Keras' fused attention operation by the products that it is made of."""

    def call(layer, *args, **kwargs):
        if type(layer).__name__ != "DotProductAttention" or layer.is_causal:
            return layer(*args, **kwargs)
        return _attend(*args, **kwargs)

    return keras.models.clone_model(
        graph, clone_function=lambda layer: layer, call_function=call
    )


def _attend(query, key, value, bias=None, mask=None, scale=None):
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    query = ops.transpose(query * scale, (0, 2, 1, 3))  # (B, H, T, K)
    key = ops.transpose(key, (0, 2, 3, 1))  # (B, H, K, S)
    value = ops.transpose(value, (0, 2, 1, 3))  # (B, H, S, K)
    scores = ops.matmul(query, key)  # (B, H, T, S)
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        scores = scores + (1 - ops.cast(mask, scores.dtype)) * -30.0
    context = ops.matmul(ops.softmax(scores), value)  # (B, H, T, K)
    return ops.transpose(context, (0, 2, 1, 3))  # (B, T, H, K)


def _check(model, num_bits, range_decay):
    if not isinstance(num_bits, int) or not 2 <= num_bits <= 8:
        raise ValueError(f"num_bits is a whole number from 2 to 8, not {num_bits!r}.")
    if not 0 <= range_decay < 1:
        raise ValueError(f"range_decay lies in [0, 1); received {range_decay!r}.")
    if not isinstance(model, keras.Model):
        raise ValueError(
            f"Expected a keras.Model to quantize, received {type(model).__name__}."
        )
    for layer in model._flatten_layers():
        if isinstance(layer, (ActivationQuantizer, WeightQuantizer)):
            raise ValueError(
                f"Model '{model.name}' is quantization-aware already (layer "
                f"'{layer.name}'): rounding twice would train for another file than "
                "the one that is exported. Start from the float model."
            )
    for weight in model.weights:
        if isinstance(weight.constraint, PRUNING):
            raise ValueError(
                f"Weight '{weight.path}' is still being pruned. Call "
                "strip_pruning(model) first: the zeros stay, and "
                "preserve_sparsity=True keeps them while the quantized model trains."
            )
        if isinstance(weight.constraint, WeightClustering):
            raise ValueError(
                f"Weight '{weight.path}' is still being clustered. Call "
                "strip_clustering(model) first: its few values stay, and "
                "preserve_clusters=True keeps them while the quantized model trains."
            )
