"""Models: plain numbers in, `keras.Model` out."""

from keras_tformer.models.albert import ALBERT_SIZES, albert_encoder
from keras_tformer.models.bert import (
    BERT_SIZES,
    BERT_VOCABULARY_SIZES,
    bert_encoder,
)
from keras_tformer.models.causal_lm import CAUSAL_LM_SIZES, causal_lm
from keras_tformer.models.generation import generate
from keras_tformer.models.pretraining_heads import (
    albert_pretrainer,
    bert_pretrainer,
    masked_lm,
)
from keras_tformer.models.task_heads import (
    sequence_classifier,
    span_classifier,
    text_embedder,
    token_classifier,
)
from keras_tformer.models.transformer import TRANSFORMER_SIZES, transformer

__all__ = [
    "ALBERT_SIZES",
    "BERT_SIZES",
    "BERT_VOCABULARY_SIZES",
    "CAUSAL_LM_SIZES",
    "TRANSFORMER_SIZES",
    "albert_encoder",
    "albert_pretrainer",
    "bert_encoder",
    "bert_pretrainer",
    "causal_lm",
    "generate",
    "masked_lm",
    "sequence_classifier",
    "span_classifier",
    "text_embedder",
    "token_classifier",
    "transformer",
]
