"""Short texts side by side in one row, and which of them stands where."""

import bisect
from typing import Any, NamedTuple

import numpy as np


class PackedRows(NamedTuple):
    """Rows that hold several texts each.

    Attributes:
        pieces: list of rows; a row is a list of `(text, start, end)`: ids `start` to
            `end` of text number `text`.
        document_ids: `(N, T)` int32 array: 1 for the first text of a row, 2 for
            the second, and so on; 0 for padding.
    """

    pieces: list
    document_ids: Any

    @property
    def padding_share(self):
        """float. Share of all positions that hold no token."""
        return float((self.document_ids == 0).mean())


def pack_rows(lengths, sequence_length):
    """Packs texts into as few rows as it can: best fit, longest first.

    Johnson 1973: at most 11/9 of the fewest possible rows (and a few). Krell et al.
    2021 (arXiv 2107.02027) pack pretraining data so. A text longer than a row is cut
    into full rows and a rest.

    Args:
        lengths: list of ints. Number of ids of each text.
        sequence_length: int. Length `T` of a row.

    Returns:
        `PackedRows`. No id is lost, none stands twice.

    Raises:
        ValueError: if there is nothing to pack.

    Example:
        >>> rows = pack_rows([3, 2, 4], 5)
        >>> rows.pieces
        [[(2, 0, 4)], [(0, 0, 3), (1, 0, 2)]]
        >>> rows.document_ids.tolist()
        [[1, 1, 1, 1, 0], [1, 1, 1, 2, 2]]
    """
    pieces = [
        (text, start, min(start + sequence_length, length))
        for text, length in enumerate(lengths)
        for start in range(0, length, sequence_length)
    ]
    if not pieces:
        raise ValueError("There is nothing to pack; expected at least one text.")
    pieces.sort(key=lambda piece: (piece[1] - piece[2], piece))
    rows = []
    rows_with = [[] for _ in range(sequence_length + 1)]  # by free positions
    free = []  # numbers of free positions that some row has, ascending
    for piece in pieces:
        length = piece[2] - piece[1]
        place = bisect.bisect_left(free, length)
        if place == len(free):
            row, left = len(rows), sequence_length
            rows.append([])
        else:
            left = free[place]
            row = rows_with[left].pop()
            if not rows_with[left]:
                del free[place]
        rows[row].append(piece)
        left -= length
        if left:
            if not rows_with[left]:
                bisect.insort(free, left)
            rows_with[left].append(row)
    document_ids = np.zeros((len(rows), sequence_length), "int32")
    for row, row_pieces in enumerate(rows):
        at = 0
        for number, (_, start, end) in enumerate(row_pieces, 1):
            document_ids[row, at : at + end - start] = number
            at += end - start
    return PackedRows(rows, document_ids)


def fill_rows(rows, ids, padding_id=0):
    """Lays ids out as `pack_rows` said.

    Args:
        rows: `PackedRows`.
        ids: list of lists of ints, as long as the lengths that were packed.
        padding_id: int.

    Returns:
        `(N, T)` int32 array.

    Example:
        >>> fill_rows(pack_rows([1, 2], 3), [[7], [8, 9]]).tolist()
        [[8, 9, 7]]
    """
    filled = np.full(rows.document_ids.shape, padding_id, "int32")
    for row, pieces in enumerate(rows.pieces):
        at = 0
        for text, start, end in pieces:
            filled[row, at : at + end - start] = ids[text][start:end]
            at += end - start
    return filled
