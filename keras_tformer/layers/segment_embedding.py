"""Which segment a token belongs to, as a vector."""

import keras
from keras import ops

from keras_tformer.layers.argument_checks import require_positive
from keras_tformer.layers.initializers import fresh_initializer


@keras.saving.register_keras_serializable(package="keras_tformer")
class SegmentEmbedding(keras.layers.Layer):
    """Turns segment ids into rows of a small table.

    Devlin et al. 2019, section 3 ("a learned embedding ... indicating whether it
    belongs to sentence A or sentence B"). The gradient of the table is dense, as in
    `TokenEmbedding`.

    Args:
        num_segments: int, number of rows.
        embedding_dim: int, width E of a row.
        embeddings_initializer: initializer of the table.

    Call arguments:
        segment_ids: `(B, T)` integer tensor with values in `[0, num_segments)`.

    Returns:
        `(B, T, E)` tensor.

    Raises:
        ValueError: if a size is not positive.

    Example:
        >>> layer = SegmentEmbedding(num_segments=2, embedding_dim=5)
        >>> tuple(layer(keras.ops.array([[0, 0, 1]])).shape)
        (1, 3, 5)
    """

    def __init__(
        self, num_segments, embedding_dim, embeddings_initializer="uniform", **kwargs
    ):
        super().__init__(**kwargs)
        require_positive("SegmentEmbedding", "num_segments", num_segments)
        require_positive("SegmentEmbedding", "embedding_dim", embedding_dim)
        self.num_segments = num_segments
        self.embedding_dim = embedding_dim
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)

    def build(self, segment_ids_shape=None):
        self.embeddings = self.add_weight(
            name="embeddings",
            shape=(self.num_segments, self.embedding_dim),
            initializer=fresh_initializer(self.embeddings_initializer),
        )
        self.built = True

    def call(self, segment_ids):
        table = ops.reshape(self.embeddings, (self.num_segments, self.embedding_dim))
        return ops.take(table, segment_ids, axis=0)  # (B, T, E)

    def compute_output_spec(self, segment_ids):
        shape = (*segment_ids.shape, self.embedding_dim)
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "num_segments": self.num_segments,
            "embedding_dim": self.embedding_dim,
            "embeddings_initializer": keras.initializers.serialize(
                self.embeddings_initializer
            ),
        }
