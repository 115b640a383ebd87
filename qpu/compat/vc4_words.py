"""The words of PyVideoCore's builder, resolved on the VideoCore IV builder of this package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qpu.compat.dialect import Assembly, Label, current
from qpu.compat.tables import (
    VC4_ADD,
    VC4_BRANCHES,
    VC4_CONDS,
    VC4_MUL,
    VC4_PACK,
    VC4_REGISTERS,
    VC4_SETUPS,
    VC4_SIGNALS,
)
from qpu.core.locations import LAYERS
from qpu.errors import Diagnostic, suggest

__all__ = ["WORDS", "Register"]


class Register:
    """A register by name, with its pack or unpack mode."""

    __slots__ = ("bank", "mode", "name", "verb")

    def __init__(self, name: str, bank: tuple[str, int] | None = None, verb: str = "", mode: str = "") -> None:
        self.name = name
        self.bank = bank
        self.verb = verb
        self.mode = mode

    def pack(self, mode: str) -> Register:
        """The register as a packed destination."""
        return Register(self.name, self.bank, "pack", mode)

    def unpack(self, mode: str) -> Register:
        """The register as an unpacked source."""
        return Register(self.name, self.bank, "unpack", mode)

    def on(self, q: Any) -> Any:
        """The operand of the builder."""
        operand = getattr(q, self.name) if self.bank is None else getattr(q, self.bank[0])[self.bank[1]]
        if not self.verb or self.mode == "nop":
            return operand
        mode = VC4_PACK.get(self.mode, self.mode)
        if self.verb == "pack" and not self.name.startswith("ra") and mode.startswith("8") and not mode.endswith("f"):
            mode = mode.removesuffix("s") + "sf"  # the MUL ALU's: float to bytes
        return getattr(operand, self.verb)(mode)

    def __repr__(self) -> str:
        return f"{self.name}.{self.verb}({self.mode!r})" if self.verb else self.name


def _wrong(asm: Assembly, rule: str, message: str, allowed: str, help: str) -> None:
    asm.q._refuse(Diagnostic(rule, message, allowed=allowed, help=help))


def _operand(q: Any, value: Any) -> Any:
    return value.on(q) if isinstance(value, Register) else value


def _cond(asm: Assembly, cond: Any) -> str:
    if cond not in VC4_CONDS:
        help = suggest(str(cond), VC4_CONDS) or "leave it out for a result in every lane"
        _wrong(asm, "condition", f"{cond!r} is not a condition", ", ".join(VC4_CONDS), help)
    return VC4_CONDS.get(cond, "always")


def _signal(asm: Assembly, sig: Any) -> Any:
    if sig not in VC4_SIGNALS:
        help = suggest(str(sig), VC4_SIGNALS) or "leave it out for none"
        _wrong(asm, "signal", f"{sig!r} is not a signal", ", ".join(VC4_SIGNALS), help)
    name = VC4_SIGNALS.get(sig)
    return None if name is None else getattr(asm.q, name)


class _Slot:
    """The free MUL half of an instruction: ``fadd(...).fmul(...)``."""

    __slots__ = ("_asm", "_slot")

    def __init__(self, asm: Assembly, slot: Any) -> None:
        self._asm = asm
        self._slot = slot

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name not in VC4_MUL:
            raise AttributeError(name)

        def call(*operands: Any, cond: str = "always", rotate: Any = 0) -> None:
            q = self._asm.q
            if name == "rotate":
                *operands_, rotate = operands
            else:
                operands_ = list(operands)
            args = [_operand(q, value) for value in operands_]
            method = getattr(self._slot, "mov" if name == "rotate" else VC4_MUL[name])
            method(*args, cond=_cond(self._asm, cond), rotate=_operand(q, rotate))

        return call


def _add_word(name: str, ours: str) -> Callable[..., _Slot]:
    def call(*operands: Any, cond: str = "always", sig: str = "no signal", set_flags: bool = True) -> _Slot:
        asm = current()
        q = asm.settle()
        if ours == "nop":
            return _Slot(asm, q.nop(sig=_signal(asm, sig)))
        args = [_operand(q, value) for value in operands]
        named = {"cond": _cond(asm, cond), "sig": _signal(asm, sig), "push": "z" if set_flags else None}
        return _Slot(asm, getattr(q, ours)(*args, **named))

    call.__name__ = name
    call.__doc__ = f"The operation {name} of the ADD ALU; it sets the flags unless set_flags=False."
    return call


def _mul_word(name: str, ours: str) -> Callable[..., None]:
    def call(
        *operands: Any, cond: str = "always", sig: str = "no signal", set_flags: bool = False, rotate: Any = 0
    ) -> None:
        asm = current()
        q = asm.settle()
        args = [_operand(q, value) for value in operands]
        named: dict[str, Any] = {"cond": _cond(asm, cond), "sig": _signal(asm, sig)}
        named["push"] = "z" if set_flags else None
        if ours != "rotate":
            named["rotate"] = _operand(q, rotate)
        getattr(q, ours)(*args, **named)

    call.__name__ = name
    call.__doc__ = f"The operation {name} of the MUL ALU alone."
    return call


def _branch_word(name: str, cond: str) -> Callable[..., None]:
    def call(target: Any = None, reg: Any = None, absolute: bool = False, link: Any = None) -> None:
        asm = current()
        q = asm.q
        place = asm.take(target) if isinstance(target, Label) else 0 if target is None else target
        asm.settle()
        named = {"reg": _operand(q, reg), "link": _operand(q, link)}
        q.b(q.absolute(place) if absolute else place, cond=cond, **{k: v for k, v in named.items() if v is not None})

    call.__name__ = name
    call.__doc__ = f"Branch ({cond}); the three instructions after it are executed in any case."
    return call


def _setup_word(name: str, parameters: tuple[str, ...]) -> Callable[..., None]:
    old = {"nrows": "n", "Y": "y", "X": "x", "H": "part", "B": "part", "val": "stride"}

    def call(*given: Any, **named: Any) -> None:
        asm = current()
        q = asm.settle()
        values = dict(zip(parameters, given, strict=False))
        for key, value in named.items():
            values[old.get(key, key) if key != "nrows" or parameters[0] == "n" else key] = value
        scratch = values.pop("tmp_reg", None)
        if name == "setup_vpm_write" and isinstance(values.get("stride"), int):
            values.setdefault("mode", "32bit horizontal")
        if name in ("setup_dma_load", "setup_dma_store"):
            values.setdefault("nrows", 16)
        if isinstance(values.get("stride"), Register):  # a stride that is not known yet
            head = 9 << 28 if "load" in name else 3 << 30 | bool(values.get("blockmode")) << 16
            place = q.r0 if scratch is None else _operand(q, scratch)
            q.ldi(place, head)
            q.or_(q.vpmvcd_rd_setup if "load" in name else q.vpmvcd_wr_setup, place, values["stride"].on(q))
            return
        getattr(q, name)(**values)

    call.__name__ = name
    call.__doc__ = f"Set-up word; see `qpu.vc4.Asm.{name}`."
    return call


def _ldi(dst: Any, *more: Any, cond: str = "always", set_flags: bool = False) -> None:
    """Load a constant: ``ldi(dst, value)``, or ``ldi(dst_add, dst_mul, value)``."""
    asm = current()
    q = asm.settle()
    *second, value = more
    named: dict[str, Any] = {"cond": _cond(asm, cond), "push": "z" if set_flags else None}
    if second:
        named |= {"dst2": _operand(q, second[0]), "cond2": named["cond"]}
    q.ldi(_operand(q, dst), value, **named)


def _plain(name: str) -> Callable[..., None]:
    """A method of the builder with registers as arguments."""

    def call(*operands: Any) -> None:
        q = current().settle()
        getattr(q, name)(*(_operand(q, value) for value in operands))

    call.__name__ = name
    call.__doc__ = f"See `qpu.vc4.Asm.{name}`."
    return call


def _exit(interrupt: bool = True) -> None:
    """End the program."""
    current().settle().end(interrupt=interrupt)


class _Labels:
    """``L.name`` defines a label; as a branch target it refers to one."""

    def __getattr__(self, name: str) -> Label:
        if name.startswith("__"):
            raise AttributeError(name)
        return current().label(name)


def _make() -> dict[str, Any]:
    words: dict[str, Any] = {}
    for bank in "ab":
        words |= {f"r{bank}{n}": Register(f"r{bank}{n}", (f"r{bank}", n)) for n in range(32)}
    words |= {name: Register(name) for name in (*(f"r{n}" for n in range(6)), *VC4_REGISTERS)}
    words |= {name: _mul_word(name, ours) for name, ours in VC4_MUL.items()}
    words |= {name: _add_word(name, ours) for name, ours in VC4_ADD.items()}
    words |= {name: _branch_word(name, cond) for name, cond in VC4_BRANCHES.items()}
    words |= {name: _setup_word(name, parameters) for name, parameters in VC4_SETUPS.items()}
    plain = "sema_up sema_down mutex_acquire mutex_release interrupt start_dma_load wait_dma_load start_dma_store"
    words |= {name: _plain(name) for name in (*plain.split(), "wait_dma_store", "raw")}
    return words | {"ldi": _ldi, "exit": _exit, "L": _Labels()}


WORDS: dict[str, Any] = _make()
"""The words by name."""

LAYERS.add(__file__)
