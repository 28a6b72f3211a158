"""Measures that Keras lacks, over the positions that count."""

import keras
from keras import ops

from keras_tformer.training.losses import counting_weights, labels_for, token_losses


@keras.saving.register_keras_serializable(package="keras_tformer")
class MaskedAccuracy(keras.metrics.Mean):
    """Share of positions whose largest logit is their label, over those that count.

    `keras.metrics.SparseCategoricalAccuracy` without the positions of an ignored label.

    Args:
        ignored_label: int. Label of positions to leave out.

    Call arguments:
        y_true: `(...)` int tensor of labels, such as `(B, T)`.
        y_pred: `(..., C)` float tensor of logits.
        sample_weight: tensor of the shape of `y_true`, or its leading part.

    Returns:
        A scalar in [0, 1].

    Example:
        >>> accuracy = MaskedAccuracy()
        >>> accuracy.update_state([1, 0, -100], [[0.0, 2.0], [1.0, 3.0], [4.0, 0.0]])
        >>> float(accuracy.result())
        0.5
    """

    def __init__(self, ignored_label=-100, name="accuracy", dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.ignored_label = ignored_label

    def update_state(self, y_true, y_pred, sample_weight=None):
        y_true, y_pred = ops.convert_to_tensor(y_true), ops.convert_to_tensor(y_pred)
        labels = labels_for(y_true, y_pred)
        # `==` forgets the rank where only one side knows its batch size.
        hits = ops.equal(ops.cast(ops.argmax(y_pred, axis=-1), "int32"), labels)
        super().update_state(
            ops.cast(hits, "float32"),
            counting_weights(labels, sample_weight, self.ignored_label),
        )

    def get_config(self):
        return {**super().get_config(), "ignored_label": self.ignored_label}


@keras.saving.register_keras_serializable(package="keras_tformer")
class Perplexity(keras.metrics.Mean):
    """The exponential of the mean cross-entropy per token, over the tokens that count.

    How many equally likely tokens the model hesitates between, as language models are
    compared: exp(-1/N sum log p(token)), without label smoothing.

    Args:
        ignored_label: int. Label of positions to leave out.

    Call arguments:
        y_true: `(...)` int tensor of labels, such as `(B, T)`.
        y_pred: `(..., V)` float tensor of logits.
        sample_weight: tensor of the shape of `y_true`, or its leading part.

    Returns:
        A scalar of at least 1.

    Example:
        >>> perplexity = Perplexity()
        >>> perplexity.update_state([3, 4], np.zeros((2, 5), "float32"))
        >>> round(float(perplexity.result()), 3)
        5.0
    """

    def __init__(self, ignored_label=-100, name="perplexity", dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.ignored_label = ignored_label

    def update_state(self, y_true, y_pred, sample_weight=None):
        y_true, y_pred = ops.convert_to_tensor(y_true), ops.convert_to_tensor(y_pred)
        labels = labels_for(y_true, y_pred)
        super().update_state(
            token_losses(labels, y_pred, ignored_label=self.ignored_label),
            counting_weights(labels, sample_weight, self.ignored_label),
        )

    def result(self):
        return ops.exp(super().result())

    def get_config(self):
        return {**super().get_config(), "ignored_label": self.ignored_label}


@keras.saving.register_keras_serializable(package="keras_tformer")
class MacroF1(keras.metrics.Metric):
    """The mean over the classes of each class's F1, from integer labels and logits.

    `keras.metrics.F1Score(average="macro")` takes one-hot labels and no ignored ones.
    A class that is neither present nor predicted has F1 0.

    Args:
        num_classes: int >= 2.
        ignored_label: int. Label of positions to leave out.

    Call arguments:
        y_true: `(...)` int tensor of labels, such as `(B,)` or `(B, T)`.
        y_pred: `(..., C)` float tensor of logits.
        sample_weight: tensor of the shape of `y_true`, or its leading part.

    Returns:
        A scalar in [0, 1].

    Raises:
        ValueError: if `num_classes` is below 2.

    Example:
        >>> f1 = MacroF1(num_classes=2)
        >>> f1.update_state([0, 0, 1], [[2.0, 1.0], [1.0, 2.0], [0.0, 1.0]])
        >>> round(float(f1.result()), 4)  # both classes have 2/3
        0.6667
    """

    def __init__(self, num_classes, ignored_label=-100, name="macro_f1", dtype=None):
        super().__init__(name=name, dtype=dtype)
        if num_classes < 2:
            raise ValueError(
                f"Received num_classes={num_classes}. Expected an integer >= 2. "
                "Count every class, also the negative or the outside one."
            )
        self.num_classes = num_classes
        self.ignored_label = ignored_label
        self.hits, self.present, self.predicted = (
            self.add_weight(shape=(num_classes,), initializer="zeros", name=name)
            for name in ("hits", "present", "predicted")
        )

    def update_state(self, y_true, y_pred, sample_weight=None):
        y_true, y_pred = ops.convert_to_tensor(y_true), ops.convert_to_tensor(y_pred)
        labels = labels_for(y_true, y_pred)
        weights = counting_weights(labels, sample_weight, self.ignored_label)
        # An ignored label is outside the classes: its row is all zeros anyway.
        present = ops.one_hot(labels, self.num_classes)  # (..., C)
        predicted = ops.one_hot(ops.argmax(y_pred, axis=-1), self.num_classes)
        present, predicted = (
            ops.reshape(rows * ops.expand_dims(weights, -1), (-1, self.num_classes))
            for rows in (present, predicted)
        )  # (positions, C)
        # Both rows carry the weight, so that their minimum has it once.
        hits = ops.minimum(present, predicted)
        for variable, rows in (
            (self.hits, hits),
            (self.present, present),
            (self.predicted, predicted),
        ):
            variable.assign_add(ops.cast(ops.sum(rows, axis=0), variable.dtype))

    def result(self):
        f1 = ops.divide_no_nan(2 * self.hits, self.present + self.predicted)
        return ops.mean(f1)

    def get_config(self):
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "ignored_label": self.ignored_label,
        }
