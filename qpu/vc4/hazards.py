"""Hazard rules of VideoCore IV: H1..H30, along every control-flow path.

A finding names the rule, the offending instruction, the earlier one and their distance in executed instructions: the
three delay slots of a branch count, then its target; after a conditional branch also what follows it.

Sources: VideoCore IV 3D architecture guide ("Instruction restrictions"), and the checkers of vc4asm, Mesa and
py-videocore. H30 (a signal together with a small immediate, load immediate or branch) cannot occur in a word, because
they share a field; builder and assembler refuse it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache

from qpu.core.code import Code
from qpu.core.hazards import Distance, Finding
from qpu.core.isa import Basis, Isa
from qpu.errors import Diagnostic, HazardError, Severity
from qpu.vc4 import hazards_flow, hazards_same, regs
from qpu.vc4.decode import decode, reserved
from qpu.vc4.effects import add_sources, effects, mul_sources, write_targets
from qpu.vc4.encode import NOP_WORD
from qpu.vc4.instr import Alu, Branch, Instr, LoadImm, Semaphore
from qpu.vc4.listing import branch_target
from qpu.vc4.ops import ADD_OPS
from qpu.vc4.regs import File

__all__ = ["DISTANCES", "ERRORS", "RULES", "check", "effects", "enforce", "jumps"]

_GUIDE = "VideoCore IV 3D architecture guide"

ERRORS = frozenset(f"H{n}" for n in (*range(1, 6), 8, 9, *range(11, 21), 23, 27))
"""Rules whose findings are errors; those of the others are warnings."""


def _severity(rule: str) -> Severity:
    return Severity.ERROR if rule in ERRORS or rule == "decode" else Severity.WARNING


def _row(
    rule: str, after: str, before: str, distance: int, message: str, source: str = _GUIDE, first: int = 1
) -> Distance:
    return Distance(
        rule, frozenset({Isa.VC4}), after, before, distance, message, source, Basis.MANUAL, _severity(rule), first
    )


DISTANCES: tuple[Distance, ...] = (
    _row("H1", "write ra*/rb*", "read the same ra/rb", 1, "{} is read in the instruction after it is written"),
    _row("H2", "write sfu", "read r4", 2, "r4 is read before the SFU result is there, three instructions on"),
    _row("H3", "write sfu", "load r4", 2, "a TMU or tile buffer load reaches r4 while an SFU result is on its way"),
    _row("H4", "write sfu", "write sfu", 2, "an SFU function is started before the last one has finished"),
    _row("H5", "write r5", "rotate by r5", 1, "r5 is the rotation amount in the instruction after it is written"),
    _row("H6", "write r0..r3", "rotate the same", 1, "{} is rotated in the instruction after it is written"),
    _row("H8", "write unif_addr", "uniform access", 2, "a uniform is taken within two instructions of a new address"),
    _row("H9", "write tmu_noswap", "write tmu", 3, "a TMU is written within three instructions of TMU_NOSWAP",
         "vc4asm and Mesa validators (the guide's example allows the third)"),
    _row("H11", "write tlb_z", "read ms_mask", 2, "the multisample mask is read within two instructions of a Z write"),
    _row("H17", "branch", "branch", 2, "a branch in the first two delay slots of another breaks both",
         "vc4asm, measured (py-videocore and the kernel forbid the third slot too)"),
    _row("H18", "program end", "access uniform, varying, VPM or DMA", 2, "{} at the program end", first=0),
    _row("H19", "program end", "write ra*/rb*", 0, "the program end writes {}", first=0),
    _row("H20", "program end", "access ra14/rb14", 2, "{} is used at the program end", first=0),
    _row("H21", "program end", "write tlb_z", 2, "the last instruction writes tile buffer Z", first=2),
    _row("H28", "thread switch", "thread switch", 2, "a thread switch while another is pending", "Mesa validator"),
)  # fmt: skip
"""Rules that are a distance. Names are those of `effects`, or families of them where a register must be the same."""

RULES: dict[str, str] = {
    "decode": "the word uses a reserved encoding",
    "H1": "a register of file A or B is read in the instruction after it is written",
    "H2": "r4 is read before the SFU result is there",
    "H3": "a TMU or tile buffer load reaches r4 while an SFU result is on its way",
    "H4": "an SFU function is started before the last one has finished",
    "H5": "r5 is the rotation amount in the instruction after it is written",
    "H6": "an accumulator is rotated in the instruction after it is written",
    "H7": "a rotation by 4 to 12 of something else than r0..r3",
    "H8": "a uniform is taken within two instructions of a new uniform address",
    "H9": "a TMU is written within three instructions of TMU_NOSWAP",
    "H10": "TMU_NOSWAP is changed after the TMU was used",
    "H11": "the multisample mask is read within two instructions of a Z write",
    "H12": "one instruction uses two of the shared units: TMU, tile buffer, SFU, mutex",
    "H13": "both ALUs write the same place under conditions that can hold together",
    "H14": "an I/O register is written under a condition; it acts in any case",
    "H15": "a byte is packed into an I/O register",
    "H16": "a VPM access together with the set-up of another",
    "H17": "a branch in the first two delay slots of another",
    "H18": "uniforms, varyings, VPM or DMA at the program end",
    "H19": "the instruction of the program end writes a register of file A or B",
    "H20": "ra14 or rb14 is used at the program end",
    "H21": "the last instruction writes tile buffer Z",
    "H22": "the first two instructions of a fragment shader touch the tile buffer",
    "H23": "a uniform is read while a texture write takes one",
    "H24": "a branch through a register of odd number sets the flags",
    "H25": "the VPM is not read exactly as often as its set-up says",
    "H26": "too many or too few TMU requests outstanding",
    "H27": "a semaphore instruction writes TMU, SFU or tile buffer",
    "H28": "thread switches: too close, after the last one, or with results outstanding",
    "H29": "the rules of the program end, broken at the last thread switch (vc4asm asks for it)",
}
"""Rule identifiers and what they are about."""

# Rules whose two sides are marks of `effects`; the others need registers and are written out below.
_MARKED = tuple(r for r in DISTANCES if r.rule in {"H2", "H3", "H4", "H5", "H8", "H9", "H11", "H17", "H28"})
_BIT = {name: 1 << n for n, name in enumerate(sorted({n for r in _MARKED for n in (r.after, r.before)}))}
_PAIRS = tuple((r, _BIT[r.after], _BIT[r.before]) for r in _MARKED)
_AFTER = sum({bit for _, bit, _ in _PAIRS})
_BEFORE = sum({bit for _, _, bit in _PAIRS})
_BY_RULE = {r.rule: r for r in DISTANCES}
_OTHER = 1 << len(_BIT)  # the rules of one instruction are to be asked
_FLOW = _OTHER << 1  # the program needs the flow analysis
_END = _FLOW << 1  # program end or last thread switch
_BRANCH = _BIT["branch"]

_REGISTER_BIT = {f"{p}{n}": 1 << (32 * f + n) for f, p in enumerate(("ra", "rb")) for n in range(32)}
_REGISTER_BIT |= {f"r{n}": 1 << (64 + n) for n in range(4)}
_FILES = (1 << 64) - 1


class _Tables:
    """Per-field tables, derived from `effects` of instructions that have only that field.

    write, read: [file][address] -> (marks, registers, accesses); an instruction with more than one access may break a
    rule of one instruction. signal: [sig] -> (marks, accesses). muxes: [low 12 bits] -> which sides read r4.
    """

    def __init__(self) -> None:
        self.write = tuple(tuple(self._write(f, n) for n in range(64)) for f in File)
        self.read = tuple(tuple(self._read(f, n) for n in range(64)) for f in File)
        self.signal = tuple(self._signal(n) for n in range(14))
        self.muxes = bytes(
            (m >> 9 == 4) | (m >> 6 & 7 == 4) << 1 | (m >> 3 & 7 == 4 or m & 7 == 4) << 2 for m in range(1 << 12)
        )
        self.reserved_add = frozenset(n for n, op in enumerate(ADD_OPS) if op is None)

    @staticmethod
    def _marks(i: Alu) -> int:
        return sum(_BIT.get(mark, 0) for mark in effects(i).marks)

    def _write(self, file: File, addr: int) -> tuple[int, int, int]:
        i = Alu(op_add=21, waddr_add=addr, cond_add=1, ws=int(file))
        registers = sum(_REGISTER_BIT.get(name, 0) for name in effects(i).writes)
        marks = self._marks(i) | (_FLOW if addr in hazards_flow.RELEVANT_WRITES or addr == 49 else 0)
        return marks, registers, int(addr in hazards_same.PERIPHERALS)

    def _read(self, file: File, addr: int) -> tuple[int, int, int]:
        i = Alu(raddr_a=addr) if file is File.A else Alu(raddr_b=addr)
        registers = sum(_REGISTER_BIT.get(name, 0) for name in effects(i).reads)
        marks = self._marks(i) | (_FLOW if addr == 48 else 0)
        return marks, registers, int(addr in (32, 48, 51))

    def _signal(self, sig: int) -> tuple[int, int]:
        marks = self._marks(Alu(sig=sig)) | (_FLOW if sig in hazards_flow.RELEVANT_SIGNALS else 0)
        if sig in (3, 6, 9):
            marks |= _END
        return marks, int(bool(regs.SIGNALS[sig].loads_r4))


@cache
def _tables() -> _Tables:
    return _Tables()


def _scan(word: int, t: _Tables) -> tuple[int, int, int]:
    """Marks, registers written, registers read in a way that rules look at: files in bits 63:0, accumulators above."""
    sig = word >> 60
    if sig == 15:
        return _scan_branch(decode(word), t)
    ws = word >> 44 & 1
    wa, wm = word >> 38 & 63, word >> 32 & 63
    marks, write, accesses = t.write[ws][wa]
    if not word & 7 << 49:
        write = 0
    more, written, n = t.write[1 - ws][wm]
    marks |= more
    # a peripheral that is not written in all lanes
    partly = (accesses and word >> 49 & 7 != 1) or (n and word >> 46 & 7 != 1)
    accesses += n
    if word & 7 << 46:
        write |= written
    read = 0
    if sig < 14:
        more, read, n = t.read[0][word >> 18 & 63]
        marks |= more
        accesses += n
        if sig == 13:
            if word & 0x30000 == 0x30000 and word & 7 << 29:
                marks |= _OTHER
                i = decode(word)
                for mark in effects(i).marks:
                    marks |= _BIT.get(mark, 0)
                for name in effects(i).rotated:
                    read |= _REGISTER_BIT[name]
        else:
            more, registers, n = t.read[1][word >> 12 & 63]
            marks |= more
            read |= registers
            accesses += n
            more, n = t.signal[sig]
            marks |= more
            accesses += n
        fours = t.muxes[word & 0xFFF]
        if fours and _reads_r4(word, fours):
            marks |= _R4
        if word >> 24 & 31 in t.reserved_add:
            marks |= _OTHER
    elif word >> 57 & 7 not in (0, 1, 3):
        marks |= _OTHER
    if accesses > 1 or partly or (wa == wm and wa > 31 and wa != 39) or (word >> 56 & 1 and word & 15 << 52):
        marks |= _OTHER
    return marks, write, read


_R4 = _BIT["read r4"]


def _reads_r4(word: int, fours: int) -> bool:
    op = word >> 24 & 31
    if op and (fours & 1 or (fours & 2 and op not in (7, 8, 23, 24))):
        return True
    return bool(fours & 4 and word & 7 << 29)


def _scan_branch(i: Instr, t: _Tables) -> tuple[int, int, int]:
    assert isinstance(i, Branch)
    write = t.write[i.ws][i.waddr_add][1] | t.write[1 - i.ws][i.waddr_mul][1]
    return _BRANCH | _OTHER, write, 1 << i.raddr_a if i.reg else 0


def jumps(instrs: Sequence[Instr]) -> list[tuple[int, tuple[int, int, int], int]]:
    """Taken branches with a known target: (branch, the three instructions before the jump, target).

    A branch in the third delay slot of another is taken too: its delay slots are then at the target of the first.
    """
    found: list[tuple[int, tuple[int, int, int], int]] = []
    count = len(instrs)

    def target(at: int) -> int | None:
        i = instrs[at]
        where = branch_target(i, at) if isinstance(i, Branch) else None
        return where if where is not None and 0 <= where < count else None

    for at, i in enumerate(instrs):
        if not isinstance(i, Branch) or at + 3 >= count:
            continue
        to = target(at)
        if to is None:
            continue
        found.append((at, (at + 1, at + 2, at + 3), to))
        nested = target(at + 3) if isinstance(instrs[at + 3], Branch) else None
        if nested is not None and to + 2 < count:
            found.append((at + 3, (to, to + 1, to + 2), nested))
    return found


class _Checker:
    """One run over one program."""

    def __init__(self, words: Iterable[int]) -> None:
        self.words = tuple(words)
        tables = _tables()
        self.scans = [_scan(word, tables) for word in self.words]
        self.found: dict[tuple[str, int, int | None, str], Finding] = {}
        self.instrs: dict[int, Instr] = {}
        self.union = 0
        for marks, _, _ in self.scans:
            self.union |= marks

    def instr(self, index: int) -> Instr:
        found = self.instrs.get(index)
        if found is None:
            found = self.instrs[index] = decode(self.words[index])
        return found

    def add(self, rule: str, index: int, message: str, other: int | None = None, distance: int | None = None) -> None:
        self.found.setdefault(
            (rule, index, other, message), Finding(rule, _severity(rule), index, message, other, distance)
        )

    def run(self) -> list[Finding]:
        broken: frozenset[int] = frozenset()
        if self.union & _BRANCH:
            for index, (marks, _, _) in enumerate(self.scans):
                if marks & _BRANCH:
                    self.instr(index)
            broken = self.breaks()
        self.mark_textures()
        self.linear(broken)
        if self.union & _BRANCH:
            self.across()
        if self.union & _OTHER:
            self.single()
        if self.union & _END:
            self.ends()
        if self.union & _FLOW:
            self.flow(broken)
        return sorted(self.found.values(), key=lambda f: (f.index, f.rule, -1 if f.other is None else f.other))

    def breaks(self) -> frozenset[int]:
        """Instructions that the one before never reaches: behind an unconditional branch and its delay slots."""
        everything = [self.instrs.get(n, _PLAIN) for n in range(len(self.words))]
        entered = {to for _, _, to in jumps(everything)}
        return frozenset(
            at + 4
            for at, i in self.instrs.items()
            if isinstance(i, Branch) and i.cond == 15 and not entered & {at + 1, at + 2, at + 3}
        )

    def mark_textures(self) -> None:
        """S writes that follow T, R or B belong to a texture request and take a uniform; in order of the text."""
        self.textures: set[int] = set()
        if not self.union & _BIT["write tmu"]:
            return
        pending = [False, False]
        for index, (marks, write, read) in enumerate(self.scans):
            if not marks & _BIT["write tmu"]:
                continue
            addrs = [addr for _, addr, _ in write_targets(self.instr(index)) if addr >= 56]
            for addr in sorted(addrs, key=lambda a: not a & 3):
                unit = addr >> 2 & 1
                if addr & 3:
                    pending[unit] = True
                elif pending[unit]:
                    pending[unit] = False
                    self.textures.add(index)
                    self.scans[index] = (marks | _BIT["uniform access"] | _OTHER, write, read)

    def linear(self, broken: frozenset[int]) -> None:
        scans = self.scans
        written = 0
        recent = 0  # marks of the last three instructions
        a = b = c = 0
        for index, (marks, write, read) in enumerate(scans):
            if written & read and index not in broken:
                self.registers(index - 1, index, written & read, 1)
            if marks & _BEFORE and recent & _AFTER:
                for distance in (1, 2, 3):
                    at = index - distance
                    if at < 0 or at + 1 in broken:
                        break
                    if scans[at][0] & _AFTER:
                        self.pairs(at, index, distance)
            a, b, c = b, c, marks
            recent = a | b | c
            written = write

    def across(self) -> None:
        """Windows that reach over a taken branch."""
        everything = [self.instrs.get(n, _PLAIN) for n in range(len(self.words))]
        for _, last, to in jumps(everything):
            for back, at in enumerate(reversed(last)):
                for ahead in range(3 - back):
                    index, distance = to + ahead, back + ahead + 1
                    if index >= len(self.words):
                        break
                    if distance == 1 and self.scans[at][1] & self.scans[index][2]:
                        self.registers(at, index, self.scans[at][1] & self.scans[index][2], 1)
                    if self.scans[index][0] & _BEFORE and self.scans[at][0] & _AFTER:
                        self.pairs(at, index, distance)

    def pairs(self, at: int, index: int, distance: int) -> None:
        after, before = self.scans[at][0], self.scans[index][0]
        for row, first, second in _PAIRS:
            if after & first and before & second and row.first <= distance <= row.distance:
                self.add(row.rule, index, row.message, at, distance)

    def registers(self, at: int, index: int, bits: int, distance: int) -> None:
        """H1 and H6 for the registers in `bits`, written at `at` and read at `index`."""
        for name, bit in _REGISTER_BIT.items():
            if bits & bit:
                rule = "H1" if bit & _FILES else "H6"
                if rule == "H1" and _apart(self.instr(at), self.instr(index), name):
                    continue
                self.add(rule, index, _BY_RULE[rule].message.format(name), at, distance)

    def single(self) -> None:
        for index, (marks, _, _) in enumerate(self.scans):
            if marks & _OTHER:
                i = self.instr(index)
                why = reserved(i)
                if why is not None:
                    self.add("decode", index, why)
                for rule, message in hazards_same.same_rules(i, texture=index in self.textures):
                    self.add(rule, index, message)

    def ends(self) -> None:
        for index, (marks, _, _) in enumerate(self.scans):
            if marks & _END:
                run = [self.instr(n) for n in range(index, min(index + 3, len(self.words)))]
                first = run[0]
                quirk = isinstance(first, Alu) and first.sig == 6
                for rule, distance, message in hazards_same.end_rules(run, quirk=quirk):
                    self.add(rule, index + distance, message, index if distance else None, distance)
        for index in range(min(2, len(self.words))):
            i = self.instr(index)
            if (isinstance(i, Alu) and i.sig in (4, 7, 8, 9, 12)) or any(43 <= a <= 47 for _, a, _ in write_targets(i)):
                self.add("H22", index, "the first two instructions of a fragment shader must not touch the tile buffer")

    def flow(self, broken: frozenset[int]) -> None:
        relevant = frozenset(n for n, (marks, _, _) in enumerate(self.scans) if marks & (_FLOW | _BRANCH))
        instrs = [self.instr(n) if n in relevant else _PLAIN for n in range(len(self.words))]
        over: dict[int, list[int]] = {}
        for _, last, to in jumps(instrs):
            over.setdefault(last[2], []).append(to)
        unknown = frozenset(
            at + 4
            for at, i in enumerate(instrs)
            if isinstance(i, Branch) and at + 4 < len(instrs) and (i.waddr_add != 39 or i.waddr_mul != 39)
        )

        def successors(index: int) -> list[int]:
            following = [] if index + 1 in broken else [index + 1]
            return following + over.get(index, [])

        for rule, index, message in hazards_flow.flow_findings(instrs, relevant, successors, unknown):
            self.add(rule, index, message)


_PLAIN = decode(NOP_WORD)


def _conditions(i: Instr, name: str) -> set[int]:
    """Conditions under which the instruction writes register `name`."""
    return {c for f, a, c in write_targets(i) if a < 32 and f"{f.prefix}{a}" == name}


def _apart(writer: Instr, reader: Instr, name: str) -> bool:
    """True when no lane reads what was written: opposite conditions and flags that have not changed in between.

    Operations that set flags read in every lane of their condition too, so the same test serves them.
    """
    if not isinstance(reader, Alu) or isinstance(writer, Branch | Semaphore) or not isinstance(writer, Alu | LoadImm):
        return False
    if writer.sf:
        return False
    mux = 6 if name.startswith("ra") else 7
    conds = {c for used, c in ((add_sources(reader), reader.cond_add), (mul_sources(reader), reader.cond_mul))
             if mux in used}  # fmt: skip
    written = _conditions(writer, name)
    return bool(conds) and all(c == 0 or all(c == w ^ 1 and w > 1 for w in written) for c in conds)


def check(words: Iterable[int]) -> list[Finding]:
    """All findings of a program, by instruction: rules H1..H29, and ``decode`` for reserved encodings."""
    return _Checker(words).run()


def enforce(program: Code) -> None:
    """Raise HazardError for the errors among the findings, at their source lines; nothing when there are none."""
    errors = [
        Diagnostic(
            f.rule,
            f.message,
            f.severity,
            program.loc(f.index),
            help=_help(program, f),
            index=f.index,
            other=f.other,
            distance=f.distance,
        )
        for f in check(program.code)
        if f.severity is Severity.ERROR
    ]
    if errors:
        raise HazardError.of(errors)


def _help(program: Code, f: Finding) -> str | None:
    if f.other is None or f.distance is None:
        return None
    row = _BY_RULE.get(f.rule)
    if row is None or f.other == f.index:
        return None
    loc = program.loc(f.other)
    where = f"instruction {f.other}" if loc is None else f"line {loc.line}"
    if "program end" in (row.after,):
        return f"the program end is at {where}; it covers {row.distance + 1} instructions"
    missing = row.distance + 1 - f.distance
    return f"put {missing} more instruction{'s' if missing > 1 else ''} between this and {where}"
