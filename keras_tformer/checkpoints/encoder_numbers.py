"""Reads from a model of this package the numbers that it was built from."""


def encoder_numbers(model):
    """Returns the numbers that `bert_encoder` or `albert_encoder` was called with.

    Args:
        model: `keras.Model` of `bert_encoder` or `albert_encoder`, with or without a
            head of this package.

    Returns:
        A pair: `"bert"` or `"albert"`, and a dict of the builder's keyword arguments.

    Raises:
        ValueError: if `model` is not such a model, or has been rewritten (flattened,
            quantized), so that its blocks are gone.

    Example:
        >>> from keras_tformer.models import BERT_SIZES, bert_encoder
        >>> model = bert_encoder(vocabulary_size=31, **BERT_SIZES["tiny"])
        >>> family, numbers = encoder_numbers(model)
        >>> family, numbers["num_layers"], numbers["hidden_dim"]
        ('bert', 2, 128)
    """
    layers = {layer.name: layer for layer in getattr(model, "layers", [])}
    blocks = {
        name: layer
        for name, layer in layers.items()
        if type(layer).__name__ == "TransformerEncoder"
        and name.startswith(("encoder_layer_", "encoder_group_"))
    }
    if not blocks or not {"token_embedding", "embeddings"} <= set(layers):
        raise ValueError(
            "Expected a model of `bert_encoder` or `albert_encoder`, with or without a "
            f"head. Received: {type(model).__name__} {getattr(model, 'name', '')!r}, "
            "which has no blocks of such a model. Pass the model as it was before it "
            "was flattened or quantized; strip a pruned one first."
        )
    block, embeddings = next(iter(blocks.values())), layers["embeddings"]
    numbers = {
        "vocabulary_size": layers["token_embedding"].vocabulary_size,
        "num_heads": block.num_heads,
        "hidden_dim": embeddings.hidden_dim,
        "intermediate_dim": block.intermediate_dim,
        "max_sequence_length": embeddings.max_sequence_length,
        "num_segments": embeddings.num_segments,
        "activation": block.get_config()["activation"],
        "dropout": block.dropout,
        "attention_dropout": block.attention_dropout,
        "layer_norm_epsilon": block.layer_norm_epsilon,
        "initializer_range": getattr(block.kernel_initializer, "stddev", 0.02),
        "mask_value": block.mask_value,
    }
    if "encoder_layer_0" in blocks:
        return "bert", {**numbers, "num_layers": len(blocks)}
    groups = {name.split("_layer_")[0] for name in blocks}
    # A shared block stands once among the layers and has one node for each call; two on
    # the same tensor where a head has the last call make its first position alone.
    calls = len(
        {
            (id(node.operation), id(node.input_tensors[0]))
            for nodes in model._nodes_by_depth.values()
            for node in nodes
            if node.operation.name.startswith("encoder_group_")
            and node.operation.name.endswith("_layer_0")
        }
    )
    return "albert", {
        **numbers,
        "embedding_dim": layers["token_embedding"].embedding_dim,
        "num_layers": calls,
        "num_groups": len(groups),
        "num_inner_repetitions": len(blocks) // len(groups),
    }


def require_plain(model, what):
    """Refuses an encoder that is not just BERT or ALBERT.

    `bert_encoder` also builds the encoders of RoBERTa, ELECTRA and DistilBERT.

    Args:
        model: `keras.Model` of `bert_encoder` or `albert_encoder`.
        what: words for what only knows BERT and ALBERT, for the message.

    Raises:
        ValueError: naming what they have not.

    Example:
        >>> from keras_tformer.models import BERT_SIZES, bert_encoder
        >>> sizes = BERT_SIZES["tiny"]
        >>> model = bert_encoder(vocabulary_size=31, position_offset=2, **sizes)
        >>> require_plain(model, "KerasHub")
        Traceback (most recent call last):
        ...
        ValueError: KerasHub knows BERT and ALBERT only. `bert_encoder` has a...
    """
    family, numbers = encoder_numbers(model)
    layers = {layer.name: layer for layer in model.layers}
    wrong = []
    if layers["embeddings"].get_config().get("position_offset"):
        wrong.append("a position_offset")
    embedding_dim = layers["token_embedding"].embedding_dim
    if family == "bert" and embedding_dim != numbers["hidden_dim"]:
        wrong.append(f"embedding_dim={embedding_dim}")
    blocks = [x for x in model.layers if type(x).__name__ == "TransformerEncoder"]
    width = numbers["hidden_dim"] // numbers["num_heads"]
    if blocks[0].key_dim not in (None, width):  # it has lost heads
        wrong.append(f"key_dim={blocks[0].key_dim}")
    if "pooler" in layers and layers["pooler"].get_config()["activation"] != "tanh":
        wrong.append("another activation in its pooler")
    if "pre_classifier" in layers:
        wrong.append("a layer before its classifier")
    if wrong:
        raise ValueError(
            f"{what} knows BERT and ALBERT only. `{model.name}` has "
            f"{' and '.join(wrong)}. Save it with `save_huggingface` or as a .keras "
            "file."
        )


def task_of(model):
    """Returns the name of the builder of a model's head, or `"encoder"`.

    Args:
        model: `keras.Model` of this package.

    Returns:
        `"encoder"`, `"masked_lm"`, `"bert_pretrainer"`, `"albert_pretrainer"`,
        `"sequence_classifier"`, `"token_classifier"` or `"span_classifier"`.

    Example:
        >>> from keras_tformer.models import BERT_SIZES, bert_encoder, span_classifier
        >>> encoder = bert_encoder(vocabulary_size=31, **BERT_SIZES["tiny"])
        >>> task_of(encoder), task_of(span_classifier(encoder))
        ('encoder', 'span_classifier')
    """
    names = {layer.name for layer in model.layers}
    if "masked_lm_head" in names:
        if "next_sentence" in names:
            return "bert_pretrainer"
        return "albert_pretrainer" if "sentence_order" in names else "masked_lm"
    if "span" in names:
        return "span_classifier"
    if "classifier" in names:
        rank = len(model.output.shape)
        return "sequence_classifier" if rank == 2 else "token_classifier"
    return "encoder"
