"""One vector for a whole sequence, from all its kept tokens."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_tformer")
class TextPooling(keras.layers.Layer):
    """Reduces the vectors of the kept tokens of a sequence to one.

    Reimers and Gurevych 2019, section 3: mean, maximum or first-token pooling.

    Args:
        pooling: `"mean"`, `"max"` or `"first"`.

    Call arguments:
        inputs: `(B, T, D)` tensor.
        padding_mask: `(B, T)` tensor, 1 for the positions that are kept.

    Returns:
        `(B, D)` tensor; zeros for a sequence of padding only, but for `"first"`.

    Raises:
        ValueError: if `pooling` is none of the three words.

    Example:
        >>> x = keras.ops.array([[[1.0], [3.0], [9.0]]])
        >>> float(TextPooling("mean")(x, keras.ops.array([[1, 1, 0]]))[0, 0])
        2.0
    """

    def __init__(self, pooling="mean", **kwargs):
        super().__init__(**kwargs)
        if pooling not in ("mean", "max", "first"):
            raise ValueError(
                "`TextPooling` received an unknown `pooling`. Expected 'mean', 'max' "
                f"or 'first'. Received: pooling={pooling!r}."
            )
        self.pooling = pooling

    def build(self, inputs_shape):
        self.built = True

    def call(self, inputs, padding_mask):
        if self.pooling == "first":
            return ops.reshape(inputs[:, :1, :], (-1, inputs.shape[-1]))  # (B, D)
        if self.pooling == "mean":
            # In float32: a sum over a long text exceeds float16 and blurs bfloat16.
            keep = ops.expand_dims(ops.cast(padding_mask, "float32"), -1)  # (B, T, 1)
            count = ops.maximum(ops.sum(keep, axis=1), 1)  # (B, 1)
            total = ops.sum(ops.cast(inputs, "float32") * keep, axis=1)  # (B, D)
            return ops.cast(total / count, self.compute_dtype)
        keep = ops.expand_dims(ops.cast(padding_mask, inputs.dtype), -1)  # (B, T, 1)
        lowest = ops.min(inputs, axis=1, keepdims=True)  # (B, 1, D)
        largest = ops.max(inputs * keep + lowest * (1 - keep), axis=1)  # (B, D)
        return largest * ops.max(keep, axis=1)

    def compute_output_spec(self, inputs, padding_mask):
        shape = (inputs.shape[0], inputs.shape[-1])
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def get_config(self):
        return {**super().get_config(), "pooling": self.pooling}
