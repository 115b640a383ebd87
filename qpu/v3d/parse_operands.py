"""The operand parser of V3D text: registers, destinations, small immediates, numbers and names."""

from __future__ import annotations

import re
from typing import Final

from qpu.core.isa import Isa
from qpu.v3d.expr import TextError, evaluate, near, wrong
from qpu.v3d.instr import Dst, Src, SrcKind
from qpu.v3d.regs import MAGIC_NUMBER, imm_index

__all__ = ["OperandParser"]

# Names of the input modifiers of halves in other assemblers.
_MODIFIER_ALIASES: Final = {"r32": "ff", "rl2h": "ll", "rh2l": "hh", "swap": "swp"}
_OPERAND = re.compile(
    r"\s*(?:rf(?P<rf>[0-9]+)|rf\[(?P<index>[^\]]*)\]|(?P<unknown>waddr|imm)\s+UNKNOWN\s+(?P<number>[0-9]+)|(?P<other>.*?))"
    r"(?P<mods>(?:\.[A-Za-z]\w*)*)\s*$"
)
_INT = re.compile(r"[-+]?(?:0[xX][0-9a-fA-F]+|0[bB][01]+|[0-9]+)$")
_FLOAT = re.compile(r"[-+]?(?:[0-9]+\.[0-9]+(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)$")
_UNKNOWN_DST = re.compile(r"UNKNOWN([0-9]+)$")


class OperandParser:
    """A parser of operands, with the names that `.set` defined. Columns count from 0."""

    __slots__ = ("constants", "isa", "registers")

    def __init__(self, isa: Isa) -> None:
        self.isa = isa
        self.constants: dict[str, int | float] = {}
        self.registers: dict[str, str] = {}

    def is_register(self, text: str) -> bool:
        if re.fullmatch(r"rf[0-9]+", text):
            return int(text[2:]) < 64
        return text in MAGIC_NUMBER[self.isa]

    def value(self, text: str, column: int) -> int | float:
        """A number, a constant, or an expression of them."""
        if _INT.match(text):
            return int(text, 10 if text.lstrip("+-").isdigit() else 0)
        if _FLOAT.match(text):
            return float(text)
        if text in self.constants:
            return self.constants[text]
        return evaluate(text, column, self.constants, self.undefined)

    def undefined(self, name: str, column: int) -> TextError:
        known = [*self.constants, *self.registers, *MAGIC_NUMBER[self.isa]]
        accumulators = "r0..r5, " if self.isa is Isa.V3D42 else ""
        allowed = f"rf0..rf63, {accumulators}small immediates, names from .set"
        help = near(name, known) or f"define it: .set {name}, 12"
        return wrong(column, "undefined", f"{name!r} is not defined", allowed, help)

    @staticmethod
    def rf(digits: str, column: int) -> int:
        n = int(digits)
        if n > 63:
            raise wrong(column, "rf", f"rf{digits} does not exist")
        return n

    def index(self, text: str, column: int) -> int:
        value = self.value(text.strip(), column + 3)
        if not isinstance(value, int) or not 0 <= value < 64:
            raise wrong(column, "rf-index", f"rf[{value}] does not exist")
        return value

    def parts(self, text: str, column: int, several: str) -> tuple[re.Match[str], int | None, str, str]:
        """The match of an operand, its rf register if it is one, else its text, and its modifier.

        several: kind of mistake of an operand with several modifiers.
        """
        m = _OPERAND.match(text)
        assert m is not None
        mods = m["mods"].split(".")[1:]
        if len(mods) > 1:
            raise wrong(column, several, f"{text.strip()!r} has {len(mods)} modifiers")
        other = self.registers.get(m["other"] or "", m["other"] or "")
        rf = m["rf"] if other == m["other"] or not other.startswith("rf") else other[2:]
        number = self.rf(rf, column) if rf is not None else None
        if m["index"] is not None:
            number = self.index(m["index"], column)
        return m, number, other, mods[0] if mods else ""

    def destination(self, text: str, column: int) -> tuple[Dst, str]:
        m, rf, other, pack = self.parts(text, column, "one-pack")
        if rf is not None:
            return Dst(rf), pack
        if m["unknown"] == "waddr":
            if int(m["number"]) > 63:
                raise wrong(column, "address", f"address {m['number']} does not exist")
            return Dst(int(m["number"]), True), pack
        number = MAGIC_NUMBER[self.isa].get(other)
        if number is None:
            shown = text.strip()
            if not shown:
                raise wrong(column, "no-destination", "a destination is missing here")
            raise self.no_destination(shown, column)
        return Dst(number, True), pack

    def no_destination(self, name: str, column: int) -> TextError:
        help = near(name, MAGIC_NUMBER[self.isa])
        return wrong(column, "text-destination", f"{name!r} is not a destination of {self.isa.label}", help=help)

    def source(self, text: str, column: int) -> Src:
        m, rf, other, name = self.parts(text, column, "one-modifier")
        mod = _MODIFIER_ALIASES.get(name, name)
        if rf is not None:
            return Src(SrcKind.RF, rf, mod)
        if m["unknown"] is not None:
            if m["unknown"] == "waddr" or not 48 <= int(m["number"]) < 64:
                raise wrong(column, "not-a-source", f"{text.strip()!r} is not a source")
            return Src(SrcKind.IMM, int(m["number"]), mod)
        if not other:
            raise wrong(column, "no-operand", "an operand is missing here")
        number = MAGIC_NUMBER[self.isa].get(other)
        if number is not None:
            if self.isa is Isa.V3D42 and number < 6:
                return Src(SrcKind.ACC, number, mod)
            why = "is an accumulator of V3D 4.2" if re.fullmatch(r"r[0-5]", other) else "can only be written"
            raise wrong(column, "write-only", f"{other} {why}")
        if other == "r5" and self.isa is Isa.V3D71:
            raise wrong(column, "no-accumulators", "r5 is an accumulator of V3D 4.2")
        value = self.value(other, column)
        index = imm_index(value)
        if index is None:
            raise wrong(column, "small-imm", f"{other} is not a small immediate on {self.isa.label}")
        return Src(SrcKind.IMM, index, mod)

    def signal_dst(self, name: str, text: str | None, column: int) -> Dst:
        if text is None:
            help = f"write the register after a dot: {name}.rf5"
            raise wrong(column, "signal-needs-one", f"signal {name} needs a destination", f"{name}.rf0, ...", help)
        column += len(name) + 1
        text = self.registers.get(text, text)
        m = re.fullmatch(r"rf([0-9]+)", text)
        if m is not None:
            return Dst(self.rf(m[1], column))
        m = _UNKNOWN_DST.match(text)
        if m is not None and int(m[1]) < 64:
            return Dst(int(m[1]), True)
        number = MAGIC_NUMBER[self.isa].get(text)
        if number is None:
            raise self.no_destination(text, column)
        return Dst(number, True)

    def rotation(self, text: str | None, column: int) -> int:
        if text == "r5":
            return 0
        if text is not None and _INT.match(text):
            amount = int(text, 10 if text.lstrip("+-").isdigit() else 0)
            if amount and -16 <= amount <= 15:
                return amount & 31
        raise wrong(column, "rotation", f"{text!r} is not a rotation amount")
