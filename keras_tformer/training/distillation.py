"""A small model that learns from a large one with `fit`."""

import keras
from keras import ops

from keras_tformer.training.intermediate_outputs import (
    intermediate_outputs,
    number_of_calls,
)
from keras_tformer.training.soft_target_distillation import SoftTargetDistillation
from keras_tformer.training.whole_batch import parts_in_batch

TEACHER_OUTPUTS = "teacher_outputs"
_LEARNING = "student_outputs_and_features"


@keras.saving.register_keras_serializable(package="keras_tformer")
class Distiller(keras.Model):
    """Trains a student on its labels and on what a teacher makes of the same batch.

    `student_loss_weight * student_loss + (1 - student_loss_weight) * sum of the
    weighted distillation losses`. Compile and fit it like the student itself, with the
    student's losses and metrics; afterwards take `distiller.student`, a plain model.

    The teacher runs in inference mode in the same step, without gradient, and is left
    as it is. It is no part of the distiller's weights: checkpoints hold the student,
    the losses' projections and the optimizer. `evaluate` and `predict` are the
    student's own, without the teacher. Where batches bring the teacher's outputs along
    (`cache_teacher`), the teacher does not run.

    The float model as teacher of its own quantization-aware copy is one line:
    `Distiller(model, kt.compress.quantize_model(model))`.

    `keras.distillation.Distiller` runs the student twice in a step for features of its
    layers, with another dropout each time; it passes over sample weights, padding and
    loss weights, sees the first call of a shared layer only, freezes the teacher that
    it is given and writes it into every checkpoint. That is why this class has the same
    arguments and another body.

    A loss of your own is a layer like these, with `features`, `build` and `call`.

    Args:
        teacher: functional or Sequential `keras.Model`, built. What the losses need of
            it must be in its graph; for soft targets, its outputs are logits like the
            student's.
        student: functional or Sequential `keras.Model`, trained in place. Input dicts
            may differ from the teacher's: each takes the entries of its own.
        distillation_losses: list of `SoftTargetDistillation`,
            `HiddenStateDistillation`, `AttentionDistillation` and
            `RelationDistillation`; None for `SoftTargetDistillation()` alone.
        distillation_loss_weights: list of floats, or None for 1 each.
        student_loss_weight: float from 0 to 1. At 0, labels and a loss in `compile`
            may be missing: the student learns from the teacher only.

    Call arguments:
        inputs: the student's inputs, and the teacher's.
        training: bool.

    Returns:
        What the student returns; in training, a dict with that and what the losses
        need.

    Raises:
        ValueError: if a model is subclassed or not built, they share weights, the
            losses do not fit them or are another distiller's, or a number is out of
            range.

    Example:
        >>> sizes = dict(num_layers=2, num_heads=2, intermediate_dim=7, hidden_dim=4)
        >>> teacher = kt.models.bert_encoder(vocabulary_size=11, **sizes)
        >>> teacher = kt.models.sequence_classifier(teacher, num_classes=3)
        >>> student = kt.models.albert_encoder(
        ...     vocabulary_size=11, embedding_dim=2, **(sizes | {"hidden_dim": 6})
        ... )
        >>> student = kt.models.sequence_classifier(student, num_classes=3)
        >>> distiller = Distiller(
        ...     teacher,
        ...     student,
        ...     [SoftTargetDistillation(), kt.training.HiddenStateDistillation()],
        ... )
        >>> distiller.compile(
        ...     "adam", **kt.training.compile_arguments("sequence_classifier")
        ... )
        >>> ids = np.ones((2, 5), "int32")
        >>> x = {"token_ids": ids, "segment_ids": ids, "padding_mask": ids}
        >>> history = distiller.fit(x, np.array([0, 2]), verbose=0).history
        >>> sorted(history)
        ['accuracy', 'hidden_states', 'loss', 'soft_targets', 'student_loss']
    """

    def __init__(
        self,
        teacher,
        student,
        distillation_losses=None,
        distillation_loss_weights=None,
        student_loss_weight=0.5,
        name="distiller",
    ):
        _check_models(teacher, student)
        # The student's policy, so that `compile` scales the loss for float16.
        super().__init__(name=name, dtype=student.dtype_policy, autocast=False)
        if distillation_losses is None:
            distillation_losses = [SoftTargetDistillation()]
        elif not isinstance(distillation_losses, (list, tuple)):
            distillation_losses = [distillation_losses]
        if distillation_loss_weights is None:
            distillation_loss_weights = [1.0] * len(distillation_losses)
        _check_losses(
            distillation_losses, distillation_loss_weights, student_loss_weight
        )
        self.student = student
        self.distillation_losses = list(distillation_losses)
        self.distillation_loss_weights = list(distillation_loss_weights)
        self.student_loss_weight = student_loss_weight

        # === What the losses need of both models ===
        calls = number_of_calls(teacher), number_of_calls(student)
        needed = {}, {}
        for loss in self.distillation_losses:
            for known, features in zip(needed, loss.features(*calls), strict=True):
                for feature, of_calls in features.items():
                    known.setdefault(feature, set()).update(of_calls)
        graphs = [
            intermediate_outputs(model, features) if features else _plain(model)
            for model, features in zip((teacher, student), needed, strict=True)
        ]
        shapes = [
            keras.tree.map_structure(lambda x: tuple(x.shape), graph.output)
            for graph in graphs
        ]
        for loss in self.distillation_losses:
            loss.build(*shapes)

        # Behind functions, Keras neither tracks nor saves them: the teacher is not to
        # be trained, and the student's layers are known as `student`.
        self._get_teacher = lambda: graphs[0]
        self._learning_student = lambda: graphs[1]
        self._student_loss_tracker = keras.metrics.Mean(name="student_loss")
        self._loss_trackers = [
            keras.metrics.Mean(name=loss.name) for loss in self.distillation_losses
        ]
        self.built = True

    def call(self, inputs, training=False):
        if training:
            graph = self._learning_student()
            return {_LEARNING: graph(_inputs_of(graph, inputs), training=True)}
        return self.student(_inputs_of(self.student, inputs), training=False)

    def teacher_outputs(self, inputs):
        """Returns what the losses need of the teacher, for one batch.

        Args:
            inputs: a batch of the teacher's inputs.

        Returns:
            A dict: `"outputs"`, and what `intermediate_outputs` adds.
        """
        graph = self.teacher_model()
        return graph(_inputs_of(graph, inputs), training=False)

    def teacher_model(self):
        """Returns the model behind `teacher_outputs`, over the teacher's weights.

        It is not an attribute: Keras would save it with the student.
        """
        return self._get_teacher()

    @property
    def non_trainable_variables(self):
        # JAX passes these into its compiled step; others would be constants in it.
        variables = super().non_trainable_variables
        if not hasattr(self, "_get_teacher"):
            return variables
        return variables + self.teacher_model().variables

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        if not _is_learning(y_pred):
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        student = y_pred[_LEARNING]
        if isinstance(x, dict) and TEACHER_OUTPUTS in x:
            teacher = x[TEACHER_OUTPUTS]
        else:
            teacher = self.teacher_outputs(x)
        teacher = keras.tree.map_structure(ops.stop_gradient, teacher)

        # Losses are sums of a part over weights of the batch: they add up to the loss.
        parts = parts_in_batch()
        scale = _number_of_replicas() * parts
        distillation_loss = 0.0
        for loss, weight, tracker in zip(
            self.distillation_losses,
            self.distillation_loss_weights,
            self._loss_trackers,
            strict=True,
        ):
            value = loss(
                teacher,
                student,
                padding_mask=x.get("padding_mask") if isinstance(x, dict) else None,
                labels=y,
                sample_weight=sample_weight,
            )
            tracker.update_state(value * scale, sample_weight=1 / parts)
            distillation_loss += weight * value
        share = self.student_loss_weight
        total = (1 - share) * distillation_loss
        if share == 0:
            for penalty in self.losses:
                total += self._aggregate_additional_loss(penalty)
            return total
        student_loss = super().compute_loss(
            x, y, student["outputs"], sample_weight, training
        )
        self._student_loss_tracker.update_state(
            student_loss * scale, sample_weight=1 / parts
        )
        for penalty in self.losses:  # regularization counts in full
            total += (1 - share) * self._aggregate_additional_loss(penalty)
        return total + share * student_loss

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        if _is_learning(y_pred):
            outputs = y_pred[_LEARNING]["outputs"]
            return super().compute_metrics(x, y, outputs, sample_weight)
        results = super().compute_metrics(x, y, y_pred, sample_weight)
        for tracker in (self._student_loss_tracker, *self._loss_trackers):
            results.pop(tracker.name)  # of training only
        return results

    def get_config(self):
        raise ValueError(
            "A distiller is not saved as a whole. Save the student, "
            "distiller.student.save('student.keras'), or the state of training: "
            "distiller.save_weights(...), or ResumeFromCheckpoint in `fit`."
        )


def _check_models(teacher, student):
    for role, model in (("teacher", teacher), ("student", student)):
        known = isinstance(model, (keras.Function, keras.Sequential))
        if not known or not model.built:
            raise ValueError(
                f"Received a {type(model).__name__} as {role}. Expected a functional "
                "or Sequential keras.Model, built. Make it from keras.Input tensors."
            )
    shared = {id(variable) for variable in teacher.weights}
    shared = [weight.path for weight in student.weights if id(weight) in shared]
    if shared:
        raise ValueError(
            f"Teacher and student share the weights {shared[:3]}: the teacher would "
            "change while it teaches. Expected two models. Copy the teacher with "
            "keras.models.clone_model and set_weights."
        )


def _check_losses(losses, weights, student_loss_weight):
    if len(losses) != len(weights) or not losses:
        raise ValueError(
            f"Received {len(losses)} distillation losses and {len(weights)} weights. "
            "Expected at least one loss, and a weight for each."
        )
    built = [loss.name for loss in losses if loss.built]
    if built:
        raise ValueError(
            f"The losses {built} belong to another distiller, or have been called. "
            "Expected new ones, which learn their own projections."
        )
    names = [loss.name for loss in losses]
    if len(set(names)) < len(names):
        raise ValueError(
            f"Received distillation losses with the names {names}. Expected different "
            "ones, which the history tells them apart by. Give name='...'."
        )
    if not 0 <= student_loss_weight <= 1:
        raise ValueError(
            f"Received student_loss_weight={student_loss_weight}. Expected a float "
            "from 0 (teacher only) to 1 (labels only)."
        )


def _plain(model):
    if isinstance(model, keras.Sequential):
        inputs, outputs = model.inputs[0], model.outputs[0]
    else:
        inputs, outputs = model.input, model.output
    return keras.Model(inputs, {"outputs": outputs}, name=model.name)


def _inputs_of(model, inputs):
    """Takes the entries that a model knows out of a dict of inputs."""
    if isinstance(model, keras.Sequential) or not isinstance(model.input, dict):
        return inputs
    if not isinstance(inputs, dict):
        return inputs
    missing = [name for name in model.input if name not in inputs]
    if missing:
        raise ValueError(
            f"Received batches with {sorted(inputs)}. '{model.name}' expects "
            f"{missing} as well. Add it to the dataset."
        )
    return {name: inputs[name] for name in model.input}


def _is_learning(outputs):
    return isinstance(outputs, dict) and _LEARNING in outputs


def _number_of_replicas():
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync
