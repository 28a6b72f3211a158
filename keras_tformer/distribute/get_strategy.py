"""Which devices a TensorFlow model trains on."""

import json
import os

import keras

from keras_tformer.distribute.dropout_repair import repair_dropout
from keras_tformer.distribute.loss_repair import repair_losses
from keras_tformer.distribute.meet_workers import meet_workers
from keras_tformer.distribute.optimizer_repair import repair_optimizers
from keras_tformer.distribute.trainer_repair import repair_trainer
from keras_tformer.distribute.training_checks import expect_models_under

NAMES = ("auto", "one_device", "mirrored", "multi_worker", "tpu")


def get_strategy(
    name="auto", devices=None, cross_device_ops=None, tpu=None, timeout_seconds=600
):
    """Chooses the `tf.distribute` strategy to build and compile a model under.

    Prints one line that says what was chosen and why. `"auto"` takes the first that
    fits:

    1. `TF_CONFIG` names a cluster of several workers: `"multi_worker"`;
    2. a TPU is given, by `tpu`, `TPU_NAME` or `COLAB_TPU_ADDR`: `"tpu"`;
    3. several GPUs are visible: `"mirrored"`;
    4. otherwise `"one_device"`: TensorFlow's default strategy, under which `fit` runs
       as it does without any; with `devices`, the device named there.

    A process bears one mirrored strategy: make it once and keep it. `"multi_worker"`
    has to be chosen before TensorFlow's first operation.

    With a strategy of several replicas, Keras' trainer, losses, optimizers and random
    numbers are repaired where its TensorFlow backend is wrong under one
    (`keras_tformer/distribute/README.md`). The repairs act only inside of such a
    strategy; a model on one device runs Keras' own code.

    Args:
        name: str, one of `"auto"`, `"one_device"`, `"mirrored"`, `"multi_worker"`,
            `"tpu"`.
        devices: list of str such as `["GPU:0", "GPU:1"]`, or None for all that are
            visible. For `"auto"`, `"one_device"` (one of them) and `"mirrored"`.
        cross_device_ops: `tf.distribute.CrossDeviceOps` for `"mirrored"`, or None for
            TensorFlow's choice.
        tpu: str, name or address of the TPU, or None to read the environment; `"local"`
            for a machine that has the TPU in itself.
        timeout_seconds: float, for `"multi_worker"`: how long to wait for the other
            workers, at the start and in each exchange between them.

    Returns:
        A `tf.distribute.Strategy`.

    Raises:
        ValueError: if the name is unknown, `TF_CONFIG` is not what TensorFlow expects
            or not what the other workers have, a worker does not come, a device does
            not exist, or Keras runs on another backend.
        ImportError: if TensorFlow is missing.

    Example:
        >>> strategy = kt.distribute.get_strategy("one_device")
        one_device: TensorFlow's default device, because it was asked for
        >>> with strategy.scope():
        ...     model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        ...     model.compile("sgd", "mse")
    """
    if name not in NAMES:
        raise ValueError(
            f"Received name={name!r}. Expected one of {', '.join(NAMES)}. "
            'Use "auto" to let the machine decide.'
        )
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"Received a request for tf.distribute on the {keras.backend.backend()} "
            "backend. Expected the TensorFlow backend. On JAX use "
            'keras_tformer.distribute.get_distribution("data_parallel").'
        )
    try:
        import tensorflow as tf
    except ImportError as error:
        raise ImportError(
            "get_strategy needs TensorFlow: pip install tensorflow"
        ) from error

    cluster = _read_cluster()
    tpu = tpu or os.environ.get("TPU_NAME") or os.environ.get("COLAB_TPU_ADDR")
    several_workers = cluster is not None and len(cluster[0]) > 1
    gpus = []
    if name not in ("auto", "multi_worker") or not several_workers:
        # Never before a multi-worker strategy, which must be TensorFlow's first act.
        gpus = [_short_name(device) for device in tf.config.list_logical_devices("GPU")]
    reason = "it was asked for"
    if name == "auto":
        name, reason = _choose(cluster, tpu, devices, gpus)

    match name:
        case "one_device":
            strategy, where = _one_device(devices)
        case "mirrored":
            devices = _existing(devices or gpus or ["CPU:0"])
            strategy = tf.distribute.MirroredStrategy(devices, cross_device_ops)
            where = f"{len(devices)} replicas on {', '.join(devices)}"
        case "multi_worker":
            workers, index = cluster or ([""], 0)
            if several_workers:
                meet_workers(workers, index, timeout_seconds)
            strategy = tf.distribute.MultiWorkerMirroredStrategy(
                communication_options=tf.distribute.experimental.CommunicationOptions(
                    timeout_seconds=timeout_seconds
                )
            )
            where = f"worker {index} of {len(workers)}"
        case "tpu":
            strategy = _tpu(tpu)
            where = f"{strategy.num_replicas_in_sync} TPU cores"
    has_replicas = getattr(strategy, "num_replicas_in_sync", 1) > 1
    if has_replicas:
        repair_trainer()
        repair_losses()
        repair_optimizers()
        repair_dropout()
    expect_models_under(strategy if has_replicas else None)
    print(f"{name}: {where}, because {reason}")
    return strategy


def _choose(cluster, tpu, devices, gpus):
    """Gives the strategy's name and the reason for it."""
    if cluster and len(cluster[0]) > 1:
        return "multi_worker", f"TF_CONFIG names {len(cluster[0])} workers"
    if tpu and not devices:
        return "tpu", f"a TPU is given ({tpu})"
    if devices:
        name = "mirrored" if len(devices) > 1 else "one_device"
        return name, f"devices names {len(devices)}"
    if len(gpus) > 1:
        return "mirrored", f"{len(gpus)} GPUs are visible"
    return "one_device", f"{'one GPU is' if gpus else 'no GPU or TPU is'} visible"


def _read_cluster():
    """The workers' addresses and the own index from TF_CONFIG; None without it."""
    text = os.environ.get("TF_CONFIG")
    if not text:
        return None
    example = (
        '{"cluster": {"worker": ["host-a:12345", "host-b:12345"]}, '
        '"task": {"type": "worker", "index": 0}}'
    )
    try:
        config = json.loads(text)
        cluster = config.get("cluster") or {}
        # A chief counts as one of the workers.
        addresses = cluster.get("chief", []) + cluster.get("worker", [])
        task = config.get("task", {})
        index = int(task.get("index", 0))
        if task.get("type") == "worker":
            index += len(cluster.get("chief", []))
        well_formed = all(address.rsplit(":", 1)[1].isdigit() for address in addresses)
    except (ValueError, TypeError, AttributeError, IndexError):
        well_formed = False
    if not well_formed or not 0 <= index < max(len(addresses), 1):
        raise ValueError(
            f"Received TF_CONFIG={text!r}. Expected JSON that lists the workers and "
            f"says which of them this process is, such as {example}. Correct the "
            "environment variable, or unset it to train on this machine alone."
        )
    return (addresses, index) if addresses else None


def _short_name(device):
    """`/device:GPU:0` and `/physical_device:GPU:0` as `GPU:0`."""
    return ":".join(device.name.rsplit(":", 2)[-2:])


def _existing(devices):
    """Checks that every named device is there; gives the short names."""
    import tensorflow as tf

    there = [_short_name(device) for device in tf.config.list_logical_devices()]
    wanted = [
        ":".join(device.upper().rsplit(":", 2)[-2:]).strip("/") for device in devices
    ]
    missing = [device for device in wanted if device not in there]
    if missing or len(set(wanted)) < len(wanted):
        raise ValueError(
            f"Received devices={list(devices)}. Expected different ones of {there}. "
            "Leave devices out to use what is visible."
        )
    return wanted


def _one_device(devices):
    """The default strategy: under OneDeviceStrategy `fit` takes slower code."""
    import tensorflow as tf

    if not devices:
        return tf.distribute.get_strategy(), "TensorFlow's default device"
    if len(devices) > 1:
        raise ValueError(
            f"Received name='one_device' with devices={list(devices)}. Expected one "
            "device. "
            'Name one, or use "mirrored".'
        )
    (device,) = _existing(devices)
    return tf.distribute.OneDeviceStrategy(f"/{device}"), device


def _tpu(tpu):
    import tensorflow as tf

    tpu = tpu or "local"
    if ":" in tpu and "://" not in tpu:
        # COLAB_TPU_ADDR is a bare address, which the resolver would take for a name.
        tpu = f"grpc://{tpu}"
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=tpu)
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, tf.errors.OpError) as error:
        raise ValueError(
            f"Received tpu={tpu!r}, which does not answer as a TPU ({error}). Expected "
            "the "
            'name or address of one. On a TPU machine install "tensorflow-tpu"; where '
            'only JAX sees the TPU, use get_distribution("data_parallel") with '
            "KERAS_BACKEND=jax."
        ) from error
    return tf.distribute.TPUStrategy(resolver)
