"""Learning rates that shrink from the head down to the embeddings."""

import re

# `encoder_layer_3/...` of BERT, `decoder_layer_0/...` of language models.
BLOCK = re.compile(r"(?:^|/)(encoder|decoder)_layer_(\d+)(?:/|$)")
SHARED_BLOCK = re.compile(r"(?:^|/)encoder_group_\d+_layer_\d+(?:/|$)")
EMBEDDINGS = re.compile(r"(?:^|/)(?:\w+_)?embeddings?(?:/|$)")


def layer_rate_factors(model, decay):
    """Gives each variable the factor of its depth, for `adamw(rate_factors=...)`.

    With `L` blocks, the variables of block `l` (1 is the lowest) have
    `decay ** (L + 1 - l)`, the embeddings `decay ** (L + 1)`, and what stands above the
    blocks (pooler, head) has 1: the layer-wise decay with which ELECTRA and later
    encoders are fine-tuned (Clark et al. 2020, appendix B). Below an encoder-decoder's
    decoder stands its encoder.

    Args:
        model: `keras.Model` of this package with blocks of their own: BERT, causal
            language models, the Transformer.
        decay: float in (0, 1]. Quotient of the rates of two neighbouring blocks; 0.8
            for models of base size in ELECTRA's paper.

    Returns:
        A dict from variable paths to floats, for the trainable variables.

    Raises:
        ValueError: if `decay` is out of range, or the model shares its blocks, as
            ALBERT does, or has none.

    Example:
        >>> encoder = kt.models.bert_encoder(
        ...     vocabulary_size=23, num_layers=2, num_heads=1, hidden_dim=5,
        ...     intermediate_dim=7)
        >>> factors = kt.training.layer_rate_factors(encoder, decay=0.5)
        >>> factors["token_embedding/embeddings"]
        0.125
        >>> factors["encoder_layer_1/feed_forward/output/kernel"]
        0.5
        >>> optimizer = kt.training.adamw(1e-4, rate_factors=factors)
    """
    if not 0 < decay <= 1:
        raise ValueError(
            f"Received decay={decay}. Expected a float in (0, 1]. Use 0.8 for a model "
            "of 12 layers, 0.9 for one of 24, or 1 for the same rate everywhere."
        )
    paths = [variable.path for variable in model.trainable_variables]
    shared = next(filter(SHARED_BLOCK.search, paths), None)
    if shared:
        raise ValueError(
            f"The model shares its blocks between its layers ({shared!r}). Expected a "
            "block for each layer: a shared one has no depth of its own. Use one "
            "learning rate, or give factors of your own to adamw."
        )
    blocks = {match.groups() for match in map(BLOCK.search, paths) if match}
    if not blocks:
        raise ValueError(
            f"The model has no variable in an encoder_layer_N or decoder_layer_N, but "
            f"{paths[:3]}. Expected a model of keras_tformer.models that is trainable. "
            "Give factors of your own to adamw."
        )
    lowest_first = sorted(blocks, key=lambda b: (b[0] == "decoder", int(b[1])))
    depths = {block: depth for depth, block in enumerate(lowest_first, start=1)}
    top = len(depths) + 1

    def depth(path):
        match = BLOCK.search(path)
        if match:
            return depths[match.groups()]
        return 0 if EMBEDDINGS.search(path) else top

    return {path: decay ** (top - depth(path)) for path in paths}
