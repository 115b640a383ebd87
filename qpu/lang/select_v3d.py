"""Instruction selection for V3D 4.2 and 7.1: legal KIR with requests to MIR.

Masks live in flag A. One is held at a time; a mask that is wanted and not held is computed again before its use, and
one that crosses a block as a carried value is a register of 0 and -1. Selects are a copy and a conditional write of
the operation itself where it has no other use.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Final

from qpu.core.isa import Isa
from qpu.lang.kir import Region, Request, Value
from qpu.lang.mir import Fixed, Function, Imm, MOp, Operand
from qpu.lang.select import ALIAS, TAKES_R5, Polarity, Selector, Uniform, pattern
from qpu.v3d.regs import Sig, imm_bits, imm_index

__all__ = ["select_v3d"]

UNIFA, TMUD, TMUA, TMUC, NOP, R5REP, SYNCB = 9, 11, 12, 32, 6, 55, 18
_LDUNIFRF, _LDUNIFARF, _LDTMU = int(Sig.LDUNIFRF), int(Sig.LDUNIFARF), int(Sig.LDTMU)

_OPERATIONS: Final = {
    "add": "add", "sub": "sub", "fadd": "fadd", "fsub": "fsub", "fmul": "fmul", "and": "and", "or": "or", "xor": "xor",
    "shl": "shl", "shr": "shr", "asr": "asr", "ror": "ror", "min": "min", "max": "max", "umin": "umin", "umax": "umax",
    "fmin": "fmin", "fmax": "fmax", "not": "not", "itof": "itof", "utof": "utof", "clz": "clz", "ffloor": "ffloor",
    "fceil": "fceil", "ftrunc": "ftrunc", "fround": "fround", "ftoi": "ftoiz", "ftou": "ftouz", "recip": "recip",
    "rsqrt": "rsqrt", "exp2": "exp", "log2": "log", "sinpi": "sin", "umul24": "umul24", "smul24": "smul24",
}  # fmt: skip
"""KIR operations that are one row."""

_SFU: Final = frozenset({"recip", "rsqrt", "exp2", "log2", "sinpi"})
_FOLDABLE: Final = frozenset(_OPERATIONS) - _SFU


class _Select(Selector):
    """One selection."""

    foldable = _FOLDABLE

    def __init__(self, isa: Isa, top: Region, lean: bool) -> None:
        self.isa = isa
        self.lean = lean
        self.packs: list[int] = []
        self.worker: int | None = None
        super().__init__(top)

    def uniform(self, what: Uniform) -> int:
        """The register that holds a uniform: read once, in front of everything."""
        if self.lean:
            return self._packed(what)
        found = self.uniforms.get(what)
        if found is None:
            found = self.uniforms[what] = self.register()
            self.entry.append(MOp("", sig=_LDUNIFRF, sig_dst=found, role="uniform", uniform=what))
        return found

    def _packed(self, what: Uniform) -> int:
        """A uniform from a register that holds 16 of them, one a lane; taken out once a block."""
        found = self.near.get(what)
        if found is not None:
            return found
        number = self.uniforms.setdefault(what, len(self.uniforms))
        group, lane = divmod(number, 16)
        while len(self.packs) <= group:
            self.packs.append(self.register())
        r = self.near[what] = self.register()
        if self.isa is Isa.V3D71:
            self.op("shuffle", r, self.packs[group], Imm(lane))
        else:
            held = self.register()
            self.op("mov", held, self.packs[group])
            self.op("mov", Fixed("magic", R5REP), held, rot=(16 - lane) % 16 or None, role="r5")
            self.op("mov", r, Fixed("acc", 5))
        return r

    def pack(self) -> list[MOp]:
        """Operations that fill the registers of `_packed`, for the start of the program."""
        if not self.packs:
            return []
        lane = self.register()
        made = [MOp("eidx", lane)]
        made += [MOp("mov", p, Imm(0), role="copy") for p in self.packs]
        for what, number in self.uniforms.items():
            word = self.register()
            made.append(MOp("", sig=_LDUNIFRF, sig_dst=word, role="uniform", uniform=what))
            made.append(MOp("xor", Fixed("magic", NOP), lane, Imm(number % 16), push="pushz"))
            made.append(MOp("mov", self.packs[number // 16], word, cond="ifa"))
        return made

    def operand(self, v: Value) -> Operand:
        """The place of a value; constants as small immediates or uniforms."""
        if v.op == "const":
            index = imm_index(pattern(v))
            return Imm(index) if index is not None else self.uniform(("const", pattern(v)))
        if v.op in ALIAS:
            return self.operand(v.args[0])
        found = self.place.get(id(v))
        if found is None:
            raise AssertionError(f"{v.op} has no register")
        return found

    def in_register(self, v: Value) -> Operand:
        """As operand, but never an immediate."""
        found = self.operand(v)
        return self.uniform(("const", imm_bits(found.n))) if isinstance(found, Imm) else found

    def two(self, a: Value, b: Value) -> tuple[Operand, Operand]:
        """Two operands of one operation, with at most one small immediate."""
        x, y = self.operand(a), self.operand(b)
        if isinstance(x, Imm) and isinstance(y, Imm) and (x != y or self.isa is Isa.V3D71):
            x = self.uniform(("const", imm_bits(x.n)))
        return x, y

    # -- masks

    def flags(self, v: Value) -> Polarity:
        """Make flag A tell a mask."""
        if v.op == "bnot":
            return "na" if self.flags(v.args[0]) == "a" else "a"
        if v.op in ("band", "bor"):
            return self._chain(v)
        name, a, b, flag, inverted = self._test(v)
        self.op(name, Fixed("magic", NOP), a, b, push=f"push{flag}")
        return "na" if inverted else "a"

    lane_flags: ClassVar = {1: "na", 2: "nb"}

    def push_lanes(self, lane: Value) -> None:
        for n in (2, 1):  # the second moves the first to flag B
            self.op("sub", Fixed("magic", NOP), self.operand(lane), self.bits(n), push="pushn")

    def _chain(self, v: Value) -> str:
        """A left-deep chain of and, or: a push, then updates. What is no leaf on the right becomes a register first."""
        leaves: list[tuple[str, Value, bool]] = []  # connective, leaf, negated

        def flat(x: Value, negated: bool) -> None:
            while x.op == "bnot" or x.op in ALIAS:
                negated ^= x.op == "bnot"
                x = x.args[0]
            if x.op in ("band", "bor") and id(x) not in self.place:
                kind = x.op if not negated else ("bor" if x.op == "band" else "band")
                first, second = x.args
                if self._is_leaf(first) and not self._is_leaf(second):
                    first, second = second, first
                flat(first, negated)
                leaf_negated = negated
                while second.op == "bnot":
                    leaf_negated ^= True
                    second = second.args[0]
                if not self._is_leaf(second) or second.op in ("any", "all"):  # before the chain pushes
                    self.materialise(second)
                leaves.append((kind, second, leaf_negated))
            else:
                if x.op in ("any", "all"):
                    self.materialise(x)
                leaves.append(("", x, negated))

        flat(v, False)
        if len({kind for kind, _, _ in leaves[1:]}) == 1:  # one connective: the order is free
            kind = leaves[1][0]
            ordered = sorted(((x, n) for _, x, n in leaves), key=lambda row: self._test_inverted(row[0]) ^ row[1])
            leaves = [("" if i == 0 else kind, x, n) for i, (x, n) in enumerate(ordered)]
        polarity = ""
        for kind, leaf, negated in leaves:
            name, a, b, flag, inverted = self._test(leaf)
            inverted ^= negated
            null = Fixed("magic", NOP)
            if not kind:
                self.op(name, null, a, b, push=f"push{flag}")
                polarity = "na" if inverted else "a"
                continue
            # f: what flag A holds. a: the mask is f; na: its inverse.
            if kind == "band":
                update = ("and", inverted) if polarity == "a" else ("nor", not inverted)
                polarity = "a"
            else:
                update = ("nor", inverted) if polarity == "a" else ("and", not inverted)
                polarity = "na"
            connective, negate = update
            self.op(name, null, a, b, update=f"{connective}{'n' if negate else ''}{flag}")
        return polarity

    def _is_leaf(self, v: Value) -> bool:
        while v.op == "bnot" or v.op in ALIAS:
            v = v.args[0]
        return v.op not in ("band", "bor") or id(v) in self.place

    def _test_inverted(self, v: Value) -> bool:
        if v.op in ("lt", "le", "eq", "ne") and id(v) not in self.place:
            return v.op == "ne" or (v.op == "le" and v.attr != "f")
        return False

    def _test(self, v: Value) -> tuple[str, Operand, Operand | None, str, bool]:
        """An operation whose flag tells a leaf: name, operands, flag letter, inverted."""
        while v.op in ALIAS:
            v = v.args[0]
        if v.op == "const":
            zero = self.uniform(("const", 0))
            return "or", zero, zero, "z", not v.attr
        if id(v) in self.place:
            r = self.place[id(v)]
            return "or", r, r, "n", False
        if v.op in ("any", "all"):
            self.materialise(v)
            r = self.place[id(v)]
            return "or", r, r, "n", False
        if v.op not in ("lt", "le", "eq", "ne"):
            raise AssertionError(f"a mask of {v.op}")
        a, b = v.args
        if v.attr == "f":
            flag, inverted = {"lt": ("n", False), "le": ("c", False), "eq": ("z", False), "ne": ("z", True)}[v.op]
            return "fcmp", *self.two(a, b), flag, inverted
        if v.op in ("eq", "ne"):
            if b.constant == 0:
                r = self.in_register(a)
                return "or", r, r, "z", v.op == "ne"
            return "xor", *self.two(a, b), "z", v.op == "ne"
        if v.attr == "i":
            if v.op == "lt" and b.constant == 0:
                r = self.in_register(a)
                return "or", r, r, "n", False
            # min's carry: a > b, signed
            return ("min", *self.two(b, a), "c", False) if v.op == "lt" else ("min", *self.two(a, b), "c", True)
        # sub's carry: a < b, unsigned
        return ("sub", *self.two(a, b), "c", False) if v.op == "lt" else ("sub", *self.two(b, a), "c", True)

    def materialise(self, v: Value) -> int:
        """A mask as a register of 0 and -1, which later uses test."""
        found = self.place.get(id(v))
        if isinstance(found, int):
            return found
        r = self.register()
        if v.op in ("any", "all"):
            polarity = self.mask(v.args[0])
            part = self.register()
            self.op("mov", part, Imm(0), role="copy")
            # any: 1 where true, ored over the lanes; all: 1 where false, and the result is inverted
            wanted = polarity if v.op == "any" else ("na" if polarity == "a" else "a")
            self.op("mov", part, Imm(_minus_one()), cond=f"if{wanted}")
            for n in (8, 4, 2, 1):
                other = self.rotate(part, n)
                joined = self.register()
                self.op("or", joined, part, other)
                part = joined
            if v.op == "any":
                self.op("mov", r, part, role="copy")
            else:
                self.op("not", r, part)
        else:
            polarity = self.mask(v)
            self.op("mov", r, Imm(0), role="copy")
            self.op("mov", r, Imm(_minus_one()), cond=f"if{polarity}")
        return self.keep(v, r)

    def rotate(self, source: Operand, n: int) -> int:
        """Lane l gets lane (l + n) % 16."""
        r = self.register()
        if self.isa is Isa.V3D71:
            index = imm_index(n if n < 16 else n - 32)
            assert index is not None
            self.op("rot", r, source, Imm(index))
        else:
            self.op("mov", r, self.whole(source), rot=(16 - n) % 16 or 16)
        return r

    # -- operations

    def emit(self, v: Value, dst: Operand, cond: str = "") -> None:
        """The operation of a value, its result in `dst`."""
        op = v.op
        if op == "fabs":
            self.op("fmov", dst, self.operand(v.args[0]), amod="abs", cond=cond)
        elif op == "fneg":
            sign = self.uniform(("const", 0x80000000))
            self.op("xor", dst, self.in_register(v.args[0]), sign, cond=cond)
        elif op == "mul":
            a, b = (self.in_register(x) for x in v.args)
            self.op("multop", Fixed("magic", NOP), a, b)
            self.op("umul24", dst, a, b, cond=cond)
        elif len(v.args) == 1:
            self.op(_OPERATIONS[op], dst, self._source(v.args[0]), cond=cond, rf_only=op in _SFU)
        else:
            self.op(_OPERATIONS[op], dst, *self.two(*v.args), cond=cond)

    def _source(self, v: Value) -> Operand:
        return self.operand(v)

    def _param(self, v: Value) -> None:
        self.place[id(v)] = self.uniform(("param", v.attr))

    def _workers(self, v: Value) -> None:
        self.place[id(v)] = self.uniform(("workers", None))

    def _worker(self, v: Value) -> None:
        """The workgroup's number: the low half of the payload's second register (v3d.md 10)."""
        if self.worker is not None:
            self.place[id(v)] = self.worker
            return
        t, r = self.register(), self.register()
        self.worker = r
        index = imm_index(-16)
        assert index is not None
        self.entry.insert(0, MOp("shl", t, Fixed("rf", PAYLOAD[self.isa]), Imm(index), role="payload"))
        self.entry.insert(1, MOp("shr", r, t, Imm(index)))
        self.place[id(v)] = r

    def _lane(self, v: Value) -> None:
        r = self.register()
        if self.lean:
            self.op("eidx", r)
        else:
            self.entry.append(MOp("eidx", r))
        self.place[id(v)] = r

    def _stream(self, v: Value) -> None:
        r = self.register()
        self.op("", sig=_LDUNIFRF, sig_dst=r, role="uniform", uniform=("stream", v.attr))
        self.place[id(v)] = r

    def _h2f(self, v: Value) -> None:
        r = self.register()
        self.op("fmov", r, self.in_register(v.args[0]), amod="l")
        self.place[id(v)] = r

    def _f2h(self, v: Value) -> None:
        r = self.register()
        self.op("mov", r, Imm(0), role="copy")
        self.op("fmov", r, self.in_register(v.args[0]), pack="l")
        self.place[id(v)] = r

    def _rot(self, v: Value) -> None:
        self.place[id(v)] = self.rotate(self.in_register(v.args[0]), v.attr)

    def _shuffle(self, v: Value) -> None:
        """7.1 has the operation; 4.2 takes the lanes one after another by rotations under masks."""
        a, index = self.in_register(v.args[0]), self.in_register(v.args[1])
        r = self.register()
        if self.isa is Isa.V3D71:
            self.op("shuffle", r, a, index)
            self.place[id(v)] = r
            return
        lane, distance, fifteen = self.register(), self.register(), imm_index(15)
        assert fifteen is not None
        self.op("eidx", lane)
        self.op("sub", distance, index, lane)
        self.op("and", distance, distance, Imm(fifteen))
        self.op("mov", r, a, role="copy")
        for n in range(1, 16):
            moved = self.rotate(a, n)
            at = imm_index(n)
            assert at is not None
            self.op("xor", Fixed("magic", NOP), distance, Imm(at), push="pushz")
            self.op("mov", r, moved, cond="ifa")
        self.held = None
        self.place[id(v)] = r

    def _bcast(self, v: Value) -> None:
        q = v.args[1]
        if q.constant is not None and self.isa is Isa.V3D42:  # the lane moves to place 0, r5 spreads it
            r = self.register()
            held = self.whole(self.in_register(v.args[0]))
            self.op("mov", Fixed("magic", R5REP), held, rot=(16 - (q.constant & 15)) % 16 or None, role="r5")
            if not self.lean and self.passes(v, TAKES_R5):
                self.place[id(v)] = Fixed("acc", 5)
                return
            self.op("mov", r, Fixed("acc", 5))
            self.place[id(v)] = r
            return
        a, at = self.in_register(v.args[0]), self.in_register(q)
        if self.isa is Isa.V3D71:
            r = self.register()
            self.op("shuffle", r, a, at)
            self.place[id(v)] = r
            return
        self._shuffle(v)

    # -- memory

    def _address(self, v: Value, **more: Any) -> MOp:
        request: Request = v.attr
        cond = ""
        if len(v.args) > 2:
            cond = f"if{self.mask(v.args[2])}"
        base, offset = self.operand(v.args[0]), self.operand(v.args[1])
        if isinstance(offset, Imm) and offset.n == 0:
            m = self.op("mov", Fixed("magic", TMUA), base, cond=cond, **more)
        else:
            m = self.op("add", Fixed("magic", TMUA), base, offset, cond=cond, **more)
        m.byte = request.byte
        self.requests.append(m)
        return m

    def _request(self, v: Value) -> None:
        self._address(v, role="request", words=v.attr.words)
        self.waiting += v.attr.words

    def _seek(self, v: Value) -> None:
        self.op("mov", Fixed("magic", UNIFA), self.in_register(v.args[0]), role="stream")

    def _next(self, v: Value) -> None:
        r = self.register()
        self.op("", sig=_LDUNIFARF, sig_dst=r, role="stream")
        self.place[id(v)] = r

    def _pop(self, v: Value) -> None:
        r = self.register()
        self.op("", sig=_LDTMU, sig_dst=r, role="pop")
        self.waiting -= 1
        self.place[id(v)] = r

    def _data(self, v: Value) -> None:
        x = v.args[0]
        before = len(self.now.ops)
        if id(x) in self.folded:
            self.emit(x, Fixed("magic", TMUD))
        else:
            self.op("mov", Fixed("magic", TMUD), self.operand(x))
        for m in self.now.ops[before:]:
            if m.dst == Fixed("magic", TMUD):
                m.role = "data"

    def _commit(self, v: Value) -> None:
        atomic = v.attr.byte & 0x78 != 0x78
        self._address(v, role="request" if atomic else "store", words=1 if atomic else 0)
        self.waiting += atomic

    def _barrier(self, v: Value) -> None:
        """Stores end, then the thread joins the barrier with its switch; nothing else is in that block, nor in the
        slots behind the switch (v3d.md 8.4).
        """
        self.end_region()
        self.block("barrier")
        self.op("tmuwt", role="barrier")
        self.op("barrierid", Fixed("magic", SYNCB), sig=int(Sig.THRSW), role="barrier")
        for _ in range(2):
            self.op("", role="barrier")
        self.block("after")

    # -- control

    def bits(self, value: int) -> Operand:
        index = imm_index(value if value < 1 << 31 else value - (1 << 32))
        return Imm(index) if index is not None else self.uniform(("const", value))

    def branch_any(self, polarity: Polarity) -> str:
        return "anya" if polarity == "a" else "anyna"

    def branch_all(self, polarity: Polarity) -> str:
        return "alla" if polarity == "a" else "allna"

    def sign(self, m: MOp) -> Polarity | None:
        m.push = "pushn"
        return "a"

    def end_region(self) -> None:
        """Configuration words in front of groups of four requests of this block (v3d.md 9.2)."""
        rows, self.requests = self.requests, []
        if all(m.byte == 0xFF for m in rows):
            return
        for start in range(0, len(rows), 4):
            part = rows[start : start + 4]
            word = 0xFFFFFFFF
            for i, m in enumerate(part):
                word = word & ~(0xFF << 8 * i) | m.byte << 8 * i
            if word == 0xFFFFFFFF:
                continue
            ops = self.now.ops
            at = ops.index(part[0])
            while at > 0 and ops[at - 1].role == "data":
                at -= 1
            index = imm_index(word if word < 1 << 31 else word - (1 << 32))
            self.near.pop(("const", word), None)  # what the block has of it may come later
            end = len(ops)
            source: Operand = Imm(index) if index is not None else self.uniform(("const", word))
            made, ops[end:] = ops[end:], []
            ops[at:at] = [*made, MOp("mov", Fixed("magic", TMUC), source, role="config", loc=part[0].loc)]


def _minus_one() -> int:
    index = imm_index(-1)
    assert index is not None
    return index


PAYLOAD: Final = {Isa.V3D42: 0, Isa.V3D71: 3}
"""Register with the workgroup's coordinates x and y at program start (v3d.md 10)."""

_SPECIAL: Final[dict[str, Callable[..., None]]] = {
    "param": _Select._param,
    "worker": _Select._worker,
    "workers": _Select._workers,
    "lane": _Select._lane,
    "stream": _Select._stream,
    "asm": Selector._asm,
    "select": Selector._select,
    "rot": _Select._rot,
    "shuffle": _Select._shuffle,
    "bcast": _Select._bcast,
    "h2f": _Select._h2f,
    "f2h": _Select._f2h,
    "request": _Select._request,
    "seek": _Select._seek,
    "next": _Select._next,
    "pop": _Select._pop,
    "data": _Select._data,
    "commit": _Select._commit,
    "barrier": _Select._barrier,
    "loop": Selector._loop,
    "if_any": Selector._if_any,
}
_Select.special = _SPECIAL


def select_v3d(top: Region, isa: Isa, *, lean: bool = False) -> Function:
    """MIR of a kernel. The blocks end with the one that ends the program. lean: fewer registers, more operations."""
    s = _Select(isa, top, lean)
    s.region(top)
    s.end_region()
    first = s.blocks[0]
    payload = [m for m in s.entry if m.role == "payload"]
    first.ops = payload + s.pack() + [m for m in s.entry if m.role != "payload"] + first.ops
    return Function(s.blocks, s.count)
