"""Quantization-aware training: a model that feels int8 while it learns."""

import keras
from keras import ops

from keras_tformer.compress.activation_quantizer import ActivationQuantizer
from keras_tformer.compress.flatten import flatten
from keras_tformer.compress.fold_batch_normalization import fold_batch_normalization
from keras_tformer.compress.prunable_weights import choose_layers, layer_paths
from keras_tformer.compress.prune import strategy_scope
from keras_tformer.compress.quantization_checks import (
    check_float,
    check_numbers,
    quantizes_activations,
    weight_format,
)
from keras_tformer.compress.quantization_rules import quantizable_weights
from keras_tformer.compress.quantized_graph import QuantizedGraph
from keras_tformer.compress.weight_quantizer import EMBEDDINGS, WeightQuantizer


def quantize_model(
    model,
    weights="int8_per_channel",
    activations="int8",
    layers=None,
    start_step=0,
    sequence_length=None,
    freeze_step=None,
    skip=None,
    num_bits=None,
    per_channel=None,
    range_decay=0.99,
    preserve_sparsity=True,
    preserve_clusters=True,
):
    """Returns a model that trains with the rounding of int8 inference.

    Jacob et al. 2018, "Quantization and training of neural networks for efficient
    integer-arithmetic-only inference". The model is laid flat (`flatten`); every kernel
    and embedding table is fake-quantized where it is used (`WeightQuantizer`), and
    every *call site* gets a quantizer with a range of its own (`ActivationQuantizer`):
    a block that all depths share, as in ALBERT, has other ranges at other depths. They
    sit where the TFLite converter needs them to make all matrix products, softmaxes,
    activations and sums int8, but for the logits of a table that is also looked up: of
    a vocabulary's many, some would tie in 256 steps. A batch normalization is worked
    into the convolution before it (`fold_batch_normalization`) and no longer follows
    the batches.

    The weights are *copies*: training the returned model leaves the given one as it is.
    The usual way on is `calibrate` on a few batches, `compile`, `fit` for a short time
    with a small learning rate, export with quantization "int8".

    Args:
        model: a built functional or Sequential `keras.Model`; a pruned one is stripped.
        weights: `"int8_per_channel"`, one scale for each output channel of a kernel;
            `"int8_per_tensor"`, one for the whole kernel (older microcontroller
            runtimes); with `int4` 4 bits, which are half of the bytes in a file, and so
            from `int2` on. Embedding tables have one scale always, and 8 bits unless
            `num_bits` names them (LiteRT looks rows up so, and not otherwise).
        activations: `"int8"`, or None for weights only (also True and False). None
            trains for dynamic-range inference, which stores int8 weights and computes
            in float; see `strip_quantization`.
        layers: layers to quantize, chosen as in `skip`; all others stay in float. None
            means all.
        start_step: int, batches of training that pass in float while the ranges are
            learned.
        sequence_length: int, length given to inputs that leave theirs open, or {input
            name: length}; see `flatten`.
        freeze_step: int, batches of training after which the ranges stay as they are,
            or None: the weights settle on fixed ranges in the end.
        skip: layers to leave in float: a list of names and types, or a function
            (layer) -> bool, for instance the first layer, the last, or all of type
            `LayerNormalization`. A composite layer that cannot be laid flat is left
            whole.
        num_bits: None, or an int from 2 to 8 in place of the bits that `weights` says.
            Or {layer name or type: bits} for some layers (all in a composite one).
        per_channel: None, or a bool in place of what `weights` says.
        range_decay: float in [0, 1), see `ActivationQuantizer`.
        preserve_sparsity: bool, whether the zeros of a pruned model stay exactly zero
            while it trains (PQAT). A weight without any zero is not touched by it.
        preserve_clusters: bool, whether the weights of a clustered model keep as few
            distinct values while it trains (CQAT; both together are PCQAT). A weight
            that is not clustered is not touched by it. An average of clustered weights
            is not clustered, so that `fit` refuses an optimizer with `use_ema`. Each
            channel has its own scale: for few distinct *integers* in the whole kernel,
            `weights="int8_per_tensor"`.

    Returns:
        A flat functional `keras.Model`, not compiled, with the inputs and outputs of
        `model`. It saves and loads as `.keras`.

    Raises:
        ValueError: if the model is not built, subclassed, still pruning or already
            quantized, a number or word is none of those above, a layer of `layers`,
            `skip` or `num_bits` is not in the model, or a layer holds matrices that no
            rule speaks of (`quantization_rule`).

    Example:

    >>> import keras
    >>> x = keras.Input((2,))
    >>> model = keras.Model(x, keras.layers.Dense(3, activation="gelu", name="a")(x))
    >>> [layer.name for layer in quantize_model(model).layers[1:]]
    ['a.input.quantizer', 'a', 'a.quantizer', 'a.gelu', 'a.gelu.quantizer']
    """
    word_bits, word_per_channel = weight_format(weights)
    per_channel = word_per_channel if per_channel is None else per_channel
    choices = {None: word_bits if num_bits is None else num_bits}
    if isinstance(num_bits, dict):
        choices = {None: word_bits, **num_bits}
    check_numbers(choices.values(), range_decay, start_step, freeze_step)
    check_float(model)
    has_activations = quantizes_activations(activations)
    paths = layer_paths(model)
    skipped, chosen, bits = [], None, {}
    if skip is not None:
        skipped = [paths[id(layer)][0] for layer in choose_layers(model, skip, "skip")]
    if layers is not None:
        chosen = choose_layers(model, layers, "layers")
        chosen = [paths[id(layer)][0] for layer in chosen]
    for choice, number in choices.items():
        meant = (
            [layer for _, layer in paths.values()]
            if choice is None
            else choose_layers(model, [choice], "num_bits")
        )
        # LiteRT looks no rows up in fewer bits.
        tables = EMBEDDINGS if choice is None else ()
        bits |= {
            paths[id(layer)][0]: 8 if type(layer).__name__ in tables else number
            for layer in meant
        }
    graph = flatten(model, sequence_length, keep=skipped)
    graph = _with_visible_attention(fold_batch_normalization(graph, skipped))
    with strategy_scope(model):
        rewriting = QuantizedGraph(
            bits,
            per_channel,
            range_decay,
            preserve_sparsity,
            preserve_clusters,
            skipped,
            chosen,
            has_activations,
            start_step,
            freeze_step,
        )
        quantized = keras.models.clone_model(
            graph, clone_function=rewriting.copy, call_function=rewriting.call
        )
        rewriting.copy_weights()
    for layer in quantized.layers:
        if isinstance(layer, WeightQuantizer):
            layer.num_calls = len(layer._inbound_nodes)
    return quantized


def strip_quantization(model):
    """Returns the float model of a quantization-aware one, with its rounded weights.

    After training with `activations=False` this is what to export with quantization
    "dynamic_range": the file stores the very numbers that training saw. The activation
    quantizers are left out. (Export with "int8" takes the quantization-aware model.)

    Args:
        model: a model that `quantize_model` returned.

    Returns:
        A flat functional `keras.Model` without any layer of this package's
        compression, with weights of its own.

    Raises:
        ValueError: if the model is not quantization-aware.

    Example:

    >>> import keras
    >>> x = keras.Input((2,))
    >>> model = keras.Model(x, keras.layers.Dense(3, activation="gelu", name="a")(x))
    >>> model = strip_quantization(quantize_model(model))
    >>> [layer.name for layer in model.layers[1:]]
    ['a', 'a.gelu']
    """
    if not any(isinstance(layer, WeightQuantizer) for layer in model.layers):
        raise ValueError(
            f"Model '{model.name}' is not quantization-aware: nothing to strip."
        )
    copies = []

    def copy(layer):
        if not isinstance(layer, keras.layers.Layer):
            return layer
        inner = layer.layer if isinstance(layer, WeightQuantizer) else layer
        plain = type(inner).from_config(inner.get_config())
        plain.build_from_config(inner.get_build_config() or {})
        copies.append((layer, inner, plain))
        return plain

    def call(layer, *args, **kwargs):
        if isinstance(layer, ActivationQuantizer):
            return args[0]
        return layer(*args, **kwargs)

    with strategy_scope(model):
        plain_model = keras.models.clone_model(
            model, clone_function=copy, call_function=call
        )
        for layer, inner, plain in copies:
            if isinstance(layer, ActivationQuantizer):
                continue
            for weight, own in zip(inner.weights, plain.weights, strict=True):
                own.assign(weight)
            if isinstance(layer, WeightQuantizer):
                for weight, own in zip(
                    quantizable_weights(inner), quantizable_weights(plain), strict=True
                ):
                    own.assign(layer.quantized(weight))
    return plain_model


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
