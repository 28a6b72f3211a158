"""Hugging Face's BERT."""

from keras_tformer.checkpoints import config_fields as fields
from keras_tformer.checkpoints.families import encoder_heads as heads
from keras_tformer.checkpoints.weight_table import rows
from keras_tformer.models import bert_encoder

PREFIX = "bert."
ARCHITECTURES = {
    "BertModel": "encoder",
    "BertForMaskedLM": "masked_lm",
    "BertForPreTraining": "bert_pretrainer",
    "BertForSequenceClassification": "sequence_classifier",
    "BertForTokenClassification": "token_classifier",
    "BertForQuestionAnswering": "span_classifier",
}
COMPUTED = {}
KNOWN = frozenset(
    """
    attention_probs_dropout_prob classifier_dropout hidden_act hidden_dropout_prob
    hidden_size intermediate_size layer_norm_eps max_position_embeddings
    num_attention_heads num_hidden_layers type_vocab_size vocab_size
    """.split()
)

TABLE = "bert.embeddings.word_embeddings.weight"
# Where the table and its bias are repeated, and where only the repetition is kept.
TIED = {
    "cls.predictions.decoder.weight": TABLE,
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
UNDERSTOOD = (*TIED, "embeddings.position_ids", "token_type_ids")

EMBEDDINGS = """
word_embeddings.weight        =  token_embedding/embeddings
position_embeddings.weight    =  embeddings/position_embedding/embeddings
token_type_embeddings.weight  =  embeddings/segment_embedding/embeddings
LayerNorm.weight              =  embeddings/layer_norm/gamma
LayerNorm.bias                =  embeddings/layer_norm/beta
"""

BLOCK = """
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

HEADS = """
bert.pooler.dense.weight                    T  pooler/dense/kernel
bert.pooler.dense.bias                      =  pooler/dense/bias
cls.predictions.transform.dense.weight      T  masked_lm_head/dense/kernel
cls.predictions.transform.dense.bias        =  masked_lm_head/dense/bias
cls.predictions.transform.LayerNorm.weight  =  masked_lm_head/layer_norm/gamma
cls.predictions.transform.LayerNorm.bias    =  masked_lm_head/layer_norm/beta
cls.predictions.bias                        =  masked_lm_head/bias/bias
cls.seq_relationship.weight                 T  next_sentence/kernel
cls.seq_relationship.bias                   =  next_sentence/bias
classifier.weight                           T  classifier/kernel
classifier.bias                             =  classifier/bias
qa_outputs.weight                           T  span/kernel
qa_outputs.bias                             =  span/bias
"""


def table_rows(model, task):
    """Returns the rows of a model's weights; those of other heads are in it too."""
    num_layers, _ = heads.equal_blocks(model, "encoder_layer_")
    return encoder_rows(num_layers, "bert.") + rows(HEADS)


def encoder_rows(num_layers, prefix):
    """Returns the rows of embeddings and blocks; RoBERTa and ELECTRA share them.

    Example:
        >>> len(encoder_rows(2, "bert."))
        37
    """
    found = rows(EMBEDDINGS, f"{prefix}embeddings.")
    for layer in range(num_layers):
        source, ours = f"{prefix}encoder.layer.{layer}.", f"encoder_layer_{layer}/"
        found += rows(BLOCK, source, ours)
    return found


def build(config, task, num_classes, **options):
    """Builds the model of a configuration, with initial weights."""
    dropout = fields.number(config, "hidden_dropout_prob", 0.1)
    encoder = bert_encoder(**encoder_arguments(config), **options)
    head_dropout = config.get("classifier_dropout")
    return heads.add_head(
        encoder, task, num_classes, dropout if head_dropout is None else head_dropout
    )


def encoder_arguments(config):
    """Returns the arguments of `bert_encoder`; RoBERTa and ELECTRA share them.

    Example:
        >>> encoder_arguments({"hidden_size": 14})["hidden_dim"]
        14
    """
    return {
        "vocabulary_size": fields.number(config, "vocab_size", 30522),
        "num_layers": fields.number(config, "num_hidden_layers", 12),
        "num_heads": fields.number(config, "num_attention_heads", 12),
        "hidden_dim": fields.number(config, "hidden_size", 768),
        "intermediate_dim": fields.number(config, "intermediate_size", 3072),
        "max_sequence_length": fields.number(config, "max_position_embeddings", 512),
        "num_segments": fields.number(config, "type_vocab_size", 2),
        "activation": fields.activation(config, "hidden_act", "gelu"),
        "dropout": fields.number(config, "hidden_dropout_prob", 0.1),
        "attention_dropout": fields.number(config, "attention_probs_dropout_prob", 0.1),
        "layer_norm_epsilon": fields.number(config, "layer_norm_eps", 1e-12),
        "initializer_range": fields.number(config, "initializer_range", 0.02),
    }


def config_of(model, task, before):
    """Returns the configuration of a model; `before` is the one that it came with."""
    found = encoder_config(model, task, before)
    embeddings = model.get_layer("embeddings")
    if embeddings.projection is not None or embeddings.position_offset:
        raise ValueError(
            f"`{model.name}` has a projection after its embeddings or an offset of its "
            "positions, which Hugging Face's BERT has not. Pass `family='electra'` or "
            "'roberta'."
        )
    require_pooler(model, "tanh")
    padding = before.get("pad_token_id", 0)
    return {"model_type": "bert", "pad_token_id": padding, **found}


def encoder_config(model, task, before):
    """Returns the fields that BERT, RoBERTa and ELECTRA share.

    Raises:
        ValueError: if the model has no segments, which these three have.
    """
    num_layers, block = heads.equal_blocks(model, "encoder_layer_")
    embeddings = model.get_layer("embeddings")
    if embeddings.num_segments is None:
        raise ValueError(
            f"`{model.name}` has no segments, which this family has. Pass "
            "`family='distilbert'`, or build it with `num_segments=1`."
        )
    head_dropout = before.get("classifier_dropout")  # None: that of the encoder.
    if task in ("sequence_classifier", "token_classifier"):
        rate = heads.rate_of(model, "classifier_dropout", block["dropout"])
        if rate != (block["dropout"] if head_dropout is None else head_dropout):
            head_dropout = rate
    return {
        "vocab_size": model.get_layer("token_embedding").vocabulary_size,
        "classifier_dropout": head_dropout,
        "hidden_size": embeddings.hidden_dim,
        "num_hidden_layers": num_layers,
        "num_attention_heads": block["num_heads"],
        "intermediate_size": block["intermediate_dim"],
        "hidden_act": fields.activation_field(
            block["activation"], before, "hidden_act"
        ),
        "hidden_dropout_prob": block["dropout"],
        "attention_probs_dropout_prob": block["attention_dropout"],
        "max_position_embeddings": embeddings.max_sequence_length
        + embeddings.position_offset,
        "type_vocab_size": embeddings.num_segments,
        "layer_norm_eps": block["layer_norm_epsilon"],
    }


def require_pooler(model, activation):
    """Raises an error if the pooler has another activation than the family's."""
    pooler = heads.layer_of(model, "pooler")
    if pooler is not None and pooler.activation.__name__ != activation:
        raise ValueError(
            f"The pooler of `{model.name}` has the activation "
            f"{pooler.activation.__name__!r}. Expected {activation!r}, which is "
            "what the Hugging Face model computes. Choose another `family`."
        )
