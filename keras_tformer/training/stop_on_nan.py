"""A training that stops where its loss is no number, and shows with what."""

import collections
import json
import math
import os
import pathlib

import keras
import numpy as np

from keras_tformer.training.training_state import not_finite


class StopOnNaN(keras.callbacks.Callback):
    """Stops `fit` at the first loss that is NaN or infinite and saves the batch.

    `keras.callbacks.TerminateOnNaN` stops as well, but says nothing of the data. Pass
    the dataset through `watch`, which remembers the last batches as they go by; the
    batch of the bad step is then written to `folder` as `nan-epoch-00002-step-00013
    .npz` (both counted from 1), and the batch before it as `before-nan-...npz`: where
    its loss was finite and its gradient was not, it is what spoilt the step after it.
    Both are read again with `load_batch`. Without `watch`, only the epoch and the step
    are told. At the end of an epoch, trainable weights that are not finite stop `fit`
    as well.

    `fit` ends with a `FloatingPointError`, so that no script goes on to save, export
    or score a model that is lost; `ResumeFromCheckpoint`, which goes after this
    callback in the list, has the last good state. With `steps_per_execution` above 1,
    step and batch are the last of the group that went wrong.

    Args:
        folder: str or path. Made when there is something to write.
        remembered_batches: int > 0. How many of the last batches are kept in memory: as
            many as are read ahead of the step that uses them, by several replicas or
            on JAX, and one more for the batch before.

    Attributes:
        saved_batch: path of the batch that was saved, or None.
        saved_batch_before: path of the batch before it, or None.

    Raises:
        ValueError: if `remembered_batches` is not positive.
        FloatingPointError: by `fit`, at the end of the bad step or epoch.

    Example:
        >>> import tempfile
        >>> import tensorflow as tf
        >>> inputs = keras.Input((3,))
        >>> model = keras.Model(inputs, keras.layers.Dense(2)(inputs))
        >>> model.compile("sgd", "mse")
        >>> x = np.array([[1, 2, 3], [1, np.nan, 3]], "float32")
        >>> dataset = tf.data.Dataset.from_tensor_slices((x, np.zeros((2, 2)))).batch(1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     stop = kt.training.StopOnNaN(folder)
        ...     try:
        ...         _ = model.fit(stop.watch(dataset), verbose=0, callbacks=[stop])
        ...     except FloatingPointError as error:
        ...         print(str(error).split(";")[0])
        ...     x, y = kt.training.StopOnNaN.load_batch(stop.saved_batch)
        The loss is nan in epoch 1, step 2
        >>> x.tolist()
        [[1.0, nan, 3.0]]
    """

    def __init__(self, folder, remembered_batches=64):
        super().__init__()
        if remembered_batches < 1:
            raise ValueError(
                f"Received remembered_batches={remembered_batches}. Expected an "
                "integer >= 1. 64 is the default."
            )
        self.folder = pathlib.Path(folder)
        self.saved_batch = self.saved_batch_before = None
        # (pass, number in it, arrays) of the batches that were read last.
        self._batches = collections.deque(maxlen=remembered_batches)
        self._structure = None
        self._passes = self._passes_before = self._steps_of_pass = 0

    def watch(self, dataset):
        """Gives the dataset with batches that are remembered as they are read.

        Args:
            dataset: `tf.data.Dataset` of batches, as it goes into `fit`.

        Returns:
            A `tf.data.Dataset` of the same elements.
        """
        import tensorflow as tf

        leaves = tf.nest.flatten(dataset.element_spec)
        self._structure = tf.nest.pack_sequence_as(
            dataset.element_spec, list(range(len(leaves)))
        )

        def remember(number, *tensors):
            if number == 0:
                self._passes += 1
            arrays = [tensor.numpy() for tensor in tensors]
            self._batches.append((self._passes, int(number), arrays))
            return number

        def remembered(number, batch):
            tensors = tf.nest.flatten(batch)
            done = tf.py_function(remember, [number, *tensors], tf.int64)
            with tf.control_dependencies([done]):
                tensors = [tf.identity(tensor) for tensor in tensors]
            return tf.nest.pack_sequence_as(batch, tensors)

        options = tf.data.Options()
        # Or the batch remembered last would be one ahead of the batch trained on.
        options.experimental_optimization.inject_prefetch = False
        watched = dataset.enumerate().map(
            lambda number, *batch: remembered(
                number, batch if len(batch) > 1 else batch[0]
            )
        )
        return watched.with_options(options)

    @staticmethod
    def load_batch(file):
        """Reads a batch that was saved.

        Args:
            file: str or path, such as `stop.saved_batch`.

        Returns:
            The batch as it stood in the dataset, of NumPy arrays.
        """
        with np.load(file, allow_pickle=False) as arrays:
            structure = json.loads(str(arrays["structure"]))
            batch = keras.tree.map_structure(lambda leaf: arrays[str(leaf)], structure)
        return tuple(batch) if isinstance(batch, list) else batch

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch, self._step = epoch, 0
        self._passes_before = self._passes

    def on_train_batch_end(self, batch, logs=None):
        # A pass begins with an epoch, unless `steps_per_epoch` goes on in the last one.
        if self._passes > self._passes_before:
            self._passes_before = self._passes
            self._steps_of_pass = 0
        self._steps_of_pass += batch + 1 - self._step
        self._step = batch + 1
        loss = float((logs or {}).get("loss", 0.0))
        if not math.isfinite(loss):
            self._stop(f"The loss is {loss}")

    def on_epoch_end(self, epoch, logs=None):
        weight = not_finite(self.model)
        if weight is not None:
            self._stop(f"{weight} is not finite, though the loss is,")

    def _stop(self, what):
        self._save()
        where = (
            f"{self.saved_batch} holds the batch"
            if self.saved_batch
            else "give `fit` the dataset through `watch` to have the batch saved"
        )
        if self.saved_batch_before:
            where += f", {self.saved_batch_before} the one before"
        raise FloatingPointError(
            f"{what} in epoch {self._epoch + 1}, step {self._step}; {where}. Look for "
            "labels out of range and for rows of padding alone, lower the learning "
            "rate or lengthen its warm-up, then go on from the last checkpoint."
        )

    def _reads_ahead(self):
        """Whether batches are fetched before the step that uses them."""
        if keras.backend.backend() != "tensorflow":
            return True
        return self.model.distribute_strategy.num_replicas_in_sync > 1

    def _save(self):
        batches = list(self._batches)
        if self._reads_ahead():
            last = self._passes, self._steps_of_pass - 1
            places = [place for place, batch in enumerate(batches) if batch[:2] == last]
            batches = batches[: places[0] + 1] if places else []
        if not batches:
            return
        name = f"nan-epoch-{self._epoch + 1:05d}-step-{self._step:05d}.npz"
        self.saved_batch = self._write(name, batches[-1])
        if len(batches) > 1 and (self._epoch or self._step > 1):
            self.saved_batch_before = self._write(f"before-{name}", batches[-2])

    def _write(self, name, batch):
        *_, arrays = batch
        self.folder.mkdir(parents=True, exist_ok=True)
        unfinished = self.folder / f"unfinished-{name}"
        np.savez_compressed(
            unfinished,
            structure=json.dumps(self._structure),
            **{str(index): array for index, array in enumerate(arrays)},
        )
        os.replace(unfinished, self.folder / name)
        return self.folder / name
