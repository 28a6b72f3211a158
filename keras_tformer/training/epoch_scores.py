"""Measures that need a whole data set at once, at the end of each epoch."""

import keras
import numpy as np


class EpochScores(keras.callbacks.Callback):
    """Predicts a data set after each epoch and adds its scores to the logs.

    For measures that no sum over batches gives: ranks, entities, answers.
    `measure(labels, predictions)` gets the labels and the model's outputs for the whole
    data set, each as one array (or a dict of arrays) whose rows are in the order of the
    data set. Put this callback before those that read the logs: `EarlyStopping`,
    `ReduceLROnPlateau`, `RichProgress`, `ResumeFromCheckpoint`.

    Args:
        dataset: `tf.data.Dataset` of `(inputs, labels)` or `(inputs, labels, sample
            weights)`, finite and in the same order every time: not shuffled.
        measure: function of `(labels, predictions)` that returns a dict of numbers.
            Such dicts are made by `entity_scores` and `squad_scores`, and by
            `lambda labels, outputs: {"spearman": spearman_correlation(labels,
            outputs)}`.
        prefix: str. Put before every name, so that `"f1"` is logged as `"val_f1"`.

    Raises:
        ValueError: at the end of an epoch, if `measure` returns no dict.

    Example:
        >>> import tensorflow as tf
        >>> x, y = np.random.rand(7, 3), np.random.rand(7)
        >>> inputs = keras.Input((3,))
        >>> model = keras.Model(inputs, keras.layers.Dense(1)(inputs))
        >>> model.compile("sgd", "mse")
        >>> scores = kt.training.EpochScores(
        ...     tf.data.Dataset.from_tensor_slices((x, y)).batch(2),
        ...     lambda y, outputs: {
        ...         "spearman": kt.training.spearman_correlation(y, outputs)
        ...     },
        ... )
        >>> history = model.fit(x, y, epochs=2, verbose=0, callbacks=[scores])
        >>> len(history.history["val_spearman"])
        2
    """

    def __init__(self, dataset, measure, prefix="val_"):
        super().__init__()
        self.dataset = dataset
        self.measure = measure
        self.prefix = prefix
        self._labels = None

    def on_epoch_end(self, epoch, logs=None):
        if self._labels is None:
            labels = [labels for _, labels, *_ in self.dataset]
            self._labels = keras.tree.map_structure(
                lambda *parts: np.concatenate([np.asarray(part) for part in parts]),
                *labels,
            )
        outputs = self.model.predict(self.dataset, verbose=0)
        scores = self.measure(self._labels, outputs)
        if not isinstance(scores, dict):
            raise ValueError(
                f"The measure returned {type(scores).__name__}. Expected a dict from "
                'names to numbers, such as {"f1": 0.5}. Name what it measures.'
            )
        if logs is not None:
            logs.update(
                {f"{self.prefix}{name}": float(scores[name]) for name in scores}
            )
