"""Keras models to files that are proved: SavedModel and TFLite, run and compared.

`to_saved_model` and `to_tflite` write, `predict` runs an artefact on its own runtime,
`verify` compares it with the model, `benchmark` and `report` measure it. TensorFlow
and LiteRT are imported by the functions that use them.
"""

from keras_tformer.export.benchmarking import benchmark
from keras_tformer.export.prediction import predict
from keras_tformer.export.reporting import report
from keras_tformer.export.saved_model import to_saved_model
from keras_tformer.export.tflite import to_tflite
from keras_tformer.export.verification import verify

__all__ = [
    "benchmark",
    "predict",
    "report",
    "to_saved_model",
    "to_tflite",
    "verify",
]
