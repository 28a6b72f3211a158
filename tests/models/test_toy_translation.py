"""A transformer learns to copy and to reverse, and `generate` writes it down.

The smallest proof that training and decoding belong together: teacher forcing, masks,
start and end tokens, the caches. One wrong by a position learns neither task.
"""

import keras
import numpy as np
import pytest

from keras_tformer.models import generate, transformer
from keras_tformer.training import LinearWarmup, compile_arguments

PAD, END, START, FIRST, V = 0, 1, 2, 3, 14
SHORTEST, LONGEST = 3, 7


def draw_pairs(order, count, seed):
    """Draws sources of 3 to 7 symbols and an end, and their targets, `(count, 8)`."""
    draw = np.random.default_rng(seed)
    sources, targets = np.full((2, count, LONGEST + 1), PAD, "int32")
    lengths = draw.integers(SHORTEST, LONGEST + 1, count)
    for source, target, length in zip(sources, targets, lengths, strict=True):
        text = draw.integers(FIRST, V, length)
        source[: length + 1] = [*text, END]
        target[: length + 1] = [*text[::order], END]
    return sources, targets


@pytest.mark.slow
@pytest.mark.parametrize("order", [1, -1], ids=["copy", "reverse"])
def test_learns_without_a_mistake(order):
    keras.utils.set_random_seed(0)
    model = transformer(
        vocabulary_size=V,
        num_layers=2,
        num_heads=4,
        hidden_dim=32,
        intermediate_dim=64,
        dropout=0.0,
        normalize_first=True,
    )
    sources, targets = draw_pairs(order, count=64 * 400, seed=1)
    mask = (targets != PAD).astype("int32")
    inputs = {
        "encoder_token_ids": sources,
        "encoder_padding_mask": mask,
        "decoder_token_ids": np.insert(targets, 0, START, axis=1)[:, :-1],
        "decoder_padding_mask": mask,
    }
    model.compile(
        keras.optimizers.Adam(LinearWarmup(4e-3, warmup_steps=50, total_steps=800)),
        jit_compile=keras.backend.backend() == "jax",
        **compile_arguments("transformer"),
    )
    model.fit(inputs, targets, 64, epochs=2, sample_weight=mask, verbose=0)

    sources, targets = draw_pairs(order, count=200, seed=2)
    for num_beams in (1, 3):
        texts = generate(
            model,
            [source[source != PAD] for source in sources],
            max_length=LONGEST + 2,
            num_beams=num_beams,
            start_token_id=START,
            end_token_id=END,
            pad_token_id=PAD,
            jit_compile=False,
        )
        np.testing.assert_array_equal(texts[:, 1:], targets)
