"""What a model and the arguments of quantization must be like."""

import re

import keras

from keras_tformer.compress.activation_quantizer import ActivationQuantizer
from keras_tformer.compress.movement_pruning import PRUNING
from keras_tformer.compress.weight_clustering import WeightClustering
from keras_tformer.compress.weight_quantizer import WeightQuantizer


def weight_format(weights):
    """`"int8_per_channel"` -> (8, True)."""
    match = re.fullmatch(r"int([2-8])_per_(channel|tensor)", str(weights))
    if match is None:
        raise ValueError(
            f"weights={weights!r} is none of 'int8_per_channel', 'int8_per_tensor', "
            "'int4_per_channel' and so on, from int2 to int8. For other bits in some "
            "layers: num_bits={name or type: bits}."
        )
    return int(match[1]), match[2] == "channel"


def quantizes_activations(activations):
    if activations not in ("int8", None, True, False):
        raise ValueError(
            f"activations={activations!r} is neither 'int8' nor None (weights only). "
            "For 16 bits export the float model with quantization='int16x8'."
        )
    return activations in ("int8", True)


def check_numbers(all_bits, range_decay, start_step, freeze_step):
    for num_bits in all_bits:
        if not isinstance(num_bits, int) or not 2 <= num_bits <= 8:
            raise ValueError(
                f"num_bits is a whole number from 2 to 8, not {num_bits!r}."
            )
    if not isinstance(start_step, int) or start_step < 0:
        raise ValueError(f"start_step is a whole number >= 0, not {start_step!r}.")
    if freeze_step is not None and (
        not isinstance(freeze_step, int) or freeze_step <= start_step
    ):
        raise ValueError(
            f"freeze_step is None or a whole number above start_step={start_step}, "
            f"not {freeze_step!r}."
        )
    if not 0 <= range_decay < 1:
        raise ValueError(f"range_decay lies in [0, 1); received {range_decay!r}.")


def check_float(model):
    """Raises ValueError if a model is no finished float model."""
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
