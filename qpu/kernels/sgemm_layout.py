"""The memory layout of an sgemm problem, its reference result, and the bound of its rounding error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from qpu.core.isa import Isa
from qpu.errors import UsageError
from qpu.kernels import sgemm_v3d as v3d
from qpu.kernels import sgemm_vc4 as vc4
from qpu.kernels.common.operands import switch
from qpu.kernels.tiles import AHEAD, UNROLL, Shape

__all__ = ["F32", "KERNELS", "Kernel", "Layout", "error_bound", "layout", "reference"]

F32: TypeAlias = NDArray[np.float32]
Kernel = Literal["uniform", "rotate"]
KERNELS: tuple[Kernel, ...] = get_args(Kernel)
SHAPES: dict[tuple[bool, Kernel], Shape] = {
    (False, "uniform"): v3d.UNIFORM,
    (False, "rotate"): v3d.ROTATE,
    (True, "uniform"): vc4.UNIFORM,
    (True, "rotate"): vc4.ROTATE,
}

WORTH = 0.95  # lower tiles read B more often: they must save more than this leaves
ROUND = 6  # instructions of a round of the loop over k without a step
SLACK = 16  # words past the last panel of A that are read, but not used
LIMIT = 1 << 31  # bytes of one buffer; addresses are 32 bits, and there are five buffers
LONGEST = (1 << 24) - 1  # of m, n, k and row lengths: addresses come from 24-bit multiplications


@dataclass(frozen=True, slots=True)
class Layout:
    """How C (m, n) = alpha * op(A) @ op(B) + beta * C lies in device memory.

    transa, transb: A is stored as (k, m), B as (n, k). lda, ldb, ldc: words from one stored row to the next.
    rows, columns: of a tile of C. depth: k rounded up to whole loops.
    """

    isa: Isa
    kernel: Kernel
    m: int
    n: int
    k: int
    transa: bool
    transb: bool
    lda: int
    ldb: int
    ldc: int

    @property
    def shape(self) -> Shape:
        """Tile of the kernel; a lower one where whole tiles then have less that lies below C."""
        usual = SHAPES[self.isa is Isa.VC4, self.kernel]
        if usual is v3d.UNIFORM and self._slots(v3d.LOW) < WORTH * self._slots(usual):
            return v3d.LOW
        return usual

    def _slots(self, shape: Shape) -> float:
        """Instructions of a step of k in a column of tiles."""
        return -(-self.m // shape.rows) * (shape.rows * shape.vectors + ROUND / UNROLL)

    @property
    def tiles(self) -> tuple[int, int]:
        """Tiles down and across."""
        return (-(-self.m // self.shape.rows), -(-self.n // self.shape.columns))

    @property
    def depth(self) -> int:
        """Steps of k that the kernel makes."""
        return -(-self.k // UNROLL) * UNROLL

    @property
    def a_shape(self) -> tuple[int, int]:
        """A as stored: rows and columns."""
        return (self.k, self.m) if self.transa else (self.m, self.k)

    @property
    def b_shape(self) -> tuple[int, int]:
        """B as stored: rows and columns."""
        return (self.n, self.k) if self.transb else (self.k, self.n)

    @property
    def c_shape(self) -> tuple[int, int]:
        """C: rows and columns."""
        return (self.m, self.n)

    @property
    def panel_words(self) -> tuple[int, int]:
        """Words of one packed panel of A and of B."""
        return (self.depth * self.shape.rows, (self.depth + AHEAD) * self.shape.columns)

    @property
    def packed_words(self) -> tuple[int, int]:
        """Words of all packed panels of A and of B."""
        (down, across), (a, b) = self.tiles, self.panel_words
        return (down * a + SLACK, across * b)

    @property
    def nbytes(self) -> int:
        """Bytes of A, B and C as stored, and of the panels."""
        rows = self.a_shape[0] * self.lda + self.b_shape[0] * self.ldb + self.m * self.ldc
        return 4 * (rows + sum(self.packed_words))


def layout(
    isa: Isa,
    m: int,
    n: int,
    k: int,
    *,
    kernel: Kernel = "uniform",
    transa: bool = False,
    transb: bool = False,
    lda: int | None = None,
    ldb: int | None = None,
    ldc: int | None = None,
) -> Layout:
    """The layout of a problem; row lengths default to the number of columns. Raises: UsageError."""
    for name, size in (("m", m), ("n", n), ("k", k)):
        if isinstance(size, bool) or not isinstance(size, (int, np.integer)):
            raise UsageError(f"{name} = {size!r}", help="pass a whole number of rows or columns")
        if size < 1:
            raise UsageError(f"{name} = {size}", help="pass at least one row and one column")
        if size > LONGEST:
            raise UsageError(f"{name} = {size}; allowed: 1..{LONGEST}", help="split the problem")
    if kernel not in KERNELS:
        raise UsageError(f"kernel = {kernel!r}", help=f"pass one of {', '.join(KERNELS)}")
    turned = switch("transa", transa), switch("transb", transb)
    columns = (m if transa else k, k if transb else n, n)
    strides = []
    for name, ld, least in zip(("lda", "ldb", "ldc"), (lda, ldb, ldc), columns, strict=True):
        if ld is None:
            ld = least
        if isinstance(ld, bool) or not isinstance(ld, (int, np.integer)) or not least <= ld <= LONGEST:
            raise UsageError(f"{name} = {ld!r}", help=f"pass words from the row length, {least}, to {LONGEST}")
        strides.append(int(ld))
    found = Layout(isa, kernel, int(m), int(n), int(k), *turned, *strides)
    stored = (found.a_shape[0] * found.lda, found.b_shape[0] * found.ldb, found.m * found.ldc)
    for what, words in zip(("A", "B", "C", "packed A", "packed B"), (*stored, *found.packed_words), strict=True):
        if 4 * words >= LIMIT:
            raise UsageError(f"{what} takes {4 * words} bytes on the device", help=f"split it: less than {LIMIT} fit")
    return found


def reference(alpha: float, a: F32, b: F32, beta: float, c: F32) -> NDArray[np.float64]:
    """alpha * a @ b + beta * c in float64. As in BLAS, a zero alpha or beta keeps NaNs of its operands out."""
    product = alpha * (a.astype(np.float64) @ b.astype(np.float64)) if alpha != 0.0 else np.zeros(c.shape)
    return np.asarray(product + (beta * c.astype(np.float64) if beta != 0.0 else 0.0))


def error_bound(isa: Isa, alpha: float, a: F32, b: F32, beta: float, c: F32) -> NDArray[np.float64]:
    """Elementwise bound of the rounding error: s (K + 3 P) 2**-24 (|alpha| |a||b| + |beta| |c|), plus underflow.

    P = 1 + K // 65536, the parts that a long sum is made in. s = 1 on V3D, 2 on VideoCore IV, whose adder truncates
    (vc4.md 10.1). Underflow: 2**-126 an operation.
    """
    size = np.zeros(c.shape)
    if alpha != 0.0:
        size = size + abs(alpha) * (np.abs(a.astype(np.float64)) @ np.abs(b.astype(np.float64)))
    if beta != 0.0:
        size = size + abs(beta) * np.abs(c.astype(np.float64))
    steps = a.shape[1] + 3 * (1 + a.shape[1] // 65536)
    small = steps * 2.0**-126 * (1 + abs(alpha) + abs(beta))
    return np.asarray((2 if isa is Isa.VC4 else 1) * steps * 2.0**-24 * size + small)
