"""Models of KerasHub become ours, and ours KerasHub's, with equal outputs."""

import warnings

from keras_tformer.checkpoints.encoder_numbers import (
    encoder_numbers,
    require_plain,
    task_of,
)
from keras_tformer.checkpoints.weight_table import arrays, fill, rows
from keras_tformer.models import (
    albert_encoder,
    bert_encoder,
    masked_lm,
    sequence_classifier,
)

# KerasHub's path, what happens (R: attention's (D, H, K) becomes (D, H * K)), ours.
BACKBONE = """
token_embedding/embeddings     =  token_embedding/embeddings
position_embedding/embeddings  =  embeddings/position_embedding/embeddings
segment_embedding/embeddings   =  embeddings/segment_embedding/embeddings
embeddings_layer_norm/gamma    =  embeddings/layer_norm/gamma
embeddings_layer_norm/beta     =  embeddings/layer_norm/beta
embedding_projection/kernel    =  embeddings/projection/kernel
embedding_projection/bias      =  embeddings/projection/bias
pooled_dense/kernel            =  pooler/dense/kernel
pooled_dense/bias              =  pooler/dense/bias
"""

BLOCK = """
self_attention_layer/query/kernel             R  self_attention/query/kernel
self_attention_layer/query/bias               R  self_attention/query/bias
self_attention_layer/key/kernel               R  self_attention/key/kernel
self_attention_layer/key/bias                 R  self_attention/key/bias
self_attention_layer/value/kernel             R  self_attention/value/kernel
self_attention_layer/value/bias               R  self_attention/value/bias
self_attention_layer/attention_output/kernel  R  self_attention/attention_output/kernel
self_attention_layer/attention_output/bias    =  self_attention/attention_output/bias
self_attention_layer_norm/gamma               =  self_attention_norm/gamma
self_attention_layer_norm/beta                =  self_attention_norm/beta
feedforward_intermediate_dense/kernel         =  feed_forward/intermediate/kernel
feedforward_intermediate_dense/bias           =  feed_forward/intermediate/bias
feedforward_output_dense/kernel               =  feed_forward/output/kernel
feedforward_output_dense/bias                 =  feed_forward/output/bias
feedforward_layer_norm/gamma                  =  feed_forward_norm/gamma
feedforward_layer_norm/beta                   =  feed_forward_norm/beta
"""

HEADS = """
mlm_head/intermediate_dense/kernel       =  masked_lm_head/dense/kernel
mlm_head/intermediate_dense/bias         =  masked_lm_head/dense/bias
mlm_head/intermediate_layer_norm/gamma   =  masked_lm_head/layer_norm/gamma
mlm_head/intermediate_layer_norm/beta    =  masked_lm_head/layer_norm/beta
mlm_head/output_bias                     =  masked_lm_head/bias/bias
logits/kernel                            =  classifier/kernel
logits/bias                              =  classifier/bias
"""

# KerasHub's constructors take no activation and no epsilon: these are built in.
_EPSILON = 1e-12
_HEAD_EPSILON = 1e-5
_HEAD_ACTIVATION = {"bert": "gelu", "albert": "gelu_tanh"}
_POOLER = ("pooled_dense/kernel", "pooled_dense/bias")


def from_keras_hub(backbone_or_task, *, mask_value=-1e9):
    """Builds the same model here, with equal outputs.

    Sizes, dropout, epsilon, activation and dtype come along. KerasHub's masked language
    models have a head with an epsilon of 1e-5 and, for BERT, the exact GELU, whatever
    the blocks have: ours gets the same. Their models of masked tokens do not use the
    pooler, which stays behind.

    Args:
        backbone_or_task: `BertBackbone`, `AlbertBackbone`, `BertTextClassifier`,
            `AlbertTextClassifier`, `BertMaskedLM` or `AlbertMaskedLM` of KerasHub.
        mask_value: negative float added to the scores of masked keys; -30 for a model
            that will be quantized.

    Returns:
        A `keras.Model`: the encoder, a `sequence_classifier` or a `masked_lm`. It takes
        the same dict of inputs; `masked_lm` returns `{"masked_lm": logits}`.

    Raises:
        ImportError: if KerasHub is missing.
        ValueError: if it is another object, or one that our models cannot express.

    Example:
        >>> import keras_hub
        >>> theirs = keras_hub.models.BertBackbone(
        ...     vocabulary_size=31, num_layers=2, num_heads=3, hidden_dim=21,
        ...     intermediate_dim=11,
        ... )
        >>> ours = kt.checkpoints.from_keras_hub(theirs)
        >>> ours.count_params() == theirs.count_params()
        True
    """
    their_models = _keras_hub().models
    backbone = getattr(backbone_or_task, "backbone", backbone_or_task)
    if isinstance(backbone, their_models.BertBackbone):
        family, build = "bert", bert_encoder
        blocks = list(backbone.transformer_layers)
        kinds = (their_models.BertTextClassifier, their_models.BertMaskedLM)
    elif isinstance(backbone, their_models.AlbertBackbone):
        family, build = "albert", albert_encoder
        blocks = [block for group in backbone.transformer_layers for block in group]
        kinds = (their_models.AlbertTextClassifier, their_models.AlbertMaskedLM)
    else:
        raise _foreign(backbone_or_task)
    if not isinstance(backbone_or_task, (type(backbone), *kinds)):
        raise _foreign(backbone_or_task)

    encoder = build(
        **_numbers(family, backbone, blocks),
        mask_value=mask_value,
        dtype=blocks[0].dtype_policy,
    )
    if isinstance(backbone_or_task, kinds[0]):
        _require_logits(backbone_or_task)
        model = sequence_classifier(
            encoder,
            num_classes=backbone_or_task.num_classes,
            dropout=backbone_or_task.dropout,
        )
    elif isinstance(backbone_or_task, kinds[1]):
        model = masked_lm(encoder)
        _copy_head_numbers(
            backbone_or_task.masked_lm_head, model.get_layer("masked_lm_head")
        )
    else:
        model = encoder

    weights = {weight.path: weight for weight in backbone_or_task.weights}
    table_rows = _table(family, blocks)
    _require_known(weights, table_rows, backbone_or_task)
    fill(
        model,
        table_rows,
        lambda path: _numpy(weights[path]),
        weights,
        {path: tuple(weight.shape) for path, weight in weights.items()},
        understood=_POOLER,
        what=f"KerasHub's {type(backbone_or_task).__name__}",
    )
    return model


def to_keras_hub(model):
    """Builds the same model in KerasHub, with equal outputs and the same weights.

    KerasHub's BERT and ALBERT compute GELU in its tanh form with an epsilon of 1e-12
    and take one dropout for all; a model with other numbers would give other outputs
    there, and is refused.

    Args:
        model: `keras.Model` of `bert_encoder` or `albert_encoder`, alone or under
            `sequence_classifier` or `masked_lm`.

    Returns:
        `BertBackbone`, `AlbertBackbone`, or their `TextClassifier` or `MaskedLM`,
        without a preprocessor.

    Raises:
        ImportError: if KerasHub is missing.
        ValueError: if KerasHub has no such model.

    Example:
        >>> encoder = kt.models.bert_encoder(
        ...     vocabulary_size=31, num_layers=2, num_heads=3, hidden_dim=21,
        ...     intermediate_dim=11, activation="gelu_tanh",
        ... )
        >>> type(kt.checkpoints.to_keras_hub(encoder)).__name__
        'BertBackbone'
    """
    their_models = _keras_hub().models
    require_plain(model, "KerasHub")
    family, numbers = encoder_numbers(model)
    task = task_of(model)
    _require_theirs(model, family, numbers, task)
    sizes = {
        name: numbers[name]
        for name in (
            "vocabulary_size",
            "num_layers",
            "num_heads",
            "hidden_dim",
            "intermediate_dim",
            "dropout",
            "max_sequence_length",
            "num_segments",
        )
    }
    prefix = "encoder_layer_" if family == "bert" else "encoder_group_"
    block = next(x for x in model.layers if x.name.startswith(prefix))
    if family == "bert":
        theirs = their_models.BertBackbone(**sizes, dtype=block.dtype_policy)
        blocks = list(theirs.transformer_layers)
        kinds = (their_models.BertTextClassifier, their_models.BertMaskedLM)
    else:
        sizes |= {
            name: numbers[name]
            for name in ("embedding_dim", "num_groups", "num_inner_repetitions")
        }
        theirs = their_models.AlbertBackbone(**sizes, dtype=block.dtype_policy)
        blocks = [block for group in theirs.transformer_layers for block in group]
        kinds = (their_models.AlbertTextClassifier, their_models.AlbertMaskedLM)
    if task == "sequence_classifier":
        theirs = kinds[0](
            theirs,
            num_classes=model.output.shape[-1],
            dropout=model.get_layer("classifier_dropout").rate,
        )
    elif task == "masked_lm":
        theirs = kinds[1](theirs)

    weights = {weight.path: weight for weight in theirs.weights}
    shapes = {path: tuple(weight.shape) for path, weight in weights.items()}
    for path, array in arrays(model, _table(family, blocks), shapes):
        weights.pop(path).assign(array)
    if weights:
        warnings.warn(
            f"`{model.name}` has no weights for {', '.join(sorted(weights))} of "
            f"KerasHub's {type(theirs).__name__}, which keep their initial value.",
            stacklevel=2,
        )
    return theirs


def _keras_hub():
    try:
        import keras_hub
    except ImportError as error:
        raise ImportError(
            "KerasHub's models need KerasHub. Install it: "
            '`pip install "keras_tformer[hub]"`.'
        ) from error
    return keras_hub


def _foreign(found):
    return ValueError(
        "Expected a BertBackbone, AlbertBackbone, BertTextClassifier, "
        "AlbertTextClassifier, BertMaskedLM or AlbertMaskedLM of KerasHub. Received: "
        f"{type(found).__module__}.{type(found).__name__}. Pass one of these; "
        "KerasHub's other models have no counterpart here."
    )


# === From KerasHub ===


def _numbers(family, backbone, blocks):
    block = blocks[0]
    numbers = {
        "vocabulary_size": backbone.vocabulary_size,
        "num_layers": backbone.num_layers,
        "num_heads": backbone.num_heads,
        "hidden_dim": backbone.hidden_dim,
        "intermediate_dim": backbone.intermediate_dim,
        "max_sequence_length": backbone.max_sequence_length,
        "num_segments": backbone.num_segments,
        "activation": _activation_name(block.activation),
        "dropout": block.dropout,
        "attention_dropout": block.dropout,
        "layer_norm_epsilon": block.layer_norm_epsilon,
    }
    epsilon = backbone.embeddings_layer_norm.epsilon
    if epsilon != block.layer_norm_epsilon:
        raise ValueError(
            f"KerasHub's backbone normalizes embeddings with epsilon {epsilon} and "
            f"blocks with {block.layer_norm_epsilon}. Expected one number for both, "
            "as its own constructors give it."
        )
    if family == "bert":
        return numbers
    if backbone.embedding_dim == backbone.hidden_dim:
        raise ValueError(
            f"KerasHub's backbone projects embeddings of width {backbone.hidden_dim} "
            "to the same width. Expected embedding_dim and hidden_dim to differ: our "
            "`albert_encoder`, like Google's, has no projection where they are equal."
        )
    return {
        **numbers,
        "embedding_dim": backbone.embedding_dim,
        "num_groups": backbone.num_groups,
        "num_inner_repetitions": backbone.num_inner_repetitions,
    }


def _activation_name(activation):
    import keras

    name = getattr(activation, "__name__", str(activation))
    if name == "gelu_approximate":
        return "gelu_tanh"
    if getattr(keras.activations, name, None) is activation:
        return name
    raise ValueError(
        f"KerasHub's model has an activation of its own, {name!r}. Expected one of "
        "Keras or KerasHub's `gelu_approximate`."
    )


def _require_logits(classifier):
    name = getattr(classifier.activation, "__name__", str(classifier.activation))
    if name != "linear":
        raise ValueError(
            f"KerasHub's classifier returns {name} of its logits. Expected logits: our "
            "heads return them. Build it with `activation=None` and load its weights."
        )


def _copy_head_numbers(theirs, ours):
    """Both attributes are all that `call` and `get_config` of our head look at."""
    import keras

    name = _activation_name(theirs.intermediate_activation)
    registered = keras.saving.get_registered_object(f"keras_tformer>{name}")
    ours.activation = registered or keras.activations.get(name)
    ours.layer_norm_epsilon = theirs.layer_norm_epsilon
    ours.layer_norm.epsilon = theirs.layer_norm_epsilon


def _require_known(weights, table_rows, found):
    unknown = sorted(set(weights) - {name for name, _, _ in table_rows})
    if unknown:
        raise ValueError(
            f"KerasHub's {type(found).__name__} has weights that a new one does not "
            f"have, such as {unknown[0]}. Expected plain weights. Merge LoRA weights "
            "and undo quantization first."
        )


# === To KerasHub ===


def _require_theirs(model, family, numbers, task):
    wrong = []
    if task not in ("encoder", "sequence_classifier", "masked_lm"):
        wrong.append(f"a head that KerasHub does not have ({task})")
    if numbers["activation"] != "gelu_tanh":
        wrong.append(f"activation={numbers['activation']!r} (there: 'gelu_tanh')")
    if numbers["layer_norm_epsilon"] != _EPSILON:
        epsilon = numbers["layer_norm_epsilon"]
        wrong.append(f"layer_norm_epsilon={epsilon} (there: {_EPSILON})")
    if numbers["attention_dropout"] != numbers["dropout"]:
        wrong.append(
            f"attention_dropout={numbers['attention_dropout']} beside dropout="
            f"{numbers['dropout']} (there: one number)"
        )
    if numbers["num_segments"] is None:
        wrong.append("no segments")
    if family == "albert" and numbers["embedding_dim"] == numbers["hidden_dim"]:
        wrong.append("no projection of its embeddings")
    if task == "masked_lm":
        head = model.get_layer("masked_lm_head")
        found = (head.get_config()["activation"], head.layer_norm_epsilon)
        there = (_HEAD_ACTIVATION[family], _HEAD_EPSILON)
        if found != there:
            wrong.append(f"a head with activation and epsilon {found} (there: {there})")
    if wrong:
        raise ValueError(
            f"KerasHub cannot hold `{model.name}` with equal outputs. It has "
            f"{'; '.join(wrong)}. Save it with `save_huggingface` or as a .keras file, "
            "or pass the encoder alone where it is the head."
        )


# === Both ===


def _table(family, blocks):
    found = rows(BACKBONE) + rows(HEADS)
    for block in blocks:
        # group_0_inner_layer_1 is our encoder_group_0_layer_1.
        number = block.name.removeprefix("transformer_layer_").removeprefix("group_")
        ours = f"encoder_layer_{number}"
        if family == "albert":
            ours = f"encoder_group_{number.replace('_inner_layer_', '_layer_')}"
        found += rows(BLOCK, f"{block.name}/", f"{ours}/")
    return found


def _numpy(weight):
    from keras import ops

    return ops.convert_to_numpy(weight.value)
