"""Activations by name: Keras' own, and the tanh form of GELU under its own name."""

import math

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_tformer")
def gelu_tanh(x):
    """Applies the tanh approximation of GELU to each element.

    Hendrycks and Gimpel 2016, section 2: `0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715
    x^3)))`. Google's BERT and ALBERT code and GPT-2 use this form (Hugging Face calls
    it `gelu_new`); `"gelu"` is the exact form with the error function.

    Args:
        x: float tensor of any shape.

    Returns:
        A tensor of the same shape and dtype.

    Example:
        >>> round(float(gelu_tanh(keras.ops.array(1.0))), 5)
        0.84119
    """
    return ops.gelu(x, approximate=True)


def get_activation(identifier):
    """Looks up an activation function by name.

    Args:
        identifier: name of any Keras activation, `"gelu_tanh"` or its other name
            `"gelu_new"`, a serialized activation, a function, or None for the identity.

    Returns:
        A function on tensors.

    Raises:
        ValueError: if no activation has that name.

    Example:
        >>> get_activation("gelu_new") is gelu_tanh
        True
    """
    if identifier in ("gelu_tanh", "gelu_new", "keras_tformer>gelu_tanh"):
        return gelu_tanh
    return keras.activations.get(identifier)


def in_training(activation):
    """Returns what computes the same as `activation` with a gradient of few operations.

    Both forms of GELU have one that is written out: half of the operations that
    automatic differentiation strings together.

    Args:
        activation: a function that `get_activation` returned.

    Returns:
        A function on tensors; `activation` itself where there is no shorter gradient.

    Example:
        >>> in_training(keras.activations.relu) is keras.activations.relu
        True
    """
    return _IN_TRAINING.get(activation, activation)


def activation_name(activation):
    """Returns what `get_config` stores for `activation`, so that it can be found again.

    Args:
        activation: a function that `get_activation` returned.

    Returns:
        A name, or the serialized form of a custom function.

    Example:
        >>> activation_name(get_activation("gelu_new"))
        'gelu_tanh'
    """
    if activation is gelu_tanh:
        return "gelu_tanh"
    return keras.activations.serialize(activation)


@ops.custom_gradient
def _gelu_in_training(x):
    share = 0.5 * (1 + ops.erf(x * math.sqrt(0.5)))  # of x that passes

    def gradient(*args, upstream=None):
        # torch passes the argument of the function and `upstream` by name.
        upstream = args[0] if upstream is None else upstream
        density = ops.exp(x * x * -0.5) * (1 / math.sqrt(2 * math.pi))
        return upstream * (share + x * density)

    return x * share, gradient


@ops.custom_gradient
def _gelu_tanh_in_training(x):
    # 0.5 (1 + tanh(u)) is sigmoid(2 u), whose derivative is s (1 - s).
    slope = math.sqrt(8 / math.pi)
    cubic = x * x * (slope * 0.044715)
    share = ops.sigmoid(x * (cubic + slope))
    outputs = x * share

    def gradient(*args, upstream=None):
        upstream = args[0] if upstream is None else upstream
        of_exponent = cubic * 3 + slope
        return upstream * (share + (outputs - outputs * share) * of_exponent)

    return outputs, gradient


_IN_TRAINING = {
    keras.activations.gelu: _gelu_in_training,
    gelu_tanh: _gelu_tanh_in_training,
}
