"""How much arithmetic a training step is."""


def training_flops(model, batch_size):
    """Counts the floating point operations of a training step, without the update.

    The forward pass is traced and counted operation by operation by TensorFlow's
    profiler, a shared block as often as it is called; the backward pass counts twice
    the forward one, since each product there has two gradients (Chowdhery et al. 2022,
    appendix B). Divided by a step's seconds and the machine's peak, it is the model
    FLOPs utilization (MFU) of that appendix.

    Args:
        model: `keras.Model` with inputs of known shapes but for the batch.
        batch_size: int. Rows `B` of a batch.

    Returns:
        int.

    Raises:
        ValueError: if an axis other than the first is unknown, or Keras runs on
            another backend than TensorFlow.

    Example:
        >>> inputs = keras.Input((3,))
        >>> model = keras.Model(inputs, keras.layers.Dense(5, use_bias=False)(inputs))
        >>> kt.training.training_flops(model, batch_size=7)  # 3 * 2 * 7 * 3 * 5
        630
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"Received a model on the {keras.backend.backend()} backend. Expected "
            "TensorFlow, whose profiler counts. Count there, and give the number."
        )
    import tensorflow as tf

    def spec(tensor):
        shape = (batch_size, *tensor.shape[1:])
        if None in shape:
            raise ValueError(
                f"The input {tensor.name!r} has the shape {tensor.shape}. Expected all "
                "but the batch to be known. Build the model with sequence_length=..."
            )
        return tf.TensorSpec(shape, tensor.dtype)

    specs = tf.nest.map_structure(spec, model.input)
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
