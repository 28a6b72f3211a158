"""Opens the checkpoints that Google published, and those that its code trains."""

import os
import re
import warnings

from keras_tformer.checkpoints.google_config import read_google_config
from keras_tformer.checkpoints.google_tables import (
    GARDEN_END,
    albert_rows,
    bert_rows,
    garden_rows,
)
from keras_tformer.checkpoints.weight_table import fill
from keras_tformer.models import (
    albert_encoder,
    albert_pretrainer,
    bert_encoder,
    bert_pretrainer,
    masked_lm,
    sequence_classifier,
    span_classifier,
    token_classifier,
)

# What training keeps beside the weights: Adam's and LAMB's averages.
_OPTIMIZER = re.compile(
    r"(^|/)(adam_[mv]|lamb_[mv]|Adam(_\d+)?|AdamWeightDecayOptimizer(_\d+)?"
    r"|LAMBOptimizer(_\d+)?|Momentum|beta[12]_power(_\d+)?)$"
    r"|\.OPTIMIZER_SLOT/|^optimizer/"
)
# What holds no weights: counters, and the tree of an object-based checkpoint.
_BOOKKEEPING = re.compile(
    r"^(global_step|save_counter)(/|$)|^_CHECKPOINTABLE_OBJECT_GRAPH$"
)
# A tensor of each head.
_MASKED_LM = "cls/predictions/transform/dense/kernel"
_PAIR = "cls/seq_relationship/output_weights"
_SPAN = "cls/squad/output_weights"
_CLASSIFIER = "output_weights"
_TASKS = (
    "encoder",
    "masked_lm",
    "pretrainer",
    "bert_pretrainer",
    "albert_pretrainer",
    "sequence_classifier",
    "token_classifier",
    "span_classifier",
)


def load_tf_checkpoint(
    prefix,
    config_file,
    task=None,
    *,
    num_classes=None,
    strict=True,
    mask_value=-1e9,
    sequence_length=None,
    dtype=None,
):
    """Builds a BERT or ALBERT with the weights of a TensorFlow checkpoint of Google's.

    Reads what google-research/bert and google-research/albert published and train
    (`bert_model.ckpt`, `bert/encoder/layer_0/attention/self/query/kernel`), heads
    included, and BERT encoders of the TensorFlow 2 Model Garden
    (`encoder/layer_with_weights-4/...`), pooler included. Which of them it is, names
    say. Averages of the optimizer are skipped and told in one warning. Nothing in the
    files is executed, and one tensor at a time is held beside the model.

    `"gelu"` in Google's configuration is loaded as `"gelu_tanh"`: that is what Google's
    own code computes under this name. (Hugging Face gives the same weights the form
    with the error function; the logits of the two differ in the third decimal.)

    Args:
        prefix: path without an ending, `folder/bert_model.ckpt` for the files
            `bert_model.ckpt.index` and `bert_model.ckpt.data-00000-of-00001`.
        config_file: path of `bert_config.json` or `albert_config.json`.
        task: `"encoder"`, `"masked_lm"`, `"pretrainer"` (`"bert_pretrainer"` or
            `"albert_pretrainer"`), `"sequence_classifier"`, `"token_classifier"` or
            `"span_classifier"`; None for the head that the checkpoint has. Google's
            classifier of texts and one of tokens have the same names: ask for the
            second.
        num_classes: int, for a classifier that the checkpoint lacks.
        strict: bool, whether missing weights of the backbone, or blocks that the
            configuration does not mention, are an error. Otherwise a warning says what
            kept its initial value.
        mask_value: negative float added to the scores of masked keys; -30 for a model
            that will be quantized.
        sequence_length: int to fix the length of the inputs, or None.
        dtype: dtype or policy of the layers, Keras' global policy where it is None.

    Returns:
        A `keras.Model`, as the builder of that name in `models` returns it.

    Raises:
        ImportError: if TensorFlow is missing.
        ValueError: if a file is missing, damaged or of another kind, the configuration
            asks for what our models cannot honour, or weights and configuration do
            not belong together.

    Example:
        >>> encoder = kt.models.bert_encoder(
        ...     vocabulary_size=31, num_layers=2, num_heads=3, hidden_dim=21,
        ...     intermediate_dim=11, activation="gelu_tanh",
        ... )
        >>> kt.checkpoints.save_tf_checkpoint(encoder, "folder/bert_model.ckpt")
        >>> model = kt.checkpoints.load_tf_checkpoint(
        ...     "folder/bert_model.ckpt", "folder/bert_config.json"
        ... )
        >>> sorted(model.output)
        ['pooled_output', 'sequence_output']
    """
    if task is not None and task not in _TASKS:
        raise ValueError(
            f"Received task={task!r}. Expected one of {', '.join(_TASKS)}, or None for "
            "the head that the checkpoint has."
        )
    prefix = os.fspath(prefix)
    what = f"The checkpoint {prefix!r}"
    reader, shapes = _open(prefix, what)
    shapes = {k: v for k, v in shapes.items() if not _BOOKKEEPING.search(k)}
    skipped = sorted(name for name in shapes if _OPTIMIZER.search(name))
    shapes = {k: v for k, v in shapes.items() if not _OPTIMIZER.search(k)}
    family = _family(shapes, what)
    numbers = read_google_config(
        config_file, "albert" if family == "albert" else "bert"
    )
    head_dropout = numbers.pop("classifier_dropout")
    table_rows = _table(family, numbers, shapes)
    if strict:
        _require_no_more_blocks(table_rows, shapes, what, config_file)
    task = _task(task, family, shapes, what)
    classes = _num_classes(task, num_classes, shapes, what)

    build = albert_encoder if family == "albert" else bert_encoder
    encoder = build(
        **numbers, mask_value=mask_value, sequence_length=sequence_length, dtype=dtype
    )
    model = _with_head(encoder, task, classes, head_dropout)
    fill(
        model,
        table_rows,
        lambda name: _tensor(reader, name, what),
        shapes,
        shapes,
        strict=strict,
        what=what,
    )
    if skipped:
        warnings.warn(
            f"{what}: {len(skipped)} tensors of the optimizer are skipped, such as "
            f"{skipped[0]}.",
            stacklevel=2,
        )
    return model


# === The files ===


def _open(prefix, what):
    """Returns a reader, and the shapes of all tensors in the files."""
    try:
        import tensorflow as tf
    except ImportError as error:
        raise ImportError(
            "Reading TensorFlow's checkpoints needs TensorFlow. Install it: "
            "`pip install tensorflow`."
        ) from error

    _require_files(prefix, what, tf.io.gfile)
    try:
        reader = tf.train.load_checkpoint(prefix)
        return reader, dict(reader.get_variable_to_shape_map())
    except Exception as error:  # TensorFlow raises many kinds for damaged files.
        raise ValueError(
            f"{what} cannot be read: {_first_line(error)}. Expected the files that "
            "TensorFlow wrote. Copy them again: they are damaged or of another kind."
        ) from error


def _require_files(prefix, what, gfile):
    if gfile.exists(prefix + ".index"):
        shards = gfile.glob(prefix + ".data-?????-of-?????")
        totals = {shard[-5:] for shard in shards}
        missing = []
        for total in sorted(totals):
            wanted = {f"{prefix}.data-{i:05d}-of-{total}" for i in range(int(total))}
            missing = sorted(wanted - set(shards))
            if not missing:
                return
        raise ValueError(
            f"{what} lacks {missing[0] if missing else prefix + '.data-00000-of-00001'}"
            ", which holds weights. Expected every file of the checkpoint beside its "
            "`.index`. Copy the missing ones."
        )
    folder = prefix if gfile.isdir(prefix) else os.path.dirname(prefix) or "."
    found = gfile.glob(os.path.join(folder, "*.index"))
    there = ", ".join(sorted(name.removesuffix(".index") for name in found)[:8])
    raise ValueError(
        f"{what} has no file {prefix + '.index'!r}. Expected a prefix: the path of a "
        "checkpoint's files without `.index` or `.data-...`. "
        + (f"Pass one of these: {there}." if there else "Check the path.")
    )


def _tensor(reader, name, what):
    try:
        return reader.get_tensor(name)
    except Exception as error:  # TensorFlow raises many kinds for damaged files.
        raise ValueError(
            f"{what} is damaged: {name} cannot be read ({_first_line(error)}). "
            "Expected the files that TensorFlow wrote. Copy them again."
        ) from error


def _first_line(error):
    return (
        str(getattr(error, "message", error)).strip().split("\n")[0][:200].rstrip(".")
    )


# === Which model ===


def _family(shapes, what):
    if any(name.startswith("bert/encoder/transformer/group_") for name in shapes):
        return "albert"
    if any(name.startswith("bert/encoder/layer_") for name in shapes):
        return "bert"
    if any("layer_with_weights-0/embeddings" + GARDEN_END in name for name in shapes):
        return "garden"
    if any(name.endswith(GARDEN_END) for name in shapes):
        raise ValueError(
            f"{what} is an object-based checkpoint of TensorFlow 2, but not of the "
            f"Model Garden's BERT encoder: it has {', '.join(sorted(shapes)[:4])}. "
            "Expected names such as encoder/layer_with_weights-0/embeddings/... or "
            "those of TensorFlow 1. Load it with the code that wrote it and save its "
            "encoder alone."
        )
    raise ValueError(
        f"{what} is not one of a BERT or ALBERT of Google's: it has "
        f"{', '.join(sorted(shapes)[:4]) or 'no tensors'}. Expected names such as "
        "bert/encoder/layer_0/attention/self/query/kernel. Check that this is the "
        "right file."
    )


def _table(family, numbers, shapes):
    if family == "albert":
        return albert_rows(numbers["num_groups"], numbers["num_inner_repetitions"])
    if family == "bert":
        return bert_rows(numbers["num_layers"])
    return garden_rows(numbers["num_layers"], shapes)


def _require_no_more_blocks(table_rows, shapes, what, config_file):
    known = {name for name, _, _ in table_rows}
    more = sorted(
        name
        for name in set(shapes) - known
        if name.startswith(("bert/embeddings/", "bert/encoder/"))
        or ("layer_with_weights-" in name and "_layer_norm/" in name)
    )
    if more:
        raise ValueError(
            f"{what} has {len(more)} weights of a backbone for which the configuration "
            f"{str(config_file)!r} has no place, such as {more[0]}. Expected a "
            "configuration with as many blocks as the checkpoint. Pass the one that "
            "came with it, or `strict=False` to leave these weights out."
        )


def _task(task, family, shapes, what):
    if task == "pretrainer":
        return "albert_pretrainer" if family == "albert" else "bert_pretrainer"
    if task is not None:
        return task
    heads = [name for name in (_MASKED_LM, _SPAN, _CLASSIFIER) if name in shapes]
    if len(heads) > 1:
        raise ValueError(
            f"{what} has several heads: {', '.join(heads)}. Expected one where `task` "
            f"is None. Pass one of task={', '.join(_TASKS)}."
        )
    if not heads:
        return "encoder"
    if heads == [_MASKED_LM]:
        return _task("pretrainer", family, {}, "") if _PAIR in shapes else "masked_lm"
    return "span_classifier" if heads == [_SPAN] else "sequence_classifier"


def _num_classes(task, num_classes, shapes, what):
    if task not in ("sequence_classifier", "token_classifier"):
        return None
    if _CLASSIFIER not in shapes:
        if num_classes is None:
            raise ValueError(
                f"{what} has no classifier, and num_classes is None. Expected a number "
                f"of classes for a new one. Pass num_classes=2 with task={task!r}."
            )
        return num_classes
    found = shapes[_CLASSIFIER][0]
    if num_classes not in (None, found):
        raise ValueError(
            f"{what} has a classifier of {found} classes. Received: num_classes="
            f"{num_classes}. Leave `num_classes` out, or load task='encoder' and put a "
            "new classifier on it."
        )
    return found


def _with_head(encoder, task, num_classes, dropout):
    if task == "encoder":
        return encoder
    if task == "masked_lm":
        return masked_lm(encoder)
    if task == "bert_pretrainer":
        return bert_pretrainer(encoder)
    if task == "albert_pretrainer":  # Google's code drops nothing before this head.
        return albert_pretrainer(encoder, dropout=0.0)
    if task == "span_classifier":
        return span_classifier(encoder)
    is_of_texts = task == "sequence_classifier"
    head = sequence_classifier if is_of_texts else token_classifier
    return head(encoder, num_classes=num_classes, dropout=dropout)
