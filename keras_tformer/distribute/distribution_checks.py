"""What a `keras.distribution` refuses before JAX fails on it."""

import re

import keras

# The path of an optimizer's variable: the weight's path and the slot's name, joined.
SLOT_OF_A_WEIGHT = re.compile(r".*_(kernel|embeddings)_[a-z_]+")


def refuse_uneven_batch(data_shape, replicas):
    """Refuses a batch that cannot be split evenly over the copies of the model.

    Args:
        data_shape: tuple of int, shape of one input, batch first; with several
            processes, of the part that this process reads.
        replicas: int, number of copies of the model.

    Raises:
        ValueError: if it cannot be split.

    Example:
        >>> refuse_uneven_batch((8, 5), replicas=4)
    """
    if keras.backend.backend() == "jax":
        import jax

        replicas = max(replicas // jax.process_count(), 1)
    if data_shape[0] % replicas:
        raise ValueError(
            f"Received a batch of {data_shape[0]} for {replicas} copies of the model. "
            f"Expected a multiple of {replicas}. Change the batch size; a dataset "
            "whose last batch is smaller needs drop_remainder=True."
        )


def saw_a_weight(path, before):
    """Notes whether weights come before the optimizer's variables that belong to them.

    If they do not, the model was built before the distribution was set and stays on one
    device.

    Args:
        path: str, path of the variable that is being made.
        before: bool, whether a weight was made under this distribution before it.

    Returns:
        A bool, whether one has been made by now.

    Raises:
        ValueError: if the optimizer's variables come first.

    Example:
        >>> saw_a_weight("dense/kernel", before=False)
        True
    """
    if not before and SLOT_OF_A_WEIGHT.fullmatch(path):
        raise ValueError(
            f"Received the optimizer's variable {path!r} of a weight that was made "
            "before the distribution was set. Expected "
            "keras.distribution.set_distribution(...) before the model is built or "
            "loaded. Set it first, and build the model again."
        )
    return before or path.endswith(("/kernel", "/embeddings"))
