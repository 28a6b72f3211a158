"""TF-MOT on an equal tf_keras model computes the same masks and the same rounding."""

import os

import keras
import numpy as np
import pytest

import keras_tformer as kt
from keras_tformer.compress.activation_quantizer import ActivationQuantizer
from keras_tformer.compress.weight_quantizer import WeightQuantizer

if keras.backend.backend() != "tensorflow":
    pytest.skip("TF-MOT runs on TensorFlow", allow_module_level=True)
pytest.importorskip(
    "tensorflow_model_optimization", reason="needs the extra [compress]"
)
import tensorflow as tf  # noqa: E402


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    # Importing TF-MOT sets it; the tests after this one must not see it.
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "0")
    monkeypatch.delenv("TF_USE_LEGACY_KERAS")


KERNEL = np.random.default_rng(7).normal(size=(24, 32)).astype("float32")


def masks_of_both(schedule, step, **arguments):
    """The mask at one step for the same kernel: (TF-MOT's, ours)."""
    import tf_keras
    from tensorflow_model_optimization.sparsity import keras as sparsity

    twin = sparsity.prune_low_magnitude(
        tf_keras.Sequential([tf_keras.layers.Dense(32, input_shape=(24,))]),
        pruning_schedule=schedule,
        **arguments,
    ).layers[0]
    weight, mask, _ = twin.pruning_vars[0]
    weight.assign(KERNEL)
    twin.pruning_step.assign(step)
    twin.pruning_obj.conditional_mask_update()

    x = keras.Input((24,))
    layer = keras.layers.Dense(32, name="dense")
    model = keras.Model(x, layer(x))
    kt.compress.prune_low_magnitude(model, schedule, layers=["dense"], **arguments)
    layer.kernel.assign(KERNEL)
    layer.kernel.constraint.step.assign(step - 1)
    layer.kernel.assign(layer.kernel.constraint(layer.kernel))
    ours = layer.kernel.constraint.mask.numpy()
    np.testing.assert_array_equal(layer.kernel.numpy(), KERNEL * ours)
    return mask.numpy().astype(bool), ours


@pytest.mark.parametrize("step", [1, 4, 5, 10, 15, 20, 25])
def test_masks_along_a_polynomial_schedule(step):
    schedule = kt.compress.PolynomialDecay(0.1, 0.83, 5, 20, frequency=5)
    theirs, ours = masks_of_both(schedule, step)
    np.testing.assert_array_equal(ours, theirs)
    assert ours.all() == (step not in (5, 10, 15, 20))


@pytest.mark.parametrize("pooling", ["AVG", "MAX"])
@pytest.mark.parametrize("block", [(1, 16), (4, 1), (8, 2)], ids=str)
def test_masks_of_blocks(block, pooling):
    schedule = kt.compress.ConstantSparsity(0.7, begin_step=2, frequency=1)
    theirs, ours = masks_of_both(
        schedule, 3, block_size=block, block_pooling_type=pooling
    )
    np.testing.assert_array_equal(ours, theirs)
    num_blocks = KERNEL.size // (block[0] * block[1])
    assert ours.sum() == round(num_blocks * 0.3) * block[0] * block[1]


@pytest.mark.parametrize("m_by_n", [(2, 4), (1, 4), (5, 8)], ids=str)
def test_masks_of_m_by_n(m_by_n):
    schedule = kt.compress.ConstantSparsity(0.5, begin_step=7)
    for step, is_pruned in ((1, True), (7, False)):
        theirs, ours = masks_of_both(schedule, step, sparsity_m_by_n=m_by_n)
        np.testing.assert_array_equal(ours, theirs)
        assert ours.all() != is_pruned


def test_ties_and_zeros():
    global KERNEL
    before, schedule = KERNEL, kt.compress.ConstantSparsity(0.5, 0, frequency=1)
    try:
        KERNEL = np.round(before)  # many equal magnitudes
        theirs, ours = masks_of_both(schedule, 1)
        np.testing.assert_array_equal(ours, theirs)
        KERNEL = np.zeros_like(before)
        theirs, ours = masks_of_both(schedule, 1)
        np.testing.assert_array_equal(ours, theirs)
    finally:
        KERNEL = before


def value_and_gradient(function, x, upstream):
    x = tf.Variable(x)
    with tf.GradientTape() as tape:
        y = function(x)
        total = tf.reduce_sum(y * upstream)
    return np.asarray(y), np.asarray(tape.gradient(total, x))


@pytest.mark.parametrize("num_bits", [4, 8])
@pytest.mark.parametrize("per_channel", [True, False])
def test_rounding_of_weights(num_bits, per_channel):
    from tensorflow_model_optimization.python.core.quantization.keras import quant_ops

    upstream = np.random.default_rng(8).normal(size=KERNEL.shape).astype("float32")
    ranges = [tf.Variable(tf.zeros([32] if per_channel else [])) for _ in range(2)]
    theirs = value_and_gradient(
        lambda w: quant_ops.LastValueQuantize(
            w,
            *ranges,
            per_channel=per_channel,
            symmetric=True,
            narrow_range=True,
            num_bits=num_bits,
        ),
        KERNEL,
        upstream,
    )
    layer = WeightQuantizer(keras.layers.Dense(32), num_bits, per_channel)
    layer.build((None, 24))
    layer.layer.kernel.assign(KERNEL)
    with tf.GradientTape() as tape:
        y = layer.quantized(layer.layer.kernel, training=True)
        total = tf.reduce_sum(y * upstream)
    gradient = tape.gradient(total, layer.layer.kernel.value)
    np.testing.assert_allclose(y, theirs[0], atol=1e-6)
    np.testing.assert_array_equal(gradient, theirs[1])
    assert len(np.unique(np.asarray(y)[:, 0])) <= 2**num_bits - 1


@pytest.mark.parametrize("symmetric", [True, False])
def test_rounding_of_activations(symmetric):
    from tensorflow_model_optimization.python.core.quantization.keras import quant_ops

    ranges = [tf.Variable(-6.0), tf.Variable(6.0)]
    layer = ActivationQuantizer(symmetric=symmetric, range_decay=0.9)
    layer.build((None, 5))
    layer.num_batches.assign(1000.0)  # past the running mean of the first batches
    for seed in range(3):
        random = np.random.default_rng(seed)
        x = (random.normal(size=(13, 5)) * 5 + 1).astype("float32")
        upstream = random.normal(size=x.shape).astype("float32")
        theirs = value_and_gradient(
            lambda x: quant_ops.MovingAvgQuantize(
                x, *ranges, ema_decay=0.9, symmetric=symmetric
            ),
            x,
            upstream,
        )
        ours = value_and_gradient(lambda x: layer(x, training=True), x, upstream)
        np.testing.assert_allclose(ours[0], theirs[0], atol=1e-6)
        np.testing.assert_array_equal(ours[1], theirs[1])
        assert (ours[1] == 0).any()  # clipped values get no gradient
    np.testing.assert_allclose(layer.range_min.numpy(), ranges[0].numpy(), rtol=1e-6)
    np.testing.assert_allclose(layer.range_max.numpy(), ranges[1].numpy(), rtol=1e-6)


def test_schedules_leave_the_environment_alone(monkeypatch):
    for value in (None, "0"):
        if value is not None:
            monkeypatch.setenv("TF_USE_LEGACY_KERAS", value)
        assert kt.compress.PolynomialDecay(0, 0.5, 0, 10, frequency=5).end_step == 10
        assert os.environ.get("TF_USE_LEGACY_KERAS") == value
    with pytest.raises(AttributeError):
        kt.compress.ExponentialDecay  # noqa: B018


def test_a_schedule_that_stops_early_warns():
    x = keras.Input((3,))
    model = keras.Model(x, keras.layers.Dense(5, name="dense")(x))
    schedule = kt.compress.PolynomialDecay(0, 0.5, 0, 10, frequency=4)
    with pytest.warns(UserWarning, match="last at step 8"):
        kt.compress.prune_low_magnitude(model, schedule, layers=["dense"])
