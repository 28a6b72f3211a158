"""What a folder of pretraining records holds, with counts and checksums.

The manifest is lines of JSON: the settings and the number of shards, then a card for
each shard. So it is written and read card by card, in the same memory for a thousand
shards and for a million.
"""

import hashlib
import itertools
import json
import os
import pathlib
import tempfile

MANIFEST = "manifest.jsonl"
FORMAT = 2


def read_manifest(folder):
    """Reads the manifest of a folder of records.

    Args:
        folder: path.

    Returns:
        A dict with `"settings"`, what the records were made with; `"complete"`, False
        while they are being written; `"num_shards"`; `"shards"`, a list of dicts with
        `"file"`, `"documents"`, `"rows"`, `"tokens"`, `"bytes"`, `"sha256"` and
        `"input_sha256"`.

    Raises:
        ValueError: if there is none, or it cannot be read.
    """
    return {**read_header(folder), "shards": list(read_cards(folder))}


def read_header(folder):
    """Returns what `read_manifest` does without the shards, and reads none of them."""
    file = pathlib.Path(folder) / MANIFEST
    if not file.is_file():
        raise ValueError(
            f"{folder} holds no {MANIFEST}; expected a folder that "
            "write_pretraining_records wrote."
        )
    with open(file, encoding="utf-8") as stream:
        header = _parse(file, stream.readline())
    if header.pop("format", None) != FORMAT:
        raise ValueError(
            f"{file} has another format than this version reads, {FORMAT}. Write the "
            "records again."
        )
    return header


def read_cards(folder):
    """Yields the shards of a manifest one by one, as `read_manifest` lists them.

    Raises:
        ValueError: if a line cannot be read, or some are missing.
    """
    file = pathlib.Path(folder) / MANIFEST
    expected = read_header(folder)["num_shards"]
    found = 0
    with open(file, encoding="utf-8") as stream:
        next(stream)
        for line in stream:
            found += 1
            yield _parse(file, line)
    if found != expected:
        raise ValueError(
            f"{file} names {found} shards where it says {expected}; fetch it again, or "
            "write the records again."
        )


def _parse(file, line):
    try:
        return dict(json.loads(line))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{file} cannot be read ({error!r}); fetch it again, or write the records "
            "again."
        ) from None


def write_manifest(folder, settings, num_shards, cards, complete):
    """Writes the manifest of a folder, atomically; `cards` is an iterable of dicts."""
    header = {
        "format": FORMAT,
        "complete": complete,
        "settings": settings,
        "num_shards": num_shards,
    }
    _write_lines(pathlib.Path(folder) / MANIFEST, itertools.chain([header], cards))


def write_card(folder, card):
    """Writes the card of a shard beside it, atomically: the shard is done."""
    _write_lines(pathlib.Path(folder) / f"{card['file']}.json", [card])


def read_card(folder, name):
    """Reads the card of the shard that is called `name`; None where it has none."""
    file = pathlib.Path(folder) / f"{name}.json"
    return json.loads(file.read_text("utf-8")) if file.is_file() else None


def _write_lines(file, contents):
    """Writes each content as a line of JSON, the same bytes for the same content."""
    descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            for content in contents:
                stream.write(json.dumps(content, sort_keys=True) + "\n")
        os.chmod(temporary, 0o644)
        os.replace(temporary, file)
    except BaseException:
        pathlib.Path(temporary).unlink(missing_ok=True)
        raise


def file_checksum(file):
    """Returns the SHA-256 of a file's content."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def vocabulary_checksum(tokenizer):
    """Returns the SHA-256 of a tokenizer's vocabulary."""
    return hashlib.sha256("\n".join(tokenizer.vocabulary).encode()).hexdigest()


def check_shard(folder, shard, with_checksum):
    """Says what is wrong with a shard, in a sentence that names it, or None.

    Args:
        folder: path.
        shard: dict of the manifest.
        with_checksum: bool. Read the whole file and compare its checksum.

    Returns:
        str or None.
    """
    file = pathlib.Path(folder) / shard["file"]
    if not file.is_file():
        return f"{file} is missing; write the records again."
    size = file.stat().st_size
    if size != shard["bytes"]:
        kind = "truncated" if size < shard["bytes"] else "longer than it was"
        return (
            f"{file} is {kind}: {size} bytes, the manifest says {shard['bytes']}; "
            "fetch it again, or remove it and write the records again."
        )
    if with_checksum and file_checksum(file) != shard["sha256"]:
        return (
            f"{file} has another checksum than the manifest says; fetch it again, or "
            "remove it and write the records again."
        )
    return None
