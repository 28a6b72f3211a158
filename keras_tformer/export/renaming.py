"""Finished files and folders take their names: all of them, or none."""

import contextlib
import os
import secrets
import shutil


def put_in_place(temporaries, check):
    """Rename `{target: temporary}`, all of them or none, while nobody else does.

    Args:
        temporaries: dict of paths; the last one describes the others.
        check: function of a target that raises where it must not be replaced.

    Raises:
        ValueError: one cannot be renamed; what was there before is there again.
    """
    try:
        with _locked({os.path.dirname(target) for target in temporaries}):
            for target in temporaries:
                check(target)  # something else may have come there meanwhile
            _replace_all(temporaries)
    except OSError as error:
        raise ValueError(
            f"Cannot write {', '.join(map(repr, temporaries))}: {error.strerror}. What "
            "was there before is untouched. Close the programs that hold these files "
            "or choose another target."
        ) from error


@contextlib.contextmanager
def _locked(folders):
    """Hold the folders' own locks, which leave no file behind, where there are some.

    Two processes that write the same names would take each other's files for older
    ones. Windows has no such locks, and some network file systems have none.
    """
    with contextlib.ExitStack() as held:
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            for folder in sorted(folders):  # in one order: nobody waits for the other
                handle = os.open(folder, os.O_RDONLY)
                held.callback(os.close, handle)
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _replace_all(temporaries):
    *others, last = temporaries
    if not others and not os.path.isdir(last):
        os.replace(temporaries[last], last)  # in one step
        return
    token = secrets.token_hex(4)
    older = {
        target: os.path.join(os.path.dirname(target), f".old-{token}.{number}")
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
        for target, temporary in temporaries.items():
            if target not in older and not os.path.lexists(temporary):
                _remove(target)
        for target, kept in older.items():
            if os.path.lexists(kept):
                if _is_same(target, kept):
                    os.remove(kept)  # a second name
                else:
                    os.replace(kept, target)
        raise
    for kept in older.values():
        _remove(kept)


def _linked(target, kept):
    """Give a file a second name, so that the first is never without a file."""
    try:
        os.link(target, kept)
    except OSError:  # a folder, or a file system without links
        return False
    return True


def _is_same(target, kept):
    return os.path.exists(target) and os.path.samefile(target, kept)


def _remove(path):
    if os.path.isdir(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            os.remove(path)
