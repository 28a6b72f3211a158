"""Several replicas against one device, on the same batches."""

import contextlib
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from language_model import PREDICTIONS, fit, language_model

import keras_tformer as kt
from keras_tformer.distribute.training_checks import expect_models_under

tf = pytest.importorskip("tensorflow", reason="tf.distribute needs TensorFlow")
if keras.backend.backend() != "tensorflow":
    pytest.skip("tf.distribute needs the TensorFlow backend", allow_module_level=True)

VOCABULARY, LENGTH, BATCH, ROWS = 23, 7, 8, 56
random = np.random.default_rng(0)
x = random.integers(0, VOCABULARY, (ROWS, LENGTH)).astype("int32")
y = random.integers(0, VOCABULARY, (ROWS, LENGTH)).astype("int32")
shares = random.permutation(np.linspace(0.05, 0.95, ROWS))
weights = (random.random((ROWS, LENGTH)) < shares[:, None]).astype("float32")


@pytest.fixture(scope="module")
def strategy():
    strategy = kt.distribute.get_strategy(
        "mirrored",
        devices=["CPU:0", "CPU:1"],
        cross_device_ops=tf.distribute.ReductionToOneDevice(),
    )
    kt.distribute.get_strategy("one_device")  # to compare with, beside it
    return strategy


def tagger(is_one_hot, mask_zero=False):
    """A table looked up, or the same as a product, whose gradient is dense."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((LENGTH,), dtype="int32")
    if is_one_hot:
        hidden = keras.ops.one_hot(inputs, VOCABULARY)
        hidden = keras.layers.Dense(5, use_bias=False)(hidden)
    else:
        hidden = keras.layers.Embedding(VOCABULARY, 5, mask_zero=mask_zero)(inputs)
    hidden = keras.layers.Dense(11, activation="tanh")(hidden)
    model = keras.Model(inputs, keras.layers.Dense(VOCABULARY)(hidden))
    values = np.random.default_rng(1)
    model.set_weights([values.normal(size=w.shape) for w in model.weights])
    return model


def crossentropy(reduction="sum_over_batch_size"):
    return keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, reduction=reduction
    )


def scalar(y_true, y_pred):
    return keras.ops.mean(
        keras.losses.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)
    )


class RowsPerClass(keras.metrics.Metric):
    """A metric as users write them: the largest count of a label."""

    def __init__(self):
        super().__init__(name="own")
        self.counts = self.add_variable((VOCABULARY,), "zeros", name="counts")

    def update_state(self, y_true, y_pred, sample_weight=None):
        labels = keras.ops.one_hot(keras.ops.cast(y_true, "int32"), VOCABULARY)
        self.counts.assign_add(keras.ops.sum(labels, axis=(0, 1)))

    def result(self):
        return keras.ops.max(self.counts)


def sgd(**arguments):
    return keras.optimizers.SGD(0.5, **arguments)


def adam(**arguments):
    return keras.optimizers.AdamW(0.01, epsilon=1e-4, **arguments)


# name: (optimizer, loss, what else `compile` takes)
FEATURES = {
    "rows of an embedding": (adam, crossentropy, {}),
    "clipnorm": (lambda: adam(clipnorm=0.01), crossentropy, {}),
    "global_clipnorm": (lambda: sgd(global_clipnorm=0.02), crossentropy, {}),
    "clipvalue": (lambda: sgd(clipvalue=0.002), crossentropy, {}),
    "accumulation": (
        lambda: adam(gradient_accumulation_steps=3, clipnorm=0.01),
        crossentropy,
        {},
    ),
    "averages": (
        lambda: adam(use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=3),
        crossentropy,
        {},
    ),
    "scaled loss": (
        lambda: keras.optimizers.LossScaleOptimizer(adam(), initial_scale=64.0),
        crossentropy,
        {},
    ),
    "steps_per_execution": (adam, crossentropy, {"steps_per_execution": 3}),
    "jit_compile": (adam, crossentropy, {"jit_compile": True}),
    "weights in the mean": (
        sgd,
        lambda: crossentropy("mean_with_sample_weight"),
        {"steps_per_execution": 2, "jit_compile": True},
    ),
    "scalar loss": (sgd, lambda: scalar, {}),
    "eagerly": (sgd, crossentropy, {"run_eagerly": True}),
}


def trained(scope, model, feature, rows, weighted=True):
    """Weights, history, evaluation of one row too many and predictions of three."""
    optimizer, loss, arguments = FEATURES[feature]
    with scope:
        model = model()
        metrics = ["accuracy", RowsPerClass()]
        model.compile(optimizer(), loss(), weighted_metrics=metrics, **arguments)
    given = {"sample_weight": weights[:rows]} if weighted else {}
    history = model.fit(
        x[:rows], y[:rows], **given, batch_size=BATCH, shuffle=False, verbose=0
    ).history
    # One row too many, which one replica gets; a scalar loss does not say of how many.
    few = BATCH + 1 if weighted else BATCH
    given = {"sample_weight": weights[:few]} if weighted else {}
    evaluated = model.evaluate(x[:few], y[:few], **given, batch_size=BATCH, verbose=0)
    logits = model.predict(x[:3], verbose=0)
    return model.get_weights(), history, evaluated, logits


def assert_equal(ours, theirs):
    keras.tree.map_structure(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
        ours,
        theirs,
    )


@pytest.mark.slow
@pytest.mark.parametrize("feature", FEATURES)
def test_two_replicas_train_as_one_device(strategy, feature):
    # The last batch has 5 rows; not for a scalar.
    rows = ROWS if feature == "scalar loss" else ROWS - 3
    weighted = feature != "scalar loss"
    one = trained(
        contextlib.nullcontext(), lambda: tagger(True), feature, rows, weighted
    )
    two = trained(strategy.scope(), lambda: tagger(False), feature, rows, weighted)
    assert_equal(two, one)
    before = tagger(True).get_weights()
    moved = max(np.abs(a - b).max() for a, b in zip(before, one[0], strict=True))
    assert moved > 1e-3


@pytest.mark.slow
def test_implicit_masks_count_over_the_whole_batch(strategy):
    masked = x * (np.arange(LENGTH) < 1 + np.arange(ROWS)[:, None] % LENGTH)
    assert (masked[:4] == 0).sum() > (masked[4:8] == 0).sum()

    def fit_masked(scope):
        with scope:
            model = tagger(False, mask_zero=True)
            model.compile(sgd(), crossentropy(), jit_compile=True)
        model.fit(masked, y, batch_size=BATCH, shuffle=False, verbose=0)
        return model.get_weights()

    assert_equal(fit_masked(strategy.scope()), fit_masked(contextlib.nullcontext()))


def test_dropout_differs_between_replicas_and_is_repeated_by_its_seed(strategy):
    def masks():
        with strategy.scope():
            layer = kt.layers.Dropout(0.5, seed=7)
            layer.build((3, 41))
        run = tf.function(
            lambda: strategy.run(lambda: layer(tf.ones((3, 41)), training=True))
        )
        return [
            mask.numpy()
            for _ in range(2)
            for mask in strategy.experimental_local_results(run())
        ]

    drawn = masks()
    for index, mask in enumerate(drawn):
        assert 0.3 < (mask == 0).mean() < 0.7
        for other in drawn[:index]:
            assert (mask != other).mean() > 0.3
    np.testing.assert_array_equal(drawn, masks())
    alone = kt.layers.Dropout(0.5, seed=7)
    np.testing.assert_array_equal(alone(tf.ones((3, 41)), training=True), drawn[0])


@pytest.mark.slow
def test_infinity_on_one_replica_skips_the_step_of_all(strategy):
    with strategy.scope():
        model = tagger(False)
        optimizer = keras.optimizers.LossScaleOptimizer(adam(), initial_scale=64.0)
        model.compile(optimizer, crossentropy())
    spoilt = np.ones((BATCH, LENGTH), "float32")
    spoilt[-1, 0] = np.inf  # a row of the second replica
    before = model.get_weights()
    model.fit(x[:8], y[:8], sample_weight=spoilt, batch_size=8, verbose=0)
    for ours, theirs in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert float(optimizer.dynamic_scale.numpy()) == 32.0


@pytest.mark.slow
def test_pruned_and_quantized_models_stay_in_step(strategy):
    def trained(scope, change):
        with scope:
            model = change(language_model())
            model.compile(
                kt.training.adamw(1e-2, epsilon=1e-3),
                **kt.training.compile_arguments("masked_lm"),
            )
        fit(model, 6)
        return model

    schedule = kt.compress.ConstantSparsity(0.5, begin_step=2, frequency=2)
    ours, theirs = (
        trained(scope, lambda m: kt.compress.prune_low_magnitude(m, schedule))
        for scope in (strategy.scope(), contextlib.nullcontext())
    )
    assert_equal(ours.get_weights(), theirs.get_weights())
    shares = kt.compress.sparsity(ours)
    assert max(shares.values()) > 0.4
    lengths = dict.fromkeys(("token_ids", "segment_ids", "padding_mask"), LENGTH)
    lengths["mask_positions"] = PREDICTIONS
    quantized = trained(
        strategy.scope(),
        lambda m: kt.compress.quantize_model(m, sequence_length=lengths),
    )
    for variable in [*ours.variables, *quantized.weights]:
        first, second = strategy.experimental_local_results(variable.value)
        np.testing.assert_array_equal(first.numpy(), second.numpy())


@pytest.mark.slow
def test_mixed_precision_trains(strategy):
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        losses = []
        for scope in (strategy.scope(), contextlib.nullcontext()):
            with scope:
                model = language_model()
            losses.append(fit(model).history["loss"][0])
    finally:
        keras.config.set_dtype_policy(policy)
    assert losses[0] == pytest.approx(losses[1], abs=0.01)  # 8 bits of mantissa


@pytest.mark.slow
def test_a_model_from_outside_of_the_scope(strategy):
    inner = tagger(False)
    with strategy.scope():
        model = keras.Sequential([keras.Input((LENGTH,)), inner])
        model.compile("adam", crossentropy())
    with pytest.raises(ValueError, match="was made outside of"):
        model.fit(x[:8], y[:8], batch_size=8, verbose=0)
    inner.compile("adam", crossentropy())
    expect_models_under(strategy)
    with pytest.raises(ValueError, match="one device would train one of its own"):
        inner.fit(x[:8], y[:8], batch_size=8, verbose=0)
    kt.distribute.get_strategy("one_device")
    inner.fit(x[:8], y[:8], batch_size=8, verbose=0)


@pytest.mark.slow
def test_a_batch_smaller_than_the_replicas(strategy):
    with strategy.scope():
        model = tagger(False)
        model.compile("adam", crossentropy())
    with pytest.raises(ValueError, match="rows for fewer than the 2 replicas"):
        model.fit(x[:4], y[:4], batch_size=1, verbose=0)
    assert np.isfinite(model.evaluate(x[:1], y[:1], verbose=0))


FOUR_REPLICAS = """
import sys
import numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration()] * 4
)
import keras_tformer as kt
from language_model import fit, language_model
strategy = kt.distribute.get_strategy("auto", devices=[f"CPU:{i}" for i in range(4)])
with strategy.scope():
    model = language_model(steps_per_execution=3)
history = fit(model).history
np.savez(sys.argv[1], *model.get_weights(), loss=history["loss"])
"""


@pytest.mark.slow
def test_language_model_on_two_and_four_replicas(strategy, tmp_path):
    """TensorFlow's own sums over replicas (collectives) with four, in a process."""
    here = str(pathlib.Path(__file__).parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([here, *sys.path])}
    file = tmp_path / "four.npz"
    process = subprocess.run(
        [sys.executable, "-c", FOUR_REPLICAS, file],
        env=environment,
        timeout=500,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    one = language_model()
    start = one.get_weights()
    loss = fit(one).history["loss"]
    with strategy.scope():
        two = language_model()
    assert_equal(fit(two).history["loss"], loss)
    assert_equal(two.get_weights(), one.get_weights())
    with np.load(file) as four:
        assert_equal(list(four["loss"]), loss)
        for index, weight in enumerate(one.get_weights()):
            np.testing.assert_allclose(four[f"arr_{index}"], weight, atol=1e-5)
    moved = [np.abs(a - b).max() for a, b in zip(start, one.get_weights(), strict=True)]
    assert max(moved) > 0.02
