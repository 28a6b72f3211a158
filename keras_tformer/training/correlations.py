"""Correlations of predictions with labels, as GLUE scores CoLA and STS-B."""

import keras
import numpy as np
from keras import ops

from keras_tformer.training.losses import counting_weights, labels_for


@keras.saving.register_keras_serializable(package="keras_tformer")
class MatthewsCorrelation(keras.metrics.Metric):
    """Matthews' correlation of integer labels with the classes of the largest logits.

    From the shares h of hits, t_k of class k among the labels and p_k among the
    predictions: `(h - sum t_k p_k) / sqrt((1 - sum p_k^2) (1 - sum t_k^2))`. Gorodkin
    2004, equation 8, which for two classes is Matthews' (1975) coefficient
    `(TP TN - FP FN) / sqrt((TP + FP) (TP + FN) (TN + FP) (TN + FN))`. It is 0 where the
    labels or the predictions are all of one class.

    Args:
        num_classes: int >= 2.
        ignored_label: int. Label of positions to leave out.

    Call arguments:
        y_true: `(...)` int tensor of labels, such as `(B,)`.
        y_pred: `(..., C)` float tensor of logits.
        sample_weight: tensor of the shape of `y_true`, or its leading part.

    Returns:
        A scalar in [-1, 1].

    Raises:
        ValueError: if `num_classes` is below 2.

    Example:
        >>> matthews = MatthewsCorrelation()
        >>> logits = np.eye(2)[[0, 1, 1, 1]]
        >>> matthews.update_state([0, 0, 1, 1], logits)
        >>> round(float(matthews.result()), 4)  # 2 / sqrt(3 * 2 * 1 * 2)
        0.5774
    """

    def __init__(
        self,
        num_classes=2,
        ignored_label=-100,
        name="matthews_correlation",
        dtype=None,
    ):
        super().__init__(name=name, dtype=dtype)
        if num_classes < 2:
            raise ValueError(
                f"Received num_classes={num_classes}. Expected an integer >= 2. "
                "Use PearsonCorrelation where labels are numbers."
            )
        self.num_classes = num_classes
        self.ignored_label = ignored_label
        self.hits = self.add_weight(shape=(), initializer="zeros", name="hits")
        self.present, self.predicted = (
            self.add_weight(shape=(num_classes,), initializer="zeros", name=name)
            for name in ("present", "predicted")
        )

    def update_state(self, y_true, y_pred, sample_weight=None):
        y_true, y_pred = ops.convert_to_tensor(y_true), ops.convert_to_tensor(y_pred)
        labels = labels_for(y_true, y_pred)
        weights = counting_weights(labels, sample_weight, self.ignored_label)
        present = ops.one_hot(labels, self.num_classes)  # (..., C)
        predicted = ops.one_hot(ops.argmax(y_pred, axis=-1), self.num_classes)
        present, predicted = (
            ops.reshape(rows * ops.expand_dims(weights, -1), (-1, self.num_classes))
            for rows in (present, predicted)
        )  # (positions, C)
        # Both rows carry the weight, so that their minimum has it once.
        for variable, value in (
            (self.hits, ops.sum(ops.minimum(present, predicted))),
            (self.present, ops.sum(present, axis=0)),
            (self.predicted, ops.sum(predicted, axis=0)),
        ):
            variable.assign_add(ops.cast(value, variable.dtype))

    def result(self):
        # Shares, because products of counts would be beyond what float32 holds.
        total = ops.sum(self.present)
        hits = ops.divide_no_nan(self.hits, total)
        t = ops.divide_no_nan(ops.convert_to_tensor(self.present), total)  # (C,)
        p = ops.divide_no_nan(ops.convert_to_tensor(self.predicted), total)  # (C,)
        # sum t_k (1 - t_k) is 1 - sum t_k^2 without its rounding: 0 where it should be.
        spread = ops.sum(t * (1 - t)) * ops.sum(p * (1 - p))
        return ops.divide_no_nan(hits - ops.sum(t * p), ops.sqrt(spread))

    def get_config(self):
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "ignored_label": self.ignored_label,
        }


@keras.saving.register_keras_serializable(package="keras_tformer")
class PearsonCorrelation(keras.metrics.Metric):
    """Pearson's correlation of numbers with predicted numbers.

    `cov(x, y) / sqrt(var(x) var(y))` from the weighted sums of 1, x, y, x^2, y^2 and
    xy, so that batches and replicas add up to the value of the whole. The sums are kept
    in float64, on JAX in float32: there, labels should not be far from 0 for their
    spread. It is 0 where the labels or the predictions are all equal.

    Call arguments:
        y_true: `(B,)` or `(B, 1)` tensor of numbers.
        y_pred: `(B,)` or `(B, 1)` tensor, such as a regressor's output.
        sample_weight: `(B,)` or `(B, 1)` tensor, or None.

    Returns:
        A scalar in [-1, 1].

    Example:
        >>> pearson = PearsonCorrelation()
        >>> pearson.update_state([1.0, 2.0, 3.0], [[2.0], [4.0], [9.0]])
        >>> round(float(pearson.result()), 4)
        0.9707
    """

    def __init__(self, name="pearson_correlation", dtype=None):
        super().__init__(name=name, dtype=dtype)
        wide = "float32" if keras.backend.backend() == "jax" else "float64"
        # The sums of 1, x, y, x^2, y^2 and xy.
        self.sums = self.add_weight(
            shape=(6,), initializer="zeros", name="sums", dtype=wide
        )

    def update_state(self, y_true, y_pred, sample_weight=None):
        x, y = (
            ops.cast(ops.reshape(values, (-1,)), self.sums.dtype)
            for values in (ops.convert_to_tensor(y_true), ops.convert_to_tensor(y_pred))
        )
        weights = ops.ones_like(x)
        if sample_weight is not None:
            sample_weight = ops.convert_to_tensor(sample_weight)
            weights = ops.cast(ops.reshape(sample_weight, (-1,)), self.sums.dtype)
        rows = ops.stack([weights, x, y, x * x, y * y, x * y])  # (6, B)
        rows = ops.concatenate([rows[:1], rows[1:] * weights], axis=0)
        self.sums.assign_add(ops.sum(rows, axis=-1))

    def result(self):
        sums = ops.convert_to_tensor(self.sums)
        _, x, y, xx, yy, xy = ops.unstack(ops.divide_no_nan(sums, sums[0]))
        spread = ops.maximum(xx - x * x, 0) * ops.maximum(yy - y * y, 0)
        return ops.cast(ops.divide_no_nan(xy - x * y, ops.sqrt(spread)), "float32")


def spearman_correlation(labels, predictions):
    """Correlates the ranks of numbers with the ranks of predicted numbers.

    Pearson's correlation of the ranks, equal values sharing the mean of theirs
    (Spearman 1904). Ranks need all values at once, so this is no streaming metric: hand
    it to `EpochScores` for a value at the end of each epoch.

    Args:
        labels: array of numbers, of any shape.
        predictions: array with as many numbers.

    Returns:
        float in [-1, 1]; 0 where the labels or the predictions are all equal.

    Raises:
        ValueError: if there are not as many predictions as labels, or none.

    Example:
        >>> round(spearman_correlation([1.0, 2.0, 3.0, 4.0], [1, 9, 5, 100]), 4)
        0.8
    """
    labels, predictions = np.ravel(labels), np.ravel(predictions)
    if not len(labels) or len(labels) != len(predictions):
        raise ValueError(
            f"Received {len(labels)} labels and {len(predictions)} predictions. "
            "Expected as many of the one as of the other. Predict on the whole data "
            "set, without shuffling."
        )
    x, y = _centred_ranks(labels), _centred_ranks(predictions)
    spread = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / spread) if spread else 0.0


def _centred_ranks(values):
    """Ranks less their mean; equal values share the mean of the ranks they take."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks = (last - (counts - 1) / 2)[group]
    return ranks - ranks.mean()
