"""What `compile` and `fit` take: losses, metrics, schedules, optimizers, callbacks."""

from keras_tformer.training.accumulate_gradients import accumulate_gradients
from keras_tformer.training.attention_distillation import AttentionDistillation
from keras_tformer.training.compile_arguments import compile_arguments
from keras_tformer.training.correlations import (
    MatthewsCorrelation,
    PearsonCorrelation,
    spearman_correlation,
)
from keras_tformer.training.distillation import Distiller
from keras_tformer.training.entity_scores import decode_tags, entity_scores
from keras_tformer.training.epoch_scores import EpochScores
from keras_tformer.training.freeze import freeze, unfreeze
from keras_tformer.training.fused_adamw import FusedAdamW
from keras_tformer.training.hidden_state_distillation import HiddenStateDistillation
from keras_tformer.training.intermediate_outputs import intermediate_outputs
from keras_tformer.training.lamb import Lamb
from keras_tformer.training.layer_rates import layer_rate_factors
from keras_tformer.training.losses import MaskedCrossentropy
from keras_tformer.training.metrics import MacroF1, MaskedAccuracy, Perplexity
from keras_tformer.training.micro_f1 import MicroF1
from keras_tformer.training.model_flops import training_flops
from keras_tformer.training.optimizers import adamw, lamb
from keras_tformer.training.relation_distillation import RelationDistillation
from keras_tformer.training.resume_from_checkpoint import ResumeFromCheckpoint
from keras_tformer.training.rich_progress import RichProgress
from keras_tformer.training.schedules import InverseSquareRoot, LinearWarmup
from keras_tformer.training.soft_target_distillation import SoftTargetDistillation
from keras_tformer.training.squad_scores import (
    answer_scores,
    best_null_threshold,
    normalize_answer,
    squad_scores,
)
from keras_tformer.training.stop_on_nan import StopOnNaN
from keras_tformer.training.teacher_cache import cache_teacher

__all__ = [
    "AttentionDistillation",
    "Distiller",
    "EpochScores",
    "FusedAdamW",
    "HiddenStateDistillation",
    "InverseSquareRoot",
    "Lamb",
    "LinearWarmup",
    "MacroF1",
    "MaskedAccuracy",
    "MaskedCrossentropy",
    "MatthewsCorrelation",
    "MicroF1",
    "PearsonCorrelation",
    "Perplexity",
    "RelationDistillation",
    "ResumeFromCheckpoint",
    "RichProgress",
    "SoftTargetDistillation",
    "StopOnNaN",
    "accumulate_gradients",
    "adamw",
    "answer_scores",
    "best_null_threshold",
    "cache_teacher",
    "compile_arguments",
    "decode_tags",
    "entity_scores",
    "freeze",
    "intermediate_outputs",
    "lamb",
    "layer_rate_factors",
    "normalize_answer",
    "spearman_correlation",
    "squad_scores",
    "training_flops",
    "unfreeze",
]
