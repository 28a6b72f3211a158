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


def file_target(path):
    """Make the folder of a file to write; returns `path` made absolute.

    Raises:
        ValueError: nothing can be written in the folder, or `path` is a folder.
    """
    path = make_parent(path)
    if os.path.isdir(path):
        raise ValueError(
            f"Cannot write the file {path!r}: a folder is there. Choose another name, "
            "or move the folder away."
        )
    return path


def folder_target(path):
    """Make the parent of a SavedModel to write; returns `path` made absolute.

    Raises:
        ValueError: nothing can be written in the parent, or `path` is neither new, an
            empty folder nor an older SavedModel.
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
def replaced_files(path):
    """Yield a function from a target to a temporary path; all are renamed at the end.

    The targets are `path` and files beside it. When the body or a renaming raises, the
    temporary files are removed and what was there before is untouched.
    """
    temporaries = {}

    def stage(target):
        target = file_target(target)
        handle, temporary = tempfile.mkstemp(
            prefix=".",
            suffix="-" + os.path.basename(target),
            dir=os.path.dirname(target),
        )
        os.close(handle)
        temporaries[target] = temporary
        return temporary

    try:
        with full_disk_explained(path):
            yield stage
        for target, temporary in temporaries.items():
            file_target(target)  # a folder may have come there meanwhile
            os.chmod(temporary, 0o644)  # mkstemp gives 0600
        _put_in_place(temporaries)
    finally:
        for temporary in temporaries.values():
            with contextlib.suppress(FileNotFoundError):
                os.remove(temporary)


@contextlib.contextmanager
def replaced_folder(path):
    """Yield a temporary folder beside `path`, renamed to `path` at the end.

    A folder that stands there already is replaced only if it is empty or holds
    a SavedModel: nobody's other files are deleted.
    """
    path = folder_target(path)
    temporary = tempfile.mkdtemp(prefix=".", dir=os.path.dirname(path))
    try:
        with full_disk_explained(path):
            yield temporary
        folder_target(path)  # something else may have come there meanwhile
        os.chmod(temporary, 0o755)  # mkdtemp gives 0700
        _put_in_place({path: temporary})
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _put_in_place(temporaries):
    """Rename `{target: temporary}`, all of them or none.

    Raises:
        ValueError: one cannot be renamed; what was there before is there again.
    """
    try:
        _replace_all(temporaries)
    except OSError as error:
        raise ValueError(
            f"Cannot write {', '.join(map(repr, temporaries))}: {error.strerror}. What "
            "was there before is untouched. Close the programs that hold these files "
            "or choose another target."
        ) from error


def _replace_all(temporaries):
    *others, last = temporaries
    if not others and not os.path.isdir(last):
        os.replace(temporaries[last], last)  # in one step
        return
    aside = tempfile.mkdtemp(prefix=".old-", dir=os.path.dirname(last))
    older = {
        target: os.path.join(aside, str(number))
        for number, target in enumerate(temporaries)
        if os.path.lexists(target)
    }
    try:
        for target, kept in older.items():
            # The last one describes the others. It is away while they change: who is
            # killed in between leaves no card of files that it does not describe.
            if target == last or not _linked(target, kept):
                os.replace(target, kept)
        for target, temporary in temporaries.items():
            os.replace(temporary, target)
    except BaseException:
        for target in temporaries.keys() - older.keys():
            with contextlib.suppress(FileNotFoundError):
                os.remove(target)
        for target, kept in older.items():
            if os.path.lexists(kept) and not _is_same(target, kept):
                os.replace(kept, target)
        shutil.rmtree(aside)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _linked(target, kept):
    """Give a file a second name, so that the first is never without a file."""
    try:
        os.link(target, kept)
    except OSError:  # a file system without links
        return False
    return True


def _is_same(target, kept):
    return os.path.exists(target) and os.path.samefile(target, kept)


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
