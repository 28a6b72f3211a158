"""Writes a model as Google's code would have."""

import contextlib
import os
import shutil
import tempfile
import warnings

import numpy as np

from keras_tformer.checkpoints.encoder_numbers import encoder_numbers, require_plain
from keras_tformer.checkpoints.google_config import (
    default_config_file,
    google_fields,
    write_google_config,
)
from keras_tformer.checkpoints.google_tables import albert_rows, bert_rows
from keras_tformer.checkpoints.weight_table import arrays


def save_tf_checkpoint(model, prefix, config_file=None):
    """Writes a BERT or ALBERT as a TensorFlow checkpoint with Google's names.

    TensorFlow itself writes the files, without a graph (`.meta`), which neither
    Google's code nor converters read. They go to a folder of their own first and are
    moved, the `.index` last: a checkpoint is there whole or not at all.

    Args:
        model: `keras.Model` of `bert_encoder` or `albert_encoder`, with or without a
            head.
        prefix: path without an ending, such as `folder/bert_model.ckpt`.
        config_file: where the configuration goes; `bert_config.json` or
            `albert_config.json` beside the checkpoint where it is None.

    Raises:
        ImportError: if TensorFlow is missing.
        ValueError: if `model` is no model of this package, has weights for which Google
            has no name, no segments or an activation that Google's code does not know,
            or the folder cannot be written.

    Example:
        >>> encoder = kt.models.albert_encoder(
        ...     vocabulary_size=31, embedding_dim=5, num_layers=3, num_heads=2,
        ...     hidden_dim=14, intermediate_dim=11,
        ... )
        >>> kt.checkpoints.save_tf_checkpoint(encoder, "folder/model.ckpt")
        >>> sorted(os.listdir("folder"))
        ['albert_config.json', 'model.ckpt.data-00000-of-00001', 'model.ckpt.index']
    """
    try:
        import tensorflow as tf
    except ImportError as error:
        raise ImportError(
            "Writing TensorFlow's checkpoints needs TensorFlow. Install it: "
            "`pip install tensorflow`."
        ) from error

    require_plain(model, "Google's code")
    family, numbers = encoder_numbers(model)
    head_dropout = _head_dropout(model)
    google_fields(family, numbers, head_dropout)  # Refuses before anything is written.
    _require_googles_head(model, numbers)
    prefix = os.path.abspath(os.fspath(prefix))
    if not os.path.basename(prefix) or os.path.isdir(prefix):
        raise ValueError(
            f"Received prefix={prefix!r}, a folder. Expected the path of a "
            "checkpoint's files without an ending, such as 'folder/bert_model.ckpt'."
        )
    if config_file is None:
        config_file = default_config_file(prefix, family)

    with tf.device("CPU:0"):
        named = {
            name: tf.convert_to_tensor(np.asarray(array, "float32"))
            for name, array in arrays(model, _table(family, numbers))
        }
    folder = temporary_beside(prefix)
    try:
        written = os.path.join(folder, "model")
        with tf.device("CPU:0"):
            tf.raw_ops.SaveV2(
                prefix=written,
                tensor_names=list(named),
                shape_and_slices=[""] * len(named),
                tensors=list(named.values()),
            )
        config = os.path.join(folder, "config.json")
        write_google_config(config, family, numbers, head_dropout)
        _move(written, config, prefix, os.path.abspath(os.fspath(config_file)))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    _tell(numbers)


def temporary_beside(path):
    """Makes an empty folder on the same disk as `path`, for files to be moved from.

    Args:
        path: where the files will go.

    Returns:
        The path of the new folder.

    Raises:
        ValueError: if the folder of `path` cannot be made or written.

    Example:
        >>> folder = temporary_beside("target.keras")
        >>> os.listdir(folder)
        []
    """
    parent = os.path.dirname(os.path.abspath(path))
    try:
        os.makedirs(parent, exist_ok=True)
        return tempfile.mkdtemp(prefix=".", dir=parent)
    except OSError as error:
        raise ValueError(
            f"Cannot write to the folder {parent!r}: {error.strerror}. Expected a "
            "folder that can be made and written. Choose another target."
        ) from error


def _table(family, numbers):
    if family == "albert":
        return albert_rows(numbers["num_groups"], numbers["num_inner_repetitions"])
    return bert_rows(numbers["num_layers"])


def _move(written, config, prefix, config_file):
    """The new index comes last; an old one goes first, as it speaks of old data."""
    with contextlib.suppress(FileNotFoundError):
        os.remove(prefix + ".index")
    shard = ".data-00000-of-00001"
    os.replace(written + shard, prefix + shard)
    os.makedirs(os.path.dirname(config_file), exist_ok=True)
    shutil.move(config, config_file)  # It may be on another disk.
    os.replace(written + ".index", prefix + ".index")


def _head_dropout(model):
    for layer in model.layers:
        if layer.name == "classifier_dropout":
            return layer.rate
    return 0.1


def _require_googles_head(model, numbers):
    for layer in model.layers:
        if layer.name != "masked_lm_head":
            continue
        found = (layer.get_config()["activation"], layer.layer_norm_epsilon)
        wanted = (numbers["activation"], numbers["layer_norm_epsilon"])
        if found != wanted:
            raise ValueError(
                "In Google's code the head of the masked language model has activation "
                f"and epsilon of the blocks, {wanted}. Received: a head with {found}, "
                "which a configuration of Google's cannot say. Save the encoder alone, "
                "or the model as a .keras file."
            )


def _tell(numbers):
    parts = []
    if numbers["activation"] == "gelu":
        parts.append(
            "'gelu' stands in the configuration, of which Google's code computes the "
            "tanh form and this model the exact one"
        )
    if numbers["layer_norm_epsilon"] != 1e-12:
        parts.append(
            f"layer_norm_eps={numbers['layer_norm_epsilon']} stands in the "
            "configuration, which Google's code does not read (it adds 1e-12)"
        )
    if parts:
        warnings.warn(
            f"Saved for `load_tf_checkpoint` as it is; {' and '.join(parts)}.",
            stacklevel=3,
        )
