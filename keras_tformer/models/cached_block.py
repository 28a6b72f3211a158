"""One block of a decoder, for the newest tokens only.

The blocks' own `call` takes caches too, in the shape `(B, S, H, K)` that they are
computed in. Products over heads want keys as `(B, H, K, S)` and values as
`(B, H, S, K)`, and turning whole caches round in every step takes longer than the
products. Here they are kept as they are wanted.
"""

import math

from keras import ops


def heads_first(cache):
    """Turns keys and values round, once, for the steps to come.

    Args:
        cache: pair of `(B, S, H, K)` tensors.

    Returns:
        Pair of keys `(B, H, K, S)` and values `(B, H, S, K)`.
    """
    keys, values = cache
    return ops.transpose(keys, (0, 2, 3, 1)), ops.transpose(values, (0, 2, 1, 3))


def step_block(block, x, cache, slot, bias, cross_cache=None, cross_bias=None):
    """Runs a block on the newest token of every hypothesis.

    Vaswani et al. 2017, section 3.1: what `TransformerDecoder` computes at the last
    position.

    Args:
        block: a built `TransformerDecoder`.
        x: `(B, N, D)` tensor.
        cache: pair of keys `(B, H, K, S)` and values `(B, H, S, K)`.
        slot: int or scalar tensor, where the N new keys and values are written.
        bias: `(B, 1, N, S)` tensor that is added to the scores of self-attention.
        cross_cache: as `cache`, of the encoder's output: one for all hypotheses.
        cross_bias: `(B, 1, 1, S)` tensor that is added to the scores of the source.

    Returns:
        The `(B, N, D)` states and the new cache.
    """
    attention = block.self_attention
    normed = block.self_attention_norm(x) if block.normalize_first else x
    rows = ops.reshape(normed, (-1, x.shape[-1]))  # (B * N, D)
    new = (_split(attention, part(rows), x) for part in _key_and_value(attention))
    keys, values = heads_first(tuple(new))
    cache = (
        ops.slice_update(cache[0], (0, 0, 0, slot), keys),
        ops.slice_update(cache[1], (0, 0, slot, 0), values),
    )
    x = x + _attend(attention, rows, x, cache, bias)
    if not block.normalize_first:
        x = block.self_attention_norm(x)

    if block.cross_attention is not None:
        normed = block.cross_attention_norm(x) if block.normalize_first else x
        rows = ops.reshape(normed, (-1, x.shape[-1]))
        x = x + _attend(block.cross_attention, rows, x, cross_cache, cross_bias)
        if not block.normalize_first:
            x = block.cross_attention_norm(x)

    normed = block.feed_forward_norm(x) if block.normalize_first else x
    x = x + block.feed_forward(normed)
    if not block.normalize_first:
        x = block.feed_forward_norm(x)
    return x, cache  # (B, N, D)


def _key_and_value(attention):
    return attention.key_dense, attention.value_dense


def _split(attention, rows, x):
    heads = attention.num_heads
    shape = (-1, x.shape[1], heads, rows.shape[-1] // heads)
    return ops.reshape(rows, shape)  # (B, N, H, K)


def _attend(attention, rows, x, cache, bias):
    """Queries of all hypotheses against one cache: `(B * N, D)` to `(B, N, D)`."""
    keys, values = cache
    queries = _split(attention, attention.query_dense(rows), x)
    queries = queries * (1 / math.sqrt(queries.shape[-1]))
    queries = ops.transpose(queries, (0, 2, 1, 3))  # (B, H, N, K)
    scores = ops.cast(ops.matmul(queries, keys), "float32") + bias  # (B, H, N, S)
    weights = ops.cast(ops.softmax(scores, axis=-1), attention.compute_dtype)
    context = ops.transpose(ops.matmul(weights, values), (0, 2, 1, 3))  # (B, N, H, K)
    context = ops.reshape(context, (-1, context.shape[-2] * context.shape[-1]))
    return ops.reshape(attention.output_dense(context), (-1, *x.shape[1:]))  # (B, N, D)
