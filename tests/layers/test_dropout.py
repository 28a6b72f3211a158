import keras
import numpy as np
import pytest
from keras import ops

from keras_tformer.layers import Dropout


# An even last axis is drawn two values at a time.
@pytest.mark.parametrize("width", [307, 314])
def test_drops_its_share_and_keeps_the_sum(width):
    x = np.full((211, width), 3.0, "float32")
    y = ops.convert_to_numpy(Dropout(0.3, seed=5)(x, training=True))
    assert abs((y == 0).mean() - 0.3) < 0.01  # six standard deviations
    # The probability is a multiple of 2^-16 where two values are drawn at a time.
    np.testing.assert_allclose(y[y != 0], 3 / 0.7, rtol=2e-5)
    assert abs(y.mean() - 3) < 0.05


def test_values_drawn_together_are_independent():
    y = Dropout(0.3, seed=5)(np.ones((211, 314), "float32"), training=True)
    is_kept = ops.convert_to_numpy(y) > 0
    first, second = is_kept[:, ::2], is_kept[:, 1::2]
    # Six standard deviations of the correlation of two independent variables.
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 6 / first.size**0.5
    for half in (first, second):
        assert abs(half.mean() - 0.7) < 0.016  # six standard deviations


@pytest.mark.parametrize("width", [307, 314])
def test_the_smallest_and_the_largest_rate(width):
    x = np.ones((211, width), "float32")
    y = ops.convert_to_numpy(Dropout(1e-7, seed=5)(x, training=True))
    np.testing.assert_allclose(y[y != 0], 1, rtol=2e-5)
    assert (y == 0).mean() < 2e-4
    y = ops.convert_to_numpy(Dropout(1 - 1e-7, seed=5)(x, training=True))
    assert np.isfinite(y).all() and (y > 0).mean() < 2e-4


@pytest.mark.parametrize("width", [11, 12])
def test_a_seed_repeats_a_sequence_of_masks_and_calls_differ(width):
    x = np.ones((7, width), "float32")
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


@pytest.mark.parametrize("width", [307, 314])
def test_half_precision_keeps_its_dtype_and_share(width):
    layer = Dropout(0.1, seed=5, dtype="mixed_float16")
    y = layer(np.ones((211, width), "float16"), training=True)
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


@pytest.mark.parametrize("width", [11, 12])
def test_the_gradient_is_the_mask(width):
    tf = pytest.importorskip("tensorflow", reason="takes gradients with TensorFlow")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("takes gradients with TensorFlow")
    x = np.linspace(1, 2, 7 * width, dtype="float32").reshape(7, width)
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = Dropout(0.5, seed=5)(x, training=True)
    np.testing.assert_allclose(tape.gradient(y, x), y / x, rtol=1e-6)


def test_any_axis_may_be_unknown_while_a_graph_is_traced():
    tf = pytest.importorskip("tensorflow", reason="traces a TensorFlow graph")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("traces a TensorFlow graph")
    layer = Dropout(0.5, seed=5)
    for shape in ((None, 12), (7, None), (None, None)):
        call = tf.function(
            lambda x: layer(x, training=True),
            input_signature=[tf.TensorSpec(shape, "float32")],
        )
        assert set(call(np.ones((7, 12), "float32")).numpy().ravel()) == {0, 2}
