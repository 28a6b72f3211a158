"""Models of ours become folders that `transformers` opens, heads included."""

import contextlib
import json
import os
import pathlib
import shutil
import tempfile
import warnings

import numpy as np

from keras_tformer.checkpoints.families import encoder_heads as heads
from keras_tformer.checkpoints.families import marian
from keras_tformer.checkpoints.load_huggingface import FAMILIES
from keras_tformer.checkpoints.tensor_files import replaced_file, save_safetensors
from keras_tformer.checkpoints.weight_table import arrays, source_shapes_of

# Fields of the configuration that a model came with that are not kept: they describe
# the file, the head or the classes, which are written anew.
_NOT_KEPT = frozenset(
    """
    _name_or_path _num_labels architectures dtype id2label label2id num_labels
    problem_type quantization_config tie_word_embeddings torch_dtype
    transformers_version
    """.split()
)


def save_huggingface(model, folder, tokenizer=None, class_names=None, family=None):
    """Saves a model in Hugging Face's format, so that `transformers` opens it.

    Writes `config.json`, read off the layers, `model.safetensors` and the files of the
    tokenizer. Works for models that were built here, loaded, fine-tuned, or pruned and
    stripped. Each file appears whole or not at all; a new folder appears whole.

    Args:
        model: `keras.Model` of one of this package's builders: an encoder, one with a
            head, `causal_lm` or `transformer`.
        folder: folder to write; it is made. Files of the same names are replaced.
        tokenizer: `WordPieceTokenizer` or `SentencePieceTokenizer` to go with it.
        class_names: list of the names of the classes of a classifier;
            `model.class_names` where it is None and the model has it.
        family: name such as `"electra"`, one of Hugging Face's `model_type`s. That of
            the checkpoint which was loaded, or what the layers suggest, where it is
            None.

    Raises:
        ValueError: if the model is pruned or quantized and not stripped, is not one of
            this package's, or computes something that the family does not; if the
            number of names is not that of the classes; or if the folder cannot be
            written.

    Example:
        >>> from keras_tformer import models
        >>> sizes = models.BERT_SIZES["tiny"]
        >>> encoder = models.bert_encoder(vocabulary_size=31, **sizes)
        >>> model = models.sequence_classifier(encoder, num_classes=2)
        >>> save_huggingface(model, "tiny_bert", class_names=["bad", "good"])
        >>> import os
        >>> sorted(os.listdir("tiny_bert"))
        ['config.json', 'model.safetensors']
    """
    task = _require_ours(model)
    before = dict(getattr(model, "huggingface_config", None) or {})
    family = family or before.get("model_type") or _suggested_family(model, task)
    if family not in FAMILIES:
        raise ValueError(
            f"`save_huggingface` received family={family!r}. Expected one of "
            f"{', '.join(FAMILIES)}."
        )
    if before.get("model_type") != family:
        before = {"model_type": family} if family == "xlm-roberta" else {}
    module = FAMILIES[family]
    architecture = _architecture(module, family, task)
    config = {
        **{key: value for key, value in before.items() if key not in _NOT_KEPT},
        **module.config_of(model, task, before),
        "architectures": [architecture],
        "dtype": _dtype(model),
        "tie_word_embeddings": True,
        **_classes(model, task, class_names, before),
    }
    config = {key: config[key] for key in sorted(config)}
    tokenizer_files = _tokenizer_files(tokenizer, family, config)

    table_rows = module.table_rows(model, task)
    if task == "encoder":  # The base classes leave their own name out.
        table_rows = [
            (name.removeprefix(module.PREFIX), kind, path)
            for name, kind, path in table_rows
        ]
    shapes = source_shapes_of(model, table_rows)
    zeros = marian.zero_biases(model) if module is marian else {}
    if "final_logits_bias" in shapes:
        shapes["final_logits_bias"] = (1, *shapes["final_logits_bias"])
    _tell_what_is_left_out(model, table_rows, family)

    def tensors():
        for name, array in arrays(model, table_rows, shapes):
            yield name, marian.to_theirs(name, array) if module is marian else array
        for name, shape in zeros.items():
            yield name, np.zeros(shape, config["dtype"])

    folder = pathlib.Path(folder)
    with _new_files(folder) as temporary:
        path = temporary / "model.safetensors"
        save_safetensors(path, {**shapes, **zeros}, tensors(), config["dtype"])
        for name, write in tokenizer_files.items():
            write(temporary / name)
        _write_json(config, temporary / "config.json")


def _require_ours(model):
    pruned = [
        weight.path
        for weight in getattr(model, "weights", ())
        if type(weight.constraint).__module__.startswith("keras_tformer.compress")
    ]
    if pruned:
        raise ValueError(
            f"`{model.name}` is being compressed: {len(pruned)} weights, such as "
            f"{pruned[0]}, have a constraint that `transformers` does not know. Call "
            "`kt.compress.strip_pruning(model)` (or the strip of the other method) "
            "first."
        )
    task = heads.task_of(model)
    if task is None:
        raise ValueError(
            "`save_huggingface` expects a model of one of this package's builders: an "
            "encoder, one with a head, `causal_lm` or `transformer`. Received: "
            f"{type(model).__name__} {getattr(model, 'name', '')!r} without their "
            "layers. Save a quantized or flattened model before it is quantized, "
            "and the encoder of a `text_embedder`; save others as `.keras`."
        )
    return task


def _suggested_family(model, task):
    if task == "causal_lm":
        return "gpt2"
    if task == "transformer":
        return "marian"
    if heads.layer_of(model, "encoder_group_0_layer_0") is not None:
        return "albert"
    embeddings = model.get_layer("embeddings")
    pooler = heads.layer_of(model, "pooler")
    if embeddings.position_offset:
        return "roberta"
    if embeddings.num_segments is None:
        return "distilbert"
    has_gelu = pooler is not None and pooler.activation.__name__ == "gelu"
    return "electra" if embeddings.projection is not None or has_gelu else "bert"


def _architecture(module, family, task):
    names = [name for name, has in module.ARCHITECTURES.items() if has == task]
    names = [x for x in names if x.startswith("XLM") == (family == "xlm-roberta")]
    if not names:
        raise ValueError(
            f"Hugging Face has no {family!r} model with the head of {task!r}. Expected "
            f"one of {sorted(set(module.ARCHITECTURES.values()))}. Save it as `.keras`."
        )
    return names[0]


def _dtype(model):
    dtype = str(model.get_layer("token_embedding").embeddings.dtype)
    if dtype not in ("float32", "float16", "bfloat16"):
        raise ValueError(
            f"The weights of `{model.name}` are {dtype}. Expected float32, float16 or "
            "bfloat16."
        )
    return dtype


def _classes(model, task, class_names, before):
    if task not in ("sequence_classifier", "token_classifier"):
        if class_names is not None:
            raise ValueError(
                f"`{model.name}` has no classes to name. Received: class_names="
                f"{class_names}. Leave it out."
            )
        return {}
    num_classes = model.output.shape[-1]
    names = class_names or getattr(model, "class_names", None)
    names = list(names or (f"LABEL_{index}" for index in range(num_classes)))
    if len(names) != num_classes or len(set(names)) != num_classes:
        raise ValueError(
            f"`{model.name}` has {num_classes} classes. Received: class_names={names}. "
            "Pass one name, different from the others, for each class."
        )
    fields = {
        "id2label": {str(index): str(name) for index, name in enumerate(names)},
        "label2id": {str(name): index for index, name in enumerate(names)},
    }
    if task == "sequence_classifier" and before.get("problem_type"):
        fields["problem_type"] = before["problem_type"]
    return fields


def _tokenizer_files(tokenizer, family, config):
    """Returns names of files and the functions that write them."""
    if tokenizer is None:
        return {}
    kind = type(tokenizer).__name__
    classes = {
        ("WordPieceTokenizer", "bert"): "BertTokenizer",
        ("WordPieceTokenizer", "distilbert"): "DistilBertTokenizer",
        ("WordPieceTokenizer", "electra"): "ElectraTokenizer",
        ("WordPieceTokenizer", "albert"): "BertTokenizer",
        ("SentencePieceTokenizer", "albert"): "AlbertTokenizer",
    }
    if (kind, family) not in classes:
        raise ValueError(
            f"`save_huggingface` cannot write a {kind} for a {family!r} model. "
            f"Expected one of {sorted(classes)}. Leave `tokenizer` out and save it "
            "beside the folder."
        )
    if tokenizer.vocabulary_size > config["vocab_size"]:
        raise ValueError(
            f"The tokenizer has {tokenizer.vocabulary_size} tokens and the model a "
            f"table of {config['vocab_size']}. Pass the tokenizer that the model was "
            "built for."
        )
    settings = {
        "tokenizer_class": classes[kind, family],
        "do_lower_case": tokenizer.lowercase,
        "model_max_length": config["max_position_embeddings"],
    }
    file = "vocab.txt" if kind == "WordPieceTokenizer" else "spiece.model"
    if file == "vocab.txt":
        settings["strip_accents"] = tokenizer.strip_accents
    else:
        settings |= {"keep_accents": not tokenizer.lowercase, "remove_space": True}
    return {
        file: tokenizer.save,
        "tokenizer_config.json": lambda path: _write_json(settings, path),
    }


def _tell_what_is_left_out(model, table_rows, family):
    paths = {weight.path for weight in model.weights}
    left_out = [path for name, _, path in table_rows if name == "-" and path in paths]
    if left_out:
        warnings.warn(
            f"Hugging Face's {family!r} has no such weights; they are not written: "
            f"{', '.join(left_out)}.",
            stacklevel=3,
        )


def _write_json(content, path):
    with replaced_file(path) as temporary:
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=2, ensure_ascii=False)
            file.write("\n")


@contextlib.contextmanager
def _new_files(folder):
    """Yields a temporary folder whose files are in `folder` when all are written."""
    folder = folder.absolute()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.mkdtemp(prefix=".", dir=folder.parent)
    except OSError as error:
        raise ValueError(
            f"Cannot write to {str(folder)!r}: {error.strerror}. Choose another folder."
        ) from error
    temporary = pathlib.Path(temporary)
    try:
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{str(folder)!r} is a file. Expected a folder.")
        yield temporary
        if folder.is_dir():
            for file in sorted(temporary.iterdir(), reverse=True):  # config.json last.
                os.replace(file, folder / file.name)
        else:
            temporary.chmod(0o755)  # mkdtemp gives 0700.
            os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
