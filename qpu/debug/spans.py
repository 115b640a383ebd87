"""Spans of memory that DMA transfers of a VideoCore IV program touch, found without executing it.

Set-up words that are constants and addresses that are a uniform plus a constant are followed through the program; what
depends on anything else, or on the way that was taken, is unknown. A launch is judged with its uniforms and buffers:
every span is proven to lie in a buffer, or refused, or unknown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias
from weakref import WeakKeyDictionary

from qpu.core.code import Code
from qpu.core.isa import Isa
from qpu.emu.vc4.vpm_setup import (
    GenericSetup,
    LoadPitch,
    LoadSetup,
    StoreSetup,
    StoreStride,
    parse_read_setup,
    parse_write_setup,
)  # fmt: skip
from qpu.errors import EmuFault, FaultPlace, counted
from qpu.vc4.decode import decode
from qpu.vc4.effects import effects, has_rotation, write_targets
from qpu.vc4.instr import Alu, Branch, Instr, LoadImm, LoadMode
from qpu.vc4.printer import disassemble
from qpu.vc4.regs import ACCUMULATORS, MUX_A, MUX_B, NOP, SIG_SMALL_IMM, File, small_imm_value

__all__ = ["Area", "Span", "Verdict", "dma_spans", "judge", "refuse"]

_ALIAS: Final = 0x3FFFFFFF
_UNIFORM: Final = 32
_ALWAYS: Final = 1
_NAMES: Final = {49: ("vr_setup", "vw_setup"), 50: ("vr_addr", "vw_addr")}


class _Value(NamedTuple):
    """The number of a uniform, or None for a constant, plus bytes modulo 2**32."""

    uniform: int | None
    plus: int


@dataclass(frozen=True, slots=True)
class Span:
    """A transfer. index: instruction that starts it. store: to memory. uniform: number of the one that its address is
    relative to, None for a constant. offset, size: bytes from there; size 0: unknown, for the reason `why`. always: it
    is executed in every run of the program that ends."""

    index: int
    store: bool
    uniform: int | None = None
    offset: int = 0
    size: int = 0
    why: str = ""
    always: bool = False


class Area(NamedTuple):
    """Memory that a launch may access: bus address, bytes, name of the buffer."""

    address: int
    size: int
    name: str


class Verdict(NamedTuple):
    """What is known of a span in a launch. word: ``proven``, ``refused`` or ``unknown``. why: in words."""

    word: str
    why: str


@dataclass(slots=True)
class _State:
    """What is known before an instruction. values: of registers; taken: uniforms so far, None when that is unknown;
    setups: of the VPM's DMA: store, stride, load, pitch."""

    values: dict[str, _Value] = field(default_factory=dict)
    taken: int | None = 0
    setups: dict[str, object] = field(default_factory=dict)

    def copy(self) -> _State:
        return _State(dict(self.values), self.taken, dict(self.setups))

    def meet(self, other: _State) -> bool:
        """Keep what both know; whether that changed something."""
        values = {k: v for k, v in self.values.items() if other.values.get(k) == v}
        setups = {k: v for k, v in self.setups.items() if other.setups.get(k) == v}
        taken = self.taken if self.taken == other.taken else None
        changed = (values, setups, taken) != (self.values, self.setups, self.taken)
        self.values, self.setups, self.taken = values, setups, taken
        return changed


_Edges: TypeAlias = Mapping[int, Sequence[int]]


def _edges(words: Sequence[int], instrs: Sequence[Instr]) -> _Edges | None:
    """Instruction -> what may come next; None where a branch goes through a register."""
    after: dict[int, list[int]] = {n: [n + 1] for n in range(len(instrs))}
    for n, i in enumerate(instrs):
        if isinstance(i, Branch):
            target = i.target(n)
            if target is None:
                return None
            after[n + 3] = [target] if i.cond == 15 else [target, n + 4]
        elif "program end" in effects(words[n]).events:
            after[n + 2] = []
    return after


def _read(s: _State, i: Alu, mux: int, fresh: _Value | None) -> _Value | None:
    if mux < MUX_A:
        return s.values.get(ACCUMULATORS[mux])
    if mux == MUX_B and i.sig == SIG_SMALL_IMM:
        return _Value(None, small_imm_value(i.raddr_b))
    address = i.raddr_a if mux == MUX_A else i.raddr_b
    if address == _UNIFORM:
        return fresh
    return s.values.get(f"{'ra' if mux == MUX_A else 'rb'}{address}") if address < 32 else None


def _add(op: int, a: _Value | None, b: _Value | None) -> _Value | None:
    """The result of an operation of the ADD ALU, where it is a constant or a uniform plus a constant."""
    if a is None or b is None:
        return None
    x, y, top = a.plus, b.plus, 0xFFFFFFFF
    if a == b and op in (20, 21):  # and, or: a copy
        return a
    if op == 12 and (a.uniform is None or b.uniform is None):
        return _Value(a.uniform if b.uniform is None else b.uniform, x + y & top)
    if op == 13 and b.uniform is None:
        return _Value(a.uniform, x - y & top)
    if a.uniform is not None or b.uniform is not None:
        return None
    found = {14: x >> (y & 31), 17: x << (y & 31), 20: x & y, 21: x | y, 22: x ^ y, 23: ~x}.get(op)
    return None if found is None else _Value(None, found & top)


def _mul(op: int, a: _Value | None, b: _Value | None) -> _Value | None:
    if a is None or b is None:
        return None
    if op in (4, 5) and a == b:  # v8min, v8max: a copy
        return a
    if op == 2 and a.uniform is None and b.uniform is None:
        return _Value(None, (a.plus & 0xFFFFFF) * (b.plus & 0xFFFFFF) & 0xFFFFFFFF)
    return None


def _step(s: _State, n: int, word: int, i: Instr, found: dict[int, Span]) -> None:
    """Execute an instruction on what is known. found: transfers that it starts are added."""
    known = effects(word)
    fresh: _Value | None = None
    if "uniform" in known.reads:
        fresh = None if s.taken is None else _Value(s.taken, 0)
        s.taken = None if s.taken is None else s.taken + 1
    texture = any(w in known.writes for w in ("tmu0_t", "tmu0_r", "tmu0_b", "tmu1_t", "tmu1_r", "tmu1_b"))
    if texture or "unif_addr" in known.writes or "uniform" in known.writes:
        s.taken = None
    results: list[_Value | None] = [None, None]
    if isinstance(i, Alu):
        a, b = (_read(s, i, m, fresh) for m in (i.add_a, i.add_b))
        c, d = (_read(s, i, m, fresh) for m in (i.mul_a, i.mul_b))
        if not i.unpack:
            results = [_add(i.op_add, a, b), None if has_rotation(i) else _mul(i.op_mul, c, d)]
    elif isinstance(i, LoadImm) and i.mode is LoadMode.WORD:
        results = [_Value(None, i.imm), _Value(None, i.imm)]
    packed = getattr(i, "pack", 0) != 0
    first, second = (File.B, File.A) if getattr(i, "ws", 0) else (File.A, File.B)
    sides = {(first, getattr(i, "waddr_add", NOP)): 0, (second, getattr(i, "waddr_mul", NOP)): 1}
    for file, address, cond in write_targets(i):
        value = results[sides[file, address]]
        if cond != _ALWAYS or packed:
            value = None
        if address in _NAMES:
            _vpm(s, n, _NAMES[address][file is File.B], value, found)
            continue
        name = f"{file.prefix}{address}" if address < 32 else f"r{address - 32}" if address < 36 else ""
        if not name and address == 37:
            name = "r5"
        if cond == 0:
            continue
        if value is None:
            s.values.pop(name, None)
        elif name:
            s.values[name] = value
    for name in known.writes:  # r4 of signals and special functions
        if name == "r4" and not any(a == 36 for _, a, _ in write_targets(i)):
            s.values.pop("r4", None)


def _vpm(s: _State, n: int, name: str, value: _Value | None, found: dict[int, Span]) -> None:
    """A write of a set-up word or of an address."""
    if name.endswith("setup"):
        keys = ("store", "stride") if name == "vw_setup" else ("load", "pitch")
        if value is None or value.uniform is not None:
            for key in keys:
                s.setups.pop(key, None)
            return
        try:
            setup: object = (parse_write_setup if name == "vw_setup" else parse_read_setup)(value.plus)
        except ValueError:
            return
        kinds = {StoreSetup: "store", StoreStride: "stride", LoadSetup: "load", LoadPitch: "pitch"}
        if not isinstance(setup, GenericSetup):
            s.setups[kinds[type(setup)]] = setup
        return
    store = name == "vw_addr"
    size = _size(s, store)
    if value is None:
        found[n] = Span(n, store, why="its address is not a uniform plus a constant")
    elif not size:
        found[n] = Span(n, store, why="its set-up words are not constants")
    else:
        found[n] = Span(n, store, value.uniform, value.plus, size)


def _size(s: _State, store: bool) -> int:
    """Bytes from the first to the last one of a transfer; 0 where that is unknown."""
    if store:
        setup, stride = s.setups.get("store"), s.setups.get("stride")
        if not isinstance(setup, StoreSetup) or not isinstance(stride, StoreStride):
            return 0
        row = setup.depth * setup.width
        return (setup.units - 1) * (row + stride.stride) + row
    load, pitch = s.setups.get("load"), s.setups.get("pitch")
    if not isinstance(load, LoadSetup):
        return 0
    row = load.columns * load.width
    if load.rows == 1:
        return row
    if load.mpitch:
        return (load.rows - 1) * (8 << load.mpitch) + row
    return (load.rows - 1) * pitch.pitch + row if isinstance(pitch, LoadPitch) else 0


_KNOWN: WeakKeyDictionary[Code, tuple[Span, ...]] = WeakKeyDictionary()


def dma_spans(program: Code) -> tuple[Span, ...]:
    """The DMA transfers that a program of VideoCore IV can start, in order. Empty for other programs."""
    if program.isa is not Isa.VC4:
        return ()
    spans = _KNOWN.get(program)
    if spans is None:
        spans = _KNOWN[program] = _spans(program.code)
    return spans


def _spans(words: Sequence[int]) -> tuple[Span, ...]:
    instrs = [decode(word) for word in words]
    edges = _edges(words, instrs)
    if edges is None:
        starts = [(n, file is File.B) for n, i in enumerate(instrs) for file, at, _ in write_targets(i) if at == 50]
        return tuple(Span(n, store, why="the program branches through registers") for n, store in starts)
    begin = _State(setups={"stride": StoreStride(0, False)})
    states: dict[int, _State] = {0: begin}
    todo, found = [0], dict[int, Span]()
    while todo:
        n = todo.pop()
        state = states[n].copy()
        found.pop(n, None)
        _step(state, n, words[n], instrs[n], found)
        for successor in edges[n]:
            if not 0 <= successor < len(instrs):
                continue
            known = states.get(successor)
            if known is None:
                states[successor] = state.copy()
                todo.append(successor)
            elif known.meet(state):
                todo.append(successor)
    return tuple(
        Span(s.index, s.store, s.uniform, s.offset, s.size, s.why, not _avoids(edges, len(instrs), n))
        for n, s in sorted(found.items())
    )


def _avoids(edges: _Edges, count: int, n: int) -> bool:
    """Whether a program can end without executing instruction n."""
    seen, todo = {n}, [0]
    while todo:
        at = todo.pop()
        if at in seen:
            continue
        seen.add(at)
        if not edges[at] or not all(0 <= x < count for x in edges[at]):
            return True
        todo += edges[at]
    return False


def judge(span: Span, uniforms: Sequence[int], areas: Sequence[Area]) -> Verdict:
    """What is known of a transfer in a launch. uniforms: words of the program's stream. areas: buffers."""
    if not span.size:
        return Verdict("unknown", span.why)
    if span.uniform is not None and span.uniform >= len(uniforms):
        return Verdict("unknown", f"uniform {span.uniform + 1} is not given")
    base = 0 if span.uniform is None else uniforms[span.uniform]
    first = base + span.offset & 0xFFFFFFFF & _ALIAS
    what = f"{'store' if span.store else 'load'} of {counted(span.size, 'byte')}"
    for area in areas:
        start = area.address & _ALIAS
        if start <= first < start + max(1, area.size):
            over = first + span.size - start - area.size
            if over <= 0:
                return Verdict("proven", f"{what}, {counted(first - start, 'byte')} into {area.name}")
            why = f"{what}, {counted(first - start, 'byte')} into {area.name}: {counted(over, 'byte')} past its end"
            return Verdict("refused" if span.always else "unknown", why)
    at = "a constant" if span.uniform is None else f"uniform {span.uniform + 1}"
    why = f"{what} at 0x{first:08x} ({at} plus {span.offset}), which is in no buffer"
    return Verdict("refused" if span.always else "unknown", why)


def refuse(program: Code, uniforms: Sequence[int], areas: Sequence[Area]) -> None:
    """Raises: EmuFault (rule ``out-of-bounds``) for the first transfer of a launch that is refused."""
    for span in dma_spans(program):
        word, why = judge(span, uniforms, areas)
        if word == "refused":
            text, loc = disassemble(program.code[span.index]), program.loc(span.index)
            place = FaultPlace(instruction=span.index, disassembly=text, loc=loc)
            help = (
                "check the set-up and the size of the buffer; rehearse=False or QPU_REHEARSE=0 launches it all the same"
            )
            raise EmuFault(
                "out-of-bounds", f"DMA {why} (found before the launch; nothing was submitted)", place, help=help
            )
