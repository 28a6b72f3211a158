"""How much arithmetic a training step is."""


def training_flops(model, inputs):
    """Counts the floating point operations of a training step, without the update.

    The forward pass is traced and counted operation by operation by TensorFlow's
    profiler, a shared block as often as it is called; the backward pass counts twice
    the forward one, since each product there has two gradients (Chowdhery et al. 2022,
    appendix B). Divided by a step's seconds and the machine's peak, it is the model
    FLOPs utilization (MFU) of that appendix.

    Args:
        model: `keras.Model`.
        inputs: the model's inputs for one step, or their `tf.TensorSpec`s of known
            shapes, such as `dataset.element_spec[0]`.

    Returns:
        int.

    Raises:
        ValueError: if a shape is not known, or Keras runs on another backend than
            TensorFlow.

    Example:
        >>> inputs = keras.Input((3,))
        >>> model = keras.Model(inputs, keras.layers.Dense(5, use_bias=False)(inputs))
        >>> kt.training.training_flops(model, np.zeros((7, 3)))  # 3 * 2 * 7 * 3 * 5
        630
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"Received a model on the {keras.backend.backend()} backend. Expected "
            "TensorFlow, whose profiler counts. Count there, and give the number."
        )
    import tensorflow as tf

    for shape in (tensor.shape for tensor in tf.nest.flatten(inputs)):
        if None in tuple(shape):
            raise ValueError(
                f"Received an input of shape {shape}. Expected known shapes. Batch the "
                "dataset with drop_remainder=True, or give one batch."
            )
    specs = tf.nest.map_structure(lambda x: tf.TensorSpec(x.shape, x.dtype), inputs)
    forward = tf.function(lambda inputs: model(inputs, training=False))
    graph = forward.get_concrete_function(specs).graph
    options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    options["output"] = "none"
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel("ERROR")  # the profiler itself calls what TensorFlow deprecates
    try:
        profile = tf.compat.v1.profiler.profile(graph, cmd="op", options=options)
    finally:
        logger.setLevel(level)
    return 3 * profile.total_float_ops
