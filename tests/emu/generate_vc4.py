"""Generator of random VideoCore IV programs, which cover `forms_vc4.catalogue` in random combinations.

The machine's results are defined for every bit pattern, so values are arbitrary; `tame` programs work on ordinary
floats only, so that the compiled engine's fast float code does not meet a NaN. Rules may be broken now and then: run
the programs leniently. The caller fills the registers at random, except the reserved ones; every QPU has uniforms of
its own. Seeds take turns in what they must contain, so that a few hundred programs show every form.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from functools import lru_cache

from qpu.emu.vc4.prepare import Place, plan
from qpu.vc4.encode import encode
from qpu.vc4.instr import Alu, Branch, LoadImm, LoadMode, Semaphore
from tests.emu.forms_vc4 import ALU_FORMS, Form, catalogue, forms_of, overrides

CODE, UNIFORMS, DATA, SIDE = 0x100000, 0x200000, 0x300000, 0x240000
ROW, SCATTERED, OUT, WRITE, STORE, STRIDE, COUNT = 30, 30, 29, 28, 28, 29, 31
JUMP = 26  # ra26 and ra27 hold branch targets
RESERVED = {(Place.A, n) for n in (26, 27, 28, 29, 30, 31)} | {(Place.B, n) for n in (28, 29, 30)}
UNIFORM_WORDS = 512  # of each QPU
SIDE_SETUPS, SIDE_WORDS = 64, 1024  # words at `SIDE`: texture set-ups, then uniforms
NOP = {"waddr_add": 39, "waddr_mul": 39, "raddr_a": 39, "raddr_b": 39}
PER_SEED = (3, 1, 2, 2, 1, 2, 2, 1, 1, 1, 1)  # forms of each list of the catalogue


@dataclass
class Program:
    """Words; uniforms of every QPU; words at `SIDE`. alone: QPUs would meet in the VPM: run it on one."""

    words: list[int] = field(default_factory=list)
    uniforms: list[int] = field(default_factory=list)
    side: list[int] = field(default_factory=list)
    alone: bool = False
    tame: bool = False
    forms: set[Form] = field(default_factory=set)  # forms that the words do not show


planned = lru_cache(maxsize=1 << 16)(plan)


class Generator:
    """Draws a program from a seed."""

    def __init__(self, seed: int, small: bool = False) -> None:
        self.small = small
        self.draw = random.Random(f"vc4 {seed}")
        self.tame = seed % 3 == 1
        self.p = Program(tame=self.tame)
        self.words = self.p.words
        self.bad = 0.02 if seed % 4 == 0 else 0.0  # how often an instruction may break a rule
        self.latches = seed % 5 == 0
        self.must: list[Form] = []
        turn = seed - (seed + 2) // 3  # number among the seeds that are not tame
        for forms, n in zip(catalogue(), PER_SEED, strict=True):
            self.must += [forms[(n * turn + k) % len(forms)] for k in range(n)]
        if self.tame:  # its operations are few; the other seeds show the rest
            self.must = []
        self.draw.shuffle(self.must)
        if small:
            del self.must[4:]

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

    def alu(self, form: Form | None = None) -> int:
        """One instruction that leaves the reserved registers alone. form: what it must show."""
        draw = self.draw
        choices = [] if form is None else overrides(form)
        for turn in range(20_000):
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
            waddr = [draw.choice((*range(26), *range(32, 36), 37, 37, 39)) for _ in range(2)]
            if draw.random() < 0.04 and not self.tame:
                waddr[draw.randrange(2)] = draw.randrange(52, 56)
            raddr = [draw.choice((*range(32), 32, 38)) for _ in range(2)]
            if self.latches and draw.random() < 0.2:
                raddr[draw.randrange(2)] = 39
            fields = {
                "sig": sig,
                "unpack": draw.randrange(8) if packs else 0,
                "pm": draw.getrandbits(1) if packs else 0,
                "pack": draw.randrange(16) if packs else 0,
                "cond_add": draw.randrange(8) if conditional else int(op_add != 0),
                "cond_mul": draw.randrange(8) if conditional else int(op_mul != 0),
                "sf": int(draw.random() < 0.2),
                "ws": draw.getrandbits(1),
                "waddr_add": waddr[0],
                "waddr_mul": waddr[1],
                "op_mul": op_mul,
                "op_add": op_add,
                "raddr_a": raddr[0],
                "raddr_b": immediate if sig == 13 else raddr[1],
                "add_a": draw.randrange(8),
                "add_b": draw.randrange(8),
                "mul_a": draw.randrange(8),
                "mul_b": draw.randrange(8),
            }
            if choices:
                fields.update(draw.choice(choices))
            word = encode(Alu(**fields))
            if form is not None and form not in forms_of(word):
                continue
            if self.fits(word, turn > 2000):
                return word
        raise AssertionError(f"cannot make {form}")

    def fits(self, word: int, wrong: bool = False) -> bool:
        """Whether an instruction may be placed here. wrong: it may be one whose result is unknown on hardware."""
        p = planned(word)
        assert p.add is not None and p.mul is not None
        if p.issues and not wrong and self.draw.random() >= self.bad:
            return False
        if any(issue.level.value == "stop" for issue in p.issues):
            return False
        if any((h.dest.place, h.dest.number) in RESERVED for h in (p.add, p.mul)):
            return False
        if any(h.dest.place in (Place.HOST, Place.GRAPHICS) for h in (p.add, p.mul)):
            return False
        if not self.words:
            return True
        q = planned(self.words[-1])
        early = bool(p.forbid1 & q.effects)
        early = early or (len(self.words) > 1 and bool(p.forbid2 & planned(self.words[-2]).effects))
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

    def settle(self) -> None:
        """Instructions after which nothing is under way."""
        self.emit(self.nop(), self.nop(), self.nop())

    def ldi(self, waddr: int, imm: int, *, ws: int = 0) -> int:
        return encode(LoadImm(cond_add=1, waddr_add=waddr, waddr_mul=39, ws=ws, imm=imm & 0xFFFFFFFF))

    def register(self) -> int:
        return self.draw.randrange(4, 26)

    # -- pieces

    def skip(self, cond: int, kind: str = "rel", link: str = "none") -> None:
        """A forward branch over a few instructions."""
        skipped = self.draw.randrange(0, 4)
        add = self.draw.choice((5, 33)) if link in ("add", "both") else 39
        mul = self.draw.choice((6, 34)) if link in ("mul", "both") else 39
        ws = self.draw.getrandbits(1)
        fields = {"cond": cond, "waddr_add": add, "waddr_mul": mul, "ws": ws}
        self.settle()
        at = len(self.words)
        if kind == "rel":
            branch = Branch(rel=1, imm=8 * skipped, **fields)
        elif kind == "abs":
            branch = Branch(imm=CODE + 8 * (at + 4 + skipped), **fields)
        else:
            odd = int(kind == "odd")
            rel = int(kind == "reg rel")
            part = 8 * self.draw.randrange(0, 4)
            goal = 8 * skipped if rel else CODE + 8 * (at + 3 + 4 + skipped)
            self.emit(self.ldi(JUMP + odd, part), self.nop(), self.nop())
            branch = Branch(rel=rel, reg=1, raddr_a=JUMP + odd, imm=(goal - part) & 0xFFFFFFFF, **fields)
        self.emit(encode(branch), self.nop())
        self.emit(*(self.alu() for _ in range(2 + skipped)))

    def loop(self) -> None:
        """A few turns, counted in ra31."""
        turns = self.draw.randrange(1, 5)
        self.emit(self.ldi(COUNT, turns), self.nop())
        start = len(self.words)
        for _ in range(self.draw.randrange(1, 4)):
            self.emit(self.alu())
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

    def load(self, tmu: int, count: int) -> None:
        """Requests of one TMU, and their results."""
        self.p.forms.add(("tmu", tmu, count))
        self.settle()
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
        self.settle()
        self.emit(self.move(49, raddr_a=WRITE, ws=1))
        for _ in range(2):
            self.emit(self.move(48, raddr_a=self.register()))
        self.emit(self.move(49, raddr_b=STORE, ws=1), self.move(49, raddr_b=STRIDE, ws=1))
        self.emit(self.move(50, raddr_a=OUT, ws=1))
        self.emit(encode(Alu(sig=1, **{**NOP, "raddr_b": 50})))

    def vpm(self, what: str, size: int, laned: int, horizontal: int) -> None:
        """Generic accesses of any mode."""
        draw, count = self.draw, self.draw.randrange(1, 5)
        self.p.alone = True
        self.settle()
        word = draw.randrange(64 << (2 - size)) | size << 8 | laned << 10 | horizontal << 11 | draw.randrange(64) << 12
        if what == "write":
            self.emit(self.ldi(49, word, ws=1))
            for _ in range(count):
                self.emit(self.move(48, raddr_a=self.register(), ws=draw.getrandbits(1)))
            return
        self.emit(self.ldi(49, word | (count & 15) << 20))
        self.settle()
        for _ in range(count):
            port = {"raddr_a": 48} if draw.getrandbits(1) else {"raddr_b": 48}
            self.emit(self.move(self.register(), **port, ws=draw.getrandbits(1)))

    def dma_load(self, modew: int, vertical: int, pitch: str) -> None:
        draw = self.draw
        self.p.alone = True
        rows, columns = draw.randrange(1, 5), draw.randrange(1, 9)
        place = vertical << 11 | draw.randrange(24) << 4 | draw.randrange(5)
        mpitch = draw.randrange(1, 5) if pitch == "field" else 0
        word = 1 << 31 | modew << 28 | mpitch << 24 | columns << 20 | rows << 16 | draw.randrange(1, 5) << 12 | place
        self.settle()
        if not mpitch:
            self.emit(self.ldi(49, 9 << 28 | 8 * draw.randrange(1, 17)))
        self.emit(self.ldi(49, word), self.move(50, raddr_a=OUT))
        if draw.getrandbits(1):
            self.emit(self.move(self.register(), raddr_a=49))
        self.emit(encode(Alu(sig=1, **{**NOP, "raddr_a": 50})))

    def dma_store(self, modew: int, horizontal: int, block: int) -> None:
        draw = self.draw
        self.p.alone = True
        units, depth = draw.randrange(1, 5), draw.randrange(1, 9)
        place = draw.randrange(24) << 7 | draw.randrange(5) << 3
        word = 2 << 30 | units << 23 | depth << 16 | (draw.random() < 0.2) << 15 | horizontal << 14 | place | modew
        self.settle()
        self.emit(self.ldi(49, word, ws=1), self.ldi(49, 3 << 30 | block << 16 | 4 * draw.randrange(9), ws=1))
        self.emit(self.move(50, raddr_a=OUT, ws=1))
        if draw.getrandbits(1):
            self.emit(self.move(self.register(), raddr_b=49))
        self.emit(encode(Alu(sig=1, **{**NOP, "raddr_b": 50})))

    def texture(self, tmu: int, kind: str) -> None:
        """A lookup of 16 texels along a line."""
        draw = self.draw
        self.p.forms.add(("texture", tmu, kind))
        raster = kind == "raster"
        width, height = {"raster": (64, 37), "lt": (12, 40), "t": (64, 48)}[kind]
        wraps = draw.randrange(4), draw.randrange(4)
        texel = 0 if raster else draw.randrange(2)
        setup = [
            DATA | draw.getrandbits(1) << 8 | texel << 4,
            int(raster) << 31 | height << 20 | width << 8 | 1 << 7 | 1 << 4 | wraps[1] << 2 | wraps[0],
        ]
        border = 3 in wraps
        if border:
            setup.append(0)
        at = SIDE + 4 * len(self.p.side)
        self.p.side += setup
        self.settle()
        # The lines start left of the image and end right of it.
        itof = {**NOP, "waddr_add": 32, "raddr_a": 38}
        self.emit(encode(Alu(cond_add=1, op_add=8, add_a=6, add_b=6, **itof)), self.ldi(40, at))
        self.emit(encode(Alu(sig=13, cond_mul=1, op_mul=1, mul_a=0, mul_b=7,
                             **{**NOP, "waddr_mul": 33, "raddr_b": draw.randrange(44, 48)})))  # fmt: skip
        self.emit(encode(Alu(sig=13, cond_add=1, op_add=2, add_a=1, add_b=7,
                             **{**NOP, "waddr_add": 34, "raddr_b": 47})))  # fmt: skip
        base = 56 + 4 * tmu
        for waddr, mux in ((base + 1, 2), *(((base + 2, 3),) if border else ()), (base, 1)):
            self.emit(encode(Alu(cond_add=1, op_add=21, add_a=mux, add_b=mux, **{**NOP, "waddr_add": waddr})))
        self.emit(self.nop(10 + tmu))
        self.uniforms()

    def uniforms(self) -> None:
        """Continue to read uniforms at another address."""
        place = SIDE + 4 * self.draw.randrange(SIDE_SETUPS, SIDE_WORDS - UNIFORM_WORDS)
        self.emit(self.ldi(40, place), self.nop(), self.nop())

    def immediate(self, form: Form | None = None) -> None:
        """A load immediate."""
        draw = self.draw
        mode = LoadMode(0 if self.tame else draw.choice((0, 0, 1, 3)))
        pack, sf, cond = 0, int(draw.random() < 0.1), draw.randrange(8)
        ws = draw.getrandbits(1)
        if form is not None and form[0] == "ldi":
            mode, pack, ws = LoadMode(form[1]), form[2], 0
        elif form is not None:
            sf, cond = 1, form[1]
        instr = LoadImm(
            mode=mode,
            pack=pack,
            cond_add=cond,
            cond_mul=draw.choice((0, 0, 1)),
            sf=sf,
            ws=ws,
            waddr_add=draw.choice((*range(26), *(() if pack else (32, 33, 37)))),
            waddr_mul=draw.choice((*range(26), 34, 35, 39)),
            imm=self.number(),
        )
        word = encode(instr)
        if form is not None or self.fits(word):
            self.emit(word)

    def semaphore(self, number: int) -> None:
        """Up and down again; the instruction also loads its immediate."""
        waddr = self.draw.choice((39, 39, 7, 34))
        for down in (0, 16):
            self.emit(encode(Semaphore(cond_add=1, waddr_add=waddr, imm=down | number)))
            self.emit(self.alu())

    def special(self, name: str) -> None:
        """A piece by name."""
        self.p.forms.add(("piece", name))
        if name == "loop":
            self.loop()
        elif name == "uniforms":
            self.settle()
            self.uniforms()
        elif name == "relative uniforms":
            self.settle()
            self.emit(self.ldi(40, 4 * self.draw.randrange(8), ws=1), self.nop(), self.nop())
        elif name == "mutex":
            self.settle()
            self.emit(self.move(self.register(), raddr_a=51), self.alu(), self.alu(), self.move(51, raddr_a=5))
        elif name == "host":
            self.emit(self.nop(), self.nop(), self.move(38, raddr_a=self.register()))
        elif name == "noswap":
            self.settle()
            self.emit(self.move(36, raddr_a=self.register()))
            self.settle()
            self.load(self.draw.randrange(2), 1)
        else:
            self.settle()
            self.emit(self.nop(2 if name == "switch" else 6), self.alu(), self.alu())

    def produce(self, form: Form) -> None:
        """A piece that shows a form."""
        kind, *rest = form
        if kind in ALU_FORMS:
            self.settle()
            self.emit(self.alu(form))
        elif kind == "branch":
            self.skip(*rest)
        elif kind in ("ldi", "ldi flags"):
            self.immediate(form)
        elif kind == "vpm":
            self.p.forms.add(form)
            self.vpm(*rest)
        elif kind == "dma load":
            self.p.forms.add(form)
            self.dma_load(*rest)
        elif kind == "dma store":
            self.p.forms.add(form)
            self.dma_store(*rest)
        elif kind == "tmu":
            self.load(*rest)
        elif kind == "texture":
            self.texture(*rest)
        elif kind == "semaphore":
            self.semaphore(*rest)
        else:
            self.special(*rest)

    def random(self) -> None:
        """Something small."""
        what = self.draw.random()
        if what < 0.06:
            self.skip(self.draw.choice((*range(12), 15)), link=self.draw.choice(("none", "none", "add")))
        elif what < 0.1:
            self.loop()
        elif what < 0.17:
            self.load(self.draw.randrange(2), self.draw.randrange(1, 4))
        elif what < 0.21:
            self.store()
        elif what < 0.26:
            self.immediate()
        else:
            self.emit(self.alu())

    def make(self, length: int) -> Program:
        pieces: list[Form | None] = [
            *self.must,
            *[None] * self.draw.randrange(length // 4 if self.must else length // 2, length),
        ]
        self.draw.shuffle(pieces)
        for form in pieces:
            if form is None:
                self.random()
            else:
                self.produce(form)
        self.settle()
        self.emit(self.nop(3), self.nop(), self.nop())
        p = self.p
        p.uniforms = [self.number() for _ in range(UNIFORM_WORDS)]
        p.side += [0] * (SIDE_SETUPS - len(p.side))
        p.side += [self.number() for _ in range(SIDE_WORDS - SIDE_SETUPS)]
        return p


def generate(seed: int, *, small: bool = False) -> Program:
    """A program. small: with fewer pieces, for large numbers of programs."""
    return Generator(seed, small).make(8 if small else 24)


def form_names(program: Program) -> set[Form]:
    """All forms of a program."""
    found = set(program.forms)
    for word in program.words:
        found.update(forms_of(word))
    return found
