"""The encoder-decoder against `torch.nn.Transformer` and Hugging Face's Marian."""

import math

import numpy as np
import pytest
from comparison import (
    alternate_sines_and_cosines,
    assert_close,
    one_backend_is_enough,
    outputs_of,
    randomize,
)
from weight_tables import arrays_of, copy_weights, marian_rows, torch_rows, unfused

from keras_tformer import models

torch = pytest.importorskip("torch", reason="the reference runs on torch")

SIZES = {
    "vocabulary_size": 53,
    "num_layers": 2,
    "num_heads": 3,
    "hidden_dim": 42,
    "intermediate_dim": 61,
}


def padded_batch(seed, batch_size=5, source_length=17, target_length=13):
    draw = np.random.default_rng(seed)
    batch = {}
    for side, length in (("encoder", source_length), ("decoder", target_length)):
        lengths = draw.integers(1, length + 1, (batch_size, 1))
        lengths[0] = length
        mask = (np.arange(length) < lengths).astype("int32")
        batch[f"{side}_token_ids"] = draw.integers(0, 53, mask.shape, "int32")
        batch[f"{side}_padding_mask"] = mask
    return batch


def torch_blocks(kind, activation, normalize_first, epsilon):
    """Builds one half of a Transformer; it ends in a norm where norms come first."""
    layer = getattr(torch.nn, f"Transformer{kind}Layer")(
        SIZES["hidden_dim"],
        SIZES["num_heads"],
        SIZES["intermediate_dim"],
        dropout=0.0,
        activation=activation,
        layer_norm_eps=epsilon,
        batch_first=True,
        norm_first=normalize_first,
    )
    norm = torch.nn.LayerNorm(SIZES["hidden_dim"], eps=epsilon)
    # Nested tensors would put zeros where the padding is.
    more = {"enable_nested_tensor": False} if kind == "Encoder" else {}
    return getattr(torch.nn, f"Transformer{kind}")(
        layer, SIZES["num_layers"], norm=norm if normalize_first else None, **more
    )


def keep_attention_weights(module, kept):
    """Makes torch's attention return its weights, and stores them under its name."""
    for name, part in module.named_modules():
        if isinstance(part, torch.nn.MultiheadAttention):
            part.register_forward_pre_hook(
                lambda _, args, kwargs: (
                    args,
                    {**kwargs, "need_weights": True, "average_attn_weights": False},
                ),
                with_kwargs=True,
            )
            part.register_forward_hook(
                lambda _, args, output, name=name: kept.__setitem__(name, output[1])
            )


@one_backend_is_enough
@pytest.mark.parametrize(
    ("normalize_first", "activation", "epsilon", "position"),
    [
        (False, "relu", 1e-6, "sinusoidal"),
        (True, "gelu", 1e-5, "learned"),
        pytest.param(False, "gelu", 1e-5, "learned", marks=pytest.mark.slow),
        pytest.param(True, "relu", 1e-6, "sinusoidal", marks=pytest.mark.slow),
    ],
)
def test_against_torch(normalize_first, activation, epsilon, position, record_property):
    theirs = torch.nn.Module()
    theirs.encoder = torch_blocks("Encoder", activation, normalize_first, epsilon)
    theirs.decoder = torch_blocks("Decoder", activation, normalize_first, epsilon)
    randomize(theirs, 5)
    ours = models.transformer(
        **SIZES,
        activation=activation,
        layer_norm_epsilon=epsilon,
        normalize_first=normalize_first,
        use_attention_bias=True,
        position=position,
        max_sequence_length=19,
        return_hidden_states=True,
        return_attention_scores=True,
    )
    draw = np.random.default_rng(5)
    width = SIZES["hidden_dim"]
    table = draw.normal(0, width**-0.5, (53, width)).astype("float32")
    tables = {"token_embedding/embeddings": table}
    for side in ("encoder", "decoder") if position == "learned" else ():
        tables[f"{side}_position_embedding/embeddings"] = draw.normal(
            0, 0.3, (19, width)
        ).astype("float32")
    arrays = unfused(arrays_of(theirs)) | tables
    table_rows = torch_rows(SIZES["num_layers"], has_final_norms=normalize_first)
    copy_weights(ours, table_rows + [(path, "=", path) for path in tables], arrays)

    def embedded(side):
        ids = batch[f"{side}_token_ids"]
        if position == "learned":
            offsets = tables[f"{side}_position_embedding/embeddings"][: ids.shape[1]]
        else:
            angles = [
                [t / 10000 ** (2 * (i // 2) / width) for i in range(width)]
                for t in range(ids.shape[1])
            ]
            offsets = np.where(
                np.arange(width) % 2, np.cos(angles), np.sin(angles)
            ).astype("float32")
        return torch.tensor(table[ids] * np.float32(math.sqrt(width)) + offsets)

    batch = padded_batch(5)
    padded = {
        side: torch.tensor(batch[f"{side}_padding_mask"] == 0)
        for side in ("encoder", "decoder")
    }
    scores, states = {}, {"encoder": [], "decoder": []}
    keep_attention_weights(theirs, scores)
    for side in states:
        for layer in getattr(theirs, side).layers:
            layer.register_forward_hook(
                lambda _, args, output, side=side: states[side].append(output)
            )
    with torch.no_grad():
        memory = theirs.encoder(
            embedded("encoder"), src_key_padding_mask=padded["encoder"]
        )
        top = theirs.decoder(
            embedded("decoder"),
            memory,
            tgt_mask=torch.ones(13, 13).triu(1).bool(),
            tgt_key_padding_mask=padded["decoder"],
            memory_key_padding_mask=padded["encoder"],
        )
        logits = top @ torch.tensor(table).T

    def scores_of(pattern):
        return [scores[pattern.format(layer)] for layer in range(SIZES["num_layers"])]

    assert_close(
        outputs_of(ours, batch),
        {
            "logits": logits,
            "encoder_hidden_states": states["encoder"],
            "decoder_hidden_states": states["decoder"],
            "encoder_attention_scores": scores_of("encoder.layers.{}.self_attn"),
            "decoder_attention_scores": scores_of("decoder.layers.{}.self_attn"),
            "cross_attention_scores": scores_of("decoder.layers.{}.multihead_attn"),
        },
        record_property,
    )


@one_backend_is_enough
@pytest.mark.parametrize(
    "share_embeddings", [True, pytest.param(False, marks=pytest.mark.slow)]
)
def test_against_marian(share_embeddings, record_property):
    """A whole translation model: scaled tables, sinusoids, tied logits, GELU."""
    transformers = pytest.importorskip("transformers", reason="the reference itself")
    config = transformers.MarianConfig(
        vocab_size=53 if share_embeddings else 47,
        decoder_vocab_size=53,
        share_encoder_decoder_embeddings=share_embeddings,
        d_model=SIZES["hidden_dim"],
        encoder_layers=SIZES["num_layers"],
        decoder_layers=SIZES["num_layers"],
        encoder_attention_heads=SIZES["num_heads"],
        decoder_attention_heads=SIZES["num_heads"],
        encoder_ffn_dim=SIZES["intermediate_dim"],
        decoder_ffn_dim=SIZES["intermediate_dim"],
        activation_function="gelu",
        scale_embedding=True,
        max_position_embeddings=19,
        pad_token_id=0,
        eos_token_id=0,
        decoder_start_token_id=0,
        forced_eos_token_id=0,
        attn_implementation="eager",  # The only one that returns attention scores.
    )
    theirs = transformers.MarianMTModel(config)
    alternate_sines_and_cosines(theirs)
    randomize(theirs, 6)
    ours = models.transformer(
        **SIZES,
        source_vocabulary_size=config.vocab_size,
        share_embeddings=share_embeddings,
        activation="gelu",
        layer_norm_epsilon=1e-5,
        use_attention_bias=True,
        return_hidden_states=True,
        return_attention_scores=True,
    )
    arrays = arrays_of(theirs)
    assert not arrays.pop("final_logits_bias").any()
    table_rows = marian_rows(SIZES["num_layers"], share_embeddings)
    copy_weights(ours, table_rows, arrays)

    batch = padded_batch(6)
    batch["encoder_token_ids"] %= config.vocab_size
    with torch.no_grad():
        expected = theirs(
            input_ids=torch.tensor(batch["encoder_token_ids"]).long(),
            attention_mask=torch.tensor(batch["encoder_padding_mask"]),
            decoder_input_ids=torch.tensor(batch["decoder_token_ids"]).long(),
            decoder_attention_mask=torch.tensor(batch["decoder_padding_mask"]),
            output_hidden_states=True,
            output_attentions=True,
            use_cache=False,
        )
    assert_close(
        outputs_of(ours, batch),
        {
            "logits": expected.logits,
            # Theirs begin with what goes into the first block.
            "encoder_hidden_states": list(expected.encoder_hidden_states[1:]),
            "decoder_hidden_states": list(expected.decoder_hidden_states[1:]),
            "encoder_attention_scores": list(expected.encoder_attentions),
            "decoder_attention_scores": list(expected.decoder_attentions),
            "cross_attention_scores": list(expected.cross_attentions),
        },
        record_property,
    )


@one_backend_is_enough
def test_neither_the_future_nor_padding_changes_anything():
    model = models.transformer(**SIZES, mask_value=-1e9)
    batch = padded_batch(7)
    before = outputs_of(model, batch)

    changed = {**batch, "decoder_token_ids": batch["decoder_token_ids"].copy()}
    changed["decoder_token_ids"][:, 7:] = (changed["decoder_token_ids"][:, 7:] + 1) % 53
    after = outputs_of(model, changed)
    np.testing.assert_array_equal(before[:, :7], after[:, :7])
    assert np.abs(before[:, 7:] - after[:, 7:]).max() > 1e-3

    ids, keep = batch["encoder_token_ids"], batch["encoder_padding_mask"] == 1
    changed = {**batch, "encoder_token_ids": np.where(keep, ids, (ids + 1) % 53)}
    np.testing.assert_array_equal(before, outputs_of(model, changed))
