"""A student whose layers see what the teacher's layers see."""

import keras
from keras import ops

from keras_tformer.training.losses import weighted_mean


@keras.saving.register_keras_serializable(package="keras_tformer")
class HiddenStateDistillation(keras.layers.Layer):
    """Pulls hidden states of the student towards the teacher's, token by token.

    The mean squared error of Jiao et al. 2020 (TinyBERT), equations 8 and 9, over the
    tokens of the padding mask and the teacher's width, added up over the pairs. Where
    the widths differ, a matrix that learns along projects the student's states; it is
    a weight of the `Distiller`, not of the student. Computed in float32.

    Args:
        layer_map: list of pairs (call in the student, call in the teacher). Calls of
            blocks count from 1, also of a block that all depths share; 0 is what goes
            into the first block (the embeddings). None pairs each call of the student
            with the one at the same relative depth.
        project: bool, or None: whether there is a projection; None for where the widths
            differ.

    Call arguments:
        teacher, student: dicts that hold `"hidden_states"`, dicts from calls to
            `(B, T, D)` tensors.
        padding_mask: `(B, T)` tensor, 1 for the tokens that count, or None.
        labels: not used.
        sample_weight: `(B,)` tensor, or None. Weights of tokens have no say here.

    Returns:
        A scalar float32 tensor.

    Raises:
        ValueError: if the widths differ and `project` is False, or the map names calls
            that a model does not make.

    Example:
        >>> loss = HiddenStateDistillation(layer_map=[(1, 2)])
        >>> loss.features(num_teacher_calls=4, num_student_calls=2)
        ({'hidden_states': [2]}, {'hidden_states': [1]})
    """

    def __init__(self, layer_map=None, project=None, name="hidden_states"):
        super().__init__(name=name, dtype="float32", autocast=False)
        self.layer_map = layer_map and [tuple(pair) for pair in layer_map]
        self.project = project
        self.pairs = self.layer_map

    def features(self, num_teacher_calls, num_student_calls):
        """Says which intermediate outputs of teacher and student are needed."""
        self.pairs = self.layer_map or uniform_layer_map(
            num_teacher_calls, num_student_calls
        )
        return (
            {"hidden_states": [teacher for _, teacher in self.pairs]},
            {"hidden_states": [student for student, _ in self.pairs]},
        )

    def build(self, teacher_shape, student_shape):
        teacher, student = (
            shapes["hidden_states"] for shapes in (teacher_shape, student_shape)
        )
        self.projections = []
        for ours, theirs in self.pairs:
            width, target = student[str(ours)][-1], teacher[str(theirs)][-1]
            if width != target and self.project is False:
                raise ValueError(
                    f"Received hidden states of width {target} from the teacher and "
                    f"{width} from the student with project=False. Expected the same "
                    "width. Leave `project` out to learn a projection."
                )
            if width == target and not self.project:
                self.projections.append(None)
                continue
            dense = keras.layers.Dense(
                target, use_bias=False, dtype="float32", name=f"project_{ours}"
            )
            dense.build((None, None, width))
            self.projections.append(dense)
        self.built = True

    def call(
        self, teacher, student, padding_mask=None, labels=None, sample_weight=None
    ):
        total = 0.0
        for (ours, theirs), dense in zip(self.pairs, self.projections, strict=True):
            predicted = ops.cast(student["hidden_states"][str(ours)], "float32")
            target = ops.cast(teacher["hidden_states"][str(theirs)], "float32")
            if dense is not None:
                predicted = dense(predicted)  # (B, T, D of the teacher)
            errors = ops.mean(ops.square(predicted - target), axis=-1)  # (B, T)
            weights = token_weights(errors, padding_mask, sample_weight)
            total += weighted_mean(errors, weights)
        return total

    def get_config(self):
        return {
            "layer_map": self.layer_map,
            "project": self.project,
            "name": self.name,
        }


def uniform_layer_map(num_teacher_calls, num_student_calls):
    """Pairs each call of the student with the teacher's at the same relative depth.

    Jiao et al. 2020, section 4.1: `g(m) = m * N / M`, rounded.

    Args:
        num_teacher_calls: int, N.
        num_student_calls: int, M.

    Returns:
        A list of pairs (call in the student, call in the teacher), both from 1.

    Example:
        >>> uniform_layer_map(12, 4)
        [(1, 3), (2, 6), (3, 9), (4, 12)]
    """
    return [
        (call, max(1, round(call * num_teacher_calls / num_student_calls)))
        for call in range(1, num_student_calls + 1)
    ]


def token_weights(like, padding_mask, sample_weight):
    """Says how much each token counts in a loss on what happens inside a model.

    Args:
        like: `(B, T)` tensor.
        padding_mask: `(B, T)` tensor, or None where all tokens count.
        sample_weight: `(B,)` or `(B, 1)` tensor; anything else is passed over.

    Returns:
        A `(B, T)` float32 tensor.

    Example:
        >>> mask = np.array([[1, 1, 0], [1, 0, 0]])
        >>> np.asarray(token_weights(np.zeros((2, 3)), mask, np.array([1, 2]))).tolist()
        [[1.0, 1.0, 0.0], [2.0, 0.0, 0.0]]
    """
    weights = ops.ones_like(like, "float32")
    if padding_mask is not None:
        weights = ops.cast(padding_mask, "float32")
    shape = getattr(sample_weight, "shape", None)
    if shape is not None and (len(shape) == 1 or tuple(shape[1:]) == (1,)):
        weights *= ops.reshape(ops.cast(sample_weight, "float32"), (-1, 1))
    return weights
