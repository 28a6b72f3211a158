"""Files that are there whole or not at all."""

import os
import pathlib
import tempfile


def write_atomically(file, content):
    """Writes the bytes `content` to `file`; makes its folder where there is none."""
    file = pathlib.Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=file.name)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, file)
    except BaseException:
        pathlib.Path(temporary).unlink(missing_ok=True)
        raise
