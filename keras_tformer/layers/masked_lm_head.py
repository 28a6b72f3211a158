"""From hidden vectors to the tokens that were masked."""

import keras
from keras import ops

from keras_tformer.layers.activations import activation_name, get_activation
from keras_tformer.layers.initializers import fresh_initializer
from keras_tformer.layers.layer_normalization import LayerNormalization
from keras_tformer.layers.token_rows import from_rows, sequence_length, to_rows
from keras_tformer.layers.vocabulary_bias import VocabularyBias


@keras.saving.register_keras_serializable(package="keras_tformer")
class MaskedLMHead(keras.layers.Layer):
    """Scores every token of the vocabulary for each masked position.

    Devlin et al. 2019, section 3.1 and their released code: projection to the width of
    the token table (ALBERT's is narrower than D), activation, layer normalization, and
    the product with the token table itself plus a bias for each token. Only the masked
    positions are scored: P x V products instead of T x V.

    Args:
        token_embedding: the `TokenEmbedding` layer that the encoder uses.
        activation: name of an activation (see `get_activation`), or a function.
        layer_norm_epsilon: float added to the variance.
        kernel_initializer: initializer of the projection.

    Call arguments:
        inputs: `(B, T, D)` tensor.
        mask_positions: `(B, P)` integers in `[0, T)`, the positions to score.

    Returns:
        `(B, P, V)` logits.

    Raises:
        ValueError: if `token_embedding` cannot be used in reverse.

    Example:
        >>> from keras_tformer.layers import TokenEmbedding
        >>> table = TokenEmbedding(vocabulary_size=11, embedding_dim=3)
        >>> positions = keras.ops.array([[0, 4], [1, 2]])
        >>> tuple(MaskedLMHead(table)(keras.ops.ones((2, 5, 7)), positions).shape)
        (2, 2, 11)
    """

    def __init__(
        self,
        token_embedding,
        activation="gelu",
        layer_norm_epsilon=1e-12,
        kernel_initializer="glorot_uniform",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not hasattr(token_embedding, "vocabulary_size"):
            raise ValueError(
                "`MaskedLMHead` is tied to the token table of an encoder. Expected a "
                f"`TokenEmbedding` layer. Received: token_embedding={token_embedding}. "
                'Pass `encoder.get_layer("token_embedding")`.'
            )
        self.token_embedding = token_embedding
        self.activation = get_activation(activation)
        self.layer_norm_epsilon = layer_norm_epsilon
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, inputs_shape, mask_positions_shape=None):
        embedding_dim = self.token_embedding.embedding_dim
        if not self.token_embedding.built:
            self.token_embedding.build()
        self.dense = keras.layers.Dense(
            embedding_dim,
            kernel_initializer=fresh_initializer(self.kernel_initializer),
            dtype=self.dtype_policy,
            name="dense",
        )
        self.dense.build(inputs_shape)
        self.layer_norm = LayerNormalization(
            self.layer_norm_epsilon, dtype=self.dtype_policy, name="layer_norm"
        )
        self.layer_norm.build((*inputs_shape[:-1], embedding_dim))
        self.bias = VocabularyBias(dtype=self.dtype_policy, name="bias")
        self.bias.build((None, None, self.token_embedding.vocabulary_size))
        self.built = True

    def call(self, inputs, mask_positions):
        # A product with a one-hot matrix picks the rows: exact, with a dense gradient
        # and static shapes. Written as 1 - "other position" in integers: LiteRT's int8
        # ONE_HOT, which `ops.one_hot` and `ops.equal` become, writes 0.5 for 0.
        every = ops.arange(sequence_length(inputs), dtype="int32")  # (T,)
        wanted = ops.expand_dims(ops.cast(mask_positions, "int32"), -1)  # (B, P, 1)
        is_other = ops.cast(ops.not_equal(wanted, every), "int32")  # (B, P, T)
        picked = ops.cast(1 - is_other, inputs.dtype)  # (B, P, T)
        rows = to_rows(ops.matmul(picked, inputs))  # (B * P, D)
        rows = self.layer_norm(self.activation(self.dense(rows)))  # (B * P, E)
        logits = self.bias(self.token_embedding(rows, reverse=True))  # (B * P, V)
        return from_rows(logits, sequence_length(mask_positions))  # (B, P, V)

    def compute_output_spec(self, inputs, mask_positions):
        shape = (*mask_positions.shape, self.token_embedding.vocabulary_size)
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "token_embedding": keras.saving.serialize_keras_object(
                self.token_embedding
            ),
            "activation": activation_name(self.activation),
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }

    @classmethod
    def from_config(cls, config):
        table = keras.saving.deserialize_keras_object(config["token_embedding"])
        return super().from_config({**config, "token_embedding": table})
