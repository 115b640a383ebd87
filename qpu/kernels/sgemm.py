"""Single-precision matrix multiplication, C = alpha * op(A) @ op(B) + beta * C, for every instruction set.

Any m, n, k; A and B as they are or transposed; rows of any length in memory. Two or three launches: A and B are packed
into panels on the device (`pack_v3d`, `pack_vc4`), then multiplied tile by tile, the tile of C in registers.

Each instruction set has two kernels (`sgemm_v3d`, `sgemm_vc4`), selected by ``kernel=``:

* ``uniform``: A runs through the uniform stream, which broadcasts one word beside the dual-issue pair at no cost. 97 %
  of the instructions of the inner loop do an addition and a multiplication. How fast uniforms stream on silicon is
  unpublished (assumed here: a word an instruction).
* ``rotate``: A comes through the TMU and is broadcast by moving lanes. 77 to 80 %, independent of uniform bandwidth.
* ``auto``: on an emulated board ``uniform``; on a real one the faster, measured once for each device.

As in BLAS, A and B are not read when alpha is 0, and C is not read when beta is 0. NaN and infinity come out as IEEE
says on V3D. VideoCore IV has no NaN: its adder makes infinities of them, and a product with zero is zero (vc4.md 10.1).
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from qpu.buffers import Buffer, BufferView
from qpu.core.isa import Isa
from qpu.errors import DriverError, UsageError, counted
from qpu.instruction_sets import assemble
from qpu.instruction_sets import isa as instruction_set
from qpu.kernels import pack_v3d, pack_vc4, sgemm_v3d, sgemm_vc4
from qpu.kernels.common.jobs import entry
from qpu.kernels.common.operands import real
from qpu.kernels.sgemm_layout import F32, KERNELS, Kernel, Layout, error_bound, layout, reference
from qpu.kernels.tiles import HALF, NOTHING, UNROLL, After, batch
from qpu.launch import Run
from qpu.runtime.jobs import Shape
from qpu.v3d.launch import Dispatch
from qpu.vc4.launch import Programs

if TYPE_CHECKING:
    from qpu.device import Device
    from qpu.program import Program
    from qpu.runtime.uniforms import Uniforms

__all__ = [
    "KERNELS", "Choice", "Ending", "Kernel", "Layout", "Sgemm", "choose", "error_bound", "inner_loop", "layout",
    "program", "reference", "sgemm",
]  # fmt: skip

GROUPS = 65535  # workgroups of a dispatch in each direction
# Largest launches, so that they end in time on slow memory, too: Linux resets a V3D on which no tile ends within
# 500 ms, and the mailbox of VideoCore IV limits a launch to one second (drivers.md 1.6 and 5).
STEPS = 1 << 16  # of k: 52 ms at the issue rate of a Pi 4 with two threads per QPU
WORK = 1 << 29  # multiplications, VideoCore IV: 0.13 s at 8 Gflop/s
ONE = 0x3F800000
PROBE = 256  # m = n = k of the measurement that chooses a kernel


@dataclass(frozen=True, slots=True)
class Choice:
    """The chosen kernel and the reason: "asked for", "emulated board", "not measured" or "measured".

    seconds: host seconds of each measured kernel.

    A kernel with a wrong result has no seconds, and the reason names it.
    """

    kernel: Kernel
    reason: str
    seconds: dict[Kernel, float]


@dataclass(frozen=True, slots=True)
class Ending:
    """What is made of the sums before they are stored.

    bias: a word for each column, added; relu: nothing below zero. factors: u32 for each column, 16 bits and a shift
    above 24, for integers whose results have fewer than four bytes; limits: zero, lowest and highest of those. Both
    arrays: contiguous.
    """

    bias: BufferView | None = None
    relu: bool = False
    factors: BufferView | None = None
    limits: tuple[int, int, int] = (0, 0, 0)

    def after(self, size: int) -> After:
        """The same for the kernels; size: bytes of a result."""
        return After(self.bias is not None, self.relu and self.factors is None, size)

    @property
    def addresses(self) -> tuple[int, int]:
        """Of the factors and of the bias; 0 where there are none."""
        factors, bias = (0 if x is None else x.address for x in (self.factors, self.bias))
        return factors, bias


_measured: weakref.WeakKeyDictionary[Device, Choice] = weakref.WeakKeyDictionary()


def choose(gpu: Device, kernel: Kernel | Literal["auto"] = "auto", *, measure: bool | None = None) -> Choice:
    """Resolve `kernel` for a device. "auto" on a real board multiplies 256**3 with both, once for each device.

    measure: True measures on emulated boards too, False nowhere.
    Raises: UsageError for a kernel of another name, DriverError when the results of both are wrong.
    """
    if kernel in KERNELS:
        return Choice(kernel, "asked for", {})
    if kernel != "auto":
        raise UsageError(f"kernel = {kernel!r}", help=f"pass one of auto, {', '.join(KERNELS)}")
    if measure is False or (measure is None and gpu.emulated):
        return Choice("uniform", "emulated board" if gpu.emulated else "not measured", {})
    known = _measured.get(gpu)
    if known is None:
        times = {name: _probe(gpu, name) for name in KERNELS}
        seconds = {name: took for name, took in times.items() if took is not None}
        if not seconds:
            names = " and ".join(KERNELS)
            raise DriverError(f"{names} compute something wrong on {gpu.info}", help="run `qpu doctor`")
        wrong = "".join(f"; {name} computed something wrong" for name in KERNELS if name not in seconds)
        known = Choice(min(seconds, key=lambda name: seconds[name]), "measured" + wrong, seconds)
        _measured[gpu] = known
    return known


def _probe(gpu: Device, kernel: Kernel) -> float | None:
    """Host seconds of the faster of two launches, after one that is not counted; None when the result is wrong."""
    random = np.random.default_rng(0)
    a, b = (random.uniform(-1, 1, (PROBE, PROBE)).astype(np.float32) for _ in range(2))
    with Sgemm(gpu, PROBE, PROBE, PROBE, kernel=kernel) as job:
        job.load(a, b)
        times = []
        for _ in range(3):
            start = time.perf_counter()
            job.launch()
            times.append(time.perf_counter() - start)
        error = np.abs(job.result() - reference(1.0, a, b, 0.0, a))
    return min(times[1:]) if (error <= error_bound(gpu.isa, 1.0, a, b, 0.0, a)).all() else None


@cache
def program(
    isa: Isa,
    kernel: Kernel,
    product: bool = True,
    accumulate: bool = True,
    strided: bool = True,
    whole: bool = False,
    after: After = NOTHING,
    low: bool = False,
) -> Program:
    """The assembled multiplication. low: by lower tiles (V3D). Others: see `sgemm_v3d.kernel`, `sgemm_vc4.kernel`."""
    if isa is Isa.VC4:
        shape = sgemm_vc4.UNIFORM if kernel == "uniform" else sgemm_vc4.ROTATE
        return assemble(sgemm_vc4.kernel, shape, product, accumulate, strided, whole, after, isa=isa)
    tile = sgemm_v3d.LOW if low else sgemm_v3d.UNIFORM if kernel == "uniform" else sgemm_v3d.ROTATE
    return assemble(sgemm_v3d.kernel, tile, product, accumulate, whole, after, isa=isa)


def inner_loop(code: Program) -> tuple[int, int]:
    """(instructions, additions and multiplications of operands) of the loop over k, counted in the code of `program`.

    From the label to the third instruction after the branch back.
    """
    tools = instruction_set(code.isa)
    start = next(at for name, at in code.labels.items() if name.split(".")[0] == "k")
    lines = [tools.disassemble(word) for word in code.code[start:]]
    length = next(i for i, line in enumerate(lines) if line.startswith("b")) + 4
    integers = 2 * sum(line.count("mul24") for line in lines[:length])  # each beside the addition of another one
    return length, integers + sum(line.count(op) for line in lines[:length] for op in ("fadd", "fmul"))


@cache
def _packer(isa: Isa, width: int, vectors: int) -> Program:
    return assemble(pack_vc4.kernel, isa=isa) if isa is Isa.VC4 else assemble(pack_v3d.kernel, width, vectors, isa=isa)


@dataclass(frozen=True, slots=True)
class _Matrix:
    """A matrix inside a buffer. offset, ld: elements, of four bytes or, of a result, fewer."""

    buffer: Buffer
    offset: int
    shape: tuple[int, int]
    ld: int
    size: int = 4

    @property
    def address(self) -> int:
        return self.buffer.address + self.size * self.offset

    def within(self, memory: NDArray[Any]) -> F32:
        """The matrix in `memory`, which is shaped like the buffer."""
        flat = memory.reshape(-1)[self.offset :]
        return np.lib.stride_tricks.as_strided(flat, self.shape, (4 * self.ld, 4))


_Job = tuple["Program", "Uniforms", Shape]  # what `Device.submit` takes


class Sgemm:
    """A multiplication of one shape on one device: buffers, packing, launches. A context manager.

    ``with Sgemm(gpu, m, n, k) as s: s.load(a, b, c, alpha, beta); s.launch(); c = s.result()``
    """

    dtype: type[np.generic] = np.float32
    """Elements of A, B and C. 32-bit integers: see `igemm`."""

    def __init__(
        self,
        gpu: Device,
        m: int,
        n: int,
        k: int,
        *,
        transa: bool = False,
        transb: bool = False,
        lda: int | None = None,
        ldb: int | None = None,
        ldc: int | None = None,
        a: Buffer | BufferView | None = None,
        b: Buffer | BufferView | None = None,
        c: Buffer | BufferView | None = None,
        kernel: Kernel | Literal["auto"] = "auto",
        ending: Ending = Ending(),
        packed: bool = False,
    ) -> None:
        """C (m, n) = alpha * op(A) @ op(B) + beta * C.

        transa: A is stored as (k, m) instead of (m, k); transb: B as (n, k) instead of (k, n).
        lda, ldb, ldc: words from one stored row to the next, at least the row length (the default).
        a, b, c: float32 device memory to work on, for example results of other launches; None allocates it. Words
        between the rows of C stay as they are. C may share memory with A or B, which are packed before.
        kernel: "uniform", "rotate" or "auto" (see `choose`). ending: what follows the product, where alpha is not 0;
        with factors c holds integers of one or two bytes, and k is at most `STEPS`. packed: b is the panels of B
        already (V3D; `Layout.packed_words`, and `pack_v3d.order` for a step).
        Raises: UsageError for an unsupported shape or memory that does not hold it, DriverError when memory runs out.
        """
        self.gpu, self.ending = gpu, ending
        narrow = c is not None and ending.factors is not None
        results = c.dtype if c is not None and narrow else np.dtype(self.dtype)
        plan = layout(gpu.isa, m, n, k, transa=transa, transb=transb, lda=lda, ldb=ldb, ldc=ldc)
        self.packed = packed
        right = (b, (1, plan.packed_words[1]), plan.packed_words[1]) if packed else (b, plan.b_shape, plan.ldb)
        given = ((a, plan.a_shape, plan.lda), right, (c, plan.c_shape, plan.ldc))
        for name, (memory, shape, ld) in zip("abc", given, strict=True):
            if memory is not None:
                _placed(name, gpu, memory, shape, ld, results if name == "c" else np.dtype(self.dtype))
        self.choice = choose(gpu, kernel)
        self.plan = plan = replace(plan, kernel=self.choice.kernel)
        self._buffers: list[Buffer] = []
        self._arguments: list[Buffer] = []
        self._jobs: list[_Job] = []
        try:
            self._a, self._b, self._c = (
                _Matrix(self._buffer(shape[0] * ld), 0, shape, ld)
                if memory is None
                else _placed(name, gpu, memory, shape, ld, results if name == "c" else np.dtype(self.dtype))
                for name, (memory, shape, ld) in zip("abc", given, strict=True)
            )
            self._panels = [self._buffer(words) for words in plan.packed_words[: 1 if packed else 2]]
            if packed:
                self._panels.append(self._b.buffer)
            self._spare = self._buffer(32).discard()  # for what lies outside C
            self._spare.array[...] = 0  # loaded, too, where C is accumulated: on VideoCore IV the second half
            self._packing = self._pack_vc4() if gpu.isa is Isa.VC4 else self._pack_v3d()
        except BaseException:
            self.close()
            raise

    @property
    def kernel(self) -> Kernel:
        """The kernel in use."""
        return self.plan.kernel

    def _buffer(self, words: int, dtype: type[np.generic] = np.float32) -> Buffer:
        buffer = self.gpu.empty(words, dtype)
        self._buffers.append(buffer)
        return buffer

    def load(self, a: F32 | None, b: F32 | None, c: F32 | None = None, alpha: float = 1.0, beta: float = 0.0) -> None:
        """Copy the operands to the device and `set` the factors.

        a, b: float32 as stored, i.e. (k, m) if transa; c: float32 (m, n). Any strides: views are not copied on the
        host first. None keeps what is on the device. With beta = 0, c is not read.
        Raises: UsageError for another shape or dtype.
        """
        triples = (("a", a, self._a), ("b", b, self._b), ("c", c, self._c))
        for name, matrix, place in triples:
            if matrix is not None:
                _host(name, matrix)
            if matrix is not None and (matrix.shape != place.shape or matrix.dtype != np.float32):
                message = f"{name} is {matrix.dtype}{list(matrix.shape)}"
                raise UsageError(message, help=f"pass float32{list(place.shape)}")
        self.set(alpha, beta)
        for _, matrix, place in triples if beta != 0.0 else triples[:2]:
            if matrix is not None:
                place.within(place.buffer.array)[...] = matrix

    def load_c(self, c: F32) -> None:
        """Copy C alone, for another launch with the same A and B. Raises: UsageError for another shape or dtype."""
        _host("c", c)
        if c.shape != self._c.shape or c.dtype != np.float32:
            raise UsageError(f"c is {c.dtype}{list(c.shape)}", help=f"pass float32{list(self._c.shape)}")
        self._c.within(self._c.buffer.array)[...] = c

    def set(self, alpha: float = 1.0, beta: float = 0.0) -> None:
        """Choose the factors of the next launches. Raises: UsageError for one beyond float32."""
        patterns = []
        for name, factor in (("alpha", alpha), ("beta", beta)):
            patterns.append(int(np.float32(real(name, factor)).view(np.uint32)))
        product, accumulate = (x & 0x7FFFFFFF != 0 for x in patterns)
        self._forget()
        multiply = self._multiply_vc4 if self.gpu.isa is Isa.VC4 else self._multiply_v3d
        jobs = multiply(patterns[0], patterns[1] if accumulate else None, product)
        self._jobs = [*(self._packing if product else ()), *jobs]

    def launch(self, timeout_s: float = 600.0) -> Run:
        """Pack, multiply, and wait for the result. timeout_s: of each launch. The last launch is the multiplication.

        Raises: UsageError before `load` or `set`; what `Device.run` raises.
        """
        if not self._jobs:
            raise UsageError("nothing to multiply yet", help="call load() or set() first")
        done = [self.gpu.submit(*job, timeout_s=timeout_s) for job in self._jobs]
        for launch in done:
            launch.wait(timeout_s)
        return Run(tuple(done))

    def result(self) -> F32:
        """C (m, n) in ordinary memory."""
        return np.array(self._c.within(self._c.buffer.numpy()))

    def close(self) -> None:
        """Close the buffers that were allocated here; idempotent."""
        self._forget()
        while self._buffers:
            self._buffers.pop().close()

    def _forget(self) -> None:
        """Drop what depends on the factors."""
        self._jobs = []
        while self._arguments:
            self._arguments.pop().close()

    def __enter__(self) -> Sgemm:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # A and B for the packing kernels: lines, words from line to line, words from k to k

    def _operands(self) -> Iterator[tuple[_Matrix, int, int, int, int, int, int]]:
        """Matrix, number of lines, line stride, k stride, lines of a panel, vectors of a request, number of panels."""
        plan = self.plan
        shape = plan.shape
        rows, columns = (1, plan.lda) if plan.transa else (plan.lda, 1)
        yield self._a, plan.m, rows, columns, shape.rows, 1, plan.tiles[0]
        if self.packed:
            return
        rows, columns = (plan.ldb, 1) if plan.transb else (1, plan.ldb)
        yield self._b, plan.n, rows, columns, shape.columns, shape.vectors, plan.tiles[1]

    def _parts(self, beta: int | None, product: bool) -> Iterator[tuple[int, int, int | None]]:
        """First step, steps and factor of C of each launch: a long sum is computed in several launches."""
        depth = self.plan.depth if product else 0
        yield 0, min(depth, STEPS), beta
        for first in range(STEPS, depth, STEPS):
            yield first, min(depth - first, STEPS), ONE

    def _after(self, product: bool, last: bool) -> After:
        """What follows a launch; last: it makes the last part of a sum."""
        return self.ending.after(self._c.size) if product and last else After(size=self._c.size)

    def _starts(self, first: int) -> tuple[int, int]:
        """Addresses of step `first` in the first panels of A and B."""
        a, b = self._panels
        return (a.address + 4 * first * self.plan.shape.rows, b.address + 4 * first * self.plan.shape.columns)

    # V3D

    def _pack_v3d(self) -> list[_Job]:
        plan = self.plan
        chunks = -(-plan.depth // pack_v3d.CHUNK)
        jobs: list[_Job] = []
        for operand, words, target in zip(self._operands(), plan.panel_words, self._panels, strict=not self.packed):
            matrix, lines, line, step, width, vectors, panels = operand
            code = _packer(self.gpu.isa, width, vectors)
            head = (-(-65536 // width), width, lines, line, step, plan.k, matrix.address)
            for y, x, groups in _grid(panels, chunks):
                uniforms = [y, x, *head, words // 16, target.address, 64, plan.depth]
                jobs.append((code, uniforms, Dispatch(workgroups=groups, threads=2)))
        return jobs

    def _multiply_v3d(self, alpha: int, beta: int | None, product: bool) -> list[_Job]:
        plan, shape = self.plan, self.plan.shape
        parts = [(part, place) for part in self._parts(beta, product) for place in _grid(*plan.tiles)]
        full = self._after(product, True)
        narrow = sgemm_v3d.narrow_words(full.size, self.ending.limits) if full.narrow else []
        narrow *= shape.rows * shape.vectors
        arguments = self.gpu.empty((len(parts), 32 + len(narrow)), np.uint32)
        self._arguments.append(arguments)
        factors, bias = self.ending.addresses
        uniform = plan.kernel == "uniform"
        jobs: list[_Job] = []
        for number, ((first, steps, factor), (y, x, groups)) in enumerate(parts):
            here = arguments[number]
            words: list[int] = []
            if product:
                (a, b), (a_words, b_words) = self._starts(first), plan.panel_words
                config = sgemm_v3d.CONFIG_UNIFORM if uniform else sgemm_v3d.CONFIG_ROTATE
                words = [y, a_words // 16, a, x, b_words // 16, b, 4 * shape.columns, config, steps // UNROLL]
                if uniform:
                    words += [here.address + 64, *[0] * 6]  # the stream continues at the word after these
            after = self._after(product, first + steps >= plan.depth)
            words += [x, y, shape.rows, self._c.address, plan.ldc]
            words += [at for at, there in ((bias, after.bias), (factors, after.narrow)) if there]
            words += [plan.n, plan.m, self._spare.address, *(narrow if after.narrow else [alpha])]
            if factor is not None:
                words.append(factor)
            arguments.array[number, : len(words)] = words
            whole = self.dtype is not np.float32
            low = shape is sgemm_v3d.LOW
            code = program(plan.isa, plan.kernel, product, factor is not None, True, whole, after, low)
            jobs.append((code, here, Dispatch(workgroups=groups, threads=2)))
        return jobs

    # VideoCore IV: each QPU has a stream of parameters

    def _pack_vc4(self) -> list[_Job]:
        plan = self.plan
        jobs: list[_Job] = []
        for operand, words, target in zip(self._operands(), plan.panel_words, self._panels, strict=not self.packed):
            matrix, lines, line, step, width, _, _ = operand
            for rows in pack_vc4.launches(
                source=matrix.address,
                lines=lines,
                line_stride=4 * line,
                k=plan.k,
                k_stride=4 * step,
                depth=plan.depth,
                target=target.address,
                width=width,
                step=4 * width,
                panel=4 * words,
                qpus=self.gpu.qpus,
            ):
                buffer = self._buffer(sum(map(len, rows)), np.uint32)
                buffer.array[:] = np.concatenate(rows)
                starts = np.cumsum([0, *map(len, rows[:-1])])
                parts = [buffer.view(4 * int(start)) for start in starts]
                jobs.append((_packer(self.gpu.isa, width, 1), (), Programs(streams=parts)))
        return jobs

    def _multiply_vc4(self, alpha: int, beta: int | None, product: bool) -> list[_Job]:
        plan, shape = self.plan, self.plan.shape
        strided = self._c.size * plan.ldc <= pack_vc4.MAX_STRIDE
        tiles = plan.tiles[0] * plan.tiles[1]
        jobs: list[_Job] = []
        for first, steps, factor in self._parts(beta, product):
            size = batch(tiles, shape.rows * shape.columns * max(steps, 1), WORK, self.gpu.qpus)
            after = self._after(product, first + steps >= plan.depth)
            record = sgemm_vc4.record_words(shape, product, factor is not None, strided, after)
            whole = self.dtype is not np.float32
            code = program(plan.isa, plan.kernel, product, factor is not None, strided, whole, after)
            for start in range(0, tiles, size):
                count = min(size, tiles - start)
                qpus = min(self.gpu.qpus, count)
                arguments = self.gpu.empty((qpus, -(-count // qpus) * record), np.uint32)
                self._arguments.append(arguments)
                arguments.array[:] = sgemm_vc4.streams(
                    shape=shape,
                    tiles=plan.tiles,
                    part=(start, count),
                    panels=self._starts(first) if product else None,
                    panel_words=plan.panel_words,
                    loops=steps // UNROLL,
                    c=self._c.address,
                    extent=plan.c_shape,
                    ld=plan.ldc,
                    spare=self._spare.address,
                    alpha=HALF if after.narrow else alpha,
                    beta=factor,
                    strided=strided,
                    qpus=qpus,
                    base=arguments.address,
                    after=after,
                    values=self.ending.addresses,
                    limits=self.ending.limits,
                )
                jobs.append((code, (), Programs(streams=[arguments[i] for i in range(qpus)])))
        return jobs


def _grid(down: int, across: int) -> Iterator[tuple[int, int, tuple[int, int, int]]]:
    """Dispatches that cover a grid: first row, first column, workgroups."""
    for y in range(0, down, GROUPS):
        for x in range(0, across, GROUPS):
            yield y, x, (min(GROUPS, across - x), min(GROUPS, down - y), 1)


def _placed(
    name: str, gpu: Device, memory: Buffer | BufferView, shape: tuple[int, int], ld: int, dtype: np.dtype[Any]
) -> _Matrix:
    """The matrix in given device memory. Raises: UsageError when it does not fit."""
    if not isinstance(memory, (Buffer, BufferView)):
        raise UsageError(
            f"{name} is a {type(memory).__name__}", help="pass device memory (gpu.array), or None and load()"
        )
    buffer, offset = (memory, 0) if isinstance(memory, Buffer) else (memory.buffer, memory.offset)
    if not gpu.owns(buffer):
        raise UsageError(f"{name} belongs to another device", help="allocate it on this one")
    size = dtype.itemsize
    if memory.dtype != dtype or offset % size:
        wanted = f"pass {dtype} at a multiple of {size}"
        raise UsageError(f"{name} is {memory.dtype} from byte {offset} on", help=wanted)
    needed = offset + size * ((shape[0] - 1) * ld + shape[1])
    if needed > buffer.nbytes:
        raise UsageError(
            f"{name}: {counted(shape[0], 'row')} of {shape[1]}, {counted(ld, 'element')} apart, "
            f"to byte {needed} of {buffer.nbytes}",
            help="pass a larger buffer",
        )
    return _Matrix(buffer, offset // size, shape, ld, size)


def _host(name: str, matrix: object) -> None:
    """Raise UsageError for anything but an ndarray: lists have no dtype, and device memory is an argument of Sgemm."""
    if not isinstance(matrix, np.ndarray):
        help = f"pass a float32 ndarray, or device memory to Sgemm({name}=...)"
        raise UsageError(f"{name} is a {type(matrix).__name__}", help=help)


@entry
def sgemm(
    gpu: Device,
    a: F32,
    b: F32,
    c: F32 | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 0.0,
    transa: bool = False,
    transb: bool = False,
    kernel: Kernel | Literal["auto"] = "auto",
) -> F32:
    """alpha * op(a) @ op(b) + beta * c, op(x) = x.T where asked; written into c if there is one, and returned.

    a, b, c: float32 matrices with any strides. For many products of one shape keep an `Sgemm`.
    Raises: UsageError for arguments that do not fit together, before anything is allocated.
    """
    for name, matrix in (("a", a), ("b", b), ("c", c)):
        if matrix is not None or name != "c":
            _host(name, matrix)
        if matrix is not None and (matrix.ndim != 2 or matrix.dtype != np.float32):
            raise UsageError(f"{name} is {matrix.dtype}{list(matrix.shape)}", help="pass a matrix of float32")
    m, k = a.shape[::-1] if transa else a.shape
    other, n = b.shape[::-1] if transb else b.shape
    if k != other:
        raise UsageError(f"op(a) is {m} x {k} and op(b) {other} x {n}", help="make the inner lengths equal")
    if c is not None and c.shape != (m, n):
        raise UsageError(f"c is {c.shape[0]} x {c.shape[1]}", help=f"pass a c of {m} x {n}, as the product")
    if c is not None and not c.flags.writeable:
        raise UsageError("c takes the result, but is read-only", help="pass a copy of it")
    if c is None and beta != 0.0:
        raise UsageError(f"beta = {beta} without c", help="pass c, or beta = 0")
    with Sgemm(gpu, m, n, k, transa=transa, transb=transb, kernel=kernel) as job:
        job.load(a, b, c, alpha, beta)
        job.launch()
        result = job.result()
    if c is None:
        return result
    c[...] = result
    return c
