"""Files that are whole or not there: written aside, sealed, then renamed."""

import errno
import hashlib
import os
import pathlib
import re
import shutil

_NAME = re.compile(r"epoch-(\d+)(?:-step-(\d+))?\.weights\.h5")
_MARK = b"whole-01"
_DIGEST_SIZE = 32


def checkpoint_files(folder):
    """Lists a folder's checkpoints, the newest first.

    Args:
        folder: path.

    Returns:
        A list of `((epochs, steps), path)`: finished epochs, and steps of the next one.

    Example:
        >>> checkpoint_files("no/such/folder")
        []
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        return []
    found = [file for file in folder.iterdir() if _NAME.fullmatch(file.name)]
    return sorted(((position(file), file) for file in found), reverse=True)


def position(file):
    """Reads finished epochs, and steps of the next one, from a checkpoint's name.

    Args:
        file: path.

    Returns:
        A pair of int.

    Example:
        >>> position(pathlib.Path("epoch-00003-step-0000012.weights.h5"))
        (3, 12)
    """
    epochs, steps = _NAME.fullmatch(file.name).groups()
    return int(epochs), int(steps or 0)


def write_checkpoint(folder, epochs, steps, size, write):
    """Writes a checkpoint under another name, seals it with a digest and renames it.

    A process that is killed at any moment leaves the older checkpoints whole and at
    most a file `unfinished.weights.h5`, which the next one overwrites.

    Args:
        folder: path, made if it is missing.
        epochs: int, finished epochs.
        steps: int, finished steps of the next epoch.
        size: int, bytes that it takes at the most. They are claimed first: HDF5 ends
            the process where a disk is full in the middle of a file.
        write: function(path) that writes the file.

    Raises:
        OSError: if the disk takes no more.
    """
    folder = pathlib.Path(folder)
    name = f"epoch-{epochs:05d}" + (f"-step-{steps:07d}" if steps else "")
    unfinished = folder / "unfinished.weights.h5"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _claim(unfinished, size)
        write(unfinished)
        with open(unfinished, "r+b") as file:
            digest = _digest(file)
            file.seek(0, os.SEEK_END)  # HDF5 does not read what follows its own end
            file.write(_MARK + digest)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, folder / f"{name}.weights.h5")
    except (OSError, RuntimeError) as error:  # RuntimeError: from h5py
        unfinished.unlink(missing_ok=True)
        left = [file.name for _, file in checkpoint_files(folder)[:1]]
        raise OSError(
            f"The checkpoint '{name}' could not be written to {folder} ({error}). "
            f"Expected a folder with room for it. The last whole one is "
            f"{left[0] if left else 'none'}; free some space, or give another folder "
            "and copy it there, then start again."
        ) from error


def is_whole(path):
    """Says whether a file is as it was written, by its digest.

    Args:
        path: path of a checkpoint.

    Returns:
        A bool.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_checkpoint(folder, 3, 0, 9, lambda path: path.write_bytes(b"abc"))
        ...     [(_, file)] = checkpoint_files(folder)
        ...     is_whole(file)
        True
    """
    size = os.path.getsize(path) - len(_MARK) - _DIGEST_SIZE
    if size < 0:
        return False
    with open(path, "rb") as file:
        file.seek(size)
        seal = file.read()
        file.seek(0)
        return seal == _MARK + _digest(file, size)


def _claim(path, size):
    if hasattr(os, "posix_fallocate"):
        with open(path, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
    elif shutil.disk_usage(path.parent).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _digest(file, size=None):
    digest = hashlib.blake2b(digest_size=_DIGEST_SIZE)
    while block := file.read(1 << 20 if size is None else min(1 << 20, size)):
        digest.update(block)
        if size is not None:
            size -= len(block)
    return digest.digest()
