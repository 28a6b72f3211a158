"""Hugging Face's GPT-2. Its kernels are (inputs, outputs), as ours are."""

from keras_tformer.checkpoints import config_fields as fields
from keras_tformer.checkpoints.families import encoder_heads as heads
from keras_tformer.checkpoints.weight_table import rows
from keras_tformer.models import causal_lm

PREFIX = "transformer."
ARCHITECTURES = {"GPT2LMHeadModel": "causal_lm", "GPT2Model": "causal_lm"}
COMPUTED = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "reorder_and_upcast_attn": False,
}
# `n_ctx` is what `n_positions` was called; `summary_*` belongs to another head.
KNOWN = frozenset(
    """
    activation_function attn_pdrop embd_pdrop layer_norm_epsilon n_ctx n_embd n_head
    n_inner n_layer n_positions resid_pdrop summary_activation summary_first_dropout
    summary_proj_to_labels summary_type summary_use_proj vocab_size
    """.split()
)

TABLE = "transformer.wte.weight"
TIED = {"lm_head.weight": TABLE}
UNDERSTOOD = (*TIED, ".attn.bias", ".attn.masked_bias")  # Causal masks as buffers.

EMBEDDINGS = """
wte.weight   =  token_embedding/embeddings
wpe.weight   =  position_embedding/embeddings
ln_f.weight  =  final_norm/gamma
ln_f.bias    =  final_norm/beta
"""

BLOCK = """
ln_1.weight         =    self_attention_norm/gamma
ln_1.bias           =    self_attention_norm/beta
attn.c_attn.weight  1/3  self_attention/query/kernel
attn.c_attn.weight  2/3  self_attention/key/kernel
attn.c_attn.weight  3/3  self_attention/value/kernel
attn.c_attn.bias    1/3  self_attention/query/bias
attn.c_attn.bias    2/3  self_attention/key/bias
attn.c_attn.bias    3/3  self_attention/value/bias
attn.c_proj.weight  =    self_attention/attention_output/kernel
attn.c_proj.bias    =    self_attention/attention_output/bias
ln_2.weight         =    feed_forward_norm/gamma
ln_2.bias           =    feed_forward_norm/beta
mlp.c_fc.weight     =    feed_forward/intermediate/kernel
mlp.c_fc.bias       =    feed_forward/intermediate/bias
mlp.c_proj.weight   =    feed_forward/output/kernel
mlp.c_proj.bias     =    feed_forward/output/bias
"""


def table_rows(model, task):
    """Returns the rows of a model's weights."""
    num_layers, _ = heads.equal_blocks(model, "decoder_layer_", normalize_first=True)
    found = rows(EMBEDDINGS, "transformer.")
    for layer in range(num_layers):
        found += rows(BLOCK, f"transformer.h.{layer}.", f"decoder_layer_{layer}/")
    return found


def build(config, task, num_classes, **options):
    """Builds the model of a configuration, with initial weights."""
    dropout = fields.number(config, "resid_pdrop", 0.1)
    if fields.number(config, "embd_pdrop", 0.1) != dropout:
        raise ValueError(
            f"'config.json' has embd_pdrop={config.get('embd_pdrop', 0.1)} and "
            f"resid_pdrop={dropout}. Ours has one rate for both. Make them equal in "
            "'config.json'; this changes training only."
        )
    hidden_dim = fields.number(config, "n_embd", 768)
    max_sequence_length = fields.number(config, "n_positions", 1024)
    if config.get("n_ctx", max_sequence_length) != max_sequence_length:
        raise ValueError(
            f"'config.json' has n_ctx={config['n_ctx']} and n_positions="
            f"{max_sequence_length}. Expected the same number twice."
        )
    return causal_lm(
        vocabulary_size=fields.number(config, "vocab_size", 50257),
        num_layers=fields.number(config, "n_layer", 12),
        num_heads=fields.number(config, "n_head", 12),
        hidden_dim=hidden_dim,
        intermediate_dim=config.get("n_inner") or 4 * hidden_dim,
        max_sequence_length=max_sequence_length,
        activation=fields.activation(config, "activation_function", "gelu_new"),
        dropout=dropout,
        attention_dropout=fields.number(config, "attn_pdrop", 0.1),
        layer_norm_epsilon=fields.number(config, "layer_norm_epsilon", 1e-5),
        initializer_range=fields.number(config, "initializer_range", 0.02),
        **options,
    )


def config_of(model, task, before):
    """Returns the configuration of a model; `before` is the one that it came with."""
    num_layers, block = heads.equal_blocks(
        model, "decoder_layer_", normalize_first=True
    )
    table = model.get_layer("token_embedding")
    inner = block["intermediate_dim"]
    # Ours do not know ids; GPT-2's own defaults may lie beyond the table.
    ids = {} if before else {"bos_token_id": None, "eos_token_id": None}
    has_usual_width = inner == 4 * table.embedding_dim and not before.get("n_inner")
    return {
        "model_type": "gpt2",
        **ids,
        "vocab_size": table.vocabulary_size,
        "n_positions": model.get_layer("position_embedding").max_sequence_length,
        "n_embd": table.embedding_dim,
        "n_layer": num_layers,
        "n_head": block["num_heads"],
        "n_inner": None if has_usual_width else inner,
        "activation_function": fields.activation_field(
            block["activation"], before, "activation_function"
        ),
        "resid_pdrop": block["dropout"],
        "embd_pdrop": heads.rate_of(model, "embeddings_dropout", block["dropout"]),
        "attn_pdrop": block["attention_dropout"],
        "layer_norm_epsilon": block["layer_norm_epsilon"],
    }
