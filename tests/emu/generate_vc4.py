"""Random VideoCore IV programs: any ALU instruction, loads, branches, loops, TMU reads, VPM writes and DMA stores.

The machine's results are defined for every bit pattern, so values are arbitrary; `tame` programs work on ordinary
floats only, so that the compiled engine's fast float code does not meet a NaN. Rules may be broken now and then: run
the programs leniently. Every QPU has uniforms of its own.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from qpu.emu.vc4_prepare import Place, plan
from qpu.vc4.encode import encode
from qpu.vc4.instr import Alu, Branch, LoadImm
from qpu.vc4.ops import TABLE

ROW, SCATTERED, OUT, WRITE, STORE, STRIDE, COUNT = 30, 30, 29, 28, 28, 29, 31
RESERVED = {(Place.A, 28), (Place.A, 29), (Place.A, 30), (Place.A, 31)}
RESERVED |= {(Place.B, 28), (Place.B, 29), (Place.B, 30)}
FLOATS = ("fadd", "fsub", "fmin", "fmax", "fminabs", "fmaxabs")
UNIFORMS = 4096  # words of each QPU
HEAD = 6  # of them set by the caller: data row, scattered row, out, VPM write, DMA store, stride
NOP = {"waddr_add": 39, "waddr_mul": 39, "raddr_a": 39, "raddr_b": 39}


@dataclass
class Program:
    """Words, and the uniforms behind the `HEAD` words of each QPU."""

    words: list[int] = field(default_factory=list)
    uniforms: list[int] = field(default_factory=list)


class Generator:
    """Draws a program from a seed."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(f"vc4 {seed}")
        self.tame = bool(seed % 2)
        self.words: list[int] = []
        self.bad = 0.005 if seed % 3 == 0 else 0.0  # how often an instruction may be wrong by itself
        self.latches = seed % 5 == 0
        self.codes = {op.name: op.code[op_isa] for op in TABLE for op_isa in op.code}

    def number(self) -> int:
        """A value of the kind the program works on."""
        draw = self.draw
        if not self.tame:
            return draw.choice((draw.getrandbits(32), draw.getrandbits(5), 0x3F800000 | draw.getrandbits(23)))
        sign = draw.getrandbits(1) << 31
        what = draw.random()
        if what < 0.1:
            return sign
        if what < 0.2:
            return sign | draw.getrandbits(23)  # denormal
        if what < 0.4:
            return sign | draw.randrange(1, 66) << 23 | draw.getrandbits(23)  # products vanish
        return sign | draw.randrange(110, 134) << 23 | draw.getrandbits(23)

    def alu(self) -> int:
        """One instruction that leaves the reserved registers alone."""
        draw = self.draw
        while True:
            sig = 13 if draw.random() < 0.2 else 1
            immediate = draw.randrange(16) if draw.random() < 0.4 else draw.randrange(64)
            op_add = draw.choice((1, 2, 1, 2, 3, 4, 5, 6)) if self.tame else draw.randrange(32)
            op_mul = 1 if self.tame else draw.randrange(8)
            if draw.random() < 0.2:
                op_add = 0
            if draw.random() < 0.2:
                op_mul = 0
            if self.tame and sig == 13:
                immediate = draw.randrange(32, 64)  # powers of two, and rotations
                if immediate >= 48:
                    op_add = 0
            packs = not self.tame and draw.random() < 0.25
            conditional = draw.random() < 0.3
            waddr = [draw.choice((*range(32), *range(32, 36), 37, 37, 39)) for _ in range(2)]
            if draw.random() < 0.04 and not self.tame:
                waddr[draw.randrange(2)] = draw.randrange(52, 56)
            raddr = [draw.choice((*range(32), 32, 38)) for _ in range(2)]
            if self.latches and draw.random() < 0.2:
                raddr[draw.randrange(2)] = 39
            instr = Alu(
                sig=sig,
                unpack=draw.randrange(8) if packs else 0,
                pm=draw.getrandbits(1) if packs else 0,
                pack=draw.randrange(16) if packs else 0,
                cond_add=draw.randrange(8) if conditional else int(op_add != 0),
                cond_mul=draw.randrange(8) if conditional else int(op_mul != 0),
                sf=int(draw.random() < 0.2),
                ws=draw.getrandbits(1),
                waddr_add=waddr[0],
                waddr_mul=waddr[1],
                op_mul=op_mul,
                op_add=op_add,
                raddr_a=raddr[0],
                raddr_b=immediate if sig == 13 else raddr[1],
                add_a=draw.randrange(8),
                add_b=draw.randrange(8),
                mul_a=draw.randrange(8),
                mul_b=draw.randrange(8),
            )
            word = encode(instr)
            if self.fits(word):
                return word

    def fits(self, word: int) -> bool:
        p = plan(word)
        assert p.add is not None and p.mul is not None
        if p.issues and self.draw.random() >= self.bad:
            return False
        if any(issue.level.value == "stop" for issue in p.issues):
            return False
        if any((h.dest.place, h.dest.number) in RESERVED for h in (p.add, p.mul)):
            return False
        if any(h.dest.place in (Place.HOST, Place.GRAPHICS) for h in (p.add, p.mul)):
            return False
        if not self.words:
            return True
        q = plan(self.words[-1])
        early = bool(p.forbid1 & q.effects)
        early = early or (len(self.words) > 1 and bool(p.forbid2 & plan(self.words[-2]).effects))
        return not early or self.draw.random() < self.bad

    def emit(self, *words: int) -> None:
        self.words.extend(words)

    def move(self, waddr: int, *, raddr_a: int = 39, raddr_b: int = 39, ws: int = 0, sig: int = 1) -> int:
        mux = 6 if raddr_a != 39 else 7
        return encode(
            Alu(sig=sig, cond_add=1, op_add=21, add_a=mux, add_b=mux, ws=ws,
                **{**NOP, "waddr_add": waddr, "raddr_a": raddr_a, "raddr_b": raddr_b})
        )  # fmt: skip

    def nop(self, sig: int = 1) -> int:
        return encode(Alu(sig=sig, **NOP))

    # -- structure

    def body(self, length: int, depth: int = 0) -> None:
        for _ in range(length):
            what = self.draw.random()
            if what < 0.05:
                self.skip()
            elif what < 0.08 and depth == 0:
                self.loop()
            elif what < 0.14:
                self.load()
            elif what < 0.17:
                self.store()
            elif what < 0.22:
                self.immediate()
            else:
                self.emit(self.alu())

    def skip(self) -> None:
        """A forward branch, sometimes with a link."""
        skipped = self.draw.randrange(0, 5)
        cond = self.draw.choice((*range(12), 15))
        link = self.draw.choice((39, 39, 39, 5, 33))
        self.emit(self.nop(), encode(Branch(cond=cond, rel=1, waddr_add=link, imm=8 * skipped)), self.nop())
        self.emit(*(self.alu() for _ in range(2 + skipped)))

    def loop(self) -> None:
        """A few turns, counted in ra31."""
        turns = self.draw.randrange(1, 5)
        self.emit(encode(LoadImm(cond_add=1, waddr_add=COUNT, waddr_mul=39, imm=turns)), self.nop())
        start = len(self.words)
        self.body(self.draw.randrange(1, 6), 1)
        self.emit(self.nop())
        self.emit(
            encode(
                Alu(sig=13, cond_add=1, sf=1, op_add=13, add_a=6, add_b=7,
                    **{**NOP, "waddr_add": COUNT, "raddr_a": COUNT, "raddr_b": 1})
            )
        )  # fmt: skip
        at = len(self.words)
        self.emit(encode(Branch(cond=3, rel=1, imm=(8 * (start - at - 4)) & 0xFFFFFFFF)))
        self.emit(self.nop(), self.alu(), self.alu())

    def load(self) -> None:
        """Up to four requests of one TMU, and their results."""
        tmu = self.draw.randrange(2)
        count = self.draw.randrange(1, 4)
        self.emit(self.nop())
        for _ in range(count):
            if self.draw.getrandbits(1):
                self.emit(self.move(56 + 4 * tmu, raddr_a=ROW))
            else:
                self.emit(self.move(56 + 4 * tmu, raddr_b=SCATTERED))
            if self.draw.getrandbits(1):
                self.emit(self.alu())
        self.emit(self.nop(), self.nop())  # an SFU result may be under way
        for _ in range(count):
            self.emit(self.nop(10 + tmu))

    def store(self) -> None:
        """Two vectors through the VPM to memory."""
        self.emit(self.nop(), self.nop())
        self.emit(self.move(49, raddr_a=WRITE, ws=1))
        for _ in range(2):
            self.emit(self.move(48, raddr_a=self.draw.randrange(4, 28)))
        self.emit(self.move(49, raddr_b=STORE, ws=1), self.move(49, raddr_b=STRIDE, ws=1))
        self.emit(self.move(50, raddr_a=OUT, ws=1))
        self.emit(encode(Alu(sig=1, **{**NOP, "raddr_b": 50})))

    def immediate(self) -> None:
        """A load immediate."""
        draw = self.draw
        instr = LoadImm(
            mode=0 if self.tame else draw.choice((0, 0, 1, 3)),
            cond_add=draw.randrange(8),
            cond_mul=draw.choice((0, 0, 1)),
            sf=int(draw.random() < 0.1),
            ws=draw.getrandbits(1),
            waddr_add=draw.choice((*range(28), 32, 33, 37)),
            waddr_mul=draw.choice((*range(28), 34, 35, 39)),
            imm=self.number(),
        )
        word = encode(instr)
        if self.fits(word):
            self.emit(word)

    def finish(self) -> Program:
        self.emit(self.nop(), self.nop(), self.nop())
        self.emit(self.nop(3), self.nop(), self.nop())
        return Program(self.words, [self.number() for _ in range(UNIFORMS - HEAD)])


def generate(seed: int, length: int = 60) -> Program:
    """A program."""
    g = Generator(seed)
    for waddr, ws in ((ROW, 0), (SCATTERED, 1), (OUT, 0), (WRITE, 0), (STORE, 1), (STRIDE, 1)):
        g.emit(g.move(waddr, raddr_a=32, ws=ws))
    for n in range(28):
        g.emit(g.move(n, raddr_a=32), g.move(n, raddr_a=32, ws=1))
    for n in range(4):
        g.emit(g.move(32 + n, raddr_a=32))
    g.emit(g.move(37, raddr_a=32))
    g.emit(encode(Alu(sig=1, cond_mul=1, op_mul=4, mul_a=0, mul_b=0, **NOP)))  # the MUL latch
    g.emit(g.nop(), g.nop())
    g.body(length)
    return g.finish()
