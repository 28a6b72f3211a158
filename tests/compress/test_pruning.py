"""Pruning: exact sparsity in every way to train, saved, resumed, stripped, refused."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_tformer as kt
from keras_tformer.compress import prune_low_magnitude, sparsity, strip_pruning

if keras.backend.backend() != "tensorflow":
    pytest.skip("pruning needs the TensorFlow backend", allow_module_level=True)

INPUTS = np.random.default_rng(5).normal(size=(48, 17)).astype("float32")
TARGETS = INPUTS[:, :3] * 2


class Cubic:
    """A schedule as TF-MOT's are: (prune now?, sparsity) of a step."""

    def __init__(self, final_sparsity, end_step, frequency=1):
        self.final, self.end, self.frequency = final_sparsity, end_step, frequency

    def __call__(self, step):
        import tensorflow as tf

        share = tf.cast(step, tf.float32) / self.end
        now = (step % self.frequency == 0) & (step <= self.end)
        return now, self.final * (1 - (1 - tf.minimum(share, 1.0)) ** 3)


def perceptron():
    x = inputs = keras.Input((17,))
    x = keras.layers.Dense(23, activation="relu", name="first")(x)
    x = keras.layers.LayerNormalization(name="norm")(x)
    x = keras.layers.Dense(19, activation="relu", name="second")(x)
    return keras.Model(inputs, keras.layers.Dense(3, name="classifier")(x))


def train(model, epochs=1, optimizer=None, **arguments):
    model.compile(optimizer or keras.optimizers.Adam(0.01), "mse", **arguments)
    model.fit(INPUTS, TARGETS, batch_size=8, epochs=epochs, verbose=0, shuffle=False)


def zeros(model):
    return {path: round(share, 4) for path, share in sparsity(model).items()}


EXPECTED = {  # zeros = n - round(0.3 n)
    "first/kernel": round(1 - round(17 * 23 * 0.3) / (17 * 23), 4),
    "second/kernel": round(1 - round(23 * 19 * 0.3) / (23 * 19), 4),
    "classifier/kernel": 0.0,
}


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        pytest.param({"jit_compile": True}, marks=pytest.mark.slow),
        pytest.param({"steps_per_execution": 3}, marks=pytest.mark.slow),
        {"run_eagerly": True},
    ],
    ids=str,
)
def test_sparsity_is_exact(arguments):
    model = prune_low_magnitude(perceptron(), Cubic(0.7, 4))
    train(model, **arguments)
    assert zeros(model) == EXPECTED
    assert zeros(strip_pruning(model)) == EXPECTED


@pytest.mark.slow
def test_sparsity_is_exact_on_two_replicas(mirrored_strategy):
    with mirrored_strategy.scope():
        model = prune_low_magnitude(perceptron(), Cubic(0.7, 4))
        model.compile("adam", "mse")
    model.fit(INPUTS, TARGETS, batch_size=8, verbose=0)
    assert zeros(model) == EXPECTED
    kernel = model.get_layer("first").kernel.value
    first, second = mirrored_strategy.experimental_local_results(kernel)
    np.testing.assert_array_equal(first.numpy(), second.numpy())
    assert [int(step.numpy()) for step in model.pruning_state.steps] == [6, 6]


@pytest.mark.parametrize(
    "options",
    [
        {"gradient_accumulation_steps": 2, "use_ema": True, "weight_decay": 0.1},
        pytest.param({"gradient_accumulation_steps": 2}, marks=pytest.mark.slow),
        pytest.param({"use_ema": True}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_optimizers_keep_the_zeros(options):
    model = prune_low_magnitude(perceptron(), Cubic(0.7, 4))
    train(model, optimizer=keras.optimizers.AdamW(0.01, **options))
    assert zeros(strip_pruning(model)) == EXPECTED


@pytest.mark.slow
def test_mixed_precision():
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = prune_low_magnitude(perceptron(), Cubic(0.7, 4))
        train(model)
    finally:
        keras.config.set_dtype_policy(policy)
    assert zeros(model) == EXPECTED


@pytest.mark.slow
def test_pruning_starts_in_a_model_that_has_trained():
    model = perceptron()
    train(model)
    prune_low_magnitude(model, Cubic(0.7, 4))
    model.fit(INPUTS, TARGETS, batch_size=8, verbose=0)  # no new compile
    assert zeros(model) == EXPECTED


def test_blocks_and_m_by_n():
    model = perceptron()
    prune_low_magnitude(model, Cubic(0.5, 4), block_size=(17, 1), layers=["first"])
    train(model)
    kernel = strip_pruning(model).get_layer("first").kernel.numpy()
    assert sorted((kernel == 0).mean(axis=0)) == [0] * 12 + [1] * 11
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(5)])
    prune_low_magnitude(
        model, Cubic(0.5, 4), sparsity_m_by_n=(2, 4), layers=[keras.layers.Dense]
    )
    model.compile("adam", "mse")
    model.fit(INPUTS[:, :8], INPUTS[:, :5], batch_size=8, verbose=0)
    kernel = strip_pruning(model).layers[0].kernel.numpy()
    assert ((kernel.reshape(2, 4, 5) == 0).sum(axis=1) == 2).all()


def encoder():
    return kt.models.albert_encoder(
        vocabulary_size=37,
        num_layers=2,
        num_heads=2,
        hidden_dim=22,
        intermediate_dim=29,
        embedding_dim=11,
        max_sequence_length=13,
    )


def test_choice_of_layers():
    model = kt.models.sequence_classifier(encoder(), num_classes=3)

    def pruned(**choice):
        prune_low_magnitude(model, Cubic(0.7, 4), **choice)
        paths = [w.path for w in model.weights if w.constraint is not None]
        strip_pruning(model)
        return paths

    default = pruned()
    assert all(path.endswith(("kernel", "embeddings")) for path in default)
    assert len(default) == 11 and not any("classifier" in path for path in default)
    assert any("pooler" in path for path in default)
    assert all("feed_forward" in path for path in pruned(layers=["feed_forward"]))
    assert pruned(layers=["classifier"]) == ["classifier/kernel"]
    by_type = pruned(layers=[kt.layers.TokenEmbedding])
    assert by_type == ["token_embedding/embeddings"]
    by_function = pruned(layers=lambda layer: layer.name == "query")
    assert len(by_function) == 1 and "query" in by_function[0]


@pytest.mark.slow
def test_a_killed_training_goes_on_as_if_nothing_happened(tmp_path):
    def start():
        keras.utils.set_random_seed(3)
        model = prune_low_magnitude(perceptron(), Cubic(0.7, 12, frequency=4))
        model.compile(keras.optimizers.Adam(0.01), "mse")
        return model

    straight = start()
    train_on = {"batch_size": 8, "verbose": 0, "shuffle": False}
    straight.fit(INPUTS, TARGETS, epochs=2, **train_on)
    first = start()
    backup = keras.callbacks.BackupAndRestore(tmp_path, delete_checkpoint=False)
    first.fit(INPUTS, TARGETS, epochs=1, callbacks=[backup], **train_on)
    resumed = start()
    backup = keras.callbacks.BackupAndRestore(tmp_path)
    resumed.fit(INPUTS, TARGETS, epochs=2, callbacks=[backup], **train_on)
    assert [int(step.numpy()) for step in resumed.pruning_state.steps] == [12, 12]
    for a, b in zip(straight.weights, resumed.weights, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-6)
    assert zeros(strip_pruning(resumed)) == EXPECTED


def test_files(tmp_path):
    model = prune_low_magnitude(perceptron(), Cubic(0.7, 4))
    train(model)
    num_weights = len(perceptron().weights)
    assert len(model.weights) == num_weights
    # Checkpoints of a model that is still pruned load into the plain model ...
    model.save(tmp_path / "pruned.keras")
    model.save_weights(tmp_path / "pruned.weights.h5")
    plain = keras.models.load_model(tmp_path / "pruned.keras")
    assert zeros(plain) == EXPECTED and len(plain.weights) == num_weights
    fresh = perceptron()
    fresh.load_weights(tmp_path / "pruned.weights.h5")
    assert zeros(fresh) == EXPECTED
    # ... and weights of a plain model into one that is about to be pruned.
    fresh.save_weights(tmp_path / "plain.weights.h5")
    again = prune_low_magnitude(perceptron(), Cubic(0.7, 4))
    again.load_weights(tmp_path / "plain.weights.h5")
    assert zeros(again) == EXPECTED


@pytest.mark.slow
def test_stripped_file_loads_without_this_package(tmp_path):
    model = prune_low_magnitude(perceptron(), Cubic(0.7, 4))
    train(model)
    strip_pruning(model).save(tmp_path / "stripped.keras")
    script = (
        "import keras, sys; m = keras.models.load_model(sys.argv[1]);"
        "assert 'keras_tformer' not in sys.modules;"
        "assert all(w.constraint is None for w in m.weights);"
        "print(float((m.get_layer('first').kernel.numpy() == 0).mean()))"
    )
    output = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "stripped.keras")],
        capture_output=True,
        text=True,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        check=True,
    ).stdout
    assert round(float(output), 4) == EXPECTED["first/kernel"]


def test_constraint_of_the_user_stays():
    layer = keras.layers.Dense(5, kernel_constraint=keras.constraints.NonNeg())
    model = keras.Sequential([keras.Input((17,)), layer, keras.layers.Dense(3)])
    prune_low_magnitude(model, Cubic(0.4, 4))
    train(model)
    assert layer.kernel.numpy().min() >= 0
    strip_pruning(model)
    assert isinstance(layer.kernel.constraint, keras.constraints.NonNeg)


def test_refusals():
    schedule = Cubic(0.7, 4)
    model = perceptron()
    with pytest.raises(ValueError, match="not pruned"):
        strip_pruning(model)
    with pytest.raises(ValueError, match="no layer 'frist'.*first"):
        prune_low_magnitude(model, schedule, layers=["frist"])
    with pytest.raises(ValueError, match="no layer of type Conv2D"):
        prune_low_magnitude(model, schedule, layers=[keras.layers.Conv2D])
    with pytest.raises(ValueError, match="holds no kernel"):
        prune_low_magnitude(model, schedule, layers=["norm"])
    with pytest.raises(ValueError, match="does not divide 'first/kernel'"):
        prune_low_magnitude(model, schedule, block_size=(4, 1))
    with pytest.raises(ValueError, match="does not divide the 17 inputs"):
        prune_low_magnitude(model, schedule, sparsity_m_by_n=(2, 4))
    with pytest.raises(ValueError, match="m is smaller"):
        prune_low_magnitude(model, schedule, sparsity_m_by_n=(4, 2))
    with pytest.raises(ValueError, match="pair of positive"):
        prune_low_magnitude(model, schedule, block_size=4)
    with pytest.raises(ValueError, match="'AVG' or 'MAX'"):
        prune_low_magnitude(model, schedule, block_pooling_type="SUM")
    with pytest.raises(ValueError, match="schedule object"):
        prune_low_magnitude(model, 0.5)
    with pytest.raises(ValueError, match="returns \\(prune now"):
        prune_low_magnitude(model, lambda step: 0.5)
    with pytest.raises(ValueError, match="sparsity of 50"):
        prune_low_magnitude(model, lambda step: (True, 50))
    with pytest.raises(ValueError, match="no weights yet"):
        prune_low_magnitude(keras.Sequential([keras.layers.Dense(3)]), schedule)
    model.compile(keras.optimizers.Adam(use_ema=True), "mse")
    with pytest.raises(ValueError, match="use_ema"):
        prune_low_magnitude(model, schedule)
    assert all(weight.constraint is None for weight in model.weights)
    pruned = prune_low_magnitude(perceptron(), schedule)
    with pytest.raises(ValueError, match="pruned already"):
        prune_low_magnitude(pruned, schedule)
