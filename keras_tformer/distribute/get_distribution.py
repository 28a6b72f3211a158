"""How a JAX model is laid over several devices."""

import keras

# Whole variable path (Keras matches all of it) -> which axis of the kernel is split.
# Projections into the heads and into the intermediate width are split by columns, those
# back to the hidden width by rows, so that each device computes whole heads and whole
# intermediate units, and one sum per sublayer crosses the devices (Shoeybi et al. 2019,
# section 3). Biases of split columns are split with them; what is not named is copied.
MODEL_PARALLEL_LAYOUT = {
    r".*(query|key|value)/kernel": (None, "model"),
    r".*(query|key|value)/bias": ("model",),
    r".*attention_output/kernel": ("model", None),
    r".*intermediate/kernel": (None, "model"),
    r".*intermediate/bias": ("model",),
    r".*feed_forward/output/kernel": ("model", None),
    r".*token_embedding/embeddings": ("model", None),
}


def get_distribution(name="data_parallel", model_dim=None, devices=None):
    """Makes a `keras.distribution` for models of this package on the JAX backend.

    `"data_parallel"` copies the model to every device and splits the batch.
    `"model_parallel"` splits the wide weights over `model_dim` devices, and the batch
    over the groups of that many. Set it before the model is built, and keep the batch
    divisible (`drop_remainder=True`):
    `keras.distribution.set_distribution(kt.distribute.get_distribution(...))`.

    Args:
        name: str, `"data_parallel"` or `"model_parallel"`.
        model_dim: int for `"model_parallel"`: how many devices share one copy of the
            model. Must divide the number of devices, the number of heads,
            `intermediate_dim` and `vocabulary_size`.
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
        return keras.distribution.DataParallel(devices=devices)

    if not model_dim or model_dim < 1 or len(devices) % model_dim:
        raise ValueError(
            f"Received model_dim={model_dim} for {len(devices)} devices. Expected an "
            f"integer that divides {len(devices)}. Give one of "
            f"{[n for n in range(1, len(devices) + 1) if len(devices) % n == 0]}."
        )
    mesh = keras.distribution.DeviceMesh(
        shape=(len(devices) // model_dim, model_dim),
        axis_names=("batch", "model"),
        devices=devices,
    )
    layout_map = keras.distribution.LayoutMap(mesh)
    for path, axes in MODEL_PARALLEL_LAYOUT.items():
        layout_map[path] = keras.distribution.TensorLayout(axes)
    return keras.distribution.ModelParallel(
        layout_map=layout_map, batch_dim_name="batch"
    )
