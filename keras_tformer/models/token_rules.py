"""What may be generated: rules that change the scores of tokens before one is chosen.

A rule is there or not when the graph is made; its numbers are inputs of the graph, so
that another penalty compiles nothing anew.
"""

import numpy as np
from keras import ops

# Far below any log-probability, and its sums with -1e9 stay finite in float32.
IMPOSSIBLE = -1e30


def make_token_rules(
    vocabulary_size,
    prompt_lengths,
    num_steps,
    end_token_id=None,
    repetition_penalty=1.0,
    min_length=0,
    forbidden_token_ids=(),
    forced_token_ids=None,
):
    """Turns the rules that are asked for into arrays.

    Args:
        vocabulary_size: int, number of tokens V.
        prompt_lengths: `(B,)` integers.
        num_steps: int, number of steps G.
        end_token_id: int, the token that ends a text.
        repetition_penalty: float, see `generate`.
        min_length: int, tokens that a text has at least, its prompt included.
        forbidden_token_ids: list of ints.
        forced_token_ids: dict from a step to the token that is generated there.

    Returns:
        A dict of arrays; only the rules that change something are in it.

    Example:
        >>> sorted(make_token_rules(7, np.array([2]), 3, forbidden_token_ids=[5]))
        ['forbidden']
    """
    rules = {}
    if repetition_penalty != 1:
        rules["repetition_penalty"] = np.float32(repetition_penalty)
    if len(forbidden_token_ids):
        rules["forbidden"] = np.zeros(vocabulary_size, "float32")
        rules["forbidden"][list(forbidden_token_ids)] = IMPOSSIBLE
    if end_token_id is not None and min_length > 0:
        rules["end"] = np.zeros(vocabulary_size, "float32")
        rules["end"][end_token_id] = IMPOSSIBLE
        rules["end_from_step"] = np.asarray(min_length - prompt_lengths, "int32")
    if forced_token_ids:
        rules["forced"] = np.full(num_steps, -1, "int32")
        for step, token_id in forced_token_ids.items():
            if step < num_steps:
                rules["forced"][step] = token_id
    return rules


def apply_token_rules(scores, rules, step, seen=None):
    """Changes the scores of tokens by the rules, in the order of Hugging Face.

    Args:
        scores: `(B, N, V)` logits or log-probabilities.
        rules: what `make_token_rules` returned, as tensors.
        step: int or scalar tensor, how many tokens were generated before.
        seen: `(B, N, V)` tensor, 1 for tokens that the text already has; needed for
            the repetition penalty.

    Returns:
        `(B, N, V)` tensor.

    Example:
        >>> rules = make_token_rules(3, np.array([2]), 3, forbidden_token_ids=[1])
        >>> x = apply_token_rules(np.ones((1, 1, 3), "float32"), rules, 0)
        >>> [float(v) > -1e9 for v in x[0, 0]]
        [True, False, True]
    """
    if "repetition_penalty" in rules:
        # Keskar et al. 2019, section 4.1; as in Hugging Face a score below 0 is
        # multiplied, so that both signs lose.
        penalty = rules["repetition_penalty"]
        lowered = ops.where(scores < 0, scores * penalty, scores / penalty)
        scores = ops.where(seen > 0, lowered, scores)
    if "forbidden" in rules:
        scores = scores + rules["forbidden"]
    if "end" in rules:
        too_early = ops.cast(step < rules["end_from_step"], "float32")  # (B,)
        scores = scores + ops.reshape(too_early, (-1, 1, 1)) * rules["end"]
    if "forced" in rules:
        token_id = ops.take(rules["forced"], step)
        tokens = ops.arange(scores.shape[-1], dtype="int32")
        only = ops.where(ops.equal(tokens, token_id), 0.0, IMPOSSIBLE)  # (V,)
        scores = ops.where(token_id >= 0, ops.broadcast_to(only, scores.shape), scores)
    return scores


def tokens_of_prompt(prompt_ids, prompt_lengths, vocabulary_size):
    """Marks the tokens that a prompt has.

    Args:
        prompt_ids: `(B, P)` integers, padded on the right.
        prompt_lengths: `(B,)` integers.
        vocabulary_size: int, number of tokens V.

    Returns:
        `(B, 1, V)` float tensor, 1 for a token that occurs.

    Example:
        >>> x = tokens_of_prompt(np.array([[2, 0, 1]]), np.array([2]), 4)
        >>> [float(v) for v in x[0, 0]]
        [1.0, 0.0, 1.0, 0.0]
    """
    seen = np.zeros((len(prompt_ids), 1, vocabulary_size), "float32")
    for row, (ids, length) in enumerate(zip(prompt_ids, prompt_lengths, strict=True)):
        seen[row, 0, ids[:length]] = 1
    return seen


def mark_tokens(seen, token_ids):
    """Adds one more token of each text `(B, N)` to those that it has `(B, N, V)`."""
    tokens = ops.arange(seen.shape[-1], dtype="int32")
    new = ops.cast(ops.equal(ops.expand_dims(token_ids, -1), tokens), seen.dtype)
    return ops.maximum(seen, new)
