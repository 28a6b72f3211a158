"""Google's names for the weights of BERT and ALBERT, and where each is in our models.

TensorFlow keeps kernels as (inputs, outputs), as Keras does. Only the matrices that
Google's code made by hand (`output_weights`) stand the other way.
"""

from keras_tformer.checkpoints.weight_table import rows

# === TensorFlow 1: google-research/bert and google-research/albert ===

EMBEDDINGS = """
bert/embeddings/word_embeddings        =  token_embedding/embeddings
bert/embeddings/position_embeddings    =  embeddings/position_embedding/embeddings
bert/embeddings/token_type_embeddings  =  embeddings/segment_embedding/embeddings
bert/embeddings/LayerNorm/gamma        =  embeddings/layer_norm/gamma
bert/embeddings/LayerNorm/beta         =  embeddings/layer_norm/beta
"""

BERT_BLOCK = """
attention/self/query/kernel       =  self_attention/query/kernel
attention/self/query/bias         =  self_attention/query/bias
attention/self/key/kernel         =  self_attention/key/kernel
attention/self/key/bias           =  self_attention/key/bias
attention/self/value/kernel       =  self_attention/value/kernel
attention/self/value/bias         =  self_attention/value/bias
attention/output/dense/kernel     =  self_attention/attention_output/kernel
attention/output/dense/bias       =  self_attention/attention_output/bias
attention/output/LayerNorm/gamma  =  self_attention_norm/gamma
attention/output/LayerNorm/beta   =  self_attention_norm/beta
intermediate/dense/kernel         =  feed_forward/intermediate/kernel
intermediate/dense/bias           =  feed_forward/intermediate/bias
output/dense/kernel               =  feed_forward/output/kernel
output/dense/bias                 =  feed_forward/output/bias
output/LayerNorm/gamma            =  feed_forward_norm/gamma
output/LayerNorm/beta             =  feed_forward_norm/beta
"""

ALBERT_PROJECTION = """
bert/encoder/embedding_hidden_mapping_in/kernel  =  embeddings/projection/kernel
bert/encoder/embedding_hidden_mapping_in/bias    =  embeddings/projection/bias
"""

ALBERT_BLOCK = """
attention_1/self/query/kernel           =  self_attention/query/kernel
attention_1/self/query/bias             =  self_attention/query/bias
attention_1/self/key/kernel             =  self_attention/key/kernel
attention_1/self/key/bias               =  self_attention/key/bias
attention_1/self/value/kernel           =  self_attention/value/kernel
attention_1/self/value/bias             =  self_attention/value/bias
attention_1/output/dense/kernel         =  self_attention/attention_output/kernel
attention_1/output/dense/bias           =  self_attention/attention_output/bias
LayerNorm/gamma                         =  self_attention_norm/gamma
LayerNorm/beta                          =  self_attention_norm/beta
ffn_1/intermediate/dense/kernel         =  feed_forward/intermediate/kernel
ffn_1/intermediate/dense/bias           =  feed_forward/intermediate/bias
ffn_1/intermediate/output/dense/kernel  =  feed_forward/output/kernel
ffn_1/intermediate/output/dense/bias    =  feed_forward/output/bias
LayerNorm_1/gamma                       =  feed_forward_norm/gamma
LayerNorm_1/beta                        =  feed_forward_norm/beta
"""

# Both families use the same names; a model has only some of these weights.
HEADS = """
bert/pooler/dense/kernel                   =  pooler/dense/kernel
bert/pooler/dense/bias                     =  pooler/dense/bias
cls/predictions/transform/dense/kernel     =  masked_lm_head/dense/kernel
cls/predictions/transform/dense/bias       =  masked_lm_head/dense/bias
cls/predictions/transform/LayerNorm/gamma  =  masked_lm_head/layer_norm/gamma
cls/predictions/transform/LayerNorm/beta   =  masked_lm_head/layer_norm/beta
cls/predictions/output_bias                =  masked_lm_head/bias/bias
cls/seq_relationship/output_weights        T  next_sentence/kernel
cls/seq_relationship/output_bias           =  next_sentence/bias
cls/seq_relationship/output_weights        T  sentence_order/kernel
cls/seq_relationship/output_bias           =  sentence_order/bias
cls/squad/output_weights                   T  span/kernel
cls/squad/output_bias                      =  span/bias
output_weights                             T  classifier/kernel
output_bias                                =  classifier/bias
"""

# === TensorFlow 2: the object-based encoder checkpoints of the Model Garden ===
# Layers are numbered as they stand in the graph; kernels of attention are (D, H, K) and
# (H, K, D), which a reshape makes ours.

GARDEN_EMBEDDINGS = """
layer_with_weights-0/embeddings  =  token_embedding/embeddings
layer_with_weights-1/embeddings  =  embeddings/position_embedding/embeddings
layer_with_weights-2/embeddings  =  embeddings/segment_embedding/embeddings
layer_with_weights-3/gamma       =  embeddings/layer_norm/gamma
layer_with_weights-3/beta        =  embeddings/layer_norm/beta
"""

GARDEN_BLOCK = """
_attention_layer/_query_dense/kernel  R  self_attention/query/kernel
_attention_layer/_query_dense/bias    R  self_attention/query/bias
_attention_layer/_key_dense/kernel    R  self_attention/key/kernel
_attention_layer/_key_dense/bias      R  self_attention/key/bias
_attention_layer/_value_dense/kernel  R  self_attention/value/kernel
_attention_layer/_value_dense/bias    R  self_attention/value/bias
_attention_layer_norm/gamma           =  self_attention_norm/gamma
_attention_layer_norm/beta            =  self_attention_norm/beta
_intermediate_dense/kernel            =  feed_forward/intermediate/kernel
_intermediate_dense/bias              =  feed_forward/intermediate/bias
_output_dense/kernel                  =  feed_forward/output/kernel
_output_dense/bias                    =  feed_forward/output/bias
_output_layer_norm/gamma              =  feed_forward_norm/gamma
_output_layer_norm/beta               =  feed_forward_norm/beta
"""

GARDEN_ATTENTION_OUTPUT = """
/kernel  R  self_attention/attention_output/kernel
/bias    =  self_attention/attention_output/bias
"""

GARDEN_POOLER = """
/kernel  =  pooler/dense/kernel
/bias    =  pooler/dense/bias
"""

GARDEN_END = "/.ATTRIBUTES/VARIABLE_VALUE"


def bert_rows(num_layers):
    """Returns the rows of Google's BERT, all heads included.

    Args:
        num_layers: int, number of blocks.

    Returns:
        A list of `rows`.

    Example:
        >>> bert_rows(1)[5]
        ('bert/encoder/layer_0/attention/self/query/kernel', '=',
         'encoder_layer_0/self_attention/query/kernel')
    """
    found = rows(EMBEDDINGS)
    for layer in range(num_layers):
        found += rows(
            BERT_BLOCK, f"bert/encoder/layer_{layer}/", f"encoder_layer_{layer}/"
        )
    return found + rows(HEADS)


def albert_rows(num_groups, num_inner_repetitions):
    """Returns the rows of Google's ALBERT, all heads included.

    Args:
        num_groups: int, number of groups of shared weights.
        num_inner_repetitions: int, blocks in a group.

    Returns:
        A list of `rows`.

    Example:
        >>> albert_rows(1, 1)[7][0]
        'bert/encoder/transformer/group_0/inner_group_0/attention_1/self/query/kernel'
    """
    found = rows(EMBEDDINGS) + rows(ALBERT_PROJECTION)
    for group in range(num_groups):
        for layer in range(num_inner_repetitions):
            found += rows(
                ALBERT_BLOCK,
                f"bert/encoder/transformer/group_{group}/inner_group_{layer}/",
                f"encoder_group_{group}_layer_{layer}/",
            )
    return found + rows(HEADS)


def garden_rows(num_layers, names):
    """Returns the rows of a BERT encoder of the Model Garden.

    Args:
        num_layers: int, number of blocks.
        names: names of the checkpoint's tensors, which tell two versions of the
            encoder apart: where attention's output and the pooler are kept.

    Returns:
        A list of `rows`; an empty one where `names` are not such an encoder's.

    Example:
        >>> garden_rows(1, ["dense/kernel/.ATTRIBUTES/VARIABLE_VALUE"])
        []
    """
    first = "layer_with_weights-0/embeddings" + GARDEN_END
    roots = [name.removesuffix(first) for name in names if name.endswith(first)]
    if len(roots) != 1:
        return []
    root = roots[0]
    found = rows(GARDEN_EMBEDDINGS, root)
    for layer in range(num_layers):
        block = f"{root}layer_with_weights-{4 + layer}/"
        ours = f"encoder_layer_{layer}/"
        found += rows(GARDEN_BLOCK, block, ours)
        output = f"{block}_attention_layer/_output_dense"
        if f"{output}/kernel{GARDEN_END}" not in names:
            output = f"{block}_attention_output_dense"
        found += rows(GARDEN_ATTENTION_OUTPUT, output, ours)
    pooler = f"{root}layer_with_weights-{4 + num_layers}"
    if f"{pooler}/kernel{GARDEN_END}" not in names:
        pooler = "next_sentence..pooler_dense"
    found += rows(GARDEN_POOLER, pooler)
    return [(name + GARDEN_END, kind, path) for name, kind, path in found]
