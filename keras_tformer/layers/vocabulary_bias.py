"""A learned offset for every token of the vocabulary."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_tformer")
class VocabularyBias(keras.layers.Layer):
    """Adds a learned number to the score of every token.

    Call arguments:
        inputs: `(..., V)` tensor.

    Returns:
        `(..., V)` tensor.

    Example:
        >>> tuple(VocabularyBias()(keras.ops.ones((2, 11))).shape)
        (2, 11)
    """

    def build(self, inputs_shape):
        self.bias = self.add_weight(
            name="bias", shape=(inputs_shape[-1],), initializer="zeros"
        )
        self.built = True

    def call(self, inputs):
        return inputs + ops.cast(self.bias, inputs.dtype)

    def compute_output_shape(self, inputs_shape):
        return inputs_shape

    def get_config(self):
        # Written out: Keras cannot derive it where a dtype policy object was passed.
        return super().get_config()
