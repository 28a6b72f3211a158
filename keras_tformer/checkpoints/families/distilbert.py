"""Hugging Face's DistilBERT: BERT without segments, a classifier with a ReLU."""

from keras_tformer.checkpoints import config_fields as fields
from keras_tformer.checkpoints.families import bert
from keras_tformer.checkpoints.families import encoder_heads as heads
from keras_tformer.checkpoints.weight_table import rows
from keras_tformer.models import bert_encoder

PREFIX = "distilbert."
ARCHITECTURES = {
    "DistilBertModel": "encoder",
    "DistilBertForMaskedLM": "masked_lm",
    "DistilBertForSequenceClassification": "sequence_classifier",
    "DistilBertForTokenClassification": "token_classifier",
    "DistilBertForQuestionAnswering": "span_classifier",
}
COMPUTED = {"sinusoidal_pos_embds": False}
KNOWN = frozenset(
    """
    activation attention_dropout dim dropout hidden_dim max_position_embeddings n_heads
    n_layers qa_dropout seq_classif_dropout tie_weights_ vocab_size
    """.split()
)

TABLE = "distilbert.embeddings.word_embeddings.weight"
TIED = {"vocab_projector.weight": TABLE}
UNDERSTOOD = (*TIED, "embeddings.position_ids")

EMBEDDINGS = """
word_embeddings.weight      =  token_embedding/embeddings
position_embeddings.weight  =  embeddings/position_embedding/embeddings
LayerNorm.weight            =  embeddings/layer_norm/gamma
LayerNorm.bias              =  embeddings/layer_norm/beta
"""

BLOCK = """
attention.q_lin.weight    T  self_attention/query/kernel
attention.q_lin.bias      =  self_attention/query/bias
attention.k_lin.weight    T  self_attention/key/kernel
attention.k_lin.bias      =  self_attention/key/bias
attention.v_lin.weight    T  self_attention/value/kernel
attention.v_lin.bias      =  self_attention/value/bias
attention.out_lin.weight  T  self_attention/attention_output/kernel
attention.out_lin.bias    =  self_attention/attention_output/bias
sa_layer_norm.weight      =  self_attention_norm/gamma
sa_layer_norm.bias        =  self_attention_norm/beta
ffn.lin1.weight           T  feed_forward/intermediate/kernel
ffn.lin1.bias             =  feed_forward/intermediate/bias
ffn.lin2.weight           T  feed_forward/output/kernel
ffn.lin2.bias             =  feed_forward/output/bias
output_layer_norm.weight  =  feed_forward_norm/gamma
output_layer_norm.bias    =  feed_forward_norm/beta
"""

SEQUENCE_CLASSIFIER = """
pre_classifier.weight  T  pooler/dense/kernel
pre_classifier.bias    =  pooler/dense/bias
"""

# Hugging Face's has no pooler: for a plain encoder ours is a layer to be trained.
NO_POOLER = """
-  T  pooler/dense/kernel
-  =  pooler/dense/bias
"""

HEADS = """
vocab_transform.weight   T  masked_lm_head/dense/kernel
vocab_transform.bias     =  masked_lm_head/dense/bias
vocab_layer_norm.weight  =  masked_lm_head/layer_norm/gamma
vocab_layer_norm.bias    =  masked_lm_head/layer_norm/beta
vocab_projector.bias     =  masked_lm_head/bias/bias
classifier.weight        T  classifier/kernel
classifier.bias          =  classifier/bias
qa_outputs.weight        T  span/kernel
qa_outputs.bias          =  span/bias
"""


def table_rows(model, task):
    """Returns the rows of a model's weights; those of other heads are in it too."""
    num_layers, _ = heads.equal_blocks(model, "encoder_layer_")
    found = rows(EMBEDDINGS, "distilbert.embeddings.")
    for layer in range(num_layers):
        source = f"distilbert.transformer.layer.{layer}."
        found += rows(BLOCK, source, f"encoder_layer_{layer}/")
    is_classifier = task == "sequence_classifier"
    return (
        found + rows(HEADS) + rows(SEQUENCE_CLASSIFIER if is_classifier else NO_POOLER)
    )


def build(config, task, num_classes, **options):
    """Builds the model of a configuration, with initial weights."""
    dropout = fields.number(config, "dropout", 0.1)
    encoder = bert_encoder(
        vocabulary_size=fields.number(config, "vocab_size", 30522),
        num_layers=fields.number(config, "n_layers", 6),
        num_heads=fields.number(config, "n_heads", 12),
        hidden_dim=fields.number(config, "dim", 768),
        intermediate_dim=fields.number(config, "hidden_dim", 3072),
        max_sequence_length=fields.number(config, "max_position_embeddings", 512),
        num_segments=None,
        activation=fields.activation(config, "activation", "gelu"),
        pooler_activation="relu",
        dropout=dropout,
        attention_dropout=fields.number(config, "attention_dropout", 0.1),
        layer_norm_epsilon=1e-12,
        initializer_range=fields.number(config, "initializer_range", 0.02),
        **options,
    )
    if task == "sequence_classifier":
        dropout = fields.number(config, "seq_classif_dropout", 0.2)
    span_dropout = fields.number(config, "qa_dropout", 0.1)
    return heads.add_head(encoder, task, num_classes, dropout, span_dropout)


def config_of(model, task, before):
    """Returns the configuration of a model; `before` is the one that it came with."""
    num_layers, block = heads.equal_blocks(model, "encoder_layer_")
    embeddings = model.get_layer("embeddings")
    wrong = {
        "num_segments": (embeddings.num_segments, None),
        "position_offset": (embeddings.position_offset, 0),
        "projection": (embeddings.projection, None),
        "layer_norm_epsilon": (block["layer_norm_epsilon"], 1e-12),
    }
    for name, (value, expected) in wrong.items():
        if value != expected:
            raise ValueError(
                f"`{model.name}` has {name}={value}. Expected {expected}, which is "
                "what DistilBERT has. Choose another `family`."
            )
    if task != "encoder":  # Its pooler is not written.
        bert.require_pooler(model, "relu")
    found = {
        "model_type": "distilbert",
        "pad_token_id": before.get("pad_token_id", 0),
        "vocab_size": model.get_layer("token_embedding").vocabulary_size,
        "dim": embeddings.hidden_dim,
        "n_layers": num_layers,
        "n_heads": block["num_heads"],
        "hidden_dim": block["intermediate_dim"],
        "activation": fields.activation_field(
            block["activation"], before, "activation"
        ),
        "dropout": block["dropout"],
        "attention_dropout": block["attention_dropout"],
        "max_position_embeddings": embeddings.max_sequence_length,
        "sinusoidal_pos_embds": False,
    }
    rate = heads.rate_of(model, "classifier_dropout", None)
    if rate is not None:
        field = {
            "sequence_classifier": "seq_classif_dropout",
            "span_classifier": "qa_dropout",
        }.get(task)
        found |= {field: rate} if field else {}
    return found
