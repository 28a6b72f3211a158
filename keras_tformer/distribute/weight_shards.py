"""What each device would hold of a model, without any device."""

from keras_tformer.distribute.model_parallel_layout import shard_shape


def weight_shards(model, model_dim):
    """Gives the part of every weight that one of `model_dim` devices holds.

    Tells before training whether a model can be split so and what it takes: with AdamW
    in float32 a device holds 16 bytes for each number here (weight, gradient and two
    moments), and the activations besides. Runs on every backend.

    Args:
        model: built `keras.Model`.
        model_dim: int, as for `get_distribution`.

    Returns:
        A dict from the weights' paths to the shapes of the parts.

    Raises:
        ValueError: if `model_dim` does not divide the number of heads of every
            attention, `intermediate_dim`, or either side of a table of tokens.

    Example:
        >>> encoder = kt.models.bert_encoder(
        ...     vocabulary_size=31, num_layers=1, num_heads=2, hidden_dim=6,
        ...     intermediate_dim=10,
        ... )
        >>> shards = kt.distribute.weight_shards(encoder, model_dim=2)
        >>> shards["encoder_layer_0/feed_forward/intermediate/kernel"]
        (6, 5)
    """
    for layer in model._flatten_layers():
        num_heads = getattr(layer, "num_heads", None)
        if num_heads and num_heads % model_dim:
            # Right all the same, but heads cut in two are gathered in every layer.
            raise ValueError(
                f"Received model_dim={model_dim} for layer {layer.name!r} with "
                f"num_heads={num_heads}. Expected num_heads to be divisible by "
                f"{model_dim}, so that each device has whole heads. Choose a model_dim "
                "that divides it."
            )
    return {
        weight.path: shard_shape(weight.path, tuple(weight.shape), model_dim)
        for weight in model.weights
    }
