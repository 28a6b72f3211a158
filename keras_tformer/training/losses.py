"""Cross-entropy over the positions that count, exact under every distribution."""

import keras
from keras import ops

from keras_tformer.training.whole_batch import total_over_batch


def counting_weights(labels, sample_weight=None, ignored_label=-100):
    """Says how much each position counts: its weight, or 0 where the label is ignored.

    Args:
        labels: int tensor of any shape, such as `(B, P)`.
        sample_weight: None, or a tensor of that shape or its leading part such as
            `(B,)`.
        ignored_label: int. Label of positions that do not count.

    Returns:
        A float32 tensor of the shape of `labels`.

    Example:
        >>> labels = np.array([[3, -100], [5, 7]])
        >>> np.asarray(counting_weights(labels, np.array([1, 2]))).tolist()
        [[1.0, 0.0], [2.0, 2.0]]
    """
    weights = ops.cast(labels != ignored_label, "float32")
    if sample_weight is None:
        return weights
    sample_weight = ops.cast(sample_weight, "float32")
    while len(sample_weight.shape) < len(weights.shape):
        sample_weight = ops.expand_dims(sample_weight, -1)
    if len(sample_weight.shape) > len(weights.shape):  # (B, 1) for (B,)
        sample_weight = ops.squeeze(sample_weight, -1)
    return weights * sample_weight


def labels_for(y_true, logits):
    """Gives labels as integers without the last axis of 1 that they may have."""
    labels = ops.cast(y_true, "int32")
    if len(labels.shape) == len(logits.shape):  # (B, 1) for (B, C)
        labels = ops.squeeze(labels, -1)
    return labels


def token_losses(labels, logits, label_smoothing=0.0, ignored_label=-100):
    """Gives each position's cross-entropy; an ignored one has that of class 0.

    Args:
        labels: `(...)` int tensor.
        logits: `(..., C)` float tensor.
        label_smoothing: float in [0, 1), the share spread evenly over the C classes.
        ignored_label: int. A label that may stand outside [0, C).

    Returns:
        A `(...)` float32 tensor.

    Example:
        >>> losses = token_losses(np.array([1, -100]), np.zeros((2, 5), "float32"))
        >>> [round(float(loss), 4) for loss in losses]  # log 5
        [1.6094, 1.6094]
    """
    logits = ops.cast(logits, "float32")
    labels = ops.where(labels == ignored_label, 0, labels)
    losses = ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    if label_smoothing:
        uniform = ops.logsumexp(logits, axis=-1) - ops.mean(logits, axis=-1)
        losses += label_smoothing * (uniform - losses)
    return losses


def weighted_mean(values, weights):
    """Averages over the whole batch: over all replicas and micro-batches.

    Each part divides its own sum by the weights of all, so that the parts' losses and
    gradients add up to those of one device.

    Args:
        values: float tensor of any shape.
        weights: float tensor of the same shape, 0 for what does not count.

    Returns:
        A scalar tensor; 0 where nothing counts.

    Example:
        >>> float(weighted_mean(np.array([1.0, 5.0, 9.0]), np.array([1.0, 1.0, 0.0])))
        3.0
    """
    total = total_over_batch(ops.sum(weights))
    return ops.divide_no_nan(ops.sum(values * weights), total)


@keras.saving.register_keras_serializable(package="keras_tformer")
class MaskedCrossentropy(keras.losses.Loss):
    """Averages the cross-entropy of logits over the positions that count.

    A position counts with its sample weight, and not at all where its label is
    `ignored_label`. The sum is divided by the sum of the weights of the *whole* batch:
    under `tf.distribute`, over all replicas. Keras' own `"mean_with_sample_weight"`
    averages the replicas' means, which weighs a token by how few others its replica
    holds. A batch in which nothing counts has loss 0.

    Computed in float32 under every dtype policy. Label smoothing spreads its share
    evenly over all classes (Szegedy et al. 2016, section 7; 0.1 in Vaswani et al. 2017,
    section 5.4).

    Args:
        label_smoothing: float in [0, 1).
        ignored_label: int. Label of positions to leave out.

    Call arguments:
        y_true: `(...)` int tensor of labels, such as `(B, P)`.
        y_pred: `(..., C)` float tensor of logits.
        sample_weight: tensor of the shape of `y_true`, or its leading part such as
            `(B,)`.

    Returns:
        A scalar float32 tensor.

    Raises:
        ValueError: if `label_smoothing` is outside [0, 1).

    Example:
        >>> loss = MaskedCrossentropy()
        >>> logits = np.zeros((1, 3, 7), "float32")
        >>> round(float(loss(np.array([[4, 2, -100]]), logits)), 4)  # log 7
        1.9459
    """

    def __init__(
        self, label_smoothing=0.0, ignored_label=-100, name="masked_crossentropy"
    ):
        # Keras would otherwise divide by the number of positions, counting or not.
        super().__init__(name=name, reduction="mean_with_sample_weight")
        if not 0 <= label_smoothing < 1:
            raise ValueError(
                f"Received label_smoothing={label_smoothing}. Expected a float in [0, "
                "1). Vaswani et al. 2017 use 0.1."
            )
        self.label_smoothing = label_smoothing
        self.ignored_label = ignored_label

    def call(self, y_true, y_pred):
        return token_losses(
            labels_for(y_true, y_pred), y_pred, self.label_smoothing, self.ignored_label
        )

    def __call__(self, y_true, y_pred, sample_weight=None):
        y_true, y_pred = ops.convert_to_tensor(y_true), ops.convert_to_tensor(y_pred)
        losses = self.call(y_true, y_pred)
        weights = counting_weights(
            labels_for(y_true, y_pred), sample_weight, self.ignored_label
        )
        return weighted_mean(losses, weights)

    def get_config(self):
        return {
            "label_smoothing": self.label_smoothing,
            "ignored_label": self.ignored_label,
            "name": self.name,
        }
