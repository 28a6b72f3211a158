"""`generate` against Hugging Face's, with equal weights: token for token.

Theirs divides a score by `length ** alpha`, which ours does with `length_offset=0`;
the default of 5 is GNMT's `((5 + length) / 6) ** alpha`. Both count generated tokens,
the end token included. Ours counts the prompt in `min_length`, as theirs.
"""

import numpy as np
import pytest
from comparison import alternate_sines_and_cosines, one_backend_is_enough, randomize
from weight_tables import arrays_of, copy_weights, gpt2_rows, marian_rows, unfused

from keras_tformer import models

torch = pytest.importorskip("torch", reason="the reference runs on torch")
transformers = pytest.importorskip("transformers", reason="the reference itself")

# Hugging Face takes a padding token 0 for none and fills up with the end token.
V, PAD, START = 53, 1, 2
END = 4
MARIAN_END = 38  # One that its random weights write in a third of the texts.
SIZES = {
    "vocabulary_size": V,
    "num_layers": 2,
    "num_heads": 3,
    "hidden_dim": 42,
    "intermediate_dim": 61,
}
# Ours, and the same in their words.
CASES = {
    "greedy": ({}, {}),
    "greedy rules": (
        {
            "repetition_penalty": 1.7,
            "min_length": 7,
            "forbidden_token_ids": [11, 17],
            "forced_token_ids": {0: 13},
        },
        {
            "repetition_penalty": 1.7,
            "min_length": 7,
            "bad_words_ids": [[11], [17]],
        },
    ),
    "beam": (
        {"num_beams": 4, "length_penalty": 1.0, "early_stopping": False},
        {"num_beams": 4, "length_penalty": 1.0, "early_stopping": False},
    ),
    "beam early": (
        {"num_beams": 3, "length_penalty": 0.6, "num_return_sequences": 3},
        {
            "num_beams": 3,
            "length_penalty": 0.6,
            "num_return_sequences": 3,
            "early_stopping": True,
        },
    ),
    "beam never": (
        {"num_beams": 5, "length_penalty": 0.2, "early_stopping": "never"},
        {"num_beams": 5, "length_penalty": 0.2, "early_stopping": "never"},
    ),
    "beam rules": (
        {
            "num_beams": 4,
            "length_penalty": -0.5,
            "early_stopping": False,
            "repetition_penalty": 1.4,
            "min_length": 6,
            "forbidden_token_ids": [11, 17, 19],
            "num_return_sequences": 2,
        },
        {
            "num_beams": 4,
            "length_penalty": -0.5,
            "early_stopping": False,
            "repetition_penalty": 1.4,
            "min_length": 6,
            "bad_words_ids": [[11], [17], [19]],
            "num_return_sequences": 2,
        },
    ),
}


@pytest.fixture(scope="module")
def gpt2():
    config = transformers.GPT2Config(
        vocab_size=V,
        n_layer=2,
        n_head=3,
        n_embd=42,
        n_inner=61,
        n_positions=31,
        bos_token_id=START,
        eos_token_id=END,
        pad_token_id=PAD,
    )
    theirs = randomize(transformers.GPT2LMHeadModel(config), 3)
    ours = models.causal_lm(**SIZES, max_sequence_length=31)
    copy_weights(ours, gpt2_rows(2), unfused(arrays_of(theirs)))
    return ours, theirs


@pytest.fixture(scope="module")
def marian():
    config = transformers.MarianConfig(
        vocab_size=V,
        decoder_vocab_size=V,
        d_model=42,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=3,
        decoder_attention_heads=3,
        encoder_ffn_dim=61,
        decoder_ffn_dim=61,
        activation_function="gelu",
        scale_embedding=True,
        max_position_embeddings=31,
        pad_token_id=PAD,
        eos_token_id=MARIAN_END,
        decoder_start_token_id=START,
        forced_eos_token_id=None,
    )
    theirs = transformers.MarianMTModel(config)
    alternate_sines_and_cosines(theirs)
    randomize(theirs, 7)
    ours = models.transformer(
        **SIZES, activation="gelu", layer_norm_epsilon=1e-5, use_attention_bias=True
    )
    arrays = arrays_of(theirs)
    arrays.pop("final_logits_bias")
    copy_weights(ours, marian_rows(2, True), arrays)
    return ours, theirs


def compare(ours, theirs, source, inputs, case, record, **more):
    mine, their = CASES[case]
    end = theirs.config.eos_token_id
    found = models.generate(
        ours,
        source,
        max_length=23,
        end_token_id=end,
        pad_token_id=PAD,
        length_offset=0.0,
        return_scores=True,
        jit_compile=False,
        **mine,
        **more,
    )
    forced = mine.get("forced_token_ids")
    position = inputs["input_ids"].shape[1] if not more else 1
    config = transformers.GenerationConfig(
        max_length=23,
        eos_token_id=end,
        pad_token_id=PAD,
        decoder_start_token_id=START,
        do_sample=False,
        return_dict_in_generate=True,
        output_scores=True,
        **their,
    )
    processors = []
    if forced:
        # Theirs knows only the token after a start token: the same, at any length.
        def force(ids, scores):
            if ids.shape[1] == position:
                scores = torch.full_like(scores, -torch.inf)
                scores[:, forced[0]] = 0
            return scores

        processors.append(force)
    with torch.no_grad():
        expected = theirs.generate(
            **inputs,
            generation_config=config,
            logits_processor=transformers.LogitsProcessorList(processors),
        )
    count = mine.get("num_return_sequences", 1)
    ids = found["token_ids"].reshape(-1, found["token_ids"].shape[-1])
    reference = expected.sequences.numpy()
    assert len(ids) == len(reference) == 200 * count
    ended = (reference[:, position:] == end).any(axis=1)
    assert ended.any() and not ended.all(), "all texts end alike: a poor test"
    np.testing.assert_array_equal(ids, reference)
    if case == "greedy":
        gains = theirs.compute_transition_scores(
            expected.sequences, expected.scores, normalize_logits=True
        ).numpy()
        # Theirs scores the padding after an end, too.
        ends_before = np.cumsum(reference[:, position:] == end, axis=1)
        ends_before -= reference[:, position:] == end
        difference = np.abs(found["scores"] - (gains * (ends_before == 0)).sum(1)).max()
        record("largest difference of scores", float(difference))
        assert difference < 1e-4
    if "num_beams" in mine:
        theirs_scores = expected.sequences_scores.numpy().reshape(200, -1)
        difference = np.abs(found["scores"].reshape(200, -1) - theirs_scores).max()
        record("largest difference of scores", float(difference))
        assert difference < 1e-4


@one_backend_is_enough
@pytest.mark.parametrize(
    "case",
    [
        "greedy",
        pytest.param("greedy rules", marks=pytest.mark.slow),
        pytest.param("beam", marks=pytest.mark.slow),
        "beam early",
        pytest.param("beam never", marks=pytest.mark.slow),
        pytest.param("beam rules", marks=pytest.mark.slow),
    ],
)
def test_against_gpt2(gpt2, case, record_property):
    prompts = np.random.default_rng(3).integers(5, V, (200, 5))
    inputs = {
        "input_ids": torch.tensor(prompts),
        "attention_mask": torch.ones(200, 5).long(),
    }
    compare(*gpt2, prompts, inputs, case, record_property)


@one_backend_is_enough
@pytest.mark.parametrize(
    "case",
    [
        pytest.param("greedy", marks=pytest.mark.slow),
        "greedy rules",
        pytest.param("beam", marks=pytest.mark.slow),
        pytest.param("beam early", marks=pytest.mark.slow),
        pytest.param("beam never", marks=pytest.mark.slow),
        pytest.param("beam rules", marks=pytest.mark.slow),
    ],
)
def test_against_marian(marian, case, record_property):
    draw = np.random.default_rng(5)
    ids = draw.integers(5, V, (200, 9))
    mask = (np.arange(9) < draw.integers(1, 10, (200, 1))).astype("int32")
    source = {"encoder_token_ids": ids, "encoder_padding_mask": mask}
    inputs = {
        "input_ids": torch.tensor(ids),
        "attention_mask": torch.tensor(mask).long(),
    }
    compare(*marian, source, inputs, case, record_property, start_token_id=START)
