import os
import pathlib
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_tformer.training import LinearWarmup, ResumeFromCheckpoint, adamw

x = np.random.default_rng(1).normal(size=(28, 5)).astype("float32")
y = np.random.default_rng(2).integers(0, 3, 28)


class Stop(keras.callbacks.Callback):
    """Ends the process's training in the middle of an epoch."""

    def __init__(self, epoch, batch, how):
        super().__init__()
        self.epoch, self.batch, self.how = epoch, batch, how

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.now, batch) == (self.epoch, self.batch):
            self.how()


def interrupt():
    raise KeyboardInterrupt


def make_model(dropout=0.0, run_eagerly=True):
    keras.utils.set_random_seed(3)
    inputs = keras.Input((5,))
    hidden = keras.layers.Dense(7, activation="tanh")(inputs)
    outputs = keras.layers.Dense(3)(keras.layers.Dropout(dropout)(hidden))
    model = keras.Model(inputs, outputs)
    model.compile(
        adamw(LinearWarmup(0.1, 3, 60)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        run_eagerly=run_eagerly,  # quicker than tracing every model
    )
    return model


def fit(model, *callbacks, epochs=5, batch_size=7):
    model.fit(
        x,
        y,
        batch_size=batch_size,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=callbacks,
    )
    return model.get_weights()


def assert_equal(ours, theirs):
    for our, their in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(our, their)


@pytest.mark.parametrize(("dropout", "every_epochs"), [(0.0, 1), (0.5, 2)])
def test_interrupted_run_ends_as_an_uninterrupted_one(tmp_path, dropout, every_epochs):
    expected = fit(make_model(dropout), ResumeFromCheckpoint(tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        fit(
            make_model(dropout),
            ResumeFromCheckpoint(tmp_path / "parts", every_epochs),
            Stop(3, 2, interrupt),
        )
    resume = ResumeFromCheckpoint(tmp_path / "parts", every_epochs)
    assert resume.finished_epochs == 4 - every_epochs
    model = make_model(dropout)
    assert_equal(fit(model, resume), expected)
    assert int(model.optimizer.iterations) == 20
    assert len(resume.history["loss"]) == 5


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="needs the TensorFlow backend"
)
def test_a_dataset_that_begins_at_the_next_batch_is_not_read_before_it(tmp_path):
    import tensorflow as tf

    read = []

    def batches(first_step):
        def numbered(number, *batch):
            read.append(int(number))
            return number

        def noted(number, x, y):
            number = tf.py_function(numbered, [number], tf.int64)
            with tf.control_dependencies([number]):
                return tf.identity(x), y

        rows = tf.data.Dataset.from_tensor_slices((x, y)).repeat().batch(5)
        options = tf.data.Options()
        options.experimental_optimization.inject_prefetch = False
        return (
            rows.enumerate()
            .skip(first_step)
            .map(lambda number, batch: noted(number, *batch))
            .with_options(options)
        )

    def run(folder, first_step, *callbacks, **arguments):
        resume = ResumeFromCheckpoint(folder, every_steps=2, **arguments)
        model = make_model()
        model.fit(
            batches(first_step),
            epochs=3,
            steps_per_epoch=4,
            verbose=0,
            callbacks=[resume, *callbacks],
        )
        return model.get_weights()

    expected = run(tmp_path / "whole", 0)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", 0, Stop(1, 2, interrupt))
    resume = ResumeFromCheckpoint(tmp_path / "parts")
    assert (resume.finished_epochs, resume.finished_steps) == (1, 2)
    read.clear()
    ours = run(tmp_path / "parts", 6, passes_over_batches=False)
    assert_equal(ours, expected)
    assert set(read) == set(range(6, 12))


def test_a_finished_run_is_loaded_and_not_trained_again(tmp_path):
    expected = fit(make_model(), ResumeFromCheckpoint(tmp_path))
    model = make_model()
    assert_equal(fit(model, ResumeFromCheckpoint(tmp_path)), expected)
    assert int(model.optimizer.iterations) == 20
    # and the model is free for another training
    fit(model, epochs=1)
    assert int(model.optimizer.iterations) == 24


class Scores(keras.callbacks.Callback):
    """Gives each epoch a score that was thought of before."""

    def __init__(self, *scores):
        super().__init__()
        self.scores = scores

    def on_epoch_end(self, epoch, logs=None):
        logs["score"] = self.scores[epoch]


def fit_until_no_better(folder, model, *callbacks, patience=2, epochs=6):
    """Epoch 2 is the best one; a patience of 2 ends with epoch 4."""
    stopping = keras.callbacks.EarlyStopping(
        "score", patience=patience, mode="max", restore_best_weights=True
    )
    resume = ResumeFromCheckpoint(folder, early_stopping=stopping)
    scores = Scores(0.3, 0.5, 0.4, 0.2, 0.6, 0.1)
    fit(model, scores, resume, *callbacks, epochs=epochs)
    return model.get_weights(), resume.history["score"], stopping.best_epoch


def test_early_stopping_goes_on_with_its_best_epoch_and_its_patience(tmp_path):
    expected = fit(make_model(0.5), epochs=2)
    with pytest.raises(KeyboardInterrupt):
        fit_until_no_better(tmp_path, make_model(0.5), Stop(2, 3, interrupt))
    for _ in range(2):  # what it had ended is not trained again
        model = make_model(0.5)
        weights, scores, best = fit_until_no_better(tmp_path, model)
        assert_equal(weights, expected)
        assert (scores, best) == ([0.3, 0.5, 0.4, 0.2], 1)
    # More patience trains on from the fourth epoch, not from the best one.
    ours = fit_until_no_better(tmp_path, make_model(0.5), patience=3)
    assert_equal(ours[0], fit(make_model(0.5), epochs=5))
    assert ours[1:] == ([0.3, 0.5, 0.4, 0.2, 0.6, 0.1], 4)


def test_early_stopping_of_all_epochs_gives_the_best_again(tmp_path):
    expected = fit(make_model(), epochs=2)
    for _ in range(2):
        weights, *_ = fit_until_no_better(tmp_path, model := make_model(), epochs=3)
        assert_equal(weights, expected)
    fit(model, epochs=1)  # free for another training
    assert int(model.optimizer.iterations) == 16


def test_keeps_the_newest_and_passes_over_a_broken_one(tmp_path):
    expected = fit(make_model(), ResumeFromCheckpoint(tmp_path))
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == ["epoch-00004.weights.h5", "epoch-00005.weights.h5"]
    newest = tmp_path / names[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    assert_equal(fit(make_model(), ResumeFromCheckpoint(tmp_path)), expected)


def test_checkpoint_of_another_model_is_refused(tmp_path):
    fit(make_model(), ResumeFromCheckpoint(tmp_path), epochs=1)
    inputs = keras.Input((5,))
    other = keras.Model(inputs, keras.layers.Dense(3)(inputs))
    other.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with pytest.raises(ValueError, match="does not fit this model"):
        fit(other, ResumeFromCheckpoint(tmp_path))


def batches(kind):
    """Batches that differ from epoch to epoch, as `fit`'s own arguments."""
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(28, seed=5).batch(7)
    if kind == "goes on over epochs":
        return {"x": data.repeat(), "steps_per_epoch": 3}
    if kind == "of unknown length":
        return {"x": data.filter(lambda *_: True)}
    return {"x": data}


def fit_batches(model, kind, *callbacks):
    model.fit(**batches(kind), epochs=5, verbose=0, callbacks=callbacks)
    return model.get_weights()


needs_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="resumes whole epochs only"
)


@needs_tensorflow
@pytest.mark.parametrize(
    ("kind", "steps"),
    [("shuffled", 4), ("goes on over epochs", 3), ("of unknown length", 4)],
)
@pytest.mark.slow
def test_goes_on_at_the_right_batch(tmp_path, kind, steps):
    expected = fit_batches(make_model(0.5), kind)
    with pytest.raises(KeyboardInterrupt):
        resume = ResumeFromCheckpoint(tmp_path, every_steps=2)
        fit_batches(make_model(0.5), kind, resume, Stop(3, 2, interrupt))
    assert (tmp_path / "epoch-00003-step-0000002.weights.h5").exists()
    model = make_model(0.5)
    resumed = fit_batches(model, kind, ResumeFromCheckpoint(tmp_path, every_steps=2))
    assert_equal(resumed, expected)
    assert int(model.optimizer.iterations) == 5 * steps


@needs_tensorflow
@pytest.mark.slow
@pytest.mark.parametrize("change", ["prune", "quantize"])
def test_state_of_compression_is_saved_within_an_epoch(tmp_path, change):
    from keras_tformer import compress

    def make():
        model = make_model()
        if change == "prune":
            schedule = compress.ConstantSparsity(0.5, begin_step=6, frequency=3)
            changed = compress.prune_low_magnitude(model, schedule)
        else:
            changed = compress.quantize_model(model)
        changed.compile(adamw(0.05), model.loss, steps_per_execution=2)
        return changed

    expected = fit(make())
    with pytest.raises(KeyboardInterrupt):
        resume = ResumeFromCheckpoint(tmp_path, every_steps=2)
        fit(make(), resume, Stop(2, 3, interrupt))
    for ours, theirs in zip(
        fit(make(), ResumeFromCheckpoint(tmp_path)), expected, strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-7)


def test_a_checkpoint_with_a_wrong_byte_is_passed_over(tmp_path, capsys):
    fit(make_model(), ResumeFromCheckpoint(tmp_path), epochs=2)
    newest = tmp_path / "epoch-00002.weights.h5"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    fit(make_model(), resume := ResumeFromCheckpoint(tmp_path), epochs=1)
    assert "is spoilt; trying the one before it" in capsys.readouterr().out
    assert len(resume.history["loss"]) == 1


def test_a_full_disk_is_an_error_and_keeps_what_was_there(tmp_path):
    import resource

    fit(make_model(), ResumeFromCheckpoint(tmp_path), epochs=1)
    (checkpoint,) = tmp_path.iterdir()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        with pytest.raises(OSError, match="could not be written.*epoch-00001"):
            fit(make_model(), ResumeFromCheckpoint(tmp_path), epochs=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == [checkpoint]


@needs_tensorflow
@pytest.mark.slow
def test_sigterm_saves_and_exits(tmp_path):
    expected = fit(make_model(0.5))
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as exit:
        fit(
            make_model(0.5),
            Stop(1, 2, lambda: os.kill(os.getpid(), signal.SIGTERM)),
            ResumeFromCheckpoint(tmp_path, saves_on_sigterm=True),
        )
    assert exit.value.code == 143
    assert (tmp_path / "epoch-00001-step-0000003.weights.h5").exists()
    assert signal.getsignal(signal.SIGTERM) is before
    assert_equal(fit(make_model(0.5), ResumeFromCheckpoint(tmp_path)), expected)


@pytest.mark.slow
def test_under_two_replicas(tmp_path, mirrored_strategy):
    def make():
        with mirrored_strategy.scope():
            return make_model(run_eagerly=False)

    # Without the repairs, the first batch must divide evenly among the replicas.
    expected = fit(make(), batch_size=4)
    with pytest.raises(KeyboardInterrupt):
        stop = Stop(3, 2, interrupt)
        resume = ResumeFromCheckpoint(tmp_path, every_steps=2)
        fit(make(), resume, stop, batch_size=4)
    assert (tmp_path / "epoch-00003-step-0000002.weights.h5").exists()
    resumed = fit(make(), ResumeFromCheckpoint(tmp_path), batch_size=4)
    for ours, theirs in zip(resumed, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-7)


SCRIPT = """
import os, random, signal, sys
import tensorflow as tf
tf.config.experimental.enable_op_determinism()
sys.path.insert(0, sys.argv[1])
import keras, numpy as np
import test_resume_from_checkpoint as test
import keras_tformer as kt
from keras_tformer.training import resume_from_checkpoint as room
from keras_tformer.training.lamb import Lamb

ids = np.random.default_rng(1).integers(1, 11, (28, 5)).astype("int32")
lengths = np.random.default_rng(2).integers(2, 6, (28, 1))
mask = (np.arange(5) < lengths).astype("int32")
test.x = {"token_ids": ids * mask, "segment_ids": 0 * ids, "padding_mask": mask}

def albert():
    keras.utils.set_random_seed(3)
    encoder = kt.models.albert_encoder(
        vocabulary_size=11, num_layers=1, num_heads=2, hidden_dim=6, embedding_dim=3,
        intermediate_dim=5, dropout=0.3, attention_dropout=0.2, initializer_range=0.3,
    )
    model = kt.models.sequence_classifier(encoder, num_classes=3, dropout=0.3)
    settings = kt.training.lamb(kt.training.LinearWarmup(0.05, 3, 30)).get_config()
    averages = {"use_ema": True, "ema_momentum": 0.5, "ema_overwrite_frequency": 3}
    optimizer = Lamb.from_config(settings | averages)
    arguments = kt.training.compile_arguments("sequence_classifier")
    model.compile(optimizer, jit_compile=False, **arguments)
    return kt.training.accumulate_gradients(model, 2)

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

def kill_while_writing(path, model, *rest):
    model.save_weights(path)
    os.truncate(path, os.path.getsize(path) // 2)
    kill()

resume = kt.training.ResumeFromCheckpoint(sys.argv[2], every_steps=2)
model, callbacks = albert(), [resume]
if sys.argv[3] == "killed":
    stop = random.randrange(20)
    print("killed after step", stop, flush=True)
    callbacks.append(test.Stop(*divmod(stop, 4), kill))
if sys.argv[3] == "killed while it writes":
    room.write_state = kill_while_writing
resumed = test.fit_batches(model, "shuffled", *callbacks)
test.assert_equal(resumed, test.fit_batches(albert(), "shuffled"))
"""


@needs_tensorflow
@pytest.mark.slow
def test_killed_at_any_moment_ends_bit_by_bit_as_an_uninterrupted_one(tmp_path):
    """An ALBERT with dropout, under LAMB with averaged weights, in micro-batches."""

    def run(how):
        folder = pathlib.Path(__file__).parent
        return subprocess.run(
            [sys.executable, "-c", SCRIPT, folder, tmp_path, how],
            timeout=300,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )

    for how in "killed", "killed while it writes":
        killed = run(how)
        assert killed.returncode == -signal.SIGKILL, killed.stdout + killed.stderr
    assert (tmp_path / "unfinished.weights.h5").exists()
    resumed = run("resumed")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr


@pytest.mark.parametrize(
    "arguments", [{"every_epochs": 0}, {"keep": 0}, {"every_steps": 0}]
)
def test_numbers_below_one_are_refused(tmp_path, arguments):
    with pytest.raises(ValueError, match="Received .*=0. Expected"):
        ResumeFromCheckpoint(tmp_path, **arguments)
