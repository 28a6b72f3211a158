import json
import sys

import keras
import numpy as np
import pytest

tf = pytest.importorskip("tensorflow", reason="tf.distribute needs TensorFlow")
if keras.backend.backend() != "tensorflow":
    pytest.skip("tf.distribute needs the TensorFlow backend", allow_module_level=True)

from keras_tformer.distribute import (  # noqa: E402
    get_distribution,
    get_strategy,
)

# The package has the function under the name of its module.
module = sys.modules["keras_tformer.distribute.get_strategy"]


@pytest.fixture(autouse=True)
def bare_machine(monkeypatch):
    for name in ("TF_CONFIG", "TPU_NAME", "COLAB_TPU_ADDR"):
        monkeypatch.delenv(name, raising=False)


def two_gpus(monkeypatch):
    """Lets the choice see two GPUs; nothing is placed on them."""
    there = tf.config.list_logical_devices
    gpus = [tf.config.LogicalDevice(f"/device:GPU:{i}", "GPU") for i in range(2)]
    monkeypatch.setattr(
        tf.config,
        "list_logical_devices",
        lambda kind=None: gpus if kind == "GPU" else there(kind) + gpus * (not kind),
    )


def record(monkeypatch, name):
    """Replaces a strategy class by one that only notes its arguments."""
    made = []
    monkeypatch.setattr(
        tf.distribute, name, lambda *a, **k: made.append((a, k)) or "strategy"
    )
    return made


def cluster(index=1):
    workers = {"cluster": {"worker": ["localhost:1", "localhost:2", "localhost:3"]}}
    return json.dumps({**workers, "task": {"type": "worker", "index": index}})


def test_auto_on_a_machine_with_nothing_is_the_default(capsys):
    assert get_strategy() is tf.distribute.get_strategy()
    assert capsys.readouterr().out == (
        "one_device: TensorFlow's default device, because no GPU or TPU is visible\n"
    )


def test_auto_with_several_gpus_is_mirrored(monkeypatch, capsys):
    two_gpus(monkeypatch)
    made = record(monkeypatch, "MirroredStrategy")
    assert get_strategy() == "strategy"
    assert made == [((["GPU:0", "GPU:1"], None), {})]
    assert capsys.readouterr().out == (
        "mirrored: 2 replicas on GPU:0, GPU:1, because 2 GPUs are visible\n"
    )


def test_auto_reads_tf_config_before_anything_else(monkeypatch, capsys):
    two_gpus(monkeypatch)
    monkeypatch.setenv("TF_CONFIG", cluster())
    made, met = record(monkeypatch, "MultiWorkerMirroredStrategy"), []
    monkeypatch.setattr(module, "meet_workers", lambda *a: met.append(a))
    assert get_strategy(timeout_seconds=7) == "strategy"
    assert met == [([f"localhost:{port}" for port in (1, 2, 3)], 1, 7)]
    [(_, arguments)] = made
    assert arguments["communication_options"].timeout_seconds == 7
    assert capsys.readouterr().out == (
        "multi_worker: worker 1 of 3, because TF_CONFIG names 3 workers\n"
    )


def test_a_cluster_of_one_is_one_device(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {"worker": ["localhost:1"]}}')
    assert get_strategy() is tf.distribute.get_strategy()


def test_auto_with_named_devices_mirrors_over_them(capsys):
    operations = tf.distribute.ReductionToOneDevice()
    strategy = get_strategy(devices=["CPU:0", "cpu:1"], cross_device_ops=operations)
    assert strategy.num_replicas_in_sync == 2
    assert "CPU:0, CPU:1, because devices names 2" in capsys.readouterr().out


def test_one_named_device():
    strategy = get_strategy("one_device", devices=["CPU:1"])
    with strategy.scope():
        variable = tf.Variable(1.0)
    assert variable.device.endswith("CPU:1")


@pytest.mark.parametrize(
    "options", [{}, {"steps_per_execution": 2}, {"jit_compile": True}]
)
def test_one_device_fits_like_no_strategy_at_all(options):
    x, y = np.ones((12, 3), "float32"), np.ones((12, 2), "float32")

    def fit(scope):
        keras.utils.set_random_seed(1)
        with scope:
            model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
            model.compile("adam", "mse", **options)
        return model.fit(x, y, batch_size=3, verbose=0).history["loss"], model

    import contextlib

    with_strategy, model = fit(get_strategy("one_device").scope())
    assert with_strategy == fit(contextlib.nullcontext())[0]
    # so that nothing in Keras takes its slower distributed path
    assert not tf.distribute.has_strategy()
    assert model.distribute_strategy is tf.distribute.get_strategy()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"name": "horovod"}, "name='horovod'.*one_device"),
        ({"name": "mirrored", "devices": ["GPU:7"]}, "devices=.*CPU:1.*Leave devices"),
        ({"name": "mirrored", "devices": ["CPU:0", "CPU:0"]}, "Expected different"),
        ({"name": "one_device", "devices": ["CPU:0", "CPU:1"]}, "Expected one device"),
    ],
)
def test_impossible_requests_say_what_to_do(arguments, message):
    with pytest.raises(ValueError, match=f"(?s)Received .*{message}"):
        get_strategy(**arguments)


@pytest.mark.parametrize(
    "text",
    [
        "worker:0",
        "[1, 2]",
        '{"cluster": {"worker": "localhost:1"}}',
        '{"cluster": {"worker": [1, 2]}}',
        '{"cluster": {"worker": ["without-a-port"]}}',
        cluster(index=3),
        cluster(index="first"),
    ],
)
def test_malformed_tf_config_says_what_it_should_look_like(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match="Received TF_CONFIG.*lists the workers"):
        get_strategy()


def test_a_tpu_that_is_not_there(monkeypatch):
    monkeypatch.setenv("TPU_NAME", "grpc://localhost:1")
    resolver = tf.distribute.cluster_resolver

    def refuse(tpu):
        raise ValueError(f"cannot find {tpu}")

    monkeypatch.setattr(resolver, "TPUClusterResolver", refuse)
    with pytest.raises(ValueError, match="tpu='grpc://localhost:1'.*does not answer"):
        get_strategy()


def test_another_backend_is_pointed_to_get_distribution(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match="jax backend.*get_distribution"):
        get_strategy()


def test_get_distribution_points_back():
    with pytest.raises(ValueError, match="tensorflow backend.*get_strategy"):
        get_distribution()
    with pytest.raises(ValueError, match="name='pipeline'"):
        get_distribution("pipeline")
