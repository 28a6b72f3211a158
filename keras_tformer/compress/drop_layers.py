"""Models with fewer blocks."""

import re

from keras_tformer.compress.rebuild import rebuild
from keras_tformer.compress.structure_importance import blocks


def drop_layers(model, layers):
    """Returns a shallower model: some of its Transformer blocks are left out.

    Sajjad et al. 2023, "On the effect of dropping layers of pre-trained transformer
    models": what comes into a dropped block goes on as it is, and fine-tuning mends the
    rest. The uppermost blocks are missed least; leaving out every other one is what
    DistilBERT starts from.

    ALBERT has one block for all depths: a call less makes it faster but not smaller,
    and no call can be chosen rather than another. That is `albert_encoder` with a
    smaller `num_layers` and the same weights, and is not done here.

    Args:
        model: a built `keras.Model` of `bert_encoder` or `causal_lm`, with or without
            head.
        layers: the numbers of the blocks to drop, from 0 at the input; negative ones
            count from the last.

    Returns:
        A new `keras.Model` of the same kind with weights of its own, not compiled. Its
        blocks are numbered anew: it is what the builder makes with fewer `num_layers`.

    Raises:
        ValueError: if a number is not that of a block or none would be left, if blocks
            are shared (ALBERT) or of two kinds (`transformer`), or if the model
            returns the outputs or attention weights of each block.

    Example:

    >>> import keras_tformer as kt
    >>> model = kt.models.bert_encoder(
    ...     vocabulary_size=31, num_layers=3, num_heads=2, hidden_dim=14,
    ...     intermediate_dim=11,
    ... )
    >>> [layer.name for layer in drop_layers(model, [0]).layers][-3:]
    ['encoder_layer_0', 'encoder_layer_1', 'pooler']
    """
    found = blocks(model)
    _check(model, found)
    numbers = {int(number) for number in layers}
    wrong = [n for n in numbers if not -len(found) <= n < len(found)]
    numbers = {n % len(found) for n in numbers}
    if wrong or not numbers or len(numbers) == len(found):
        raise ValueError(
            f"layers={list(layers)} are numbers of blocks to drop, some but not all of "
            f"0 to {len(found) - 1} ('{found[0].name}' to '{found[-1].name}')."
        )
    kept = [block for n, block in enumerate(found) if n not in numbers]
    dropped = [block.name for n, block in enumerate(found) if n in numbers]
    names = {
        old.name: {"name": new.name} for old, new in zip(kept, found, strict=False)
    }
    shallower, copies = rebuild(model, names, dropped)
    for layer, copy in copies:
        for weight, own in zip(layer.weights, copy.weights, strict=True):
            own.assign(weight)
    return shallower


def _check(model, found):
    # Calls in this model; of two on the same tensor one is for the position that a head
    # reads. (The encoder under a head may have calls that are not in it.)
    made = {
        (id(node.operation), id(node.input_tensors[0]))
        for nodes in model._nodes_by_depth.values()
        for node in nodes
        if node.input_tensors
    }
    calls = [sum(id(block) == operation for operation, _ in made) for block in found]
    if max(calls) > 1:
        shared = found[calls.index(max(calls))]
        raise ValueError(
            f"The blocks of '{model.name}' are shared: '{shared.name}' is called "
            f"{max(calls)} times with the same weights, so that no call can be dropped "
            "rather than another, and no weight is saved. For fewer calls build "
            "albert_encoder with a smaller num_layers, and "
            "new.set_weights(old.get_weights())."
        )
    stacks = {re.sub(r"\d+$", "", block.name) for block in found}
    if len(stacks) > 1:
        raise ValueError(
            f"'{model.name}' has blocks of several kinds, {', '.join(sorted(stacks))}:"
            " which of them a number means is open. Models of one stack are expected "
            "(bert_encoder, causal_lm)."
        )
    outputs = model.output if isinstance(model.output, dict) else {}
    listed = sorted({"hidden_states", "attention_scores"} & set(outputs))
    if listed:
        raise ValueError(
            f"'{model.name}' returns {' and '.join(listed)}, one for each block. Build "
            "it without (return_hidden_states, return_attention_scores) and hand the "
            "weights over: new.set_weights(old.get_weights())."
        )
