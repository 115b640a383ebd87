"""Resampling by tables: each row or column of the result is a weighted sum of some of the source's.

Resizing, pyramids, and filters of many taps are all of this kind; borders are in the tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qpu.buffers import BufferView
from qpu.kernels.common.jobs import Jobs
from qpu.kernels.common.retyped import name_of, retyped
from qpu.kernels.image.borders import places, to_store
from qpu.lang import Const, Grid, In, In2, Out2, f32, i32, kernel

__all__ = ["Table", "of_weights", "resample"]


@dataclass(frozen=True)
class Table:
    """For each of n results: `at`, i32 of taps by n, which lines; `weights`, f32 of that shape; `bias`, f32, what the
    constant outside of the image adds.
    """

    at: NDArray[np.int32]
    weights: NDArray[np.float32]
    bias: NDArray[np.float32]

    @classmethod
    def of(cls, at: NDArray[Any], weights: NDArray[Any], n: int, border: str, value: float) -> Table:
        """A table of places, which may be outside of n lines, and their weights."""
        found, outside = places(at, n, border)
        w = np.broadcast_to(weights, at.shape).astype(np.float64)
        bias = (np.where(outside, w, 0.0) * value).sum(0)
        return cls(found, np.where(outside, 0.0, w).astype(np.float32), bias.astype(np.float32))

    def matrix(self, n: int) -> NDArray[np.float64]:
        """The table as a matrix of results by n lines."""
        taps, count = self.at.shape
        found = np.zeros((count, n))
        for t in range(taps):
            np.add.at(found, (np.arange(count), self.at[t]), self.weights[t])
        return found


def of_weights(weights: Sequence[float], n: int, border: str, value: float) -> Table:
    """The table of a filter: n results of n lines."""
    at = np.arange(n)[None, :] + np.arange(len(weights))[:, None] - len(weights) // 2
    return Table.of(at, np.asarray(weights)[:, None], n, border, value)


@kernel(coarsen=1)
def sum_columns(
    k: Grid, x: In2[f32], at: In2[i32], weights: In2[f32], bias: In[f32], out: Out2[f32], byte: Const[bool]
) -> None:
    r, c = k.index(*out.shape)
    acc = bias[c]
    for t in range(at.shape[0]):
        acc += weights[t, c] * f32(x[r, at[t, c]])
    out[r, c] = to_store(acc, byte)


@kernel(coarsen=1)
def sum_rows(
    k: Grid, x: In2[f32], at: In2[i32], weights: In2[f32], bias: In[f32], out: Out2[f32], byte: Const[bool]
) -> None:
    r, c = k.index(*out.shape)
    acc = bias[r]
    for t in range(at.shape[0]):
        acc += weights[t, r] * f32(x[at[t, r], c])
    out[r, c] = to_store(acc, byte)


def resample(jobs: Jobs, x: BufferView, out: BufferView, rows: Table, columns: Table) -> None:
    """out = the sums of lines of x, first of columns, then of rows; the sums between are f32."""
    between = jobs.scratch((x.shape[0], out.shape[1]), np.float32)
    wide, high = ([jobs.constant(v) for v in (t.at, t.weights, t.bias)] for t in (columns, rows))
    jobs.add(retyped(sum_columns, "f32", x=name_of(x.dtype)), x, *wide, between, False)
    jobs.add(retyped(sum_rows, "f32", out=name_of(out.dtype)), between, *high, out, out.dtype == np.uint8)
