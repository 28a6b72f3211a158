"""A student that answers as the teacher does."""

import keras
from keras import ops

from keras_tformer.training.losses import counting_weights, labels_for, weighted_mean


@keras.saving.register_keras_serializable(package="keras_tformer")
class SoftTargetDistillation(keras.layers.Layer):
    """Pulls the student's answers towards the teacher's softened ones.

    `temperature ** 2 * KL(softmax(teacher / temperature) || softmax(student /
    temperature))` of Hinton et al. 2015, section 2: with the factor, the gradient keeps
    its size whatever the temperature. Computed in float32.

    What counts:

    - logits `(B, C)` of whole texts: every text, with its sample weight. A label of
      -100 does not matter: the teacher can also teach on texts without labels.
    - logits `(B, T, C)` of tokens: as in `MaskedCrossentropy`, each position with its
      sample weight and not at all where its label is `ignored_label`; without labels,
      the positions of the padding mask. The mean is over the tokens of the whole batch.
    - logits `(B, T)` of `position_outputs`, whose classes are positions: as for whole
      texts, and padding is left out of both softmaxes.
    - one number `(B, 1)`, regression: the squared difference; there is nothing to
      soften.

    Several outputs are added up.

    Args:
        temperature: float > 0. Above 1 it brings out the small probabilities.
        outputs: names of the outputs to match, or None for all of the student's.
        position_outputs: names of the outputs whose classes are positions.
        ignored_label: int. Label of the tokens that do not count.

    Call arguments:
        teacher, student: dicts whose `"outputs"` are logits, or a dict of logits.
        padding_mask: `(B, T)` tensor, 1 for the tokens that are kept, or None.
        labels: labels as for the student's own loss, or None.
        sample_weight: weights as for the student's own loss, or None.

    Returns:
        A scalar float32 tensor.

    Raises:
        ValueError: if a number is out of range, or the outputs of teacher and student
            do not fit.

    Example:
        >>> loss = SoftTargetDistillation(temperature=2.0)
        >>> teacher = {"outputs": np.array([[2.0, 0.0]], "float32")}
        >>> student = {"outputs": np.array([[0.0, 0.0]], "float32")}
        >>> round(float(loss(teacher, student)), 4)
        0.4438
    """

    def __init__(
        self,
        temperature=2.0,
        outputs=None,
        position_outputs=("start", "end"),
        ignored_label=-100,
        name="soft_targets",
    ):
        super().__init__(name=name, dtype="float32", autocast=False)
        if not temperature > 0:
            raise ValueError(
                f"Received temperature={temperature}. Expected a float > 0. Use 1 to 5."
            )
        self.temperature = temperature
        self.output_names = None if outputs is None else list(outputs)
        self.position_outputs = list(position_outputs)
        self.ignored_label = ignored_label

    def features(self, num_teacher_calls, num_student_calls):
        """Says which intermediate outputs of teacher and student are needed: none."""
        return {}, {}

    def build(self, teacher_shape, student_shape):
        teacher, student = teacher_shape["outputs"], student_shape["outputs"]
        for name in self._names(teacher, student):
            self._check_shapes(name, _pick(teacher, name), _pick(student, name))
        self.built = True

    def call(
        self, teacher, student, padding_mask=None, labels=None, sample_weight=None
    ):
        teacher, student = teacher["outputs"], student["outputs"]
        total = 0.0
        for name in self._names(teacher, student):
            values, weights = self._values_and_weights(
                ops.cast(_pick(teacher, name), "float32"),
                ops.cast(_pick(student, name), "float32"),
                padding_mask,
                _pick(labels, name),
                _pick(sample_weight, name),
                positions=name in self.position_outputs,
            )
            total += weighted_mean(values, weights)
        return total

    def _values_and_weights(
        self, teacher, student, padding_mask, labels, sample_weight, positions
    ):
        """Gives the loss and the weight of each text or token."""
        if len(student.shape) == 3:
            if labels is not None and tuple(labels.shape[2:]) in ((), (1,)):
                weights = counting_weights(
                    labels_for(labels, student), sample_weight, self.ignored_label
                )
            else:
                kept = ops.ones_like(student[..., 0], "int32")  # (B, T)
                if labels is None and padding_mask is not None:
                    kept = ops.cast(padding_mask, "int32")
                weights = counting_weights(kept, sample_weight, ignored_label=0)
        else:
            ones = ops.ones_like(student[:, 0], "int32")  # (B,)
            weights = counting_weights(ones, sample_weight, ignored_label=0)
        if positions and padding_mask is not None:
            outside = (1 - ops.cast(padding_mask, "float32")) * -1e9
            teacher, student = teacher + outside, student + outside
        if student.shape[-1] == 1:
            return ops.square(teacher - student)[..., 0], weights
        return self.temperature**2 * divergence(
            teacher / self.temperature, student / self.temperature
        ), weights

    def _names(self, teacher, student):
        if not isinstance(student, dict):
            if isinstance(teacher, dict):
                raise ValueError(
                    f"Received a teacher with the outputs {sorted(teacher)} and a "
                    "student with one unnamed output. Expected the same outputs."
                )
            return [None]
        names = sorted(student) if self.output_names is None else self.output_names
        missing = [
            name
            for name in names
            if not isinstance(teacher, dict)
            or name not in teacher
            or name not in student
        ]
        if missing:
            raise ValueError(
                f"The outputs {missing} are not in both teacher and student. Expected "
                "the same names. Choose with outputs=[...] which to match."
            )
        return names

    def _check_shapes(self, name, teacher, student):
        of = "" if name is None else f" of '{name}'"
        if len(teacher) != len(student) or len(student) not in (2, 3):
            raise ValueError(
                f"Received logits{of} of shape {teacher} from the teacher and "
                f"{student} from the student. Expected (B, C) or (B, T, C) from both."
            )
        # Of positions the number may be open in one model and fixed in the other.
        if teacher[-1] != student[-1] and name not in self.position_outputs:
            raise ValueError(
                f"Received {teacher[-1]} classes{of} from the teacher and "
                f"{student[-1]} from the student. Expected the same classes. Build "
                "both heads with the same num_classes, on the same vocabulary."
            )

    def get_config(self):
        return {
            "temperature": self.temperature,
            "outputs": self.output_names,
            "position_outputs": self.position_outputs,
            "ignored_label": self.ignored_label,
            "name": self.name,
        }


def divergence(teacher, student):
    """Gives KL(softmax(teacher) || softmax(student)) over the last axis.

    Args:
        teacher, student: `(..., C)` float tensors of logits.

    Returns:
        A `(...)` float tensor.

    Example:
        >>> round(float(divergence(np.log([0.5, 0.5]), np.log([0.2, 0.8]))), 4)
        0.2231
    """
    log_teacher, log_student = ops.log_softmax(teacher), ops.log_softmax(student)
    return ops.sum(ops.exp(log_teacher) * (log_teacher - log_student), axis=-1)


def _pick(value, name):
    return value.get(name) if isinstance(value, dict) else value
