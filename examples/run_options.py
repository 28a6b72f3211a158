"""The options of a run, kept in its folder: whoever goes on with it gives the same."""

import hashlib
import json
import os
import pathlib

FILES = {
    "checkpoint",
    "data",
    "dev",
    "dev_source",
    "dev_target",
    "source",
    "target",
    "teacher_checkpoint",
    "vocabulary",
}
# Where a run is, how long it goes on, in how much memory, and how it is scored.
MAY_CHANGE = {
    "epochs",
    "micro_batches",
    "output",
    "patience",
    "resume",
    "second_dev",
    "threshold",
    "threshold_share",
}


def refuse_others(options, may_change=MAY_CHANGE):
    """Ends a script that would go on with other data or another model.

    Files count as the same if their content is, wherever they lie.

    Args:
        options: what a parser gave, with `output`.
        may_change: set of names that are not compared.
    """
    before, now = read(options.output), as_written(options)
    for name in sorted((before.keys() & now.keys()) - {*may_change, "contents"}):
        old, new = (run["contents"].get(name, run[name]) for run in (before, now))
        if old != new:
            has_changed = " with another content" if before[name] == now[name] else ""
            raise SystemExit(
                f"The run in {options.output} began with --{name.replace('_', '-')} "
                f"{before[name]}; now it is {now[name]}{has_changed}. Give the same "
                "again, or name another --output."
            )


def read(output):
    """Gives what `write` wrote into a folder; an empty dict if it has not."""
    file = output / "options.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def write(options):
    """Writes the options as `options.json` into the output folder."""
    file = options.output / "unfinished-options.json"
    content = json.dumps(as_written(options), indent=1, ensure_ascii=False)
    file.write_text(content, encoding="utf-8")
    os.replace(file, options.output / "options.json")


def as_written(options):
    """Gives the options as a dict for JSON, with digests of the files they name."""
    named = {
        name: str(value) if isinstance(value, pathlib.Path) else value
        for name, value in sorted(vars(options).items())
    }
    paths = {name: pathlib.Path(named[name]) for name in FILES if named.get(name)}
    contents = {
        name: digest(path, options.output)
        for name, path in paths.items()
        if path.exists()
    }
    return {**named, "contents": contents}


def digest(path, output):
    """Gives a file's BLAKE2b digest, or that of a folder's files, as a str.

    Files in `output` do not count: it may lie in the folder of the data.
    """
    files, output = [path], output.resolve()
    if path.is_dir():
        files = sorted(
            file
            for file in path.rglob("*")
            if file.is_file() and output not in file.resolve().parents
        )
    whole = hashlib.blake2b(digest_size=16)
    for file in files:
        with open(file, "rb") as stream:
            whole.update(hashlib.file_digest(stream, hashlib.blake2b).digest())
    return whole.hexdigest()
