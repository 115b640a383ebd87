"""The typed builder of VideoCore IV programs.

    def scale(q: Asm) -> None:
        q.mov(q.ra[0], q.uniform)
        q.nop(sig=q.ldtmu0)
        q.fadd(q.r1, q.r4, 1.0).fmul(q.r0, q.r4, q.ra[0])   # dual issue: ADD half, MUL half
        q.end()

    program = assemble(scale)

A method records one instruction; a chained operation becomes its MUL half. `qpu.vc4.pairing` assigns read ports and
write swap. Errors are reported together, each at the user's line (`qpu.core.builder`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from inspect import Parameter, signature
from sys import _getframe
from typing import Any, Concatenate, Final, ParamSpec, TypeAlias, cast

from qpu.core.builder import Builder, Label, Loop, Refused, run
from qpu.core.code import Code
from qpu.core.isa import Isa, Unit
from qpu.core.locations import LAYERS, here
from qpu.errors import AsmError, suggest
from qpu.vc4 import operands, regs, vpm
from qpu.vc4.decode import decode
from qpu.vc4.encode import encode
from qpu.vc4.generated.ops import AddSlot, Ops
from qpu.vc4.instr import NO_DST, Alu, Branch, Half, Instr, LoadImm, LoadMode, Semaphore
from qpu.vc4.instr import Dst as DstField
from qpu.vc4.operands import (
    BadOperand,
    BranchCondName,
    CondName,
    Dst,
    PushName,
    Readable,
    RegA,
    Signal,
    Src,
    destination,
    integer,
    shown,
)  # fmt: skip
from qpu.vc4.ops import mul_op
from qpu.vc4.pairing import IDLE_ADD, IDLE_MUL, Clash, Results, clashes, combine, diagnostic, results
from qpu.vc4.regs import NOP, SIG_ALU

__all__ = ["Absolute", "AddSlot", "Asm", "Dst", "Label", "Loop", "Src", "Target", "assemble", "build"]

P = ParamSpec("P")

_CONDS: Final = {c.name: c.code for c in regs.CONDS}
_CACHED: Final = 1 << 16
_NOP: Final = Alu()


class Absolute:
    """A bus address as a branch target; of a label, its offset in the program, to be added to a register."""

    __slots__ = ("target",)

    def __init__(self, target: int | str | Label) -> None:
        self.target = target


Target: TypeAlias = str | Label | int | RegA | Absolute
"""A branch target: a label or its name, a byte offset, the address in a register, or ``q.absolute(...)``."""

_halves: dict[tuple[object, ...], Half] = {}  # by the arguments of the method; operands are compared by identity
_alus: dict[tuple[Half, Half, int], Alu] = {}  # results of `combine` by two halves and a signal


_SETUP_NAMES: Final = {"nrows": "n", "Y": "y", "X": "x"}  # of PyVideoCore's setup functions -> of ours


def _setup(register: str, make: Callable[P, int]) -> Callable[Concatenate[Asm, P], None]:
    """A method that loads the word of a function of `qpu.vc4.vpm` into a set-up register."""

    def method(self: Asm, /, *args: P.args, **kwargs: P.kwargs) -> None:
        value = 0
        try:
            value = make(*args, **kwargs)
        except AsmError as error:
            for found in error.diagnostics:
                self._refuse(found)
        except TypeError as error:
            ours = [f"write {_SETUP_NAMES[name]}= for {name}=" for name in kwargs if name in _SETUP_NAMES]
            takes = ", ".join(list(signature(make).parameters))
            self._error("argument", str(error), f"the arguments {takes}", "; ".join(ours) or "see help(q.setup_...)")
        self.ldi(cast(Dst, operands.IO[register]), value)

    method.__doc__ = make.__doc__
    method.__name__ = f"setup_{make.__name__}"
    method.__qualname__ = f"Asm.{method.__name__}"
    of_function = signature(make)  # help() and the API pages show the function's parameters, after self
    this = Parameter("self", Parameter.POSITIONAL_ONLY)
    found = of_function.replace(parameters=[this, *of_function.parameters.values()], return_annotation="None")
    method.__signature__ = found  # type: ignore[attr-defined]  # inspect reads it
    return method


_HERE: Final = "on VideoCore IV"  # in the help for names of V3D's builders
_UNIFORM: Final = f"{_HERE} a uniform is an operand: q.mov(q.ra[1], q.uniform); q.unif_addr is the address of the next"
_LOAD: Final = f"{_HERE} write the address to q.tmu0_s and load with sig=q.ldtmu0 into q.r4"
_STORE: Final = (
    f"{_HERE} the TMU only loads: write q.vpm after q.setup_vpm_write(), then q.setup_dma_store() and "
    "q.start_dma_store(address)"
)
_FOREIGN: Final = {
    "rf": f"{_HERE} registers are q.ra[0..31], q.rb[0..31] and q.r0..q.r5",
    **dict.fromkeys(("ldunif", "ldunifrf", "ldunifa", "ldunifarf", "unifa"), _UNIFORM),
    "eidx": f"{_HERE} the lane number is an operand: q.elem_num",
    "tidx": f"{_HERE} the QPU number is an operand: q.qpu_num",
    **dict.fromkeys(("tmua", "tmuau", "ldtmu"), _LOAD),
    **dict.fromkeys(("tmud", "tmuwt"), _STORE),
    **dict.fromkeys(("barrierid", "syncb"), f"{_HERE} QPUs wait for each other by q.sema_up(n) and q.sema_down(n)"),
    **dict.fromkeys(("smul24", "umul24"), f"{_HERE} multiply with q.mul24"),
    "fdiv": f"{_HERE} divide by a reciprocal: q.mov(q.sfu_recip, x), two instructions later q.fmul(q.r1, a, q.r4)",
    **dict.fromkeys(("exit", "halt", "stop"), "end the program with q.end()"),
    "jmp": "branch with q.b(label)",
    **{
        f"j{flag}{state}{every}": f"branch with q.b(label, cond={where + negated + flag!r})"
        for flag in "znc"
        for state, negated in (("s", ""), ("c", "c" if flag == "c" else "n"))
        for every, where in (("", "all"), ("_any", "any"))
    },
}


class Asm(Ops, Builder[Instr]):
    """A VideoCore IV program under construction. Use it through `assemble`."""

    __slots__ = ("_sig",)

    isa = Isa.VC4
    _foreign = _FOREIGN
    _idle = _NOP
    _sig: int  # signal of the open instruction

    # -- halves: called by the generated methods

    def _add(self, op: int, d: Any, a: Any, b: Any, cond: Any, push: Any, sig: Any) -> int:
        frame = _getframe(2)
        while frame.f_code.co_filename in LAYERS:
            frame = frame.f_back  # type: ignore[assignment]  # the outermost caller is outside
        try:
            half = _halves.get((op, d, a, b, cond, push))
        except TypeError:  # not hashable, so not a valid operand
            half = None
        if half is None:
            half = self._make(Unit.ADD, op, d, a, b, cond, push, 0)
        self._places.append((frame.f_code, frame.f_lasti))
        return self._begin(half, SIG_ALU if sig is None else self._signal(sig, half))

    def _begin(self, half: Half | None, code: int) -> int:
        """Open an instruction for a MUL half."""
        instrs: list[Any] = self._instrs
        self._open = index = len(instrs)
        self._half = half
        self._sig = code
        instrs.append(_NOP if half is None else (half, code))
        return index

    def _mul(self, index: int, op: int, d: Any, a: Any, b: Any, cond: Any, rotate: Any) -> None:
        if index != self._open:
            self._join(index, mul_op(op).name)
            return
        self._open = -1
        half = None
        if rotate.__class__ is int:
            try:
                half = _halves.get((~op, d, a, b, cond, rotate))
            except TypeError:
                pass
        if half is None:
            half = self._make(Unit.MUL, op, d, a, b, cond, None, rotate)
        if half is None or self._half is None:
            return
        key = (self._half, half, self._sig)
        found = _alus.get(key)
        if found is None:
            found = self._pair(*key)
            if found is not _NOP:
                if len(_alus) >= _CACHED:
                    _alus.clear()
                _alus[key] = found
        self._instrs[index] = found

    def _mul_only(self, op: int, d: Any, a: Any, b: Any, cond: Any, push: Any, sig: Any, rotate: Any) -> None:
        half = self._make(Unit.MUL, op, d, a, b, cond, push, rotate)
        code = SIG_ALU if sig is None else self._signal(sig, half)
        self._record(_NOP if half is None else self._pair(IDLE_ADD, half, code))

    def _idle_add(self, sig: Any) -> int:
        self._places.append(here())
        return self._begin(IDLE_ADD, SIG_ALU if sig is None else self._signal(sig, None))

    def _read(self, a: Any, sig: Any) -> int:
        half = IDLE_ADD
        try:
            named = operands.readable(a).source
            half = Half(Unit.ADD, reads=() if named is None else (named,))
        except Refused as found:
            self._refuse(found)
        self._places.append(here())
        return self._begin(half, SIG_ALU if sig is None else self._signal(sig, half))

    def _make(self, unit: Unit, op: int, d: Any, a: Any, b: Any, cond: Any, push: Any, rotate: Any) -> Half | None:
        """The half that a method was called for, or None after an error."""
        try:
            target = destination(d)
            a = operands.readable(a)
            b = None if b is None else operands.readable(b)
            lanes = operands.rotation(rotate)
            code = _condition(cond)
            _check_push(push)
        except Refused as found:
            self._refuse(found)
            return None
        key = (op, d, a, b, cond, push) if unit is Unit.ADD else (~op, d, a, b, cond, lanes, push)
        half = _halves.get(key)
        if half is not None:
            return half
        second = None if b is None else b.source
        half = Half(unit, op, target, a.source, second, cond=code, push=push is not None, rotate=lanes)
        pair = (half, IDLE_MUL) if unit is Unit.ADD else (IDLE_ADD, half)
        broken = clashes(*pair)
        for clash in broken:
            self._refuse(diagnostic(clash))
        if broken:
            return None
        if len(_halves) >= _CACHED:
            _halves.clear()
        _halves[key] = half
        if unit is Unit.MUL and push is None and rotate.__class__ is int:
            _halves[~op, d, a, b, cond, rotate] = half
        return half

    def _signal(self, sig: Any, half: Half | None) -> int:
        """The code of a signal beside `half`."""
        if not isinstance(sig, Signal):
            allowed = ", ".join(f"q.{name}" for name in operands.SIGNALS)
            known = isinstance(sig, str) and sig in operands.SIGNALS
            help = (
                f"write sig=q.{sig}" if known else suggest(sig, operands.SIGNALS) or "write sig=q.ldtmu0, for example"
            )
            self._error("signal", f"{shown(sig)} is not a signal", allowed, help)
            return SIG_ALU
        if half is not None and half.imm:
            pair = (half, IDLE_MUL) if half.unit is Unit.ADD else (IDLE_ADD, half)
            self._pair(*pair, sig.code)
            return SIG_ALU
        return sig.code

    def _pair(self, add: Half, mul: Half, sig: int) -> Alu:
        found = combine(add, mul, sig)
        if isinstance(found, Alu):
            return found
        self._refuse(found)
        return _NOP

    # -- branches

    def absolute(self, target: int | str | Label) -> Absolute:
        """A bus address as a branch target; of a label, its offset in the program, to be added to a register."""
        return Absolute(target)

    def b(
        self,
        target: Target,
        *,
        cond: BranchCondName = "always",
        reg: RegA | None = None,
        link: Dst | None = None,
        link2: Dst | None = None,
    ) -> None:
        """Branch; the three instructions after it are executed in any case.

        target: a label; an offset in bytes from the fourth instruction after the branch; a register that holds a bus
        address; or ``q.absolute(...)``. reg: added to the target (an odd register also sets the flags).
        link, link2: receive the address of the fourth instruction after the branch when it is taken.
        """
        try:
            instr, label = self._branch(target, cond, reg, link, link2)
        except Refused as found:
            self._refuse(found)
            instr, label = Branch(), None
        self._record_branch(instr, label)

    def _branch(self, target: Any, cond: Any, reg: Any, link: Any, link2: Any) -> tuple[Branch, str | None]:
        """The branch, and the name of its target label, if it has one."""
        code = regs.branch_cond(cond) if isinstance(cond, str) else None
        if code is None:
            names = [c.name for c in regs.BRANCH_CONDS]
            help = suggest(cond, names) or "leave it out for an unconditional branch"
            raise Refused("branch-condition", f"{cond!r} is not a branch condition", ", ".join(names), help)
        if isinstance(target, BadOperand):
            raise target.why
        absolute = isinstance(target, Absolute)
        if isinstance(target, Absolute):
            target = target.target
        elif isinstance(target, RegA) and reg is None:
            absolute, target, reg = True, 0, target
        if isinstance(reg, BadOperand):
            raise reg.why
        if reg is not None and not isinstance(reg, RegA):
            help = "copy the address to a register of file A"
            raise Refused("branch-register", f"{shown(reg)} cannot hold a branch target", "ra[0]..ra[31]", help)
        first, second, fields = _results(link, link2)
        if fields.pack:
            help = "pack it in another instruction"
            raise Refused("link", "a link value cannot be packed", "a register without pack mode", help)
        label = target.name if isinstance(target, Label) else target if isinstance(target, str) else None
        if label is not None and absolute and reg is None:
            raise Refused(
                "branch-target",
                f"an absolute branch cannot reach label {label!r}: the address of the program is not known here",
                "a bus address, or a register that holds the program's address",
                "write q.b(label), which is relative",
            )
        offset = integer(target) if label is None else 0
        if offset is None or not -(1 << 31) <= offset < 1 << 32:
            allowed = "a label, 32 bits, ra[0]..ra[31], q.absolute(address)"
            raise Refused("branch-target", f"{shown(target)} is not a branch target", allowed, "write a label")
        rel, at = int(not absolute), (0, 0) if reg is None else (1, reg.n)
        return Branch(code.code, rel, *at, fields.ws, first.n, second.n, offset & 0xFFFFFFFF), label

    def _link(self, instr: Instr, index: int, target: int) -> Instr:
        assert isinstance(instr, Branch)
        offset = 8 * target - (8 * index + 32 if instr.rel else 0)
        return replace(instr, imm=offset & 0xFFFFFFFF)

    # -- constants

    def ldi(
        self,
        d: Dst,
        value: int | float | Sequence[int],
        *,
        dst2: Dst | None = None,
        cond: CondName = "always",
        cond2: CondName = "always",
        push: PushName | None = None,
    ) -> None:
        """Load a constant.

        value: an integer -2**31..2**32-1, a float, or 16 integers, one a lane, all in -2..1 or all in 0..3.
        d: destination of the ADD side, dst2: of the MUL side, under `cond` and `cond2`.
        """
        instr: Instr = _NOP
        try:
            mode, imm = operands.constant(value)
            first, second, fields = _results(d, dst2)
            conds = [_condition(cond), _condition(cond2)]
            for side, field in enumerate((first, second)):
                if conds[side] is None:
                    conds[side] = int(field.n != NOP)
            _check_push(push)
            if push is not None and cond == "always" and first.n == second.n == NOP:
                conds[0] = 1
            instr = LoadImm(
                LoadMode(mode), fields.pm, fields.pack, conds[0] or 0, conds[1] or 0, int(push is not None), fields.ws,
                first.n, second.n, imm,
            )  # fmt: skip
        except Refused as found:
            self._refuse(found)
        self._record(instr)

    # -- semaphores, mutex, host

    def sema_up(self, n: int) -> None:
        """Increment semaphore `n` (0..15); waits while it is 15."""
        self._semaphore(n, 0)

    def sema_down(self, n: int) -> None:
        """Decrement semaphore `n` (0..15); waits while it is 0."""
        self._semaphore(n, 16)

    def _semaphore(self, n: int, acquire: int) -> None:
        number = integer(n)
        if number is None or not 0 <= number <= 15:
            self._error("semaphore", f"semaphore {shown(n)} does not exist", "0..15", "write one of these numbers")
            number = 0
        self._record(Semaphore(imm=acquire | number))

    def mutex_acquire(self) -> None:
        """Acquire the mutex; waits until it is free."""
        self.read(self.mutex)

    def mutex_release(self) -> None:
        """Release the mutex."""
        self.mov(self.mutex, 1)

    def interrupt(self) -> None:
        """Raise this QPU's host interrupt."""
        self.mov(self.host_interrupt, 1)

    def end(self, *, interrupt: bool = True) -> None:
        """End the program: the program end with its two delay slots, after a host interrupt if `interrupt` is true."""
        if interrupt:
            self.mov(self.host_interrupt, 1)
        self.nop(sig=self.thrend)
        self.nop()
        self.nop()

    def nops(self, n: int) -> None:
        """`n` instructions that do nothing, such as delay slots."""
        for _ in range(n):
            self.nop()

    def raw(self, word: int) -> None:
        """Record a 64-bit instruction word; the hazard rules apply to it, too."""
        number = integer(word)
        if number is None or not 0 <= number < 1 << 64:
            help = "write the word as an integer"
            self._error("raw", f"{shown(word)} is not an instruction word", "0..2**64-1", help)
            number = encode(_NOP)
        self._record(decode(number))

    # -- VPM and DMA

    setup_vpm_read = _setup("vr_setup", vpm.vpm_read)
    setup_vpm_write = _setup("vw_setup", vpm.vpm_write)
    setup_dma_load = _setup("vr_setup", vpm.dma_load)
    setup_dma_load_stride = _setup("vr_setup", vpm.dma_load_stride)
    setup_dma_store = _setup("vw_setup", vpm.dma_store)
    setup_dma_store_stride = _setup("vw_setup", vpm.dma_store_stride)

    def start_dma_load(self, address: Readable) -> None:
        """Start a DMA load from the bus address in lane 0 of a register."""
        self.mov(self.vr_addr, address)

    def wait_dma_load(self) -> None:
        """Wait until the DMA load is done."""
        self.read(self.vr_wait)

    def start_dma_store(self, address: Readable) -> None:
        """Start a DMA store to the bus address in lane 0 of a register."""
        self.mov(self.vw_addr, address)

    def wait_dma_store(self) -> None:
        """Wait until the DMA store is done."""
        self.read(self.vw_wait)

    def _code(self) -> Code:
        """The program. Raises: AsmError with every diagnostic."""
        instrs, labels, places = self._finish()
        pending: list[Any] = instrs
        for index, instr in enumerate(pending):
            if instr.__class__ is tuple:  # an ADD half without MUL half, and its signal
                pending[index] = combine(instr[0], None, instr[1])
        return Code(Isa.VC4, tuple(map(encode, instrs)), labels, places, uniforms=self._uniforms)


def _condition(cond: Any) -> int | None:
    """The code of a write condition; None for "always", which a result that is discarded does not need."""
    code = _CONDS.get(cond) if isinstance(cond, str) else None
    if code is None:
        help = suggest(cond, _CONDS) or "leave it out for a result in every lane"
        raise Refused("condition", f"{cond!r} is not a condition", ", ".join(_CONDS), help)
    return None if cond == "always" else code


def _check_push(push: object) -> None:
    if push is not None and push != "z":
        raise Refused("push", f"{push!r} is not a push", "'z'", "pass push='z' to set the flags Z, N and C")


def _results(first: Dst | None, second: Dst | None) -> tuple[DstField, DstField, Results]:
    """The destinations of the ADD and the MUL side. Raises: Refused."""
    one = NO_DST if first is None else destination(first)
    two = NO_DST if second is None else destination(second)
    found = results(one, two)
    if isinstance(found, Clash):
        raise Refused.of(diagnostic(found))
    return one, two, found


def assemble(fn: Callable[Concatenate[Asm, P], None], /, *args: P.args, **kwargs: P.kwargs) -> Code:
    """The program that ``fn(q, *args, **kwargs)`` builds, hazard rules applied.

    Raises: AsmError with every error of the program, each at its line; HazardError with every broken rule. `build` does
    the same without the hazard rules.
    """
    program = build(fn, *args, **kwargs)
    from qpu.vc4.hazards import enforce

    enforce(program)
    return program


def build(fn: Callable[Concatenate[Asm, P], None], /, *args: P.args, **kwargs: P.kwargs) -> Code:
    """The program that ``fn(q, *args, **kwargs)`` builds, hazard rules not applied. Raises: AsmError."""
    return run(Asm(), fn, *args, **kwargs)._code()


LAYERS.add(__file__)
