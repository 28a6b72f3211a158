"""A student that looks where the teacher looks."""

import math

import keras
from keras import ops

from keras_tformer.training.hidden_state_distillation import (
    token_weights,
    uniform_layer_map,
)
from keras_tformer.training.losses import weighted_mean


@keras.saving.register_keras_serializable(package="keras_tformer")
class AttentionDistillation(keras.layers.Layer):
    """Pulls attention maps of the student towards the teacher's, head by head.

    Jiao et al. 2020 (TinyBERT), equation 7: the mean squared error of the attention
    matrices, over the heads and the pairs of tokens that are both real, added up over
    the pairs of layers. The paper takes `Q K^T / sqrt(K)`, *before* the softmax, which
    it found to converge faster and better; this package's models return the weights
    *after* it. Before the softmax, queries and keys are computed once more from what
    goes into the block. Computed in float32. Teacher and student need the same number
    of heads; with other numbers use `RelationDistillation`.

    Args:
        layer_map: list of pairs (call in the student, call in the teacher), as in
            `HiddenStateDistillation`.
        before_softmax: bool, as in the paper, or after the softmax.

    Call arguments:
        teacher, student: dicts that hold `"queries"` and `"keys"`, dicts from calls to
            `(B, T, H, K)` tensors, or `"attention_scores"`, `(B, H, T, T)`.
        padding_mask: `(B, T)` tensor, 1 for the tokens that count, or None.
        labels: not used.
        sample_weight: `(B,)` tensor, or None.

    Returns:
        A scalar float32 tensor.

    Raises:
        ValueError: if the numbers of heads differ, or the map names calls that a model
            does not make.

    Example:
        >>> loss = AttentionDistillation(before_softmax=False)
        >>> loss.features(num_teacher_calls=4, num_student_calls=2)
        ({'attention_scores': [2, 4]}, {'attention_scores': [1, 2]})
    """

    def __init__(self, layer_map=None, before_softmax=True, name="attention"):
        super().__init__(name=name, dtype="float32", autocast=False)
        self.layer_map = layer_map and [tuple(pair) for pair in layer_map]
        self.before_softmax = before_softmax
        self.pairs = self.layer_map

    def features(self, num_teacher_calls, num_student_calls):
        """Says which intermediate outputs of teacher and student are needed."""
        self.pairs = self.layer_map or uniform_layer_map(
            num_teacher_calls, num_student_calls
        )
        names = ["queries", "keys"] if self.before_softmax else ["attention_scores"]
        return (
            {name: [teacher for _, teacher in self.pairs] for name in names},
            {name: [student for student, _ in self.pairs] for name in names},
        )

    def build(self, teacher_shape, student_shape):
        name, axis = ("queries", 2) if self.before_softmax else ("attention_scores", 1)
        for ours, theirs in self.pairs:
            num_heads = student_shape[name][str(ours)][axis]
            teacher_heads = teacher_shape[name][str(theirs)][axis]
            if num_heads != teacher_heads:
                raise ValueError(
                    f"Received {teacher_heads} attention heads from the teacher and "
                    f"{num_heads} from the student. Expected the same number. Use "
                    "RelationDistillation(num_relation_heads=...), which splits both "
                    "anew."
                )
        self.built = True

    def call(
        self, teacher, student, padding_mask=None, labels=None, sample_weight=None
    ):
        total = 0.0
        for ours, theirs in self.pairs:
            errors = self._scores(student, ours) - self._scores(teacher, theirs)
            errors = ops.mean(ops.square(errors), axis=1)  # (B, T, T)
            kept = token_weights(errors[:, 0], padding_mask, None)  # (B, T)
            weights = token_weights(errors[:, 0], padding_mask, sample_weight)
            weights = ops.expand_dims(weights, 2) * ops.expand_dims(kept, 1)
            total += weighted_mean(errors, weights)
        return total

    def _scores(self, outputs, call):
        """Gives attention maps `(B, H, T, T)` in float32."""
        if not self.before_softmax:
            return ops.cast(outputs["attention_scores"][str(call)], "float32")
        queries = ops.cast(outputs["queries"][str(call)], "float32")
        keys = ops.cast(outputs["keys"][str(call)], "float32")
        return relations(queries, keys)

    def get_config(self):
        return {
            "layer_map": self.layer_map,
            "before_softmax": self.before_softmax,
            "name": self.name,
        }


def relations(first, second):
    """Gives the scaled dot products of two sets of heads.

    Args:
        first, second: `(B, T, H, K)` tensors.

    Returns:
        `(B, H, T, T)` tensor.

    Example:
        >>> x = np.ones((2, 5, 3, 4), "float32")
        >>> tuple(relations(x, x).shape)
        (2, 3, 5, 5)
    """
    first = ops.transpose(first, (0, 2, 1, 3))  # (B, H, T, K)
    second = ops.transpose(second, (0, 2, 3, 1))  # (B, H, K, T)
    return ops.matmul(first, second) / math.sqrt(first.shape[-1])
