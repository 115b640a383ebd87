"""The hazard rules of VideoCore IV, one row each: the table that checker, emulator and schedulers read.

Distances count executed instructions: the three delay slots of a branch, then its target; after a conditional branch
also the instructions after the slots. Sources: VideoCore IV 3D architecture guide ("Instruction restrictions") and the
checkers of vc4asm, Mesa and py-videocore; reference: vc4.md 19. H30 (a signal together with a small immediate, load
immediate or branch) cannot occur in a word, because they use one field; builder and assembler refuse it.
"""

from __future__ import annotations

from typing import Final

from qpu.core.hazards import Rule, Rules, Window
from qpu.core.isa import BRANCH_SLOTS, SWITCH_SLOTS, Basis, Isa
from qpu.errors import Severity

__all__ = ["BRANCH_SLOTS", "RULES", "SWITCH_SLOTS"]

_VC4: Final = frozenset({Isa.VC4})
_ERROR, _WARN = Severity.ERROR, Severity.WARNING
_GUIDE = "VideoCore IV 3D architecture guide"


def _rule(
    id_: str, name: str, severity: Severity, summary: str, help_: str, *windows: Window, source: str = _GUIDE,
    basis: Basis = Basis.MANUAL,
) -> Rule:  # fmt: skip
    return Rule(
        id=id_, name=name, severity=severity, summary=summary, help=help_, isas=_VC4, source=source, basis=basis,
        windows=windows,
    )  # fmt: skip


_w: Final = Window


def _end(after: str, where: str, part: str) -> Window:
    """A window of the rules about program ends, which vc4asm applies to the last thread switch, too."""
    if part == "access":
        used = "read uniform | read varying | read vpm | write vpm"
        return _w(after, used, SWITCH_SLOTS, f"{{}} is accessed at the {where}", first=0)
    if part == "file":
        return _w(after, "write file", 0, f"the instruction of the {where} writes {{}}", first=0)
    return _w(after, "read r14 | write r14", SWITCH_SLOTS, f"{{}} is used at the {where}", first=0)


_END, _LAST = ("program end", "program end"), ("lthrsw", "last thread switch")

RULES: Final = Rules(
    (
        _rule("decode", "", _ERROR, "the word uses a reserved encoding",
              "look at the word with `qpu disasm`; often it is data in the middle of code"),
        _rule("H1", "file-read-early", _ERROR,
              "a register of file A or B is read in the instruction after it is written",
              "write an accumulator instead, or put an instruction between",
              _w("write file", "read file", 1, "{} is read in the instruction after it is written", same=True,
                 along=_WARN),
              source=f"{_GUIDE}; a warning over a taken branch, where vc4asm's hello_fft breaks it"),
        _rule("H2", "sfu-read-early", _ERROR, "r4 is read before the SFU result arrives, three instructions later",
              "put two instructions between the special function and the read of r4", _w("write sfu", "read r4", 2)),
        _rule("H3", "sfu-load-clash", _ERROR,
              "a TMU or tile buffer load writes r4 while an SFU result is pending",
              "load the TMU result before the special function, or three instructions after it",
              _w("write sfu", "load r4", 2)),
        _rule("H4", "sfu-busy", _ERROR, "an SFU function is started before the last one has finished",
              "put two instructions between two special functions", _w("write sfu", "write sfu", 2)),
        _rule("H5", "rotation-amount-early", _ERROR,
              "r5 is the rotation amount in the instruction after it is written",
              "put an instruction between the write of r5 and the rotation", _w("write r5", "rotate by r5", 1)),
        _rule("H6", "rotation-operand-early", _WARN, "an accumulator is rotated in the instruction after it is written",
              "put an instruction between the write and the rotation",
              _w("write acc", "rotate acc", 1, "{} is rotated in the instruction after it is written", same=True)),
        _rule("H7", "rotation-in-quads", _WARN, "a rotation by 4 to 12 of something other than r0..r3",
              "move the value to r0..r3 first; elsewhere only rotations within quads work"),
        _rule("H8", "uniform-early", _ERROR,
              "a uniform is taken within two instructions of a new uniform address",
              "put two instructions between the new address and the first uniform",
              _w("write unif_addr", "read uniform", 2)),
        _rule("H9", "noswap-early", _ERROR, "a TMU is written within three instructions of TMU_NOSWAP",
              "put three instructions between the write of TMU_NOSWAP and the first TMU write",
              _w("write tmu_noswap", "write tmu", 3),
              source="vc4asm and Mesa validators (the guide's example allows the third)"),
        _rule("H10", "noswap-late", _WARN, "TMU_NOSWAP is changed after the TMU was used",
              "write TMU_NOSWAP once, before the first request"),
        _rule("H11", "ms-mask-early", _ERROR, "the multisample mask is read within two instructions of a Z write",
              "put two instructions between them", _w("write tlb_z", "read ms_mask", 2)),
        _rule("H12", "shared-units", _ERROR,
              "one instruction uses two of the shared units: TMU, tile buffer, SFU, mutex",
              "spread the accesses over two instructions"),
        _rule("H13", "same-destination", _ERROR,
              "both ALUs write the same destination under conditions that can hold together",
              "give the two halves opposite conditions, or different destinations"),
        _rule("H14", "conditional-io-write", _ERROR,
              "an I/O register is written under a condition, which has no effect",
              "write a register under the condition, then copy it to the I/O register"),
        _rule("H15", "packed-io-write", _ERROR, "a byte is packed into an I/O register",
              "pack into a register, then copy it to the I/O register"),
        _rule("H16", "vpm-setup-pair", _ERROR, "a VPM access together with the set-up of another",
              "put set-up and access into different instructions"),
        _rule("H17", "branch-slot", _ERROR, "a branch in the first two delay slots of another breaks both",
              "put two instructions between the branches", _w("branch", "branch", 2),
              source="vc4asm, measured (py-videocore and Linux's shader validator forbid the third slot too)"),
        _rule("H18", "end-access", _ERROR, "uniforms, varyings, VPM or DMA at the program end",
              "move the access before the program end", _end(*_END, "access")),
        _rule("H19", "end-file-write", _ERROR,
              "the instruction of the program end writes a register of file A or B",
              "move the write before the program end", _end(*_END, "file")),
        _rule("H20", "end-r14", _ERROR, "ra14 or rb14 is used at the program end", "use other registers at the end",
              _end(*_END, "r14")),
        _rule("H21", "end-tlb-z", _WARN, "the last instruction writes tile buffer Z",
              "move the write to an earlier instruction",
              _w("program end", "write tlb_z", SWITCH_SLOTS, first=SWITCH_SLOTS)),
        _rule("H22", "scoreboard-early", _WARN,
              "the first two instructions of a fragment shader must not touch the tile buffer",
              "fragment shaders only: start with two other instructions"),
        _rule("H23", "texture-uniform-pair", _ERROR, "a uniform is read while a texture write takes one",
              "read the uniform in another instruction"),
        _rule("H24", "branch-flags", _WARN, "a branch through a register of odd number sets the flags",
              "branch through a register of even number, unless the flags are wanted", source="vc4asm, measured"),
        _rule("H25", "vpm-read-count", _WARN, "the VPM is not read exactly as often as its set-up says",
              "read exactly as many vectors as `setup_vpm_read` asked for", source="vc4asm addendum"),
        _rule("H26", "tmu-request-count", _WARN, "too many or too few TMU requests outstanding",
              "make at most four requests to a TMU at a time, and one `ldtmu` for each"),
        _rule("H27", "semaphore-write", _ERROR, "a semaphore instruction writes TMU, SFU or tile buffer",
              "write TMU, SFU or tile buffer in another instruction"),
        _rule("H28", "thread-switch", _WARN, "a thread switch while another is pending",
              "leave out thread switches: user programs need none on VideoCore IV",
              _w("thread switch", "thread switch", SWITCH_SLOTS), source="Mesa validator", basis=Basis.DRIVER),
        _rule("H29", "last-switch-as-end", _WARN, "the rules of the program end, broken at the last thread switch",
              "leave out thread switches: user programs need none on VideoCore IV",
              *(_end(*_LAST, part) for part in ("access", "file", "r14")), source="vc4asm", basis=Basis.DRIVER),
        _rule("H31", "no-program-end", _WARN,
              "nothing ends the program: the QPU goes on with whatever follows it in memory",
              "end the program: `q.end()`, or `nop; thrend` and two more instructions"),
        _rule("H32", "thrend-slot", _ERROR,
              "the program end is in a delay slot of a branch: the program ends whether or not the branch is taken",
              "put three instructions between the branch and the program end; `q.loop()` does",
              _w("branch", "program end", BRANCH_SLOTS), source="follows from both delays (vc4.md 16, 17)"),
        _rule("H33", "store-unfinished", _WARN,
              "the program may end while its DMA store runs: what reads the memory next may find the old data",
              "wait before the end: `q.wait_dma_store()`"),
    ),
    {
        Isa.VC4: {
            "file": tuple(f"{prefix}{n}" for prefix in ("ra", "rb") for n in range(32)),
            "acc": ("r0", "r1", "r2", "r3"),
            "r14": ("ra14", "rb14"),
            "tmu": tuple(f"tmu{unit}_{part}" for unit in (0, 1) for part in "strb"),
            "vpm": ("vpm_read", "vpm_write", "vr_setup", "vw_setup", "vr_addr", "vw_addr", "vdr_busy", "vdw_busy",
                    "vdr_wait", "vdw_wait"),
        }
    },
    watch=("branch", "write tmu", "flow", "program end | lthrsw", "program end"),
)  # fmt: skip
"""Every rule of VideoCore IV."""
