# SPDX-License-Identifier: Apache-2.0
"""Equal consecutive pieces of tensors: their columns, and chunks that respect them."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt


def columns_of(pieces: Sequence[int]) -> list[npt.NDArray[np.int64]]:
    """The columns of each tensor, in the order of tensors and pieces."""
    ends = np.cumsum(pieces)
    return [np.arange(end - count, end) for end, count in zip(ends, pieces, strict=True)]


def chunks(numel: int, pieces: int, most: int) -> Iterator[tuple[slice, slice]]:
    """Cut a tensor into chunks of whole pieces, or of parts of one piece, of at most ``most`` elements.

    Args:
        numel: the elements of the tensor.
        pieces: how many pieces it has.
        most: the elements of a chunk. A chunk never has fewer than one piece if a piece is not longer.

    Yields:
        The elements and the pieces of each chunk.

    """
    if numel == 0:
        return
    length = numel // pieces
    if length > most:
        for piece in range(pieces):
            end = (piece + 1) * length
            for start in range(piece * length, end, most):
                yield slice(start, min(start + most, end)), slice(piece, piece + 1)
    else:
        together = most // length
        for first in range(0, pieces, together):
            last = min(first + together, pieces)
            yield slice(first * length, last * length), slice(first, last)
