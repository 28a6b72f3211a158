"""The token table, looked up or used backwards as output projection."""

import keras
import numpy as np
from keras import ops

from keras_tformer.layers.argument_checks import require_positive
from keras_tformer.layers.initializers import fresh_initializer


@keras.saving.register_keras_serializable(package="keras_tformer")
class TokenEmbedding(keras.layers.Layer):
    """Turns token ids into rows of a table, or vectors into scores for every row.

    With `reverse=True` the same table is the output projection (weight tying, Press
    and Wolf 2017). The gradient of the table is dense: stock `Embedding` hands the
    optimizer one row per *occurrence* of a token, which Adam, AdamW, LAMB, RMSprop and
    norm clipping square before they are summed, so that they go wrong when a token
    occurs twice.

    Args:
        vocabulary_size: int, number of rows V.
        embedding_dim: int, width E of a row.
        embeddings_initializer: initializer of the table.

    Call arguments:
        inputs: `(B, T)` integer token ids; with `reverse=True` `(..., E)` floats.
        reverse: bool, whether to project back to the vocabulary.

    Returns:
        `(B, T, E)` rows, or `(..., V)` logits with `reverse=True`.

    Raises:
        ValueError: if a size is not positive, or if an id that is known when the layer
            is called (outside a compiled function) lies outside `[0, V)`.

    Example:
        >>> layer = TokenEmbedding(vocabulary_size=11, embedding_dim=5)
        >>> x = layer(np.array([[1, 10, 1]]))
        >>> tuple(x.shape), tuple(layer(x, reverse=True).shape)
        ((1, 3, 5), (1, 3, 11))
    """

    def __init__(
        self,
        vocabulary_size,
        embedding_dim,
        embeddings_initializer="uniform",
        **kwargs,
    ):
        super().__init__(**kwargs)
        require_positive("TokenEmbedding", "vocabulary_size", vocabulary_size)
        require_positive("TokenEmbedding", "embedding_dim", embedding_dim)
        self.vocabulary_size = vocabulary_size
        self.embedding_dim = embedding_dim
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)

    def build(self, inputs_shape=None):
        self.embeddings = self.add_weight(
            name="embeddings",
            shape=(self.vocabulary_size, self.embedding_dim),
            initializer=fresh_initializer(self.embeddings_initializer),
        )
        self.built = True

    def call(self, inputs, reverse=False):
        if reverse:
            return ops.matmul(inputs, ops.transpose(self.embeddings))  # (..., V)
        self._refuse_unknown_ids(inputs)
        # The reshape changes nothing forwards; backwards it sums the rows of a token
        # into one dense gradient.
        table = ops.reshape(self.embeddings, (self.vocabulary_size, self.embedding_dim))
        return ops.take(table, inputs, axis=0)  # (B, T, E)

    def compute_output_spec(self, inputs, reverse=False):
        if reverse:
            shape = (*inputs.shape[:-1], self.vocabulary_size)
        else:
            shape = (*inputs.shape, self.embedding_dim)
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "vocabulary_size": self.vocabulary_size,
            "embedding_dim": self.embedding_dim,
            "embeddings_initializer": keras.initializers.serialize(
                self.embeddings_initializer
            ),
        }

    def _refuse_unknown_ids(self, token_ids):
        try:
            ids = np.asarray(token_ids)
        except (TypeError, ValueError, NotImplementedError):
            return  # Values are not known while a graph is traced.
        if ids.size and (ids.min() < 0 or ids.max() >= self.vocabulary_size):
            wrong = ids.min() if ids.min() < 0 else ids.max()
            raise ValueError(
                f"`{self.name}` received a token id outside its table. Expected ids "
                f"in [0, {self.vocabulary_size}). Received: {int(wrong)}. Use the "
                "tokenizer that the model was built for, or build the model with its "
                "`vocabulary_size`."
            )
