"""Hugging Face's ALBERT."""

from keras_tformer.checkpoints import config_fields as fields
from keras_tformer.checkpoints.encoder_numbers import encoder_numbers
from keras_tformer.checkpoints.families import bert
from keras_tformer.checkpoints.families import encoder_heads as heads
from keras_tformer.checkpoints.weight_table import rows
from keras_tformer.models import albert_encoder

PREFIX = "albert."
ARCHITECTURES = {
    "AlbertModel": "encoder",
    "AlbertForMaskedLM": "masked_lm",
    "AlbertForPreTraining": "albert_pretrainer",
    "AlbertForSequenceClassification": "sequence_classifier",
    "AlbertForTokenClassification": "token_classifier",
    "AlbertForQuestionAnswering": "span_classifier",
}
COMPUTED = {}
KNOWN = frozenset(
    """
    attention_probs_dropout_prob classifier_dropout_prob embedding_size hidden_act
    hidden_dropout_prob hidden_size inner_group_num intermediate_size layer_norm_eps
    max_position_embeddings num_attention_heads num_hidden_groups num_hidden_layers
    type_vocab_size vocab_size
    """.split()
)

TABLE = "albert.embeddings.word_embeddings.weight"
TIED = {
    "predictions.decoder.weight": TABLE,
    "predictions.decoder.bias": "predictions.bias",
}
UNDERSTOOD = (*TIED, "embeddings.position_ids", "token_type_ids")

EMBEDDINGS = """
embeddings.word_embeddings.weight            =  token_embedding/embeddings
embeddings.position_embeddings.weight        =  embeddings/position_embedding/embeddings
embeddings.token_type_embeddings.weight      =  embeddings/segment_embedding/embeddings
embeddings.LayerNorm.weight                  =  embeddings/layer_norm/gamma
embeddings.LayerNorm.bias                    =  embeddings/layer_norm/beta
encoder.embedding_hidden_mapping_in.weight   T  embeddings/projection/kernel
encoder.embedding_hidden_mapping_in.bias     =  embeddings/projection/bias
"""

BLOCK = """
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

HEADS = """
albert.pooler.weight              T  pooler/dense/kernel
albert.pooler.bias                =  pooler/dense/bias
predictions.dense.weight          T  masked_lm_head/dense/kernel
predictions.dense.bias            =  masked_lm_head/dense/bias
predictions.LayerNorm.weight      =  masked_lm_head/layer_norm/gamma
predictions.LayerNorm.bias        =  masked_lm_head/layer_norm/beta
predictions.bias                  =  masked_lm_head/bias/bias
sop_classifier.classifier.weight  T  sentence_order/kernel
sop_classifier.classifier.bias    =  sentence_order/bias
classifier.weight                 T  classifier/kernel
classifier.bias                   =  classifier/bias
qa_outputs.weight                 T  span/kernel
qa_outputs.bias                   =  span/bias
"""


def table_rows(model, task):
    """Returns the rows of a model's weights; those of other heads are in it too."""
    num_groups, num_inner_repetitions = _groups(model)
    found = rows(EMBEDDINGS, "albert.")
    for group in range(num_groups):
        for layer in range(num_inner_repetitions):
            found += rows(
                BLOCK,
                f"albert.encoder.albert_layer_groups.{group}.albert_layers.{layer}.",
                f"encoder_group_{group}_layer_{layer}/",
            )
    return found + rows(HEADS)


def build(config, task, num_classes, **options):
    """Builds the model of a configuration, with initial weights."""
    dropout = fields.number(config, "hidden_dropout_prob", 0.0)
    embedding_dim = fields.number(config, "embedding_size", 128)
    hidden_dim = fields.number(config, "hidden_size", 4096)
    if embedding_dim == hidden_dim:
        raise ValueError(
            f"'config.json' has embedding_size={embedding_dim}, equal to hidden_size. "
            "Hugging Face's ALBERT still projects, ours does not. Use `transformers` "
            "for this checkpoint."
        )
    encoder = albert_encoder(
        vocabulary_size=fields.number(config, "vocab_size", 30000),
        embedding_dim=embedding_dim,
        num_layers=fields.number(config, "num_hidden_layers", 12),
        num_heads=fields.number(config, "num_attention_heads", 64),
        hidden_dim=hidden_dim,
        intermediate_dim=fields.number(config, "intermediate_size", 16384),
        num_groups=fields.number(config, "num_hidden_groups", 1),
        num_inner_repetitions=fields.number(config, "inner_group_num", 1),
        max_sequence_length=fields.number(config, "max_position_embeddings", 512),
        num_segments=fields.number(config, "type_vocab_size", 2),
        activation=fields.activation(config, "hidden_act", "gelu_new"),
        dropout=dropout,
        attention_dropout=fields.number(config, "attention_probs_dropout_prob", 0.0),
        layer_norm_epsilon=fields.number(config, "layer_norm_eps", 1e-12),
        initializer_range=fields.number(config, "initializer_range", 0.02),
        **options,
    )
    head_dropout = config.get("classifier_dropout_prob", 0.1)
    head_dropout = dropout if head_dropout is None else head_dropout
    return heads.add_head(
        encoder, task, num_classes, head_dropout, pair_dropout=head_dropout
    )


def config_of(model, task, before):
    """Returns the configuration of a model; `before` is the one that it came with."""
    _, block = heads.equal_blocks(model, "encoder_group_")
    num_groups, num_inner_repetitions = _groups(model)
    embeddings = model.get_layer("embeddings")
    token_embedding = model.get_layer("token_embedding")
    if token_embedding.embedding_dim == embeddings.hidden_dim:
        raise ValueError(
            f"`{model.name}` has embedding_dim equal to hidden_dim and no projection. "
            "Hugging Face's ALBERT always has one. Save it as `.keras`."
        )
    if embeddings.num_segments is None:
        raise ValueError(
            f"`{model.name}` has no segments. Hugging Face's ALBERT has. Build it with "
            "`num_segments=1`, or save it as `.keras`."
        )
    bert.require_pooler(model, "tanh")
    num_layers = encoder_numbers(model)[1]["num_layers"]
    head_dropout = before.get("classifier_dropout_prob", 0.1)
    if task == "albert_pretrainer":
        head_dropout = heads.rate_of(model, "sentence_order_dropout", head_dropout)
    elif task in ("sequence_classifier", "token_classifier"):
        head_dropout = heads.rate_of(model, "classifier_dropout", head_dropout)
    return {
        "model_type": "albert",
        "pad_token_id": before.get("pad_token_id", 0),
        "vocab_size": token_embedding.vocabulary_size,
        "embedding_size": token_embedding.embedding_dim,
        "hidden_size": embeddings.hidden_dim,
        "num_hidden_layers": num_layers,
        "num_hidden_groups": num_groups,
        "inner_group_num": num_inner_repetitions,
        "num_attention_heads": block["num_heads"],
        "intermediate_size": block["intermediate_dim"],
        "hidden_act": fields.activation_field(
            block["activation"], before, "hidden_act"
        ),
        "hidden_dropout_prob": block["dropout"],
        "attention_probs_dropout_prob": block["attention_dropout"],
        "classifier_dropout_prob": head_dropout,
        "max_position_embeddings": embeddings.max_sequence_length,
        "type_vocab_size": embeddings.num_segments,
        "layer_norm_eps": block["layer_norm_epsilon"],
    }


def _groups(model):
    places = [
        tuple(int(part) for part in layer.name.split("_")[2::2])
        for layer in model.layers
        if layer.name.startswith("encoder_group_")
    ]
    return tuple(max(numbers) + 1 for numbers in zip(*places, strict=True))
