"""What a `config.json` says, and whether we compute it."""

import json
import pathlib
import warnings

# Hugging Face's names on the left. All their forms with tanh give the same numbers.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "mish": "mish",
    "relu": "relu",
    "relu6": "relu6",
    "sigmoid": "sigmoid",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}

# Fields that say nothing about what a model computes for given ids: bookkeeping,
# generation, tokens' ids, memory. Families add theirs.
HARMLESS = frozenset(
    """
    _attn_implementation _attn_implementation_autoset _name_or_path _num_labels
    architectures attn_implementation bad_words_ids begin_suppress_tokens
    bos_token_id chunk_size_feed_forward cls_token_id decoder_start_token_id
    directionality diversity_penalty do_sample dtype early_stopping
    encoder_no_repeat_ngram_size eos_token_id experts_implementation
    exponential_decay_length_penalty finetuning_task force_bos_token_to_be_generated
    forced_bos_token_id forced_eos_token_id gradient_checkpointing id2label init_std
    initializer_range keys_to_ignore_at_inference label2id language length_penalty
    mask_token_id max_length min_length model_type name no_repeat_ngram_size
    num_beam_groups num_beams num_labels num_return_sequences output_attentions
    output_hidden_states output_past output_scores pad_token_id pooler_fc_size
    pooler_num_attention_heads pooler_num_fc_layers pooler_size_per_head pooler_type
    prefix problem_type remove_invalid_values repetition_penalty return_dict
    return_dict_in_generate sep_token_id suppress_tokens task_specific_params
    temperature tf_legacy_loss tie_weights_ tie_word_embeddings tokenizer_class
    top_k top_p torch_dtype torchscript transformers_version typical_p unk_token_id
    use_cache
    """.split()
)

# The defaults of every configuration: other values change what is computed.
EVERYWHERE = {
    "add_cross_attention": False,
    "cross_attention_hidden_size": None,
    "is_decoder": False,
    "position_embedding_type": "absolute",
    "pruned_heads": {},
    "quantization_config": None,
    "use_bfloat16": False,
    "embedding_type": None,
    "down_scale_factor": 1,
    "gap_size": 0,
    "num_memory_blocks": 0,
    "net_structure_type": 0,
    "layers_to_keep": [],
}


def read_config(folder):
    """Reads the `config.json` of a folder.

    Args:
        folder: folder of a checkpoint.

    Returns:
        The dict that it holds.

    Raises:
        ValueError: if the folder or the file is missing, or the file is no JSON object.

    Example:
        >>> read_config("nowhere")
        Traceback (most recent call last):
            ...
        ValueError: No folder 'nowhere'...
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise ValueError(
            f"No folder {str(folder)!r}. Expected a folder with 'config.json' and "
            "'model.safetensors'. Check the path."
        )
    file = folder / "config.json"
    if not file.is_file():
        raise ValueError(
            f"No 'config.json' in {str(folder)!r}, which has "
            f"{sorted(x.name for x in folder.iterdir())[:8]}. Expected the folder of a "
            "Hugging Face model."
        )
    try:
        config = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{str(file)!r} is not JSON ({error}). Expected the configuration of a "
            "Hugging Face model. Download it again."
        ) from error
    if not isinstance(config, dict):
        raise ValueError(f"{str(file)!r} holds no JSON object, but {config!r:.60}.")
    return config


def require_computed(config, computed, known, strict=True):
    """Raises an error for every field that asks for something we do not compute.

    Args:
        config: dict of a `config.json`.
        computed: dict from fields to the one value that we compute.
        known: names of the fields that the family reads.
        strict: bool, whether fields that nobody here knows are an error too; else they
            are named in a warning.

    Raises:
        ValueError: naming the fields with other values, or unknown ones.

    Example:
        >>> require_computed({"is_decoder": True}, {}, ())
        Traceback (most recent call last):
            ...
        ValueError: ... is_decoder=True (expected False)...
    """
    computed = {**EVERYWHERE, **computed}
    wrong = [
        f"{field}={config[field]!r} (expected {value!r})"
        for field, value in computed.items()
        if field in config and config[field] != value and config[field] is not None
    ]
    if wrong:
        raise ValueError(
            f"This package does not compute what 'config.json' asks for: "
            f"{', '.join(wrong)}. Expected a {config.get('model_type')!r} model "
            "without it. Use `transformers` for this checkpoint."
        )
    unknown = sorted(set(config) - set(computed) - set(known) - HARMLESS)
    if not unknown:
        return
    message = (
        f"'config.json' has fields that this package does not know: {unknown}. "
        "Expected a model that is computed without them."
    )
    if strict:
        raise ValueError(
            f"{message} If they do not change what it computes, take them out or pass "
            "`strict=False`; else use `transformers` for this checkpoint."
        )
    warnings.warn(f"{message} Compare the outputs with the original's.", stacklevel=3)


def number(config, field, default):
    """Returns a number of the configuration, or its family's default.

    Raises:
        ValueError: if it is something else than a number.

    Example:
        >>> number({"hidden_size": 14}, "hidden_size", 768)
        14
    """
    value = config.get(field, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(
            f"'config.json' has {field}={value!r}. Expected a number. Correct it, or "
            "download it again."
        )
    return value


def activation(config, field, default):
    """Returns our name of the activation that a configuration names.

    Raises:
        ValueError: if it is one that we do not compute.

    Example:
        >>> activation({"hidden_act": "gelu_new"}, "hidden_act", "gelu")
        'gelu_tanh'
    """
    name = config.get(field, default)
    if name not in ACTIVATIONS:
        raise ValueError(
            f"'config.json' has {field}={name!r}, which this package does not compute. "
            f"Expected one of {', '.join(ACTIVATIONS)}."
        )
    return ACTIVATIONS[name]


def activation_field(ours, config, field):
    """Returns Hugging Face's name of our activation, the one it came with if it did.

    Raises:
        ValueError: if Hugging Face has none.

    Example:
        >>> activation_field("gelu_tanh", {}, "hidden_act")
        'gelu_new'
    """
    before = config.get(field)
    if ACTIVATIONS.get(before) == ours:
        return before
    for theirs, own in ACTIVATIONS.items():
        if own == ours:
            return theirs
    raise ValueError(
        f"Hugging Face has no name for the activation {ours!r}. Expected one of "
        f"{sorted(set(ACTIVATIONS.values()))}."
    )


def number_of_classes(config):
    """Returns the number of classes that a configuration tells, 2 where it does not.

    Example:
        >>> number_of_classes({"id2label": {"0": "good", "1": "bad", "2": "ugly"}})
        3
    """
    if isinstance(config.get("id2label"), dict) and config["id2label"]:
        return len(config["id2label"])
    return number(config, "num_labels", number(config, "_num_labels", 2))


def class_names_of(config):
    """Returns the names of the classes in their order, or None where they have none.

    Example:
        >>> class_names_of({"id2label": {"1": "bad", "0": "good"}})
        ['good', 'bad']
    """
    names = config.get("id2label")
    if not isinstance(names, dict) or not names:
        return None
    try:
        names = [str(names[key]) for key in sorted(names, key=int)]
    except ValueError as error:
        raise ValueError(
            f"'config.json' has id2label={names!r}. Expected numbers to names."
        ) from error
    return None if names == [f"LABEL_{i}" for i in range(len(names))] else names
