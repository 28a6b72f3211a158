"""Files that are there whole or not at all."""

import contextlib
import errno
import gzip
import hashlib
import os
import shutil
import tempfile


def make_parent(path):
    """Make the folder that will hold `path`; returns `path` made absolute.

    Raises:
        ValueError: the folder cannot be made or nothing can be written in it.
    """
    path = os.path.abspath(os.fspath(path))
    parent = os.path.dirname(path)
    try:
        os.makedirs(parent, exist_ok=True)
        handle, probe = tempfile.mkstemp(prefix=".probe-", dir=parent)
        os.close(handle)
        os.remove(probe)
    except OSError as error:
        raise ValueError(
            f"Cannot write to the folder {parent!r}: {error.strerror}. Expected a "
            "folder that can be made and written. Choose another target."
        ) from error
    return path


_FULL = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS, errno.EIO}


@contextlib.contextmanager
def full_disk_explained(path):
    """Turn what Python and TensorFlow raise when nothing more can be written.

    Raises:
        ValueError: naming `path`, the reason and what to do.
    """
    try:
        yield
    except Exception as error:
        # TensorFlow writes in C++: only the text of its error tells the reason.
        reasons = [os.strerror(number) for number in _FULL if _tells(error, number)]
        if not reasons:
            raise
        raise ValueError(
            f"Cannot write {path!r}: {reasons[0]}. No part of it was left there. Free "
            "some space or choose another target (scratch files go to the folder that "
            "TMPDIR names)."
        ) from error


def _tells(error, number):
    return getattr(error, "errno", None) == number or os.strerror(number) in str(error)


@contextlib.contextmanager
def replaced_file(path):
    """Yield a temporary path in the same folder, moved onto `path` at the end.

    When the body raises, the temporary file is removed and `path` is untouched.
    """
    path = make_parent(path)
    handle, temporary = tempfile.mkstemp(
        prefix=".", suffix="-" + os.path.basename(path), dir=os.path.dirname(path)
    )
    os.close(handle)
    try:
        with full_disk_explained(path):
            yield temporary
        os.chmod(temporary, 0o644)  # mkstemp gives 0600
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)
        raise


@contextlib.contextmanager
def replaced_folder(path):
    """Yield a temporary folder beside `path`, renamed to `path` at the end.

    A folder that stands there already is replaced only if it is empty or holds
    a SavedModel: nobody's other files are deleted.
    """
    path = make_parent(path)
    if os.path.exists(path) and not (
        os.path.isdir(path)
        and (
            not os.listdir(path) or os.path.exists(os.path.join(path, "saved_model.pb"))
        )
    ):
        raise ValueError(
            f"Cannot write a SavedModel to {path!r}: something else is there. "
            "Expected a new folder, an empty one or an older SavedModel. Choose "
            "another folder or remove what is there."
        )
    temporary = tempfile.mkdtemp(prefix=".", dir=os.path.dirname(path))
    try:
        with full_disk_explained(path):
            yield temporary
        os.chmod(temporary, 0o755)  # mkdtemp gives 0700
        if os.path.exists(path):
            old = tempfile.mkdtemp(prefix=".old-", dir=os.path.dirname(path))
            os.replace(path, os.path.join(old, "model"))
            os.replace(temporary, path)
            shutil.rmtree(old)
        else:
            os.replace(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def gzip_size(path):
    """Size in bytes of a file after gzip at level 9, as an app store sends it."""
    counter = _Counter()
    with open(path, "rb") as source:
        with gzip.GzipFile(fileobj=counter, mode="wb", mtime=0) as target:
            shutil.copyfileobj(source, target, 1 << 20)
    return counter.size


def sha256(path):
    """SHA-256 of a file as hexadecimal text."""
    digest = hashlib.sha256()
    with open(path, "rb") as source:
        for block in iter(lambda: source.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


class _Counter:
    def __init__(self):
        self.size = 0

    def write(self, block):
        self.size += len(block)
        return len(block)

    def flush(self):
        """Nothing is held back: `GzipFile` calls this when it closes."""
