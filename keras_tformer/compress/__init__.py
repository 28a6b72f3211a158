"""Compression of Keras 3 models: laid flat, pruned, clustered, quantized.

Model in, model out. TF-MOT's words and schedules; TF-MOT itself is needed for its
schedule classes only and imported when one of them is asked for.
"""

import os

from keras_tformer.compress.activation_quantizer import ActivationQuantizer
from keras_tformer.compress.calibrate import calibrate
from keras_tformer.compress.cluster import cluster_weights, strip_clustering
from keras_tformer.compress.drop_layers import drop_layers
from keras_tformer.compress.flatten import flatten
from keras_tformer.compress.prune import (
    prune_by_movement,
    prune_low_magnitude,
    strip_pruning,
)
from keras_tformer.compress.prune_structure import prune_structure
from keras_tformer.compress.pruning_summaries import PruningSummaries
from keras_tformer.compress.quantization_rules import quantization_rule
from keras_tformer.compress.quantize import quantize_model, strip_quantization
from keras_tformer.compress.sparsity import sparsity
from keras_tformer.compress.structure_importance import structure_importance
from keras_tformer.compress.weight_quantizer import WeightQuantizer

__all__ = [
    "ActivationQuantizer",
    "ConstantSparsity",
    "PolynomialDecay",
    "PruningSummaries",
    "WeightQuantizer",
    "calibrate",
    "cluster_weights",
    "drop_layers",
    "flatten",
    "prune_by_movement",
    "prune_low_magnitude",
    "prune_structure",
    "quantization_rule",
    "quantize_model",
    "sparsity",
    "strip_clustering",
    "strip_pruning",
    "strip_quantization",
    "structure_importance",
]


def __getattr__(name):
    """Loads TF-MOT's schedules `PolynomialDecay` and `ConstantSparsity` when used."""
    if name not in ("PolynomialDecay", "ConstantSparsity"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    legacy = os.environ.get("TF_USE_LEGACY_KERAS")
    try:
        from tensorflow_model_optimization.python.core.sparsity.keras import (
            pruning_schedule,
        )
    except ImportError as error:
        raise ImportError(
            f"{name} is a schedule of TF-MOT, which is not installed: "
            'pip install "keras_tformer[compress]"'
        ) from error
    finally:  # TF-MOT switches tf.keras of the whole process to Keras 2
        if legacy is None:
            os.environ.pop("TF_USE_LEGACY_KERAS", None)
        else:
            os.environ["TF_USE_LEGACY_KERAS"] = legacy
    return getattr(pruning_schedule, name)
