"""Checks of constructor numbers: what came, what was expected, how to fix it."""


def require_positive(layer, name, value):
    """Raises `ValueError` unless `value` is a whole number above zero."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(
            f"`{layer}` received an invalid value for argument `{name}`. Expected a "
            f"positive integer. Received: {name}={value!r}. Pass a whole number of 1 "
            "or more."
        )


def require_share(layer, name, value):
    """Raises `ValueError` unless `value` is a number in [0, 1)."""
    if (
        not isinstance(value, (int, float))
        or isinstance(value, bool)
        or not 0 <= value < 1
    ):
        raise ValueError(
            f"`{layer}` received an invalid value for argument `{name}`. Expected a "
            f"number in [0, 1). Received: {name}={value!r}. Pass 0 to switch it off."
        )


def require_divisible(layer, name, value, divisor_name, divisor):
    """Raises `ValueError` unless `divisor` divides `value`."""
    if value % divisor:
        raise ValueError(
            f"`{layer}` needs a `{name}` that `{divisor_name}` divides. Received: "
            f"{name}={value}, {divisor_name}={divisor}, remainder {value % divisor}. "
            "Change one of them, for example "
            f"{name}={value - value % divisor or divisor}."
        )
