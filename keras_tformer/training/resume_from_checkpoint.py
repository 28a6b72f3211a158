"""Training that goes on where it was killed."""

import contextlib
import math
import pathlib
import signal

import keras

from keras_tformer.training.checkpoint_files import (
    checkpoint_files,
    is_whole,
    position,
    write_checkpoint,
)
from keras_tformer.training.passed_batches import PassedBatches
from keras_tformer.training.share_file import is_several_workers, share_file
from keras_tformer.training.training_state import (
    not_finite,
    read_state,
    state_size,
    write_state,
)


class ResumeFromCheckpoint(keras.callbacks.Callback):
    """Saves the training state after epochs and steps; the same `fit` resumes there.

    Saved are weights (pruning masks and quantization ranges are among them), the
    optimizer's state with the schedule's step, the states of the random number
    generators and the logs of each epoch. Each checkpoint is one file with a digest,
    written under another name and then renamed: a killed process never leaves half of
    one, and one that the disk spoilt is passed over for the one before. `fit` is called
    as the first time, with the same data and the same `epochs`: what was trained is
    skipped, and with all of it trained, the last state is only loaded. On a CPU with
    `tf.config.experimental.enable_op_determinism()` the weights in the end are those of
    a run that was never killed, bit by bit.

    What was trained since the last checkpoint is trained again. On the TensorFlow
    backend the data goes on at the right batch: those already trained on are read and
    passed over, or, with `passes_over_batches=False`, the dataset begins behind them by
    itself (`first_step=epochs * steps_per_epoch + steps` of the two properties below).
    The dataset must give the same batches in the same order in each run
    (seed what shuffles). On other backends only whole epochs are saved, and a dataset
    starts again from its beginning. Metrics of an epoch that was resumed are those of
    its rest. Early stopping that is given here, and not among the callbacks, goes on
    too, with its best epoch, that epoch's weights and its patience; a run that it had
    ended is not trained again. Other callbacks start anew.

    A state with a loss or a trainable weight that is no number is never saved.

    Under several workers all take part, and only the first writes and reads: its folder
    may be on its own disk. Give each worker this callback, with any folder.

    `keras.callbacks.BackupAndRestore` writes weights and epoch number to two files, in
    place, forgets the generators, repeats the batches of the epoch begun, and leaves
    its epoch number on the model.

    Args:
        folder: str or path. Made if it is missing; one folder for each `fit`.
        every_epochs: int > 0. Epochs from one checkpoint to the next; the last epoch of
            a `fit` is always saved.
        keep: int > 0. How many of the newest checkpoints stay on disk.
        every_steps: int > 0, steps of an epoch from one checkpoint to the next within
            it; None for ends of epochs only.
        saves_on_sigterm: bool, whether SIGTERM, which schedulers send before they take
            a machine away, saves after the step that is running and exits with status
            143. Under several workers one that gets it is enough for all. Needs the
            main thread and, off TensorFlow, waits for the epoch's end.
        passes_over_batches: bool, False for a dataset that was made to begin at the
            next batch. Leave it under several workers, which do not all have the files.
        early_stopping: `keras.callbacks.EarlyStopping`, or None. Called by this
            callback, so leave it out of the list of callbacks.

    Attributes:
        finished_epochs: int, epochs in the newest checkpoint of the folder; 0 without
            one.
        finished_steps: int, steps of the epoch after these in the same checkpoint.

    Raises:
        ValueError: if a number is not positive; at `fit`, if the model is not built or
            the checkpoint is of another model.
        OSError: in `fit`, if a checkpoint cannot be written; older ones stay.

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

    def __init__(
        self,
        folder,
        every_epochs=1,
        keep=2,
        every_steps=None,
        saves_on_sigterm=False,
        passes_over_batches=True,
        early_stopping=None,
    ):
        super().__init__()
        numbers = {"every_epochs": every_epochs, "keep": keep}
        if every_steps is not None:
            numbers["every_steps"] = every_steps
        for name, number in numbers.items():
            if number < 1:
                raise ValueError(
                    f"Received {name}={number}. Expected an integer >= 1. "
                    f"Leave it out for the default."
                )
        if every_steps is not None and keras.backend.backend() != "tensorflow":
            raise ValueError(
                f"Received every_steps={every_steps} on the {keras.backend.backend()} "
                "backend. Expected None: only the TensorFlow backend can go on within "
                "an epoch. Make epochs short with `steps_per_epoch`."
            )
        self.folder = pathlib.Path(folder)
        self.every_epochs = every_epochs
        self.keep = keep
        self.every_steps = every_steps
        self.saves_on_sigterm = saves_on_sigterm
        self.passes_over_batches = passes_over_batches
        self.early_stopping = early_stopping
        self.history = {}

    @property
    def finished_epochs(self):
        return self._newest()[0]

    @property
    def finished_steps(self):
        return self._newest()[1]

    def _newest(self):
        """Epochs and steps of the checkpoint that `fit` will load."""
        whole = (at for at, file in checkpoint_files(self.folder) if is_whole(file))
        return next(whole, (0, 0))

    # === What Keras calls ===

    def on_train_begin(self, logs=None):
        if not self.model.built or self.model.optimizer is None:
            raise ValueError(
                "Received a model that is not built or not compiled. Expected one with "
                "weights to restore. Call it on a batch and compile it before `fit`."
            )
        # `fit` reads this, and Keras never resets it.
        self.model._initial_epoch = None
        self.history = {}
        self._train_function = None
        self._is_terminated = False
        if self.early_stopping is not None:
            self.early_stopping.set_params(self.params)
            self.early_stopping.set_model(self.model)
            self.early_stopping.on_train_begin()
        self._epoch, self._step = self._saved = self._restore()
        if self._epoch or self._step:
            self.model._initial_epoch = self._epoch
            if self._had_stopped():
                self.model._initial_epoch = max(self._epoch, self.params["epochs"])
            if keras.backend.backend() == "tensorflow":
                self._train_function = self.model.train_function
                self.model.train_function = PassedBatches(
                    self.model,
                    self._epoch,
                    self._step,
                    self.params.get("steps"),
                    self.passes_over_batches,
                )
        self._resumed_step = self._step
        if self.saves_on_sigterm:
            self._old_handler = signal.signal(signal.SIGTERM, self._terminate)

    def on_train_batch_end(self, batch, logs=None):
        step = batch + 1
        if keras.backend.backend() != "tensorflow" or step <= self._resumed_step:
            return
        before, self._step = self._step, step
        must_stop = self._must_stop()
        is_due = self.every_steps is not None and (
            step // self.every_steps > before // self.every_steps
        )
        if is_due or must_stop:
            self._save(logs)
        if must_stop:
            self._leave()

    def on_epoch_end(self, epoch, logs=None):
        for name, value in (logs or {}).items():
            self.history.setdefault(name, []).append(float(value))
        self._epoch, self._step, self._resumed_step = epoch + 1, 0, 0
        self._give_back_train_function()
        if self.early_stopping is not None:
            self.early_stopping.on_epoch_end(epoch, logs)
        must_stop = self._must_stop()
        if self._epoch % self.every_epochs == 0 or must_stop:
            self._save(logs)
        if must_stop:
            self._leave()

    def on_train_end(self, logs=None):
        self._give_back_train_function()
        if (self._epoch, 0) > self._saved:
            self._step = 0
            self._save(logs)
        if self.early_stopping is not None:
            self.early_stopping.on_train_end(logs)  # may bring back other weights
        if self.saves_on_sigterm:
            signal.signal(signal.SIGTERM, self._old_handler)
        self.model._initial_epoch = None

    # === The end that a scheduler asks for ===

    def _terminate(self, number, frame):
        self._is_terminated = True

    def _leave(self):
        signal.signal(signal.SIGTERM, self._old_handler)
        self.model._initial_epoch = None
        raise SystemExit(128 + signal.SIGTERM)

    def _must_stop(self):
        """Whether this worker, or another one, has got SIGTERM."""
        if not self.saves_on_sigterm:
            return False
        strategy = self._workers()
        if strategy is None:
            return self._is_terminated
        import tensorflow as tf

        mine = tf.constant(float(self._is_terminated))
        values = strategy.experimental_distribute_values_from_function(lambda _: mine)
        return float(strategy.reduce("SUM", values, axis=None)) > 0

    # === State ===

    def _had_stopped(self):
        """Whether early stopping's patience was at its end when the state was saved."""
        stopping = self.early_stopping
        if stopping is None or self._epoch < 2:
            return False
        return stopping.wait >= max(stopping.patience, 1)

    def _give_back_train_function(self):
        if self._train_function is not None:
            self.model.train_function = self._train_function
            self._train_function = None

    def _save(self, logs):
        self._saved = self._epoch, self._step
        workers = self._workers()
        if workers is not None and not workers.extended.should_checkpoint:
            return

        loss = float((logs or {}).get("loss", 0.0))
        spoilt = not_finite(self.model) if math.isfinite(loss) else "the loss"
        if spoilt is not None:
            print(
                f"{spoilt} is not finite after epoch {self._epoch}, step {self._step}; "
                "this state is not saved"
            )
            return

        def write(path):
            write_state(path, self.model, self.history, self.early_stopping)

        size = state_size(self.model, self.early_stopping)
        write_checkpoint(self.folder, self._epoch, self._step, size, write)
        for _, old in checkpoint_files(self.folder)[self.keep :]:
            old.unlink()

    def _restore(self):
        """Loads the newest whole checkpoint; gives its epochs and steps."""
        newest = None
        for _, file in checkpoint_files(self.folder):
            if is_whole(file):
                newest = file
                break
            print(f"{file} is spoilt; trying the one before it")
        workers = self._workers()
        if workers is None:
            shared = contextlib.nullcontext(newest)
        else:
            shared = share_file(workers, newest)
        with shared as file:
            if file is None:
                return 0, 0
            try:
                with self._scope():
                    self.history = read_state(file, self.model, self.early_stopping)
            except (OSError, ValueError, KeyError) as error:
                raise ValueError(
                    f"{file} does not fit this model ({error}). Expected a checkpoint "
                    "of the same model and optimizer. Give another folder, or remove "
                    "this one to start anew."
                ) from error
            return position(file)

    def _workers(self):
        """The strategy, if it spans several processes."""
        if keras.backend.backend() != "tensorflow":
            return None
        strategy = self.model.distribute_strategy
        return strategy if is_several_workers(strategy) else None

    def _scope(self):
        """Where variables may be made: on TensorFlow, the model's strategy's scope."""
        if keras.backend.backend() == "tensorflow":
            return self.model.distribute_strategy.scope()
        return contextlib.nullcontext()
