"""What lies beside a `.tflite` file: its vocabulary, and a card for the app."""

import contextlib
import json
import os
import tempfile
import zipfile

from keras_tformer.export.files import replaced_file
from keras_tformer.export.saved_model import vocabulary_name


def write_vocabulary(file, tokenizer):
    """Write the tokenizer's file into the folder of `file`; its path, or None."""
    if tokenizer is None:
        return None
    vocabulary = os.path.join(os.path.dirname(file), vocabulary_name(tokenizer))
    with replaced_file(vocabulary) as temporary:
        tokenizer.save(temporary)
    return vocabulary


def attach(file, tokenizer, class_names):
    """Append the vocabulary and the class names to a `.tflite` file as a zip archive.

    That is where TFLite's metadata keeps associated files: runtimes read the file from
    its beginning and do not see them, `unzip` reads it from its end.
    """
    if tokenizer is None and class_names is None:
        return
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        if tokenizer is not None:
            with tempfile.TemporaryDirectory() as scratch:
                path = os.path.join(scratch, vocabulary_name(tokenizer))
                tokenizer.save(path)
                with open(path, "rb") as stream:
                    _add(archive, vocabulary_name(tokenizer), stream.read())
        if class_names is not None:
            _add(archive, "labels.txt", "\n".join(class_names) + "\n")


def _add(archive, name, content):
    # Without the time of day, so that equal models make equal files.
    entry = zipfile.ZipInfo(name)
    entry.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(entry, content)


def write_card(result, tokenizer, class_names):
    """Write what an app needs: how to feed the file and read its answer.

    Returns:
        The path of the card, or None where there is nothing to say.
    """
    if tokenizer is None and class_names is None:
        return None
    card = {
        "file": os.path.basename(result["file"]),
        "sha256": result["sha256"],
        "size_bytes": result["size_bytes"],
        "quantization": result["quantization"],
        "sequence_length": result["sequence_length"],
        "batch_size": result["batch_size"],
        "max_length": result["max_length"],
        "inputs": result["inputs"],
        "outputs": result["outputs"],
        "signatures": result["signatures"],
        "classes": None if class_names is None else list(class_names),
        "vocabulary": None,
    }
    if tokenizer is not None:
        card["vocabulary"] = os.path.basename(result["vocabulary"])
        card["tokenizer"] = type(tokenizer).__name__
        for key in ("lowercase", "start_id", "end_id", "padding_id", "unknown_id"):
            with contextlib.suppress(AttributeError):
                card[key] = getattr(tokenizer, key)
    path = os.path.splitext(result["file"])[0] + ".json"
    with replaced_file(path) as temporary:
        with open(temporary, "w", encoding="utf-8") as stream:
            json.dump(card, stream, indent=2, ensure_ascii=False)
            stream.write("\n")
    return path
