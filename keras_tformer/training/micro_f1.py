"""F1 over the decisions of chosen classes together."""

import keras
from keras import ops

from keras_tformer.training.losses import counting_weights, labels_for


@keras.saving.register_keras_serializable(package="keras_tformer")
class MicroF1(keras.metrics.Metric):
    """F1 of all decisions for the chosen classes, from integer labels and logits.

    `2 * hits / (present + predicted)`, each a sum over the chosen classes. With one
    class it is that class's F1, as GLUE scores MRPC and QQP (class 1); with all but the
    outside class it is the F1 of tags; with all classes it is the accuracy.

    Args:
        num_classes: int >= 2.
        classes: list of ints in [0, num_classes), the classes that count; all if None.
        ignored_label: int. Label of positions to leave out.

    Call arguments:
        y_true: `(...)` int tensor of labels, such as `(B,)` or `(B, T)`.
        y_pred: `(..., C)` float tensor of logits.
        sample_weight: tensor of the shape of `y_true`, or its leading part.

    Returns:
        A scalar in [0, 1]; 0 where no chosen class is present or predicted.

    Raises:
        ValueError: if `num_classes` is below 2, or a class is not one of them.

    Example:
        >>> f1 = MicroF1(num_classes=2, classes=[1])
        >>> f1.update_state([0, 0, 1], [[2.0, 1.0], [1.0, 2.0], [0.0, 1.0]])
        >>> round(float(f1.result()), 4)  # one hit, one present, two predicted
        0.6667
    """

    def __init__(
        self,
        num_classes,
        classes=None,
        ignored_label=-100,
        name="micro_f1",
        dtype=None,
    ):
        super().__init__(name=name, dtype=dtype)
        if num_classes < 2:
            raise ValueError(
                f"Received num_classes={num_classes}. Expected an integer >= 2. "
                "Count every class, also the negative or the outside one."
            )
        classes = list(range(num_classes)) if classes is None else list(classes)
        if not classes or not set(classes) <= set(range(num_classes)):
            raise ValueError(
                f"Received classes={classes}. Expected one or more integers from 0 to "
                f"{num_classes - 1}. Leave it out to count every class."
            )
        self.num_classes = num_classes
        self.classes = classes
        self.ignored_label = ignored_label
        self.hits, self.present, self.predicted = (
            self.add_weight(shape=(), initializer="zeros", name=name)
            for name in ("hits", "present", "predicted")
        )

    def update_state(self, y_true, y_pred, sample_weight=None):
        y_true, y_pred = ops.convert_to_tensor(y_true), ops.convert_to_tensor(y_pred)
        labels = labels_for(y_true, y_pred)
        weights = counting_weights(labels, sample_weight, self.ignored_label)
        chosen = [float(c in self.classes) for c in range(self.num_classes)]
        # An ignored label is outside the classes: its row is all zeros anyway.
        present = ops.one_hot(labels, self.num_classes) * chosen  # (..., C)
        predicted = ops.one_hot(ops.argmax(y_pred, axis=-1), self.num_classes) * chosen
        weights = ops.expand_dims(weights, -1)
        for variable, rows in (
            (self.hits, present * predicted),
            (self.present, present),
            (self.predicted, predicted),
        ):
            variable.assign_add(ops.cast(ops.sum(rows * weights), variable.dtype))

    def result(self):
        return ops.divide_no_nan(2 * self.hits, self.present + self.predicted)

    def get_config(self):
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "classes": self.classes,
            "ignored_label": self.ignored_label,
        }
