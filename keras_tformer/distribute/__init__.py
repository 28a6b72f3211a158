"""Which devices: tf.distribute on TensorFlow, keras.distribution on JAX."""

from keras_tformer.distribute.get_distribution import get_distribution
from keras_tformer.distribute.get_strategy import get_strategy
from keras_tformer.distribute.weight_shards import weight_shards

__all__ = ["get_distribution", "get_strategy", "weight_shards"]
