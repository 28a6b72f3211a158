"""Transformer, BERT and ALBERT in Keras 3: from text to a verified file on a phone.

Every room takes and returns `keras.Model` or `tf.data.Dataset`. Importing the package
registers its layers with Keras, so that saved models load; a heavy library (TensorFlow
Text, TF-MOT, KerasHub, safetensors) is imported by the function that needs it.
"""

try:
    import keras  # noqa: F401
except ModuleNotFoundError as error:
    missing = str(error.name).split(".")[0]
    if missing not in ("tensorflow", "jax", "torch"):
        raise
    raise ImportError(
        f"Keras runs on the package `{missing}` here, which is missing. Install it, "
        "or name a backend that is installed in the environment variable "
        'KERAS_BACKEND ("tensorflow", "jax" or "torch") before Python starts.'
    ) from error

from keras_tformer import (
    checkpoints,  # published weights <-> our models
    compress,  # Model -> smaller Model
    data,  # ids -> tf.data batches
    distribute,  # which devices
    export,  # Model -> files, proved equal
    layers,  # tensors -> tensors
    models,  # numbers -> keras.Model
    text,  # strings -> ids
    training,  # what compile and fit take
)

__version__ = "0.1.0"

__all__ = [
    "checkpoints",
    "compress",
    "data",
    "distribute",
    "export",
    "layers",
    "models",
    "text",
    "training",
]
