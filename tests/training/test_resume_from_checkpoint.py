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


def test_a_finished_run_is_loaded_and_not_trained_again(tmp_path):
    expected = fit(make_model(), ResumeFromCheckpoint(tmp_path))
    model = make_model()
    assert_equal(fit(model, ResumeFromCheckpoint(tmp_path)), expected)
    assert int(model.optimizer.iterations) == 20
    # and the model is free for another training
    fit(model, epochs=1)
    assert int(model.optimizer.iterations) == 24


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


@pytest.mark.slow
def test_under_two_replicas(tmp_path, mirrored_strategy):
    def make():
        with mirrored_strategy.scope():
            return make_model(run_eagerly=False)

    # Keras wants the first batch to divide evenly among the replicas.
    expected = fit(make(), batch_size=4)
    with pytest.raises(KeyboardInterrupt):
        stop = Stop(3, 2, interrupt)
        fit(make(), ResumeFromCheckpoint(tmp_path), stop, batch_size=4)
    resumed = fit(make(), ResumeFromCheckpoint(tmp_path), batch_size=4)
    for ours, theirs in zip(resumed, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-7)


@pytest.mark.slow
def test_killed_process_ends_as_an_uninterrupted_one(tmp_path):
    expected = fit(make_model(run_eagerly=False))
    script = (
        "import sys, os, signal; sys.path.insert(0, sys.argv[1])\n"
        "from test_resume_from_checkpoint import *\n"
        "kill = Stop(3, 2, lambda: os.kill(os.getpid(), signal.SIGKILL))\n"
        "fit(make_model(run_eagerly=False), ResumeFromCheckpoint(sys.argv[2]), kill)\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", script, str(pathlib.Path(__file__).parent), tmp_path],
        timeout=300,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    resume = ResumeFromCheckpoint(tmp_path)
    assert resume.finished_epochs == 3
    for ours, theirs in zip(
        fit(make_model(run_eagerly=False), resume), expected, strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-7)


@pytest.mark.parametrize("arguments", [{"every_epochs": 0}, {"keep": 0}])
def test_numbers_below_one_are_refused(tmp_path, arguments):
    with pytest.raises(ValueError, match="Received .*=0. Expected"):
        ResumeFromCheckpoint(tmp_path, **arguments)
