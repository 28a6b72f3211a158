"""The model on every device, the batch split."""

import keras

from keras_tformer.distribute.distribution_checks import (
    refuse_uneven_batch,
    saw_a_weight,
)


class DataParallel(keras.distribution.DataParallel):
    """Keras' `DataParallel` that says what is wrong with a batch or a model.

    Args:
        devices: list of str such as `["gpu:0", "gpu:1"]`.

    Example (with `KERAS_BACKEND=jax`):
        keras.distribution.set_distribution(
            DataParallel(keras.distribution.list_devices())
        )
    """

    def __init__(self, devices):
        super().__init__(devices=devices)
        self._saw_a_weight = False

    def get_variable_layout(self, variable):
        self._saw_a_weight = saw_a_weight(variable.path, self._saw_a_weight)
        return super().get_variable_layout(variable)

    def get_data_layout(self, data_shape):
        refuse_uneven_batch(data_shape, self.device_mesh.devices.size)
        return super().get_data_layout(data_shape)
