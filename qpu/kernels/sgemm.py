"""Single-precision matrix multiplication, C = alpha * A @ B + beta * C, tuned by design for each instruction set.

One QPU instruction can start one float addition and one float multiplication; both inner loops keep both units busy
in 97 % of their instructions. A is packed into panels that run through the uniform stream, which broadcasts one word
beside the dual-issue pair at no cost; B comes through the TMU, one row of the tile ahead of time; the tile of C stays
in registers.

* V3D 4.2 and 7.1: tiles of 24 x 32, one workgroup of 16 items each, four steps of k unrolled, 198 instructions for
  192 fused steps (`sgemm_v3d`).
* VideoCore IV: tiles of 64 x 16, all 64 registers of a QPU are accumulators, 262 instructions for 256 fused steps;
  all QPUs read the same panel at the same time (`sgemm_vc4`).

How fast uniforms stream on silicon is unpublished; the counts above are issue slots, not measurements.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qpu.core.isa import Isa
from qpu.errors import UsageError
from qpu.kernels import sgemm_v3d as v3d
from qpu.kernels import sgemm_vc4 as vc4

if TYPE_CHECKING:
    from qpu.buffers import Buffer
    from qpu.core.program import Program
    from qpu.device import Device, Launch

__all__ = ["Layout", "Sgemm", "error_bound", "layout", "pack_panels", "pad", "reference"]

F32 = NDArray[np.float32]

UNROLL = v3d.UNROLL  # the same on all three
AHEAD = max(v3d.AHEAD, vc4.AHEAD)  # rows of B past the last that are prefetched
assert vc4.UNROLL == UNROLL
CONFIG_VEC2 = 0xFAFAFAFA  # four TMU requests of two words each (v3d.md 9.2)
LIMIT = 1 << 31  # bytes of one operand; addresses are 32 bits and three operands must fit


def _up(n: int, to: int) -> int:
    return -(-n // to) * to


@dataclass(frozen=True, slots=True)
class Layout:
    """How a problem of shape (m, n, k) lies in device memory.

    rows, columns: of a tile. tiles_m, tiles_n: tiles down and across. depth: k padded to the unrolling. b_rows: rows
    of the B buffer (those past k are zero, the last are only prefetched). panel_words: 32-bit words of one A panel.
    """

    isa: Isa
    m: int
    n: int
    k: int
    rows: int
    columns: int
    tiles_m: int
    tiles_n: int
    depth: int
    b_rows: int
    panel_words: int

    @property
    def b_shape(self) -> tuple[int, int]:
        """Shape of the B buffer."""
        return (self.b_rows, self.tiles_n * self.columns)

    @property
    def c_shape(self) -> tuple[int, int]:
        """Shape of the C buffer; whole tiles, rows contiguous."""
        return (self.tiles_m * self.rows, self.tiles_n * self.columns)

    @property
    def a_shape(self) -> tuple[int, int]:
        """Shape of the packed A: one panel a row."""
        return (self.tiles_m, self.panel_words)

    @property
    def nbytes(self) -> int:
        """Bytes of the three operands on the device."""
        return 4 * sum(r * c for r, c in (self.a_shape, self.b_shape, self.c_shape))


def layout(isa: Isa, m: int, n: int, k: int) -> Layout:
    """The layout of a problem. Raises: UsageError for a shape that no board of this kind can take."""
    for name, size in (("m", m), ("n", n), ("k", k)):
        if size < 1:
            raise UsageError(f"{name} = {size}; a matrix needs at least one row and one column")
    depth = _up(k, UNROLL)
    if isa is Isa.VC4:
        rows, columns = vc4.ROWS, vc4.COLUMNS
        panel = rows * depth
    else:
        rows, columns = v3d.ROWS, v3d.COLUMNS
        # per unrolled step the words of A and one configuration word; then one word per four rows of C, twice
        panel = _up(depth // UNROLL * (UNROLL * rows + 1) + 2 * rows // UNROLL, 16)
    tiles_m, tiles_n = -(-m // rows), -(-n // columns)
    found = Layout(isa, m, n, k, rows, columns, tiles_m, tiles_n, depth, depth + AHEAD, panel)
    for what, shape in (("A", found.a_shape), ("B", found.b_shape), ("C", found.c_shape)):
        size = 4 * shape[0] * shape[1]
        if size >= LIMIT:
            raise UsageError(f"{what} takes {size} bytes on the device; this kernel addresses less than {LIMIT}")
    if isa is not Isa.VC4 and (tiles_m > 65535 or tiles_n > 65535):
        raise UsageError(f"{tiles_m} x {tiles_n} tiles; a dispatch has at most 65535 x 65535 workgroups")
    return found


def pad(matrix: F32, shape: tuple[int, int], out: F32) -> None:
    """Copy `matrix` into the upper left of `out` (of `shape`), zero elsewhere."""
    rows, columns = matrix.shape
    out[:rows, :columns] = matrix
    out[rows:, :] = 0
    out[:rows, columns:] = 0


def pack_panels(a: F32, plan: Layout, out: NDArray[np.uint32]) -> None:
    """Pack A (m, k) into panels: for each step of k the `rows` values of a column, in the order the kernel reads.

    out: uint32, `plan.a_shape`. On V3D each group of four steps carries one TMU configuration word after its first
    value, and 12 more follow the panel.
    """
    full = np.zeros((plan.tiles_m * plan.rows, plan.depth), np.float32)
    full[: plan.m, : plan.k] = a
    groups = plan.depth // UNROLL
    words = full.view(np.uint32).reshape(plan.tiles_m, plan.rows, groups, UNROLL).transpose(0, 2, 3, 1)
    if plan.isa is Isa.VC4:
        out[:] = words.reshape(plan.a_shape)
        return
    step = UNROLL * plan.rows + 1
    body = out[:, : groups * step].reshape(plan.tiles_m, groups, step)
    flat = words.reshape(plan.tiles_m, groups, step - 1)
    body[:, :, 0] = flat[:, :, 0]
    body[:, :, 1] = CONFIG_VEC2
    body[:, :, 2:] = flat[:, :, 1:]
    out[:, groups * step :] = CONFIG_VEC2


def reference(alpha: float, a: F32, b: F32, beta: float, c: F32) -> NDArray[np.float64]:
    """alpha * A @ B + beta * C in float64."""
    product = a.astype(np.float64) @ b.astype(np.float64)
    return np.asarray(alpha * product + (beta * c.astype(np.float64) if beta != 0.0 else 0.0))


def error_bound(isa: Isa, alpha: float, a: F32, b: F32, beta: float, c: F32) -> NDArray[np.float64]:
    """Elementwise bound of the rounding error: s * (K + 3) * 2**-24 * (|alpha| |A||B| + |beta| |C|).

    s = 1 on V3D, 2 on VideoCore IV, whose adder truncates (vc4.md 10.1).
    """
    size = abs(alpha) * (np.abs(a.astype(np.float64)) @ np.abs(b.astype(np.float64)))
    size = size + (abs(beta) * np.abs(c.astype(np.float64)) if beta != 0.0 else 0.0)
    return np.asarray((2 if isa is Isa.VC4 else 1) * (a.shape[1] + 3) * 2.0**-24 * size)


class Sgemm:
    """A multiplication of one shape on one device: buffers, packing, launches. A context manager.

    ``with Sgemm(gpu, m, n, k) as s: s.load(a, b, c, alpha, beta); s.launch(); c = s.result()``
    """

    def __init__(self, gpu: Device, m: int, n: int, k: int) -> None:
        """Allocate on `gpu`. Raises: UsageError for an unsupported shape, DriverError when memory runs out."""
        self.gpu = gpu
        self.plan = layout(gpu.isa, m, n, k)
        self._buffers: list[Buffer] = []
        try:
            self._a = self._buffer(self.plan.a_shape, np.uint32)
            self._b = self._buffer(self.plan.b_shape, np.float32)
            self._c = self._buffer(self.plan.c_shape, np.float32)
            if gpu.isa is Isa.VC4:
                self._qpus = min(gpu.qpus, self.plan.tiles_m * self.plan.tiles_n)
                self._streams = self._buffer((self._qpus, self._stream_words()), np.uint32)
        except BaseException:
            self.close()
            raise
        self._uniforms: list[int | float] = []
        self.program = self._assemble()

    def _buffer(self, shape: tuple[int, int], dtype: type[np.generic]) -> Buffer:
        buffer = self.gpu.empty(shape, dtype)
        self._buffers.append(buffer)
        return buffer

    def _assemble(self) -> Program:
        from qpu.toolkit import assemble

        if self.gpu.isa is Isa.VC4:
            return assemble(vc4.vc4_kernel, self._strided, isa=Isa.VC4)
        return assemble(v3d.kernel_42 if self.gpu.isa is Isa.V3D42 else v3d.kernel_71, isa=self.gpu.isa)

    def load(self, a: F32, b: F32, c: F32, alpha: float = 1.0, beta: float = 0.0) -> None:
        """Copy and pack the operands: a (m, k), b (k, n), c (m, n), float32. With beta = 0, c is not read."""
        plan = self.plan
        for name, matrix, shape in (("a", a, (plan.m, plan.k)), ("b", b, (plan.k, plan.n)), ("c", c, (plan.m, plan.n))):
            if matrix.shape != shape or matrix.dtype != np.float32:
                raise UsageError(
                    f"{name} is {matrix.dtype}{list(matrix.shape)}; this launch takes float32{list(shape)}"
                )
        pack_panels(a, plan, self._a.array)
        pad(b, plan.b_shape, self._b.array)
        self.load_c(c if beta != 0.0 else np.zeros_like(c))
        if plan.isa is Isa.VC4:
            self._fill_streams(alpha, beta)
        else:
            row = 4 * plan.c_shape[1]
            self._uniforms = [
                4 * plan.panel_words // 64,
                self._a.address,
                row,
                self._c.address,
                plan.depth // UNROLL,
                alpha,
                beta,
                self._b.address,
                plan.rows * row // 1024,
                CONFIG_VEC2,
            ]

    def load_c(self, c: F32) -> None:
        """Copy C alone, for another launch with the same A and B."""
        pad(c, self.plan.c_shape, self._c.array)

    def launch(self, timeout_s: float = 600.0) -> Launch:
        """Multiply, and wait for the result."""
        if self.plan.isa is Isa.VC4:
            rows = [self._streams[i] for i in range(self._qpus)]
            return self.gpu.run(self.program, streams=rows, timeout_s=timeout_s)
        groups = (self.plan.tiles_n, self.plan.tiles_m, 1)
        return self.gpu.run(self.program, self._uniforms, workgroups=groups, threads=2, timeout_s=timeout_s)

    def result(self) -> F32:
        """C (m, n) in ordinary memory."""
        return np.array(self._c.numpy()[: self.plan.m, : self.plan.n])

    def close(self) -> None:
        """Give the buffers back; idempotent."""
        while self._buffers:
            self._buffers.pop().close()

    def __enter__(self) -> Sgemm:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # VideoCore IV: each QPU has a stream of parameters, one record a tile

    @property
    def _strided(self) -> bool:
        return 4 * (self.plan.c_shape[1] - vc4.COLUMNS) <= vc4.MAX_STRIDE

    def _stream_words(self) -> int:
        tiles = self.plan.tiles_m * self.plan.tiles_n
        return -(-tiles // self._qpus) * vc4.record_words(self._strided)

    def _fill_streams(self, alpha: float, beta: float) -> None:
        plan = self.plan
        streams = self._streams.array
        pattern_a, pattern_b = (int(np.float32(x).view(np.uint32)) for x in (alpha, beta))
        row = 4 * plan.c_shape[1]
        tiles = [(i, j) for i in range(plan.tiles_m) for j in range(plan.tiles_n)]
        for qpu in range(self._qpus):
            mine = tiles[qpu :: self._qpus]
            words: list[int] = []
            for number, (i, j) in enumerate(mine):
                column = 4 * plan.columns * j
                words += vc4.record(
                    b=self._b.address + column,
                    row=row,
                    loops=plan.depth // UNROLL,
                    here=self._streams[qpu].address + 4 * len(words),
                    panel=self._a.address + 4 * plan.panel_words * i,
                    c=self._c.address + i * plan.rows * row + column,
                    slot=qpu,
                    alpha=pattern_a,
                    beta=pattern_b,
                    more=number + 1 < len(mine),
                    strided=self._strided,
                )
            streams[qpu, : len(words)] = words
