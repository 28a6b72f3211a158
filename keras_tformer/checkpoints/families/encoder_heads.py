"""Which head a model of ours has, and how one is put on an encoder."""

from keras_tformer.models import (
    albert_pretrainer,
    bert_pretrainer,
    masked_lm,
    sequence_classifier,
    span_classifier,
    token_classifier,
)


def add_head(encoder, task, num_classes, dropout, span_dropout=0.0, pair_dropout=0.1):
    """Puts the head of a task on an encoder.

    Args:
        encoder: `keras.Model` of one of the builders.
        task: name of the builder, or `"encoder"` for none.
        num_classes: int, classes of the two classifiers.
        dropout: float, before the layer of the two classifiers.
        span_dropout: float, before the layer of the span classifier.
        pair_dropout: float, before ALBERT's sentence-order classifier.

    Returns:
        A `keras.Model`.

    Example:
        >>> from keras_tformer import models
        >>> sizes = models.BERT_SIZES["tiny"]
        >>> encoder = models.bert_encoder(vocabulary_size=31, **sizes)
        >>> add_head(encoder, "token_classifier", 3, 0.1).output.shape
        (None, None, 3)
    """
    if task == "encoder":
        return encoder
    if task == "masked_lm":
        return masked_lm(encoder)
    if task == "bert_pretrainer":
        return bert_pretrainer(encoder)
    if task == "albert_pretrainer":
        return albert_pretrainer(encoder, dropout=pair_dropout)
    if task == "span_classifier":
        return span_classifier(encoder, dropout=span_dropout)
    build = {
        "sequence_classifier": sequence_classifier,
        "token_classifier": token_classifier,
    }[task]
    return build(encoder, num_classes=num_classes, dropout=dropout)


def task_of(model):
    """Finds out which builder made a model, from its layers and outputs.

    Args:
        model: `keras.Model`.

    Returns:
        The name of the builder of its head, `"encoder"`, `"causal_lm"` or
        `"transformer"`; None if it is none of this package's models.

    Example:
        >>> from keras_tformer import models
        >>> sizes = models.BERT_SIZES["tiny"]
        >>> task_of(models.bert_encoder(vocabulary_size=31, **sizes))
        'encoder'
    """
    names = {layer.name for layer in getattr(model, "layers", ())}
    outputs = getattr(model, "output", None)
    if "token_embedding" not in names or "text_pooling" in names:
        return None
    if "decoder_layer_0" in names:
        return "transformer" if "encoder_layer_0" in names else "causal_lm"
    if not names & {"encoder_layer_0", "encoder_group_0_layer_0"}:
        return None
    if "masked_lm_head" in names:
        if "next_sentence" in names:
            return "bert_pretrainer"
        return "albert_pretrainer" if "sentence_order" in names else "masked_lm"
    if "span" in names:
        return "span_classifier"
    if "classifier" in names:
        rank = len(getattr(outputs, "shape", ()))
        return {2: "sequence_classifier", 3: "token_classifier"}.get(rank)
    if isinstance(outputs, dict) and "sequence_output" in outputs:
        return "encoder"
    return None


def layer_of(model, name):
    """Returns a layer of a model by its name, or None.

    Example:
        >>> from keras_tformer import models
        >>> sizes = models.BERT_SIZES["tiny"]
        >>> model = models.bert_encoder(vocabulary_size=31, **sizes)
        >>> layer_of(model, "pooler").name, layer_of(model, "poodle")
        ('pooler', None)
    """
    return next((layer for layer in model.layers if layer.name == name), None)


def rate_of(model, name, default):
    """Returns the rate of a dropout layer by its name.

    Example:
        >>> model = keras.Sequential([keras.layers.Dropout(0.2, name="drop")])
        >>> rate_of(model, "drop", 0.1), rate_of(model, "other", 0.1)
        (0.2, 0.1)
    """
    layer = layer_of(model, name)
    return default if layer is None else layer.rate


def equal_blocks(model, prefix, normalize_first=False, use_attention_bias=True):
    """Returns the configuration that all blocks of a model share.

    Args:
        model: `keras.Model` of one of the builders.
        prefix: what the blocks' names begin with.
        normalize_first, use_attention_bias: the values that a family computes; None
            where it computes both.

    Returns:
        A pair: the number of blocks and a dict of their arguments; the activation is
        its name.

    Raises:
        ValueError: if blocks differ, or have an option that the family lacks.

    Example:
        >>> from keras_tformer import models
        >>> model = models.bert_encoder(vocabulary_size=31, **models.BERT_SIZES["tiny"])
        >>> equal_blocks(model, "encoder_layer_")[0]
        2
    """
    blocks = [layer for layer in model.layers if layer.name.startswith(prefix)]
    kept = (
        "num_heads intermediate_dim key_dim activation dropout attention_dropout "
        "layer_norm_epsilon normalize_first use_attention_bias"
    ).split()
    # Attributes, because Keras' own `get_config` imports TensorFlow on every backend.
    configs = [
        {key: getattr(block, key) for key in kept}
        | {"activation": block.activation.__name__}
        for block in blocks
    ]
    if any(config != configs[0] for config in configs):
        raise ValueError(
            f"The blocks of `{model.name}` differ from each other, which a Hugging "
            f"Face configuration cannot say. Received: {configs}. Save it as `.keras`."
        )
    found = configs[0]
    width = blocks[0].self_attention.output_dense.units
    allowed = {
        "normalize_first": (normalize_first, found["normalize_first"]),
        "use_attention_bias": (use_attention_bias, found["use_attention_bias"]),
        "key_dim": (width // found["num_heads"], found["key_dim"]),
    }
    for name, (wanted, value) in allowed.items():
        if None not in (wanted, value) and wanted != value:
            raise ValueError(
                f"The blocks of `{model.name}` have {name}={value}. Expected {wanted}, "
                "which is what the Hugging Face model computes. Save it as `.keras`."
            )
    return len(blocks), found
