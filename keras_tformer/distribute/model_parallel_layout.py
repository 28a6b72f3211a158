"""Which weights are split over devices that share one copy of a model, and how."""

import re

# A layer may stand alone, in blocks of any name, or be flattened ("layer_0.query").
WITHIN = r"(.*[/._])?"

# End of the variable's path -> the axes to split it along: the first of them whose
# every length `model_dim` divides. Projections into the heads and into the intermediate
# width are split by columns, those back to the hidden width by rows, so that each
# device computes whole heads and whole intermediate units, and one sum a sublayer
# crosses the devices (Shoeybi et al. 2019, section 3). A table of tokens is split by
# rows, so that each device scores its own tokens, or, as 30,522 and 50,257 tokens
# seldom divide, by columns. `()` is a copy on every device; so is what no line names:
# normalization, biases of whole outputs, classifiers.
MODEL_PARALLEL_LAYOUT = {
    "(query|key|value)/kernel": [(None, "model")],
    "(query|key|value)/bias": [("model",)],
    "intermediate/kernel": [(None, "model")],
    "intermediate/bias": [("model",)],
    # `attention_output` and the `output` of a feed-forward network
    "output/kernel": [("model", None), ()],
    "position_embedding/embeddings": [(None, "model"), ()],
    "segment_embedding/embeddings": [()],
    "embeddings": [("model", None), (None, "model")],
    # ALBERT's way from the token's width to the hidden one
    "projection/kernel": [(None, "model"), ()],
    "projection/bias": [("model",), ()],
    "pooler/dense/kernel": [(None, "model"), ()],
    "pooler/dense/bias": [("model",), ()],
    "masked_lm_head/dense/kernel": [(None, "model"), ()],
    "masked_lm_head/dense/bias": [("model",), ()],
    "(masked_lm_head/bias|output_bias)/bias": [("model",), ()],
}


def split_axes(path, shape, model_dim):
    """Says along which axes one weight is split.

    Args:
        path: str, `variable.path`.
        shape: tuple of int.
        model_dim: int, number of devices that share one copy of the model.

    Returns:
        A tuple with `"model"` or None for each axis.

    Raises:
        ValueError: if the weight has to be split and `model_dim` does not divide it.

    Example:
        >>> split_axes("block/self_attention/query/kernel", (6, 8), model_dim=4)
        (None, 'model')
        >>> split_axes("token_embedding/embeddings", (31, 8), model_dim=4)
        (None, 'model')
    """
    copied = (None,) * len(shape)
    for ending, choices in MODEL_PARALLEL_LAYOUT.items():
        if not re.fullmatch(WITHIN + ending, path):
            continue
        for axes in choices:
            axes = axes or copied
            # A layer of someone else's may have the same name and another rank.
            if len(axes) != len(shape):
                return copied
            if all(
                length % model_dim == 0
                for length, axis in zip(shape, axes, strict=True)
                if axis
            ):
                return axes
        raise ValueError(
            f"Received the weight {path!r} of shape {tuple(shape)} for model_dim="
            f"{model_dim}. Expected {_what_to_divide(path, choices)} to be divisible "
            f"by {model_dim}. Choose a model_dim that divides it, or build the model "
            "with another size."
        )
    return copied


def shard_shape(path, shape, model_dim):
    """Gives the shape of the part of a weight that one device holds.

    Args:
        path, shape, model_dim: see `split_axes`.

    Returns:
        A tuple of int.

    Raises:
        ValueError: see `split_axes`.

    Example:
        >>> shard_shape("block/feed_forward/output/kernel", (12, 5), model_dim=4)
        (3, 5)
    """
    axes = split_axes(path, shape, model_dim)
    return tuple(
        length // model_dim if axis else length
        for length, axis in zip(shape, axes, strict=True)
    )


def _what_to_divide(path, choices):
    """Names the argument of the builder that a weight's split length comes from."""
    if path.rsplit("/", 1)[-1] == "embeddings":
        return "vocabulary_size or the width of the table"
    name = "intermediate_dim" if "intermediate" in path else "num_heads * key_dim"
    return f"{name} (axis {choices[0].index('model')})"
