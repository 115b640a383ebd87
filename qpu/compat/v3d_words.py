"""The words of py-videocore6 and py-videocore7, resolved on the V3D builders of this package."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from qpu.compat.dialect import Assembly, current
from qpu.compat.tables import V3D_CONDS, V3D_EXCLUDED, V3D_MODIFIERS, V3D_SIGNALS, V3D_SIGNALS_WITH_PLACE
from qpu.core.isa import Isa
from qpu.core.locations import LAYERS
from qpu.errors import Diagnostic, suggest
from qpu.v3d import asm as builders
from qpu.v3d.operands import Dest

__all__ = ["Register", "words"]

_SFU = ("recip", "rsqrt", "exp", "log", "sin", "rsqrt2")


class Register:
    """A register by name or number, with its modifiers."""

    __slots__ = ("mods", "name", "number")

    def __init__(self, name: str, number: int | None = None, mods: tuple[str, ...] = ()) -> None:
        self.name = name
        self.number = number
        self.mods = mods

    def pack(self, mode: str) -> Register:
        """The register as a destination with a modifier: 'l', 'h'."""
        return Register(self.name, self.number, (*self.mods, mode))

    unpack = pack

    def on(self, asm: Assembly) -> Any:
        """The operand of the builder."""
        q = asm.q
        operand = getattr(q, self.name) if self.number is None else q.rf[self.number]
        for mode in self.mods:
            if mode not in V3D_MODIFIERS:
                help = suggest(mode, V3D_MODIFIERS) or "write one of these modes"
                _wrong(asm, "modifier", f"{mode!r} is not a mode of pack and unpack", ", ".join(V3D_MODIFIERS), help)
            elif V3D_MODIFIERS[mode]:
                operand = getattr(operand, V3D_MODIFIERS[mode])
        return operand

    def __repr__(self) -> str:
        return self.name + "".join(f".{mode}" for mode in self.mods)


class _SpecialFunction(Register):
    """A special function: as an operand its register on V3D 4.2, called its operation."""

    __slots__ = ()

    def __call__(self, *operands: Any, **named: Any) -> Any:
        return _operation(self.name)(*operands, **named)

    def on(self, asm: Assembly) -> Any:
        return getattr(asm.q, f"sfu_{self.name}")


class Signal:
    """A signal by name, with its destination."""

    __slots__ = ("name", "place")

    def __init__(self, name: str, place: Any = None) -> None:
        self.name = name
        self.place = place

    def __call__(self, place: Any) -> Signal:
        """The signal with its destination: ``ldunifrf(rf1)``."""
        return Signal(self.name, place)

    def on(self, asm: Assembly) -> Any:
        """The signal of the builder."""
        found = getattr(asm.q, self.name)
        return found if self.place is None else found(_operand(asm, self.place))


class _Rotation(Signal):
    """The rotation of V3D 4.2 as a signal: ``nop().add(r1, r0, r0, sig=rot(3))``, ``rot(r5)``."""

    __slots__ = ()

    def on(self, asm: Assembly) -> Any:
        """The signal of the builder; None for no rotation."""
        amount = self.place.on(asm) if isinstance(self.place, Register) else self.place
        return None if isinstance(amount, int) and amount == 0 else asm.q.rot(amount)


def _wrong(asm: Assembly, rule: str, message: str, allowed: str, help: str) -> None:
    asm.q._refuse(Diagnostic(rule, message, allowed=allowed, help=help))


def _operand(asm: Assembly, value: Any) -> Any:
    if isinstance(value, Register):
        return value.on(asm)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return asm.q.imm(value)  # the old builders take a number as its bit pattern whatever the operation
    return value


def _options(asm: Assembly, cond: Any, sig: Any) -> dict[str, Any]:
    """The keywords of an operation for the old cond= and sig=."""
    found: dict[str, Any] = {}
    for each in cond if isinstance(cond, (list, tuple)) else () if cond is None else (cond,):
        if each not in V3D_CONDS:
            help = suggest(str(each), V3D_CONDS) or "leave it out for a result in every lane"
            _wrong(asm, "condition", f"{each!r} is not a condition", ", ".join(V3D_CONDS), help)
            continue
        found[V3D_CONDS[each]] = each
    signals = list(sig) if isinstance(sig, (list, tuple, set)) else [] if sig is None else [sig]
    if signals:
        placed = [s.on(asm) if isinstance(s, Signal) else s for s in signals]
        found["sig"] = [s for s in placed if s is not None]
    return found


class _Slot:
    """The free mul half of an instruction: ``add(...).fmul(...)``."""

    __slots__ = ("_asm", "_slot")

    def __init__(self, asm: Assembly, slot: Any) -> None:
        self._asm = asm
        self._slot = slot

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name.startswith("__"):
            raise AttributeError(name)
        asm = self._asm

        def call(*operands: Any, cond: Any = None, sig: Any = None) -> None:
            options = _options(asm, cond, sig)
            if name == "rotate":
                _rotate_signal(asm, self._slot.mov, operands, options)
                return
            getattr(self._slot, name)(*(_operand(asm, value) for value in operands), **options)

        return call


def _rotate_signal(asm: Assembly, mov: Any, operands: tuple[Any, ...], options: dict[str, Any]) -> None:
    """A rotation of V3D 4.2: a move of the mul ALU under the signal."""
    dst, src, amount = operands
    turn = _Rotation("rot", amount).on(asm)
    signals = [*options.pop("sig", ()), *(() if turn is None else (turn,))]
    mov(_operand(asm, dst), _operand(asm, src), sig=signals, **options)


def _operation(name: str) -> Callable[..., _Slot | None]:
    def call(*operands: Any, cond: Any = None, sig: Any = None) -> _Slot | None:
        asm = current()
        q = asm.settle()
        options = _options(asm, cond, sig)
        if name == "rotate":
            if q.isa is Isa.V3D42:
                _rotate_signal(asm, q.nop().mov, operands, options)
                return None
            args = [_operand(asm, value) for value in operands[:2]]
            amount = operands[2]
            turn = amount.on(asm) if isinstance(amount, Register) else asm.q.imm(amount)
            return _Slot(asm, q.rot(*args, turn, **options))
        args = [_operand(asm, value) for value in operands]
        if name == "mov" and q.isa is Isa.V3D42:  # the add ALU has none, but the old builder's takes a mul half
            return _Slot(asm, q.or_(args[0], *(args[1:] * 2), **options))
        slot = getattr(q, name)(*args, **options)
        return None if slot is None else _Slot(asm, slot)

    call.__name__ = name
    call.__doc__ = f"The operation {name}."
    return call


class _Labels:
    """``L.name`` defines a label."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)
        asm = current()
        asm.q.label(asm.full(name))


class _Reference:
    """``R.name`` as a branch target."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class _References:
    def __getattr__(self, name: str) -> _Reference:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Reference(name)


class _Link:
    """``link`` as a branch target: the link register."""


_LINK = _Link()


class _Branch:
    """A branch, to which ``.unif_addr(...)`` adds a move of the uniform stream."""

    __slots__ = ("_again", "_asm", "_index")

    def __init__(self, asm: Assembly, index: int, again: Callable[[Any], Any]) -> None:
        self._asm = asm
        self._index = index
        self._again = again

    def unif_addr(self, src: Any = None, absolute: bool = False) -> None:
        """Also move the uniform stream: to a register, or as the next uniform says."""
        where = "abs" if absolute else "rel"
        unif = where if src is None else "lri" if src is _LINK else _operand(self._asm, src)
        self._asm.q._instrs[self._index] = self._again(unif)


def _b(
    target: Any,
    cond: str = "always",
    absolute: bool = False,
    set_link: bool = False,
    unif_addr: Any = None,
    msfign: str | None = None,
) -> _Branch:
    """Branch to ``R.label``, a register, ``link``, or by a byte offset."""
    asm = current()
    q = asm.settle()
    place: Any = target
    if isinstance(target, _Reference):
        full = asm.full(target.name)
        place = full
    elif isinstance(target, Register):
        place = target.on(asm)
    elif target is _LINK:
        place = q.lri
    elif absolute:
        place = q.absolute(target)
    when = None if cond == "always" else cond
    unif = unif_addr if unif_addr is None or isinstance(unif_addr, str) else _operand(asm, unif_addr)
    index = len(q)
    q.b(place, cond=when, msfign=msfign, unif=unif, link=set_link)

    def again(unif: Any) -> Any:
        return q._branch(0 if isinstance(place, str) else place, when, msfign, unif, set_link)

    return _Branch(asm, index, again)


class _LoopBody:
    """What ``with loop as l:`` gives: ``l.b(cond=...)`` branches to the start."""

    __slots__ = ("_label",)

    def __init__(self, label: Any) -> None:
        self._label = label

    def b(self, cond: str = "always", **named: Any) -> None:
        """Branch to the start of the loop."""
        current().settle().b(self._label, cond=None if cond == "always" else cond, **named)


class _Loop:
    def __enter__(self) -> _LoopBody:
        return _LoopBody(current().settle().label())

    def __exit__(self, *reason: object) -> None:
        return None


@contextmanager
def _namespace(name: str) -> Iterator[None]:
    """Labels inside the block have names of their own."""
    asm = current()
    asm.space.append(name)
    try:
        yield
    finally:
        asm.space.pop()


def _raw(word: int) -> None:
    """Any word."""
    current().settle().raw(word)


def words(isa: Isa) -> dict[str, Any]:
    """The words of py-videocore6 (V3D 4.2) or py-videocore7 (7.1) by name."""
    kind = builders.Asm42 if isa is Isa.V3D42 else builders.Asm71
    found: dict[str, Any] = {f"rf{n}": Register(f"rf{n}", n) for n in range(64)}
    signals = {*V3D_SIGNALS, *V3D_SIGNALS_WITH_PLACE}
    for name in dir(kind):
        if name.startswith("_") or name in V3D_EXCLUDED or name in signals:
            continue
        # destinations and accumulators are values of the class; operations are methods
        is_register = isinstance(getattr(kind, name), Dest)
        found[name] = Register(name) if is_register else _operation(name)
    found |= {name: Signal(name) for name in signals if hasattr(kind, name)}
    found |= {name: _SpecialFunction(name) for name in _SFU if hasattr(kind, name)}
    if isa is Isa.V3D42:
        found["rot"] = lambda amount: _Rotation("rot", amount)
    found["rf"] = [found[f"rf{n}"] for n in range(64)]
    found |= {"L": _Labels(), "R": _References(), "loop": _Loop(), "b": _b, "link": _LINK, "raw": _raw}
    return found | {"namespace": _namespace, "rotate": _operation("rotate")}


LAYERS.update((__file__, contextmanager.__code__.co_filename))
