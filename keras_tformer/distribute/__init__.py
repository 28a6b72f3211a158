"""Which devices: tf.distribute on TensorFlow, keras.distribution on JAX."""

from keras_tformer.distribute.get_distribution import get_distribution
from keras_tformer.distribute.get_strategy import get_strategy

__all__ = ["get_distribution", "get_strategy"]
