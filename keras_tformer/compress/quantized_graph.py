"""Where the quantizers go: the rewriting of a flat graph, call by call."""

import keras
import numpy as np
from keras import ops

from keras_tformer.compress.activation_quantizer import ActivationQuantizer
from keras_tformer.compress.cluster_centroids import shared_values
from keras_tformer.compress.graph_masks import is_float, is_mask, mask_range, producer
from keras_tformer.compress.quantization_rules import check_known, quantizable_weights
from keras_tformer.compress.weight_clustering import WeightClustering
from keras_tformer.compress.weight_quantizer import WeightQuantizer

# What passes its input on: the same int8 numbers come out as went in.
_PASSES_ON = {
    *("Reshape", "Transpose", "GetItem", "ExpandDims", "Squeeze", "Dropout", "Cast"),
    *("Identity", "Swapaxes", "Moveaxis", "Flatten", "Permute", "Ravel", "Slice"),
    *("StopGradient", "Split", "Unstack", "BroadcastTo", "Tile", "Repeat", "Flip"),
    *("Take", "TakeAlongAxis", "RepeatVector", "SpatialDropout1D", "Max", "Amax"),
    *("MaxPooling1D", "MaxPooling2D", "GlobalMaxPooling1D", "GlobalMaxPooling2D"),
}
# Sums, products and activations that LiteRT computes in int8.
_PRODUCTS = {"Matmul", "Einsum", "Dot", "Tensordot"}
_QUANTIZED = _PRODUCTS | {
    *("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate"),
    *("Mean", "Stack", "Gelu", "Relu", "Relu6", "ReLU", "LeakyRelu", "LeakyReLU"),
    *("Elu", "ELU", "Silu", "HardSilu", "Activation"),
    *("GlobalAveragePooling1D", "GlobalAveragePooling2D", "AveragePooling1D"),
    *("AveragePooling2D", "LayerNormalization", "BatchNormalization"),
    *("RMSNormalization", "UpSampling2D", "Softmax", "Sigmoid", "Tanh"),
}
# Results whose range is known; LiteRT's int8 kernels accept no other.
_FIXED_RANGES = {
    "softmax": (0.0, 255 / 256),
    "sigmoid": (0.0, 255 / 256),
    "tanh": (-1.0, 127 / 128),
}
# Activations that the converter merges into the product before them.
_MERGED = ("relu", "relu6")
_SOFTMAX_DEPTH = 30.0


class QuantizedGraph:
    """Copies the layers of a flat graph and puts quantizers around their calls.

    `copy` and `call` are the two functions that `keras.models.clone_model` takes.

    Args:
        num_bits: {path of a layer: bits of its weights}; others have 8.
        per_channel, preserve_sparsity: see `WeightQuantizer`.
        preserve_clusters: bool, whether weights of few values keep them so few.
        range_decay: see `ActivationQuantizer`.
        skipped: paths of layers that stay in float.
        chosen: paths of the layers that are quantized, or None: all but `skipped`.
        has_activations: bool, whether activations are quantized, too.
        start_step, freeze_step: see `ActivationQuantizer`.
    """

    def __init__(
        self,
        num_bits,
        per_channel,
        range_decay,
        preserve_sparsity,
        preserve_clusters,
        skipped,
        chosen,
        has_activations,
        start_step,
        freeze_step,
    ):
        self.num_bits = num_bits
        self.per_channel = per_channel
        self.range_decay = range_decay
        self.preserve_sparsity = preserve_sparsity
        self.preserve_clusters = preserve_clusters
        self.skipped = skipped
        self.chosen = chosen
        self.has_activations = has_activations
        self.start_step = start_step
        self.freeze_step = freeze_step
        self.copies = []  # (layer of the given model, its copy)
        self.activations = {}  # {name of a layer: layer of what was its activation}
        self.quantized_tensors = {}  # {id: (tensor, the same quantized)}
        self.masked_sums = set()  # ids of quantizers of scores + attention mask
        self.names = set()

    def copy(self, layer):
        """Returns a layer of its own for one of the flat graph, with new weights."""
        if not isinstance(layer, keras.layers.Layer):
            return layer
        config = layer.get_config()
        weights = [] if self._is_skipped(layer) else quantizable_weights(layer)
        if not self._is_skipped(layer):
            check_known(layer)
        if weights and config.get("activation") not in (None, "linear"):
            word = getattr(layer.activation, "__name__", "activation")
            self.activations[layer.name] = keras.layers.Activation(
                layer.activation, name=f"{layer.name}.{word}", dtype=layer.dtype_policy
            )
            config["activation"] = "linear"
        copy = type(layer).from_config(config)
        copy.build_from_config(layer.get_build_config() or {})
        self.copies.append((layer, copy))
        if not weights:
            return copy
        shares = [float(np.mean(weight.numpy() == 0)) for weight in weights]
        return WeightQuantizer(
            copy,
            self.num_bits.get(layer.name, 8),
            self.per_channel,
            # A kernel that starts as zeros is not a pruned one.
            self.preserve_sparsity and any(0 < share < 1 for share in shares),
            self._centroid_shapes(weights),
            self.start_step,
        )

    def _centroid_shapes(self, weights):
        if not self.preserve_clusters:
            return None
        values = [shared_values(w.numpy(), "embed" in w.name) for w in weights]
        if all(x is None for x in values):
            return None
        return [None if x is None else list(x.shape) for x in values]

    def copy_weights(self):
        """Gives the copies the weights of their originals, once all are built."""
        for layer, copy in self.copies:
            for weight, own in zip(layer.weights, copy.weights, strict=True):
                own.assign(weight.numpy())
                if isinstance(own.constraint, WeightClustering):
                    values = weight.numpy()
                    own.constraint.start(
                        values, shared_values(values, "embed" in own.name)
                    )

    def call(self, layer, *args, **kwargs):
        """Calls a copied layer or an operation with quantizers where it needs them."""
        kind = type(layer).__name__
        is_weighted = isinstance(layer, WeightQuantizer)
        is_normalization = isinstance(layer, keras.layers.LayerNormalization)
        if is_normalization and self.has_activations:
            args = (self._centred(layer, args[0]), *args[1:])
            if self._is_skipped(layer):
                return layer(*args, **kwargs)
            return self._quantize(layer(*args, **kwargs), layer.name)
        if self._is_skipped(layer) or not (is_weighted or kind in _QUANTIZED):
            return layer(*args, **kwargs)
        tensors = _tensors(args, kwargs)
        if all(is_mask(x) for x in tensors) and not is_weighted:
            return layer(*args, **kwargs)  # arithmetic on a padding mask
        if kind == "Softmax":
            return self._softmax(layer, *args, **kwargs)
        args, kwargs = keras.tree.map_structure(
            lambda x: self._quantized_operand(x, layer.name, kind), (args, kwargs)
        )
        if kind in _PRODUCTS:
            for operand in _tensors(args, kwargs)[0 if kind == "Einsum" else 1 :]:
                _make_symmetric(operand)
        outputs = layer(*args, **kwargs)
        if is_weighted:
            if _is_lookup(layer, kwargs):
                return outputs  # rows of a quantized table are quantized
            if kwargs.get("reverse"):
                return outputs  # logits of a vocabulary: of 256 steps many would tie
            return self._activate(layer, outputs)
        has_mask = any(_hides_positions(x) for x in _tensors(args, kwargs))
        fixed_range = _FIXED_RANGES.get(_activation_name(layer))
        return self._quantize(outputs, layer.name, fixed_range, has_mask)

    def _activate(self, layer, outputs):
        """Quantizes the product of a layer, then applies its activation."""
        activation = self.activations.get(layer.name)
        if activation is None:
            return self._quantize(outputs, layer.name)
        word = getattr(activation.activation, "__name__", "activation")
        if word not in _MERGED:
            outputs = self._quantize(outputs, layer.name)
        outputs = activation(outputs)
        return self._quantize(outputs, activation.name, _FIXED_RANGES.get(word))

    def _centred(self, layer, inputs):
        """Takes off a mean before a layer normalization takes off the mean.

        Of int8 numbers a converter computes MEAN in int8, with the scale of its input
        where it knows no other: off by up to half a step for a whole row, and a quarter
        of what is normalized comes out as another int8 number. Here the mean has a
        range of its own, and what its rounding leaves is taken off in float. A layer
        that stays in float has no range; its mean is a sum, which stays in float, too.
        """
        is_skipped = self._is_skipped(layer)
        if not is_skipped:
            inputs = self._quantized_operand(inputs, layer.name, "LayerNormalization")
        elif _quantizer_of(inputs) is None and not _is_lookup_output(inputs):
            return inputs
        if layer.axis not in (-1, [-1], [len(inputs.shape) - 1]):
            return inputs
        if is_skipped:
            total = ops.sum(inputs, axis=-1, keepdims=True)  # (..., 1)
            return inputs - total * (1 / inputs.shape[-1])
        mean = ops.mean(inputs, axis=-1, keepdims=True)  # (..., 1)
        return inputs - self._quantize(mean, f"{layer.name}.mean")

    def _softmax(self, layer, inputs, mask=None):
        """Softmax over scores; a mask is added to them as 0 or -30."""
        name = layer.name
        scores = self._quantized_operand(inputs, name, "Softmax")
        if mask is not None:
            hidden = (1 - ops.cast(mask, inputs.dtype)) * -_SOFTMAX_DEPTH
            hidden = self._quantize(hidden, f"{name}.mask", (-_SOFTMAX_DEPTH, 0.0))
            scores = self._quantize(scores + hidden, f"{name}.masked", None, True)
        quantizer = _quantizer_of(scores)
        if quantizer is not None and quantizer.fixed_range is None:
            quantizer.is_score = True
            quantizer.is_masked_score = id(quantizer) in self.masked_sums
        return self._quantize(layer(scores), name, _FIXED_RANGES["softmax"])

    def _quantized_operand(self, tensor, name, kind):
        """Returns an operand as int8 numbers, with a quantizer if it has none."""
        if not isinstance(tensor, keras.KerasTensor) or not is_float(tensor):
            return tensor
        if _quantizer_of(tensor) is not None or _is_lookup_output(tensor):
            return tensor
        if id(tensor) not in self.quantized_tensors:
            fixed_range = None
            if is_mask(tensor):
                if not (fixed_range := mask_range(tensor)):
                    return tensor
                if kind == "Add":
                    fixed_range = (max(fixed_range[0], -_SOFTMAX_DEPTH), fixed_range[1])
            quantized = self._quantize(tensor, f"{name}.input", fixed_range)
            self.quantized_tensors[id(tensor)] = (tensor, quantized)
        return self.quantized_tensors[id(tensor)][1]

    def _quantize(self, tensor, name, fixed_range=None, has_mask=False):
        if not isinstance(tensor, keras.KerasTensor) or not is_float(tensor):
            return tensor
        if not self.has_activations:
            return tensor
        name, count = f"{name}.quantizer", 1
        while name in self.names:
            name, count = f"{name.split('.quantizer')[0]}.quantizer_{count}", count + 1
        self.names.add(name)
        quantizer = ActivationQuantizer(
            range_decay=self.range_decay,
            fixed_range=fixed_range,
            softmax_depth=_SOFTMAX_DEPTH,
            start_step=self.start_step,
            freeze_step=self.freeze_step,
            dtype=tensor.dtype,
            name=name,
        )
        if has_mask:
            self.masked_sums.add(id(quantizer))
        return quantizer(tensor)

    def _is_skipped(self, layer):
        if self.chosen is not None and not _is_under(layer, self.chosen):
            return True
        return _is_under(layer, self.skipped)


def _is_under(layer, paths):
    return any(
        layer.name == path or layer.name.startswith(f"{path}.") for path in paths
    )


def _tensors(args, kwargs):
    return [
        x
        for x in keras.tree.flatten((args, kwargs))
        if isinstance(x, keras.KerasTensor)
    ]


def _activation_name(layer):
    if isinstance(layer, keras.layers.Activation):
        return getattr(layer.activation, "__name__", None)
    return type(layer).__name__.lower()


def _is_lookup(layer, kwargs):
    own = quantizable_weights(layer.layer)
    return own[0].name.endswith("embeddings") and not kwargs.get("reverse")


def _behind_passing(tensor):
    """Follows a tensor back to what made its numbers."""
    operation, arguments = producer(tensor)
    while type(operation).__name__ in _PASSES_ON and arguments.keras_tensors:
        tensor = arguments.keras_tensors[0]
        operation, arguments = producer(tensor)
    return operation, arguments


def _quantizer_of(tensor):
    operation, _ = _behind_passing(tensor)
    return operation if isinstance(operation, ActivationQuantizer) else None


def _is_lookup_output(tensor):
    operation, arguments = _behind_passing(tensor)
    return isinstance(operation, WeightQuantizer) and _is_lookup(
        operation, arguments.kwargs
    )


def _make_symmetric(tensor):
    quantizer = _quantizer_of(tensor)
    if quantizer is not None and quantizer.fixed_range is None:
        quantizer.symmetric = True


def _hides_positions(tensor):
    quantizer = _quantizer_of(tensor)
    return (
        quantizer is not None
        and quantizer.fixed_range is not None
        and quantizer.fixed_range[0] <= -_SOFTMAX_DEPTH / 3
    )
