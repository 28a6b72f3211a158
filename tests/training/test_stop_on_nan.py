"""The batch that is saved is the one in which the loss stopped being a number."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_tformer as kt

ROWS = 13


def poisoned_dataset(bad_row, repeats=None):
    """One row a batch: its number, and a NaN in one of them."""
    rows = np.arange(ROWS, dtype="float32")
    labels = np.where(rows == bad_row, np.nan, 0.0).astype("float32")
    inputs = {"a": rows[:, None], "b": np.ones((ROWS, 2), "float32")}
    dataset = tf.data.Dataset.from_tensor_slices((inputs, labels))
    return dataset.repeat(repeats).batch(1).prefetch(3) if repeats else dataset.batch(1)


def model():
    inputs = {"a": keras.Input((1,), name="a"), "b": keras.Input((2,), name="b")}
    joined = keras.layers.Concatenate()([inputs["a"], inputs["b"]])
    model = keras.Model(inputs, keras.layers.Dense(1)(joined))
    model.compile(keras.optimizers.SGD(0.0), "mse")
    return model


def saved(folder, dataset, **arguments):
    stop = kt.training.StopOnNaN(folder)
    with pytest.raises(FloatingPointError, match="The loss is nan") as error:
        model().fit(stop.watch(dataset), verbose=0, callbacks=[stop], **arguments)
    assert str(stop.saved_batch) in str(error.value)
    assert str(stop.saved_batch_before) in str(error.value)
    return stop.saved_batch, stop.saved_batch_before


def test_in_the_first_epoch(tmp_path):
    file, before = saved(tmp_path / "new", poisoned_dataset(7))
    assert file.name == "nan-epoch-00001-step-00008.npz"
    inputs, labels = kt.training.StopOnNaN.load_batch(file)
    assert inputs["a"].tolist() == [[7.0]] and inputs["b"].shape == (1, 2)
    assert np.isnan(labels).all()
    inputs, _ = kt.training.StopOnNaN.load_batch(before)
    assert inputs["a"].tolist() == [[6.0]]
    assert {p.name for p in (tmp_path / "new").iterdir()} == {file.name, before.name}


@pytest.mark.parametrize("steps_per_execution", [1, 2])
def test_in_a_later_epoch_of_a_repeated_dataset(tmp_path, steps_per_execution):
    # Epochs of 4 steps: rows 0-3, 4-7, 8-11. Row 9 is the second step of the third.
    stop = kt.training.StopOnNaN(tmp_path)
    network = model()
    network.compile(
        keras.optimizers.SGD(0.0), "mse", steps_per_execution=steps_per_execution
    )
    with pytest.raises(FloatingPointError, match="epoch 3, step 2"):
        network.fit(
            stop.watch(poisoned_dataset(9, repeats=2)),
            epochs=5,
            steps_per_epoch=4,
            verbose=0,
            callbacks=[stop],
        )
    inputs, _ = kt.training.StopOnNaN.load_batch(stop.saved_batch)
    assert inputs["a"].tolist() == [[9.0]]


def test_in_the_second_pass(tmp_path):
    """The dataset goes bad only when it is read for the second time."""
    passes = []

    def rows():
        passes.append(1)
        for number in range(5):
            is_bad = len(passes) >= 4 and number == 3
            yield {"a": [number], "b": [1, 1]}, np.nan if is_bad else 0.0

    spec = (
        {"a": tf.TensorSpec((1,)), "b": tf.TensorSpec((2,))},
        tf.TensorSpec(()),
    )
    dataset = tf.data.Dataset.from_generator(rows, output_signature=spec).batch(1)
    file, _ = saved(tmp_path, dataset, epochs=9)
    inputs, _ = kt.training.StopOnNaN.load_batch(file)
    assert inputs["a"].tolist() == [[3.0]]
    assert file.name.endswith("step-00004.npz")


def test_without_watch_it_says_how_to_have_the_batch(tmp_path):
    stop = kt.training.StopOnNaN(tmp_path)
    with pytest.raises(FloatingPointError, match="epoch 1, step 3; give .* `watch`"):
        model().fit(poisoned_dataset(2), verbose=0, callbacks=[stop])
    assert not list(tmp_path.iterdir())


def test_a_good_run_is_left_alone(tmp_path):
    stop = kt.training.StopOnNaN(tmp_path, remembered_batches=2)
    dataset = stop.watch(poisoned_dataset(-1))
    assert dataset.element_spec == poisoned_dataset(-1).element_spec
    model().fit(dataset, epochs=2, verbose=0, callbacks=[stop])
    with pytest.raises(ValueError, match="remembered_batches=0"):
        kt.training.StopOnNaN(tmp_path, remembered_batches=0)


def test_after_a_resume(tmp_path):
    """Row 9 is the second step of the third epoch; the first two are passed over."""

    def fit(bad_row, epochs):
        stop = kt.training.StopOnNaN(tmp_path / "bad")
        resume = kt.training.ResumeFromCheckpoint(tmp_path / "checkpoints")
        callbacks = [resume, stop]
        try:
            model().fit(
                stop.watch(poisoned_dataset(bad_row, repeats=2)),
                epochs=epochs,
                steps_per_epoch=4,
                verbose=0,
                callbacks=callbacks,
            )
        except FloatingPointError as error:
            return stop, str(error)

    assert fit(bad_row=-1, epochs=2) is None
    stop, message = fit(bad_row=9, epochs=5)
    assert "epoch 3, step 2" in message
    inputs, _ = kt.training.StopOnNaN.load_batch(stop.saved_batch)
    assert inputs["a"].tolist() == [[9.0]]


class SpoiltGradient(keras.layers.Layer):
    """Adds a little; where the input is 5, the gradient is NaN."""

    def call(self, inputs):
        return inputs + 0.1 * keras.ops.sqrt(keras.ops.abs(inputs - 5.0))


def spoilt_model():
    """Row 5 has a finite loss and a gradient that is none."""
    inputs = {"a": keras.Input((1,), name="a"), "b": keras.Input((2,), name="b")}
    scaled = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")
    model = keras.Model(inputs, SpoiltGradient()(scaled(inputs["a"])))
    model.compile(keras.optimizers.SGD(0.0), "mse")
    return model


@pytest.mark.parametrize("is_stop_first", [True, False])
@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_a_spoilt_state_is_never_saved(tmp_path, capsys, kind, is_stop_first):
    stop = kt.training.StopOnNaN(tmp_path / "bad")
    folder = tmp_path / "checkpoints"
    resume = kt.training.ResumeFromCheckpoint(folder, every_steps=2)
    network = spoilt_model() if kind == "gradient" else model()
    with pytest.raises(FloatingPointError, match="epoch 1, step"):
        network.fit(
            stop.watch(poisoned_dataset(5 if kind == "loss" else -1)),
            verbose=0,
            callbacks=[stop, resume] if is_stop_first else [resume, stop],
        )
    # The sixth step spoils the weights; with a finite loss, only the next one shows it.
    inputs, _ = kt.training.StopOnNaN.load_batch(
        stop.saved_batch if kind == "loss" else stop.saved_batch_before
    )
    assert inputs["a"].tolist() == [[5.0]]
    assert (resume.finished_epochs, resume.finished_steps) == (0, 4)
    is_told = kind == "gradient" or not is_stop_first
    assert ("this state is not saved" in capsys.readouterr().out) == is_told


def test_weights_that_the_last_step_of_an_epoch_spoils(tmp_path):
    stop = kt.training.StopOnNaN(tmp_path / "bad")
    resume = kt.training.ResumeFromCheckpoint(tmp_path / "checkpoints")
    with pytest.raises(FloatingPointError, match="kernel is not finite.*step 6; "):
        spoilt_model().fit(
            stop.watch(poisoned_dataset(-1).take(6)),
            verbose=0,
            callbacks=[stop, resume],
        )
    inputs, _ = kt.training.StopOnNaN.load_batch(stop.saved_batch)
    assert inputs["a"].tolist() == [[5.0]]
    assert resume.finished_epochs == 0


def test_under_two_replicas_that_read_ahead(tmp_path, mirrored_strategy):
    stop = kt.training.StopOnNaN(tmp_path)
    with mirrored_strategy.scope():
        network = model()
    rows = poisoned_dataset(9, repeats=1).unbatch().batch(2)
    with pytest.raises(FloatingPointError, match="epoch 1, step 5"):
        network.fit(stop.watch(rows), verbose=0, callbacks=[stop])
    for file, first in ((stop.saved_batch, 8.0), (stop.saved_batch_before, 6.0)):
        inputs, _ = kt.training.StopOnNaN.load_batch(file)
        assert inputs["a"].tolist() == [[first], [first + 1]]
