"""Layers: tensors in, tensors out, on TensorFlow, JAX and PyTorch.

Shape letters, here and everywhere in the package: B batch, T target (query) length, S
source (key) length, D hidden_dim, H heads, K key_dim, F intermediate_dim, E
embedding_dim, V vocabulary_size, P predicted positions.
"""

from keras_tformer.layers.activations import gelu_tanh, get_activation
from keras_tformer.layers.dot_product_attention import DotProductAttention
from keras_tformer.layers.dropout import Dropout
from keras_tformer.layers.embedding_sum import EmbeddingSum
from keras_tformer.layers.feed_forward import FeedForward
from keras_tformer.layers.layer_normalization import LayerNormalization
from keras_tformer.layers.masked_lm_head import MaskedLMHead
from keras_tformer.layers.multi_head_attention import MultiHeadAttention
from keras_tformer.layers.packed_documents import PackedDocuments
from keras_tformer.layers.pooler import Pooler
from keras_tformer.layers.position_embedding import PositionEmbedding
from keras_tformer.layers.segment_embedding import SegmentEmbedding
from keras_tformer.layers.sinusoidal_position_encoding import (
    SinusoidalPositionEncoding,
)
from keras_tformer.layers.text_pooling import TextPooling
from keras_tformer.layers.token_embedding import TokenEmbedding
from keras_tformer.layers.transformer_decoder import TransformerDecoder
from keras_tformer.layers.transformer_encoder import TransformerEncoder
from keras_tformer.layers.vocabulary_bias import VocabularyBias

__all__ = [
    "DotProductAttention",
    "Dropout",
    "EmbeddingSum",
    "FeedForward",
    "LayerNormalization",
    "MaskedLMHead",
    "MultiHeadAttention",
    "PackedDocuments",
    "Pooler",
    "PositionEmbedding",
    "SegmentEmbedding",
    "SinusoidalPositionEncoding",
    "TextPooling",
    "TokenEmbedding",
    "TransformerDecoder",
    "TransformerEncoder",
    "VocabularyBias",
    "gelu_tanh",
    "get_activation",
]
