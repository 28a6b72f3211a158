"""One continuation of each text: the most probable token, or one drawn at random."""

from keras import ops

from keras_tformer.models.token_rules import apply_token_rules, mark_tokens


def choose_token(scores, sampler, number=None, temperature=1.0, top_k=1, top_p=1.0):
    """Chooses a token of each row.

    Drawing inverts the cumulative distribution at a uniform number that comes from
    outside, so that one seed gives the same text on every backend.

    Args:
        scores: `(B, V)` logits or log-probabilities.
        sampler: `"greedy"`, `"top_k"` (Fan et al. 2018, section 5.1: among the k most
            probable) or `"top_p"` (Holtzman et al. 2020, section 3.1: among the fewest
            whose probabilities add up to p).
        number: `(B,)` uniform numbers in [0, 1), unless greedy.
        temperature: scalar that the scores are divided by.
        top_k: int, number of tokens to draw from.
        top_p: scalar in (0, 1], probability of the tokens to draw from.

    Returns:
        `(B,)` int32 tensor.

    Example:
        >>> scores = np.log(np.array([[0.1, 0.6, 0.3]], "float32"))
        >>> [int(choose_token(scores, "top_k", np.array([n], "float32"), top_k=2)[0])
        ...  for n in (0.0, 0.6, 0.7, 0.9)]
        [1, 1, 2, 2]
    """
    count = top_k if sampler == "top_k" else scores.shape[-1]
    if sampler == "greedy" or count == 1:
        return _most_probable(scores)
    values, token_ids = ops.top_k(scores / temperature, count)  # (B, k), descending
    probabilities = ops.softmax(values, axis=-1)
    last = count - 1
    if sampler == "top_p":
        before = ops.cumsum(probabilities, axis=-1) - probabilities
        kept = ops.cast(before < top_p, "float32")
        # The first is always kept, whatever rounding makes of `before`.
        probabilities = probabilities * kept
        last = ops.cast(ops.sum(kept, axis=-1), "int32") - 1
    cumulative = ops.cumsum(probabilities, axis=-1)
    reached = cumulative <= ops.expand_dims(number, 1) * cumulative[:, -1:]
    index = ops.minimum(ops.sum(ops.cast(reached, "int32"), axis=-1), last)  # (B,)
    chosen = ops.equal(ops.arange(count, dtype="int32"), ops.expand_dims(index, 1))
    return ops.sum(ops.where(chosen, ops.cast(token_ids, "int32"), 0), axis=-1)


def _most_probable(scores):
    """The first of the largest scores, in two passes that XLA can make vectors of.

    Its argmax compares one number after the other, at three times the cost.
    """
    vocabulary_size = scores.shape[-1]
    largest = ops.max(scores, axis=-1, keepdims=True)
    tokens = ops.arange(vocabulary_size, dtype="int32")
    # Where scores are no numbers nothing is largest: the last token, not one too many.
    candidates = ops.where(ops.equal(scores, largest), tokens, vocabulary_size - 1)
    return ops.min(candidates, axis=-1)


def _log_probability(logits, token):
    """Of the model itself, before any rule: log softmax `(B, V)` at tokens `(B,)`."""
    batch, vocabulary_size = ops.shape(logits)[0], logits.shape[-1]
    places = ops.arange(batch, dtype="int32") * vocabulary_size + token
    at_token = ops.take(ops.reshape(logits, (-1,)), places, axis=0)
    return at_token - ops.logsumexp(logits, axis=-1)  # (B,)


class Sampling:
    """Generates one token of each text after the other, each from those before.

    Args:
        decoder: a `CachedDecoder`.
        num_steps: int, the most tokens G that are generated.
        sampler, top_k: see `choose_token`.
        end_token_id: int, the token that ends a text, or None.
        pad_token_id: int, the token that follows the end of a text.
        has_scores: bool, whether the log-probabilities are summed up; they take a pass
            over the vocabulary in every step.
    """

    num_beams = 1  # hypotheses of each text, as `BeamSearch` has more of them

    def __init__(
        self,
        decoder,
        num_steps,
        sampler,
        top_k,
        end_token_id,
        pad_token_id,
        has_scores=True,
    ):
        self.decoder = decoder
        self.num_steps = num_steps
        self.sampler = sampler
        self.top_k = top_k
        self.end_token_id = end_token_id
        self.pad_token_id = pad_token_id
        self.has_scores = has_scores

    def begin(self, inputs):
        """Reads source and prompt and chooses the first token.

        Returns:
            What every step reads and what every step changes, two dicts.
        """
        memory, caches, x = self.decoder.start(
            inputs["prompt_ids"],
            inputs["prompt_lengths"],
            inputs.get("source_ids"),
            inputs.get("source_mask"),
            num_steps=self.num_steps,
        )
        batch = ops.shape(inputs["prompt_ids"])[0]
        state = {
            "step": ops.convert_to_tensor(0, "int32"),
            "token": ops.zeros((batch, 1), "int32"),
            "caches": caches,
            "sequences": ops.full((batch, self.num_steps), self.pad_token_id, "int32"),
            "log_probability": ops.zeros((batch,), "float32"),
            "is_done": inputs["limits"] <= 0,  # (B,)
        }
        if "seen" in inputs:
            state["seen"] = inputs["seen"]
        constants = {"memory": memory, **_steering(inputs)}
        return constants, self._choose(constants, state, self.decoder.logits(memory, x))

    def advance(self, constants, state):
        """Reads the last token and chooses the next one; returns the new state."""
        caches, x = self.decoder.step(
            constants["memory"], state["caches"], state["token"], state["step"] - 1
        )
        state = {**state, "caches": caches}
        return self._choose(
            constants, state, self.decoder.logits(constants["memory"], x)
        )

    def is_unfinished(self, state):
        """Tells whether any text goes on: a boolean scalar tensor."""
        return ops.logical_not(ops.all(state["is_done"]))

    def results(self, state):
        """Returns the sequences `(B, 1, G)` and their log-probabilities `(B, 1)`.

        Without `has_scores` these are zeros.
        """
        return (
            ops.expand_dims(state["sequences"], 1),
            ops.expand_dims(state["log_probability"], 1),
        )

    def _choose(self, constants, state, logits):
        step, is_done = state["step"], state["is_done"]
        scores = apply_token_rules(logits, constants["rules"], step, state.get("seen"))
        scores = ops.squeeze(scores, 1)  # (B, V)
        batch = ops.shape(scores)[0]
        number = None
        if self.sampler != "greedy":
            number = ops.slice(constants["numbers"], (0, step), (batch, 1))
            number = ops.reshape(number, (batch,))
        token = choose_token(
            scores,
            self.sampler,
            number,
            temperature=constants.get("temperature", 1.0),
            top_k=self.top_k,
            top_p=constants.get("top_p", 1.0),
        )
        token = ops.where(is_done, self.pad_token_id, token)
        column = ops.expand_dims(token, 1)  # (B, 1)

        new = {
            **state,
            "step": step + 1,
            "token": column,
            "sequences": ops.slice_update(state["sequences"], (0, step), column),
        }
        if self.has_scores:
            gain = _log_probability(ops.squeeze(logits, 1), token)
            gain = ops.where(is_done, 0.0, gain)
            new["log_probability"] = state["log_probability"] + gain
        is_done = ops.logical_or(is_done, step + 1 >= constants["limits"])
        if self.end_token_id is not None:
            is_done = ops.logical_or(is_done, ops.equal(token, self.end_token_id))
        new["is_done"] = is_done
        if "seen" in state:
            new["seen"] = mark_tokens(state["seen"], column)
        return new


def _steering(inputs):
    read = ("prompt_ids", "prompt_lengths", "source_ids", "source_mask", "seen")
    return {key: value for key, value in inputs.items() if key not in read}
