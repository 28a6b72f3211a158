"""Plain numbers and answers as callers give them, of Python or of NumPy."""

import numbers

import numpy as np


def whole_number(name, value, least):
    """`value` as int; ValueError where it is another thing, or less than `least`."""
    is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_whole or value < least:
        expected = "a positive" if least == 1 else f"{least} or a greater"
        raise ValueError(
            f"Received {name}={value!r}, expected {expected} whole number."
        )
    return int(value)


def whole_numbers(name, values):
    """One positive whole number or several, as a list."""
    if np.ndim(values) == 0:
        return [whole_number(name, values, 1)]
    if len(values) == 0:
        raise ValueError(f"Received {name}={values!r}, expected positive numbers.")
    return [whole_number(name, value, 1) for value in values]


def true_or_false(name, value):
    """`value` as bool; ValueError where it is another thing."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"Received {name}={value!r}, expected True or False.")
    return bool(value)


def true_and_false(name, values):
    """True, False or both, as a list."""
    if np.ndim(values) == 0:
        return [true_or_false(name, values)]
    if len(values) == 0:
        raise ValueError(f"Received {name}={values!r}, expected True, False or both.")
    return [true_or_false(name, value) for value in values]
