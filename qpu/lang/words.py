"""KIR to KIR: narrow elements that a lane has side by side are loaded and stored as the 32-bit words they lie in.

Where arrays and their rows begin at multiples of four bytes, and a lane owns four neighbouring items, four loads of
bytes are one load of a word and a few shifts, on every instruction set.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeAlias

from qpu.lang.kir import Loop, Region, Value, walk
from qpu.lang.rewrite import Rewriter
from qpu.lang.spans import Span, Spans
from qpu.lang.types import DTYPES

if TYPE_CHECKING:
    from qpu.lang.compile import Parameter

__all__ = ["LARGEST", "known_spans", "share_words"]

NARROW: Final = frozenset({"i8", "u8", "i16", "u16"})
LARGEST: Final = (1 << 24) - 1
"""Elements and bytes between rows of an array of several axes that is accessed as words."""
MOST: Final = 32  # zero bits that an alignment is counted to

Group: TypeAlias = list[Value]


class _Zeros:
    """How many low bits of values are certainly 0. known: bits of launch values by name."""

    def __init__(self, top: Region, known: dict[str, int]) -> None:
        self.params = known
        self.loops: dict[int, tuple[Value, Loop]] = {}
        self.known: dict[int, int] = {}
        for v in walk(top):
            if isinstance(v.attr, Loop):
                self.loops[id(v.attr.region)] = (v, v.attr)

    def of(self, v: Value) -> int:
        """Low bits of v that are 0."""
        return self._of(v, self.known)

    def _of(self, v: Value, known: dict[int, int]) -> int:
        if id(v) not in known:
            known[id(v)] = 0  # a carried value that depends on itself
            known[id(v)] = self._find(v, known)
        return known[id(v)]

    def _find(self, v: Value, known: dict[int, int]) -> int:
        if v.op == "const":
            return MOST if not v.attr else (v.attr & -v.attr).bit_length() - 1
        if v.op == "param":
            return self.params.get(v.attr, 0)
        if v.op in ("bitcast", "same"):
            return self._of(v.args[0], known)
        if v.op == "parameter":
            return self._carried(v, known)
        if v.op == "result" and isinstance(v.args[0].attr, Loop):
            return self._of(v.args[0].attr.region.parameters[v.attr], known)
        if v.op not in ("add", "sub", "or", "xor", "and", "min", "max", "mul", "shl", "asr", "shr", "select"):
            return 0
        a, b = (self._of(x, known) for x in v.args[-2:])
        if v.op == "mul":
            return min(MOST, a + b)
        if v.op == "and":
            return max(a, b)
        if v.op in ("shl", "asr", "shr"):
            n = v.args[1].constant
            return 0 if n is None else min(MOST, a + n) if v.op == "shl" else max(0, a - n) if a < MOST else MOST
        return min(a, b)

    def _carried(self, v: Value, known: dict[int, int]) -> int:
        row = self.loops.get(id(v.region))
        if row is None:
            return 0
        loop, attr = row
        first = self._of(loop.args[1 + v.attr], known)
        known[id(v)] = first
        return min(first, self._of(attr.yields[v.attr], dict(known)))


class _Words(Rewriter):
    """bases: arrays that may be accessed as words; whole: every word that holds an element may be read."""

    def __init__(self, isa: str, zeros: _Zeros, spans: Spans, bases: frozenset[int], whole: bool) -> None:
        super().__init__(isa)
        self.zeros, self.bases, self.whole = zeros, bases, whole
        self.spans = spans
        self.groups: dict[int, Group] = {}
        self.word: dict[int, Value] = {}
        self.count = 0

    def replace(self, v: Value, args: tuple[Value, ...]) -> Value | None:
        """Without limits that values have anyway; rows that are cut to the image times their distance in 24 bits."""
        if v.op == "max":
            n = v.args[1].constant
            return args[0] if n is not None and not n >> 31 and self.spans.of(v.args[0])[0] >= n else None
        if (
            v.op == "mul"
            and any(a.op in ("min", "max") for a in v.args)
            and all(self.spans.fits(a, 24) for a in v.args)
        ):
            return self.cast(self.q.emit("umul24", *(self.cast(a, "u") for a in args)), v.type)
        return None

    def region(self, region: Region) -> None:
        outer, self.groups = self.groups, self._groups(region)
        self.count += len(self.groups)
        super().region(region)
        self.groups = outer

    def sequence(self, ops: Iterable[Value]) -> None:
        for v in ops:
            self.q.loc = v.loc
            group = self.groups.get(id(v))
            if group is None:
                self.one(v)
            elif v.op == "load":
                self._load(v, group)
            elif v is group[-1]:
                self._store(sorted(group, key=lambda x: x.attr.offset))

    def _groups(self, region: Region) -> dict[int, Group]:
        inside = list(walk(region))
        stored = {v.attr.array for v in inside if v.op in ("store", "atomic")}
        loaded = {v.attr.array for v in inside if v.op in ("load", "atomic")}
        rows: dict[tuple[object, ...], Group] = {}
        blocked = set()
        for v in region.ops:
            if v.op not in ("load", "store"):
                continue
            a = v.attr
            masked = len(v.args) > (2 if v.op == "load" else 3)
            if a.array not in self.bases or a.dtype not in NARROW or masked:
                blocked.add((v.op, a.array)) if v.op == "store" else None
                continue
            if a.array in (stored if v.op == "load" else loaded):
                continue
            rows.setdefault((v.op, a.array, v.args[0], v.args[1], a.offset >> 2), []).append(v)
        found: dict[int, Group] = {}
        places: dict[tuple[object, ...], int] = {}
        for (op, array, base, offset, _), group in rows.items():
            assert isinstance(base, Value)
            assert isinstance(offset, Value)
            places[op, array, base, offset] = places.get((op, array, base, offset), 0) + 1
            if self.zeros.of(base) < 2 or self.zeros.of(offset) < 2:
                continue
            size = DTYPES[group[0].attr.dtype].size
            full = len({v.attr.offset for v in group}) == 4 // size
            if op == "store":
                good = full and len(group) == 4 // size and (op, array) not in blocked
            else:
                good = len(group) > 1 and (full or self.whole or all(v.attr.around for v in group))
            if good:
                found.update((id(v), group) for v in group)
        return found

    def _load(self, v: Value, group: Group) -> None:
        q, a = self.q, v.attr
        if id(group[0]) not in self.word:
            access = replace(a, dtype="u32", offset=a.offset & ~3, around=False)
            args = tuple(self.get(x) for x in v.args)
            self.word[id(group[0])] = q.append("load", args, "u", access, varying=v.varying)
        word, t = self.word[id(group[0])], DTYPES[a.dtype]
        bits, low = 8 * t.size, 8 * (a.offset & 3)
        if t.low < 0:
            moved = q.emit("shl", self.cast(word, "i"), self.u(32 - bits - low))
            self.map[id(v)] = q.emit("asr", moved, self.u(32 - bits))
            return
        found = q.emit("shr", word, self.u(low))
        if low + bits < 32:
            found = q.emit("and", found, self.u((1 << bits) - 1))
        self.map[id(v)] = self.cast(found, "i")

    def _store(self, group: Sequence[Value]) -> None:
        q, first = self.q, group[0]
        bits = 8 * DTYPES[first.attr.dtype].size
        word: Value | None = None
        for n, v in enumerate(group):
            part = self._moved(self.get(v.args[2]), bits * n, bits)
            word = part if word is None else q.emit("add", word, part)
        assert word is not None
        args = (*(self.get(x) for x in first.args[:2]), word)
        q.append("store", args, "", replace(first.attr, dtype="u32", offset=first.attr.offset & ~3), varying=False)

    def _moved(self, v: Value, low: int, bits: int) -> Value:
        """The low bits of a value at their place in a word, nothing beside them."""
        q, by = self.q, low
        ones = (1 << bits) - 1
        while v.op == "and" and (v.args[1].constant or 0) & ones == ones:
            v = v.args[0]
        if v.op in ("asr", "shr") and v.args[1].constant is not None and v.args[1].constant + bits <= 32:
            by -= v.args[1].constant
            v = v.args[0]
        v = self.cast(v, "u")
        if by:
            v = q.emit("shl" if by > 0 else "shr", v, self.u(abs(by)))
        alone = by == low == 32 - bits or (by == bits - 32 and not low)
        return v if alone else q.emit("and", v, self.u(ones << low))


def _arrays(parameters: Sequence[Parameter], arrays: frozenset[int]) -> list[Parameter]:
    return [p for n, p in enumerate(p for p in parameters if p.kind == "array") if n in arrays]


def known_spans(parameters: Sequence[Parameter], arrays: frozenset[int]) -> dict[str, Span]:
    """What launch values of these arrays are at least and at most."""
    found: dict[str, Span] = {}
    for p in _arrays(parameters, arrays):
        if p.rank > 1:
            found |= {f"{p.name}.shape{axis}": (1, LARGEST) for axis in range(p.rank)}
            found |= {f"{p.name}.stride{axis}": (0, LARGEST) for axis in range(p.rank - 1)}
    return found


def share_words(top: Region, isa: str, parameters: Sequence[Parameter], arrays: frozenset[int]) -> Region:
    """The same kernel with words. arrays: numbers of those that begin, and whose rows begin, at multiples of four
    bytes, with rows less than 2**24 bytes apart.
    """
    if not any(v.op in ("load", "store") and v.attr.array in arrays and v.attr.dtype in NARROW for v in walk(top)):
        return top
    known = {f"{p.name}.{what}": 2 for p in _arrays(parameters, arrays) for what in ("base", "stride0", "stride1")}
    r = _Words(isa, _Zeros(top, known), Spans(top, known_spans(parameters, arrays)), arrays, isa == "vc4")
    r.region(top)
    return r.q.top if r.count else top
