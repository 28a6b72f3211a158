"""Cached decoding, and what `generate` makes of its arguments.

Small models with drawn weights; the answers come from the whole model, which reads
everything anew for every token, and from hand-made searches.
"""

import gc
import itertools
import weakref

import keras
import numpy as np
import pytest
from keras import ops

from keras_tformer.models import causal_lm, generate, transformer
from keras_tformer.models.beam_search import BeamSearch, _largest
from keras_tformer.models.cached_decoder import CachedDecoder
from keras_tformer.models.compiled_decoding import ATTRIBUTE

V, END, START = 31, 4, 2
SIZES = {
    "vocabulary_size": V,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 14,
    "intermediate_dim": 11,
    "max_sequence_length": 29,
}
SMALL = {**SIZES, "num_layers": 1}  # Tracing is most of what these tests do.
PROMPTS = [[3, 5, 2], [7], [1, 12, 3, 24, 5, 6, 11]]


def randomize(model, seed=1):
    """Draws all weights; attention scores stay well above the -30 of a mask."""
    draw = np.random.default_rng(seed)
    for weight in model.weights:
        weight.assign(draw.normal(0, 0.3, weight.shape) + ("gamma" in weight.path))
    return model


@pytest.fixture(scope="module")
def lm():
    return randomize(causal_lm(**SMALL))


@pytest.fixture(scope="module")
def pair():
    return randomize(transformer(**SMALL), seed=3)


def run(model, source, **more):
    more = {"max_length": 13, "jit_compile": False, **more}
    if model.name.startswith("transformer"):
        more = {"start_token_id": START, **more}
    return generate(model, source, **more)


def logits_of(model, text, source=None):
    """Returns the logits after each token of one text, read all at once."""
    ids = np.array([text])
    if source is None:
        batch = {"token_ids": ids}
    else:
        batch = {"encoder_token_ids": np.array([source]), "decoder_token_ids": ids}
    for key in list(batch):
        mask_key = key.replace("token_ids", "padding_mask")
        batch[mask_key] = np.ones_like(batch[key])
    return ops.convert_to_numpy(model(batch))[0]


def log_probabilities(logits):
    logits = logits.astype("float64")
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def assert_greedy(model, found, prompts, sources=None, end=None, pad=0):
    """Each token is the most probable one after those before it, up to the end."""
    lengths = set()
    for row, prompt in enumerate(prompts):
        text, start = found[row].tolist(), len(prompt)
        assert text[:start] == prompt
        stop = text.index(end, start) + 1 if end in text[start:] else len(text)
        source = None if sources is None else sources[row]
        best = logits_of(model, text[:stop], source)[start - 1 : -1].argmax(-1)
        assert text[start:stop] == best.tolist()
        assert set(text[stop:]) <= {pad}
        lengths.add(stop)
    assert found.shape[1] == max(lengths)
    return lengths


# === Cached decoding ===


VARIANTS = {
    "causal_lm": lambda: causal_lm(**SIZES),
    "sines": lambda: transformer(**SIZES),
    "learned": lambda: transformer(
        **SIZES, position="learned", normalize_first=True, share_embeddings=False
    ),
}


@pytest.mark.parametrize("build", VARIANTS.values(), ids=VARIANTS)
def test_cached_steps_equal_the_whole_model(build):
    model = randomize(build())
    decoder = CachedDecoder(model)
    draw = np.random.default_rng(5)
    texts, sources = draw.integers(0, V, (3, 12)), draw.integers(0, V, (3, 7))
    lengths = np.array([1, 1, 1] if decoder.has_encoder else [3, 1, 5])
    source_lengths = np.array([7, 2, 5])
    mask = (np.arange(7) < source_lengths[:, None]).astype("int32")
    prompts = texts[:, : lengths.max()].astype("int32")
    more = (sources.astype("int32"), mask) if decoder.has_encoder else ()
    memory, caches, x = decoder.start(prompts, lengths, *more, num_steps=6)
    found = [ops.convert_to_numpy(decoder.logits(memory, x))[:, 0]]
    for step in range(6):
        token = texts[np.arange(3), lengths + step][:, None].astype("int32")
        caches, x = decoder.step(memory, caches, token, step)
        found.append(ops.convert_to_numpy(decoder.logits(memory, x))[:, 0])
    for row in range(3):
        source = sources[row, : source_lengths[row]] if more else None
        text = texts[row, : lengths[row] + 6]
        expected = logits_of(model, text, source)[lengths[row] - 1 :]
        np.testing.assert_allclose(np.stack(found)[:, row], expected, atol=2e-5)


def test_hypotheses_side_by_side_see_their_own_past_only(lm):
    """Three hypotheses that swap places: the caches stay where they are."""
    decoder = CachedDecoder(lm)
    memory, caches, _ = decoder.start(
        np.array([[3, 5, 2]]), [3], num_steps=4, num_beams=3
    )
    texts = [[], [], []]
    ancestry = np.full((1, 3, 4), -1, "int32")
    for step, parents in enumerate([(0, 0, 0), (2, 0, 1), (1, 1, 0), (2, 2, 2)]):
        token = [[7 + step, 11 + step, 17 + step]]
        texts = [
            [*texts[parent], new] for parent, new in zip(parents, token[0], strict=True)
        ]
        ancestry = ancestry[:, parents]
        ancestry[:, :, step] = np.arange(3)
        caches, x = decoder.step(memory, caches, np.array(token), step, ancestry)
    found = ops.convert_to_numpy(decoder.logits(memory, x))[0]
    for row, text in zip(found, texts, strict=True):
        expected = logits_of(lm, [3, 5, 2, *text])[-1]
        np.testing.assert_allclose(row, expected, atol=2e-5)


def test_greedy_is_the_most_probable_token_each_time(lm, pair):
    found = run(lm, PROMPTS)
    assert assert_greedy(lm, found, PROMPTS) == {13}
    found = run(pair, PROMPTS)
    assert assert_greedy(pair, found, [[START]] * 3, PROMPTS) == {13}


def test_the_second_half_of_a_long_text_sees_the_first(pair):
    """Caches grow after 24 of 48 steps."""
    long = {"max_length": 49}
    found = run(pair, PROMPTS, **long)
    assert assert_greedy(pair, found, [[START]] * 3, PROMPTS) == {49}
    found = run(pair, PROMPTS, num_beams=3, return_scores=True, **long)
    for row, source in enumerate(PROMPTS):
        text = found["token_ids"][row].tolist()
        logits = log_probabilities(logits_of(pair, text, source))
        total = sum(logits[i - 1, text[i]] for i in range(1, 49))
        assert found["scores"][row] == pytest.approx(total / (53 / 6) ** 0.6, abs=1e-4)


def test_texts_end_each_at_its_own_end(lm):
    end = int(run(lm, PROMPTS)[0, 7])
    found = run(lm, PROMPTS, end_token_id=end, pad_token_id=30)
    assert len(assert_greedy(lm, found, PROMPTS, end=end, pad=30)) > 1


@pytest.mark.parametrize(
    ("kind", "num_beams"),
    [
        ("lm", 3),
        pytest.param("lm", 1, marks=pytest.mark.slow),
        pytest.param("pair", 1, marks=pytest.mark.slow),
        pytest.param("pair", 3, marks=pytest.mark.slow),
    ],
)
def test_a_batch_gives_what_each_text_gives_alone(kind, num_beams, request):
    model = request.getfixturevalue(kind)
    more = {"num_beams": num_beams, "end_token_id": END, "return_scores": True}
    together = run(model, PROMPTS, **more)
    for row, prompt in enumerate(PROMPTS):
        alone = run(model, [prompt], **more)
        width = alone["token_ids"].shape[1]
        np.testing.assert_array_equal(
            together["token_ids"][row, :width], alone["token_ids"][0]
        )
        assert not together["token_ids"][row, width:].any()
        np.testing.assert_allclose(
            together["scores"][row], alone["scores"][0], atol=1e-4
        )


def test_padding_of_a_source_changes_nothing(lm, pair):
    ids = np.array([[3, 5, 2, 9, 9], [7, 1, 8, 6, 5], [6, 9, 9, 9, 9]])
    mask = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]])
    rows = [[3, 5, 2], [7, 1, 8, 6, 5], [6]]
    for model, name in ((lm, ""), (pair, "encoder_")):
        expected = run(model, rows)
        for fill in (9, -1):  # Padding may be any number, or on the left in a prompt.
            padded = {
                f"{name}token_ids": np.where(mask == 1, ids, fill),
                f"{name}padding_mask": mask,
            }
            np.testing.assert_array_equal(run(model, padded), expected)
    left = {
        "token_ids": ids[:, ::-1],
        "padding_mask": mask[:, ::-1],
    }
    expected = run(lm, [row[::-1] for row in rows])
    np.testing.assert_array_equal(run(lm, left), expected)


# === Beam search ===


def search_by_hand(decoder, prompt, num_steps, num_beams, **more):
    """Runs the steps of a beam search one by one, not compiled."""
    search = BeamSearch(
        decoder, num_steps, num_beams, more.pop("early_stopping", True), END, 0
    )
    constants, state = search.begin(
        {
            "prompt_ids": np.array([prompt]),
            "prompt_lengths": np.array([len(prompt)]),
            "limits": ops.array([num_steps]),
            "rules": {},
            "length_penalty": np.float32(0.6),
            "length_offset": np.float32(5),
        }
    )
    while search.is_unfinished(state):
        state = search.advance(constants, state)
    return [ops.convert_to_numpy(x)[0] for x in search.results(state)]


def test_one_beam_is_greedy(lm):
    sequences, _ = search_by_hand(CachedDecoder(lm), [3, 5, 2], 4, 1)
    expected = run(lm, PROMPTS)[0, 3:7]
    count = expected.tolist().index(END) + 1 if END in expected else 4
    np.testing.assert_array_equal(sequences[0, :count], expected[:count])


def test_enough_beams_find_the_best_of_all_texts():
    """All texts of at most three tokens from five: counted out by hand."""
    model = randomize(causal_lm(**{**SMALL, "vocabulary_size": 5}))
    texts = np.array([[3, 1, *x] for x in itertools.product(range(5), repeat=3)])
    logits = model({"token_ids": texts, "padding_mask": np.ones_like(texts)})
    logits = log_probabilities(ops.convert_to_numpy(logits))
    totals = {}
    for text, row in zip(texts[:, 2:].tolist(), logits[:, 1:], strict=True):
        text = tuple(text[: text.index(END) + 1] if END in text else text)
        totals[text] = sum(row[i, token] for i, token in enumerate(text))
    rankings = set()
    for alpha in (0.0, 0.6, 1.7):
        scores = {x: totals[x] / ((5 + len(x)) / 6) ** alpha for x in totals}
        best = sorted(scores, key=scores.get, reverse=True)[:7]
        found = run(
            model,
            [[3, 1]],
            max_length=5,
            num_beams=67,
            num_return_sequences=7,
            end_token_id=END,
            length_penalty=alpha,
            early_stopping="never",
            return_scores=True,
        )
        expected = [[3, 1, *text, *[0] * (3 - len(text))] for text in best]
        np.testing.assert_array_equal(found["token_ids"][0], expected)
        expected = [scores[text] for text in best]
        np.testing.assert_allclose(found["scores"][0], expected, atol=1e-5)
        rankings.add(tuple(best))
    assert len(rankings) > 1, "the penalty changes nothing: a poor test"


def test_the_largest_of_long_rows_are_found_part_by_part():
    """As a stable sort has them, the first of equal ones first."""
    draw = np.random.default_rng(7)
    for size in (31, 1024, 2003):
        rows = draw.integers(0, 97, (3, size)).astype("float32")
        values, places = map(ops.convert_to_numpy, _largest(ops.array(rows), 5))
        expected = np.argsort(-rows, axis=1, kind="stable")[:, :5]
        if keras.backend.backend() == "torch":  # whose top_k takes any of equal ones
            assert all(len(set(row)) == 5 for row in places.tolist())
            expected = np.where(rows[[[0], [1], [2]], places] == values, places, -1)
        np.testing.assert_array_equal(places, expected)
        np.testing.assert_array_equal(values, -np.sort(-rows, axis=1)[:, :5])


def test_scores_are_those_of_the_texts(lm):
    for num_beams, end in ((1, None), (3, END)):
        found = run(
            lm,
            PROMPTS,
            num_beams=num_beams,
            end_token_id=end,
            return_scores=True,
            length_penalty=0.9,
        )
        for row, prompt in enumerate(PROMPTS):
            text, start = found["token_ids"][row].tolist(), len(prompt)
            stop = text.index(end, start) + 1 if end in text[start:] else len(text)
            logits = log_probabilities(logits_of(lm, text))
            total = sum(logits[i - 1, text[i]] for i in range(start, stop))
            penalty = ((5 + stop - start) / 6) ** 0.9 if num_beams > 1 else 1
            assert found["scores"][row] == pytest.approx(total / penalty, abs=1e-4)


# === Rules ===


two_searches = pytest.mark.parametrize(
    "num_beams", [1, pytest.param(2, marks=pytest.mark.slow)]
)


@two_searches
def test_forbidden_forced_and_minimum(lm, num_beams):
    free = run(
        lm, PROMPTS, num_beams=num_beams, end_token_id=END if num_beams > 1 else None
    )
    common = [int(free[0, 3]), int(free[2, 9])]
    end = next((int(x) for x in free[1, 1:] if x not in [*common, 0]), END)
    found = run(
        lm,
        PROMPTS,
        num_beams=num_beams,
        end_token_id=end,
        min_length=11,
        forbidden_token_ids=common,
        forced_token_ids={0: 19, 3: 23},
        early_stopping=False,
    )
    for row, prompt in enumerate(PROMPTS):
        new = found[row, len(prompt) :]
        assert not np.isin(new, [x for x in common if x != 0]).any()
        assert new[0] == 19 and new[3] == 23
        assert not (found[row, len(prompt) : 10] == end).any()  # The prompt counts.


def test_repetition_penalty_divides_what_was_there(lm):
    text, penalty = [3, 5, 2], 1.9
    for _ in range(10):
        logits = logits_of(lm, text)[-1]
        for token in set(text):
            logits[token] *= penalty if logits[token] < 0 else 1 / penalty
        text.append(int(logits.argmax()))
    found = run(lm, PROMPTS, repetition_penalty=penalty)
    assert found[0].tolist() == text
    assert text != run(lm, PROMPTS)[0].tolist()


# === Drawing ===


def counts_of(model, **more):
    """Draws the next token of 3,000 equal prompts and counts what came."""
    found = run(model, np.tile([[3, 5, 2]], (3000, 1)), max_length=4, **more)
    return np.bincount(found[:, 3], minlength=V)


def assert_drawn_from(counts, probabilities):
    """Chi-square at 0.1 % of error, cells of fewer than five put together."""
    assert not counts[probabilities == 0].any()
    expected = probabilities * counts.sum()
    large = expected >= 5
    observed = np.append(counts[large], counts[~large].sum())
    expected = np.append(expected[large], expected[~large].sum())
    statistic = ((observed - expected) ** 2 / np.maximum(expected, 1e-9)).sum()
    freedom = len(observed) - 1
    # Wilson and Hilferty 1931: the 0.1 % point of a chi-square distribution.
    limit = freedom * (1 - 2 / (9 * freedom) + 3.09 * (2 / (9 * freedom)) ** 0.5) ** 3
    assert statistic < limit, (statistic, limit)


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({"sampler": "top_k", "top_k": 5}, marks=pytest.mark.slow),
        {"sampler": "top_k", "top_k": 7, "temperature": 2.0},
        {"sampler": "top_p", "top_p": 0.8, "temperature": 1.5},
        pytest.param(
            {"sampler": "top_p", "top_p": 1.0, "temperature": 2.5},
            marks=pytest.mark.slow,
        ),
    ],
    ids=str,
)
def test_draws_follow_the_distribution(lm, more):
    logits = logits_of(lm, [3, 5, 2])[-1] / more.get("temperature", 1)
    probabilities = np.exp(log_probabilities(logits))
    order = np.argsort(-probabilities)
    if more["sampler"] == "top_k":
        kept = order[: more["top_k"]]
    else:
        before = np.cumsum(probabilities[order]) - probabilities[order]
        kept = order[before < more["top_p"]]
    expected = np.zeros(V)
    expected[kept] = probabilities[kept] / probabilities[kept].sum()
    assert_drawn_from(counts_of(lm, seed=11, **more), expected)


def test_a_seed_repeats(lm):
    more = {"sampler": "top_k", "top_k": 20, "temperature": 3.0}
    first = run(lm, PROMPTS, seed=5, **more)
    np.testing.assert_array_equal(first, run(lm, PROMPTS, seed=5, **more))
    assert (first != run(lm, PROMPTS, seed=6, **more)).any()
    assert (run(lm, PROMPTS, **more) != run(lm, PROMPTS, **more)).any()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lm", "pair"])
def test_drawing_from_one_token_is_greedy(kind, request):
    model = request.getfixturevalue(kind)
    for more in ({"sampler": "top_k", "top_k": 1}, {"sampler": "top_p", "top_p": 1e-6}):
        found = run(model, PROMPTS, temperature=3.0, **more)
        np.testing.assert_array_equal(found, run(model, PROMPTS))


# === Compilation ===


def test_the_callback_hears_every_token(lm):
    heard = []
    found = run(lm, PROMPTS, callback=heard.append)
    np.testing.assert_array_equal(found, run(lm, PROMPTS))
    heard = np.stack(heard, axis=1)
    for row, prompt in enumerate(PROMPTS):
        new = found[row, len(prompt) :]
        np.testing.assert_array_equal(heard[row, : len(new)], new[: heard.shape[1]])


def test_compiles_once_for_any_weights_and_goes_with_the_model(lm):
    model = randomize(causal_lm(**SMALL), seed=7)
    for prompts in (PROMPTS, PROMPTS[:2] * 2, [[1, 2, 3, 4, 5, 6]] * 3):
        for max_length in (12, 13):
            before = run(model, prompts, max_length=max_length)
    model.set_weights(lm.get_weights())
    after = run(model, PROMPTS)
    assert before.shape != after.shape or (before != after).any()
    np.testing.assert_array_equal(after, run(lm, PROMPTS))

    (functions,) = model.__dict__[ATTRIBUTE].values()
    if keras.backend.backend() == "tensorflow":
        assert functions["generate"].experimental_get_tracing_count() == 1
    function = weakref.ref(functions["generate"])
    weights = weakref.ref(model.get_layer("token_embedding").embeddings)
    del model, functions
    gc.collect()
    assert function() is None and weights() is None


@pytest.mark.parametrize("num_beams", [1, 2], ids=["greedy", "beams"])
@pytest.mark.slow
def test_with_xla_the_same(lm, num_beams):
    more = {"num_beams": num_beams, "end_token_id": END}
    np.testing.assert_array_equal(
        run(lm, PROMPTS, jit_compile=True, **more), run(lm, PROMPTS, **more)
    )


# === At the door ===


@pytest.mark.parametrize(
    ("source", "more", "told"),
    [
        ([[3], []], {}, "row 1 without any"),
        ([], {}, "one row for each text"),
        ([3, 5], {}, "a list of its own"),
        ([[3, V]], {}, rf"ids in \[0, {V}\). Received: {V}"),
        ([[-1]], {}, "Received: -1"),
        ([[0.5]], {}, "as integers. Received: an array of float64"),
        ({"ids": [[3]]}, {}, r"'token_ids' and 'padding_mask'.*Received: \['ids'\]"),
        (
            {"token_ids": [[3, 4]], "padding_mask": [[1]]},
            {},
            r"ids of shape \(1, 2\), mask of shape \(1, 1\)",
        ),
        ({"token_ids": [[3]], "padding_mask": [[0]]}, {}, "row 0 without any"),
        ({"token_ids": [[3]], "padding_mask": [[2]]}, {}, "mask of 0 and 1"),
        ([[3] * 13], {}, "max_length=13, a prompt of 13 tokens"),
        (
            [[3]],
            {"max_length": 30},
            "max_length=30, .* max_sequence_length=29",
        ),
        ([[3]], {"max_length": 0}, "max_length=0"),
        ([[3]], {"num_beams": 0}, "num_beams=0"),
        ([[3]], {"num_beams": 2, "sampler": "top_k"}, "1 with sampler='top_k'"),
        ([[3]], {"num_beams": True}, "num_beams=True"),
        ([[3]], {"sampler": "best"}, "sampler='best'"),
        ([[3]], {"temperature": 0.5}, "1.0 with sampler='greedy'"),
        ([[3]], {"temperature": 0.0, "sampler": "top_k"}, "temperature=0.0"),
        ([[3]], {"top_p": 0.0, "sampler": "top_p"}, "top_p=0.0"),
        ([[3]], {"top_k": 0, "sampler": "top_k"}, "top_k=0"),
        ([[3]], {"repetition_penalty": 0}, "repetition_penalty=0"),
        ([[3]], {"min_length": -1}, "min_length=-1"),
        ([[3]], {"min_length": 14}, "at most max_length=13"),
        ([[3]], {"num_return_sequences": 2}, "at most num_beams=1"),
        ([[3]], {"length_offset": -1.0}, "length_offset=-1.0"),
        ([[3]], {"early_stopping": "soon"}, "early_stopping='soon'"),
        ([[3]], {"end_token_id": V}, f"`end_token_id`.*Received: {V}"),
        ([[3]], {"pad_token_id": -1}, "`pad_token_id`.*Received: -1"),
        ([[3]], {"forbidden_token_ids": [99]}, "`forbidden_token_ids`.*Received: 99"),
        ([[3]], {"forbidden_token_ids": range(V)}, "every token is forbidden"),
        ([[3]], {"forced_token_ids": {-1: 3}}, "from positions"),
        ([[3]], {"forced_token_ids": {0: V}}, "`forced_token_ids`"),
        (
            [[3]],
            {"forced_token_ids": {0: 5, 2: 7}, "forbidden_token_ids": [6, 7]},
            r"of which 7 \(at 2\) is among the `forbidden_token_ids`",
        ),
        (
            [[3, 5]],
            {"forced_token_ids": {1: END}, "end_token_id": END, "min_length": 5},
            r"ends a text with 4 tokens.*min_length=5",
        ),
        ([[3]], {"start_token_id": 2}, "Let the prompt begin with it"),
        ([[3]], {"callback": print, "num_beams": 2}, "None with beam search"),
        ([[3]], {"callback": 3}, "callback=3"),
    ],
)
def test_refuses_what_does_not_fit(lm, source, more, told):
    with pytest.raises(ValueError, match=told):
        run(lm, source, **more)


def test_refuses_sources_that_do_not_fit():
    model = transformer(**SIZES, position="learned")
    with pytest.raises(ValueError, match="at most 29 tokens. Received: 37"):
        run(model, [[3] * 37])
    with pytest.raises(ValueError, match="row 1 without any. Leave empty texts out"):
        run(model, [[3], []])
    with pytest.raises(ValueError, match=rf"ids in \[0, {V}\). Received: {V}"):
        run(model, [[3, V]])
    with pytest.raises(ValueError, match="max_length=1, a prompt of 1 tokens"):
        run(model, [[3]], max_length=1)
    with pytest.raises(ValueError, match=r"Received: \['token_ids'\]"):
        run(model, {"token_ids": [[3]]})
    with pytest.raises(ValueError, match="from `transformer` or `causal_lm`"):
        generate(keras.Sequential([keras.layers.Dense(3)]), [[3]])


@pytest.mark.slow
def test_sines_have_no_longest_text():
    assert run(transformer(**SIZES), [[3] * 37], max_length=41).shape == (1, 41)


def test_an_output_bias_is_added():
    model = randomize(transformer(**SMALL, use_output_bias=True), seed=3)
    bias = np.zeros(V, "float32")
    bias[7] = 1000.0
    model.get_layer("output_bias").bias.assign(bias)
    assert set(run(model, [[3, 5]], max_length=5)[0][1:].tolist()) == {7}
