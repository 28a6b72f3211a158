"""What stands between the token table and the first block of BERT and ALBERT."""

import keras

from keras_tformer.layers.argument_checks import require_positive, require_share
from keras_tformer.layers.dropout import Dropout
from keras_tformer.layers.initializers import fresh_initializer
from keras_tformer.layers.layer_normalization import LayerNormalization
from keras_tformer.layers.position_embedding import PositionEmbedding
from keras_tformer.layers.segment_embedding import SegmentEmbedding


@keras.saving.register_keras_serializable(package="keras_tformer")
class EmbeddingSum(keras.layers.Layer):
    """Adds position and segment vectors to token vectors and normalizes the sum.

    Devlin et al. 2019, figure 2. Where the token vectors are narrower than
    `hidden_dim`, a projection E -> D follows: the factorized embedding of ALBERT (Lan
    et al. 2020, section 3.1), V x E + E x D weights instead of V x D.

    Args:
        hidden_dim: int, width D of the output.
        max_sequence_length: int, number of learned positions.
        num_segments: int, or None for a model without segments.
        dropout: float in [0, 1), share of values dropped in training.
        layer_norm_epsilon: float added to the variance.
        kernel_initializer: initializer of the tables and the projection.
        position_offset: int, see `offset` of `PositionEmbedding`.

    Call arguments:
        inputs: `(B, T, E)` token vectors.
        segment_ids: `(B, T)` integers; left out where `num_segments` is None.
        position_ids: `(B, T)` integers, or None for positions that follow each other.

    Returns:
        `(B, T, D)` tensor.

    Raises:
        ValueError: if a size is not positive, `dropout` is outside [0, 1), or segment
            ids are missing or superfluous.

    Example:
        >>> layer = EmbeddingSum(hidden_dim=7, max_sequence_length=13, num_segments=2)
        >>> ids = keras.ops.array([[0, 0, 1]])
        >>> tuple(layer(keras.ops.zeros((1, 3, 5)), segment_ids=ids).shape)
        (1, 3, 7)
    """

    def __init__(
        self,
        hidden_dim,
        max_sequence_length,
        num_segments=2,
        dropout=0.0,
        layer_norm_epsilon=1e-12,
        kernel_initializer="glorot_uniform",
        position_offset=0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        require_positive("EmbeddingSum", "hidden_dim", hidden_dim)
        require_share("EmbeddingSum", "dropout", dropout)
        self.hidden_dim = hidden_dim
        self.max_sequence_length = max_sequence_length
        self.num_segments = num_segments
        self.position_offset = position_offset
        self.dropout = dropout
        self.layer_norm_epsilon = layer_norm_epsilon
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, inputs_shape, segment_ids_shape=None):
        width = inputs_shape[-1]
        self.position_embedding = PositionEmbedding(
            self.max_sequence_length,
            embeddings_initializer=fresh_initializer(self.kernel_initializer),
            offset=self.position_offset,
            dtype=self.dtype_policy,
            name="position_embedding",
        )
        self.position_embedding.build(inputs_shape)
        if self.num_segments is not None:
            self.segment_embedding = SegmentEmbedding(
                self.num_segments,
                width,
                embeddings_initializer=fresh_initializer(self.kernel_initializer),
                dtype=self.dtype_policy,
                name="segment_embedding",
            )
            self.segment_embedding.build(inputs_shape[:-1])
        self.layer_norm = LayerNormalization(
            epsilon=self.layer_norm_epsilon, dtype=self.dtype_policy, name="layer_norm"
        )
        self.layer_norm.build(inputs_shape)
        self.dropout_layer = Dropout(
            self.dropout, dtype=self.dtype_policy, name="dropout"
        )
        self.dropout_layer.build(inputs_shape)
        self.projection = None
        if width != self.hidden_dim:
            self.projection = keras.layers.Dense(
                self.hidden_dim,
                kernel_initializer=fresh_initializer(self.kernel_initializer),
                dtype=self.dtype_policy,
                name="projection",
            )
            self.projection.build(inputs_shape)
        self.built = True

    def call(self, inputs, segment_ids=None, position_ids=None):
        if (segment_ids is None) != (self.num_segments is None):
            raise ValueError(
                f"`{self.name}` was built with num_segments={self.num_segments}. "
                f"Received: segment_ids={segment_ids}. Pass `segment_ids` exactly "
                "where the model has segments."
            )
        x = inputs
        if segment_ids is not None:
            x = x + self.segment_embedding(segment_ids)
        x = x + self.position_embedding(x, position_ids=position_ids)
        x = self.dropout_layer(self.layer_norm(x))
        return x if self.projection is None else self.projection(x)  # (B, T, D)

    def compute_output_spec(self, inputs, segment_ids=None, position_ids=None):
        shape = (*inputs.shape[:-1], self.hidden_dim)
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "hidden_dim": self.hidden_dim,
            "max_sequence_length": self.max_sequence_length,
            "num_segments": self.num_segments,
            "dropout": self.dropout,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "position_offset": self.position_offset,
        }
