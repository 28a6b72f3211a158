"""Fake quantization of a matrix with a scale for each column."""

from keras import ops


def round_channels(value, largest, num_bits):
    """Rounds each column of a matrix to whole multiples of a scale of its own.

    The numbers of `tf.quantization.fake_quant_with_min_max_vars_per_channel` from
    -largest to largest with `narrow_range`, and its gradients with respect to the
    matrix: to the last bit, but where a compiled graph rearranges the arithmetic. On a
    CPU TensorFlow's operation walks through memory column by column, and takes many
    times as long as the products that the kernel is for, above all backwards.

    Args:
        value: float `(rows, columns)` tensor.
        largest: positive float tensor `(columns,)`.
        num_bits: int.

    Example:

    >>> import keras
    >>> value = keras.ops.array([[1.27, -3.0], [0.503, 0.011]])
    >>> rounded = round_channels(value, keras.ops.array([1.27, 2.54]), 8)
    >>> [[round(float(x), 4) for x in row] for row in rounded]
    [[1.27, -2.54], [0.5, 0.02]]
    """
    num_steps = 2 ** (num_bits - 1) - 1  # on either side of zero
    scale = (largest + largest) / (2.0 * num_steps)
    inverse = 1.0 / scale
    edge = num_steps * scale

    @ops.custom_gradient
    def rounded(x):
        shifted = ops.clip(x, -edge, edge) + edge
        steps = ops.floor(shifted * inverse - num_steps + 0.5)

        def gradient(*arguments, upstream=None):
            upstream = arguments[0] if upstream is None else upstream
            is_inside = ops.less_equal(ops.abs(x), edge)
            return upstream * ops.cast(is_inside, upstream.dtype)

        return steps * scale, gradient

    return rounded(value)
