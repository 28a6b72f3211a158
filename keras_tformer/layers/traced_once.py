"""One trace for all calls of a shared block."""

import weakref

import keras

# Under this name, an attribute of the graph that calls. TensorFlow may keep a graph for
# good; so it holds the layers weakly.
ATTRIBUTE = "_keras_tformer_traced_once"


def traced_once(layer, function):
    """Returns what computes the same as `function` and is traced for one of its calls.

    TensorFlow traces, differentiates and optimizes a block anew for each of ALBERT's 12
    or 24 calls, which takes longer than anything else before the first training step.
    Here all calls on whole sequences are calls of one TensorFlow function, and all
    their gradients calls of another. What is traced is the block's own `keras.ops`. On
    other backends, outside of a graph and wherever one trace would not do, `function`
    itself is returned. (What a user's own sublayer gives to `add_loss` does not get out
    of such a function, which TensorFlow says; activity regularizers are looked for.)

    Args:
        layer: the `keras.layers.Layer` whose weights `function` reads.
        function: a function of tensors, None and other hashable arguments; always the
            same method of that layer.

    Returns:
        A function of the same arguments.

    Example:
        >>> layer = keras.layers.Dense(3)
        >>> traced_once(layer, layer.call) == layer.call  # called at most once
        True
    """
    if not (
        keras.backend.backend() == "tensorflow"
        and _num_calls(layer) > 1
        and _trains_as_a_whole(layer)
        and not _adds_losses(layer)
        and _is_in_a_plain_graph()
    ):
        return function
    import tensorflow as tf

    graph = tf.compat.v1.get_default_graph()
    functions = getattr(graph, ATTRIBUTE, None) or weakref.WeakKeyDictionary()
    setattr(graph, ATTRIBUTE, functions)
    if layer not in functions:
        method = weakref.WeakMethod(function)
        # Put back in line, all calls would again be optimized, one after the other.
        functions[layer] = tf.function(
            lambda *arguments: method()(*arguments),
            autograph=False,
            experimental_attributes={"_noinline": True},
        )
    return functions[layer]


def _num_calls(layer):
    """Calls in graphs, less those for some positions, which compute another thing."""
    arguments = [node.arguments.kwargs for node in layer._inbound_nodes]
    return sum(given.get("num_queries") is None for given in arguments)


def _trains_as_a_whole(layer):
    """Whether all weights train: the gradient of a function is that of all it reads."""
    return layer.trainable and not layer.non_trainable_weights


def _adds_losses(layer):
    return any(
        getattr(part, "activity_regularizer", None) is not None
        for part in layer._flatten_layers()
    )


def _is_in_a_plain_graph():
    """Whether variables are just read and written, by one replica, without XLA.

    XLA takes several times as long to compile functions that are not in line, and a
    stateless scope holds values for variables that a function cannot take from it.
    """
    import tensorflow as tf
    from keras.src.backend.common.stateless_scope import in_stateless_scope
    from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext

    return (
        tf.inside_function()
        and not GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())
        and tf.distribute.get_strategy().num_replicas_in_sync == 1
        and not in_stateless_scope()
    )
