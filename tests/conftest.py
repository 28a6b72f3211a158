"""What every test may rely on: two devices, the same random numbers, the real data."""

import os
import pathlib

import keras
import pytest

from keras_tformer.distribute.training_checks import expect_models_under

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    # Before the first operation, or TensorFlow refuses: two devices to replicate over.
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * 2,
    )


@pytest.fixture(autouse=True)
def same_random_numbers():
    """Every test starts from the same seed, whichever tests ran before it."""
    keras.utils.set_random_seed(20)


@pytest.fixture(autouse=True)
def the_next_test_trains_on_one_device():
    """The strategy that a test asked for is not expected of the models of the next."""
    yield
    expect_models_under(None)


@pytest.fixture(scope="session")
def mirrored_strategy():
    """Two CPU replicas, without collectives, of which a process bears one group."""
    if keras.backend.backend() != "tensorflow":
        pytest.skip("tf.distribute needs the TensorFlow backend")
    return tf.distribute.MirroredStrategy(
        ["CPU:0", "CPU:1"],
        cross_device_ops=tf.distribute.ReductionToOneDevice(),
    )


@pytest.fixture(scope="session")
def data_folder():
    """The folder of real data: `KERAS_TFORMER_DATA`, or one beside the repository."""
    beside = pathlib.Path(__file__).parents[2] / "shared" / "data"
    folder = pathlib.Path(os.environ.get("KERAS_TFORMER_DATA", beside))
    if not folder.is_dir():
        pytest.skip("no real data: set KERAS_TFORMER_DATA to the folder that holds it")
    return folder
