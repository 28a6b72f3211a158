"""One compiled function for each backend, kept as long as its model."""

import keras
from keras import ops

# Under this name, in the model's own dictionary: Keras neither tracks nor saves it, and
# it goes when the model goes.
ATTRIBUTE = "_keras_tformer_compiled_decoding"


def compiled_for(model, key, make, jit_compile):
    """Returns the functions that were compiled for a model under a key.

    Args:
        model: the `keras.Model` whose weights the functions read.
        key: hashable, everything that their graphs depend on but for shapes.
        make: function without arguments that returns the search (see `BeamSearch`).
        jit_compile: bool, whether TensorFlow compiles with XLA; JAX always does.

    Returns:
        A dict of functions: `"generate"` runs to the end, `"begin"` and `"advance"` go
        one token at a time.
    """
    functions = model.__dict__.setdefault(ATTRIBUTE, {})
    key = (*key, jit_compile)
    if key not in functions:
        search = make()

        def generate(inputs):
            return search_to_the_end(search, inputs)

        functions[key] = {
            name: _compiled(function, model, jit_compile)
            for name, function in {
                "generate": generate,
                "begin": search.begin,
                "advance": search.advance,
            }.items()
        } | {"results": search.results}
    return functions[key]


def search_to_the_end(search, inputs):
    """Runs a search, the first half of a long one with caches of half the size.

    Attention reads all the room that caches have, whether it is filled or not.

    Args:
        search: a `BeamSearch` or a `Sampling`.
        inputs: dict of tensors, what `search.begin` takes.

    Returns:
        What `search.results` returns.
    """
    constants, state = search.begin(inputs)
    num_steps = search.num_steps
    for room in [num_steps // 2, num_steps] if num_steps >= 32 else [num_steps]:
        caches = search.decoder.with_room(
            constants["memory"], state["caches"], room, search.num_beams
        )

        def goes_on(state, room=room):
            return ops.logical_and(search.is_unfinished(state), state["step"] <= room)

        (state,) = ops.while_loop(
            goes_on,
            lambda state: (search.advance(constants, state),),
            ({**state, "caches": caches},),
        )
    return search.results(state)


def _compiled(function, model, jit_compile):
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.function(function, jit_compile=jit_compile, autograph=False)
    if backend == "jax":
        import jax

        @jax.jit
        def with_values(values, *arguments):
            mapping = list(zip(model.variables, values, strict=True))
            with keras.StatelessScope(state_mapping=mapping):
                return function(*arguments)

        return lambda *arguments: with_values(
            [variable.value for variable in model.variables], *arguments
        )

    import torch

    def without_gradient(*arguments):
        with torch.no_grad():
            return function(*arguments)

    return without_gradient
