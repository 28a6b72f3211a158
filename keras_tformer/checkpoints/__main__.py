"""Converts checkpoints without code: `python -m keras_tformer.checkpoints convert`."""

import argparse
import contextlib
import glob
import os
import re
import shutil
import sys
import time
import warnings

from keras_tformer.checkpoints.encoder_numbers import encoder_numbers
from keras_tformer.checkpoints.google_config import default_config_file
from keras_tformer.checkpoints.save_tf_checkpoint import (
    save_tf_checkpoint,
    temporary_beside,
)

_KINDS = ("keras", "huggingface", "tf1")
# What a folder of Hugging Face's holds of its tokenizer.
_TOKENIZER_FILES = (
    "vocab.txt",
    "spiece.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "vocab.json",
    "source.spm",
    "target.spm",
)


def main(arguments=None):
    """Runs the command line.

    Args:
        arguments: list of words after the program's name; those of this process where
            it is None.

    Returns:
        0, or 2 after an error, which is one line on standard error.

    Raises:
        SystemExit: with code 2, if the words themselves are wrong.

    Example:
        >>> main(["convert", "nothing.keras", "folder", "--to", "huggingface"])
        reading nothing.keras (keras)
        2
    """
    given = _parser().parse_args(arguments)
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        try:
            _convert(given)
            code = 0
        except (ValueError, ImportError, OSError) as error:
            print(f"error: {_one_line(error)}", file=sys.stderr)
            code = 2
    if code == 0:
        for text in dict.fromkeys(
            _one_line(note.message)
            for note in notes
            if issubclass(note.category, UserWarning)
        ):
            print(f"note: {text}", file=sys.stderr)
    return code


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m keras_tformer.checkpoints",
        description="Converts checkpoints of BERT, ALBERT and their relatives.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    convert = commands.add_parser(
        "convert",
        help="read a checkpoint of one kind, write it as another",
        description="Reads a checkpoint of one kind and writes it as another.",
    )
    convert.add_argument(
        "source",
        metavar="SOURCE",
        help="a folder or hub id of Hugging Face, the prefix of a TensorFlow "
        "checkpoint (folder/bert_model.ckpt), or a .keras file",
    )
    convert.add_argument(
        "target",
        metavar="TARGET",
        help="a .keras file, a folder (huggingface) or a prefix (tf1)",
    )
    convert.add_argument("--to", required=True, choices=_KINDS, help="kind of TARGET")
    convert.add_argument(
        "--from",
        dest="source_kind",
        choices=_KINDS,
        help="kind of SOURCE, found out where it is not given",
    )
    convert.add_argument(
        "--task",
        help="head to load, such as encoder, masked_lm or sequence_classifier; the one "
        "that SOURCE has where it is not given",
    )
    convert.add_argument(
        "--config",
        metavar="FILE",
        help="bert_config.json or albert_config.json of a TensorFlow checkpoint; the "
        "one beside it where it is not given",
    )
    convert.add_argument(
        "--mask-value",
        type=float,
        metavar="NUMBER",
        help="number added to the scores of padding; -30 for a model that will be "
        "quantized",
    )
    convert.add_argument("--force", action="store_true", help="overwrite TARGET")
    return parser


def _convert(given):
    start = time.monotonic()
    kind = given.source_kind or _kind_of(given.source)
    _require_free(given.target, given.to, given.force)
    with _stage(f"reading {given.source} ({kind})"):
        model = _read(given, kind)
    with _stage(f"writing {given.target} ({given.to})"):
        _write(model, given.target, given.to, given.force)
        _copy_tokenizer(given.source, kind, given.target, given.to)
    print(
        f"{given.target}: {model.name}, {model.count_params():,} weights, in "
        f"{time.monotonic() - start:.1f} s",
        flush=True,
    )


# === Reading ===


def _kind_of(source):
    if source.endswith(".keras"):
        return "keras"
    if os.path.isdir(source):
        if os.path.exists(os.path.join(source, "config.json")):
            return "huggingface"
        if glob.glob(os.path.join(glob.escape(source), "*.index")):
            return "tf1"
    elif os.path.exists(source + ".index") or source.endswith(".index"):
        return "tf1"
    elif not os.path.exists(source):
        is_path = os.path.isdir(os.path.dirname(source)) or source.endswith(".ckpt")
        if not is_path and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source):
            return "huggingface"  # The name of a repository on the hub.
    raise ValueError(
        f"Cannot tell what {source!r} is. Expected a .keras file, a folder with a "
        "config.json, a hub id, or a prefix with a file .index. Check the path, or "
        "name the kind with --from."
    )


def _read(given, kind):
    if kind == "keras":
        return _read_keras(given)
    more = {} if given.mask_value is None else {"mask_value": given.mask_value}
    if kind == "huggingface":
        if given.config is not None:
            raise ValueError(
                f"Received --config {given.config} for a folder of Hugging Face, which "
                "has its config.json. Leave it out."
            )
        from keras_tformer.checkpoints.load_huggingface import load_huggingface

        return load_huggingface(given.source, task=given.task, **more)
    from keras_tformer.checkpoints.load_tf_checkpoint import load_tf_checkpoint

    prefix = _prefix(given.source)
    config_file = given.config or _config_beside(prefix)
    return load_tf_checkpoint(prefix, config_file, task=given.task, **more)


def _read_keras(given):
    for name in ("task", "config", "mask_value"):
        if getattr(given, name) is not None:
            raise ValueError(
                f"Received --{name.replace('_', '-')} for a .keras file, which says "
                "itself what it is. Leave it out."
            )
    if not os.path.isfile(given.source):
        raise ValueError(f"There is no file {given.source!r}. Check the path.")
    import keras

    try:
        return keras.saving.load_model(given.source, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises many kinds for damaged files.
        raise ValueError(
            f"{given.source!r} cannot be opened as a .keras file: "
            f"{_one_line(error).rstrip('.')}. Expected a model saved with "
            "`model.save`. Save it again."
        ) from error


def _prefix(source):
    if not os.path.isdir(source):
        return source.removesuffix(".index")
    found = glob.glob(os.path.join(glob.escape(source), "*.index"))
    if len(found) != 1:
        raise ValueError(
            f"The folder {source!r} has {len(found)} checkpoints. Expected one. Pass "
            "the prefix of one: its path without .index."
        )
    return found[0].removesuffix(".index")


def _config_beside(prefix):
    folder = os.path.dirname(prefix)
    for name in ("bert_config.json", "albert_config.json", "config.json"):
        if os.path.exists(os.path.join(folder, name)):
            return os.path.join(folder, name)
    found = glob.glob(os.path.join(glob.escape(folder), "*config*.json"))
    if len(found) == 1:
        return found[0]
    raise ValueError(
        f"There is no bert_config.json or albert_config.json beside {prefix!r}. Pass "
        "the configuration with --config."
    )


# === Writing ===


def _require_free(target, kind, force):
    if kind == "keras" and not target.endswith(".keras"):
        raise ValueError(
            f"Received the target {target!r} with --to keras. Expected a name that "
            "ends with .keras."
        )
    if kind == "huggingface":
        if os.path.isfile(target):
            raise ValueError(f"{target!r} is a file. Expected a folder. Pass another.")
        there = os.path.isdir(target) and os.listdir(target)
    else:
        there = os.path.exists(target + (".index" if kind == "tf1" else ""))
    if there and not force:
        raise ValueError(
            f"{target!r} is there already. Pass --force to overwrite it, or another "
            "target."
        )


def _write(model, target, kind, force):
    if kind == "tf1":
        config_file = default_config_file(target, encoder_numbers(model)[0])
        if os.path.exists(config_file) and not force:
            raise ValueError(
                f"{config_file!r} is there already. Pass --force to overwrite it, or a "
                "target in another folder."
            )
        save_tf_checkpoint(model, target)
        return
    folder = temporary_beside(target)
    try:
        if kind == "keras":
            written = os.path.join(folder, os.path.basename(target))
            model.save(written)
            os.replace(written, target)
        else:
            from keras_tformer.checkpoints.save_huggingface import save_huggingface

            save_huggingface(model, os.path.join(folder, "model"))
            os.makedirs(target, exist_ok=True)
            for name in sorted(os.listdir(os.path.join(folder, "model"))):
                os.replace(
                    os.path.join(folder, "model", name), os.path.join(target, name)
                )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _copy_tokenizer(source, source_kind, target, kind):
    """A folder's vocabulary belongs to its weights; nothing there is replaced."""
    if source_kind != "huggingface" or kind == "keras" or not os.path.isdir(source):
        return
    names = _TOKENIZER_FILES
    folder = target
    if kind == "tf1":  # Google's code reads these two.
        names, folder = ("vocab.txt", "spiece.model"), os.path.dirname(target)
    for name in names:
        there = os.path.join(folder, name)
        if os.path.exists(os.path.join(source, name)) and not os.path.exists(there):
            shutil.copyfile(os.path.join(source, name), there)


# === Words ===


@contextlib.contextmanager
def _stage(text):
    """Shows that something is going on; the line stays, with the seconds it took."""
    start = time.monotonic()
    console = None
    if sys.stdout.isatty():
        with contextlib.suppress(ImportError):
            from rich.console import Console

            console = Console()
    if console is None:
        print(text, flush=True)
        yield
        return
    with console.status(text):
        yield
    print(f"{text}: {time.monotonic() - start:.1f} s", flush=True)


def _one_line(error):
    return " ".join(str(error).split())


if __name__ == "__main__":
    sys.exit(main())
