"""What lies beside a `.tflite` file: its vocabulary, and a card for the app."""

import contextlib
import json
import os
import pathlib
import zipfile

from keras_tformer.export.files import file_target
from keras_tformer.export.tflite_checks import as_lengths
from keras_tformer.export.vocabulary_file import vocabulary_content, vocabulary_name
from keras_tformer.text.word_piece import MAX_CHARACTERS_PER_WORD

_SETTINGS = (
    "lowercase",
    "strip_accents",
    "keep_accents",
    "split_chinese_characters",
    "split_comma_after_digit",
    "never_split",
    "start_id",
    "end_id",
    "padding_id",
    "unknown_id",
)


def companion_paths(file, tokenizer, class_names):
    """Where the vocabulary and the card of a file go, None for what is not written.

    The vocabulary is `vocab.txt` or `sentencepiece.model` in the folder of `file`.
    Where that name is taken by other content, and not by this file's card alone, it is
    `<stem>_vocab.txt`: the files that lie there keep theirs. An older card of the file
    is written anew even where there is nothing to say, since it describes another one.

    Raises:
        ValueError: there is no free name for the vocabulary, or a folder has the name.
    """
    stem = os.path.splitext(file)[0]
    vocabulary, card = None, f"{stem}.json"
    if tokenizer is not None:
        vocabulary = _vocabulary_path(file, card, tokenizer)
    elif class_names is None and _read_card(card).get("file") != os.path.basename(file):
        card = None
    for path in (vocabulary, card):
        if path is not None:
            file_target(path)
        if path == file:
            raise ValueError(
                f"Received the file {file!r}, but that is the name of what is written "
                f"beside it. Choose another one, such as {stem + '.tflite'!r}."
            )
    return vocabulary, card


def _vocabulary_path(file, card, tokenizer):
    folder, name = os.path.dirname(file), vocabulary_name(tokenizer)
    stem = os.path.splitext(os.path.basename(file))[0]
    content = vocabulary_content(tokenizer)
    paths = [os.path.join(folder, part) for part in (name, f"{stem}_{name}")]
    for path in paths:
        cards = _cards_that_name(path)
        is_free = not cards and not os.path.lexists(path)
        if is_free or cards == [card] or has_content(path, content):
            return path
    raise ValueError(
        f"Cannot write the vocabulary of {file!r}: {paths[0]!r} and {paths[1]!r} hold "
        "others. Choose another folder or name, or move one of them away."
    )


def _cards_that_name(vocabulary):
    folder, name = os.path.split(vocabulary)
    return [
        str(path)
        for path in pathlib.Path(folder).glob("*.json")
        if _read_card(path).get("vocabulary") == name
    ]


def _read_card(path):
    """A card as a dict, empty where `path` is not one."""
    card = None
    with contextlib.suppress(OSError, ValueError):
        with open(path, encoding="utf-8") as stream:
            card = json.load(stream)
    return card if isinstance(card, dict) else {}


def has_content(path, content):
    """Whether a file is there and holds these bytes."""
    with contextlib.suppress(OSError):
        with open(path, "rb") as stream:
            return stream.read() == content
    return False


def attach(file, tokenizer, class_names):
    """Append the vocabulary and the class names to a `.tflite` file as a zip archive.

    That is where TFLite's metadata keeps associated files: runtimes read the file from
    its beginning and do not see them, `unzip` reads it from its end.
    """
    if tokenizer is None and class_names is None:
        return
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        if tokenizer is not None:
            _add(archive, vocabulary_name(tokenizer), vocabulary_content(tokenizer))
        if class_names is not None:
            _add(archive, "labels.txt", "\n".join(class_names) + "\n")


def _add(archive, name, content):
    # Without the time of day, so that equal models make equal files.
    entry = zipfile.ZipInfo(name)
    entry.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(entry, content)


def write_companions(stage, result, tokenizer, class_names, values):
    """Write the vocabulary and the card that a result names, the card last.

    Args:
        stage: the function that `replaced_files` yields.
        result: what `to_tflite` returns.
        tokenizer, class_names: as in `to_tflite`.
        values: `{output name: "logits" or "probabilities"}`, see `output_values`.
    """
    vocabulary, card = result["vocabulary"], result["card"]
    if vocabulary is not None:
        content = vocabulary_content(tokenizer)
        if not has_content(vocabulary, content):
            with open(stage(vocabulary), "wb") as stream:
                stream.write(content)
    if card is not None:
        with open(stage(card), "w", encoding="utf-8") as stream:
            content = _card(result, tokenizer, class_names, values)
            json.dump(content, stream, indent=2, ensure_ascii=False)
            stream.write("\n")


def _card(result, tokenizer, class_names, values):
    """What an app needs: how to feed the file and read its answer."""
    lengths = as_lengths(result["sequence_length"])
    card = {
        "file": os.path.basename(result["file"]),
        "sha256": result["sha256"],
        "size_bytes": result["size_bytes"],
        "quantization": result["quantization"],
        "sequence_length": lengths[0],
        "lengths": list(lengths),
        "batch_size": result["batch_size"],
        "max_length": result["max_length"],
        "inputs": result["inputs"],
        "outputs": {
            name: spec | ({"values": values[name]} if name in values else {})
            for name, spec in result["outputs"].items()
        },
        "signatures": result["signatures"],
        "classes": None if class_names is None else list(class_names),
        "vocabulary": None,
    }
    if tokenizer is not None:
        card["vocabulary"] = os.path.basename(result["vocabulary"])
        card |= describe_tokenizer(tokenizer)
    return card


def describe_tokenizer(tokenizer):
    """All that an app needs, beside the vocabulary, to give the tokenizer's ids."""
    card = {"tokenizer": type(tokenizer).__name__}
    for key in _SETTINGS:
        with contextlib.suppress(AttributeError):
            card[key] = getattr(tokenizer, key)
    if card["tokenizer"] == "WordPieceTokenizer":
        card["continuation_prefix"] = "##"
        card["max_characters_per_word"] = MAX_CHARACTERS_PER_WORD
    return card
