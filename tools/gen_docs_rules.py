"""The page of hazard rules: what the checkers of the package look for, and what to do about each."""

from __future__ import annotations

from collections.abc import Iterable

from qpu.core.hazards import Distance
from qpu.core.isa import Isa
from qpu.errors import Severity
from qpu.v3d import hazards as v3d
from qpu.v3d.scheduling import RULES as SCHEDULING
from qpu.vc4 import hazards as vc4

# Rules of V3D whose findings are warnings although they are no distance and no rule of the scheduler's module.
V3D_WARNINGS = frozenset(
    (
        "small-imm-reserved peripheral-pair uniform-pair end-payload-read end-uniform end-ldvary end-vpmwt "
        "tmu-sequence rot-ldtmu lane-op-tmu reserved-address branch-target"
    ).split()
)

V3D_HELP = {
    "decode": "Look at the word: `qpu disasm` names the field. Data in the middle of code is a usual reason.",
    "small-imm-unused": "Drop the immediate, or give the ALU an operation.",
    "small-imm-reserved": "Use an immediate 0 to 47, that is -16..15 or a power of two 2**-8..2**7.",
    "peripheral": "Spread the accesses over two instructions.",
    "peripheral-pair": "Spread them; the scheduler of the open driver never pairs these, so nobody knows.",
    "uniform-pair": "One word of a uniform stream an instruction; load the second one in the next.",
    "last-thrsw-twice": "Only one pair of adjacent `thrsw`; put an instruction between the others.",
    "no-last-thrsw": "Mark the last ordinary switch by two adjacent `thrsw`; the builder's `q.end()` does.",
    "no-end-thrsw": "End the program: `q.end()`, or `nop; nop; thrsw` and two more instructions.",
    "end-rf-write": "Move the write before the ending `thrsw`.",
    "end-payload-write": "Use another register: rf2 and rf3 may already hold the next thread's payload.",
    "end-tmuwt": "Wait earlier, or not at all: stores need no wait before the end.",
    "end-payload-read": "Copy the payload registers at the start, and read the copies.",
    "end-uniform": "Load the uniform earlier.",
    "end-ldvary": "Load the varying earlier.",
    "end-vpmwt": "Wait earlier.",
    "tmu-sequence": "Write `tmud` and `tmua` on the same side of a thread switch.",
    "rot-ldtmu": "Put an instruction between `ldtmu` and the rotation.",
    "lane-op-tmu": "Put the write of `tmua`, `tmud` or `tmuc` into another instruction.",
    "reserved-address": "This destination belongs to the other V3D version; use a register.",
    "branch-target": "Check the offset: it counts from the fourth instruction after the branch, in bytes.",
    "ldvary-ldunif": "Put an instruction between them.",
    "thrsw-sfu": "Start the special function before the switch, or after its two slots.",
    "thrsw-ldvary": "Move `ldvary` out of the slots of the switch.",
    "sfu-r4-read": "Read r4 one instruction later.",
    "sfu-r4-write": "Write r4 one instruction later.",
    "sfu-sfu": "Put an instruction between two special functions.",
    "thrsw-close": "Leave two full slots behind a switch.",
    "branch-slot": "Three instructions that neither branch nor switch stand behind a branch; two behind a switch.",
    "ldvary-read": "Read the result one instruction later.",
    "ldvary-write": "Write rf0 one instruction later.",
    "unifa-early": "Three instructions between writing `unifa` and the first `ldunifa`.",
    "unifa-branch": "Three instructions between writing `unifa` and the branch.",
    "unifa-switch": "Keep the write of `unifa` and the next three instructions away from a switch.",
    "msf-branch": "Put an instruction between them.",
    "rot-amount": "Put an instruction between the write of r5 and the rotation.",
    "uniform-unifa-adjacent": "No need on a retail Pi 4; on older steppings put an instruction between the loads.",
    "thrsw-slot": "Usually harmless; a compiler would not do it.",
    "tlb-early": "Fragment shaders only: switch (and so wait for the scoreboard) first.",
    "tlb-msf": "Fragment shaders only: use the sample mask before the tile buffer.",
    "tmu-pending": "Collect results with `ldtmu` before asking for more.",
}

VC4_HELP = {
    "decode": "Look at the word: data in the middle of code is a usual reason.",
    "H1": "Use an accumulator for what is needed at once, or put an instruction between.",
    "H2": "Put two instructions between the special function and the read of r4.",
    "H3": "Load the TMU result before the special function, or three instructions after it.",
    "H4": "Put two instructions between two special functions.",
    "H5": "Put an instruction between the write of r5 and the rotation.",
    "H6": "Put an instruction between the write and the rotation.",
    "H7": "Move the value to r0..r3 first; elsewhere only rotations within quads work.",
    "H8": "Put two instructions between the new address and the first uniform.",
    "H9": "Write TMU_NOSWAP earlier; three instructions are needed.",
    "H10": "Write TMU_NOSWAP once, before the first request.",
    "H11": "Put two instructions between them.",
    "H12": "Spread the accesses over two instructions.",
    "H13": "Give the two halves opposite conditions, or different destinations.",
    "H14": "Write a register under the condition, then the I/O register always.",
    "H15": "Pack into a register, then write that.",
    "H16": "Put set-up and access into different instructions.",
    "H17": "Put two instructions between the branches.",
    "H18": "Move the access before the program end.",
    "H19": "Move the write before the program end.",
    "H20": "Use other registers at the end.",
    "H21": "Move the write up.",
    "H22": "Fragment shaders only: begin with two other instructions.",
    "H23": "Read the uniform in another instruction.",
    "H24": "Branch through a register of even number, unless the flags are wanted.",
    "H25": "Read exactly as many vectors as `setup_vpm_read` asked for.",
    "H26": "At most four requests to a TMU at a time, and one `ldtmu` for each.",
    "H27": "Let the semaphore instruction write nothing.",
    "H28": "User programs need no thread switches on VideoCore IV.",
    "H29": "User programs need no thread switches on VideoCore IV.",
}


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*")


def _window(rows: Iterable[Distance]) -> str:
    """The distances of a rule: what must not follow what, and for how long."""
    parts = []
    for row in rows:
        span = f"{row.first}" if row.first == row.distance else f"{row.first}..{row.distance}"
        boards = "" if len(row.isas) > 1 or Isa.VC4 in row.isas else f" ({', '.join(i.label[4:] for i in row.isas)})"
        parts.append(f"`{row.after}` → `{row.before}` at distance {span}{boards}")
    return "<br>".join(dict.fromkeys(parts))


def _evidence(rows: list[Distance], default: str) -> str:
    found = dict.fromkeys(f"{row.basis} ({_cell(row.source)})" for row in rows)
    return "<br>".join(found) or default


def v3d_severity(rule: str) -> Severity:
    """How a finding of the rule counts, when it lies on the straight path."""
    rows = [row for row in v3d.DISTANCES if row.rule == rule]
    if rows:
        return rows[0].severity
    return Severity.WARNING if rule in V3D_WARNINGS or rule in SCHEDULING else Severity.ERROR


def _section(rule: str, severity: str, text: str, window: str, evidence: str, cure: str, family: str = "") -> str:
    lines = [f"(rule-{family}{rule})=", f"### {rule}", "", f"*{severity}* · {_cell(text)}.", ""]
    if window:
        lines += [f"Window: {window}.", ""]
    return "\n".join([*lines, f"{cure} Evidence: {evidence}.", ""])


def rules_page() -> str:
    """The page, from the rows."""
    parts = [
        "# Hazard rules",
        "",
        (
            "Each finding carries one of these names. *Distance* counts instructions: 1 is the next one, 0 the same. "
            "An `error` makes a program unfit; builder programs with errors are refused. A `warning` is told by "
            "`qpu check` and by `Program.check()`, and nothing more. How to read a message: {doc}`/hazard-errors`."
        ),
        "",
        "## V3D 4.2 and 7.1",
        "",
        (
            "Errors are what Mesa's QPU validator refuses, found by one walk over all instructions in order. What is "
            "found only along a taken branch is a warning, whatever the rule."
        ),
        "",
    ]
    for rule, text in v3d.RULES.items():
        rows = [row for row in v3d.DISTANCES if row.rule == rule]
        severity = v3d_severity(rule)
        plain = f"driver (Mesa QPU {'validator' if severity is Severity.ERROR else 'scheduler'})"
        if rule in ("rot-ldtmu", "lane-op-tmu"):
            plain = "measured (device tests of py-videocore6 and py-videocore7)"
        if rule in ("branch-target", "decode", "reserved-address", "small-imm-reserved"):
            plain = "driver (Mesa QPU encoder tables)"
        messages = " / ".join(dict.fromkeys(row.message for row in rows)) or text
        parts.append(_section(rule, severity, messages, _window(rows), _evidence(rows, plain), V3D_HELP[rule]))
    parts += [
        "## VideoCore IV",
        "",
        (
            "Rules are looked for along every path: behind a branch come its three delay slots, then the target, and "
            "after a conditional branch also what follows the slots. H30, a signal beside a small immediate, cannot be "
            "written: both use the same field."
        ),
        "",
    ]
    for rule, text in vc4.RULES.items():
        rows = [row for row in vc4.DISTANCES if row.rule == rule]
        severity = Severity.ERROR if rule in vc4.ERRORS or rule == "decode" else Severity.WARNING
        plain = "manual, measured or driver (architecture guide, vc4asm, Mesa)"
        parts.append(_section(rule, severity, text, _window(rows), _evidence(rows, plain), VC4_HELP[rule], "vc4-"))
    return "\n".join(parts)
