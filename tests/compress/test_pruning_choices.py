"""Pruning by one threshold, by movement, and with the zeros that are there."""

import keras
import numpy as np
import pytest

import keras_tformer as kt
from keras_tformer.compress import (
    PruningSummaries,
    prune_by_movement,
    prune_low_magnitude,
    quantize_model,
    sparsity,
    strip_pruning,
)

if keras.backend.backend() != "tensorflow":
    pytest.skip("pruning needs the TensorFlow backend", allow_module_level=True)

INPUTS = np.random.default_rng(5).normal(size=(48, 17)).astype("float32")
TARGETS = INPUTS[:, :3] * 2
NUM_FIRST, NUM_SECOND = 17 * 23, 23 * 19


def every_step(share):
    return lambda step: (step > 0, share)


def perceptron():
    x = inputs = keras.Input((17,))
    x = keras.layers.Dense(23, activation="relu", name="first")(x)
    x = keras.layers.Dense(19, activation="relu", name="second")(x)
    return keras.Model(inputs, keras.layers.Dense(3, name="classifier")(x))


def kernels(model):
    return [model.get_layer(name).kernel.numpy() for name in ("first", "second")]


def train(model, optimizer=None, epochs=1, **arguments):
    model.compile(optimizer or keras.optimizers.Adam(0.01), "mse", **arguments)
    options = {"batch_size": 8, "verbose": 0, "shuffle": False}
    model.fit(INPUTS, TARGETS, epochs=epochs, **options)


@pytest.mark.parametrize(
    "jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)]
)
def test_one_threshold_for_all(jit_compile):
    model = perceptron()
    second = model.get_layer("second").kernel
    second.assign(second / 3)
    prune_low_magnitude(model, every_step(0.7), global_threshold=True)
    # No update: what lives is what is largest of all.
    train(model, keras.optimizers.SGD(0.0), jit_compile=jit_compile)
    before = np.concatenate([x.ravel() for x in kernels(perceptron_like(model))])
    threshold = np.sort(np.abs(before))[::-1][round(0.3 * before.size) - 1]
    masks = np.concatenate([x.ravel() != 0 for x in kernels(model)])
    np.testing.assert_array_equal(masks, np.abs(before) >= threshold)
    train(model, jit_compile=jit_compile)
    zeros = [int((x == 0).sum()) for x in kernels(strip_pruning(model))]
    total = NUM_FIRST + NUM_SECOND
    assert sum(zeros) == total - round(0.3 * total)
    assert zeros[0] < 0.65 * NUM_FIRST and zeros[1] > 0.75 * NUM_SECOND


def perceptron_like(model):
    """The model as the same seed initialized it, before it was pruned."""
    keras.utils.set_random_seed(20)
    twin = perceptron()
    twin.get_layer("second").kernel.assign(twin.get_layer("second").kernel / 3)
    return twin


@pytest.mark.slow
def test_one_threshold_on_two_replicas_and_of_blocks(mirrored_strategy):
    with mirrored_strategy.scope():
        model = perceptron()
        prune_low_magnitude(model, every_step(0.7), global_threshold=True)
        train(model)
    total = NUM_FIRST + NUM_SECOND
    zeros = sum(int((x == 0).sum()) for x in kernels(model))
    assert zeros == total - round(0.3 * total)
    model = perceptron()
    prune_low_magnitude(
        model,
        every_step(0.5),
        block_size=(1, 23),
        layers=["first"],
        global_threshold=True,
    )
    train(model)
    assert sorted((kernels(model)[0] == 0).mean(axis=1)) == [0] * 8 + [1] * 9


def test_zeros_that_are_there_stay(tmp_path):
    pretrained = prune_low_magnitude(perceptron(), every_step(0.7), layers=["first"])
    train(pretrained)
    pretrained.save_weights(tmp_path / "pruned.weights.h5")
    model = perceptron()
    model.load_weights(tmp_path / "pruned.weights.h5")
    before = kernels(model)
    prune_low_magnitude(model, None)
    constrained = [w.path for w in model.weights if w.constraint is not None]
    assert constrained == ["first/kernel"]
    train(model, epochs=3)
    after = kernels(strip_pruning(model))
    np.testing.assert_array_equal(after[0] == 0, before[0] == 0)
    assert np.abs(after[0] - before[0]).max() > 1e-3 and after[1].all()
    with pytest.raises(ValueError, match="have none. Load the pruned weights first"):
        prune_low_magnitude(perceptron(), None)
    perceptron().save_weights(tmp_path / "plain.weights.h5")
    with pytest.raises(ValueError, match="load it first, then prune"):
        prune_low_magnitude(model, None).load_weights(tmp_path / "plain.weights.h5")


def reference(steps, share, rate):
    """Movement pruning with plain SGD, in NumPy: one kernel, mean squared error."""
    weight = np.random.default_rng(1).normal(size=(17, 3)).astype("float32")
    scores, mask = np.zeros_like(weight), np.ones_like(weight)
    for step in range(steps):
        x, y = INPUTS[step * 8 : step * 8 + 8], TARGETS[step * 8 : step * 8 + 8]
        gradient = 2 * x.T @ (x @ (weight * mask) - y) / y.size
        scores -= rate * weight * gradient
        weight -= rate * gradient * mask
        order = np.sort(scores.ravel())[::-1]
        mask = scores >= order[round(weight.size * (1 - share)) - 1]
    return weight * mask, mask


def test_movement_is_what_the_paper_computes():
    model = keras.Sequential(
        [keras.Input((17,)), keras.layers.Dense(3, use_bias=False, name="only")]
    )
    kernel = model.get_layer("only").kernel
    kernel.assign(np.random.default_rng(1).normal(size=(17, 3)))
    prune_by_movement(model, every_step(0.6), layers=["only"])
    train(model, keras.optimizers.SGD(0.05))
    expected, mask = reference(6, 0.6, 0.05)
    np.testing.assert_allclose(kernel.numpy(), expected, atol=1e-6)
    values = np.random.default_rng(1).normal(size=(17, 3))
    by_magnitude = np.abs(values) >= np.sort(np.abs(values).ravel())[-20]
    assert (by_magnitude != mask).any()
    strip_pruning(model)
    assert int((kernel.numpy() == 0).sum()) == 51 - 20


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [{}, {"jit_compile": True}], ids=str)
def test_movement_with_adam_learns_and_resumes(arguments, tmp_path):
    def start():
        keras.utils.set_random_seed(3)
        model = prune_by_movement(perceptron(), every_step(0.7))
        model.compile(keras.optimizers.Adam(0.01), "mse", **arguments)
        return model

    options = {"batch_size": 8, "verbose": 0, "shuffle": False}
    straight = start()
    losses = straight.fit(INPUTS, TARGETS, epochs=6, **options).history["loss"]
    assert losses[-1] < 0.7 * losses[0]
    zeros = [int((x == 0).sum()) for x in kernels(straight)]
    assert zeros == [n - round(0.3 * n) for n in (NUM_FIRST, NUM_SECOND)]
    first = start()
    first.fit(INPUTS, TARGETS, epochs=3, **options)
    first.save_weights(tmp_path / "first.weights.h5")
    resumed = start()
    resumed.optimizer.build(resumed.trainable_weights)
    resumed.load_weights(tmp_path / "first.weights.h5")
    resumed.fit(INPUTS, TARGETS, epochs=3, **options)
    for a, b in zip(straight.weights, resumed.weights, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-5)


@pytest.mark.slow
def test_movement_on_two_replicas(mirrored_strategy):
    with mirrored_strategy.scope():
        model = prune_by_movement(perceptron(), every_step(0.7))
        train(model)
    kernel = model.get_layer("first").kernel.value
    first, second = mirrored_strategy.experimental_local_results(kernel)
    np.testing.assert_array_equal(first.numpy(), second.numpy())
    assert int((first.numpy() == 0).sum()) == NUM_FIRST - round(0.3 * NUM_FIRST)


def test_tensorboard_shows_every_layer(tmp_path):
    import tensorflow as tf

    model = prune_low_magnitude(perceptron(), every_step(0.7))
    model.compile("adam", "mse")
    callback = PruningSummaries(tmp_path)
    history = model.fit(INPUTS, TARGETS, epochs=2, verbose=0, callbacks=[callback])
    written = {}
    for file in tmp_path.iterdir():
        for event in tf.compat.v1.train.summary_iterator(str(file)):
            for value in event.summary.value:
                written.setdefault(value.tag, []).append(
                    (event.step, value.simple_value)
                )
    shares = sparsity(model)
    assert set(written) == {"sparsity"} | {f"sparsity/{path}" for path in shares}
    for path, share in shares.items():
        assert [step for step, _ in written[f"sparsity/{path}"]] == [0, 1]
        assert written[f"sparsity/{path}"][-1][1] == pytest.approx(share)
    total = NUM_FIRST + NUM_SECOND + 19 * 3
    zeros = sum(int((x == 0).sum()) for x in kernels(model))
    assert history.history["sparsity"][-1] == pytest.approx(zeros / total)


def test_refusals():
    model = perceptron()
    with pytest.raises(ValueError, match="Choose one: sparsity_m_by_n leaves"):
        prune_low_magnitude(
            model, every_step(0.5), sparsity_m_by_n=(2, 4), global_threshold=True
        )
    model.get_layer("first").trainable = False
    with pytest.raises(ValueError, match="frozen"):
        prune_low_magnitude(model, every_step(0.5), layers=["first"])
    pruned = prune_by_movement(perceptron(), every_step(0.5))
    with pytest.raises(ValueError, match="pruned already"):
        prune_by_movement(pruned, every_step(0.5))
    with pytest.raises(ValueError, match="strip_pruning"):
        quantize_model(pruned)


def test_a_schedule_that_ends_after_training_is_refused():
    schedule = kt.compress.PolynomialDecay(0.0, 0.5, 0, 10, frequency=5)
    for prune in (prune_low_magnitude, prune_by_movement):
        with pytest.raises(ValueError, match="ends at step 10.*training has 6 steps"):
            prune(perceptron(), schedule, total_steps=6)
        with pytest.raises(ValueError, match="whole number >= 1, not 0"):
            prune(perceptron(), schedule, total_steps=0)
        model = prune(perceptron(), schedule, total_steps=12)
        train(model)  # 6 steps
        with pytest.raises(ValueError, match="trained for 6 steps.*ends at step 10"):
            strip_pruning(model)
        unfinished = strip_pruning(model, allows_unfinished=True)
        # At step 5 of 10 the cubic schedule asks for 0.5 - 0.5 * 0.5**3.
        zeros = [int((x == 0).sum()) for x in kernels(unfinished)]
        assert zeros == [n - round(n * 0.5625) for n in (NUM_FIRST, NUM_SECOND)]
        model = prune(perceptron(), schedule)
        train(model)
        train(model)  # and on, past the end of the schedule
        zeros = [int((x == 0).sum()) for x in kernels(strip_pruning(model))]
        assert zeros == [n - round(n * 0.5) for n in (NUM_FIRST, NUM_SECOND)]
