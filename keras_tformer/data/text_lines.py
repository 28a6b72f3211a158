"""Lines of UTF-8 text files of any size, plain or compressed."""

import gzip
import lzma
import pathlib

OPENERS = {".gz": gzip.open, ".xz": lzma.open}
# Longer than any paragraph of prose; a longer one is most likely not text.
MAX_LINE_BYTES = 1 << 24


def read_lines(file, max_line_bytes=MAX_LINE_BYTES, skipped=None):
    """Yields the lines of a file one by one; memory does not grow with its size.

    Args:
        file: path of a UTF-8 file. `.gz` and `.xz` are unpacked on the way.
        max_line_bytes: int. A longer line is an error.
        skipped: None, or a `collections.Counter`. With a counter, a line that is
            not UTF-8, holds a null character or is too long is left out and counted
            there under its reason, instead of ending the run.

    Yields:
        Pairs of the line's number, from 1, and its text without the line end.

    Raises:
        ValueError: naming file and line, if the file is missing or damaged, or for
            such a line when `skipped` is None.
    """
    file = pathlib.Path(file)
    if not file.is_file():
        state = "is not a file" if file.exists() else "does not exist"
        raise ValueError(f"{file} {state}; expected a UTF-8 text file.")
    number = 0
    try:
        with OPENERS.get(file.suffix.lower(), open)(file, "rb") as stream:
            while line := stream.readline(max_line_bytes + 1):
                number += 1
                too_long = len(line) > max_line_bytes
                while too_long and line and not line.endswith(b"\n"):
                    line = stream.readline(1 << 20)  # passes over the rest
                if too_long:
                    bad_line(
                        skipped,
                        "longer than the limit",
                        f"{file}, line {number}: longer than {max_line_bytes} bytes; "
                        "break it into lines, or raise max_line_bytes.",
                    )
                    continue
                text = _decoded(file, number, line, skipped)
                if text is not None:
                    yield number, text
    except (EOFError, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise ValueError(
            f"{file}, after line {number}: the compressed file is damaged ({error}); "
            "fetch or pack it again."
        ) from None


def bad_line(skipped, reason, message):
    """Counts a line that is left out, or raises where nobody counts."""
    if skipped is None:
        raise ValueError(message)
    skipped[reason] += 1


def _decoded(file, number, line, skipped):
    try:
        text = line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        bad_line(
            skipped,
            "not UTF-8",
            f"{file}, line {number}: not UTF-8 (byte {line[error.start]:#04x}); save "
            "the file as UTF-8.",
        )
        return None
    if "\x00" in text:
        bad_line(
            skipped,
            "null character",
            f"{file}, line {number}: a null character; expected a text file, not a "
            "binary one.",
        )
        return None
    return text.removesuffix("\n").removesuffix("\r")
