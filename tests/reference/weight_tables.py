"""Which weight of another implementation is which weight of ours.

Each line: the source's name, `T` where a matrix has to be transposed (`=` where not),
our path. torch keeps the kernel of a linear layer as (outputs, inputs), Keras as
(inputs, outputs).
"""

import numpy as np

# === Hugging Face BERT ===

BERT_EMBEDDINGS = """
word_embeddings.weight        =  token_embedding/embeddings
position_embeddings.weight    =  embeddings/position_embedding/embeddings
token_type_embeddings.weight  =  embeddings/segment_embedding/embeddings
LayerNorm.weight              =  embeddings/layer_norm/gamma
LayerNorm.bias                =  embeddings/layer_norm/beta
"""

BERT_BLOCK = """
attention.self.query.weight        T  self_attention/query/kernel
attention.self.query.bias          =  self_attention/query/bias
attention.self.key.weight          T  self_attention/key/kernel
attention.self.key.bias            =  self_attention/key/bias
attention.self.value.weight        T  self_attention/value/kernel
attention.self.value.bias          =  self_attention/value/bias
attention.output.dense.weight      T  self_attention/attention_output/kernel
attention.output.dense.bias        =  self_attention/attention_output/bias
attention.output.LayerNorm.weight  =  self_attention_norm/gamma
attention.output.LayerNorm.bias    =  self_attention_norm/beta
intermediate.dense.weight          T  feed_forward/intermediate/kernel
intermediate.dense.bias            =  feed_forward/intermediate/bias
output.dense.weight                T  feed_forward/output/kernel
output.dense.bias                  =  feed_forward/output/bias
output.LayerNorm.weight            =  feed_forward_norm/gamma
output.LayerNorm.bias              =  feed_forward_norm/beta
"""

BERT_POOLER = """
bert.pooler.dense.weight  T  pooler/dense/kernel
bert.pooler.dense.bias    =  pooler/dense/bias
"""

BERT_MASKED_LM = """
cls.predictions.transform.dense.weight      T  masked_lm_head/dense/kernel
cls.predictions.transform.dense.bias        =  masked_lm_head/dense/bias
cls.predictions.transform.LayerNorm.weight  =  masked_lm_head/layer_norm/gamma
cls.predictions.transform.LayerNorm.bias    =  masked_lm_head/layer_norm/beta
cls.predictions.bias                        =  masked_lm_head/bias/bias
"""

BERT_NEXT_SENTENCE = """
cls.seq_relationship.weight  T  next_sentence/kernel
cls.seq_relationship.bias    =  next_sentence/bias
"""

# === Hugging Face ALBERT ===

ALBERT_EMBEDDINGS = """
embeddings.word_embeddings.weight            =  token_embedding/embeddings
embeddings.position_embeddings.weight        =  embeddings/position_embedding/embeddings
embeddings.token_type_embeddings.weight      =  embeddings/segment_embedding/embeddings
embeddings.LayerNorm.weight                  =  embeddings/layer_norm/gamma
embeddings.LayerNorm.bias                    =  embeddings/layer_norm/beta
encoder.embedding_hidden_mapping_in.weight   T  embeddings/projection/kernel
encoder.embedding_hidden_mapping_in.bias     =  embeddings/projection/bias
"""

ALBERT_BLOCK = """
attention.query.weight        T  self_attention/query/kernel
attention.query.bias          =  self_attention/query/bias
attention.key.weight          T  self_attention/key/kernel
attention.key.bias            =  self_attention/key/bias
attention.value.weight        T  self_attention/value/kernel
attention.value.bias          =  self_attention/value/bias
attention.dense.weight        T  self_attention/attention_output/kernel
attention.dense.bias          =  self_attention/attention_output/bias
attention.LayerNorm.weight    =  self_attention_norm/gamma
attention.LayerNorm.bias      =  self_attention_norm/beta
ffn.weight                    T  feed_forward/intermediate/kernel
ffn.bias                      =  feed_forward/intermediate/bias
ffn_output.weight             T  feed_forward/output/kernel
ffn_output.bias               =  feed_forward/output/bias
full_layer_layer_norm.weight  =  feed_forward_norm/gamma
full_layer_layer_norm.bias    =  feed_forward_norm/beta
"""

ALBERT_POOLER = """
albert.pooler.weight  T  pooler/dense/kernel
albert.pooler.bias    =  pooler/dense/bias
"""

ALBERT_MASKED_LM = """
predictions.dense.weight      T  masked_lm_head/dense/kernel
predictions.dense.bias        =  masked_lm_head/dense/bias
predictions.LayerNorm.weight  =  masked_lm_head/layer_norm/gamma
predictions.LayerNorm.bias    =  masked_lm_head/layer_norm/beta
predictions.bias              =  masked_lm_head/bias/bias
"""

ALBERT_SENTENCE_ORDER = """
sop_classifier.classifier.weight  T  sentence_order/kernel
sop_classifier.classifier.bias    =  sentence_order/bias
"""

# === Heads that BERT and ALBERT share ===

CLASSIFIER = """
classifier.weight  T  classifier/kernel
classifier.bias    =  classifier/bias
"""

SPAN = """
qa_outputs.weight  T  span/kernel
qa_outputs.bias    =  span/bias
"""

# === Hugging Face GPT-2: kernels as (inputs, outputs), c_attn cut in three ===

GPT2_EMBEDDINGS = """
wte.weight   =  token_embedding/embeddings
wpe.weight   =  position_embedding/embeddings
ln_f.weight  =  final_norm/gamma
ln_f.bias    =  final_norm/beta
"""

GPT2_BLOCK = """
ln_1.weight               =  self_attention_norm/gamma
ln_1.bias                 =  self_attention_norm/beta
attn.c_attn.query.weight  =  self_attention/query/kernel
attn.c_attn.query.bias    =  self_attention/query/bias
attn.c_attn.key.weight    =  self_attention/key/kernel
attn.c_attn.key.bias      =  self_attention/key/bias
attn.c_attn.value.weight  =  self_attention/value/kernel
attn.c_attn.value.bias    =  self_attention/value/bias
attn.c_proj.weight        =  self_attention/attention_output/kernel
attn.c_proj.bias          =  self_attention/attention_output/bias
ln_2.weight               =  feed_forward_norm/gamma
ln_2.bias                 =  feed_forward_norm/beta
mlp.c_fc.weight           =  feed_forward/intermediate/kernel
mlp.c_fc.bias             =  feed_forward/intermediate/bias
mlp.c_proj.weight         =  feed_forward/output/kernel
mlp.c_proj.bias           =  feed_forward/output/bias
"""

# === torch.nn.Transformer: in_proj cut in three ===

TORCH_ATTENTION = """
in_proj.query.weight  T  query/kernel
in_proj.query.bias    =  query/bias
in_proj.key.weight    T  key/kernel
in_proj.key.bias      =  key/bias
in_proj.value.weight  T  value/kernel
in_proj.value.bias    =  value/bias
out_proj.weight       T  attention_output/kernel
out_proj.bias         =  attention_output/bias
"""

TORCH_FEED_FORWARD = """
linear1.weight  T  feed_forward/intermediate/kernel
linear1.bias    =  feed_forward/intermediate/bias
linear2.weight  T  feed_forward/output/kernel
linear2.bias    =  feed_forward/output/bias
"""

NORM = """
weight  =  gamma
bias    =  beta
"""

# === Hugging Face Marian ===

MARIAN_ATTENTION = """
q_proj.weight    T  query/kernel
q_proj.bias      =  query/bias
k_proj.weight    T  key/kernel
k_proj.bias      =  key/bias
v_proj.weight    T  value/kernel
v_proj.bias      =  value/bias
out_proj.weight  T  attention_output/kernel
out_proj.bias    =  attention_output/bias
"""

MARIAN_FEED_FORWARD = """
fc1.weight  T  feed_forward/intermediate/kernel
fc1.bias    =  feed_forward/intermediate/bias
fc2.weight  T  feed_forward/output/kernel
fc2.bias    =  feed_forward/output/bias
"""

MARIAN_TABLES = """
decoder.embed_tokens.weight  =  token_embedding/embeddings
"""

MARIAN_SOURCE_TABLE = """
encoder.embed_tokens.weight  =  source_token_embedding/embeddings
"""

# === KerasHub: attention kernels as (D, H, K), which a reshape makes ours ===

KERAS_HUB_EMBEDDINGS = """
token_embedding/embeddings     =  token_embedding/embeddings
position_embedding/embeddings  =  embeddings/position_embedding/embeddings
segment_embedding/embeddings   =  embeddings/segment_embedding/embeddings
embeddings_layer_norm/gamma    =  embeddings/layer_norm/gamma
embeddings_layer_norm/beta     =  embeddings/layer_norm/beta
pooled_dense/kernel            =  pooler/dense/kernel
pooled_dense/bias              =  pooler/dense/bias
"""

KERAS_HUB_PROJECTION = """
embedding_projection/kernel  =  embeddings/projection/kernel
embedding_projection/bias    =  embeddings/projection/bias
"""

KERAS_HUB_BLOCK = """
self_attention_layer/query/kernel             =  self_attention/query/kernel
self_attention_layer/query/bias               =  self_attention/query/bias
self_attention_layer/key/kernel               =  self_attention/key/kernel
self_attention_layer/key/bias                 =  self_attention/key/bias
self_attention_layer/value/kernel             =  self_attention/value/kernel
self_attention_layer/value/bias               =  self_attention/value/bias
self_attention_layer/attention_output/kernel  =  self_attention/attention_output/kernel
self_attention_layer/attention_output/bias    =  self_attention/attention_output/bias
self_attention_layer_norm/gamma               =  self_attention_norm/gamma
self_attention_layer_norm/beta                =  self_attention_norm/beta
feedforward_intermediate_dense/kernel         =  feed_forward/intermediate/kernel
feedforward_intermediate_dense/bias           =  feed_forward/intermediate/bias
feedforward_output_dense/kernel               =  feed_forward/output/kernel
feedforward_output_dense/bias                 =  feed_forward/output/bias
feedforward_layer_norm/gamma                  =  feed_forward_norm/gamma
feedforward_layer_norm/beta                   =  feed_forward_norm/beta
"""


def rows(table, source="", ours=""):
    """Reads a table: a list of (source name, `T` or `=`, our path), with prefixes."""
    lines = [line.split() for line in table.strip().splitlines()]
    return [(source + name, kind, ours + path) for name, kind, path in lines]


def bert_rows(num_layers, *heads):
    """Returns the rows of a Hugging Face BERT with these tables of heads."""
    found = rows(BERT_EMBEDDINGS, "bert.embeddings.")
    for layer in range(num_layers):
        source, ours = f"bert.encoder.layer.{layer}.", f"encoder_layer_{layer}/"
        found += rows(BERT_BLOCK, source, ours)
    return found + [row for head in heads for row in rows(head)]


def albert_rows(num_groups, num_inner_repetitions, *heads):
    """Returns the rows of a Hugging Face ALBERT with these tables of heads."""
    found = rows(ALBERT_EMBEDDINGS, "albert.")
    for group in range(num_groups):
        for layer in range(num_inner_repetitions):
            found += rows(
                ALBERT_BLOCK,
                f"albert.encoder.albert_layer_groups.{group}.albert_layers.{layer}.",
                f"encoder_group_{group}_layer_{layer}/",
            )
    return found + [row for head in heads for row in rows(head)]


def gpt2_rows(num_layers):
    """Returns the rows of a Hugging Face GPT-2 whose fused kernels are cut."""
    found = rows(GPT2_EMBEDDINGS, "transformer.")
    for layer in range(num_layers):
        source, ours = f"transformer.h.{layer}.", f"decoder_layer_{layer}/"
        found += rows(GPT2_BLOCK, source, ours)
    return found


def torch_rows(num_layers, has_final_norms):
    """Returns the rows of a `torch.nn.Transformer` whose fused kernels are cut."""
    found = []
    for layer in range(num_layers):
        source, ours = f"encoder.layers.{layer}.", f"encoder_layer_{layer}/"
        found += rows(TORCH_ATTENTION, f"{source}self_attn.", f"{ours}self_attention/")
        found += rows(TORCH_FEED_FORWARD, source, ours)
        found += rows(NORM, f"{source}norm1.", f"{ours}self_attention_norm/")
        found += rows(NORM, f"{source}norm2.", f"{ours}feed_forward_norm/")
        source, ours = f"decoder.layers.{layer}.", f"decoder_layer_{layer}/"
        found += rows(TORCH_ATTENTION, f"{source}self_attn.", f"{ours}self_attention/")
        found += rows(
            TORCH_ATTENTION, f"{source}multihead_attn.", f"{ours}cross_attention/"
        )
        found += rows(TORCH_FEED_FORWARD, source, ours)
        found += rows(NORM, f"{source}norm1.", f"{ours}self_attention_norm/")
        found += rows(NORM, f"{source}norm2.", f"{ours}cross_attention_norm/")
        found += rows(NORM, f"{source}norm3.", f"{ours}feed_forward_norm/")
    if has_final_norms:
        found += rows(NORM, "encoder.norm.", "encoder_norm/")
        found += rows(NORM, "decoder.norm.", "decoder_norm/")
    return found


def marian_rows(num_layers, share_embeddings):
    """Returns the rows of a Hugging Face Marian."""
    found = rows(MARIAN_TABLES, "model.")
    if not share_embeddings:
        found += rows(MARIAN_SOURCE_TABLE, "model.")
    for layer in range(num_layers):
        for side in ("encoder", "decoder"):
            source, ours = f"model.{side}.layers.{layer}.", f"{side}_layer_{layer}/"
            attentions = {"self_attn": "self_attention"}
            if side == "decoder":
                attentions["encoder_attn"] = "cross_attention"
            for theirs, own in attentions.items():
                found += rows(MARIAN_ATTENTION, f"{source}{theirs}.", f"{ours}{own}/")
                found += rows(
                    NORM, f"{source}{theirs}_layer_norm.", f"{ours}{own}_norm/"
                )
            found += rows(MARIAN_FEED_FORWARD, source, ours)
            found += rows(
                NORM, f"{source}final_layer_norm.", f"{ours}feed_forward_norm/"
            )
    return found


def keras_hub_rows(blocks, has_projection):
    """Returns the rows of a KerasHub backbone; `blocks` maps its names to ours."""
    found = rows(KERAS_HUB_EMBEDDINGS)
    if has_projection:
        found += rows(KERAS_HUB_PROJECTION)
    for theirs, ours in blocks.items():
        found += rows(KERAS_HUB_BLOCK, f"{theirs}/", f"{ours}/")
    return found


def unfused(arrays):
    """Cuts kernels that make query, key and value at once into three.

    GPT-2 puts them side by side (`c_attn`), torch below each other (`in_proj`).
    """
    cut = {}
    for name, array in arrays.items():
        for fused, part, axis in (
            ("c_attn.", "c_attn.{}.", -1),
            ("in_proj_", "in_proj.{}.", 0),
        ):
            if fused in name:
                for word, piece in zip(
                    ("query", "key", "value"), np.split(array, 3, axis), strict=True
                ):
                    cut[name.replace(fused, part.format(word))] = piece
                break
        else:
            cut[name] = array
    return cut


def arrays_of(torch_module):
    """Returns all weights of a torch module as NumPy arrays."""
    return {
        name: value.detach().numpy()
        for name, value in torch_module.state_dict().items()
    }


# Names under which torch repeats a weight that is tied to another.
REPEATED = (
    "predictions.decoder.weight",
    "predictions.decoder.bias",
    "lm_head.weight",
    "shared.weight",
    "encoder.embed_tokens.weight",
    "embed_positions.weight",  # Fixed sines and cosines, which ours computes.
)


def copy_weights(model, table_rows, arrays):
    """Sets every weight of `model` from `arrays`, and checks that none is left over."""
    weights = {weight.path: weight for weight in model.weights}
    read = {name for name, _, _ in table_rows}
    arrays = {
        name: array
        for name, array in arrays.items()
        if name in read or not name.endswith(REPEATED)
    }
    for name, kind, path in table_rows:
        array, weight = arrays.pop(name), weights.pop(path)
        array = array.T if kind == "T" else array
        if "attention" in name and array.ndim != len(weight.shape):
            array = array.reshape(weight.shape)  # KerasHub: (D, H, K) to (D, H * K)
        assert array.shape == tuple(weight.shape), (name, array.shape, path)
        weight.assign(array)
    assert not weights, f"weights of ours that no row sets: {sorted(weights)}"
    assert not arrays, f"weights of theirs that no row reads: {sorted(arrays)}"
