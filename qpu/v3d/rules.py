"""The hazard rules of V3D 4.2 and 7.1, one row each: the table that checker, emulator and schedulers read.

Severity `error`: Mesa's QPU validator refuses the program. `warning`: only its scheduler avoids the sequence, and
hand-written code may use it on purpose (hardware accepts most instructions in the slots of a thread switch, and every
retail Pi 4 has a stepping that pairs uniform and unifa loads). Reference: v3d.md 11.

Rows are in the order in which Mesa's validator reports findings about one instruction.
"""

from __future__ import annotations

from typing import Final

from qpu.core.hazards import REST, Rule, Rules, Window
from qpu.core.isa import BRANCH_SLOTS, SWITCH_SLOTS, Basis, Isa
from qpu.errors import Severity

__all__ = ["BRANCH_SLOTS", "RULES", "SWITCH_SLOTS"]

_42: Final = frozenset({Isa.V3D42})
_71: Final = frozenset({Isa.V3D71})
_BOTH: Final = _42 | _71
_ERROR, _WARN = Severity.ERROR, Severity.WARNING
_VALIDATOR, _SCHEDULER, _TABLES = "Mesa QPU validator", "Mesa QPU scheduler", "Mesa QPU encoder tables"
_TESTS = "device tests of py-videocore6 and py-videocore7"


def _rule(
    id_: str, severity: Severity, summary: str, help_: str, *windows: Window, isas: frozenset[Isa] = _BOTH,
    source: str = "", basis: Basis = Basis.DRIVER,
) -> Rule:  # fmt: skip
    return Rule(
        id=id_, name="", severity=severity, summary=summary, help=help_, isas=isas,
        source=source or (_VALIDATOR if severity is _ERROR else _SCHEDULER), basis=basis, windows=windows,
    )  # fmt: skip


_w: Final = Window
_TLB = "tlb write | ldtlb | ldtlbu"
_TMU_WRITE = "tmu_data write | tmu_start write | tmu_config write | wrtmuc"
_SLOT = "in a delay slot of a thread switch"

RULES: Final = Rules(
    (
        _rule("decode", _ERROR, "the word is not an instruction",
              "look at the word with `qpu disasm`, which names the field; often it is data in the middle of code",
              source=_TABLES),
        # One instruction
        _rule("small-imm-unused", _ERROR, "a small immediate for an ALU that has no operation",
              "drop the immediate, or give the ALU an operation", isas=_71),
        _rule("small-imm-reserved", _WARN, "small immediates 48 to 63 have no value",
              "use an immediate 0 to 47, that is -16..15 or a power of two 2**-8..2**7", source=_TABLES),
        # At a distance
        _rule("ldvary-ldunif", _ERROR, "ldunif or ldunifa right after ldvary: both write r5 (rf0 on 7.1)",
              "put an instruction between them", _w("ldvary", "ldunif | ldunifa", 1)),
        _rule("thrsw-sfu", _ERROR, "an SFU operation is started in the delay slots of a thread switch",
              "start the special function before the switch, or after its two slots",
              _w("switch", "sfu write", 2)),
        _rule("thrsw-ldvary", _ERROR, "ldvary in the delay slots of a thread switch",
              "move `ldvary` out of the slots of the switch",
              _w("switch", "ldvary", 2, isas=_42),
              _w("switch", "ldvary", 2, "ldvary in the second delay slot of a thread switch", first=2, isas=_71)),
        _rule("sfu-r4-read", _ERROR, "r4 is read before the SFU result arrives: leave one instruction between",
              "read r4 one instruction later", _w("sfu write", "read r4", 1), isas=_42),
        _rule("sfu-r4-write", _ERROR, "r4 is written while an SFU result is pending",
              "write r4 one instruction later", _w("sfu write", "write r4", 1)),
        _rule("sfu-sfu", _ERROR, "an SFU operation is started right after another",
              "put an instruction between two special functions", _w("sfu write", "sfu write", 1)),
        _rule("thrsw-close", _ERROR, "a thread switch in the second delay slot of another",
              "put two instructions after a switch before the next", _w("switch", "switch", 2, first=2),
              source=f"{_VALIDATOR}; hardware was seen to accept it"),
        _rule("branch-slot", _ERROR, "a branch or thread switch in the delay slots of another",
              "put three instructions that neither branch nor switch after a branch, two after a switch",
              _w("branch", "thrsw", BRANCH_SLOTS, "a thread switch in the delay slots of a branch"),
              _w("branch", "branch", BRANCH_SLOTS, "a branch in the delay slots of another"),
              _w("switch", "branch", SWITCH_SLOTS, "a branch in the delay slots of a thread switch")),
        _rule("ldvary-read", _WARN, "r5 (rf0 on 7.1) is read right after ldvary, which still writes it",
              "read the result one instruction later",
              _w("ldvary", "read r5", 1, isas=_42), _w("ldvary", "read rf0", 1, isas=_71)),
        _rule("ldvary-write", _WARN, "rf0 is written right after ldvary, which writes it too",
              "write rf0 one instruction later", _w("ldvary", "writes rf0", 1), isas=_71),
        _rule("unifa-early", _WARN, "ldunifa within three instructions of the write of unifa",
              "put three instructions between writing `unifa` and the first `ldunifa`",
              _w("write unifa", "read unifa", 3)),
        _rule("unifa-branch", _WARN, "a branch within three instructions of the write of unifa",
              "put three instructions between writing `unifa` and the branch", _w("write unifa", "branch", 3),
              source=f"{_SCHEDULER}; hardware was seen to accept it"),
        _rule("unifa-switch", _WARN, "a thread switch within three instructions of the write of unifa",
              "keep the write of `unifa` and the next three instructions away from a switch",
              _w("thrsw", "write unifa", 2, "unifa is written in the delay slots of a thread switch: the switch takes "
                 "effect within three instructions of the write", first=0),
              _w("write unifa", "thrsw", 1)),
        _rule("msf-branch", _WARN, "a branch on sample masks right after setmsf", "put an instruction between them",
              _w("op setmsf", "msf branch", 1), isas=_42),
        _rule("rot-amount", _WARN, "a rotation by r5 right after r5 is written",
              "put an instruction between the write of r5 and the rotation", _w("write r5", "rotate by r5", 1),
              isas=_42, source="known programs have an instruction between", basis=Basis.ASSUMED),
        _rule("rot-ldtmu", _WARN, "the rotated operand was loaded by ldtmu in the instruction before",
              "put an instruction between `ldtmu` and the rotation",
              _w("load register", "rotate register", 1, "{} was loaded by ldtmu in the instruction before its "
                 "rotation", same=True), isas=_42, source=_TESTS, basis=Basis.MEASURED),
        _rule("acc-switch", _WARN, "an accumulator is read after a thread switch, which loses it",
              "write the accumulator again after the switch, or use a register rf0..rf63", isas=_42,
              source="Mesa QPU scheduler and register allocator"),
        # One instruction again
        _rule("peripheral", _ERROR,
              "more than one of TMU write, SFU write, VPM write, TLB access, TSY write (4.2: and ldtmu)",
              "spread the accesses over two instructions"),
        _rule("peripheral-pair", _WARN, "peripheral accesses that the scheduler does not combine",
              "spread them over two instructions: Mesa's scheduler never pairs them, so the result is not known"),
        _rule("uniform-pair", _WARN, "more than one word is taken from the uniform streams in one instruction",
              "take one word of a uniform stream per instruction; load the second one in the next"),
        _rule("lane-op-tmu", _WARN, "a lane operation together with a write of tmua, tmud or tmuc hangs or corrupts",
              "put the write of `tmua`, `tmud` or `tmuc` into another instruction", isas=_71,
              source=_TESTS, basis=Basis.MEASURED),
        _rule("lane-op-broadcast", _WARN, "a lane operation writes `rep` or `quad`: the broadcast has no effect",
              "write a register, and copy it to `rep` or `quad` in an instruction of its own", isas=_71,
              source=_TESTS, basis=Basis.MEASURED),
        _rule("reserved-address", _WARN, "a destination that does not exist on this chip",
              "use a register; the address belongs to the other V3D version or to none", source=_TABLES),
        # Thread switches and the program end
        _rule("last-thrsw-twice", _ERROR, "a second last-switch marker (thrsw on two consecutive instructions)",
              "leave one pair of adjacent `thrsw`; put an instruction between the others"),
        _rule("end-rf-write", _ERROR, "a register is written after the program end was requested",
              "move the write before the ending `thrsw`",
              *(_w("end", f"{unit} writes rf", REST, f"the {unit} half writes a register after the program end was "
                   "requested", first=0, isas=_42) for unit in ("add", "mul")),
              _w("end", "signal writes rf", REST, "a signal writes a register after the program end was requested",
                 first=0, isas=_42),
              *(_w("end", f"{unit} writes rf", 0, f"the {unit} half writes a register in the instruction that ends "
                   "the program", first=0, isas=_71) for unit in ("add", "mul"))),
        _rule("end-payload-write", _ERROR, "rf2 or rf3 is written after the program end was requested",
              "use another register: rf2 and rf3 may already hold the next thread's payload",
              _w("end", "write payload", REST, "{} is written after the program end was requested", first=0),
              isas=_71),
        _rule("end-tmuwt", _ERROR, "tmuwt in the last instruction",
              "wait earlier, or not at all: stores complete without a wait",
              _w("end", "op tmuwt", SWITCH_SLOTS, first=SWITCH_SLOTS), isas=_42),
        _rule("end-vpmwt", _WARN, "vpmwt in the last two instructions", "wait earlier",
              _w("end", "op vpmwt", SWITCH_SLOTS), isas=_42),
        _rule("end-payload-read", _WARN, "a payload register is read, but may already belong to the next thread",
              "copy the payload registers at the start, and read the copies",
              _w("end", "read payload", SWITCH_SLOTS, "{} is read, but may already belong to the next thread",
                 first=0)),
        _rule("end-uniform", _WARN, "uniforms are read in the last two instructions", "load the uniform earlier",
              _w("end", "read uniform | read unifa", SWITCH_SLOTS)),
        _rule("end-ldvary", _WARN, "ldvary in the last two instructions", "load the varying earlier",
              _w("end", "ldvary", SWITCH_SLOTS)),
        _rule("tmu-sequence", _WARN,
              "a thread switch happens between TMU data and the address that starts the request",
              "write `tmud` and `tmua` on the same side of a thread switch"),
        _rule("no-last-thrsw", _ERROR,
              "thread switches, but none is marked as the last: thrsw on two consecutive instructions",
              "mark the last ordinary switch by two adjacent `thrsw`; the builder's `q.end()` does"),
        _rule("no-end-thrsw", _ERROR, "no thread switch ends the program",
              "end the program: `q.end()`, or `nop; nop; thrsw` and two more instructions"),
        _rule("branch-target", _WARN, "a branch leads out of the program",
              "check the offset: it counts from the fourth instruction after the branch, in bytes", source=_TABLES),
        # Sequences that only Mesa's scheduler avoids
        _rule("uniform-unifa-adjacent", _WARN,
              "uniform and unifa loads in adjacent instructions; steppings before 4.2.14 get them wrong",
              "no change is needed on a retail Pi 4; on older steppings put an instruction between the loads",
              _w("uniform load", "unifa load", 1), _w("unifa load", "uniform load", 1), isas=_42),
        _rule("thrsw-slot", _WARN, "an instruction that the scheduler does not move into the slots of a thread switch",
              "no change is needed if you chose this order on purpose; it is usually harmless",
              _w("switch", _TLB, SWITCH_SLOTS, f"a TLB access {_SLOT}"),
              _w("switch", _TMU_WRITE, SWITCH_SLOTS, f"a TMU write {_SLOT}"),
              _w("switch", "ldtmu | op tmuwt", SWITCH_SLOTS, f"a wait for the TMU {_SLOT}"),
              _w("switch", "write acc", SWITCH_SLOTS, f"a write of {{}} {_SLOT}", isas=_42),
              _w("switch", "write rtop", SWITCH_SLOTS, f"multop {_SLOT}"),
              _w("switch", "write flags_a | write flags_b", SWITCH_SLOTS, f"a flag write {_SLOT}"),
              _w("switch", "sync write", SWITCH_SLOTS, f"a barrier {_SLOT}")),
        _rule("tlb-early", _WARN, "a TLB access before any thread switch has waited for the scoreboard",
              "fragment shaders only: switch first, which waits for the scoreboard"),
        _rule("tlb-msf", _WARN, "the sample mask is used or set after a TLB access",
              "fragment shaders only: use the sample mask before the tile buffer",
              _w(_TLB, "op setmsf | msf branch | read msf", REST)),
        _rule("tmu-pending", _WARN, "more TMU results pending than a thread of two is known to have room for",
              "collect results with `ldtmu` before asking for more"),
    ),
    {
        Isa.V3D42: {
            "register": (*(f"rf{n}" for n in range(64)), *(f"r{n}" for n in range(6))),
            "acc": tuple(f"r{n}" for n in range(6)),
            "payload": ("rf0", "rf1", "rf2"),
        },
        Isa.V3D71: {"payload": ("rf2", "rf3"), "acc": ()},
    },
    watch=("thrsw", "switch", "branch", "ldtmu", "tmu_data write", "tmu_start write", "tlb write", "ldtlb", "ldtlbu",
           "read acc | write acc", "end"),
)  # fmt: skip
"""Every rule of V3D."""
