"""Validity rules of V3D instruction sequences.

Severity `error`: the rules that Mesa's validator enforces, found by one walk over the instructions in order, whether
they are reached or not. `warning`: what only its scheduler keeps, what happens only along a taken branch, and branch
targets outside the program. Sources: Mesa's QPU validator and scheduler (`Basis.DRIVER`), device tests where noted.

Where words alone do not tell everything the rule says what can be told: a TLB access counts as a Z write, and a TMU
request brings at least one result. The emulator sees the rest.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Final

from qpu.core.code import Code
from qpu.core.hazards import Distance, Finding
from qpu.core.isa import Basis, Isa, Unit
from qpu.errors import DecodeError, Diagnostic, HazardError, Severity
from qpu.v3d.codes import SIGNALS, WRITING_SIGS, tables
from qpu.v3d.effects import Effects
from qpu.v3d.instr import Alu, Branch, Sig, Src, SrcKind
from qpu.v3d.scheduling import RULES as SCHEDULING
from qpu.v3d.scheduling import scheduling_findings
from qpu.v3d.single import Remark, known_42, known_71

__all__ = ["DISTANCES", "RULES", "check", "raise_errors"]

_BOTH: Final = frozenset({Isa.V3D42, Isa.V3D71})
_42: Final = frozenset({Isa.V3D42})
_71: Final = frozenset({Isa.V3D71})
_WARN: Final = Severity.WARNING
_VALIDATOR, _SCHEDULER = "Mesa QPU validator", "Mesa QPU scheduler"


def _d(
    rule: str,
    isas: frozenset[Isa],
    after: str,
    before: str,
    distance: int,
    message: str,
    *,
    first: int = 1,
    severity: Severity = Severity.ERROR,
    source: str | None = None,
    basis: Basis = Basis.DRIVER,
) -> Distance:
    if source is None:
        source = _VALIDATOR if severity is Severity.ERROR else _SCHEDULER
    return Distance(rule, isas, after, before, distance, message, source, basis, severity, first)


# "switch" is a thrsw that is not the last-switch marker.
DISTANCES: Final[tuple[Distance, ...]] = (
    _d(
        "ldvary-ldunif",
        _BOTH,
        "ldvary",
        "ldunif_acc",
        1,
        "ldunif or ldunifa right after ldvary: both write r5 (rf0 on 7.1)",
    ),
    _d(
        "thrsw-sfu",
        _BOTH,
        "switch",
        "sfu_write",
        2,
        "an SFU operation is started in the delay slots of a thread switch",
    ),
    _d("thrsw-ldvary", _42, "switch", "ldvary", 2, "ldvary in the delay slots of a thread switch"),
    _d("thrsw-ldvary", _71, "switch", "ldvary", 2, "ldvary in the second delay slot of a thread switch", first=2),
    _d(
        "sfu-r4-read",
        _42,
        "sfu_write",
        "r4_read",
        1,
        "r4 is read before the SFU result arrives: leave one instruction between",
    ),
    _d("sfu-r4-write", _BOTH, "sfu_write", "r4_write", 1, "r4 is written while the SFU result is on its way"),
    _d("sfu-sfu", _BOTH, "sfu_write", "sfu_write", 1, "an SFU operation is started right after another"),
    _d(
        "thrsw-close",
        _BOTH,
        "switch",
        "switch",
        2,
        "a thread switch in the second delay slot of another",
        first=2,
        source="Mesa QPU validator; hardware was seen to accept it",
    ),
    _d("branch-slot", _BOTH, "branch", "thrsw", 3, "a thread switch in the delay slots of a branch"),
    _d("branch-slot", _BOTH, "branch", "branch", 3, "a branch in the delay slots of another"),
    _d("branch-slot", _BOTH, "switch", "branch", 2, "a branch in the delay slots of a thread switch"),
    # kept by the scheduler only
    _d(
        "ldvary-read",
        _42,
        "ldvary",
        "r5_read",
        1,
        "r5 is read right after ldvary, which still writes it",
        severity=_WARN,
    ),
    _d(
        "ldvary-read",
        _71,
        "ldvary",
        "rf0_read",
        1,
        "rf0 is read right after ldvary, which still writes it",
        severity=_WARN,
    ),
    _d(
        "ldvary-write",
        _71,
        "ldvary",
        "rf0_write",
        1,
        "rf0 is written right after ldvary, which writes it too",
        severity=_WARN,
    ),
    _d(
        "unifa-early",
        _BOTH,
        "unifa_write",
        "unifa_read",
        3,
        "ldunifa within three instructions of the write of unifa",
        severity=_WARN,
    ),
    _d(
        "unifa-branch",
        _BOTH,
        "unifa_write",
        "branch",
        3,
        "a branch within three instructions of the write of unifa",
        severity=_WARN,
        source="Mesa QPU scheduler; hardware was seen to accept it",
    ),
    _d(
        "unifa-switch",
        _BOTH,
        "thrsw",
        "unifa_write",
        2,
        "unifa is written in the delay slots of a thread switch, so its three instructions straddle the switch",
        first=0,
        severity=_WARN,
    ),
    _d(
        "unifa-switch",
        _BOTH,
        "unifa_write",
        "thrsw",
        1,
        "a thread switch happens within three instructions of the write of unifa",
        severity=_WARN,
    ),
    _d("msf-branch", _42, "setmsf", "msf_branch", 1, "a branch on sample masks right after setmsf", severity=_WARN),
    _d(
        "rot-amount",
        _42,
        "r5_write",
        "rot_r5",
        1,
        "a rotation by r5 right after r5 is written",
        severity=_WARN,
        source="known programs keep one instruction between",
        basis=Basis.ASSUMED,
    ),
)
"""Rules that are a distance between two effects; usable as data by a scheduler."""

RULES: Final[dict[str, str]] = {
    "decode": "the word is no instruction",
    "small-imm-unused": "7.1: a small immediate for an ALU that has no operation",
    "small-imm-reserved": "small immediate 48..63 has no value",
    "peripheral": "more than one of TMU write, SFU write, VPM write, TLB access, TSY write (4.2: and ldtmu)",
    "peripheral-pair": "peripheral accesses that the scheduler does not combine",
    "uniform-pair": "more than one reader of the uniform streams in one instruction",
    "last-thrsw-twice": "the last thread switch is marked twice",
    "no-last-thrsw": "more than one thread switch and no last-switch marker",
    "no-end-thrsw": "no thread switch ends the program",
    "end-rf-write": "a register is written after the program end was requested",
    "end-payload-write": "7.1: rf2 or rf3 is written after the program end was requested",
    "end-tmuwt": "4.2: tmuwt in the last instruction",
    "end-payload-read": "a payload register is read after the program end was requested",
    "end-uniform": "uniforms are read in the last two instructions",
    "end-ldvary": "ldvary in the last two instructions",
    "end-vpmwt": "4.2: vpmwt in the last two instructions",
    "tmu-sequence": "a TMU request is interrupted by a thread switch",
    "rot-ldtmu": "4.2: a rotated operand was loaded by ldtmu in the instruction before",
    "lane-op-tmu": "7.1: a lane operation together with a TMU write",
    "reserved-address": "a destination that does not exist on this chip",
    "branch-target": "a branch leads out of the program",
    **{row.rule: row.message for row in DISTANCES},
    **SCHEDULING,
}
"""Rule identifiers and what they are about."""


_QUIET_SIGS: Final = Sig.LDUNIF | Sig.LDUNIFRF | Sig.LDUNIFA | Sig.LDUNIFARF | Sig.LDTMU
_IMM: Final = Sig.IMM_A | Sig.IMM_B | Sig.IMM_C | Sig.IMM_D
_NOISY_OPS: Final = frozenset({"setmsf"})  # operations that later instructions must keep a distance from
_AFTER: Final = frozenset(row.after for row in DISTANCES) - {"r5_write"}  # r5_write is looked up when it is needed


class _Facts:
    """Tables of one instruction set that let uneventful instructions pass without being decoded."""

    __slots__ = ("add", "before", "dests", "imm_shift", "mul", "rows", "sigs")

    def __init__(self, isa: Isa) -> None:
        self.rows = tuple(row for row in DISTANCES if isa in row.isas)
        self.before = frozenset(row.before for row in self.rows)
        # r0..r5 of 4.2 and nop; everything else magic is worth a look
        plain = {6, 0, 1, 2, 3, 4, 5} if isa is Isa.V3D42 else {6}
        dest = [n >= 64 and n - 64 not in plain for n in range(128)]
        # both destinations at once: bits 45:32 of the word
        self.dests = bytes(
            dest[(i >> 12 & 1) << 6 | i & 63] or dest[i >> 13 << 6 | i >> 6 & 63] for i in range(1 << 14)
        )
        # op_mul and signal at once, bits 63:53. 0: pass, 1: look, 2: look at writes of magic addresses, 3: immediate
        self.sigs = bytes(self._signal(isa, i >> 5, SIGNALS[isa][i & 31]) for i in range(1 << 11))
        self.imm_shift = [0] * 32
        for number, sig in enumerate(SIGNALS[isa]):
            if isa is Isa.V3D71 and sig is not None and sig & _IMM:
                self.imm_shift[number] = {Sig.IMM_A: 6, Sig.IMM_B: 0, Sig.IMM_C: 18, Sig.IMM_D: 12}[sig & _IMM]
        self.add = self._opcodes(isa, Unit.ADD)
        self.mul = self._opcodes(isa, Unit.MUL)

    @staticmethod
    def _signal(isa: Isa, op_mul: int, sig: Sig | None) -> int:
        if op_mul == 0 or sig is None:
            return 1
        if sig & _IMM:
            return 3 if sig & ~(_IMM | _QUIET_SIGS) == 0 else 1
        if sig & ~_QUIET_SIGS:
            return 1
        return 2 if sig & WRITING_SIGS else 0

    @staticmethod
    def _opcodes(isa: Isa, unit: Unit) -> bytes:
        """By opcode and six bits of sub-opcode: 0 pass, 1 look, 2 nop."""
        decoders = tables(isa, unit).decode
        out = bytearray(b"\1" * (64 * len(decoders)))
        for number, slot in enumerate(decoders):
            for (sub_b, sub_a), entries in (slot or {}).items():
                if any(e.magic is not None or e.waddr is not None or e.op.name in _NOISY_OPS for e in entries):
                    continue
                value = 2 if entries[0].op.name == "nop" else 0
                if isa is Isa.V3D42:
                    highs = range(8) if sub_b is None else (sub_b,)
                    lows = range(8) if sub_a is None else (sub_a,)
                    subs = [high << 3 | low for high in highs for low in lows]
                else:
                    subs = list(range(64)) if sub_b is None else [sub_b]
                for sub in subs:
                    out[number << 6 | sub] = value
        return bytes(out)


@cache
def _facts(isa: Isa) -> _Facts:
    return _Facts(isa)


def check(isa: Isa, words: Iterable[int], *, single_segment: bool = False) -> list[Finding]:
    """All findings of a program, in program order; findings about the whole program have ``index == len(words)``.

    single_segment: the launch mode, in which the first thread switch ends the program.
    """
    return _Walk(isa, list(words), single_segment).run()


class _Walk:
    """One walk over a program."""

    __slots__ = (
        "branches",
        "end",
        "facts",
        "findings",
        "isa",
        "know",
        "last",
        "marked",
        "open_tmu",
        "single_segment",
        "step_all",
        "switch_ip",
        "switches",
        "words",
    )

    def __init__(self, isa: Isa, words: list[int], single_segment: bool) -> None:
        self.isa = isa
        self.words = words
        self.single_segment = single_segment
        self.step_all = False  # look at every instruction; for tests of the shortcut
        self.facts = _facts(isa)
        self.findings: list[Finding] = []
        self.last: dict[str, int] = {}  # effect -> index of its latest instruction
        self.marked = single_segment
        self.end: int | None = None  # the switch that ends the program
        self.switch_ip = -10
        self.switches: set[int] = set()
        self.open_tmu: int | None = None  # first TMU data write whose request is not started yet
        self.branches: list[tuple[int, Branch]] = []
        self.know = known_42 if isa is Isa.V3D42 else known_71

    def run(self) -> list[Finding]:
        facts = self.facts
        dests, sigs, adds, muls = facts.dests, facts.sigs, facts.add, facts.mul
        v42 = self.isa is Isa.V3D42
        add_shift, mul_shift = (12, 18) if v42 else (0, 12)
        # instructions up to here are looked at closely
        hot = len(self.words) if self.step_all else -1
        for i, word in enumerate(self.words):
            if i > hot and 0 <= word < 1 << 64:
                sig = sigs[word >> 53]
                if not (
                    dests[word >> 32 & 0x3FFF]
                    or adds[word >> 18 & 0x3FC0 | word >> add_shift & 63] & 1
                    or muls[word >> 52 & 0xFC0 | word >> mul_shift & 63] & 1
                ):
                    # 16 is no condition; bit 52 of a signal destination says magic
                    if sig == 0:
                        if word >> 46 & 127 != 16:
                            continue
                    elif sig == 2:
                        if not word >> 52 & 1:
                            continue
                    elif sig == 3 and self.plain_immediate(word, adds, muls):
                        continue
            hot = max(hot, self.step(i, word))
        if not self.marked and len(self.switches) > 1:
            self.add(
                "no-last-thrsw",
                len(self.words),
                "thread switches, but none is marked as the last: thrsw on two consecutive instructions",
            )
        if self.end is None:
            self.add("no-end-thrsw", len(self.words), "no thread switch ends the program")
        self.taken_branches()
        self.findings += scheduling_findings(self.isa, self.words)
        self.findings.sort(key=lambda f: f.index)
        return self.findings

    def add(
        self, rule: str, index: int, message: str, severity: Severity = Severity.ERROR, other: int | None = None
    ) -> None:
        distance = None if other is None else index - other
        self.findings.append(Finding(rule, severity, index, message, other, distance))

    def warn(self, rule: str, index: int, message: str, other: int | None = None) -> None:
        self.add(rule, index, message, _WARN, other)

    def plain_immediate(self, word: int, adds: bytes, muls: bytes) -> bool:
        """An immediate that needs no closer look: it has a value, its ALU works, no signal writes a magic address."""
        number = word >> 53 & 31
        if word >> self.facts.imm_shift[number] & 63 >= 48:
            return False
        if self.isa is Isa.V3D42:
            return not word >> 52 & 1 if number != 15 else word >> 46 & 127 != 16
        if word >> 46 & 127 == 16:
            return False
        return not (adds[word >> 18 & 0x3FC0 | word & 63] or muls[word >> 52 & 0xFC0 | word >> 12 & 63])

    # -- one instruction

    def step(self, i: int, word: int) -> int:
        """Apply all rules to instruction i. Returns: the index up to which its effects need attention."""
        try:
            known = self.know(word)
        except (DecodeError, ValueError) as error:
            message = error.diagnostics[0].message if isinstance(error, DecodeError) else str(error)
            self.add("decode", i, f"0x{word:016x} is no instruction of {self.isa.label}: {message}")
            return i
        instr, found = known.instr, known.effects
        events = found.events
        if isinstance(instr, Branch):
            self.branches.append((i, instr))
        for remark in known.first:
            self.remark(i, remark)
        marker = False
        if "thrsw" in events:
            marker = self.switch_ip == i - 1
            if not marker:
                events = events | {"switch"}
        if "rot_r5" in events and i:
            before = self.effects_at(i - 1)
            if before is not None and "r5_write" in before.events:
                self.last["r5_write"] = i - 1
        self.distances(i, events)
        for remark in known.later:
            self.remark(i, remark)
        if isinstance(instr, Alu):
            if "thrsw" in events:
                self.switch(i, marker)
            if self.end is not None:
                self.after_end(i, instr, events)
            if "rot_acc" in events and i:
                self.rotated(i, instr)
        self.tmu_sequence(i, events)
        for event in events:
            self.last[event] = i
        if self.end is not None:
            return len(self.words)
        return i + 3 if not events.isdisjoint(_AFTER) else i

    def remark(self, i: int, remark: Remark) -> None:
        rule, severity, message = remark
        self.findings.append(Finding(rule, severity, i, message))

    def distances(self, i: int, events: frozenset[str]) -> None:
        last = self.last
        if self.facts.before.isdisjoint(events):
            return
        for row in self.facts.rows:
            if row.before not in events:
                continue
            at = i if row.first == 0 and row.after in events else last.get(row.after)
            if at is not None and row.first <= i - at <= row.distance:
                self.add(row.rule, i, row.message, row.severity, at)

    def switch(self, i: int, marker: bool) -> None:
        if self.marked and self.end is None:
            self.end = i
        if marker:
            if self.marked:
                self.add(
                    "last-thrsw-twice",
                    i,
                    "a second last-switch marker (thrsw on two consecutive instructions)",
                    other=i - 1,
                )
            self.marked = True
        else:
            self.switches.add(i)
            self.switch_ip = i
        if self.end is not None and not marker:
            self.end = i

    def after_end(self, i: int, instr: Alu, events: frozenset[str]) -> None:
        end = self.end
        assert end is not None
        at_end = i == self.switch_ip
        slot = i - self.switch_ip
        for half, name in ((instr.add, "add"), (instr.mul, "mul")):
            # like the validator, count stvpm* as a register write: its destination field is not magic
            if half.op.name == "nop" or (half.dst is not None and half.dst.magic):
                continue
            n = half.dst.n if half.dst is not None else -1
            if self.isa is Isa.V3D42:
                self.add(
                    "end-rf-write",
                    i,
                    f"the {name} half writes a register after the program end was requested",
                    other=end,
                )
            else:
                if at_end:
                    self.add(
                        "end-rf-write",
                        i,
                        f"the {name} half writes a register in the instruction that ends the program",
                        other=end,
                    )
                if n in (2, 3):
                    self.add("end-payload-write", i, f"rf{n} is written after the program end was requested", other=end)
        dst = instr.sig_dst
        if dst is not None and not dst.magic:
            if self.isa is Isa.V3D42:
                self.add("end-rf-write", i, f"a signal writes rf{dst.n} after the program end was requested", other=end)
            elif dst.n in (2, 3):
                self.add(
                    "end-payload-write", i, f"a signal writes rf{dst.n} after the program end was requested", other=end
                )
        if self.isa is Isa.V3D42:
            if slot == 2 and "tmuwt" in events:
                self.add("end-tmuwt", i, "tmuwt in the last instruction", other=end)
            if slot in (1, 2) and "vpmwt" in events:
                self.warn("end-vpmwt", i, "vpmwt in the last two instructions", end)
        if slot <= 2 and "payload_read" in events:
            names = "rf0, rf1 or rf2" if self.isa is Isa.V3D42 else "rf2 or rf3"
            self.warn("end-payload-read", i, f"{names} is read, but may already belong to the next thread", end)
        if slot in (1, 2):
            if "uniform_read" in events or "unifa_read" in events:
                self.warn("end-uniform", i, "uniforms are read in the last two instructions", end)
            if "ldvary" in events:
                self.warn("end-ldvary", i, "ldvary in the last two instructions", end)

    def rotated(self, i: int, instr: Alu) -> None:
        before = self.effects_at(i - 1)
        if before is None or "ldtmu" not in before.events:
            return
        load = self.know(self.words[i - 1]).instr
        loaded = load.sig_dst if isinstance(load, Alu) else None
        if loaded is not None and any(
            src is not None and _same(loaded.n, loaded.magic, src) for src in (instr.mul.a, instr.mul.b)
        ):
            self.warn("rot-ldtmu", i, "the rotated operand was loaded by ldtmu in the instruction before", i - 1)

    def tmu_sequence(self, i: int, events: frozenset[str]) -> None:
        if i == self.switch_ip + 3 and self.open_tmu is not None and self.open_tmu < i:
            self.warn(
                "tmu-sequence",
                i,
                "a thread switch happens between TMU data and the address that starts the request",
                self.open_tmu,
            )
            self.open_tmu = None
        if "tmua_write" in events:
            self.open_tmu = None
        elif "tmu_data" in events and self.open_tmu is None:
            self.open_tmu = i

    # -- along taken branches

    def effects_at(self, i: int) -> Effects | None:
        """Effects of instruction i, with "switch" where the walk found one; None for an undecodable word."""
        try:
            found = self.know(self.words[i]).effects
        except (DecodeError, ValueError):
            return None
        if i in self.switches:
            return Effects(found.reads, found.writes, found.tokens, found.events | {"switch"})
        return found

    def taken_branches(self) -> None:
        n = len(self.words)
        known = {(f.rule, f.index, f.other) for f in self.findings}
        for i, branch in self.branches:
            if branch.bdi != "rel":
                continue
            offset = branch.offset - (1 << 32) if branch.offset >> 31 else branch.offset
            target = i + 4 + offset // 8
            if not 0 <= target < n:
                self.warn("branch-target", i, f"the branch leads to instruction {target}; the program has 0..{n - 1}")
                continue
            # the slots are executed first; what they start may still be under way at the target
            before = [(k, self.effects_at(k)) for k in range(max(0, i - 1), min(i + 4, n))]
            for t in range(target, min(target + 3, n)):
                there = self.effects_at(t)
                if there is None or not there.events:
                    continue
                for k, effect in before:
                    if effect is None or not effect.events:
                        continue
                    gap = (i + 4 - k) + (t - target)
                    for row in self.facts.rows:
                        if row.before not in there.events or row.after not in effect.events:
                            continue
                        if row.rule == "branch-slot" and row.after == "branch":
                            continue  # slots lie behind the branch, never at its target
                        if max(row.first, 1) <= gap <= row.distance and (row.rule, t, k) not in known:
                            known.add((row.rule, t, k))
                            message = f"{row.message} (along the branch of instruction {i})"
                            self.findings.append(Finding(row.rule, _WARN, t, message, k, gap))


def _same(n: int, magic: bool, src: Src) -> bool:
    return src.n == n and src.kind is (SrcKind.ACC if magic else SrcKind.RF)


def raise_errors(findings: Iterable[Finding], program: Code) -> None:
    """Raise HazardError for the findings of severity error, each at its source line where the program knows it."""
    last = len(program) - 1
    diagnostics = [
        Diagnostic(
            f.rule,
            f.message,
            f.severity,
            program.loc(min(f.index, last)),
            index=f.index,
            other=f.other,
            distance=f.distance,
        )
        for f in findings
        if f.severity is Severity.ERROR
    ]
    if diagnostics:
        raise HazardError.of(diagnostics)
