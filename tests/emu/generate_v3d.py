"""Random V3D programs that mean the same on every engine: ALU operations of all kinds, flags, branches, loops, TMU.

Registers have classes, because a NaN's payload is not defined: rf4..rf23 integers, rf24..rf39 floats, rf40..rf51 pairs
of halves. Values only move between classes through conversions that are defined for every input or keep NaN a NaN.
At its end a program stores all of them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from qpu.core.isa import Isa, Unit
from qpu.core.optable import Op, OperandType
from qpu.errors import QpuError
from qpu.v3d.encode import encode
from qpu.v3d.instr import Alu, AluHalf, Branch, Dst, Sig, Src, SrcKind
from qpu.v3d.ops import table

INTS, FLOATS, HALVES = range(4, 24), range(24, 40), range(40, 52)
STORED = [*INTS, *FLOATS, *HALVES]
BASE, LANE4, ADDRESS, COUNT = 52, 53, 54, 55  # buffer, 4 * lane, scratch, loop counter
CLASSES = {OperandType.F32: FLOATS, OperandType.F16X2: HALVES}
CONDS = ("ifa", "ifb", "ifna", "ifnb")
UPDATES = ("andz", "andnz", "nornz", "norz", "andc", "andnc", "nornc", "norc")
SKIP = {"setmsf", "flpop", "barrierid", "tmuwt", "nop", "tidx", "lr", "msf", "multop"}
UNSAFE = {"vpack", "v8pack", "v10pack", "v11fpack", "ballot", "alleq"}  # fine, but their inputs are checked below


@dataclass
class Program:
    """Words, and the uniforms behind the buffer's address."""

    isa: Isa
    words: list[int] = field(default_factory=list)
    uniforms: list[int] = field(default_factory=list)


class Generator:
    """Draws programs from a seed."""

    def __init__(self, isa: Isa, seed: int) -> None:
        self.isa = isa
        self.draw = random.Random(f"{isa}{seed}")
        self.program = Program(isa)
        rows = [op for op in table(isa) if op.sem is not None and not op.graphics and op.name not in SKIP]
        self.ops = {unit: [op for op in rows if unit in op.code[isa]] for unit in (Unit.ADD, Unit.MUL)}
        self.nop = {unit: table(isa)["nop"] for unit in (Unit.ADD, Unit.MUL)}

    # -- pieces

    def kind(self, op: Op, role: str) -> range:
        operand = op.operand(role)
        assert operand is not None
        return CLASSES.get(operand.type, INTS)

    def source(self, op: Op, role: str, ports: list[int]) -> Src:
        registers = self.kind(op, role)
        mods = ["", "", *op.modifiers.get(role, ())]
        if self.isa is Isa.V3D42:
            allowed = [n for n in ports if n in registers]
            if not allowed and len(ports) < 2:
                ports.append(self.draw.choice(registers))
                allowed = [ports[-1]]
            if not allowed:
                raise ValueError("no port")
            n = self.draw.choice(allowed)
        else:
            n = self.draw.choice(registers)
        return Src(SrcKind.RF, n, self.draw.choice(mods))

    def half(self, unit: Unit, ports: list[int], cond: str, push: str, update: str) -> AluHalf:
        op = self.draw.choice(self.ops[unit])
        sources = [self.source(op, role, ports) for role in "ab"[: op.arity]]
        dst = Dst(self.draw.choice(self.kind(op, "d")))
        floats = self.kind(op, "d") is not INTS
        if floats and (push == "pushn" or "n" in update[3:]):
            push = update = ""  # the sign of a NaN is not defined
        a = sources[0] if sources else None
        return AluHalf(op, dst, a, sources[1] if len(sources) > 1 else None, "", cond, push, update)

    def idle(self, unit: Unit) -> AluHalf:
        return AluHalf(self.nop[unit], Dst(6, True))

    def alu(self) -> int:
        """One random instruction with defined effects."""
        while True:
            ports: list[int] = []
            what = self.draw.random()
            ac = mc = apf = mpf = auf = ""
            if what < 0.3:
                ac = self.draw.choice(CONDS)
            elif what < 0.4:
                mc = self.draw.choice(CONDS)
            elif what < 0.6:
                apf = self.draw.choice(("pushz", "pushn", "pushc"))
            elif what < 0.7:
                auf = self.draw.choice(UPDATES)
            elif what < 0.75:
                mpf = self.draw.choice(("pushz", "pushn"))
            try:
                add = self.half(Unit.ADD, ports, ac, apf, auf) if self.draw.random() < 0.85 else self.idle(Unit.ADD)
                mul = self.half(Unit.MUL, ports, mc, mpf, "") if self.draw.random() < 0.6 else self.idle(Unit.MUL)
                if add.op.name != "nop" and add.dst == mul.dst:
                    continue
                sig, sig_dst = Sig.NONE, None
                if not (ac or mc or apf or mpf or auf) and self.draw.random() < 0.3:
                    sig, sig_dst = Sig.LDUNIFRF, Dst(self.draw.choice(INTS))
                    if sig_dst in (add.dst, mul.dst):
                        continue
                return encode(self.placed(add, mul, sig, sig_dst, ports))
            except (QpuError, ValueError):
                continue

    def placed(self, add: AluHalf, mul: AluHalf, sig: Sig, sig_dst: Dst | None, ports: list[int]) -> Alu:
        if self.isa is Isa.V3D42:
            padded = [*ports, 0, 0]
            return Alu(self.isa, add, mul, sig, sig_dst, padded[0], padded[1])
        return Alu(self.isa, add, mul, sig, sig_dst)

    def plain(self, name: str, dst: Dst, a: Src | None = None, b: Src | None = None, **more: object) -> int:
        """An add-ALU instruction by name."""
        half = AluHalf(table(self.isa)[name], dst, a, b, push=str(more.get("push", "")))
        sig = more.get("sig", Sig.NONE)
        sig_dst = more.get("sig_dst")
        assert isinstance(sig, Sig) and (sig_dst is None or isinstance(sig_dst, Dst))
        ports = [s.n for s in (a, b) if s is not None and s.kind is SrcKind.RF]
        return encode(self.placed(half, self.idle(Unit.MUL), sig, sig_dst, ports))

    def emit(self, *words: int) -> None:
        self.program.words.extend(words)

    def nothing(self, sig: Sig = Sig.NONE, sig_dst: Dst | None = None) -> int:
        return encode(Alu(self.isa, self.idle(Unit.ADD), self.idle(Unit.MUL), sig, sig_dst))

    # -- structure

    def body(self, length: int, depth: int = 0) -> None:
        for _ in range(length):
            what = self.draw.random()
            if what < 0.06:
                self.skip()
            elif what < 0.09 and depth == 0:
                self.loop()
            elif what < 0.15:
                self.load()
            elif what < 0.19:
                self.store()
            else:
                self.alu_with_uniforms()

    def alu_with_uniforms(self) -> None:
        self.emit(self.alu())

    def skip(self) -> None:
        """A forward branch over a few instructions."""
        cond = self.draw.choice(("", "a0", "na0", "alla", "anyna", "anya", "allna"))
        skipped = self.draw.randrange(0, 4)
        if cond:  # uniforms behind the branch would depend on it: none in the skipped part
            pass
        self.emit(encode(Branch(self.isa, cond=cond, bdi="rel", offset=8 * skipped)))
        for _ in range(3 + skipped):
            self.emit(self.quiet())

    def quiet(self) -> int:
        """An instruction that reads no uniform."""
        while True:
            word = self.alu()
            if (word >> 53) & 31 != 12:
                return word

    def loop(self) -> None:
        turns = self.draw.randrange(1, 5)
        self.emit(self.nothing(Sig.LDUNIFRF, Dst(COUNT)))
        self.program.uniforms.append(turns)
        start = len(self.program.words)
        for _ in range(self.draw.randrange(1, 6)):
            self.emit(self.quiet())
        one = Src(SrcKind.IMM, 1)
        sig = Sig.IMM_B
        half = AluHalf(table(self.isa)["sub"], Dst(COUNT), Src(SrcKind.RF, COUNT), one, push="pushz")
        ports = (COUNT, 1) if self.isa is Isa.V3D42 else (0, 0)
        self.emit(encode(Alu(self.isa, half, self.idle(Unit.MUL), sig, None, *ports)))
        at = len(self.program.words)
        self.emit(encode(Branch(self.isa, cond="anyna", bdi="rel", offset=(8 * (start - at - 4)) & 0xFFFFFFFF)))
        for _ in range(3):
            self.emit(self.nothing())

    def address(self, slot: int) -> None:
        """ADDRESS = buffer + 64 * slot + 4 * lane."""
        self.emit(self.nothing(Sig.LDUNIFRF, Dst(ADDRESS)))
        self.program.uniforms.append(64 * slot)
        self.emit(self.plain("add", Dst(ADDRESS), Src(SrcKind.RF, ADDRESS), Src(SrcKind.RF, BASE)))

    def load(self) -> None:
        """Regular loads of the buffer's first part, into integers."""
        self.address(self.draw.randrange(0, 16))
        self.emit(self.plain("add", Dst(12, True), Src(SrcKind.RF, ADDRESS), Src(SrcKind.RF, LANE4)))
        self.emit(self.nothing(Sig.LDTMU, Dst(self.draw.choice(INTS))))

    def store(self) -> None:
        """Stores of integers to the buffer's second part."""
        self.address(self.draw.randrange(16, 32))
        value = Src(SrcKind.RF, self.draw.choice(INTS))
        self.emit(self.plain("or", Dst(11, True), value, value))
        self.emit(self.plain("add", Dst(12, True), Src(SrcKind.RF, ADDRESS), Src(SrcKind.RF, LANE4)))

    def finish(self) -> Program:
        words = self.program.words
        # ldunifrf instructions drew no values yet: one for each
        for n in STORED:
            self.address(64 + n)
            value = Src(SrcKind.RF, n)
            self.emit(self.plain("or", Dst(11, True), value, value))
            self.emit(self.plain("add", Dst(12, True), Src(SrcKind.RF, ADDRESS), Src(SrcKind.RF, LANE4)))
        for name, n in (("vfla", 120), ("vflb", 121)):
            self.emit(self.plain(name, Dst(INTS[0])))
            self.address(n)
            value = Src(SrcKind.RF, INTS[0])
            self.emit(self.plain("or", Dst(11, True), value, value))
            self.emit(self.plain("add", Dst(12, True), Src(SrcKind.RF, ADDRESS), Src(SrcKind.RF, LANE4)))
        nop, thrsw = self.nothing(), self.nothing(Sig.THRSW)
        words += [thrsw, thrsw, nop, nop, thrsw, nop, nop]
        return self.program


def generate(isa: Isa, seed: int, length: int = 40) -> Program:
    """A program; its first uniform is the address of a buffer of 16 KiB that it reads and writes."""
    g = Generator(isa, seed)
    original = g.alu

    def counted() -> int:
        word = original()
        if (word >> 53) & 31 == 12:
            g.program.uniforms.append(g.draw.getrandbits(32))
        return word

    def quiet() -> int:
        while True:
            word = original()
            if (word >> 53) & 31 != 12:
                return word

    g.alu = counted  # type: ignore[method-assign] # instructions that read a uniform bring its value
    g.quiet = quiet  # type: ignore[method-assign]
    g.emit(g.nothing(Sig.LDUNIFRF, Dst(BASE)))
    g.emit(g.plain("eidx", Dst(LANE4)))
    two = Src(SrcKind.IMM, 2)
    half = AluHalf(table(isa)["shl"], Dst(LANE4), Src(SrcKind.RF, LANE4), two)
    ports = (LANE4, 2) if isa is Isa.V3D42 else (0, 0)
    g.emit(encode(Alu(isa, half, g.idle(Unit.MUL), Sig.IMM_B, None, *ports)))
    for register in STORED:  # undefined registers are the same on both engines, but dull
        g.emit(g.nothing(Sig.LDUNIFRF, Dst(register)))
        g.program.uniforms.append(
            g.draw.choice((g.draw.getrandbits(32), g.draw.getrandbits(5), 0x3F800000 | g.draw.getrandbits(23)))
        )
    g.body(length)
    return g.finish()
