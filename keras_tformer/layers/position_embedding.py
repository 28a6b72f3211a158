"""A learned vector for every position."""

import keras
from keras import ops

from keras_tformer.layers.argument_checks import require_positive
from keras_tformer.layers.initializers import fresh_initializer


@keras.saving.register_keras_serializable(package="keras_tformer")
class PositionEmbedding(keras.layers.Layer):
    """Returns the learned vectors of the positions that its input occupies.

    Gehring et al. 2017, section 3.1, as in BERT, ALBERT and GPT-2.

    Args:
        max_sequence_length: int, number of positions that have a vector.
        embeddings_initializer: initializer of the table.
        offset: int, rows of the table before that of the first position, which no
            input occupies (RoBERTa: the padding's row and what is before it).

    Call arguments:
        inputs: `(B, T, E)` tensor; only its length and width matter.
        start_index: int or scalar tensor, position of the first token (decoding one
            token at a time).
        position_ids: `(B, T)` integer tensor, or None for positions that follow each
            other from `start_index` on.

    Returns:
        `(1, T, E)` tensor, to be added to the inputs; `(B, T, E)` with `position_ids`.

    Raises:
        ValueError: if the input reaches beyond `max_sequence_length`, or `offset` is
            negative.

    Example:
        >>> layer = PositionEmbedding(max_sequence_length=7)
        >>> tuple(layer(keras.ops.zeros((2, 3, 5))).shape)
        (1, 3, 5)
    """

    def __init__(
        self, max_sequence_length, embeddings_initializer="uniform", offset=0, **kwargs
    ):
        super().__init__(**kwargs)
        require_positive(
            "PositionEmbedding", "max_sequence_length", max_sequence_length
        )
        if not isinstance(offset, int) or offset < 0:
            raise ValueError(
                "`PositionEmbedding` received an invalid value for argument `offset`. "
                f"Expected 0 or a positive integer. Received: offset={offset!r}. Pass "
                "0, unless the table was made with rows before the first position."
            )
        self.max_sequence_length = max_sequence_length
        self.offset = offset
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)

    def build(self, inputs_shape):
        self._refuse_long_inputs(inputs_shape[1])
        self.embeddings = self.add_weight(
            name="embeddings",
            shape=(self.offset + self.max_sequence_length, inputs_shape[-1]),
            initializer=fresh_initializer(self.embeddings_initializer),
        )
        self.built = True

    def call(self, inputs, start_index=0, position_ids=None):
        self._refuse_long_inputs(inputs.shape[1], start_index)
        if position_ids is not None:
            # The reshape makes the gradient dense, as in `TokenEmbedding`.
            table = ops.reshape(self.embeddings, self.embeddings.shape)
            return ops.take(table, position_ids + self.offset, axis=0)  # (B, T, E)
        length, width = ops.shape(inputs)[1], inputs.shape[-1]
        table = ops.convert_to_tensor(self.embeddings)
        start = start_index + self.offset if self.offset else start_index
        rows = ops.slice(table, (start, 0), (length, width))  # (T, E)
        return ops.expand_dims(rows, 0)  # (1, T, E)

    def compute_output_spec(self, inputs, start_index=0, position_ids=None):
        self._refuse_long_inputs(inputs.shape[1], start_index)
        shape = (1, *inputs.shape[1:]) if position_ids is None else inputs.shape
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "max_sequence_length": self.max_sequence_length,
            "embeddings_initializer": keras.initializers.serialize(
                self.embeddings_initializer
            ),
            "offset": self.offset,
        }

    def _refuse_long_inputs(self, length, start_index=0):
        # What is known only when a compiled function runs cannot be refused here.
        start = start_index if isinstance(start_index, int) else 0
        if length is not None and start + length > self.max_sequence_length:
            raise ValueError(
                f"`{self.name}` received a sequence that is too long. Expected at most "
                f"max_sequence_length={self.max_sequence_length} tokens. Received: "
                f"{start + length}. Truncate the input or build a model with more "
                "positions."
            )
