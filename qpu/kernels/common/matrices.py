"""Matrices as the multiplications take them: rows of words, their length, whether they are those of the transpose."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qpu.buffers import BufferView
from qpu.kernels.common.jobs import Jobs
from qpu.lang import Grid, In2, Out2, kernel, u32

__all__ = ["Stored", "copied_rows", "copied_words", "lying", "neighbours", "stored", "words"]


@kernel(coarsen=1)
def copied_words(k: Grid, x: In2[u32], y: Out2[u32]) -> None:
    """y = x, bit for bit."""
    r, j = k.index(*y.shape)
    y[r, j] = x[r, j]


@dataclass(frozen=True, slots=True)
class Stored:
    """Rows in memory. ld: words from one row to the next; transposed: the matrix is the transpose of those rows."""

    rows: BufferView
    ld: int
    transposed: bool


def words(x: BufferView) -> BufferView:
    """The same elements, of four bytes, as u32."""
    return BufferView(x.buffer, x.offset, x.shape, np.uint32, x.strides)


def stored(jobs: Jobs, x: BufferView) -> Stored:
    """A matrix of elements of four bytes as rows; copied where neither its rows nor its columns are."""
    return lying(x) or copied_rows(jobs, x)


def copied_rows(jobs: Jobs, x: BufferView) -> Stored:
    """A copy of a matrix of elements of four bytes, as rows."""
    copy = jobs.scratch((x.shape[0], x.shape[1]), x.dtype)
    jobs.add(copied_words, words(x), copy.view(0, copy.shape, np.uint32))
    return Stored(copy.view(0, copy.shape), x.shape[1], False)


def lying(x: BufferView) -> Stored | None:
    """A matrix as rows or columns in memory; None where it is neither. `ld` counts its elements."""
    size = x.dtype.itemsize
    for transposed, view in ((False, x), (True, x.T)):
        (m, n), (down, across) = view.shape, view.strides
        ld = down // size if m > 1 else n
        if (across == size or n == 1) and (m == 1 or (down % size == 0 and ld >= n)):
            return Stored(view, ld, transposed)
    return None


def neighbours(jobs: Jobs, x: BufferView, read: bool = True) -> BufferView:
    """A matrix, or a batch of them, whose rows are neighbouring words: itself or a copy (unset unless `read`)."""
    if x.strides[-1] == x.dtype.itemsize or x.shape[-1] == 1:
        return x
    copy = jobs.scratch(x.shape, x.dtype).view(0, x.shape)
    if read:
        batch = [()] if len(x.shape) == 2 else [(i,) for i in range(x.shape[0])]
        for index in batch:
            jobs.add(copied_words, words(x[index]), words(copy[index]))
    return copy
