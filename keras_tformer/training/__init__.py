"""What `compile` and `fit` take: losses, metrics, schedules, optimizers, callbacks."""

from keras_tformer.training.compile_arguments import compile_arguments
from keras_tformer.training.fused_adamw import FusedAdamW
from keras_tformer.training.losses import MaskedCrossentropy
from keras_tformer.training.metrics import MacroF1, MaskedAccuracy, Perplexity
from keras_tformer.training.optimizers import adamw
from keras_tformer.training.resume_from_checkpoint import ResumeFromCheckpoint
from keras_tformer.training.rich_progress import RichProgress
from keras_tformer.training.schedules import InverseSquareRoot, LinearWarmup

__all__ = [
    "FusedAdamW",
    "InverseSquareRoot",
    "LinearWarmup",
    "MacroF1",
    "MaskedAccuracy",
    "MaskedCrossentropy",
    "Perplexity",
    "ResumeFromCheckpoint",
    "RichProgress",
    "adamw",
    "compile_arguments",
]
