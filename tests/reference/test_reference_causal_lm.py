"""The causal language model against Hugging Face's GPT-2, on torch."""

import numpy as np
import pytest
from comparison import (
    assert_close,
    one_backend_is_enough,
    outputs_of,
    random_batch,
    random_encoder_sizes,
    randomize,
)
from weight_tables import arrays_of, copy_weights, gpt2_rows, unfused

from keras_tformer import models

torch = pytest.importorskip("torch", reason="the reference runs on torch")
transformers = pytest.importorskip("transformers", reason="the reference itself")


@one_backend_is_enough
@pytest.mark.parametrize(
    ("seed", "activation", "epsilon", "mask_value"),
    [
        (1, "gelu_new", 1e-5, -1e9),
        pytest.param(2, "gelu", 1e-3, -30.0, marks=pytest.mark.slow),
    ],
)
def test_against_gpt2(seed, activation, epsilon, mask_value, record_property):
    sizes = random_encoder_sizes(seed)
    sizes.pop("num_segments")
    config = transformers.GPT2Config(
        vocab_size=sizes["vocabulary_size"],
        n_layer=sizes["num_layers"],
        n_head=sizes["num_heads"],
        n_embd=sizes["hidden_dim"],
        n_inner=sizes["intermediate_dim"],
        n_positions=sizes["max_sequence_length"],
        activation_function=activation,
        layer_norm_epsilon=epsilon,
        bos_token_id=0,
        eos_token_id=0,
        attn_implementation="eager",  # The only one that returns attention scores.
    )
    theirs = randomize(transformers.GPT2LMHeadModel(config), seed)
    ours = models.causal_lm(
        **sizes,
        activation=activation,
        layer_norm_epsilon=epsilon,
        mask_value=mask_value,
        return_hidden_states=True,
        return_attention_scores=True,
    )
    copy_weights(ours, gpt2_rows(sizes["num_layers"]), unfused(arrays_of(theirs)))

    batch = random_batch({**sizes, "num_segments": 1}, seed)
    batch.pop("segment_ids")
    with torch.no_grad():
        expected = theirs(
            input_ids=torch.tensor(batch["token_ids"]).long(),
            attention_mask=torch.tensor(batch["padding_mask"]),
            output_hidden_states=True,
            output_attentions=True,
        )
    found = outputs_of(ours, batch)
    # Theirs begin with what goes into the first block, and the last one has already
    # passed the final normalization.
    found["hidden_states"] = found["hidden_states"][:-1]
    assert_close(
        found,
        {
            "logits": expected.logits,
            "hidden_states": list(expected.hidden_states[1:-1]),
            "attention_scores": list(expected.attentions),
        },
        record_property,
    )


@one_backend_is_enough
def test_the_future_changes_nothing():
    sizes = random_encoder_sizes(3)
    sizes.pop("num_segments")
    model = models.causal_lm(**sizes)
    batch = random_batch({**sizes, "num_segments": 1}, 3)
    batch.pop("segment_ids")
    batch["padding_mask"][:] = 1
    before = outputs_of(model, batch)
    batch["token_ids"][:, 11:] = (batch["token_ids"][:, 11:] + 1) % 37
    after = outputs_of(model, batch)
    np.testing.assert_array_equal(before[:, :11], after[:, :11])
    assert np.abs(before[:, 11:] - after[:, 11:]).max() > 1e-3
