"""How many weights of a model are zero."""

import numpy as np


def sparsity(model):
    """Measures the share of zeros in every weight matrix of a model.

    Args:
        model: a built `keras.Model`, pruned or not, quantization-aware or not.

    Returns:
        {weight path: share of zeros in [0, 1]} for every trainable weight of rank 2
        and more (kernels and embedding tables), in the model's order.

    Raises:
        ValueError: if the model has no weights yet.

    Example:

    >>> import keras
    >>> x = keras.Input((2,))
    >>> model = keras.Model(x, keras.layers.Dense(2, name="a")(x))
    >>> kernel = keras.ops.array([[0.0, 1.0], [2.0, 3.0]])
    >>> _ = model.get_layer("a").kernel.assign(kernel)
    >>> sparsity(model)
    {'a/kernel': 0.25}
    """
    if not model.built:
        raise ValueError(
            f"Model '{model.name}' has no weights yet. Call it once, or give its first "
            "layer a keras.Input, before you measure it."
        )
    shares = {}
    for weight in model.trainable_weights:
        if len(weight.shape) > 1:
            path = weight.path
            while path in shares:  # two weights may have one path
                path += "'"
            shares[path] = float(np.mean(weight.numpy() == 0))
    return shares
