"""What a model computes inside, for each call of its blocks."""

import inspect

import keras
from keras import ops

# Told by name: this room does not import the layers.
_BLOCK = "TransformerEncoder"
_PROJECTIONS = {"queries": "query_dense", "keys": "key_dense", "values": "value_dense"}
FEATURES = ("hidden_states", "attention_scores", *_PROJECTIONS)


def number_of_calls(model):
    """Counts the calls of encoder blocks in a model: ALBERT's one block counts often.

    Args:
        model: `keras.Model`.

    Returns:
        An int, 0 for a model without such blocks (or one that was laid flat).

    Example:
        >>> sizes = dict(num_layers=3, num_heads=1, hidden_dim=5, intermediate_dim=7)
        >>> encoder = kt.models.albert_encoder(
        ...     vocabulary_size=11, embedding_dim=2, **sizes
        ... )
        >>> number_of_calls(encoder)
        3
    """
    return len(
        {  # of two calls on the same tensor one is for the position that a head reads
            (id(node.operation), id(node.input_tensors[0]))
            for nodes in getattr(model, "_nodes_by_depth", {}).values()
            for node in nodes
            if type(node.operation).__name__ == _BLOCK
        }
    )


def intermediate_outputs(model, features):
    """Gives a model that also returns what chosen calls of its blocks compute.

    Works on every model of this package's encoders, with or without a head, however it
    was built or loaded. Layers and weights are those of `model`, which is left as it
    is. Each *call* of a block counts, from 1: where ALBERT calls one block twelve
    times, call 7 is the seventh. (`layer.output`, which
    `keras.distillation.FeatureDistillation` reads, is the first call's.)

    Args:
        model: functional `keras.Model`.
        features: dict from names to lists of calls. Names are `"hidden_states"`, the
            output of a block, with call 0 for what goes into the first;
            `"attention_scores"`, the attention weights after the softmax; `"queries"`,
            `"keys"` and `"values"`, the projections that attention is computed from.

    Returns:
        A `keras.Model` from the inputs of `model` to a dict: `"outputs"`, what `model`
        returns, and under each name a dict from the calls, as strings, to tensors:
        hidden states `(B, T, D)`, attention scores `(B, H, T, T)`, projections `(B, T,
        H, K)`.

    Raises:
        ValueError: if the model is not functional, a name is unknown, or the model does
            not call its blocks as often.

    Example:
        >>> encoder = kt.models.bert_encoder(
        ...     vocabulary_size=11, **kt.models.BERT_SIZES["tiny"]
        ... )
        >>> model = intermediate_outputs(encoder, {"hidden_states": [0, 2]})
        >>> model.output["hidden_states"]["2"].shape
        (None, None, 128)
    """
    if not isinstance(model, keras.Function):
        raise ValueError(
            f"Received the model '{getattr(model, 'name', model)}' "
            f"({type(model).__name__}). Expected a functional model, whose graph can "
            "be looked into. Build it from keras.Input tensors."
        )
    num_calls = number_of_calls(model)
    for name, calls in features.items():
        if name not in FEATURES:
            raise ValueError(
                f"Received the feature {name!r}. Expected one of {', '.join(FEATURES)}."
            )
        first = 0 if name == "hidden_states" else 1
        wrong = [call for call in calls if not first <= call <= num_calls]
        if wrong or not num_calls:
            raise ValueError(
                f"Received {name} of the calls {list(calls)} of '{model.name}', which "
                f"calls {_BLOCK} blocks {num_calls} times. Expected calls from {first} "
                f"to {num_calls}. A model that was laid flat (quantized, say) has no "
                "blocks left: it can learn from the teacher's outputs only."
            )

    found = {name: {} for name in features}
    call_number, seen = 0, set()

    def wanted(name):
        return call_number in features.get(name, ())

    def call(layer, *args, **kwargs):
        nonlocal call_number
        if type(layer).__name__ != _BLOCK:
            return layer(*args, **kwargs)
        arguments = inspect.signature(layer.call).bind(*args, **kwargs).arguments
        this = id(layer), id(arguments["inputs"])
        if this in seen:
            return layer(*args, **kwargs)
        seen.add(this)
        if wanted("hidden_states"):  # only call 0, before the first block
            found["hidden_states"][str(call_number)] = arguments["inputs"]
        call_number += 1
        for name in _PROJECTIONS:
            if wanted(name):
                heads = AttentionHeads(layer, name, name=f"{name}_{call_number}")
                found[name][str(call_number)] = heads(arguments["inputs"])
        returns_scores = arguments.pop("return_attention_scores", False)
        x = arguments.pop("inputs")
        if not (wanted("hidden_states") or wanted("attention_scores")):
            return layer(*args, **kwargs)
        # Whoever looks into a block looks at all positions, not those of a head alone.
        num_queries = arguments.pop("num_queries", None)
        if not wanted("attention_scores"):
            output = layer(x, **arguments, return_attention_scores=returns_scores)
            hidden, scores = output if returns_scores else (output, None)
        else:
            block = BlockWithScores(layer, name=f"{layer.name}_call_{call_number}")
            hidden, scores = block(x, **arguments)
            found["attention_scores"][str(call_number)] = scores
        if wanted("hidden_states"):
            found["hidden_states"][str(call_number)] = hidden
        if num_queries is not None:
            hidden = hidden[:, :num_queries, :]  # (B, T, D)
            scores = scores[:, :, :num_queries, :] if returns_scores else None
        return (hidden, scores) if returns_scores else hidden

    # A model of its own is not compiled, so that the clone is not either.
    graph = keras.Model(model.input, model.output, name=model.name)
    graph = keras.models.clone_model(
        graph, clone_function=lambda layer: layer, call_function=call
    )
    return keras.Model(graph.input, {"outputs": graph.output, **found}, name=model.name)


class BlockWithScores(keras.layers.Layer):
    """Calls a block so that it returns its attention weights, too.

    Keras takes every call of a layer in a graph to have as many outputs as the first,
    so that a block that was called without its weights needs another name with them.

    Args:
        block: `TransformerEncoder`, built.

    Call arguments:
        inputs, padding_mask, attention_mask: as those of the block.

    Returns:
        `(B, T, D)` and `(B, H, T, T)` tensors.

    Example:
        >>> block = kt.layers.TransformerEncoder(num_heads=3, intermediate_dim=11)
        >>> x = keras.ops.ones((2, 5, 21))
        >>> y = block(x)
        >>> tuple(BlockWithScores(block)(x)[1].shape)
        (2, 3, 5, 5)
    """

    def __init__(self, block, **kwargs):
        super().__init__(dtype=block.dtype_policy, **kwargs)
        self.block = block
        self.built = True

    def call(self, inputs, padding_mask=None, attention_mask=None):
        masks = {"padding_mask": padding_mask, "attention_mask": attention_mask}
        return self.block(inputs, **masks, return_attention_scores=True)

    def compute_output_spec(self, inputs, padding_mask=None, attention_mask=None):
        return self.block.compute_output_spec(inputs, return_attention_scores=True)


class AttentionHeads(keras.layers.Layer):
    """Computes a block's queries, keys or values once more, as heads.

    Args:
        block: `TransformerEncoder`, built.
        projection: `"queries"`, `"keys"` or `"values"`.

    Call arguments:
        inputs: `(B, T, D)` tensor, what goes into the block.

    Returns:
        `(B, T, H, K)` tensor.

    Example:
        >>> block = kt.layers.TransformerEncoder(num_heads=3, intermediate_dim=11)
        >>> x = keras.ops.ones((2, 5, 21))
        >>> y = block(x)
        >>> tuple(AttentionHeads(block, "keys")(x).shape)
        (2, 5, 3, 7)
    """

    def __init__(self, block, projection, **kwargs):
        super().__init__(dtype=block.dtype_policy, **kwargs)
        self.block = block
        self.dense = getattr(block.self_attention, _PROJECTIONS[projection])
        self.built = True

    def call(self, inputs):
        x = inputs
        if self.block.normalize_first:
            x = self.block.self_attention_norm(x)
        num_heads = self.block.self_attention.num_heads
        shape = (-1, ops.shape(x)[1], num_heads, self.dense.units // num_heads)
        return ops.reshape(self.dense(x), shape)  # (B, T, H, K)

    def compute_output_spec(self, inputs):
        num_heads = self.block.self_attention.num_heads
        shape = (*inputs.shape[:2], num_heads, self.dense.units // num_heads)
        return keras.KerasTensor(shape, dtype=self.compute_dtype)
