"""Initializers that may be used for more than one weight."""

import keras


def fresh_initializer(initializer):
    """Returns a copy that draws random numbers of its own.

    An initializer object without a seed gives the same numbers each time that it is
    called, so that weights which share one would start equal.

    Args:
        initializer: what `keras.initializers.get` returned.

    Returns:
        A copy; a plain function is returned as it is.

    Example:
        >>> first = keras.initializers.GlorotUniform()
        >>> second = fresh_initializer(first)
        >>> bool(keras.ops.all(first((3, 5)) == second((3, 5))))
        False
    """
    if isinstance(initializer, keras.initializers.Initializer):
        return initializer.clone()
    return initializer
