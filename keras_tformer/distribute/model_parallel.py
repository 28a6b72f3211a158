"""One model over several devices, each with a part of every wide weight."""

import keras

from keras_tformer.distribute.distribution_checks import (
    refuse_uneven_batch,
    saw_a_weight,
)
from keras_tformer.distribute.model_parallel_layout import split_axes


class ModelParallel(keras.distribution.ModelParallel):
    """Keras' `ModelParallel` that knows this package's weights.

    Keras' own takes one layout for a name. Here a weight's shape decides too: a table
    of tokens is split by rows where the number of devices divides them, otherwise by
    columns. See `MODEL_PARALLEL_LAYOUT`.

    Args:
        devices: list of str such as `["gpu:0", "gpu:1"]`.
        model_dim: int that divides the number of devices: how many of them share one
            copy of the model.

    Example (with `KERAS_BACKEND=jax`):
        devices = keras.distribution.list_devices()
        keras.distribution.set_distribution(ModelParallel(devices, model_dim=2))
    """

    def __init__(self, devices, model_dim):
        mesh = keras.distribution.DeviceMesh(
            shape=(len(devices) // model_dim, model_dim),
            axis_names=("batch", "model"),
            devices=devices,
        )
        super().__init__(
            layout_map=keras.distribution.LayoutMap(mesh), batch_dim_name="batch"
        )
        self._saw_a_weight = False

    def get_variable_layout(self, variable):
        given = getattr(variable, "_layout", None)  # a slot has its weight's
        if given is not None:
            return given
        self._saw_a_weight = saw_a_weight(variable.path, self._saw_a_weight)
        model_dim = self.device_mesh.shape[-1]
        axes = split_axes(variable.path, tuple(variable.shape), model_dim)
        return keras.distribution.TensorLayout(axes, self.device_mesh)

    def get_data_layout(self, data_shape):
        refuse_uneven_batch(data_shape, self.device_mesh.shape[0])
        return super().get_data_layout(data_shape)
