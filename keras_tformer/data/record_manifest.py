"""What a folder of pretraining records holds, with counts and checksums."""

import hashlib
import json
import os
import pathlib
import tempfile

MANIFEST = "manifest.json"
FORMAT = 1


def read_manifest(folder):
    """Reads the manifest of a folder of records.

    Args:
        folder: path.

    Returns:
        A dict with `"settings"`, what the records were made with; `"complete"`, False
        while they are being written; `"shards"`, a list of dicts with `"file"`,
        `"documents"`, `"rows"`, `"tokens"`, `"bytes"`, `"sha256"` and
        `"input_sha256"`.

    Raises:
        ValueError: if there is none, or it cannot be read.
    """
    file = pathlib.Path(folder) / MANIFEST
    if not file.is_file():
        raise ValueError(
            f"{folder} holds no {MANIFEST}; expected a folder that "
            "write_pretraining_records wrote."
        )
    try:
        manifest = json.loads(file.read_text("utf-8"))
        number = manifest["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file} cannot be read ({error!r}); write the records again."
        ) from None
    if number != FORMAT:
        raise ValueError(
            f"{file} has format {number}; this version reads {FORMAT}. Write the "
            "records again."
        )
    return manifest


def write_manifest(folder, settings, shards, complete):
    """Writes the manifest of a folder, atomically."""
    write_json(
        pathlib.Path(folder) / MANIFEST,
        {
            "format": FORMAT,
            "complete": complete,
            "settings": settings,
            "shards": sorted(shards, key=lambda shard: shard["file"]),
        },
    )


def write_json(file, content):
    """Writes JSON atomically, with the same bytes for the same content."""
    file = pathlib.Path(file)
    descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            json.dump(content, stream, indent=1, sort_keys=True)
            stream.write("\n")
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
