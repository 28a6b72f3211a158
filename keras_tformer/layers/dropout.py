"""Dropout in few operations."""

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable(package="keras_tformer")
class Dropout(keras.layers.Dropout):
    """Sets a random share of its input to zero in training and scales up the rest.

    Srivastava et al. 2014, section 4. The same arguments and state as
    `keras.layers.Dropout`. The mask is multiplied with the input, so that the gradient
    is one product: fewer operations to trace on TensorFlow, where three dropouts in
    every block are a quarter of a training step's graph. Where the last axis is even,
    every 32 random bits decide on two values, because drawing is most of what dropout
    costs on a CPU; the rate is then the nearest multiple of 2^-16. As with Keras' own,
    a `.keras` file keeps the `seed` that was given, not how far its generator has
    counted; without one, a loaded layer starts from a new seed.

    Args:
        rate: float in [0, 1), share of values dropped.
        **kwargs: those of `keras.layers.Dropout`; `noise_shape` must be None.

    Call arguments:
        inputs: float tensor of any shape.
        training: bool, whether to drop anything.

    Returns:
        A tensor of the same shape and dtype.

    Raises:
        ValueError: if `rate` is outside [0, 1) or `noise_shape` is given.

    Example:
        >>> x = Dropout(0.5, seed=7)(keras.ops.ones((2, 5)), training=True)
        >>> sorted(set(keras.ops.convert_to_numpy(x).ravel().tolist()))
        [0.0, 2.0]
    """

    def __init__(self, rate, **kwargs):
        super().__init__(rate, **kwargs)
        if rate == 1 or self.noise_shape is not None:
            raise ValueError(
                "`Dropout` expects a rate in [0, 1) and no noise shape. Received: "
                f"rate={rate}, noise_shape={self.noise_shape}. Use "
                "`keras.layers.Dropout` for those."
            )

    def call(self, inputs, training=False):
        if not training or self.rate == 0:
            return inputs
        is_kept, share = self._draw(inputs)
        return inputs * (ops.cast(is_kept, inputs.dtype) * (1 / share))

    def _draw(self, inputs):
        """Returns which values are kept, and with what probability each one was."""
        is_static = None not in tuple(inputs.shape)
        shape = tuple(inputs.shape) if is_static else ops.shape(inputs)
        seeds = _Seeds(self.seed_generator)
        width = inputs.shape[-1] if inputs.shape else None
        if width is None or width % 2:
            share = 1 - self.rate
            # In float32, because 16 bits have too few numbers below 1.
            numbers = keras.random.uniform(shape, dtype="float32", seed=seeds)
            return numbers < share, share
        half = (*shape[:-1], width // 2)
        bits = keras.random.randint(half, -(2**31), 2**31 - 1, "int32", seeds)
        share = min(max(round((1 - self.rate) * 2**16), 1), 2**16 - 1)  # in 2^-16
        return ops.view(bits, "int16") < share - 2**15, share / 2**16


class _Seeds(keras.random.SeedGenerator):
    """Draws from the state of a generator what it has counted up to.

    Keras' own `next` copies the state, counts it up and returns the copy: twice as many
    operations on TensorFlow.
    """

    def __init__(self, generator):  # has no state of its own, which a layer would track
        self.state = generator.state

    def next(self, ordered=True):
        one = ops.convert_to_tensor(np.array([0, 1]), self.state.dtype)
        seed = ops.add(self.state, one)
        self.state.assign(seed)
        # TensorFlow draws from 32 bits; from more, Keras would take a remainder first.
        return ops.cast(seed, "int32") if self.state.dtype == "int64" else seed
