import contextlib

import keras
import numpy as np
import pytest

from keras_tformer.compress import quantize_model
from keras_tformer.distribute import get_strategy
from keras_tformer.training import (
    Distiller,
    MaskedCrossentropy,
    SoftTargetDistillation,
    accumulate_gradients,
    adamw,
)

if keras.backend.backend() != "tensorflow":
    pytest.skip("micro-batches need the TensorFlow backend", allow_module_level=True)

# Rows that count one position and rows that count all, in no order.
random = np.random.default_rng(5)
x = random.normal(size=(32 + 30, 7, 3)).astype("float32")
y = random.integers(0, 5, (62, 7)).astype("int32")
weights = (np.arange(7) < random.integers(1, 8, (62, 1))).astype("float32")


def keras_loss(reduction):
    return keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, reduction=reduction
    )


def trained(micro_batches, loss, scope=None, **arguments):
    """One batch of 32 rows and one of 30, with a penalty and clipping."""
    keras.utils.set_random_seed(3)
    with scope or contextlib.nullcontext():
        inputs = keras.Input((7, 3))
        hidden = keras.layers.Dense(4, "tanh", kernel_regularizer="l2")(inputs)
        model = keras.Model(inputs, keras.layers.Dense(5)(hidden))
        model.compile(
            adamw(0.05, epsilon=1e-3), loss, weighted_metrics=["accuracy"], **arguments
        )
        accumulate_gradients(model, micro_batches)
    history = model.fit(
        x, y, sample_weight=weights, batch_size=32, shuffle=False, verbose=0
    ).history
    assert int(model.optimizer.iterations.numpy()) == 2
    return model.get_weights(), history


def assert_equal(ours, theirs):
    keras.tree.map_structure(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        ours,
        theirs,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "loss",
    [
        MaskedCrossentropy(),
        keras_loss("sum_over_batch_size"),
        keras_loss("mean_with_sample_weight"),
        keras_loss("sum"),
    ],
    ids=["ours", "mean", "weighted", "sum"],
)
def test_four_times_eight_equals_thirty_two(loss):
    assert_equal(trained(4, loss), trained(1, loss))


@pytest.mark.slow
def test_under_xla_and_on_two_replicas():
    import tensorflow as tf

    strategy = get_strategy(
        "mirrored",
        devices=["CPU:0", "CPU:1"],
        cross_device_ops=tf.distribute.ReductionToOneDevice(),
    )
    get_strategy("one_device")  # to compare with, beside it
    expected = trained(1, MaskedCrossentropy())
    assert_equal(trained(4, MaskedCrossentropy(), jit_compile=True), expected)
    assert_equal(trained(2, MaskedCrossentropy(), strategy.scope()), expected)


def test_a_loss_that_is_one_number_is_refused():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile("sgd", lambda a, b: keras.ops.mean(b), run_eagerly=True)
    with pytest.raises(ValueError, match="one number already"):
        accumulate_gradients(model, 2).fit(np.ones((4, 3)), np.ones((4, 2)), verbose=0)


def test_what_cannot_be_divided_is_refused():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="micro_batches=0"):
        accumulate_gradients(model, 0)

    class Own(keras.Model):
        def train_step(self, data):
            return {}

    with pytest.raises(ValueError, match="training step of its own"):
        accumulate_gradients(Own(), 2)


def test_one_part_is_keras_own_step():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    accumulate_gradients(accumulate_gradients(model, 3), 1)
    assert "train_step" not in vars(model)


def perceptron(*more):
    inputs = keras.Input((3,))
    hidden = keras.layers.Dense(4, "tanh", kernel_regularizer="l2")(inputs)
    for layer in more:
        hidden = layer(hidden)
    return keras.Model(inputs, keras.layers.Dense(2)(hidden))


def history(model, micro_batches, rows, loss, **labels):
    """Two epochs of one batch, its history."""
    model.compile("sgd", loss)
    accumulate_gradients(model, micro_batches)
    data = {"x": x[:rows, 0], "batch_size": rows, "epochs": 2, "verbose": 0}
    return model.fit(**data, **labels).history


@pytest.mark.parametrize("rows", [16, 11])
def test_what_a_distiller_and_several_outputs_log_is_of_the_whole_batch(rows):
    labels = (y[:rows, 0] % 2)[:, None]

    def distilled(micro_batches):
        keras.utils.set_random_seed(3)
        losses = [SoftTargetDistillation(2.0)]
        distiller = Distiller(perceptron(), perceptron(), losses)
        return history(distiller, micro_batches, rows, keras_loss("sum"), y=labels)

    assert set(distilled(1)) == {"loss", "student_loss", "soft_targets"}
    assert_equal(distilled(4), distilled(1))

    def of_two_outputs(micro_batches):
        keras.utils.set_random_seed(3)
        model = perceptron()
        outputs = {"a": model.output, "b": 2 * model.output}
        model = keras.Model(model.input, outputs)
        losses = {"a": keras_loss("sum"), "b": keras_loss("sum_over_batch_size")}
        targets = {"a": labels, "b": labels}
        return history(model, micro_batches, rows, losses, y=targets)

    assert set(of_two_outputs(1)) == {"loss", "a_loss", "b_loss"}
    assert_equal(of_two_outputs(4), of_two_outputs(1))


def test_quantization_counts_batches():
    model = quantize_model(perceptron(), start_step=2, freeze_step=5)
    history(model, 4, 16, "mse", y=x[:16, 1, :2])
    steps = [float(v) for v in model.variables if v.path.endswith("/step")]
    assert len(steps) > 2 and set(steps) == {2.0}


def test_fewer_rows_than_parts():
    def trained(micro_batches, *more):
        keras.utils.set_random_seed(3)
        model = perceptron(*more)
        history(model, micro_batches, 3, "mse", y=x[:3, 1, :2])
        return model.get_weights()

    assert_equal(trained(4), trained(1))
    # What looks at other rows sees at least one, and no NaN comes out.
    for weight in trained(4, keras.layers.BatchNormalization()):
        assert np.isfinite(weight).all()
