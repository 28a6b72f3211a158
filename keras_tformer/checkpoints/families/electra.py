"""Hugging Face's ELECTRA: the encoder of discriminator or generator, and task heads.

The discriminator's own head, which says of every token whether it was replaced, is not
one of ours: such a checkpoint loads as an encoder.
"""

from keras_tformer.checkpoints import config_fields as fields
from keras_tformer.checkpoints.families import bert
from keras_tformer.checkpoints.families import encoder_heads as heads
from keras_tformer.checkpoints.weight_table import rows
from keras_tformer.models import bert_encoder

PREFIX = "electra."
ARCHITECTURES = {
    "ElectraModel": "encoder",
    "ElectraForPreTraining": "encoder",
    "ElectraForMaskedLM": "masked_lm",
    "ElectraForSequenceClassification": "sequence_classifier",
    "ElectraForTokenClassification": "token_classifier",
    "ElectraForQuestionAnswering": "span_classifier",
}
COMPUTED = {}
# `summary_*` belongs to the multiple-choice head.
KNOWN = bert.KNOWN | {
    "embedding_size",
    "summary_activation",
    "summary_last_dropout",
    "summary_type",
    "summary_use_proj",
}

TABLE = "electra.embeddings.word_embeddings.weight"
TIED = {"generator_lm_head.weight": TABLE}
UNDERSTOOD = (*TIED, "embeddings.position_ids", "token_type_ids")

HEADS = """
electra.embeddings_project.weight       T  embeddings/projection/kernel
electra.embeddings_project.bias         =  embeddings/projection/bias
generator_predictions.dense.weight      T  masked_lm_head/dense/kernel
generator_predictions.dense.bias        =  masked_lm_head/dense/bias
generator_predictions.LayerNorm.weight  =  masked_lm_head/layer_norm/gamma
generator_predictions.LayerNorm.bias    =  masked_lm_head/layer_norm/beta
generator_lm_head.bias                  =  masked_lm_head/bias/bias
qa_outputs.weight                       T  span/kernel
qa_outputs.bias                         =  span/bias
"""

SEQUENCE_CLASSIFIER = """
classifier.dense.weight     T  pooler/dense/kernel
classifier.dense.bias       =  pooler/dense/bias
classifier.out_proj.weight  T  classifier/kernel
classifier.out_proj.bias    =  classifier/bias
"""

# Hugging Face's has no pooler: for a plain encoder ours is a layer to be trained.
OTHER_HEADS = """
-                  T  pooler/dense/kernel
-                  =  pooler/dense/bias
classifier.weight  T  classifier/kernel
classifier.bias    =  classifier/bias
"""


def table_rows(model, task):
    """Returns the rows of a model's weights; those of other heads may be in it too."""
    num_layers, _ = heads.equal_blocks(model, "encoder_layer_")
    found = bert.encoder_rows(num_layers, "electra.") + rows(HEADS)
    if task == "sequence_classifier":
        return found + rows(SEQUENCE_CLASSIFIER)
    return found + rows(OTHER_HEADS)


def build(config, task, num_classes, **options):
    """Builds the model of a configuration, with initial weights."""
    sizes = {"hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024}
    arguments = bert.encoder_arguments({**sizes, **config})
    if task == "masked_lm" and arguments["activation"] != "gelu":
        raise ValueError(
            f"'config.json' has hidden_act={config['hidden_act']!r}, but the generator "
            "of ELECTRA always computes 'gelu' in its last layers, and ours what the "
            "blocks compute. Load it with `task='encoder'`."
        )
    encoder = bert_encoder(
        **arguments,
        embedding_dim=fields.number(config, "embedding_size", 128),
        pooler_activation="gelu",
        **options,
    )
    dropout = config.get("classifier_dropout")
    return heads.add_head(
        encoder, task, num_classes, arguments["dropout"] if dropout is None else dropout
    )


def config_of(model, task, before):
    """Returns the configuration of a model; `before` is the one that it came with."""
    found = bert.encoder_config(model, task, before)
    if model.get_layer("embeddings").position_offset:
        raise ValueError(
            f"`{model.name}` has an offset of its positions, which ELECTRA has not. "
            "Pass `family='roberta'`."
        )
    if task == "masked_lm" and found["hidden_act"] not in ("gelu", "gelu_python"):
        raise ValueError(
            f"The masked language model of `{model.name}` computes "
            f"{found['hidden_act']!r}, that of ELECTRA always 'gelu'. Save it as "
            "`.keras`."
        )
    if task != "encoder":  # Its pooler is not written.
        bert.require_pooler(model, "gelu")
    embedding_dim = model.get_layer("token_embedding").embedding_dim
    return {"model_type": "electra", **found, "embedding_size": embedding_dim}
