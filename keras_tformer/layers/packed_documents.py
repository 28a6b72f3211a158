"""What keeps documents apart that lie side by side in one row."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_tformer")
class PackedDocuments(keras.layers.Layer):
    """Says which positions may look at each other, and where documents begin.

    Krell et al. 2021 (arXiv 2107.02027), section 3.2: attention stays within a document
    and positions are counted anew in each, so that a packed document gives what it
    gives in a row of its own. The layer has no weights.

    Call arguments:
        document_ids: `(B, T)` integer tensor, the same number at all positions of a
            document, another one for every document of the row, 0 for padding.

    Returns:
        Two int32 tensors: the attention mask `(B, T, T)`, 1 where a position looks at
        its own document, and the position ids `(B, T)`, from 0 in every document.

    Example:
        >>> mask, positions = PackedDocuments()(keras.ops.array([[1, 2, 2, 0]]))
        >>> keras.ops.convert_to_numpy(mask)[0].tolist()
        [[1, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 1]]
        >>> keras.ops.convert_to_numpy(positions).tolist()
        [[0, 0, 1, 0]]
    """

    def call(self, document_ids):
        same = ops.equal(
            ops.expand_dims(document_ids, 2), ops.expand_dims(document_ids, 1)
        )  # (B, T, T)
        same = ops.cast(same, "int32")
        places = ops.cumsum(ops.ones_like(document_ids), axis=1)  # (B, T)
        earlier = ops.less(ops.expand_dims(places, 1), ops.expand_dims(places, 2))
        position_ids = ops.sum(same * ops.cast(earlier, "int32"), axis=2)  # (B, T)
        return same, position_ids

    def compute_output_spec(self, document_ids):
        batch, length = document_ids.shape
        return (
            keras.KerasTensor((batch, length, length), dtype="int32"),
            keras.KerasTensor((batch, length), dtype="int32"),
        )
