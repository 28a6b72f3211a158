"""Google's `bert_config.json` and `albert_config.json`: read strictly, and written."""

import json
import os

# Google's name, our name; without a default a field has to be there.
SIZES = {
    "vocab_size": "vocabulary_size",
    "hidden_size": "hidden_dim",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "intermediate_size": "intermediate_dim",
    "max_position_embeddings": "max_sequence_length",
    "type_vocab_size": "num_segments",
}
ALBERT_SIZES = {
    "embedding_size": "embedding_dim",
    "num_hidden_groups": "num_groups",
    "inner_group_num": "num_inner_repetitions",
}
# The defaults are those of Google's two classes.
NUMBERS = {
    "bert": {
        "hidden_dropout_prob": ("dropout", 0.1),
        "attention_probs_dropout_prob": ("attention_dropout", 0.1),
        "initializer_range": ("initializer_range", 0.02),
        "layer_norm_eps": ("layer_norm_epsilon", 1e-12),
        "classifier_dropout_prob": ("classifier_dropout", 0.1),
    },
    "albert": {
        "hidden_dropout_prob": ("dropout", 0.0),
        "attention_probs_dropout_prob": ("attention_dropout", 0.0),
        "initializer_range": ("initializer_range", 0.02),
        "layer_norm_eps": ("layer_norm_epsilon", 1e-12),
        "classifier_dropout_prob": ("classifier_dropout", 0.1),
    },
}
# Fields that Google's files carry, and the only values that our models can honour.
ONLY = {
    "directionality": "bidi",
    "pooler_type": "first_token_transform",
    "net_structure_type": 0,
    "gap_size": 0,
    "num_memory_blocks": 0,
    "down_scale_factor": 1,
    "layers_to_keep": [],
    "ln_type": "postln",
}
# Fields that Google's files carry and that no code of theirs reads.
WITHOUT_EFFECT = {
    "pooler_fc_size",
    "pooler_num_attention_heads",
    "pooler_num_fc_layers",
    "pooler_size_per_head",
    "backward_compatible",
}
# Google's code knows these four; its "gelu" is the tanh form.
ACTIVATIONS = {
    "gelu": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_tanh": "gelu_tanh",
    "relu": "relu",
    "tanh": "tanh",
    "linear": "linear",
}
# Ours, beside Google's: says that "gelu" stands for the form with the error function.
EXACT_GELU = "gelu_with_error_function"


def read_google_config(config_file, family):
    """Reads the numbers of an encoder from a configuration of Google's.

    Args:
        config_file: path of a JSON file.
        family: `"bert"` or `"albert"`.

    Returns:
        A dict of keyword arguments for `bert_encoder` or `albert_encoder`, and
        `"classifier_dropout"`.

    Raises:
        ValueError: if the file is missing or no JSON object, a size is missing or no
            whole number, or a field asks for what our models cannot honour.

    Example:
        >>> fields = {name: 2 for name in SIZES} | {"hidden_act": "gelu"}
        >>> with open("bert_config.json", "w") as file:
        ...     json.dump(fields, file)
        >>> read_google_config("bert_config.json", "bert")["activation"]
        'gelu_tanh'
    """
    fields = _read_json(config_file)
    sizes = SIZES | (ALBERT_SIZES if family == "albert" else {})
    defaults = {"num_hidden_groups": 1, "inner_group_num": 1}
    numbers = {}
    for name, ours in sizes.items():
        value = fields.pop(name, defaults.get(name))
        if type(value) is not int or value < 1:
            raise _refusal(config_file, name, value, "a whole number of at least 1")
        numbers[ours] = value
    if family == "bert":
        _require_plain_bert(config_file, fields, numbers)
    for name, (ours, default) in NUMBERS[family].items():
        value = fields.pop(name, default)
        if type(value) not in (int, float) or not 0 <= value < 1:
            raise _refusal(config_file, name, value, "a number in [0, 1)")
        numbers[ours] = float(value)

    activation = fields.pop("hidden_act", "gelu")
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise _refusal(config_file, "hidden_act", activation, f"one of {known}")
    numbers["activation"] = ACTIVATIONS[activation]
    if fields.pop(EXACT_GELU, False):
        numbers["activation"] = "gelu"
    for name, value in fields.items():
        if name in ONLY and value != ONLY[name]:
            raise _refusal(config_file, name, value, f"{ONLY[name]!r}, the only value")
        if name not in ONLY and name not in WITHOUT_EFFECT:
            raise _refusal(
                config_file,
                name,
                value,
                "only fields of Google's BERT and ALBERT configurations",
                "Remove it if it changes nothing in the computation; a configuration "
                "of `transformers` belongs to `load_huggingface`.",
            )
    return numbers


def write_google_config(path, family, numbers, classifier_dropout=0.1):
    """Writes a configuration that Google's code reads.

    Args:
        path: where to write.
        family: `"bert"` or `"albert"`.
        numbers: the dict of `encoder_numbers`.
        classifier_dropout: float in [0, 1), written where it is not Google's 0.1.

    Raises:
        ValueError: if Google's code has no name for the activation, or the model has
            no segments.

    Example:
        >>> from keras_tformer.models import BERT_SIZES, bert_encoder
        >>> from keras_tformer.checkpoints.encoder_numbers import encoder_numbers
        >>> model = bert_encoder(
        ...     vocabulary_size=31, activation="gelu_tanh", **BERT_SIZES["tiny"]
        ... )
        >>> write_google_config("bert_config.json", *encoder_numbers(model))
        >>> read_google_config("bert_config.json", "bert")["hidden_dim"]
        128
    """
    with open(path, "w", encoding="utf-8") as file:
        fields = google_fields(family, numbers, classifier_dropout)
        json.dump(fields, file, indent=2, sort_keys=True)
        file.write("\n")


def google_fields(family, numbers, classifier_dropout=0.1):
    """Returns what `write_google_config` writes, as a dict.

    Args:
        family, numbers, classifier_dropout: as there.

    Returns:
        A dict from Google's names to numbers.

    Raises:
        ValueError: as there.

    Example:
        >>> google_fields("bert", {"num_segments": None})
        Traceback (most recent call last):
        ...
        ValueError: Google's models have segment ids. Received: a model with...
    """
    if numbers["num_segments"] is None:
        raise ValueError(
            "Google's models have segment ids. Received: a model with "
            "num_segments=None. Save it with `save_huggingface` or as a .keras file."
        )
    names = {ours: name for name, ours in ACTIVATIONS.items() if name != "gelu_new"}
    names |= {"gelu_tanh": "gelu", "gelu": "gelu"}
    if numbers["activation"] not in names:
        raise ValueError(
            f"Google's code has no activation {numbers['activation']!r}. Expected one "
            f"of {', '.join(names)}. Save the model with `save_huggingface` or as a "
            ".keras file."
        )
    sizes = SIZES | (ALBERT_SIZES if family == "albert" else {})
    fields = {name: numbers[ours] for name, ours in sizes.items()}
    fields["hidden_act"] = names[numbers["activation"]]
    if numbers["activation"] == "gelu":
        fields[EXACT_GELU] = True
    found = {**numbers, "classifier_dropout": classifier_dropout}
    for name, (ours, default) in NUMBERS[family].items():
        if name not in ("layer_norm_eps", "classifier_dropout_prob"):
            fields[name] = found[ours]
        elif found[ours] != default:
            fields[name] = found[ours]
    if family == "albert":
        fields |= {"net_structure_type": 0, "gap_size": 0, "down_scale_factor": 1}
    return fields


def default_config_file(prefix, family):
    """Returns where a configuration stands beside a checkpoint.

    Args:
        prefix: prefix of the checkpoint.
        family: `"bert"` or `"albert"`.

    Returns:
        A path.

    Example:
        >>> default_config_file("folder/bert_model.ckpt", "bert")
        'folder/bert_config.json'
    """
    return os.path.join(os.path.dirname(prefix), f"{family}_config.json")


def _read_json(config_file):
    try:
        with open(config_file, encoding="utf-8") as file:
            fields = json.load(file)
    except OSError as error:
        raise ValueError(
            f"Cannot read the configuration {str(config_file)!r}: {error.strerror}. "
            "Expected the `bert_config.json` or `albert_config.json` that came with "
            "the checkpoint."
        ) from error
    except ValueError as error:  # Broken JSON, or no text at all.
        raise ValueError(
            f"The configuration {str(config_file)!r} is not JSON: {error}. Expected "
            "the `bert_config.json` or `albert_config.json` that came with the "
            "checkpoint."
        ) from error
    if not isinstance(fields, dict):
        raise ValueError(
            f"The configuration {str(config_file)!r} holds a {type(fields).__name__}. "
            "Expected a JSON object with fields such as 'hidden_size'."
        )
    return fields


def _require_plain_bert(config_file, fields, numbers):
    """ALBERT's fields may stand in a file for BERT if they change nothing."""
    hidden_dim = numbers["hidden_dim"]
    for name, value in (
        ("embedding_size", hidden_dim),
        ("num_hidden_groups", numbers["num_layers"]),
        ("inner_group_num", 1),
    ):
        found = fields.pop(name, value)
        if found != value:
            raise _refusal(
                config_file, name, found, f"{value}, as the weights are those of a BERT"
            )


def _refusal(config_file, name, value, expected, advice=""):
    return ValueError(
        f"The configuration {str(config_file)!r} has {name}={value!r}. Expected "
        f"{expected}. {advice or 'Check that it came with this checkpoint.'}"
    )
