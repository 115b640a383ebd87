"""The predicates of the language (``isRegister``, ``isConstant`` ...), which need no include."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from qpu.vc4.regs import small_imm_code
from qpu.vc4.vc4asm.fault import Fault
from qpu.vc4.vc4asm.registers import Reg
from qpu.vc4.vc4asm.values import LabelRef, PerElement, Value, float_bits, kind_of

__all__ = ["PREDICATES"]


def _small_immediate(value: Value) -> bool:
    if isinstance(value, int):
        return -(1 << 31) <= value < 1 << 32 and small_imm_code(value & 0xFFFFFFFF) is not None
    return isinstance(value, float) and small_imm_code(float_bits(value)) is not None


def _file(value: Value, bit: int) -> bool:
    return isinstance(value, Reg) and bool((value.read_files | value.write_files) & bit) and value.mux < 0


_TESTS: dict[str, Callable[[Value], bool]] = {
    "isConstant": lambda v: isinstance(v, int | float | PerElement),
    "isLdPE": lambda v: isinstance(v, PerElement),
    "isLdPES": lambda v: isinstance(v, PerElement) and v.signed,
    "isLdPEU": lambda v: isinstance(v, PerElement) and not v.signed,
    "isLabel": lambda v: isinstance(v, LabelRef),
    "isRegister": lambda v: isinstance(v, Reg) and v.semaphore < 0,
    "isRegfileA": lambda v: _file(v, 1),
    "isRegfileB": lambda v: _file(v, 2),
    "isAccu": lambda v: isinstance(v, Reg) and v.mux >= 0,
    "isReadable": lambda v: isinstance(v, Reg) and v.readable,
    "isWritable": lambda v: isinstance(v, Reg) and v.write_files != 0,
    "isSmallImmd": _small_immediate,
}


def _predicate(name: str, test: Callable[[Value], bool]) -> Callable[[Sequence[Value], int], Value]:
    def run(arguments: Sequence[Value], pos: int) -> Value:
        if len(arguments) != 1:
            raise Fault("argument-count", f"{name} takes 1 argument, not {len(arguments)}", pos)
        return int(test(arguments[0]))

    return run


def _refused(name: str) -> Callable[[Sequence[Value], int], Value]:
    # The standard include of the reference assembler declares these two and rejects every use of them.
    def run(arguments: Sequence[Value], pos: int) -> Value:
        what = ", ".join(kind_of(a) for a in arguments)
        raise Fault("predicate", f"{name}({what}) is not available in this language", pos)

    return run


PREDICATES: dict[str, Callable[[Sequence[Value], int], Value]] = {
    **{name: _predicate(name, test) for name, test in _TESTS.items()},
    "isRotate": _refused("isRotate"),
    "isSemaphore": _refused("isSemaphore"),
}
"""Function name -> implementation, called with argument values and a position."""
