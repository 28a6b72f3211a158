"""Text from a model: `generate`."""

import keras
import numpy as np
from keras import ops

from keras_tformer.models.beam_search import WORST, BeamSearch
from keras_tformer.models.cached_decoder import CachedDecoder
from keras_tformer.models.compiled_decoding import compiled_for
from keras_tformer.models.generation_inputs import (
    read_prompts,
    read_sources,
    require_end_after_minimum,
    require_ids,
    require_numbers,
    round_up,
)
from keras_tformer.models.sampling import Sampling
from keras_tformer.models.token_rules import make_token_rules, tokens_of_prompt


def generate(
    model,
    source,
    max_length=64,
    num_beams=1,
    sampler="greedy",
    *,
    start_token_id=None,
    end_token_id=None,
    pad_token_id=0,
    min_length=0,
    temperature=1.0,
    top_k=50,
    top_p=0.9,
    repetition_penalty=1.0,
    forbidden_token_ids=(),
    forced_token_ids=None,
    length_penalty=0.6,
    length_offset=5.0,
    early_stopping=True,
    num_return_sequences=1,
    return_scores=False,
    seed=None,
    callback=None,
    jit_compile=True,
):
    """Continues prompts, or writes the texts that belong to sources.

    Keys and values of what was read are cached, and the whole loop over tokens is one
    compiled graph. It is compiled when a shape comes for the first time (lengths are
    rounded up to multiples of 16, batches to 1, 2, 4 or multiples of 8) and kept as
    long as the model. A text of a batch is what it would be alone.

    Beam search is that of Wu et al. 2016 (GNMT), section 7, with Hugging Face's order
    of events: `score = log P / ((5 + length) / 6) ** length_penalty`.

    Args:
        model: a `keras.Model` from `transformer` or `causal_lm`.
        source: what to translate, for a `transformer`: `{"encoder_token_ids": (B, S),
            "encoder_padding_mask": (B, S)}`; what to continue, for a `causal_lm`:
            `{"token_ids": (B, P), "padding_mask": (B, P)}`. For both also an array of
            token ids without padding, or a list of lists of any lengths.
        max_length: int, the most tokens of a text, its prompt or start token included.
        num_beams: int, hypotheses followed at a time; 1 is no beam search.
        sampler: `"greedy"` for the most probable token, `"top_k"` or `"top_p"` to draw
            (see `choose_token`).
        start_token_id: int, what a `transformer`'s text starts with; the padding token
            where it is None, as in Marian and T5.
        end_token_id: int, what a text ends with; None to go on until `max_length`.
        pad_token_id: int, what fills rows up after their end.
        min_length: int, the end token does not come before a text has that many.
        temperature: float above 0 that logits are divided by before drawing.
        top_k: int, number of tokens to draw from.
        top_p: float in (0, 1], probability of the tokens to draw from; with 1 from all.
        repetition_penalty: float above 0 that scores of tokens which the text already
            has are divided by (multiplied, where negative): logits, or
            log-probabilities in beam search.
        forbidden_token_ids: list of ints that are never generated.
        forced_token_ids: dict from a position among the generated tokens (the first
            one is 0) to the token that comes there.
        length_penalty: float, GNMT's alpha; above 0 favours long texts.
        length_offset: float, GNMT's 5; 0 makes the penalty `length ** length_penalty`.
        early_stopping: True, False or `"never"`, see `BeamSearch`.
        num_return_sequences: int, the best so many hypotheses of each text.
        return_scores: bool, whether to return scores too.
        seed: int, for the same text every time. Where it is None, NumPy's global
            generator is asked for one.
        callback: function that gets each step's new tokens, a `(B,)` array, as soon as
            they are chosen (with the padding token for texts that have ended). Then
            every token is a call of a compiled function of its own.
        jit_compile: bool, whether TensorFlow compiles with XLA: steps are several
            times faster, the first call of a shape slower.

    Returns:
        A NumPy array of token ids `(B, L)`, prompt or start token included, padded on
        the right to the longest text; `(B, R, L)`, best first, with R
        `num_return_sequences` above 1. With `return_scores` a dict with `"token_ids"`
        and `"scores"`, `(B,)` or `(B, R)`: of a hypothesis in beam search, else the
        log-probability that the model itself gives to the generated tokens.

    Raises:
        ValueError: if the model is another one, an argument is out of its range, two of
            them contradict each other, a source is empty, has unknown ids or is longer
            than the model allows, or `max_length` leaves no room.

    Example:
        >>> from keras_tformer.models import causal_lm
        >>> model = causal_lm(
        ...     vocabulary_size=31, num_layers=2, num_heads=2, hidden_dim=14,
        ...     intermediate_dim=11, max_sequence_length=16,
        ... )
        >>> generate(model, [[3, 5, 2], [7]], max_length=9).shape
        (2, 9)
    """
    require_numbers(locals())
    decoder = CachedDecoder(model)
    vocabulary_size = decoder.vocabulary_size
    require_ids(locals(), vocabulary_size)

    # === Arrays of fixed shapes ===
    inputs = {}
    if decoder.has_encoder:
        source_ids, source_mask = read_sources(source, decoder)
        start = pad_token_id if start_token_id is None else start_token_id
        prompts = [[start]] * len(source_ids)
    else:
        if start_token_id is not None:
            raise ValueError(
                "`generate` puts `start_token_id` before the texts of a `transformer`. "
                f"Received: start_token_id={start_token_id} with a `causal_lm`. Let "
                "the prompt begin with it."
            )
        prompts = read_prompts(source, decoder)
    lengths = np.array([len(prompt) for prompt in prompts], "int32")
    _require_room(max_length, lengths, decoder)
    require_end_after_minimum(forced_token_ids, end_token_id, min_length, lengths.min())
    batch = len(prompts)
    rows = round_up(batch, 8) if batch > 4 else 1 << (batch - 1).bit_length()
    if decoder.has_encoder:
        inputs["source_ids"] = _with_rows(source_ids, rows)
        inputs["source_mask"] = _with_rows(source_mask, rows)
        width = 1
    else:
        width = min(round_up(lengths.max(), 16), decoder.max_sequence_length)
    prompt_ids = np.full((batch, width), pad_token_id, "int32")
    for row, prompt in enumerate(prompts):
        prompt_ids[row, : len(prompt)] = prompt
    limits = max_length - lengths
    num_steps = round_up(limits.max(), 16)
    inputs["prompt_ids"] = _with_rows(prompt_ids, rows)
    inputs["prompt_lengths"] = _with_rows(lengths, rows)
    inputs["limits"] = np.zeros(rows, "int32")  # Rows that fill the shape up end at 0.
    inputs["limits"][:batch] = limits
    inputs["rules"] = make_token_rules(
        vocabulary_size,
        inputs["prompt_lengths"],
        num_steps,
        end_token_id,
        repetition_penalty,
        min_length,
        forbidden_token_ids,
        forced_token_ids,
    )
    if repetition_penalty != 1:
        inputs["seen"] = tokens_of_prompt(
            inputs["prompt_ids"], inputs["prompt_lengths"], vocabulary_size
        )

    # === The search ===
    if num_beams > 1:
        inputs["length_penalty"] = np.float32(length_penalty)
        inputs["length_offset"] = np.float32(length_offset)
        search, settings = BeamSearch, (num_steps, num_beams, early_stopping)
    else:
        if sampler != "greedy":
            inputs["numbers"] = _uniform_numbers(seed, rows, num_steps)
            inputs["temperature"] = np.float32(temperature)
        if sampler == "top_p":
            inputs["top_p"] = np.float32(top_p)
        top_k = min(top_k, vocabulary_size) if sampler == "top_k" else 1
        search, settings = Sampling, (num_steps, sampler, top_k)
    settings += (end_token_id, pad_token_id)
    if num_beams == 1:
        settings += (return_scores,)
    functions = compiled_for(
        model,
        (search.__name__, *settings),
        lambda: search(decoder, *settings),
        bool(jit_compile),
    )
    inputs = keras.tree.map_structure(ops.convert_to_tensor, inputs)
    if callback is None:
        found = functions["generate"](inputs)
    else:
        found = _stream(functions, inputs, callback, batch)
    sequences, scores = (ops.convert_to_numpy(x)[:batch] for x in found)

    # === What was asked for ===
    sequences = sequences[:, :num_return_sequences]
    scores = scores[:, :num_return_sequences]
    exists = scores > WORST / 2
    counts = _generated_lengths(sequences, limits, end_token_id) * exists
    texts = np.full(
        (*counts.shape, (lengths[:, None] + counts).max()), pad_token_id, "int32"
    )
    for row, prompt in enumerate(prompts):
        for rank, count in enumerate(counts[row]):
            text = [*prompt, *sequences[row, rank, :count]]
            texts[row, rank, : len(text)] = text
    if num_return_sequences == 1:
        texts, scores = texts[:, 0], scores[:, 0]
    return {"token_ids": texts, "scores": scores} if return_scores else texts


def _require_room(max_length, lengths, decoder):
    if max_length <= lengths.max():
        raise ValueError(
            "`generate` counts the prompt in `max_length`, and there is no room for a "
            f"token more. Received: max_length={max_length}, a prompt of "
            f"{lengths.max()} tokens. Pass a larger `max_length`, or a shorter prompt."
        )
    longest = decoder.max_sequence_length
    if longest is not None and max_length > longest:
        raise ValueError(
            "`generate` cannot go beyond the positions of the model. Received: "
            f"max_length={max_length}, the model's max_sequence_length={longest}. "
            f"Pass at most max_length={longest}."
        )


def _with_rows(array, rows):
    """Repeats the first row until there are `rows` of them."""
    return np.concatenate([array, np.repeat(array[:1], rows - len(array), axis=0)])


def _uniform_numbers(seed, rows, num_steps):
    if seed is None:
        seed = np.random.randint(2**31)
    # A stream of its own for every row: the numbers do not depend on the other sizes.
    streams = np.random.SeedSequence(seed).spawn(rows)
    return np.stack(
        [np.random.default_rng(x).random(num_steps, dtype="float32") for x in streams]
    )


def _stream(functions, inputs, callback, batch):
    constants, state = functions["begin"](inputs)
    while True:
        callback(ops.convert_to_numpy(state["token"])[:batch, 0])
        if ops.convert_to_numpy(state["is_done"]).all():
            return functions["results"](state)
        state = functions["advance"](constants, state)


def _generated_lengths(sequences, limits, end_token_id):
    """Returns how many tokens each sequence has up to its end or its limit, (B, R)."""
    lengths = np.broadcast_to(limits[:, None], sequences.shape[:2])
    if end_token_id is None:
        return lengths
    is_end = sequences == end_token_id
    ends = np.where(is_end.any(-1), is_end.argmax(-1) + 1, sequences.shape[-1])
    return np.minimum(lengths, ends)
