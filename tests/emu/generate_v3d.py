"""Generator of random V3D programs with one result on every engine, which cover `forms_v3d.catalogue`.

Registers have classes, because a NaN's payload is not defined: integers, floats, pairs of halves. Values only move
between classes through conversions that are defined for every input or keep a NaN a NaN.

Every thread has 2 KiB of the data buffer to itself: scratch, then results. A program loads its registers from the
results part, works, and stores them there. Seeds take turns in what they must contain, so that a few hundred programs
show every form.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from qpu.core.isa import Isa, Unit
from qpu.core.optable import Op, OperandType, Token
from qpu.emu.v3d.tmu import Action, decode_request
from qpu.errors import QpuError
from qpu.v3d.codes import cond_field
from qpu.v3d.decode import decode
from qpu.v3d.encode import encode
from qpu.v3d.instr import Alu, AluHalf, Branch, Dst, Sig, Src, SrcKind
from qpu.v3d.ops import table, variants
from tests.emu.forms_v3d import DATA_NAMES, SFU_MAGIC, Form, catalogue, forms_of

CODE, UNIFORMS, DATA = 0x100000, 0x200000, 0x300000
AREA, RESULTS = 2048, 1024  # bytes of a thread, and where its results begin
SIDE = 0x2000  # offset of the words that unifa reads, from UNIFORMS
INT, FLOAT, HALF = "int", "float", "half"
OF_TYPE = {OperandType.F32: FLOAT, OperandType.F16X2: HALF}
RAW = {"v11fpack"}  # its halves may be any bits, and its result holds parts of their payload
IMM_OF = {"add a": Sig.IMM_A, "add b": Sig.IMM_B, "mul a": Sig.IMM_C, "mul b": Sig.IMM_D}
NULL = Dst(6, True)
PER_SEED = (3, 1, 2, 1, 1, 1, 2, 1, 1)  # forms of each list of the catalogue
SLOTS = {Isa.V3D42: 8, Isa.V3D71: 12}  # QPUs


@dataclass
class Program:
    """Words, uniforms from the first on, the dispatch, and the class of each result of a lane."""

    isa: Isa
    words: list[int] = field(default_factory=list)
    uniforms: list[int] = field(default_factory=lambda: [DATA])
    batches: int = 1
    size: int = 16  # items of a workgroup
    threads: int = 2
    single: bool = False
    classes: list[str] = field(default_factory=list)
    forms: set[Form] = field(default_factory=set)  # forms that the words do not show


class Draft(Exception):
    """A drawn instruction does not encode."""


class Generator:
    """Draws a program from a seed."""

    def __init__(self, isa: Isa, seed: int, small: bool = False) -> None:
        self.isa = isa
        self.small = small
        self.v42 = isa is Isa.V3D42
        self.draw = draw = random.Random(f"{isa} {seed}")
        # Operations on halves may leave flags that differ in the halves of a lane; a condition then writes half of a
        # float, beside half of a NaN's payload. So a program has either such flags or conditional floats.
        self.halved = seed % 3 == 0
        self.p = Program(isa)
        self.words = self.p.words
        self.ops = table(isa)
        self.nop = dict.fromkeys((Unit.ADD, Unit.MUL), self.ops["nop"])
        self.must: list[Form] = []
        for k, (forms, n) in enumerate(zip(catalogue(isa), PER_SEED, strict=True)):
            turn = seed
            if not forms:
                continue
            if k:  # the other lists take turns
                if (seed + k) % 2:
                    continue
                turn = seed // 2
            self.must += [forms[(n * turn + i) % len(forms)] for i in range(min(n, len(forms)))]
        draw.shuffle(self.must)
        if small:
            del self.must[3:]
        rows = [op for op in self.ops if not op.graphics and op.name not in ("nop", "tmuwt")]
        self.rows = {u: [op for op in rows if u in op.code[isa]] for u in (Unit.ADD, Unit.MUL)}
        together = ("piece", "together") in self.must
        self.p.threads = 4 if draw.random() < 0.3 else 2
        self.p.single = False
        self.p.batches = draw.choice((1, 1, 1, 1, 2, SLOTS[isa]))
        if together:
            self.p.batches = draw.choice((2, 4, 8))
        elif draw.random() < 0.25:
            self.p.size = draw.choice((1, 5, 13, 20, 23, 100))
        limit = 32 if self.p.threads == 4 else 64
        names = draw.sample(range(4, limit), 14)
        self.base, self.out, self.t, self.count, self.unifa, self.link = names[:6]
        parts = {INT: names[6:10], FLOAT: names[10:12], HALF: names[12:14]}
        self.regs: dict[str, list[Src]] = {c: [Src(SrcKind.RF, n) for n in part] for c, part in parts.items()}
        self.loaded = {c: list(r) for c, r in self.regs.items()}
        if self.v42:
            for c, numbers in ((INT, (0, 1)), (FLOAT, (2,)), (HALF, (3,))):
                self.regs[c] += [Src(SrcKind.ACC, n) for n in numbers]
        self.readable = {c: list(r) for c, r in self.regs.items()}
        if self.v42:
            self.readable[FLOAT].append(Src(SrcKind.ACC, 4))
            self.readable[INT].append(Src(SrcKind.ACC, 5))
        else:
            self.readable[INT].append(Src(SrcKind.RF, 0))
        self.no_r4 = False

    # -- instructions

    def emit(self, *words: int) -> None:
        self.words.extend(words)

    def uniform(self, value: int) -> None:
        self.p.uniforms.append(value & 0xFFFFFFFF)

    def choose(self, classes: str, ports: list[int], acc: bool | None = None) -> Src:
        """A readable register of a class; on 4.2 through the two read ports."""
        found = [
            s
            for s in self.readable[classes]
            if not (self.no_r4 and s.kind is SrcKind.ACC and s.n == 4)
            and (acc is None or (s.kind is SrcKind.ACC) == acc)
        ]
        src = self.draw.choice(found)
        if self.v42 and src.kind is SrcKind.RF and src.n not in ports:
            if len(ports) == 2:
                raise Draft
            ports.append(src.n)
        return src

    def source(self, op: Op, role: str, mod: str, ports: list[int], acc: bool | None = None) -> Src:
        operand = op.operand(role)
        assert operand is not None
        kind = OF_TYPE.get(operand.type, INT)
        if mod in ("l", "h"):
            kind = HALF  # the half of a NaN's payload is not defined
        elif mod == "ff":
            kind = FLOAT
        if op.name in RAW:
            kind = INT
        src = self.choose(kind, ports, acc)
        return Src(src.kind, src.n, mod)

    def target(self, op: Op, pack: str, number: int | None = None) -> tuple[Dst, str]:
        """Where a result may go, and its class."""
        operand = op.operand("d")
        kind = INT if operand is None else OF_TYPE.get(operand.type, INT)
        if pack:
            kind = HALF
        if op.name == "multop" or (operand is not None and operand.type is OperandType.NONE):
            return NULL, kind
        if number is not None:
            wanted = {0: INT, 1: INT, 2: FLOAT, 3: HALF, 5: INT, 55: INT, **dict.fromkeys(SFU_MAGIC, FLOAT)}.get(
                number, kind
            )
            if wanted != kind or pack or (op.lane_op and number != 6):
                raise Draft
            return Dst(number, True), kind
        what = self.draw.random()
        if what < 0.04:
            return NULL, kind
        if what < 0.09 and kind == INT and not pack and Token.SFU not in op.tokens:
            return Dst(self.draw.choice((5, 55)), True), kind
        s = self.draw.choice(self.regs[kind])
        return Dst(s.n, s.kind is SrcKind.ACC), kind

    def half(self, unit: Unit, ports: list[int], form: Form | None, dst: int | None, acc: bool | None) -> AluHalf:
        if form is not None:
            op, mods = self.ops[form[1]], form[3:]
        else:
            op = self.draw.choice(self.rows[unit])
            if op.name in ("setmsf", "barrierid") and self.draw.random() < 0.8:
                raise Draft
            mods = self.draw.choice(variants(op, self.isa, unit))[:3] if self.draw.random() < 0.5 else ("", "", "")
        if op.name == "setmsf" and self.p.batches > 1 and form is None:
            raise Draft
        to, _ = self.target(op, mods[2], dst)
        sources = [self.source(op, role, mods[k], ports, acc) for k, role in enumerate("ab"[: op.arity])]
        a, b = (*sources, None, None)[:2]
        return AluHalf(op, to, a, b, mods[2])

    def idle(self, unit: Unit) -> AluHalf:
        return AluHalf(self.nop[unit], NULL)

    def alu(
        self, want: Form | None = None, sig: Sig | None = None, sig_dst: Dst | None = None, plain: bool = False
    ) -> int:
        """One instruction with defined effects. want: what it must show. plain: no signal, no condition field."""
        before = len(self.p.uniforms)
        for _ in range(4000):
            try:
                word = self.drawn(want, sig, sig_dst, plain)
            except (QpuError, Draft):
                continue
            if want is None or want in forms_of(self.isa, word):
                return word
            del self.p.uniforms[before:]
        raise AssertionError(f"cannot make {want} {sig}")

    def drawn(self, want: Form | None, sig: Sig | None, sig_dst: Dst | None, plain: bool) -> int:
        draw, kind = self.draw, want[0] if want else ""
        ports: list[int] = []
        key: tuple[str, ...] = ("",) * 6
        signals = sig if sig is not None else Sig.NONE
        if kind == "cond":
            assert want is not None
            key = want[1:]
        elif sig_dst is None and not plain and draw.random() < 0.6:
            key = draw.choice(KEYS)[1:]
        amount = None
        if kind == "rot":
            assert want is not None
            signals, amount = Sig.ROT, want[1]
            ports.append(-1)  # the second port's field holds the amount
        elif self.v42 and not (sig or plain or want or self.after_load()) and draw.random() < 0.06:
            signals, amount = Sig.ROT, draw.randrange(1, 32)
            ports.append(-1)
        acc = None if kind != "rot" else want is not None and want[2] == "ACC"
        wanted = {Unit.ADD: None, Unit.MUL: None}
        number: dict[Unit, int | None] = {Unit.ADD: None, Unit.MUL: None}
        busy = {Unit.ADD: any(key[:3]) or draw.random() < 0.85, Unit.MUL: any(key[3:]) or draw.random() < 0.55}
        if kind == "op":
            assert want is not None
            unit = Unit(want[2])
            wanted[unit], busy[unit] = want, True
        elif kind == "dst":
            assert want is not None
            unit = Unit(want[1])
            number[unit], busy[unit] = want[2], True
        elif kind == "rot":
            busy[Unit.MUL] = True
        imm = None
        if kind == "imm":
            assert want is not None
            imm = want
        elif sig is None and not plain and amount is None and draw.random() < 0.2:
            imm = ("imm", draw.choice(list(IMM_OF)), draw.randrange(48))
        if imm is not None:
            busy[Unit(imm[1].split()[0])] = True
            if self.v42:
                ports.append(-1)
        halves = []
        for unit, cond in ((Unit.ADD, key[:3]), (Unit.MUL, key[3:])):
            if not busy[unit]:
                halves.append(self.idle(unit))
                continue
            h = self.half(unit, ports, wanted[unit], number[unit], acc if unit is Unit.MUL else None)
            h = h._replace(cond=cond[0], push=cond[1], update=cond[2])
            operand = h.op.operand("d")
            floats = h.pack or (operand is not None and operand.type in OF_TYPE)
            if floats and (cond[1] == "pushn" or cond[2].endswith("n")):
                if kind == "cond":
                    raise Draft
                h = h._replace(push="", update="")  # the sign of a NaN is not defined
            whole = operand is not None and operand.type is OperandType.F32 and not h.pack
            if any(cond[1:]) and h.op.name.startswith(("v", "flpop")) and not self.halved:
                raise Draft
            if cond[0] and whole and self.halved:
                raise Draft
            halves.append(h)
        add, mul = halves
        if imm is not None:
            slot, n = imm[1].split(), imm[2]
            h = add if slot[0] == "add" else mul
            src = h.a if slot[1] == "a" else h.b
            if src is None or src.mod or (h.op.name in RAW):
                raise Draft
            new = Src(SrcKind.IMM, n)
            h = AluHalf(
                h.op,
                h.dst,
                new if slot[1] == "a" else h.a,
                new if slot[1] == "b" else h.b,
                h.pack,
                h.cond,
                h.push,
                h.update,
            )
            add, mul = (h, mul) if slot[0] == "add" else (add, h)
            signals |= Sig.IMM_B if self.v42 else IMM_OF[imm[1]]
        if sig is None and not plain and not signals and not any(key) and draw.random() < 0.15:
            signals, sig_dst = Sig.LDUNIFRF, Dst(draw.choice(self.regs[INT]).n, False)
            if sig_dst.n < 4:
                sig_dst = Dst(sig_dst.n, True)
        self.distinct(add, mul, signals, sig_dst)
        word = self.place(add, mul, signals, sig_dst, ports, imm, amount)
        if sig is None and signals & Sig.LDUNIFRF:
            self.uniform(draw.choice((draw.getrandbits(32), draw.getrandbits(5))))
        return word

    def after_load(self) -> bool:
        """Whether the instruction before is an ldtmu, whose result must not be rotated at once."""
        before = decode(self.isa, self.words[-1])
        return isinstance(before, Alu) and bool(before.sig & Sig.LDTMU)

    def distinct(self, add: AluHalf, mul: AluHalf, sig: Sig, sig_dst: Dst | None) -> None:
        """Refuse two results for one register, two units at once, and what hardware does not define."""
        wide = Dst(5, True)
        rf0 = Dst(0)

        def real(d: Dst | None) -> Dst | None:
            if d is None or d == NULL:
                return None
            if d.magic and d.n in (5, 55):
                return wide if self.v42 else rf0
            return d

        found = [d for d in (real(add.dst), real(mul.dst), real(sig_dst)) if d is not None]
        if sig & (Sig.LDUNIF | Sig.LDUNIFA):
            found.append(wide if self.v42 else rf0)
        if len(set(found)) != len(found):
            both = {add.cond, mul.cond}
            if both not in ({"ifa", "ifna"}, {"ifb", "ifnb"}) or len(found) != 2 or sig_dst is not None:
                raise Draft
        magic = [d.n for d in (add.dst, mul.dst) if d is not None and d.magic and d.n in SFU_MAGIC]
        if len(magic) > 1 or (magic and self.no_r4) or (magic and sig & Sig.LDTMU):
            raise Draft
        sfu = [h for h in (add, mul) if Token.SFU in h.op.tokens]
        if sfu and (magic or sig & (Sig.WRTMUC | Sig.LDTMU)):
            raise Draft
        if any(h.op.name == "multop" for h in (add, mul)) and self.draw.random() < 0.3:
            raise Draft

    def place(
        self,
        add: AluHalf,
        mul: AluHalf,
        sig: Sig,
        sig_dst: Dst | None,
        ports: list[int],
        imm: Form | None,
        amount: int | None,
    ) -> int:
        if not self.v42:
            return encode(Alu(self.isa, add, mul, sig, sig_dst))
        real = [n for n in ports if n >= 0]
        second = imm[2] if imm is not None else amount
        if second is None:
            a, b = (*real, 0, 0)[:2]
        else:
            if len(real) > 1:
                raise Draft
            a, b = (*real, 0)[:1][0], second
            if amount is not None and b in real:
                raise Draft
        return encode(Alu(self.isa, add, mul, sig, sig_dst, a, b))

    def half_of(self, name: str, dst: Dst, a: Src | None = None, b: Src | None = None, **more: str) -> AluHalf:
        return AluHalf(self.ops[name], dst, a, b, **more)

    def do(self, name: str, dst: Dst, a: Src | None = None, b: Src | None = None, sig: Sig = Sig.NONE,
           sig_dst: Dst | None = None, mul: AluHalf | None = None, **more: str) -> None:  # fmt: skip
        """An add-ALU instruction by name."""
        add = self.half_of(name, dst, a, b, **more)
        ports, imm = [], None
        other = mul or self.idle(Unit.MUL)
        for slot, s in zip(IMM_OF, (add.a, add.b, other.a, other.b), strict=True):
            if s is None:
                continue
            if s.kind is SrcKind.IMM:
                imm = ("imm", slot, s.n)
                sig |= Sig.IMM_B if self.v42 else IMM_OF[slot]
            elif s.kind is SrcKind.RF and s.n not in ports:
                ports.append(s.n)
        self.emit(self.place(add, other, sig, sig_dst, ports, imm, None))

    def copy(self, dst: Dst, src: Src, sig: Sig = Sig.NONE, mul: AluHalf | None = None, **more: str) -> None:
        if self.v42:
            self.do("or", dst, src, src, sig, mul=mul, **more)
        else:
            self.do("mov", dst, src, None, sig, mul=mul, **more)

    def nothing(self, sig: Sig = Sig.NONE, sig_dst: Dst | None = None) -> None:
        self.emit(encode(Alu(self.isa, self.idle(Unit.ADD), self.idle(Unit.MUL), sig, sig_dst)))

    def word(self, n: int, value: int) -> None:
        """rf[n] = the next uniform."""
        self.nothing(Sig.LDUNIFRF, Dst(n))
        self.uniform(value)

    def quiet(self) -> int:
        """An instruction that reads no uniform and starts no SFU operation."""
        return self.alu(plain=True)

    def keyed(self) -> int:
        """As `quiet`, with a condition field."""
        return self.alu(self.draw.choice(KEYS))

    # -- pieces

    def rf(self, n: int) -> Src:
        return Src(SrcKind.RF, n)

    def some(self, kind: str) -> Src:
        return self.draw.choice(self.regs[kind])

    def place_of(self, s: Src) -> Dst:
        return Dst(s.n, s.kind is SrcKind.ACC)

    def address(self, components: int, size: int) -> None:
        """t = an address of each lane in the scratch part: anywhere, in a row, or one for all."""
        what, t = self.draw.random(), self.rf(self.t)
        step = size * components
        if what < 0.5:
            self.word(self.t, 0x3FC & -step if components != 3 and self.draw.random() < 0.5 else 0x3FF & -size)
            value = self.draw.choice(self.loaded[INT])
            self.do("and", Dst(self.t), t, value)
        elif what < 0.85:
            self.do("eidx", Dst(self.t))
            self.do("shl", Dst(self.t), t, Src(SrcKind.IMM, (step - 1).bit_length()))
            if self.draw.random() < 0.5:
                self.word(self.count, self.draw.randrange(0, 256, 4))
                self.do("add", Dst(self.t), t, self.rf(self.count))
        else:
            self.word(self.t, self.draw.randrange(0, 1000, 4))
        self.do("add", Dst(self.t), t, self.rf(self.base))

    def request(self, byte: int, data: int, route: str) -> None:
        """One request with its data and results. route: how the configuration byte gets there."""
        r = decode_request(byte, data)
        cond = self.draw.choice(("", "", "", "ifa", "ifb", "ifna", "ifnb"))
        if r.action is not Action.CACHE:
            self.address(r.components, r.size)
        else:
            self.copy(Dst(self.t), self.rf(self.base))
        config = 0xFFFFFF00 | byte
        self.p.forms.add(("tmu", byte, data, route))
        if route == "tmuc":
            self.word(self.count, config)
            self.copy(Dst(32, True), self.rf(self.count))
        elif route == "ldunifrf":
            self.nothing(Sig.LDUNIFRF, Dst(32, True))
            self.uniform(config)
        elif route == "wrtmuc" and not data:
            self.nothing(Sig.WRTMUC)
            self.uniform(config)
        for k in range(data):
            sig = Sig.WRTMUC if route == "wrtmuc" and k == 0 else Sig.NONE
            if sig:
                self.uniform(config)
            dst = Dst(self.draw.choice(DATA_NAMES), True)
            self.copy(dst, self.draw.choice(self.loaded[INT]), sig, cond=self.draw.choice(("", "", "", cond)))
        if route == "tmuau":
            self.uniform(config)
        self.copy(Dst(13 if route == "tmuau" else 12, True), self.rf(self.t), cond=cond)
        for _ in range(self.draw.randrange(3)):
            self.emit(self.quiet())
        for _ in range(r.results):
            self.nothing(Sig.LDTMU, self.place_of(self.draw.choice([*self.regs[INT], *self.regs[FLOAT]])))

    def skip(self, form: Form) -> None:
        """A forward branch over a few instructions, which may read uniforms if the branch moves the stream."""
        _, cond, ignore, bdi, bdu, link = form
        if bdi == "lri":
            self.call(form)
            return
        draw, n, k = self.draw, self.draw.randrange(0, 3), 0
        if bdu:
            k = draw.randrange(0, 3)
        inner = n + k
        self.emit(self.alu(("cond", "", draw.choice(("pushz", "pushc", "pushn")), "", "", "", "")))
        both = bdi == "rf" and bdu == "rf"
        at = len(self.words)
        if bdi == "rf" or bdu == "rf":
            self.nothing(Sig.LDUNIFRF, Dst(self.t))
            self.uniform(0)
            slot = len(self.p.uniforms) - 1
        if both:  # lane 0 leads to the instruction, lane 1 to the uniforms
            self.nothing(Sig.LDUNIFRF, Dst(self.count))
            self.uniform(0)
            self.do("eidx", NULL, push="pushz")
            self.copy(Dst(self.t), self.rf(self.count), cond="ifa")
        if bdu == "rf" and (len(self.p.uniforms) + k) % 2:
            self.word(self.link, 0)  # the stream moves to multiples of 8
        at = len(self.words)
        goal = CODE + 8 * (at + 4 + inner)
        stream = UNIFORMS + 4 * (len(self.p.uniforms) + k + (bdu in ("abs", "rel")))
        if bdu in ("abs", "rel"):
            self.uniform(stream if bdu == "abs" else 4 * k)
        if bdi == "rf" or bdu == "rf":
            self.p.uniforms[slot] = stream if bdu == "rf" else goal
            if both:
                self.p.uniforms[slot + 1] = goal
        offset = {"abs": goal, "rel": 8 * inner, "rf": 0}[bdi]
        register = self.t if bdi == "rf" or bdu == "rf" else 0
        self.emit(encode(Branch(self.isa, cond, ignore, bdi, offset, bool(bdu), bdu, register, link)))
        for _ in range(3):
            self.emit(self.quiet())
        for j in range(inner):
            if j < k:
                self.word(self.draw.choice(self.loaded[INT]).n, draw.getrandbits(32))
            else:
                self.emit(self.quiet())
        if link:
            self.do("lr", Dst(self.draw.choice(self.loaded[INT]).n))

    def call(self, form: Form) -> None:
        """A subroutine that may return through the link register."""
        _, cond, ignore, _, bdu, link = form
        self.p.forms.add(("piece", "call"))
        if bdu == "rf":
            self.word(self.t, 0)
            slot = len(self.p.uniforms) - 1
            if len(self.p.uniforms) % 2:
                self.word(self.link, 0)
            self.p.uniforms[slot] = UNIFORMS + 4 * len(self.p.uniforms)
        elif bdu:
            self.uniform(UNIFORMS + 4 * (len(self.p.uniforms) + 1) if bdu == "abs" else 0)
        go, back, body = self.draw.randrange(1, 3), self.draw.randrange(0, 3), self.draw.randrange(1, 3)
        self.emit(encode(Branch(self.isa, offset=8 * (back + 4), link=True)))
        for _ in range(3):
            self.nothing()
        for _ in range(back):
            self.emit(self.quiet())
        self.emit(encode(Branch(self.isa, offset=8 * (body + 4 + go))))
        for _ in range(3):
            self.nothing()
        for _ in range(body):
            self.emit(self.quiet())
        register = self.t if bdu == "rf" else 0
        self.emit(encode(Branch(self.isa, cond, ignore, "lri", 0, bool(bdu), bdu, register, link)))
        for _ in range(3 + go):
            self.emit(self.quiet())

    def loop(self, rewind: bool) -> None:
        """A few turns; the uniforms of the body are read again in each if the branch rewinds the stream."""
        self.word(self.link, self.draw.randrange(1, 5))
        start, first = len(self.words), len(self.p.uniforms)
        for _ in range(self.draw.randrange(1, 4)):
            self.emit(self.quiet())
        if rewind:
            self.word(self.draw.choice(self.loaded[INT]).n, self.draw.getrandbits(32))
        self.do("sub", Dst(self.link), self.rf(self.link), Src(SrcKind.IMM, 1), push="pushz")
        at = len(self.words)
        offset = 8 * (start - at - 4) & 0xFFFFFFFF
        if rewind:
            self.uniform(4 * (first - len(self.p.uniforms) - 1))
            self.emit(encode(Branch(self.isa, "anyna", "", "rel", offset, True, "rel")))
        else:
            self.emit(encode(Branch(self.isa, "anyna", "", "rel", offset)))
        for _ in range(3):
            self.nothing()

    def side_stream(self, stale: bool, sigs: list[Sig]) -> None:
        """unifa, and what it reads: words beside the uniforms, or the thread's own data, as it was at the start."""
        if stale:
            self.copy(Dst(self.unifa), self.rf(self.base))
        else:
            self.word(self.unifa, UNIFORMS + SIDE + self.draw.randrange(0, 256, 4))
        self.copy(Dst(9, True), self.rf(self.unifa))
        for _ in range(3):
            self.emit(self.quiet())
        for sig in sigs:
            self.emit(self.alu(sig=sig, sig_dst=self.signal_target(sig), plain=True))

    def signal_target(self, sig: Sig) -> Dst | None:
        if not sig & (Sig.LDTMU | Sig.LDUNIFRF | Sig.LDUNIFARF):
            return None
        return self.place_of(self.some(INT))

    def signal(self, sig: Sig) -> None:
        """An instruction with these signals, and what they need."""
        if sig & Sig.LDTMU:
            self.address(1, 4)
            self.copy(Dst(12, True), self.rf(self.t))
        if sig & (Sig.LDUNIFA | Sig.LDUNIFARF):
            self.side_stream(False, [sig])
            return
        for s in (Sig.LDUNIF, Sig.LDUNIFRF):
            if sig & s:
                self.uniform(self.draw.getrandbits(32))
        if sig & Sig.WRTMUC:
            self.uniform(0xFFFFFFFF)
        self.emit(self.alu(sig=sig, sig_dst=self.signal_target(sig), plain=True))
        if sig & Sig.THRSW:
            self.emit(self.quiet(), self.keyed())

    def special(self, name: str) -> None:
        self.p.forms.add(("piece", name))
        if name in ("loop", "rewind"):
            self.loop(name == "rewind")
        elif name in ("unifa", "stale"):
            count = self.draw.randrange(1, 4)
            if name == "stale":
                self.request(0xFF, 1, "none")
            self.side_stream(name == "stale", [self.draw.choice((Sig.LDUNIFA, Sig.LDUNIFARF)) for _ in range(count)])
        elif name == "switch":
            self.signal(Sig.THRSW)
        elif name == "tmuwt":
            self.request(0xFF, 1, "none")
            self.do("tmuwt", NULL)
        elif name == "mask":
            self.do("setmsf", NULL, self.draw.choice(self.loaded[INT]), cond=self.draw.choice(("", "ifa")))
            self.skip(
                (
                    "branch",
                    self.draw.choice(("alla", "anya", "allna", "anyna")),
                    self.draw.choice("pq"),
                    "rel",
                    "",
                    False,
                )
            )
            self.request(0x7F, 0, "wrtmuc")
            self.unmask()
        elif name == "together":
            self.meet()
        elif name == "numbers":
            self.numbers()
        elif name == "call":
            self.call(("branch", "", "", "lri", "", False))
        else:
            self.sequence()

    def numbers(self) -> None:
        """Conditional writes of what holds one number: lane 0 decides."""
        conds = [self.draw.choice(("ifa", "ifb", "ifna", "ifnb")) for _ in range(2)]
        self.word(self.count, 0xFFFFFFFF)
        self.copy(Dst(32, True), self.rf(self.count))
        self.word(self.count, 0xFFFFFFF8 | self.draw.choice((0, 1, 5, 6)))
        self.copy(Dst(32, True), self.rf(self.count), cond=conds[0])
        self.address(1, 4)
        self.copy(Dst(12, True), self.rf(self.t))
        self.nothing(Sig.LDTMU, self.place_of(self.some(INT)))
        for cond in ("", conds[1]):
            self.word(self.unifa, UNIFORMS + SIDE + self.draw.randrange(0, 256, 4))
            self.copy(Dst(9, True), self.rf(self.unifa), cond=cond)
        for _ in range(3):
            self.nothing()
        self.nothing(Sig.LDUNIFARF, self.place_of(self.some(INT)))

    def unmask(self) -> None:
        self.do("setmsf", NULL, Src(SrcKind.IMM, 1))

    def sequence(self) -> None:
        """Four requests configured by one word."""
        kinds = [self.draw.choice(((0xFF, 1), (0xFA, 2), (0xFD, 0), (0xFE, 0), (0xF8, 1), (0xC7, 1))) for _ in range(4)]
        self.nothing(Sig.WRTMUC)
        self.uniform(sum(byte << 8 * i for i, (byte, _) in enumerate(kinds)))
        for byte, data in kinds:
            self.request(byte, data, "none")
            self.p.forms.discard(("tmu", byte, data, "none"))

    def meet(self) -> None:
        """A barrier, then words that another thread stored before it."""
        self.copy(Dst(11, True), self.draw.choice(self.loaded[INT]))
        self.do("eidx", Dst(self.t))
        self.do("shl", Dst(self.t), self.rf(self.t), Src(SrcKind.IMM, 2))
        self.do("add", Dst(12, True), self.rf(self.t), self.rf(self.base))
        self.do("tmuwt", NULL)
        self.do("barrierid", Dst(18, True), sig=Sig.THRSW)
        self.nothing()
        self.nothing()
        # The other thread is the neighbour: on the next QPU, of an even number.
        self.word(self.count, 4 * AREA)
        self.do("xor", Dst(self.count), self.rf(self.base), self.rf(self.count))
        self.do("add", Dst(12, True), self.rf(self.t), self.rf(self.count))
        self.nothing(Sig.LDTMU, self.place_of(self.some(INT)))
        self.do("barrierid", Dst(18, True))
        self.nothing(Sig.THRSW)
        self.nothing()
        self.nothing()

    def produce(self, form: Form) -> None:
        """A piece that shows a form."""
        kind = form[0]
        if kind == "tmu":
            self.request(*form[1:])
        elif kind == "branch":
            self.skip(form)
        elif kind == "piece":
            self.special(form[1])
        elif kind == "sig":
            self.signal(Sig(form[1]))
        elif kind == "rot":
            if form[1] == 0:
                self.word(self.t, self.draw.randrange(16))
                self.copy(Dst(5, True), self.rf(self.t))
            self.nothing()  # an operand may come from ldtmu
            self.emit(self.alu(form))
        elif kind == "op" and form[1] == "barrierid":
            self.do("barrierid", self.place_of(self.some(INT)))
        else:
            self.emit(self.alu(form))
            if kind == "op" and form[1] == "setmsf":
                self.unmask()
            if kind == "dst" and form[2] in SFU_MAGIC:
                self.no_r4 = True
                self.emit(self.quiet())
                self.no_r4 = False
                self.copy(self.place_of(self.draw.choice(self.regs[FLOAT])), Src(SrcKind.ACC, 4))

    # -- the whole

    def head(self) -> None:
        self.nothing(Sig.LDUNIFRF, Dst(self.base))
        t, out = self.rf(self.t), self.rf(self.out)
        if self.p.batches > 1:
            self.do("tidx", Dst(self.t))
            self.do("shl", Dst(self.t), t, Src(SrcKind.IMM, 11))
            self.do("add", Dst(self.base), self.rf(self.base), t)
        self.do("eidx", Dst(self.out), sig=Sig.LDUNIFRF, sig_dst=Dst(self.t))
        self.uniform(RESULTS)
        self.do("shl", Dst(self.out), out, Src(SrcKind.IMM, 4))
        self.do("add", Dst(self.out), out, self.rf(self.base))
        self.do("add", Dst(self.out), out, t, sig=Sig.WRTMUC)
        self.uniform(0xFFFFFCFC)
        self.word(self.t, 256)
        for row in (self.loaded[INT], [*self.loaded[FLOAT], *self.loaded[HALF]]):
            self.step_out()
            for s in row:
                self.nothing(Sig.LDTMU, Dst(s.n))
        if self.small:  # the other registers keep what is in undefined ones
            pass
        elif self.v42:
            for c, numbers in ((INT, (0, 1, 5)), (FLOAT, (2, 4)), (HALF, (3,))):
                for n in numbers:
                    self.copy(Dst(n, True), self.loaded[c][n % 2])
        else:
            self.copy(Dst(0), self.loaded[INT][0])
        self.do("eidx", NULL, push="pushz")
        self.do("and", NULL, self.rf(self.out), self.loaded[INT][1], push="pushz")

    def step_out(self) -> None:
        """Start a request at the place of the next four rows."""
        out = self.rf(self.out)
        step = self.half_of("add", Dst(self.out), out, self.rf(self.t))
        self.copy(Dst(12, True), out, mul=step)

    def tail(self) -> None:
        """Store all registers and the flags."""
        self.unmask()
        self.word(self.t, -512)
        self.do("add", Dst(self.out), self.rf(self.out), self.rf(self.t))
        self.word(self.t, 256)
        rows: list[list[Src | str]] = [[*self.loaded[INT]], [*self.loaded[FLOAT], *self.loaded[HALF]]]
        last: list[Src | str] = ["vfla", "vflb"]
        last += [Src(SrcKind.ACC, 0), Src(SrcKind.ACC, 5)] if self.v42 else [Src(SrcKind.RF, 0), "tidx"]
        rows.append(last)
        self.uniform(0xFCFCFCFC)
        for i, row in enumerate(rows):
            for k, s in enumerate(row):
                sig = Sig.WRTMUC if not i and not k else Sig.NONE
                if isinstance(s, Src):
                    self.copy(Dst(11, True), s, sig)
                else:
                    self.do(s, Dst(11, True), sig=sig)
            self.step_out()
        self.p.classes = [INT] * 4 + [FLOAT] * 2 + [HALF] * 2 + [INT] * 4
        if self.p.single:
            self.nothing(Sig.THRSW)
        else:
            self.nothing(Sig.THRSW)
            self.nothing(Sig.THRSW)
            self.nothing()
            self.nothing()
            self.nothing(Sig.THRSW)
        self.nothing()
        self.nothing()

    def make(self, extra: int) -> Program:
        self.head()
        switches = any(f in (("piece", "switch"), ("piece", "together")) for f in self.must)
        switches = switches or any(f[0] == "sig" and f[1] & Sig.THRSW for f in self.must)
        self.p.single = not switches and (self.small or self.draw.random() < 0.5)
        pieces: list[Form | None] = [*self.must, *[None] * self.draw.randrange(extra)]
        self.draw.shuffle(pieces)
        for form in pieces:
            if form is None:
                self.emit(self.alu())
            else:
                self.produce(form)
        self.tail()
        return self.p


KEYS = [f for f in catalogue(Isa.V3D71)[1] if cond_field(f[1:]) is not None]


def generate(isa: Isa, seed: int, *, small: bool = False) -> Program:
    """A program; its first uniform is `DATA`. small: with fewer pieces, for large numbers of programs."""
    return Generator(isa, seed, small).make(3 if small else 6)


def form_names(program: Program) -> Any:
    """All forms of a program."""
    found = set(program.forms)
    for word in program.words:
        found.update(forms_of(program.isa, word))
    return found
