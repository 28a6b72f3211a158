"""How a function of Keras is replaced, and where the replacement acts."""

import functools


def replace(owner, name, make_replacement):
    """Puts `make_replacement(original)` in the place of `owner.name`, once.

    Args:
        owner: class or module of Keras.
        name: str, name of one of its functions.
        make_replacement: function(original) -> function.

    Example:
        >>> class Greeter:
        ...     def greet(self):
        ...         return "hello"
        >>> for _ in range(2):  # the second time nothing happens
        ...     replace(Greeter, "greet", lambda greet: lambda self: greet(self) + "!")
        >>> Greeter().greet()
        'hello!'
    """
    original = getattr(owner, name)
    if not getattr(original, "is_repair", False):
        repaired = functools.wraps(original)(make_replacement(original))
        repaired.is_repair = True
        setattr(owner, name, repaired)


def one_of_several_replicas():
    """Gives the replica's context inside `strategy.run`; None with one replica.

    Example:
        >>> one_of_several_replicas() is None
        True
    """
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return None
    return context
