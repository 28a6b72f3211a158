"""Computes the golden values again, with Hugging Face's models on torch.

    pip install "keras_tformer[test,reference]"
    python tests/reference/make_golden.py

Writes `golden/<case>.npz`: inputs as `input/<name>` and outputs under the names of ours
(`<name>/<number>` where an output is a list).
"""

import os

import golden_cases
import numpy as np
import torch
import transformers
from comparison import alternate_sines_and_cosines
from golden_cases import ALBERT, BERT, COMMON, FOLDER, GPT2, MARIAN


def with_formula_weights(model):
    """Gives a reference model the weights that follow from their names."""
    with torch.no_grad():
        for name, value in model.named_parameters():
            if not value.requires_grad:  # Marian's sines and cosines.
                continue
            name = name.replace("model.shared", "model.decoder.embed_tokens")
            if ".c_attn." in name:  # Query, key and value side by side.
                shape = (*value.shape[:-1], value.shape[-1] // 3)
                parts = [
                    name.replace("c_attn.", f"c_attn.{word}.")
                    for word in ("query", "key", "value")
                ]
                array = np.concatenate(
                    [golden_cases.formula_weight(part, shape) for part in parts], -1
                )
            else:
                array = golden_cases.formula_weight(name, tuple(value.shape))
            value.copy_(torch.tensor(array))
    return model.eval()


def encoder_config(kind, sizes, **more):
    return kind(
        vocab_size=sizes["vocabulary_size"],
        num_hidden_layers=sizes["num_layers"],
        num_attention_heads=sizes["num_heads"],
        hidden_size=sizes["hidden_dim"],
        intermediate_size=sizes["intermediate_dim"],
        max_position_embeddings=sizes["max_sequence_length"],
        type_vocab_size=sizes["num_segments"],
        hidden_act=sizes["activation"],
        layer_norm_eps=sizes["layer_norm_epsilon"],
        attn_implementation="eager",
        **more,
    )


def encoder_case(model, batch, pair_name, their_pair_name):
    outputs = model(
        input_ids=torch.tensor(batch["token_ids"]).long(),
        token_type_ids=torch.tensor(batch["segment_ids"]).long(),
        attention_mask=torch.tensor(batch["padding_mask"]),
        output_hidden_states=True,
        output_attentions=True,
    )
    positions = batch["mask_positions"][..., None]
    logits = outputs.prediction_logits.numpy()
    return {
        "masked_lm": np.take_along_axis(logits, positions, 1),
        pair_name: outputs[their_pair_name],
        "hidden_states": outputs.hidden_states[1:],
        "attention_scores": outputs.attentions,
    }


def bert(batch):
    config = encoder_config(transformers.BertConfig, BERT)
    model = with_formula_weights(transformers.BertForPreTraining(config))
    return encoder_case(model, batch, "next_sentence", "seq_relationship_logits")


def albert(batch):
    config = encoder_config(
        transformers.AlbertConfig,
        ALBERT,
        embedding_size=ALBERT["embedding_dim"],
        num_hidden_groups=ALBERT["num_groups"],
    )
    model = with_formula_weights(transformers.AlbertForPreTraining(config))
    return encoder_case(model, batch, "sentence_order", "sop_logits")


def gpt2(batch):
    config = transformers.GPT2Config(
        vocab_size=GPT2["vocabulary_size"],
        n_layer=GPT2["num_layers"],
        n_head=GPT2["num_heads"],
        n_embd=GPT2["hidden_dim"],
        n_inner=GPT2["intermediate_dim"],
        n_positions=GPT2["max_sequence_length"],
        activation_function=GPT2["activation"],
        layer_norm_epsilon=GPT2["layer_norm_epsilon"],
        bos_token_id=0,
        eos_token_id=0,
        attn_implementation="eager",
    )
    model = with_formula_weights(transformers.GPT2LMHeadModel(config))
    outputs = model(
        input_ids=torch.tensor(batch["token_ids"]).long(),
        attention_mask=torch.tensor(batch["padding_mask"]),
        output_attentions=True,
    )
    return {"logits": outputs.logits, "attention_scores": outputs.attentions}


def marian(batch):
    config = transformers.MarianConfig(
        vocab_size=MARIAN["vocabulary_size"],
        d_model=MARIAN["hidden_dim"],
        encoder_layers=MARIAN["num_layers"],
        decoder_layers=MARIAN["num_layers"],
        encoder_attention_heads=MARIAN["num_heads"],
        decoder_attention_heads=MARIAN["num_heads"],
        encoder_ffn_dim=MARIAN["intermediate_dim"],
        decoder_ffn_dim=MARIAN["intermediate_dim"],
        activation_function=MARIAN["activation"],
        scale_embedding=True,
        max_position_embeddings=COMMON["max_sequence_length"],
        pad_token_id=0,
        eos_token_id=0,
        decoder_start_token_id=0,
        forced_eos_token_id=0,
        attn_implementation="eager",
    )
    model = transformers.MarianMTModel(config)
    alternate_sines_and_cosines(model)
    outputs = with_formula_weights(model)(
        input_ids=torch.tensor(batch["encoder_token_ids"]).long(),
        attention_mask=torch.tensor(batch["encoder_padding_mask"]),
        decoder_input_ids=torch.tensor(batch["decoder_token_ids"]).long(),
        decoder_attention_mask=torch.tensor(batch["decoder_padding_mask"]),
        output_attentions=True,
        use_cache=False,
    )
    return {
        "logits": outputs.logits,
        "encoder_attention_scores": outputs.encoder_attentions,
        "decoder_attention_scores": outputs.decoder_attentions,
        "cross_attention_scores": outputs.cross_attentions,
    }


def main():
    for case in (bert, albert, gpt2, marian):
        batch = golden_cases.golden_batch(case.__name__)
        arrays = {f"input/{name}": array for name, array in batch.items()}
        with torch.no_grad():
            for name, output in case(batch).items():
                if isinstance(output, tuple):
                    entries = {f"{name}/{i}": part for i, part in enumerate(output)}
                else:
                    entries = {name: output}
                arrays |= {key: np.asarray(value) for key, value in entries.items()}
        file = FOLDER / f"{case.__name__}.npz"
        beside = file.with_name(f".{file.name}")
        FOLDER.mkdir(exist_ok=True)
        np.savez_compressed(beside, **arrays)
        os.replace(beside, file)
        print(f"{file}: {len(arrays)} arrays, {file.stat().st_size} bytes")


if __name__ == "__main__":
    main()
