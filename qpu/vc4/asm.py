"""The typed builder of VideoCore IV programs.

    def scale(q: Asm) -> None:
        q.mov(q.ra[0], q.uniform)
        q.nop(sig="ldtmu0")
        q.fadd(q.r1, q.r4, 1.0).fmul(q.r0, q.r4, q.ra[0])   # dual issue: ADD half, MUL half
        q.exit()

    program = assemble(scale)

A method emits one instruction; chaining a second operation puts it into the MUL half. Read ports and write swap are
chosen by the builder. Mistakes are collected and raised together, at the lines that made them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from sys import _getframe
from typing import TYPE_CHECKING, Concatenate, Literal, ParamSpec, TypeAlias, TypeVar

from qpu.core.code import Code
from qpu.errors import AsmError
from qpu.vc4 import vpm
from qpu.vc4.asm_core import (
    BranchCondName,
    CondName,
    Label,
    SigName,
    _integer,
    _Refused,
    _show,
    _user_frame,
    float_pattern,
)
from qpu.vc4.asm_operands import BASE, WHOLE, Dst, Readable, RegA, Src
from qpu.vc4.generated.ops import AddSlot, AsmOps
from qpu.vc4.vpm import DmaMode, VpmMode

__all__ = [
    "AddSlot",
    "Asm",
    "BranchCondName",
    "CondName",
    "Dst",
    "Label",
    "Loop",
    "SigName",
    "Src",
    "Target",
    "assemble",
]

Target: TypeAlias = "str | Label | int | RegA"
"""Where a branch goes: a label or its name, a byte offset or address, or a register of file A."""

_P = ParamSpec("_P")
_T = TypeVar("_T")


def _helper(method: Callable[Concatenate[Asm, _P], _T]) -> Callable[Concatenate[Asm, _P], _T]:
    """Instructions that the method emits through other methods belong to the line that called it."""

    @wraps(method)
    def located(self: Asm, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        start = len(self)
        try:
            return method(self, *args, **kwargs)
        finally:
            self._relocate(start, _user_frame(_getframe(1)))

    return located


class Loop:
    """A loop under construction, from ``with q.loop() as loop``."""

    __slots__ = ("_asm", "end", "start")

    def __init__(self, asm: Asm, start: Label, end: Label) -> None:
        self._asm = asm
        self.start = start
        self.end = end

    def repeat(self, *, cond: BranchCondName = "always") -> None:
        """Branch to the start of the loop; the three instructions that follow are its delay slots."""
        self._asm._branch(True, self.start, cond, None, None, None, _getframe(1))

    def leave(self, *, cond: BranchCondName = "always") -> None:
        """Branch behind the loop; the three instructions that follow are its delay slots."""
        self._asm._branch(True, self.end, cond, None, None, None, _getframe(1))

    def __enter__(self) -> Loop:
        self._asm.label(self.start)
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> Literal[False]:
        if kind is None:
            self._asm.label(self.end)
        return False


class Asm(AsmOps):
    """A VideoCore IV program under construction. Use it through `assemble`."""

    __slots__ = ("_loops",)

    def __init__(self) -> None:
        super().__init__()
        self._loops = 0

    if not TYPE_CHECKING:

        def __getattr__(self, name):
            if name.startswith("_"):
                raise AttributeError(name)
            raise self._unknown(name, type(self), "the builder of VideoCore IV", _getframe(1))

    # -- labels and branches

    def label(self, name: str | Label) -> Label:
        """Name the next instruction. Returns the label, which branches take as a target."""
        place = name if isinstance(name, Label) else Label(name)
        self._define(place.name, _getframe(1))
        return place

    def loop(self, name: str | None = None) -> Loop:
        """A loop: ``with q.loop() as loop: ...; loop.repeat(cond="anynz")`` and three delay slots."""
        if name is None:
            name = f"loop{self._loops}"
            while name in self._labels:
                self._loops += 1
                name = f"loop{self._loops}"
            self._loops += 1
        return Loop(self, Label(name), Label(f"{name}_end"))

    def brr(
        self,
        target: Target,
        *,
        cond: BranchCondName = "always",
        reg: RegA | None = None,
        link: Dst | None = None,
        link2: Dst | None = None,
    ) -> None:
        """Branch relative to the instruction after the three delay slots, which always execute.

        target: a label, or an offset in bytes. reg: added to the target (an odd register also sets the flags).
        link, link2: receive the address after the delay slots when the branch is taken.
        """
        self._branch(True, target, cond, reg, link, link2, _getframe(1))

    def bra(
        self,
        target: Target,
        *,
        cond: BranchCondName = "always",
        reg: RegA | None = None,
        link: Dst | None = None,
        link2: Dst | None = None,
    ) -> None:
        """Branch to an absolute bus address; ``q.bra(q.ra[31])`` returns through a link register. As `brr` else."""
        self._branch(False, target, cond, reg, link, link2, _getframe(1))

    # -- constants

    def ldi(
        self,
        d: Dst,
        value: int | float | Sequence[int],
        *,
        dst2: Dst | None = None,
        cond: CondName = "always",
        cond2: CondName = "always",
        sf: bool = False,
    ) -> None:
        """Load a constant.

        value: an integer -2**31..2**32-1, a float, or 16 integers, one a lane, all in -2..1 or all in 0..3.
        d: destination of the ADD side, dst2: of the MUL side, under `cond` and `cond2`.
        """
        frame = _getframe(1)
        try:
            variant, imm = _constant(value)
        except _Refused as e:
            self._record(e, frame)
            self._append(WHOLE, frame)
            return
        self._load(variant, imm, d, dst2, cond, cond2, sf, frame)

    # -- semaphores, mutex, host

    def sema_up(self, n: int) -> None:
        """Increment semaphore `n` (0..15); waits while it is 15."""
        self._semaphore(n, 0)

    def sema_down(self, n: int) -> None:
        """Decrement semaphore `n` (0..15); waits while it is 0."""
        self._semaphore(n, 16)

    def _semaphore(self, n: int, acquire: int) -> None:
        frame = _getframe(2)
        number = _integer(n)
        if number is None or not 0 <= number <= 15:
            self._record(_Refused("semaphore", f"there is no semaphore {_show(n)}", "0..15"), frame)
            number = 0
        self._load(4, acquire | number, None, None, "always", "always", False, frame)

    @_helper
    def mutex_acquire(self) -> None:
        """Take the mutex; waits for it."""
        self.read(self.mutex)

    @_helper
    def mutex_release(self) -> None:
        """Give the mutex back."""
        self.mov(self.mutex, 1)

    @_helper
    def interrupt(self) -> None:
        """Raise this QPU's host interrupt."""
        self.mov(self.host_interrupt, 1)

    @_helper
    def exit(self, *, interrupt: bool = True) -> None:
        """End the program: a host interrupt if wanted, the program end and its two delay slots."""
        if interrupt:
            self.mov(self.host_interrupt, 1)
        self.nop(sig="thrend")
        self.nop()
        self.nop()

    @_helper
    def nops(self, n: int) -> None:
        """`n` instructions that do nothing, such as delay slots."""
        for _ in range(n):
            self.nop()

    def raw(self, word: int) -> None:
        """Any 64-bit word as it is; the checker still looks at it."""
        frame = _getframe(1)
        number = _integer(word)
        if number is None or not 0 <= number < 1 << 64:
            self._record(_Refused("raw", f"{_show(word)} is no instruction word", "0..2**64-1"), frame)
            number = 0
        self._append(number ^ BASE | WHOLE, frame)

    # -- VPM and DMA

    def _setup(self, d: Dst, make: Callable[[], int]) -> None:
        value = self._checked(make, _getframe(2))
        self.ldi(d, value)

    @_helper
    def setup_vpm_read(
        self, n: int, mode: VpmMode = "32bit horizontal", *, y: int = 0, x: int = 0, part: int = 0, stride: int = 1
    ) -> None:
        """Fetch `n` vectors from the VPM into the read FIFO; read `vpm` exactly that often. See `qpu.vc4.vpm`."""
        self._setup(self.vr_setup, lambda: vpm.vpm_read(n, mode, y=y, x=x, part=part, stride=stride))

    @_helper
    def setup_vpm_write(
        self, mode: VpmMode = "32bit horizontal", *, y: int = 0, x: int = 0, part: int = 0, stride: int = 1
    ) -> None:
        """Say where vectors written to `vpm` go. See `qpu.vc4.vpm`."""
        self._setup(self.vw_setup, lambda: vpm.vpm_write(mode, y=y, x=x, part=part, stride=stride))

    @_helper
    def setup_dma_load(
        self,
        nrows: int = 1,
        ncols: int = 16,
        mode: DmaMode = "32bit horizontal",
        *,
        y: int = 0,
        x: int = 0,
        part: int = 0,
        vpitch: int = 1,
        mpitch: int = 3,
    ) -> None:
        """Shape of DMA loads, memory to VPM. See `qpu.vc4.vpm.dma_load`."""
        self._setup(
            self.vr_setup,
            lambda: vpm.dma_load(nrows, ncols, mode, y=y, x=x, part=part, vpitch=vpitch, mpitch=mpitch),
        )

    @_helper
    def setup_dma_load_stride(self, stride: int) -> None:
        """Bytes from row start to row start in memory, for loads with ``mpitch=0``."""
        self._setup(self.vr_setup, lambda: vpm.dma_load_stride(stride))

    @_helper
    def setup_dma_store(
        self,
        nrows: int = 1,
        ncols: int = 16,
        mode: DmaMode = "32bit horizontal",
        *,
        y: int = 0,
        x: int = 0,
        part: int = 0,
    ) -> None:
        """Shape of DMA stores, VPM to memory. See `qpu.vc4.vpm.dma_store`."""
        self._setup(self.vw_setup, lambda: vpm.dma_store(nrows, ncols, mode, y=y, x=x, part=part))

    @_helper
    def setup_dma_store_stride(self, stride: int, *, blockmode: bool = False) -> None:
        """Bytes from the end of a row in memory to the start of the next; write it before the first store."""
        self._setup(self.vw_setup, lambda: vpm.dma_store_stride(stride, blockmode=blockmode))

    @_helper
    def start_dma_load(self, address: Readable) -> None:
        """Start a DMA load from the bus address in lane 0 of a register."""
        self.mov(self.vr_addr, address)

    @_helper
    def wait_dma_load(self) -> None:
        """Wait until the DMA load is done."""
        self.read(self.vr_wait)

    @_helper
    def start_dma_store(self, address: Readable) -> None:
        """Start a DMA store to the bus address in lane 0 of a register."""
        self.mov(self.vw_addr, address)

    @_helper
    def wait_dma_store(self) -> None:
        """Wait until the DMA store is done."""
        self.read(self.vw_wait)


def _constant(value: int | float | Sequence[int]) -> tuple[int, int]:
    """Load-immediate variant and its 32 bits."""
    number = _integer(value)
    if number is not None:
        if not -(1 << 31) <= number < 1 << 32:
            raise _Refused("ldi", f"{number} does not fit 32 bits", "-2**31..2**32-1")
        return 0, number & 0xFFFFFFFF
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return _per_element(list(value))
    if isinstance(value, bool | str | bytes) or not hasattr(value, "__float__"):
        raise _Refused("ldi", f"{_show(value)} is no constant", "an integer, a float, or 16 small integers")
    pattern = float_pattern(float(value))
    if pattern is None:
        raise _Refused("ldi", f"{value!r} is too large for a 32-bit float", "magnitudes up to 3.4028234e38")
    return 0, pattern


def _per_element(values: list[int]) -> tuple[int, int]:
    numbers = [_integer(v) for v in values]
    if len(values) != 16 or any(n is None or not -2 <= n <= 3 for n in numbers):
        raise _Refused("ldi", f"{values!r} is no per-element constant", "16 integers, all in -2..1 or all in 0..3")
    found = [n for n in numbers if n is not None]
    signed = all(n <= 1 for n in found)
    if not signed and any(n < 0 for n in found):
        raise _Refused("ldi", f"{values!r} mixes negative lanes with 2 or 3", "all in -2..1, or all in 0..3")
    imm = sum((n & 1) << i | (n >> 1 & 1) << (16 + i) for i, n in enumerate(found))
    return (1 if signed else 3), imm


def assemble(fn: Callable[Concatenate[Asm, _P], None], /, *args: _P.args, **kwargs: _P.kwargs) -> Code:
    """The program that ``fn(q, *args, **kwargs)`` builds, hazard rules applied.

    Raises: AsmError with every mistake of the program, each at its line; HazardError when it breaks a rule of the
    hardware. `build` does the same without the hazard rules.
    """
    program = build(fn, *args, **kwargs)
    from qpu.vc4.hazards import enforce

    enforce(program)
    return program


def build(fn: Callable[Concatenate[Asm, _P], None], /, *args: _P.args, **kwargs: _P.kwargs) -> Code:
    """The program that ``fn(q, *args, **kwargs)`` builds, hazard rules not applied. Raises: AsmError."""
    q = Asm()
    try:
        fn(q, *args, **kwargs)
    except AsmError:
        raise
    except Exception as e:
        for d in q._errors:
            e.add_note(d.render())
        raise
    return q._finish()
