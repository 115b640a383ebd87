"""Instruction selection for V3D 4.2 and 7.1: legal KIR with requests to MIR.

Masks live in flag A. One is held at a time; a mask that is wanted and not held is computed again before its use, and one
that crosses a block as a carried value is a register of 0 and -1. Selects are a copy and a conditional write of the
operation itself where it has no other use.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from qpu.core.isa import Isa
from qpu.errors import CompileError, Diagnostic
from qpu.lang.kir import Loop, Region, Request, Skip, Value, walk
from qpu.lang.mir import Block, Fixed, Function, Imm, MOp, Operand
from qpu.v3d.regs import Sig, imm_bits, imm_index

__all__ = ["Uniform", "select_v3d"]

TMUD, TMUA, TMUC, NOP = 11, 12, 32, 6
_LDUNIFRF, _LDTMU = int(Sig.LDUNIFRF), int(Sig.LDTMU)

Uniform = tuple[str, object]
"""What a uniform holds: ("const", bits), ("param", name) or ("workers", None)."""

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
_ALIAS: Final = frozenset({"bitcast", "same"})


class _Select:
    """One selection. place: the operand of each KIR value; held: the mask in flag A and its polarity."""

    def __init__(self, isa: Isa, top: Region) -> None:
        self.isa = isa
        self.count = 0
        self.place: dict[int, Operand] = {}
        self.uniforms: dict[Uniform, int] = {}
        self.entry: list[MOp] = []
        self.blocks: list[Block] = []
        self.depth = 0
        self.held: tuple[Value, str] | None = None
        self.uses: dict[int, int] = {}
        self.inside: dict[int, Region] = {}
        self.folded: set[int] = set()
        self.requests: list[MOp] = []
        for v in walk(top):
            for a in v.args:
                self.uses[id(a)] = self.uses.get(id(a), 0) + 1
            if isinstance(v.attr, Loop | Skip):
                for y in v.attr.yields:
                    self.uses[id(y)] = self.uses.get(id(y), 0) + 1
                if isinstance(v.attr, Loop):
                    self.uses[id(v.attr.cond)] = self.uses.get(id(v.attr.cond), 0) + 1
        self.now = self.block("entry")

    # -- building

    def register(self) -> int:
        self.count += 1
        return self.count - 1

    def block(self, name: str) -> Block:
        made = Block(f"{name}{len(self.blocks)}", self.depth)
        if self.blocks and (self.now.branch is None or self.now.branch[1]):
            self.now.falls = made
        self.blocks.append(made)
        self.now = made
        self.held = None
        return made

    def op(
        self, name: str, dst: Operand | None = None, a: Operand | None = None, b: Operand | None = None, **more: object
    ) -> MOp:
        m = MOp(name, dst, a, b, loc=self.loc, **more)  # type: ignore[arg-type]  # fields of MOp
        self.now.ops.append(m)
        return m

    loc = None

    def uniform(self, what: Uniform) -> int:
        """The register that holds a uniform: read once, in front of everything."""
        found = self.uniforms.get(what)
        if found is None:
            found = self.uniforms[what] = self.register()
            self.entry.append(MOp("", sig=_LDUNIFRF, sig_dst=found, role="uniform", uniform=what))
        return found

    def operand(self, v: Value) -> Operand:
        """The place of a value; constants as small immediates or uniforms."""
        if v.op == "const":
            index = imm_index(v.attr)
            return Imm(index) if index is not None else self.uniform(("const", v.attr))
        if v.op in _ALIAS:
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

    def mask(self, v: Value) -> str:
        """Make flag A tell the mask. Returns the polarity: "a" where set flags mean true, "na" where clear ones do."""
        while v.op in _ALIAS:
            v = v.args[0]
        if self.held is not None and self.held[0] is v:
            return self.held[1]
        if v.op == "bnot":
            return "na" if self.mask(v.args[0]) == "a" else "a"
        polarity = self._flags(v)
        self.held = (v, polarity)
        return polarity

    def _flags(self, v: Value) -> str:
        if v.op == "bnot":
            return "na" if self._flags(v.args[0]) == "a" else "a"
        if v.op in ("band", "bor"):
            return self._chain(v)
        name, a, b, flag, inverted = self._test(v)
        self.op(name, Fixed("magic", NOP), a, b, push=f"push{flag}")
        return "na" if inverted else "a"

    def _chain(self, v: Value) -> str:
        """A left-deep chain of and, or: a push, then updates. What is no leaf on the right becomes a register first."""
        leaves: list[tuple[str, Value, bool]] = []  # connective, leaf, negated

        def flat(x: Value, negated: bool) -> None:
            while x.op == "bnot" or x.op in _ALIAS:
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
                if not self._is_leaf(second):
                    self.materialise(second)
                leaves.append((kind, second, leaf_negated))
            else:
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
        while v.op == "bnot" or v.op in _ALIAS:
            v = v.args[0]
        return v.op not in ("band", "bor") or id(v) in self.place

    def _test_inverted(self, v: Value) -> bool:
        if v.op in ("lt", "le", "eq", "ne") and id(v) not in self.place:
            return v.op == "ne" or (v.op == "le" and v.attr != "f")
        return False

    def _test(self, v: Value) -> tuple[str, Operand, Operand | None, str, bool]:
        """An operation whose flag tells a leaf: name, operands, flag letter, inverted."""
        while v.op in _ALIAS:
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
        self.place[id(v)] = r
        return r

    def rotate(self, source: Operand, n: int) -> int:
        """Lane l gets lane (l + n) % 16."""
        r = self.register()
        if self.isa is Isa.V3D71:
            index = imm_index(n if n < 16 else n - 32)
            assert index is not None
            self.op("rot", r, source, Imm(index))
        else:
            held = self.register()  # an accumulator, which only a short-lived register becomes
            self.op("mov", held, source)
            self.op("mov", r, held, rot=(16 - n) % 16 or 16)
        return r

    # -- operations

    def region(self, region: Region) -> None:
        for v in region.ops:
            if v.op in ("select", "data") and id(v) not in self.folded:
                x = v.args[1 if v.op == "select" else 0]
                if x.op in _FOLDABLE and self.uses.get(id(x)) == 1 and x.region is region:
                    self.folded.add(id(x))
        for v in region.ops:
            self.loc = v.loc
            self.one(v)

    def one(self, v: Value) -> None:
        op = v.op
        if op in ("const", "parameter", "result") or op in _ALIAS or id(v) in self.folded:
            return
        if v.type == "b" and op not in ("loop", "if_any"):
            return  # computed where it is used
        special = _SPECIAL.get(op)
        if special is not None:
            special(self, v)
            return
        r = self.register()
        self.emit(v, r)
        self.place[id(v)] = r

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
        t, r = self.register(), self.register()
        index = imm_index(-16)
        assert index is not None
        self.entry.insert(0, MOp("shl", t, Fixed("rf", PAYLOAD[self.isa]), Imm(index), role="payload"))
        self.entry.insert(1, MOp("shr", r, t, Imm(index)))
        self.place[id(v)] = r

    def _lane(self, v: Value) -> None:
        r = self.register()
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

    def _select(self, v: Value) -> None:
        mask, a, b = v.args
        d = self.register()
        polarity = self.mask(mask)
        self.op("mov", d, self.operand(b), role="copy")
        if id(a) in self.folded:
            self.emit(a, d, f"if{polarity}")
        else:
            self.op("mov", d, self.operand(a), cond=f"if{polarity}")
        self.place[id(v)] = d

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
        if q.constant is not None:
            # rotate the lane to place 0, then spread it; by doubling on both chips
            n = q.constant & 15
            index = self.uniform(("const", n)) if imm_index(n) is None else None
            assert index is None
        a, at = self.in_register(v.args[0]), self.in_register(q)
        if self.isa is Isa.V3D71:
            r = self.register()
            self.op("shuffle", r, a, at)
            self.place[id(v)] = r
            return
        self._shuffle(v)

    # -- memory

    def _address(self, v: Value, **more: object) -> MOp:
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

    def _pop(self, v: Value) -> None:
        r = self.register()
        self.op("", sig=_LDTMU, sig_dst=r, role="pop")
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

    def _barrier(self, v: Value) -> None:
        finding = Diagnostic("lang-barrier", "barriers are not available yet", loc=v.loc)
        raise CompileError(finding.render(), [finding])

    # -- control

    def _flush(self) -> None:
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
            source: Operand = Imm(index) if index is not None else self.uniform(("const", word))
            ops.insert(at, MOp("mov", Fixed("magic", TMUC), source, role="config", loc=part[0].loc))

    def _loop(self, v: Value) -> None:
        attr: Loop = v.attr
        self._flush()
        guard, inits = v.args[0], v.args[1:]
        always = guard.op == "const" and guard.attr
        skip = None
        for p, init in zip(attr.region.parameters, inits, strict=True):
            r = self.register()
            self._copy_into(r, init)
            self.place[id(p)] = r
        if not always:
            polarity = self.mask(self._lanes_of(guard))
            skip = "allna" if polarity == "a" else "alla"
        before = self.now
        self.depth += 1
        body = self.block("loop")
        self.region(attr.region)
        yields = [(self.place[id(p)], y) for p, y in zip(attr.region.parameters, attr.yields, strict=True)]
        for _, y in yields:
            if y.type == "b":
                self.materialise(y)
        polarity = self._condition(attr)
        self._parallel([(p, self.operand(y)) for p, y in yields])
        self._flush()
        self.now.branch = (body, "anya" if polarity == "a" else "anyna")
        self.now.loc = v.loc
        self.depth -= 1
        end = self.block("end")
        if skip is not None:
            before.branch = (end, skip)
            before.loc = v.loc
        for r, p in zip(attr.results, attr.region.parameters, strict=True):
            self.place[id(r)] = self.place[id(p)]

    def _copy_into(self, r: int, v: Value) -> None:
        if v.type == "b":
            source: Operand = Imm(0 if not v.attr else _minus_one()) if v.op == "const" else self.materialise(v)
            self.op("mov", r, source, role="copy")
        else:
            self.op("mov", r, self.operand(v), role="copy")

    @staticmethod
    def _lanes_of(v: Value) -> Value:
        """The mask behind `any`: a branch asks all lanes itself."""
        return v.args[0] if v.op == "any" else v

    def _condition(self, attr: Loop) -> str:
        """Make flag A tell the loop's condition; an addition whose sign is asked for tells it itself."""
        cond = self._lanes_of(attr.cond)
        if cond.op == "lt" and cond.attr == "i" and cond.args[1].constant == 0 and id(cond) not in self.place:
            x = self.place.get(id(cond.args[0]))
            for at in range(len(self.now.ops) - 1, -1, -1):
                m = self.now.ops[at]
                if m.push or m.update or m.cond or m.op in ("umul24", "multop"):
                    break
                if m.dst == x and m.op in ("add", "sub"):
                    m.push = "pushn"
                    self.held = (cond, "a")
                    return "a"
        return self.mask(cond)

    def _parallel(self, copies: list[tuple[Operand, Operand]]) -> None:
        """All at once: an order in which nothing is overwritten before it is read, with a register for cycles."""
        todo = [(d, s) for d, s in copies if d != s]
        while todo:
            for i, (d, s) in enumerate(todo):
                if not any(other == d for j, (_, other) in enumerate(todo) if j != i):
                    self.op("mov", d, s, role="copy")
                    todo.pop(i)
                    break
            else:
                d, s = todo[0]
                kept = self.register()
                self.op("mov", kept, d, role="copy")
                todo = [(x, kept if y == d else y) for x, y in todo]

    def _if_any(self, v: Value) -> None:
        attr: Skip = v.attr
        self._flush()
        outs = []
        for r, old in zip(attr.results, v.args[1:], strict=True):
            d = self.register()
            self._copy_into(d, old)
            outs.append((r, d))
        polarity = self.mask(v.args[0])
        held = self.held
        before = self.now
        self.block("then")
        self.held = held
        self.region(attr.region)
        for y in attr.yields:
            if y.type == "b":
                self.materialise(y)
        self._parallel([(d, self.operand(y)) for (_, d), y in zip(outs, attr.yields, strict=True)])
        self._flush()
        end = self.block("end")
        before.branch = (end, "allna" if polarity == "a" else "alla")
        before.loc = v.loc
        for r, d in outs:
            self.place[id(r)] = d


def _minus_one() -> int:
    index = imm_index(-1)
    assert index is not None
    return index


PAYLOAD: Final = {Isa.V3D42: 0, Isa.V3D71: 3}
"""Register with the workgroup's coordinates x and y at program start (v3d.md 10)."""

_SPECIAL: Final[dict[str, Callable[[_Select, Value], None]]] = {
    "param": _Select._param,
    "worker": _Select._worker,
    "workers": _Select._workers,
    "lane": _Select._lane,
    "stream": _Select._stream,
    "select": _Select._select,
    "rot": _Select._rot,
    "shuffle": _Select._shuffle,
    "bcast": _Select._bcast,
    "h2f": _Select._h2f,
    "f2h": _Select._f2h,
    "request": _Select._request,
    "pop": _Select._pop,
    "data": _Select._data,
    "commit": _Select._commit,
    "barrier": _Select._barrier,
    "loop": _Select._loop,
    "if_any": _Select._if_any,
}


def select_v3d(top: Region, isa: Isa) -> Function:
    """MIR of a kernel. The blocks end with the one that ends the program."""
    s = _Select(isa, top)
    s.region(top)
    s._flush()
    first = s.blocks[0]
    first.ops = s.entry + first.ops
    return Function(s.blocks, s.count)
