"""Hugging Face's RoBERTa and XLM-RoBERTa.

Positions count from `pad_token_id + 1`: the table has rows before that of the first
token (`position_offset`). Hugging Face counts only tokens that are not padding, so that
the two agree where padding is on the right, and not on the padding itself.
"""

from keras_tformer.checkpoints import config_fields as fields
from keras_tformer.checkpoints.families import bert
from keras_tformer.checkpoints.families import encoder_heads as heads
from keras_tformer.checkpoints.weight_table import rows
from keras_tformer.models import bert_encoder

PREFIX = "roberta."
ARCHITECTURES = {
    f"{name}{ending}": task
    for name in ("Roberta", "XLMRoberta")
    for ending, task in {
        "Model": "encoder",
        "ForMaskedLM": "masked_lm",
        "ForSequenceClassification": "sequence_classifier",
        "ForTokenClassification": "token_classifier",
        "ForQuestionAnswering": "span_classifier",
    }.items()
}
COMPUTED = {}
KNOWN = bert.KNOWN

TABLE = "roberta.embeddings.word_embeddings.weight"
TIED = {
    "lm_head.decoder.weight": TABLE,
    "lm_head.decoder.bias": "lm_head.bias",
}
UNDERSTOOD = (*TIED, "embeddings.position_ids", "token_type_ids")

MASKED_LM = """
lm_head.dense.weight       T  masked_lm_head/dense/kernel
lm_head.dense.bias         =  masked_lm_head/dense/bias
lm_head.layer_norm.weight  =  masked_lm_head/layer_norm/gamma
lm_head.layer_norm.bias    =  masked_lm_head/layer_norm/beta
lm_head.bias               =  masked_lm_head/bias/bias
"""

POOLER = """
roberta.pooler.dense.weight  T  pooler/dense/kernel
roberta.pooler.dense.bias    =  pooler/dense/bias
"""

# The classifier of texts has a pooler of its own.
SEQUENCE_CLASSIFIER = """
classifier.dense.weight     T  pooler/dense/kernel
classifier.dense.bias       =  pooler/dense/bias
classifier.out_proj.weight  T  classifier/kernel
classifier.out_proj.bias    =  classifier/bias
"""

OTHER_HEADS = """
classifier.weight  T  classifier/kernel
classifier.bias    =  classifier/bias
qa_outputs.weight  T  span/kernel
qa_outputs.bias    =  span/bias
"""


def table_rows(model, task):
    """Returns the rows of a model's weights; those of other heads may be in it too."""
    num_layers, _ = heads.equal_blocks(model, "encoder_layer_")
    found = bert.encoder_rows(num_layers, "roberta.")
    if task == "sequence_classifier":
        return found + rows(SEQUENCE_CLASSIFIER)
    return found + rows(POOLER) + rows(MASKED_LM) + rows(OTHER_HEADS)


def build(config, task, num_classes, **options):
    """Builds the model of a configuration, with initial weights."""
    arguments = bert.encoder_arguments({"vocab_size": 50265, **config})
    if task == "masked_lm" and arguments["activation"] != "gelu":
        raise ValueError(
            f"'config.json' has hidden_act={config['hidden_act']!r}, but the masked "
            "language model of RoBERTa always computes 'gelu', and ours what the "
            "blocks compute. Load it with `task='encoder'`."
        )
    offset = fields.number(config, "pad_token_id", 1) + 1
    arguments["max_sequence_length"] -= offset
    encoder = bert_encoder(**arguments, position_offset=offset, **options)
    dropout = config.get("classifier_dropout")
    return heads.add_head(
        encoder, task, num_classes, arguments["dropout"] if dropout is None else dropout
    )


def config_of(model, task, before):
    """Returns the configuration of a model; `before` is the one that it came with."""
    found = bert.encoder_config(model, task, before)
    embeddings = model.get_layer("embeddings")
    if embeddings.projection is not None or not embeddings.position_offset:
        raise ValueError(
            f"`{model.name}` has a projection after its embeddings, or positions "
            "without offset, which RoBERTa has not. Pass `family='bert'` or 'electra'."
        )
    if task == "masked_lm" and found["hidden_act"] not in ("gelu", "gelu_python"):
        raise ValueError(
            f"The masked language model of `{model.name}` computes "
            f"{found['hidden_act']!r}, that of RoBERTa always 'gelu'. Save it as "
            "`.keras`."
        )
    bert.require_pooler(model, "tanh")
    offset = {"pad_token_id": embeddings.position_offset - 1}
    return {"model_type": before.get("model_type", "roberta"), **found, **offset}
