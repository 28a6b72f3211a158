import keras
import numpy as np
import pytest
from keras import ops

from keras_tformer.layers import Dropout


def test_drops_its_share_and_keeps_the_sum():
    x = np.full((211, 307), 3.0, "float32")
    y = ops.convert_to_numpy(Dropout(0.3, seed=5)(x, training=True))
    assert abs((y == 0).mean() - 0.3) < 0.01  # six standard deviations
    np.testing.assert_allclose(y[y != 0], 3 / 0.7, rtol=1e-6)
    assert abs(y.mean() - 3) < 0.05


def test_a_seed_repeats_a_sequence_of_masks_and_calls_differ():
    x = np.ones((7, 11), "float32")
    first, second = Dropout(0.5, seed=5), Dropout(0.5, seed=5)
    masks = [ops.convert_to_numpy(first(x, training=True)) for _ in range(2)]
    np.testing.assert_array_equal(masks[0], second(x, training=True))
    assert not np.array_equal(*masks)


def test_its_generator_counts_as_that_of_keras():
    x = np.ones((7, 11), "float32")
    for layer in (Dropout(0.5, seed=5), keras.layers.Dropout(0.5, seed=5)):
        for _ in range(3):
            layer(x, training=True)
        state = ops.convert_to_numpy(layer.seed_generator.state)
        np.testing.assert_array_equal(state, [5, 3])
        assert len(layer.variables) == 1


def test_half_precision_keeps_its_dtype_and_share():
    layer = Dropout(0.1, seed=5, dtype="mixed_float16")
    y = layer(np.ones((211, 307), "float16"), training=True)
    assert keras.backend.standardize_dtype(y.dtype) == "float16"
    assert abs((ops.convert_to_numpy(y) == 0).mean() - 0.1) < 0.01


def test_does_nothing_outside_of_training():
    x = np.arange(5.0, dtype="float32")
    np.testing.assert_array_equal(Dropout(0.5)(x), x)
    np.testing.assert_array_equal(Dropout(0.5)(x, training=False), x)
    np.testing.assert_array_equal(Dropout(0.0)(x, training=True), x)


@pytest.mark.parametrize("arguments", [(1.0,), (0.5, (3, 1))])
def test_what_it_does_not_compute_is_refused(arguments):
    rate, noise_shape = (*arguments, None)[:2]
    with pytest.raises(ValueError, match=r"keras\.layers\.Dropout"):
        Dropout(rate, noise_shape=noise_shape)


def test_the_gradient_is_the_mask():
    tf = pytest.importorskip("tensorflow", reason="takes gradients with TensorFlow")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("takes gradients with TensorFlow")
    x = tf.constant(np.linspace(1, 2, 77, dtype="float32").reshape(7, 11))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = Dropout(0.5, seed=5)(x, training=True)
    np.testing.assert_allclose(tape.gradient(y, x), y / x, rtol=1e-6)
