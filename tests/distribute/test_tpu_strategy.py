"""How a TPU is looked up; the TPU is a stand-in that notes what is asked of it."""

import keras
import pytest

tf = pytest.importorskip("tensorflow", reason="tf.distribute needs TensorFlow")
if keras.backend.backend() != "tensorflow":
    pytest.skip("tf.distribute needs the TensorFlow backend", allow_module_level=True)

from keras_tformer.distribute import get_strategy  # noqa: E402


class Strategy:
    num_replicas_in_sync = 8


@pytest.fixture
def asked(monkeypatch):
    """What TensorFlow is asked, in order."""
    for name in ("TF_CONFIG", "TPU_NAME", "COLAB_TPU_ADDR"):
        monkeypatch.delenv(name, raising=False)
    calls = []

    def note(owner, name, result):
        def noted(*arguments, **options):
            calls.append((name, *arguments, *options.values()))
            return result

        monkeypatch.setattr(owner, name, noted)

    note(tf.distribute.cluster_resolver, "TPUClusterResolver", "resolver")
    note(tf.config, "experimental_connect_to_cluster", None)
    note(tf.tpu.experimental, "initialize_tpu_system", None)
    note(tf.distribute, "TPUStrategy", Strategy())
    return calls


def test_it_is_connected_and_initialized_before_the_strategy(asked, capsys):
    assert get_strategy("tpu").num_replicas_in_sync == 8
    assert asked == [
        ("TPUClusterResolver", "local"),
        ("experimental_connect_to_cluster", "resolver"),
        ("initialize_tpu_system", "resolver"),
        ("TPUStrategy", "resolver"),
    ]
    assert capsys.readouterr().out == "tpu: 8 TPU cores, because it was asked for\n"


@pytest.mark.parametrize(
    "environment, tpu, expected",
    [
        ({}, "my-tpu", "my-tpu"),
        ({"TPU_NAME": "other"}, "my-tpu", "my-tpu"),
        ({"TPU_NAME": "local"}, None, "local"),
        ({"COLAB_TPU_ADDR": "10.1.2.3:8470"}, None, "grpc://10.1.2.3:8470"),
        ({"TPU_NAME": "grpc://10.1.2.3:8470"}, None, "grpc://10.1.2.3:8470"),
    ],
)
def test_where_it_is_looked_for(asked, monkeypatch, environment, tpu, expected):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    get_strategy(tpu=tpu)
    assert asked[0] == ("TPUClusterResolver", expected)


def test_named_devices_or_a_cluster_come_before_it(asked, monkeypatch):
    monkeypatch.setenv("TPU_NAME", "my-tpu")
    assert get_strategy(devices=["CPU:0"]).num_replicas_in_sync == 1
    assert asked == []


@pytest.mark.parametrize("step", ["TPUClusterResolver", "initialize_tpu_system"])
def test_each_failure_says_what_to_install_or_use(asked, monkeypatch, step):
    error = tf.errors.NotFoundError(None, None, "TPUs not found in the cluster")

    def fail(*arguments, **options):
        raise error

    owner = tf.distribute.cluster_resolver
    if step == "initialize_tpu_system":
        owner = tf.tpu.experimental
    monkeypatch.setattr(owner, step, fail)
    with pytest.raises(ValueError, match="(?s)does not answer.*tensorflow-tpu.*JAX"):
        get_strategy("tpu", tpu="my-tpu")


def test_without_any_tpu_here():
    # The real TensorFlow of a machine without a TPU.
    with pytest.raises(ValueError, match="(?s)tpu='local'.*does not answer"):
        get_strategy("tpu")
