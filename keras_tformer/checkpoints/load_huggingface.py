"""Hugging Face's folders and hub ids become models of ours, heads included."""

import gc
import os
import re

import numpy as np

from keras_tformer.checkpoints.config_fields import (
    class_names_of,
    number_of_classes,
    read_config,
    require_computed,
)
from keras_tformer.checkpoints.download_huggingface import download_huggingface
from keras_tformer.checkpoints.families import (
    albert,
    bert,
    distilbert,
    electra,
    gpt2,
    marian,
    roberta,
)
from keras_tformer.checkpoints.tensor_files import TensorFiles
from keras_tformer.checkpoints.weight_table import fill

FAMILIES = {
    "albert": albert,
    "bert": bert,
    "distilbert": distilbert,
    "electra": electra,
    "gpt2": gpt2,
    "marian": marian,
    "roberta": roberta,
    "xlm-roberta": roberta,
}
_ROWS = 1 << 12  # Rows of two tables that are compared at a time.


def load_huggingface(
    folder_or_repo_id,
    task=None,
    revision=None,
    token=None,
    *,
    num_classes=None,
    strict=True,
    mask_value=-1e9,
    sequence_length=None,
    dtype=None,
):
    """Loads a checkpoint in Hugging Face's format, with its head.

    Reads `config.json` and `model.safetensors`, also in shards, or `pytorch_model.bin`
    (without running what a pickle may contain). Families: BERT, ALBERT, DistilBERT,
    RoBERTa, XLM-RoBERTa, ELECTRA, GPT-2 and Marian. A field of the configuration that
    asks for something else than what is computed here is an error.

    Args:
        folder_or_repo_id: folder, or the name of a repository on the Hugging Face hub
            (see `download_huggingface`).
        task: name of the builder whose head is wanted: `"encoder"` (none),
            `"masked_lm"`, `"pretrainer"`, `"sequence_classifier"`,
            `"token_classifier"`, `"span_classifier"`, `"causal_lm"` or
            `"transformer"`. The one that the checkpoint was saved with where it is
            None. A head that the checkpoint lacks starts afresh, with a warning.
        revision: branch, tag or commit of the repository.
        token: access token of the hub, for private repositories.
        num_classes: int, classes of a classifier; that of the configuration where it
            is None.
        strict: bool, whether a missing weight of the backbone is an error, and a field
            of the configuration that is unknown here. Else a warning names them.
        mask_value: negative float, see `DotProductAttention`. -30 for a model that will
            be quantized.
        sequence_length: int to fix the length of the inputs, or None.
        dtype: dtype or policy of the layers, Keras' global policy where it is None.

    Returns:
        A `keras.Model`, the one that the builder of the same name returns. Two
        attributes, which a `.keras` file does not keep, say where it comes from:
        `model.class_names`, a list of names or None, and `model.huggingface_config`,
        the dict of `config.json`; `save_huggingface` writes them back.

    Raises:
        ValueError: if the folder, a file or a tensor is missing or damaged, the family,
            head or a field of the configuration is not one that is computed here, or
            configuration and weights do not belong together.
        ImportError: if a library is needed that is not installed.

    Example:
        >>> from keras_tformer import models
        >>> from keras_tformer.checkpoints import save_huggingface
        >>> sizes = models.BERT_SIZES["tiny"]
        >>> encoder = models.bert_encoder(vocabulary_size=31, **sizes)
        >>> save_huggingface(models.masked_lm(encoder), "tiny_bert")
        >>> load_huggingface("tiny_bert").output["masked_lm"].shape
        (None, None, 31)
    """
    folder = _folder(folder_or_repo_id, revision, token)
    config = read_config(folder)
    family = _family(config)
    task = _task(config, family, task)
    require_computed(config, family.COMPUTED, family.KNOWN, strict)
    files = TensorFiles(folder)

    if num_classes is None:
        num_classes = number_of_classes(config)
    options = {"mask_value": mask_value, "dtype": dtype}
    options["sequence_length"] = sequence_length
    model = family.build(config, task, num_classes, **options)
    gc.collect()  # What building leaves is as large as the token table.
    table_rows = family.table_rows(model, task)
    places = _places(files, family, table_rows)
    if config.get("tie_word_embeddings") is False and _uses_its_table_twice(task):
        _require_equal_tables(files, family, places)
    for repeated, original in family.TIED.items():
        if repeated in places:  # Some checkpoints hold nothing but the repetition.
            places.setdefault(original, places[repeated])

    def read(name, rows=None):
        array = files.read(places[name], rows)
        # What Marian turns of a table is the other axis than that of its rows.
        return marian.to_ours(name, array) if family is marian else array

    fill(
        model,
        table_rows,
        read,
        places,
        {name: files.shapes[place] for name, place in places.items()},
        understood=family.UNDERSTOOD,
        strict=strict,
        what=f"The checkpoint {str(folder)!r}",
        read_rows=read,
    )
    has_classes = task in ("sequence_classifier", "token_classifier")
    names = class_names_of(config) if has_classes else None
    model.class_names = names if names and len(names) == num_classes else None
    model.huggingface_config = config
    return model


def _folder(folder_or_repo_id, revision, token):
    name = os.fspath(folder_or_repo_id)
    is_repo_id = re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name)
    if os.path.exists(name) or not is_repo_id:
        return name
    return download_huggingface(name, revision, token)


def _family(config):
    model_type = config.get("model_type")
    if model_type not in FAMILIES:
        raise ValueError(
            f"'config.json' has model_type={model_type!r}. Expected one of "
            f"{', '.join(FAMILIES)}. Use `transformers` for this checkpoint."
        )
    return FAMILIES[model_type]


def _task(config, family, task):
    tasks = sorted(set(family.ARCHITECTURES.values()))
    if task == "pretrainer":
        task = next((name for name in tasks if name.endswith("_pretrainer")), task)
    if task is not None:
        if task not in tasks:
            raise ValueError(
                f"`load_huggingface` received task={task!r}. Expected one of {tasks} "
                f"for a {config['model_type']!r} model, or None for its own."
            )
        return task
    names = config.get("architectures") or []
    found = [family.ARCHITECTURES[x] for x in names if x in family.ARCHITECTURES]
    if names and not found:
        raise ValueError(
            f"'config.json' has architectures={names}. Expected one of "
            f"{sorted(family.ARCHITECTURES)}. Pass `task=` with one of {tasks} to load "
            "what it shares with one of them."
        )
    return found[0] if found else family.ARCHITECTURES[_base(family)]


def _base(family):
    return next(name for name in family.ARCHITECTURES if name.endswith("Model"))


def _places(files, family, table_rows):
    """Maps today's names of tensors to those in the file, older or without prefix."""
    wanted = {name for name, _, _ in table_rows} | set(family.TIED)
    places = {}
    for place in files.shapes:
        name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", place)
        name = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)
        if name not in wanted and family.PREFIX + name in wanted:
            name = family.PREFIX + name
        places[name] = place
    return places


def _uses_its_table_twice(task):
    return task in (
        "masked_lm",
        "bert_pretrainer",
        "albert_pretrainer",
        "causal_lm",
        "transformer",
    )


def _require_equal_tables(files, family, places):
    for repeated, original in family.TIED.items():
        if repeated in places and original in places:
            if not _are_equal(files, places[repeated], places[original]):
                raise ValueError(
                    "'config.json' has tie_word_embeddings=False, and the checkpoint "
                    f"has {repeated!r} of its own. Expected it to be equal to "
                    f"{original!r}, which ours uses for both. Use `transformers` for "
                    "this checkpoint, or `task='encoder'` for what is below the head."
                )


def _are_equal(files, one, other):
    shape = files.shapes[one]
    if files.shapes[other] != shape or not shape:
        return False
    starts = range(0, shape[0], _ROWS)
    blocks = [slice(start, min(start + _ROWS, shape[0])) for start in starts]
    return all(
        np.array_equal(files.read(one, rows), files.read(other, rows))
        for rows in blocks
    )
