"""Instruction selection for VideoCore IV: legal KIR to MIR.

A mask is a condition on the flags Z, N, C, which each push sets anew. Conditions joined by `and` are tested one after
another, each only in the lanes where those before held: a push under a condition leaves the flags of the other lanes
alone, so that all tests have to speak of the same flag. What cannot be said so becomes a register of 0 and -1.

Stores go through rows of the VPM that belong to the worker, and a DMA of up to 16 words; the row is used again when the
DMA before has ended.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Final

from qpu.errors import CompileError, Diagnostic
from qpu.lang.kir import Region, Value
from qpu.lang.mir import STREAM, UNPACKS, Fixed, Function, Imm, MOp, Operand
from qpu.lang.select import ALIAS, TAKES_R5, Polarity, Selector, Uniform, pattern
from qpu.lang.select_vpm import NOP, WAIT_STORE, StoreSelector
from qpu.vc4.regs import small_imm_code

__all__ = ["select_vc4"]

R4, R5 = Fixed("acc", 4), Fixed("acc", 5)
UNIFORM, UNIFORM_ADDRESS, ELEMENT = STREAM, Fixed("io_a", 40), Fixed("io_a", 38)
R5REP = Fixed("io_b", 37)
TMU0, SFU = 56, {"recip": 52, "rsqrt": 53, "exp2": 54, "log2": 55}
LDTMU0 = 10

_OPERATIONS: Final = {
    "add": "add", "sub": "sub", "fadd": "fadd", "fsub": "fsub", "fmul": "fmul", "and": "and", "or": "or", "xor": "xor",
    "shl": "shl", "shr": "shr", "asr": "asr", "ror": "ror", "min": "min", "max": "max", "fmin": "fmin", "fmax": "fmax",
    "not": "not", "itof": "itof", "clz": "clz", "ftoi": "ftoi", "umul24": "mul24",
}  # fmt: skip
_FOLDABLE: Final = frozenset(_OPERATIONS)
_TAKES_R4: Final = frozenset({"pop", "fetch", "loop", "if_any", *SFU})
_READS_UNIFORM: Final = frozenset({"next", "seek", "loop", "if_any"})

Test = tuple[str, Operand, Operand | None, str]
"""An operation whose flags tell a leaf: name, operands, polarity."""


def _byte_of(v: Value) -> tuple[Value, int] | None:
    """The word and the number of the byte that an operation takes out of it."""
    a, n = (*v.args, None, None)[:2]
    if a is None or n is None:
        return None
    if v.op == "shr" and n.constant == 24:
        return _plain(a), 3
    if v.op != "and" or n.constant != 0xFF:
        return None
    a = _plain(a)
    by = a.args[1].constant if a.op == "shr" else 0
    return (_plain(a.args[0]) if a.op == "shr" else a, by // 8) if by in (0, 8, 16) else None


def _plain(v: Value) -> Value:
    while v.op in ALIAS:
        v = v.args[0]
    return v


def _whole_bytes(mask: int | None) -> bool:
    """Whether a mask takes bytes or leaves them: then the mul ALU can do it, as the smaller of each two bytes."""
    return bool(mask) and all(mask >> n & 0xFF in (0, 0xFF) for n in (0, 8, 16, 24))  # type: ignore[operator]  # not None


class Vc4Selector(StoreSelector):
    """One selection."""

    foldable = _FOLDABLE

    def __init__(self, top: Region, lean: bool) -> None:
        self.lean = lean
        self.lanes: int | None = None  # what tells lanes apart
        self.constants: dict[int, int] = {}
        self.packs: list[int] = []
        self.packed: dict[Uniform, int] = {}
        self.bytes: dict[int, tuple[Value, int]] = {}
        super().__init__(top)

    def _operations(self, region: Region) -> None:
        self._find_bytes(region)
        super()._operations(region)

    def _find_bytes(self, region: Region) -> None:
        """Bytes of words that several bytes are taken of: those are read unpacked, from file A."""
        found: dict[int, list[tuple[Value, Value, int]]] = {}
        for v in region.ops:
            byte = _byte_of(v)
            if byte is not None:
                found.setdefault(id(byte[0]), []).append((v, *byte))
        for rows in found.values():
            if len(rows) < 2:
                continue
            for v, word, n in rows:
                self.bytes[id(v)] = word, n
                shifted = v.args[0]
                if v.op == "and" and shifted is not word and shifted.region is region and self.uses[id(shifted)] == 1:
                    self.folded.add(id(shifted))

    # -- operands

    def bits(self, value: int) -> Operand:
        code = small_imm_code(value & 0xFFFFFFFF)
        return Imm(code) if code is not None else self.constant(value)

    def constant(self, value: int) -> int:
        """The register of a constant: loaded in front of everything."""
        if self.lean:
            near = self.near.get(value)
            if near is None:
                near = self.near[value] = self.register()
                self.op("ldi", near, byte=value & 0xFFFFFFFF)
            return near
        found = self.constants.get(value)
        if found is None:
            found = self.constants[value] = self.register()
            self.entry.append(MOp("ldi", found, byte=value & 0xFFFFFFFF))
        return found

    def uniform(self, what: Uniform) -> int:
        if self.lean:
            return self._packed(what)
        found = self.uniforms.get(what)
        if found is None:
            found = self.uniforms[what] = self.register()
            self.entry.append(MOp("mov", found, UNIFORM, role="uniform", uniform=what))
        return found

    def _packed(self, what: Uniform) -> int:
        """A uniform from a register that holds 16 of them, one a lane; taken out once a block."""
        found = self.near.get(what)
        if found is not None:
            return found
        number = self.packed.setdefault(what, len(self.packed))
        group, lane = divmod(number, 16)
        while len(self.packs) <= group:
            self.packs.append(self.register())
        r = self.near[what] = self.register()
        self.spread(self.packs[group], lane)
        self.op("mov", r, R5)
        return r

    def pack(self) -> list[MOp]:
        """Operations that fill the registers of `_packed`, for the start of the program."""
        if not self.packs:
            return []
        lane = self.register()
        made = [MOp("mov", lane, ELEMENT)]
        made += [MOp("mov", p, self.bits(0), role="copy") for p in self.packs]
        for what, number in self.packed.items():
            word = self.register()
            made.append(MOp("mov", word, UNIFORM, role="uniform", uniform=what))
            made.append(MOp("xor", NOP, lane, self.bits(number % 16), push="z"))
            made.append(MOp("mov", self.packs[number // 16], word, cond="ifz"))
        return made

    def operand(self, v: Value) -> Operand:
        if v.op == "const":
            return self.bits(pattern(v))
        if v.op in ALIAS:
            return self.operand(v.args[0])
        return self.place[id(v)]

    def in_register(self, v: Value) -> Operand:
        """As operand, but never an immediate."""
        if v.op == "const":
            return self.constant(v.attr)
        return self.operand(v)

    def two(self, a: Value, b: Value) -> tuple[Operand, Operand]:
        """Two operands of one operation, with at most one small immediate."""
        x, y = self.operand(a), self.operand(b)
        if isinstance(x, Imm) and isinstance(y, Imm) and x != y:
            x = self.constant(a.attr)
        return x, y

    # -- masks

    def opposite(self, polarity: Polarity) -> Polarity:
        return {"z": "nz", "nz": "z", "n": "nn", "nn": "n", "c": "cc", "cc": "c"}[polarity]

    def branch_any(self, polarity: Polarity) -> str:
        return f"any{polarity}"

    def branch_all(self, polarity: Polarity) -> str:
        return f"all{polarity}"

    def sign(self, m: MOp) -> Polarity | None:
        m.push = "z"
        return "n"

    def flags(self, v: Value) -> Polarity:
        if v.op in ("band", "bor") and id(v) not in self.place:
            leaves: list[tuple[Value, bool]] = []
            self._leaves(v, v.op, False, leaves)
            return self._chain(leaves, v.op == "bor")
        name, a, b, polarity = self._test(v)
        self.op(name, NOP, a, b, push="z")
        return polarity

    lane_flags: ClassVar = {1: "nz", 2: "n", 4: "c"}

    def push_lanes(self, lane: Value) -> None:
        """Twice a number whose two highest bits are set in the lanes from 4 and from 2 on, and which is 0 in lane 0."""
        if self.lanes is None:
            first = found = self.register()
            self.entry.append(MOp("mov", first, ELEMENT))
            for up in (27, 28, 29):
                moved, both = self.register(), self.register()
                self.entry.append(MOp("shl", moved, first, self.bits(up - 32 & 0xFFFFFFFF)))
                self.entry.append(MOp("or", both, found, moved))
                found = both
            self.lanes = found
        self.op("add", NOP, self.lanes, self.lanes, push="z")

    def _leaves(self, v: Value, kind: str, negated: bool, out: list[tuple[Value, bool]]) -> None:
        """Leaves of a tree of one connective; what is under the other one becomes a register."""
        while v.op == "bnot" or v.op in ALIAS:
            negated ^= v.op == "bnot"
            v = v.args[0]
        here = v.op if not negated else {"band": "bor", "bor": "band"}.get(v.op, "")
        if v.op in ("band", "bor") and id(v) not in self.place:
            if here == kind:
                for x in v.args:
                    self._leaves(x, kind, negated, out)
                return
            self.materialise(v)
        elif v.op in ("any", "all"):
            self.materialise(v)
        out.append((v, negated))

    def _chain(self, leaves: list[tuple[Value, bool]], either: bool) -> Polarity:
        """All of the leaves, or with `either` not all of their opposites."""
        groups: dict[Polarity, list[Test]] = {}
        for v, negated in leaves:
            name, a, b, polarity = self._test(v)
            if negated ^ either:
                polarity = self.opposite(polarity)
            groups.setdefault(polarity, []).append((name, a, b, polarity))
        result: int | None = None
        polarity = ""
        for polarity, tests in groups.items():
            for i, (name, a, b, _) in enumerate(tests):
                self.op(name, NOP, a, b, push="z", cond=self.cond(polarity) if i else "")
            if len(groups) == 1:
                break
            if result is None:
                result = self.register()
                self.op("mov", result, self.bits(0), role="copy")
                self.op("mov", result, self.bits(0xFFFFFFFF), cond=self.cond(polarity))
            else:
                self.op("mov", result, self.bits(0), cond=self.cond(self.opposite(polarity)))
        if result is not None:
            self.op("or", NOP, result, result, push="z")
            polarity = "n"
        return self.opposite(polarity) if either else polarity

    def _test(self, v: Value) -> Test:
        while v.op in ALIAS:
            v = v.args[0]
        if v.op == "bnot":
            name, x, y, polarity = self._test(v.args[0])
            return name, x, y, self.opposite(polarity)
        if v.op == "const":
            zero = self.bits(0)
            return "or", zero, zero, "z" if v.attr else "nz"
        if v.op in ("any", "all", "band", "bor"):
            self.materialise(v)
        if id(v) in self.place:
            r = self.place[id(v)]
            return "or", r, r, "n"
        if v.op not in ("lt", "le", "eq", "ne"):
            raise AssertionError(f"a mask of {v.op}")
        a, b = v.args
        if v.op in ("eq", "ne"):
            polarity = "z" if v.op == "eq" else "nz"
            if b.constant == 0 and v.attr != "f":
                r = self.in_register(a)
                return "or", r, r, polarity
            return "fsub" if v.attr == "f" else "xor", *self.two(a, b), polarity
        if v.attr == "u":  # sub's carry: a < b
            return ("sub", *self.two(a, b), "c") if v.op == "lt" else ("sub", *self.two(b, a), "cc")
        if v.attr == "i" and v.op == "lt" and b.constant == 0:
            r = self.in_register(a)
            return "or", r, r, "n"
        name = "fmax" if v.attr == "f" else "max"  # the carry of both: a > b
        return (name, *self.two(b, a), "c") if v.op == "lt" else (name, *self.two(a, b), "cc")

    def materialise(self, v: Value) -> int:
        found = self.place.get(id(v))
        if isinstance(found, int):
            return found
        r = self.register()
        if v.op in ("any", "all"):
            polarity = self.mask(v.args[0])
            wanted = polarity if v.op == "any" else self.opposite(polarity)
            part = self.register()
            self.op("mov", part, self.bits(0), role="copy")
            self.op("mov", part, self.bits(0xFFFFFFFF), cond=self.cond(wanted))
            for n in (8, 4, 2, 1):
                joined = self.register()
                self.op("or", joined, part, self.rotate(part, n))
                part = joined
            if v.op == "any":
                self.op("mov", r, part, role="copy")
            else:
                self.op("not", r, part)
        else:
            polarity = self.mask(v)
            self.op("mov", r, self.bits(0), role="copy")
            self.op("mov", r, self.bits(0xFFFFFFFF), cond=self.cond(polarity))
        return self.keep(v, r)

    def rotate(self, source: Operand, n: int) -> int:
        """Lane l gets lane (l + n) % 16: the hardware moves lanes up, so by 16 - n."""
        r = self.register()
        self.op("mov", r, self.whole(source), rot=(16 - n) % 16)
        return r

    # -- operations

    def emit(self, v: Value, dst: Operand, cond: str = "") -> None:
        op = v.op
        if op == "fabs":
            a = self.in_register(v.args[0])
            self.op("fmaxabs", dst, a, a, cond=cond)
        elif len(v.args) == 1:
            self.op(_OPERATIONS[op], dst, self.in_register(v.args[0]), cond=cond)
        elif id(v) in self.bytes:
            word, n = self.bytes[id(v)]
            self.op("mov", dst, self.in_register(word), amod=UNPACKS[n], cond=cond)
        else:
            name = "v8min" if op == "and" and any(_whole_bytes(a.constant) for a in v.args) else _OPERATIONS[op]
            either = name == "and" and any(_of_lanes(a) for a in v.args)
            self.op(name, dst, *self.two(*v.args), cond=cond, role="lanes" if either else "")

    def _param(self, v: Value) -> None:
        self.place[id(v)] = self.uniform(("param", v.attr))

    def _worker(self, v: Value) -> None:
        self.place[id(v)] = self.uniform(("worker", None))

    def _workers(self, v: Value) -> None:
        self.place[id(v)] = self.uniform(("workers", None))

    def _lane(self, v: Value) -> None:
        r = self.register()
        if self.lean:
            self.op("mov", r, ELEMENT)
        else:
            self.entry.append(MOp("mov", r, ELEMENT))
        self.place[id(v)] = r

    def _sfu(self, v: Value) -> None:
        r = self.register()
        self.op("mov", Fixed("io", SFU[v.op]), self.in_register(v.args[0]), role="sfu")
        self.op("mov", r, R4)
        self.place[id(v)] = r

    def _rot(self, v: Value) -> None:
        self.place[id(v)] = self.rotate(self.in_register(v.args[0]), v.attr)

    def _bcast(self, v: Value) -> None:
        """r5, written through file B, has lane 0 of what is written in all lanes."""
        a, n = self.in_register(v.args[0]), v.args[1].constant
        r = self.register()
        if n is None:
            self.op("mov", R5REP, self._rotate_by(a, self.in_register(v.args[1])), role="r5")
        else:
            self.spread(a, n & 15)
        if not self.lean and self.passes(v, TAKES_R5):
            self.place[id(v)] = R5
            return
        self.op("mov", r, R5)
        self.place[id(v)] = r

    def spread(self, a: Operand, lane: int) -> None:
        """A lane into r5: lane 0 of what is written there, after the rotation (vc4.md 8)."""
        source, by = (self.whole(a), 16 - lane) if lane else (a, None)
        self.op("mov", R5REP, source, rot=by, role="r5")

    def _rotate_by(self, a: Operand, n: Operand) -> int:
        """Rotation by a value that is the same in all lanes."""
        up, held, r = self.register(), self.register(), self.register()
        self.op("sub", up, self.bits(0), n)
        self.op("mov", R5REP, up, role="r5")
        self.op("mov", held, a)
        self.op("mov", r, held, rot=-1)
        return r

    def _shuffle(self, v: Value) -> None:
        """The lanes one after another, by rotations under masks."""
        a, index = self.in_register(v.args[0]), self.in_register(v.args[1])
        lane, raw, distance, r = (self.register() for _ in range(4))
        self.op("mov", lane, ELEMENT)
        self.op("sub", raw, index, lane)
        self.op("and", distance, raw, self.bits(15))
        self.op("mov", r, a, role="copy")
        for n in range(1, 16):
            moved = self.rotate(a, n)
            self.op("xor", NOP, distance, self.bits(n), push="z")
            self.op("mov", r, moved, cond="ifz")
        self.held = None
        self.place[id(v)] = r

    # -- memory

    def address(self, dst: Fixed, v: Value, role: str) -> None:
        base, offset = self.in_register(v.args[0]), self.operand(v.args[1])
        if v.args[1].constant == 0:
            self.op("mov", dst, base, role=role, words=int(role == "request"))
        else:
            self.op("add", dst, base, offset, role=role, words=int(role == "request"))

    def _request(self, v: Value) -> None:
        self.address(Fixed("io", TMU0), v, "request")
        self.waiting += 1

    def _seek(self, v: Value) -> None:
        self.op("mov", UNIFORM_ADDRESS, self.in_register(v.args[0]), role="stream")

    def _next(self, v: Value) -> None:
        if self.passes(v, _READS_UNIFORM):
            self.place[id(v)] = UNIFORM
            return
        r = self.register()
        self.op("mov", r, UNIFORM, role="stream")
        self.place[id(v)] = r

    def _pop(self, v: Value) -> None:
        self.op("", sig=LDTMU0, sig_dst=R4, role="pop")
        self.waiting -= 1
        if self.passes(v, _TAKES_R4):
            self.place[id(v)] = R4
            return
        r = self.register()
        self.op("mov", r, R4)
        self.place[id(v)] = r

    def _missing(self, v: Value) -> None:
        finding = Diagnostic("lang-type", f"{v.op} is not available on VideoCore IV yet", loc=v.loc)
        raise CompileError(finding.render(), [finding])


def _of_lanes(v: Value) -> bool:
    """Whether a value is 0 or -1 in each lane: then `and` with it is the lesser of each byte, too."""
    while v.op in ALIAS:
        v = v.args[0]
    return v.op == "select" and {a.constant for a in v.args[1:]} == {0, 0xFFFFFFFF}


_SPECIAL: Final[dict[str, Callable[..., None]]] = {
    "param": Vc4Selector._param,
    "worker": Vc4Selector._worker,
    "workers": Vc4Selector._workers,
    "lane": Vc4Selector._lane,
    "asm": Selector._asm,
    "select": Selector._select,
    "rot": Vc4Selector._rot,
    "shuffle": Vc4Selector._shuffle,
    "bcast": Vc4Selector._bcast,
    **dict.fromkeys(SFU, Vc4Selector._sfu),
    "request": Vc4Selector._request,
    "seek": Vc4Selector._seek,
    "next": Vc4Selector._next,
    "pop": Vc4Selector._pop,
    "data": Vc4Selector.data,
    "row": Vc4Selector.row,
    "commit": Vc4Selector.commit,
    "fetch": Vc4Selector.fetch,
    "lock": Vc4Selector.lock,
    "semaphore": Vc4Selector.semaphore,
    "barrier": Vc4Selector.wait,
    "unlock": Vc4Selector.unlock,
    **dict.fromkeys(("sinpi", "stream"), Vc4Selector._missing),
    "loop": Selector._loop,
    "if_any": Selector._if_any,
}
Vc4Selector.special = _SPECIAL


def select_vc4(top: Region, *, lean: bool = False) -> Function:
    """MIR of a kernel. lean: fewer registers, more operations."""
    s = Vc4Selector(top, lean)
    s.region(top)
    first = s.blocks[0]
    first.ops = s.pack() + s.entry + first.ops
    s.op("mov", NOP, WAIT_STORE, role="vpm")
    return Function(s.blocks, s.count)
