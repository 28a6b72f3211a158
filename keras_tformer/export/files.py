"""Files that are there whole or not at all."""

import contextlib
import errno
import gzip
import hashlib
import os
import secrets
import shutil
import tempfile

from keras_tformer.export.renaming import put_in_place

# What a SavedModel of this room holds; `variables` and `assets` hold what TensorFlow
# puts there.
_SAVED_MODEL = {"saved_model.pb", "fingerprint.pb", "variables", "assets"}
_BESIDE = {"vocab.txt", "sentencepiece.model", "classes.json"}


def file_target(path):
    """Refuse a file that could not be written; returns `path` made absolute.

    Raises:
        ValueError: nothing can be written in the folder, or `path` is a folder.
    """
    path = _checked(path)
    if os.path.isdir(path):
        raise ValueError(
            f"Cannot write the file {path!r}: a folder is there. Choose another name, "
            "or move the folder away."
        )
    return path


def folder_target(path):
    """Refuse a SavedModel that could not be written; returns `path` made absolute.

    Raises:
        ValueError: nothing can be written in the parent, or `path` is neither new, an
            empty folder nor an older SavedModel without other files in it.
    """
    path = _checked(path)
    try:
        entries = set(os.listdir(path))
    except FileNotFoundError:
        return path
    except OSError:
        entries = None
    if entries is None or (entries and "saved_model.pb" not in entries):
        raise ValueError(
            f"Cannot write a SavedModel to {path!r}: something else is there. "
            "Expected a new folder, an empty one or an older SavedModel. Choose "
            "another folder or remove what is there."
        )
    others = entries - _SAVED_MODEL - {"assets.extra"}
    others |= {
        f"assets.extra/{name}"
        for name in _entries(os.path.join(path, "assets.extra")) - _BESIDE
    }
    if others:
        raise ValueError(
            f"Cannot write a SavedModel to {path!r}: it would replace the folder, and "
            f"{', '.join(map(repr, sorted(others)))} in it would be lost. Move them "
            "away, or choose another folder."
        )
    return path


def _entries(folder):
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return set(os.listdir(folder))
    return set()


def _checked(path):
    """`path` made absolute, where something of its name could be written."""
    if isinstance(path, os.PathLike):
        path = os.fspath(path)
    if not isinstance(path, str) or not path:
        raise ValueError(
            f"Received the path {path!r}. Expected a string or a pathlib.Path."
        )
    path = os.path.abspath(path)
    there, missing = os.path.dirname(path), [os.path.basename(path)]
    while not os.path.lexists(there):
        there, name = os.path.split(there)
        missing.append(name)
    try:
        for name in missing:  # a name may be too long for the file system
            _look_for(os.path.join(there, name))
        handle, probe = tempfile.mkstemp(prefix=".probe-", dir=there)
        os.close(handle)
        os.remove(probe)
    except OSError as error:
        raise ValueError(
            f"Cannot write to the folder {os.path.dirname(path)!r}: {error.strerror}. "
            "Expected a folder that can be made and written. Choose another target."
        ) from error
    return path


def _look_for(path):
    with contextlib.suppress(FileNotFoundError):
        os.lstat(path)


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
def replaced_files(path):
    """Yield a function from a target to a temporary path; all are renamed at the end.

    The targets are `path` and files beside it; where one is a link, the file that it
    leads to is replaced. When the body or a renaming raises, the temporary files are
    removed and what was there before is untouched.
    """
    temporaries = {}

    def stage(target):
        target, temporary = _beside(file_target(target))
        open(temporary, "xb").close()
        temporaries[target] = temporary
        return temporary

    with _parent_of(path):
        try:
            with full_disk_explained(path):
                yield stage
            put_in_place(temporaries, file_target)
        finally:
            for temporary in temporaries.values():
                with contextlib.suppress(FileNotFoundError):
                    os.remove(temporary)


@contextlib.contextmanager
def replaced_folder(path):
    """Yield a temporary folder beside `path`, renamed to `path` at the end.

    A folder that stands there already, or that a link there leads to, is replaced only
    if it is empty or holds a SavedModel alone: nobody's other files are deleted.
    """
    path = folder_target(path)
    with _parent_of(path):
        target, temporary = _beside(path)
        os.mkdir(temporary)
        try:
            with full_disk_explained(path):
                yield temporary
            for folder, _, _ in os.walk(temporary):  # TensorFlow lets no group write
                os.chmod(folder, os.stat(temporary).st_mode)
            put_in_place({target: temporary}, folder_target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _beside(path):
    """What is to be replaced, and a new name beside it.

    Not by `tempfile`: what is made there has no permissions for a group, whatever the
    umask says.
    """
    target = os.path.realpath(path) if os.path.islink(path) else path
    folder, name = os.path.split(target)
    if not os.path.isdir(folder):
        raise ValueError(
            f"Cannot write {path!r}: it is a link into {folder!r}, which is not there. "
            "Remove the link, or make that folder."
        )
    # A long name has no room for more.
    return target, os.path.join(folder, f".{secrets.token_hex(4)}-{name[-60:]}")


@contextlib.contextmanager
def _parent_of(path):
    """Make the folders above `path`; take away those that were made when it fails."""
    made, parent = [], os.path.dirname(os.path.abspath(path))
    while not os.path.isdir(parent):
        made.append(parent)
        parent = os.path.dirname(parent)
    try:
        _make(os.path.dirname(os.path.abspath(path)))
        yield
    except BaseException:
        for folder in made:
            with contextlib.suppress(OSError):  # somebody has put something there
                os.rmdir(folder)
        raise


def _make(folder):
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"Cannot make the folder {folder!r}: {error.strerror}. Choose another "
            "target."
        ) from error


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
