"""The most probable continuations of each text: beam search."""

import numpy as np
from keras import ops

from keras_tformer.models.token_rules import apply_token_rules, mark_tokens

# Ranks a hypothesis behind all that count.
WORST = -1e9
# Numbers in a part of a long row, see `_largest`.
_PART = 128


class BeamSearch:
    """Follows the N most probable hypotheses of each text until none can get better.

    Wu et al. 2016 (GNMT), section 7. In each step the 2 N best continuations are
    looked at: those among the best N that end are kept with their score, and the best
    N that go on are followed, so that N hypotheses are followed until the end. A score
    is the sum of log-probabilities divided by the length penalty of equation 14,
    `((5 + length) / 6) ** alpha`, where the length counts generated tokens, the end
    token included. `length_offset` is the 5: with 0 it is Hugging Face's
    `length ** alpha`.

    Args:
        decoder: a `CachedDecoder`.
        num_steps: int, the most tokens G that are generated.
        num_beams: int, number of hypotheses N.
        early_stopping: `True` ends a text with the N-th hypothesis that ends; `False`
            when the best that goes on, at its present length, does not beat the worst
            that ended; `"never"` when it could not at any length.
        end_token_id: int, the token that ends a text, or None.
        pad_token_id: int, the token that follows the end of a text.
    """

    def __init__(
        self, decoder, num_steps, num_beams, early_stopping, end_token_id, pad_token_id
    ):
        self.decoder = decoder
        self.num_steps = num_steps
        self.num_beams = num_beams
        self.early_stopping = early_stopping
        self.end_token_id = end_token_id
        self.pad_token_id = pad_token_id

    def begin(self, inputs):
        """Reads source and prompt and looks for the best first tokens.

        Returns:
            What every step reads and what every step changes, two dicts.
        """
        beams, steps = self.num_beams, self.num_steps
        memory, caches, x = self.decoder.start(
            inputs["prompt_ids"],
            inputs["prompt_lengths"],
            inputs.get("source_ids"),
            inputs.get("source_mask"),
            num_steps=steps,
            num_beams=beams,
        )
        batch = ops.shape(inputs["prompt_ids"])[0]
        constants = {"memory": memory}
        for key in ("rules", "limits", "length_penalty", "length_offset"):
            constants[key] = inputs[key]
        # All beams are equal so far: only the first one counts.
        first = ops.cast(ops.equal(ops.arange(beams), 0), "float32")
        sequences = ops.full((batch, beams, steps), self.pad_token_id, "int32")
        state = {
            "step": ops.convert_to_tensor(0, "int32"),
            "token": ops.zeros((batch, beams), "int32"),
            "caches": caches,
            "ancestry": ops.full((batch, beams, steps), -1, "int32"),
            "sequences": sequences,
            "scores": ops.broadcast_to((1 - first) * WORST, (batch, beams)),
            "ended_sequences": sequences,
            "ended_scores": ops.full((batch, beams), WORST, "float32"),
            "has_ended": ops.zeros((batch, beams), "bool"),
            "is_done": inputs["limits"] <= 0,  # (B,)
        }
        if "seen" in inputs:
            seen = inputs["seen"]
            state["seen"] = ops.broadcast_to(seen, (batch, beams, seen.shape[-1]))
        logits = self.decoder.logits(memory, x)
        logits = ops.broadcast_to(logits, (batch, beams, logits.shape[-1]))
        return constants, self._search(constants, state, logits)

    def advance(self, constants, state):
        """Reads the last tokens and looks for the best next ones."""
        batch, beams = ops.shape(state["token"])[0], self.num_beams
        own = ops.reshape(ops.arange(beams, dtype="int32"), (1, beams, 1))
        ancestry = ops.slice_update(
            state["ancestry"],
            (0, 0, state["step"] - 1),
            ops.broadcast_to(own, (batch, beams, 1)),
        )
        caches, x = self.decoder.step(
            constants["memory"],
            state["caches"],
            state["token"],
            state["step"] - 1,
            ancestry,
        )
        state = {**state, "caches": caches, "ancestry": ancestry}
        return self._search(
            constants, state, self.decoder.logits(constants["memory"], x)
        )

    def is_unfinished(self, state):
        """Tells whether any text goes on: a boolean scalar tensor."""
        return ops.logical_not(ops.all(state["is_done"]))

    def results(self, state):
        """Returns the sequences `(B, N, G)` and their scores `(B, N)`, best first."""
        return state["ended_sequences"], state["ended_scores"]

    def _search(self, constants, state, logits):
        batch, beams = ops.shape(logits)[0], self.num_beams
        vocabulary_size = logits.shape[-1]
        step, is_done = state["step"], state["is_done"]

        # === The best continuations of each text ===
        scores = ops.log_softmax(logits, axis=-1)
        scores = apply_token_rules(scores, constants["rules"], step, state.get("seen"))
        scores = scores + ops.expand_dims(state["scores"], -1)
        scores, indices = _largest(
            ops.reshape(scores, (batch, beams * vocabulary_size)), 2 * beams
        )
        scores = ops.reshape(scores, (batch, 2 * beams))
        indices = ops.reshape(ops.cast(indices, "int32"), (batch, 2 * beams))
        parents, token_ids = indices // vocabulary_size, indices % vocabulary_size
        sequences = ops.slice_update(
            _select(state["sequences"], parents),
            (0, 0, step),
            ops.expand_dims(token_ids, -1),
        )  # (B, 2 N, G)
        is_last = step + 1 >= constants["limits"]  # (B,)
        ends = ops.broadcast_to(ops.expand_dims(is_last, 1), (batch, 2 * beams))
        if self.end_token_id is not None:
            ends = ops.logical_or(ends, ops.equal(token_ids, self.end_token_id))

        # === Those that go on ===
        _, followed = ops.top_k(scores + ops.cast(ends, "float32") * WORST, beams)
        followed = ops.reshape(ops.cast(followed, "int32"), (batch, beams))
        parents = _select(parents, followed)
        new = {
            **state,
            "step": step + 1,
            "token": _select(token_ids, followed),
            "ancestry": _select(state["ancestry"], parents),
            "sequences": _select(sequences, followed),
            "scores": _select(scores + ops.cast(ends, "float32") * WORST, followed),
        }
        if "seen" in state:
            new["seen"] = mark_tokens(_select(state["seen"], parents), new["token"])

        # === Those that end, among the best N, and those that ended before ===
        among_best = ops.arange(2 * beams) < beams
        counts = ops.logical_and(ends, among_best)
        counts = ops.logical_and(counts, ops.expand_dims(~is_done, 1))
        # What a rule forbids, and copies of the first beam, end nothing.
        counts = ops.logical_and(counts, scores > WORST / 2)
        ended_scores = scores / self._penalty(constants, step + 1)
        ended_scores = ops.where(counts, ended_scores, WORST)
        all_scores = ops.concatenate([state["ended_scores"], ended_scores], axis=1)
        best_scores, best = ops.top_k(all_scores, beams)
        best = ops.reshape(ops.cast(best, "int32"), (batch, beams))
        new["ended_scores"] = ops.reshape(best_scores, (batch, beams))
        new["ended_sequences"] = _select(
            ops.concatenate([state["ended_sequences"], sequences], axis=1), best
        )
        new["has_ended"] = _select(
            ops.concatenate([state["has_ended"], counts], axis=1), best
        )

        # === Whether anything can still get better ===
        all_ended = ops.all(new["has_ended"], axis=1)
        if self.early_stopping is True:
            stops = all_ended
        else:
            length = ops.broadcast_to(step + 1, (batch,))
            if self.early_stopping == "never":  # A positive alpha favours long texts.
                longest = ops.maximum(constants["limits"], 1)
                length = ops.where(constants["length_penalty"] > 0, longest, length)
            hoped = new["scores"][:, 0] / self._penalty(constants, length)
            stops = ops.logical_and(all_ended, hoped <= new["ended_scores"][:, -1])
        stops = ops.logical_or(stops, is_last)
        new["is_done"] = ops.logical_or(is_done, stops)
        return new

    def _penalty(self, constants, length):
        offset = constants["length_offset"]
        ratio = (offset + ops.cast(length, "float32")) / (offset + 1)
        return ops.power(ratio, constants["length_penalty"])


def _largest(scores, count):
    """`ops.top_k` of long rows, `(B, M)`: looks into the best parts of them only.

    The largest numbers stand in the parts with the largest maxima, and XLA's `top_k`
    compares one number after the other, at three times the cost.
    """
    size = scores.shape[1]
    num_parts = -(-size // _PART)
    if num_parts <= count:
        return ops.top_k(scores, count)
    padding = ((0, 0), (0, num_parts * _PART - size))
    parts = ops.pad(scores, padding, constant_values=-np.inf)
    parts = ops.reshape(parts, (-1, num_parts, _PART))
    _, best = ops.top_k(ops.max(parts, axis=-1), count)
    best = ops.sort(best, axis=-1)  # the first of equal numbers, as `top_k` has it
    candidates = _select(parts, best)  # (B, count, _PART)
    values, places = ops.top_k(ops.reshape(candidates, (-1, count * _PART)), count)
    best = ops.take_along_axis(best, places // _PART, axis=1)
    return values, best * _PART + places % _PART


def _select(x, indices):
    """Takes hypotheses: `(B, N, ...)` by `(B, M)` to `(B, M, ...)`."""
    batch, count = ops.shape(x)[0], x.shape[1]
    rows = ops.reshape(x, (-1, *x.shape[2:]))  # (B * N, ...)
    offsets = ops.expand_dims(ops.arange(batch, dtype="int32") * count, 1)
    return ops.take(rows, indices + offsets, axis=0)
