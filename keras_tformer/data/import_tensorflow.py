"""TensorFlow, which every data set needs whatever backend Keras runs on."""


def import_tensorflow():
    """Imports TensorFlow, or says what to install."""
    try:
        import tensorflow as tf
    except ModuleNotFoundError as error:
        raise ImportError(
            "Batches are a `tf.data.Dataset` on every backend of Keras; that needs the "
            "package `tensorflow`. Install it with: "
            'pip install "tensorflow>=2.20,<2.22"'
        ) from error
    return tf
