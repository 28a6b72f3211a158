"""Hugging Face's Marian, the translation models of Helsinki-NLP.

Marian keeps the sines of all positions before the cosines, ours alternate as in Vaswani
et al. 2017. Both are the same numbers in another order, so the axis of width D of every
tensor is put into that order on the way; the logits do not change, and the way back
gives the same bits.
"""

import numpy as np

from keras_tformer.checkpoints import config_fields as fields
from keras_tformer.checkpoints.families import encoder_heads as heads
from keras_tformer.checkpoints.weight_table import rows
from keras_tformer.models import transformer

PREFIX = "model."
ARCHITECTURES = {"MarianMTModel": "transformer", "MarianModel": "transformer"}
COMPUTED = {
    "activation_dropout": 0.0,
    "add_bias_logits": False,
    "add_final_layer_norm": False,
    "decoder_layerdrop": 0.0,
    "encoder_layerdrop": 0.0,
    "extra_pos_embeddings": 0,
    "force_bos_token_to_be_generated": False,
    "is_encoder_decoder": True,
    "normalize_before": False,
    "normalize_embedding": False,
    "scale_embedding": True,
    "static_position_embeddings": True,
}
KNOWN = frozenset(
    """
    activation_function attention_dropout classif_dropout classifier_dropout d_model
    decoder_attention_heads decoder_ffn_dim decoder_layers decoder_vocab_size dropout
    encoder_attention_heads encoder_ffn_dim encoder_layers max_position_embeddings
    num_hidden_layers share_encoder_decoder_embeddings vocab_size
    """.split()
)

# Shared, the table is `model.shared`; otherwise source and target have their own.
TABLE = "model.decoder.embed_tokens.weight"
TIED = {
    "lm_head.weight": TABLE,
    "model.decoder.embed_tokens.weight": "model.shared.weight",
    "model.encoder.embed_tokens.weight": "model.shared.weight",
}
UNDERSTOOD = (*TIED, "shared.weight", "embed_positions.weight")

SHARED_TABLE = """
model.shared.weight  =  token_embedding/embeddings
"""

TWO_TABLES = """
model.encoder.embed_tokens.weight  =  source_token_embedding/embeddings
model.decoder.embed_tokens.weight  =  token_embedding/embeddings
"""

OUTPUT_BIAS = """
final_logits_bias  R  output_bias/bias
"""

ATTENTION = """
q_proj.weight    T  query/kernel
q_proj.bias      =  query/bias
k_proj.weight    T  key/kernel
k_proj.bias      =  key/bias
v_proj.weight    T  value/kernel
v_proj.bias      =  value/bias
out_proj.weight  T  attention_output/kernel
out_proj.bias    =  attention_output/bias
"""

FEED_FORWARD = """
fc1.weight               T  feed_forward/intermediate/kernel
fc1.bias                 =  feed_forward/intermediate/bias
fc2.weight               T  feed_forward/output/kernel
fc2.bias                 =  feed_forward/output/bias
final_layer_norm.weight  =  feed_forward_norm/gamma
final_layer_norm.bias    =  feed_forward_norm/beta
"""

NORM = """
weight  =  gamma
bias    =  beta
"""

# The axis of width D of a tensor of Marian's, by the end of its name.
_HIDDEN_AXES = {
    "shared.weight": 1,
    "embed_tokens.weight": 1,
    "q_proj.weight": 1,
    "k_proj.weight": 1,
    "v_proj.weight": 1,
    "out_proj.weight": 0,
    "out_proj.bias": 0,
    "fc1.weight": 1,
    "fc2.weight": 0,
    "fc2.bias": 0,
    "layer_norm.weight": 0,
    "layer_norm.bias": 0,
}


def table_rows(model, task):
    """Returns the rows of a model's weights."""
    num_layers, _ = heads.equal_blocks(model, "encoder_layer_", use_attention_bias=None)
    has_two = heads.layer_of(model, "source_token_embedding") is not None
    found = rows(TWO_TABLES if has_two else SHARED_TABLE) + rows(OUTPUT_BIAS)
    for layer in range(num_layers):
        for side in ("encoder", "decoder"):
            source, ours = f"model.{side}.layers.{layer}.", f"{side}_layer_{layer}/"
            attentions = {"self_attn": "self_attention"}
            if side == "decoder":
                attentions["encoder_attn"] = "cross_attention"
            for theirs, own in attentions.items():
                found += rows(ATTENTION, f"{source}{theirs}.", f"{ours}{own}/")
                norm = f"{source}{theirs}_layer_norm."
                found += rows(NORM, norm, f"{ours}{own}_norm/")
            found += rows(FEED_FORWARD, source, ours)
    return found


def build(config, task, num_classes, sequence_length=None, **options):
    """Builds the model of a configuration, with initial weights."""
    sides = {}
    for name, field, default in (
        ("num_layers", "layers", 12),
        ("num_heads", "attention_heads", 16),
        ("intermediate_dim", "ffn_dim", 4096),
    ):
        pair = [
            fields.number(config, f"{side}_{field}", default)
            for side in ("encoder", "decoder")
        ]
        if pair[0] != pair[1]:
            raise ValueError(
                f"'config.json' has encoder_{field}={pair[0]} and decoder_{field}="
                f"{pair[1]}. Ours has the same number on both sides. Use "
                "`transformers` for this checkpoint."
            )
        sides[name] = pair[0]
    is_shared = config.get("share_encoder_decoder_embeddings", True)
    source = fields.number(config, "vocab_size", 58101)
    target = source if is_shared else config.get("decoder_vocab_size") or source
    return transformer(
        vocabulary_size=target,
        source_vocabulary_size=None if is_shared else source,
        share_embeddings=is_shared,
        hidden_dim=fields.number(config, "d_model", 1024),
        **sides,
        max_sequence_length=fields.number(config, "max_position_embeddings", 1024),
        activation=fields.activation(config, "activation_function", "gelu"),
        dropout=fields.number(config, "dropout", 0.1),
        attention_dropout=fields.number(config, "attention_dropout", 0.0),
        layer_norm_epsilon=1e-5,
        use_attention_bias=True,
        use_output_bias=True,
        encoder_sequence_length=sequence_length,
        decoder_sequence_length=sequence_length,
        **options,
    )


def config_of(model, task, before):
    """Returns the configuration of a model; `before` is the one that it came with."""
    num_layers, block = heads.equal_blocks(
        model, "encoder_layer_", use_attention_bias=None
    )
    num_decoder_layers, decoder_block = heads.equal_blocks(
        model, "decoder_layer_", use_attention_bias=None
    )
    if (num_decoder_layers, decoder_block) != (num_layers, block):
        raise ValueError(
            f"Encoder and decoder of `{model.name}` differ. Save it as `.keras`."
        )
    if block["layer_norm_epsilon"] != 1e-5:
        raise ValueError(
            f"`{model.name}` has layer_norm_epsilon={block['layer_norm_epsilon']}. "
            "Expected 1e-5, which Hugging Face's Marian always has. Build it with "
            "`layer_norm_epsilon=1e-5`, or save it as `.keras`."
        )
    if heads.layer_of(model, "encoder_position_encoding") is None:
        raise ValueError(
            f"`{model.name}` has learned positions, Marian has sines and cosines. "
            "Build it with `position='sinusoidal'`, or save it as `.keras`."
        )
    target = model.get_layer("token_embedding")
    source = heads.layer_of(model, "source_token_embedding") or target
    width = target.embedding_dim
    found = {
        "model_type": "marian",
        "is_encoder_decoder": True,
        "vocab_size": source.vocabulary_size,
        "decoder_vocab_size": target.vocabulary_size,
        "share_encoder_decoder_embeddings": source is target,
        "d_model": width,
        "dropout": block["dropout"],
        "attention_dropout": block["attention_dropout"],
        "activation_function": fields.activation_field(
            block["activation"], before, "activation_function"
        ),
        "scale_embedding": True,
        "max_position_embeddings": before.get("max_position_embeddings", 512),
    }
    for side in ("encoder", "decoder"):
        found[f"{side}_layers"] = num_layers
        found[f"{side}_attention_heads"] = block["num_heads"]
        found[f"{side}_ffn_dim"] = block["intermediate_dim"]
    if not before:  # Ours do not know ids; Marian's own defaults lie beyond the table.
        found |= {"pad_token_id": 0, "eos_token_id": 0, "forced_eos_token_id": 0}
        found |= {"decoder_start_token_id": 0}
    return found


def to_ours(name, array):
    """Puts sines and cosines in turn along the axis of width D.

    Example:
        >>> to_ours("fc2.bias", np.array([1, 2, 3, 4]))  # two sines, two cosines
        array([1, 3, 2, 4])
    """
    axis = _hidden_axis(name)
    if axis is None:
        return array
    half = array.shape[axis] // 2
    order = np.arange(2 * half).reshape(2, half).T.reshape(-1)
    return np.take(array, order, axis)


def to_theirs(name, array):
    """Puts all sines before all cosines again.

    Example:
        >>> to_theirs("fc2.bias", np.array([1, 3, 2, 4]))
        array([1, 2, 3, 4])
    """
    axis = _hidden_axis(name)
    if axis is None:
        return array
    half = array.shape[axis] // 2
    order = np.arange(2 * half).reshape(half, 2).T.reshape(-1)
    return np.take(array, order, axis)


def zero_biases(model):
    """Returns names and shapes of the biases that Marian has and the model has not."""
    num_layers, block = heads.equal_blocks(
        model, "encoder_layer_", use_attention_bias=None
    )
    table = model.get_layer("token_embedding")
    found = {}
    if heads.layer_of(model, "output_bias") is None:
        found["final_logits_bias"] = (1, table.vocabulary_size)
    if block["use_attention_bias"]:
        return found
    return found | {
        f"model.{side}.layers.{layer}.{attention}.{part}.bias": (table.embedding_dim,)
        for layer in range(num_layers)
        for side, attention in (
            ("encoder", "self_attn"),
            ("decoder", "self_attn"),
            ("decoder", "encoder_attn"),
        )
        for part in ("q_proj", "k_proj", "v_proj", "out_proj")
    }


def _hidden_axis(name):
    return next(
        (axis for end, axis in _HIDDEN_AXES.items() if name.endswith(end)), None
    )
