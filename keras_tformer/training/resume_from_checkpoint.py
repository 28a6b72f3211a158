"""Training that goes on where it was killed."""

import json
import os
import pathlib
import re

import keras

_NAME = re.compile(r"epoch-(\d+)\.weights\.h5")


class ResumeFromCheckpoint(keras.callbacks.Callback):
    """Saves the training state after epochs; the same `fit` later resumes there.

    Saved are weights, the optimizer's state with its step, the states of the random
    number generators and the logs of each epoch. Each checkpoint is one file, written
    under another name and then renamed, so that a killed process never leaves half of
    one; a file that the disk lost is passed over for the one before. `fit` is called as
    the first time, with the same `epochs`: epochs already trained are skipped, and with
    all of them trained it only loads the last state.

    What was trained since the last checkpoint is trained again: make epochs short
    (`steps_per_epoch`) where they are long. A dataset starts again from its beginning;
    to go on in it, skip the batches seen:
    `dataset.skip(resume.finished_epochs * steps_per_epoch)`. Other callbacks (early
    stopping, say) start anew. On several machines each worker needs a folder of its
    own.

    `keras.callbacks.BackupAndRestore` writes weights and epoch number to two files, in
    place, forgets the generators, and leaves its epoch number on the model.

    Args:
        folder: str or path. Made if it is missing; one folder for each `fit`.
        every_epochs: int > 0. Epochs from one checkpoint to the next; the last epoch of
            a `fit` is always saved.
        keep: int > 0. How many of the newest checkpoints stay on disk.

    Raises:
        ValueError: if a number is not positive; at `fit`, if the model is not built or
            the checkpoint is of another model.

    Example:
        >>> import tempfile
        >>> inputs = keras.Input((3,))
        >>> model = keras.Model(inputs, keras.layers.Dense(2)(inputs))
        >>> model.compile("adam", "mse")
        >>> x, y = np.zeros((5, 3)), np.zeros((5, 2))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     resume = kt.training.ResumeFromCheckpoint(folder)
        ...     _ = model.fit(x, y, epochs=2, verbose=0, callbacks=[resume])
        ...     kt.training.ResumeFromCheckpoint(folder).finished_epochs
        2
    """

    def __init__(self, folder, every_epochs=1, keep=2):
        super().__init__()
        for name, number in (("every_epochs", every_epochs), ("keep", keep)):
            if number < 1:
                raise ValueError(
                    f"Received {name}={number}. Expected an integer >= 1. "
                    f"Leave it out for the default."
                )
        self.folder = pathlib.Path(folder)
        self.every_epochs = every_epochs
        self.keep = keep
        self.history = {}

    @property
    def finished_epochs(self):
        """Epochs in the newest checkpoint of the folder; 0 without one."""
        return max((epoch for epoch, _ in self._checkpoints()), default=0)

    def _checkpoints(self):
        """Pairs (finished epochs, file), the newest first."""
        if not self.folder.is_dir():
            return []
        matches = ((_NAME.fullmatch(file.name), file) for file in self.folder.iterdir())
        return sorted(
            ((int(match[1]), file) for match, file in matches if match), reverse=True
        )

    def on_train_begin(self, logs=None):
        if not self.model.built or self.model.optimizer is None:
            raise ValueError(
                "Received a model that is not built or not compiled. Expected one with "
                "weights to restore. Call it on a batch and compile it before `fit`."
            )
        # `fit` reads this, and Keras never resets it.
        self.model._initial_epoch = None
        self.history = {}
        self._saved_epoch = self._seen_epoch = 0
        for epoch, file in self._checkpoints():
            try:
                self._load(file)
            except OSError as error:
                print(f"{file} cannot be read ({error}); trying the one before it")
                continue
            except (ValueError, KeyError) as error:
                raise ValueError(
                    f"{file} does not fit this model ({error}). Expected a checkpoint "
                    "of the same model and optimizer. Give another folder, or remove "
                    "this one to start anew."
                ) from error
            self.model._initial_epoch = epoch
            self._saved_epoch = self._seen_epoch = epoch
            return

    def on_epoch_end(self, epoch, logs=None):
        for name, value in (logs or {}).items():
            self.history.setdefault(name, []).append(float(value))
        self._seen_epoch = epoch + 1
        if self._seen_epoch % self.every_epochs == 0:
            self._save()

    def on_train_end(self, logs=None):
        if self._seen_epoch > self._saved_epoch:
            self._save()
        self.model._initial_epoch = None

    def _generator_states(self):
        """States of dropout and the like: variables, but no weights and no metrics."""
        known = {id(weight) for weight in self.model.weights}
        known |= {id(v) for metric in self.model.metrics for v in metric.variables}
        return [v for v in self.model.variables if id(v) not in known]

    def _save(self):
        import h5py

        self.folder.mkdir(parents=True, exist_ok=True)
        unfinished = self.folder / "unfinished.weights.h5"
        self.model.save_weights(unfinished, overwrite=True)
        with h5py.File(unfinished, "a") as file:
            group = file.create_group("resume")
            group.attrs["history"] = json.dumps(self.history)
            for index, state in enumerate(self._generator_states()):
                group[str(index)] = keras.ops.convert_to_numpy(state)
        os.replace(unfinished, self.folder / f"epoch-{self._seen_epoch:05d}.weights.h5")
        self._saved_epoch = self._seen_epoch
        for _, old in self._checkpoints()[self.keep :]:
            old.unlink()

    def _load(self, path):
        import h5py

        with self._scope():
            if not self.model.optimizer.built:
                self.model.optimizer.build(self.model.trainable_variables)
            self.model.load_weights(path)
            with h5py.File(path, "r") as file:
                self.history = json.loads(file["resume"].attrs["history"])
                for index, state in enumerate(self._generator_states()):
                    state.assign(file["resume"][str(index)][()])

    def _scope(self):
        """Where variables may be made: on TensorFlow, the model's strategy's scope."""
        if keras.backend.backend() == "tensorflow":
            return self.model.distribute_strategy.scope()
        import contextlib

        return contextlib.nullcontext()
