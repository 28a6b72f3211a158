"""How a JAX model is laid over several devices."""

import keras

from keras_tformer.distribute.data_parallel import DataParallel
from keras_tformer.distribute.model_parallel import ModelParallel


def get_distribution(name="data_parallel", model_dim=None, devices=None):
    """Makes a `keras.distribution` for models of this package on the JAX backend.

    `"data_parallel"` copies the model to every device and splits the batch.
    `"model_parallel"` splits the wide weights over `model_dim` devices, and the batch
    over the groups of that many: with fewer than all devices both are at work. Set it
    before the model is built, and keep the batch divisible (`drop_remainder=True`):
    `keras.distribution.set_distribution(kt.distribute.get_distribution(...))`.
    `weight_shards` tells which part of every weight a device then holds.

    Args:
        name: str, `"data_parallel"` or `"model_parallel"`.
        model_dim: int for `"model_parallel"`: how many devices share one copy of the
            model. Must divide the number of devices, of heads, `intermediate_dim`, and
            `vocabulary_size` or the width of the token table; a weight that it does
            not divide is named when the model is built.
        devices: list of str such as `["gpu:0", "gpu:1"]`, or None for all.

    Returns:
        A `keras.distribution.DataParallel` or `keras.distribution.ModelParallel`.

    Raises:
        ValueError: if the name is unknown, `model_dim` does not divide the number of
            devices or is given for `"data_parallel"`, or Keras runs on another backend.

    Example (with `KERAS_BACKEND=jax`):
        distribution = kt.distribute.get_distribution("model_parallel", model_dim=4)
        keras.distribution.set_distribution(distribution)
    """
    if name not in ("data_parallel", "model_parallel"):
        raise ValueError(
            f"Received name={name!r}. Expected 'data_parallel' or 'model_parallel'. "
            "Use 'data_parallel' unless the model is too large for one device."
        )
    if keras.backend.backend() != "jax":
        # The TensorFlow backend accepts a distribution and then trains on one device.
        raise ValueError(
            "Received a request for keras.distribution on the "
            f"{keras.backend.backend()} backend. Expected the JAX backend, the only "
            "one that obeys it. On TensorFlow use "
            "keras_tformer.distribute.get_strategy()."
        )
    devices = list(devices or keras.distribution.list_devices())
    if name == "data_parallel":
        if model_dim is not None:
            raise ValueError(
                f"Received model_dim={model_dim} for 'data_parallel'. Expected None: "
                "every device has the whole model. Leave it out, or use "
                "'model_parallel'."
            )
        return DataParallel(devices)

    if not model_dim or model_dim < 1 or len(devices) % model_dim:
        raise ValueError(
            f"Received model_dim={model_dim} for {len(devices)} devices. Expected an "
            f"integer that divides {len(devices)}. Give one of "
            f"{[n for n in range(1, len(devices) + 1) if len(devices) % n == 0]}."
        )
    return ModelParallel(devices, model_dim)
