"""Tests of the typed builders: worked examples, dual issue, placement, labels, locations, checking, threads."""

from __future__ import annotations

import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from qpu.core.isa import Isa
from qpu.errors import AsmError, HazardError
from qpu.program import Program
from qpu.v3d.asm import Asm, Asm42, Asm71, assemble
from qpu.v3d.decode import decode
from qpu.v3d.instr import Alu, AluHalf, Branch, Dst, Sig, Src, SrcKind
from qpu.v3d.instruction_set import V3dToolkit
from qpu.v3d.ops import table
from qpu.v3d.pairing import combine
from qpu.v3d.parser import assemble_text
from qpu.v3d.printer import text

ROOT = Path(__file__).resolve().parents[2]

# One batch of 16 lanes stores each lane's number to base + 4 * lane; base is the first uniform.
LANES_42 = """
0x3d803180bb802000  eidx r0                       ; nop                         ; ldunifrf.rf0
0x3de032c17ce38002  shl r1, r0, 2                 ; mov tmud, r0
0x3c00318c3880e000  add tmua, rf0, r1             ; nop
0x3c003186bb815000  tmuwt -                       ; nop
0x3c203186bb800000  nop                           ; nop                         ; thrsw
0x3c203186bb800000  nop                           ; nop                         ; thrsw
0x3c003186bb800000  nop                           ; nop
0x3c003186bb800000  nop                           ; nop
0x3c203186bb800000  nop                           ; nop                         ; thrsw
0x3c003186bb800000  nop                           ; nop
0x3c003186bb800000  nop                           ; nop
"""
LANES_71 = """
0x3980618abb03f002  eidx rf10                     ; nop                         ; ldunifrf.rf1
0x39e022cb7c283282  shl rf11, rf10, 2             ; mov tmud, rf10
0x3800318c3803f04b  add tmua, rf1, rf11           ; nop
0x38003186bb03f00f  tmuwt -                       ; nop
0x38203186bb03f000  nop                           ; nop                         ; thrsw
0x38203186bb03f000  nop                           ; nop                         ; thrsw
0x38003186bb03f000  nop                           ; nop
0x38003186bb03f000  nop                           ; nop
0x38203186bb03f000  nop                           ; nop                         ; thrsw
0x38003186bb03f000  nop                           ; nop
0x38003186bb03f000  nop                           ; nop
"""


def lanes_42(q: Asm42) -> None:
    q.eidx(q.r0, sig=q.ldunifrf(q.rf[0]))
    q.shl(q.r1, q.r0, 2).mov(q.tmud, q.r0)
    q.add(q.tmua, q.rf[0], q.r1)
    q.tmuwt()
    q.end()


def lanes_71(q: Asm71) -> None:
    q.eidx(q.rf[10], sig=q.ldunifrf(q.rf[1]))
    q.shl(q.rf[11], q.rf[10], 2).mov(q.tmud, q.rf[10])
    q.add(q.tmua, q.rf[1], q.rf[11])
    q.tmuwt()
    q.end()


@pytest.mark.parametrize(
    ("isa", "program", "listing"), [(Isa.V3D42, lanes_42, LANES_42), (Isa.V3D71, lanes_71, LANES_71)]
)
def test_worked_examples(isa: Isa, program: Any, listing: str) -> None:
    expected = [(int(line[:18], 16), line[20:]) for line in listing.strip().splitlines()]
    built = assemble(isa, program)
    assert [(w, text(decode(isa, w))) for w in built.code] == expected
    assert list(assemble_text(isa, "\n".join(t for _, t in expected)).code) == [w for w, _ in expected]


def shown(isa: Isa, fn: Any) -> list[str]:
    return [" ".join(text(decode(isa, w)).split()) for w in assemble(isa, fn, check=False).code]


def test_ports_of_42() -> None:
    def program(q: Asm42) -> None:
        q.add(q.r0, q.rf[1], q.rf[2]).sub(q.r1, q.rf[2], q.rf[1])
        q.add(q.r0, q.r1, q.r2).fmul(q.rf[3], q.rf[4], q.rf[5])
        q.add(q.r0, q.rf[7], 3).sub(q.r1, 3, q.rf[7])
        q.fadd(q.r0, q.rf[7], q.rf[7]).fmul(q.r1, q.rf[7], q.rf[8])
        q.mov(q.r0, q.r1, sig=q.rot(-3))
        q.add(q.r2, q.rf[9], q.r3).mov(q.r0, q.rf[9], sig=q.rot(q.r5))

    found = [decode(Isa.V3D42, w) for w in assemble(Isa.V3D42, program, check=False).code]
    ports = [(i.raddr_a, i.raddr_b) for i in found if isinstance(i, Alu)]
    assert ports == [(1, 2), (4, 5), (7, 3), (7, 8), (0, 29), (9, 0)]
    assert shown(Isa.V3D42, program)[:3] == [
        "add r0, rf1, rf2 ; sub r1, rf2, rf1",
        "add r0, r1, r2 ; fmul rf3, rf4, rf5",
        "add r0, rf7, 3 ; sub r1, 3, rf7",
    ]


def test_operand_order_is_the_builders_work() -> None:
    """fmin and fmax, fadd and faddnf share an opcode; both argument orders give the operation that was asked for."""

    def p71(q: Asm71) -> None:
        for op in (q.fmin, q.fmax, q.fadd, q.faddnf):
            op(q.rf[0], q.rf[1], q.rf[2])
            op(q.rf[0], q.rf[2], q.rf[1])
            op(q.rf[0], q.rf[2].abs, 1.0)
            op(q.rf[0], 1.0, q.rf[2].h)

    def p42(q: Asm42) -> None:
        for op in (q.fmin, q.fmax, q.fadd, q.faddnf):
            op(q.r0, q.rf[1], q.rf[2])
            op(q.r0, q.r2, q.rf[1])
            op(q.r0, q.rf[2].abs, 1.0)
            op(q.r0, 1.0, q.r2.h)

    for isa, program in ((Isa.V3D71, p71), (Isa.V3D42, p42)):
        names = [line.split()[0] for line in shown(isa, program)]
        assert names == ["fmin"] * 4 + ["fmax"] * 4 + ["fadd"] * 4 + ["faddnf"] * 4
        for line in shown(isa, program):
            assert ("1" in line) or ("0x3f800000" in line)


def test_equal_operands_through_both_ports() -> None:
    """4.2 can say fmax of one register with itself, by reading it twice."""
    word = assemble(Isa.V3D42, lambda q: q.fmax(q.r0, q.rf[5], q.rf[5]), check=False).code[0]
    instr = decode(Isa.V3D42, word)
    assert text(instr).split()[0] == "fmax"
    assert assemble_text(Isa.V3D42, text(instr)).code == (word,)


def test_conditions_signals_and_modifiers() -> None:
    def program(q: Asm71) -> None:
        q.fadd(q.rf[0].l, q.rf[1].abs, q.rf[2].h, cond="ifa").fmul(q.rf[3], q.rf[4], q.rf[5], push="pushz")
        q.fcmp(q.null, q.rf[1], q.rf[2], update="andz").mov(q.rf[6], q.rf[7].il, cond="ifnb")
        q.nop(sig=q.thrsw | q.ldtmu(q.rf[9]) | q.ldunif)
        q.nop(sig=[q.thrsw, q.ldvary(q.rf[9])]).fmul(q.rf[1], q.rf[2], q.rf[3], sig=q.wrtmuc)
        q.and_(q.rf[0], q.rf[1], -16)
        q.bor(q.tmuau, q.rf[1], q.imm(1.0))
        q.fmul(q.rf[0], q.rf[1], q.imm(0.5).abs)

    assert shown(Isa.V3D71, program) == [
        "fadd.ifa rf0.l, rf1.abs, rf2.h; fmul.pushz rf3, rf4, rf5",
        "fcmp.andz -, rf1, rf2 ; mov.ifnb rf6, rf7.il",
        "nop ; nop ; thrsw; ldtmu.rf9; ldunif",
        "nop ; fmul rf1, rf2, rf3 ; thrsw; ldvary.rf9; wrtmuc",
        "and rf0, rf1, -16 ; nop",
        "or tmuau, rf1, 0x3f800000 ; nop",
        "nop ; fmul rf0, rf1, 0x3f000000.abs",
    ]


def test_labels_loops_and_branches() -> None:
    def program(q: Asm71) -> None:
        q.label("top")
        with q.loop() as loop:
            q.sub(q.rf[1], q.rf[1], 1, push="pushz")
            q.b(loop.start, cond="anyna")
            q.nop()
            q.b(loop.end, cond="alla", msfign="p")
            q.nop()
        q.b("top", link=True)
        q.b("end", unif="rel")
        q.b(q.rf[5], unif=q.rf[5])
        q.b(q.lri, cond="a0")
        q.b(q.absolute(0x1000), unif="abs")
        q.b(-16)
        q.label("end")
        q.end()

    code = assemble(Isa.V3D71, program, check=False).code
    branches = [(i, b) for i, b in enumerate(decode(Isa.V3D71, w) for w in code) if isinstance(b, Branch)]
    targets = [i + 4 + (b.offset - (b.offset >> 31 << 32)) // 8 for i, b in branches if b.bdi == "rel"]
    assert targets == [0, 7, 0, 13, 14]  # the loop fills the slots of its last branch
    assert [b.bdi for _, b in branches] == ["rel", "rel", "rel", "rel", "rf", "lri", "abs", "rel"]
    assert [b.bdu for _, b in branches] == ["", "", "", "rel", "rf", "", "abs", ""]
    assert [b.link for _, b in branches][2]
    assert branches[6][1].offset == 0x1000


def test_listing_assembles_to_the_same_words() -> None:
    for isa, program in ((Isa.V3D42, lanes_42), (Isa.V3D71, lanes_71)):
        tool = V3dToolkit(isa)
        source = "here:\n  b here\n  nop\n  nop\n  nop; nop\n  .word 0x123\nb 8\n" + "nop\n" * 6
        for made in (assemble(isa, program), tool.assemble(source)):
            listing = tool.listing(made)
            assert tool.assemble(listing).code == made.code
            assert Program.of(made).text == listing


def test_locations_point_at_the_users_lines() -> None:
    def helper(q: Asm71, n: int) -> None:
        q.nop()  # helper line
        q.fmul(q.rf[n], q.rf[n], q.rf[n])  # helper line 2

    def program(q: Asm71) -> None:
        q.fadd(
            q.rf[0],
            q.rf[1],
            q.rf[2],
        ).fmul(q.rf[3], q.rf[4], q.rf[5])
        for n in range(2):
            helper(q, n)
        q.end()

    built = assemble(Isa.V3D71, program, check=False)
    lines = []
    for i in range(len(built)):
        loc = built.loc(i)
        assert loc is not None
        assert loc.file == __file__
        lines.append(loc.source.strip())
    assert lines[1:5] == ["q.nop()  # helper line", "q.fmul(q.rf[n], q.rf[n], q.rf[n])  # helper line 2"] * 2
    assert "q.fadd(" in lines[0]
    assert lines[5] == "q.end()"


def test_checker_raises_at_the_line() -> None:
    def program(q: Asm42) -> None:
        q.add(q.sfu_recip, q.r0, q.r1)
        q.mov(q.r1, q.r4)  # too soon
        q.end()

    with pytest.raises(HazardError) as e:
        assemble(Isa.V3D42, program)
    (found,) = e.value.diagnostics
    assert found.rule == "sfu-r4-read"
    assert (found.index, found.other, found.distance) == (1, 0, 1)
    assert found.loc is not None
    assert found.loc.source.strip().endswith("# too soon")
    assert len(assemble(Isa.V3D42, program, check=False)) == 9


def test_programs_do_not_disturb_each_other() -> None:
    """Builders in several threads, and one inside another."""
    results: dict[int, tuple[int, ...]] = {}

    def program(q: Asm71, n: int) -> None:
        for i in range(200):
            q.fadd(q.rf[i % 64], q.rf[n], q.rf[i % 60]).fmul(q.rf[n], q.rf[i % 64], q.rf[1])
            if i == 100:
                assemble(Isa.V3D71, lambda p: p.nop(), check=False)
        q.end()

    def work(n: int) -> None:
        results[n] = assemble(Isa.V3D71, program, n).code

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert {n: assemble(Isa.V3D71, program, n).code for n in range(6)} == results


def common(q: Asm) -> None:
    """A program for both chips, with the common type of their builders."""
    q.shr(q.rf[10], q.workgroup_x, -16).fmul(q.rf[11], q.workgroup_x, q.workgroup_x)
    q.mov(q.rf[12], q.workgroup_z)
    q.nop(sig=q.ldunifrf(q.rf[13]))
    with q.loop() as again:
        q.sub(q.rf[13], q.rf[13], 1, push="pushz")
        q.b(again.start, cond="anyna")
    q.tmuwt()
    q.end()


def test_payload_registers_answer_on_both_chips() -> None:
    for isa, xy in ((Isa.V3D42, "rf0"), (Isa.V3D71, "rf3")):
        lines = shown(isa, common)
        assert lines[0] == f"shr rf10, {xy}, -16 ; fmul rf11, {xy}, {xy}"
        assert "rf2" in lines[1]
        assert lines[4].startswith("b.anyna -40")
        assert lines[5:8] == ["nop ; nop"] * 3  # the loop fills the slots

        def same(q: Asm) -> None:
            assert q.workgroup_y is q.workgroup_x
            assert q.local_index is q.workgroup_z

        assemble(isa, same, check=False)


def test_an_exception_of_the_program_passes() -> None:
    def program(q: Asm71) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        assemble(Isa.V3D71, program)


def test_builders_hold_no_registers_of_the_other_chip() -> None:
    other: list[Any] = []
    assemble(Isa.V3D42, lambda q: other.extend([q.r0, q.rf[1], q.tmua]), check=False)

    def program(q: Any) -> None:
        q.add(q.rf[0], other[0], q.rf[1])
        q.add(q.rf[0], q.rf[1], other[1])
        q.add(other[2], q.rf[1], q.rf[1])
        q.nop().add(other[2], q.rf[1], q.rf[1])

    with pytest.raises(AsmError) as e:
        assemble(Isa.V3D71, program, check=False)
    assert [d.rule for d in e.value.diagnostics] == ["register"] * 4


def test_combine() -> None:
    for isa in (Isa.V3D42, Isa.V3D71):
        ops = table(isa)

        def half(name: str, *sources: Src, ops: Any = ops, **more: str) -> AluHalf:
            a, b = (*sources, None, None)[:2]
            return AluHalf(ops[name], Dst(9), a, b, **more)

        def rf(n: int, mod: str = "") -> Src:
            return Src(SrcKind.RF, n, mod)

        one = Src(SrcKind.IMM, 40)
        good = combine(isa, half("fadd", rf(1), one), half("fmul", rf(1), rf(1)))
        assert isinstance(good, Alu)
        many = combine(isa, half("fadd", rf(1), rf(2)), half("fmul", rf(3), rf(1)))
        assert isinstance(many, Alu) == (isa is Isa.V3D71)
        shared = combine(isa, half("fadd", rf(1), one), half("fmul", rf(1), one))
        assert isinstance(shared, Alu) == (isa is Isa.V3D42)
        flags = half("fadd", rf(1), rf(1), push="pushz"), half("fmul", rf(1), rf(1), push="pushz")
        assert getattr(combine(isa, *flags), "rule", None) == "condition"
        assert isinstance(combine(isa, half("fadd", rf(1), rf(1)), None, Sig.THRSW), Alu)
        assert getattr(combine(isa, half("fmul", rf(1), rf(1)), None), "rule", None) == "operation"
        assert getattr(combine(isa, half("fadd", rf(1, "ff"), rf(1)), None), "rule", None) == "modifier"


def test_constants_of_the_text_assembler() -> None:
    source = """
    .set base, 10   # a register number
    .set x, rf5
    .set two, 1 << 1
    .set dst, tmua
    add rf[base + two], x, two - 3 ; mov dst, x
    fmul x.l, x.h, 1.0
    fmul rf1, x, 2.5 - 0.5
    loop: sub x, x, 1
    b.anyna loop
    bu loop, r:unif ; link
    .word 0x38003186bb03f000
    ldtmu_result: nop ; nop ; ldtmu.x
    nop ; thrsw
    imin rf0, rf1, rf2 ; vfmul rf3, rf4.r32, rf5
    """
    program = V3dToolkit(Isa.V3D71).assemble(source)
    assert [" ".join(text(decode(Isa.V3D71, w)).split()) for w in program.code] == [
        "add rf12, rf5, -1 ; mov tmua, rf5",
        "nop ; fmul rf5.l, rf5.h, 0x3f800000",
        "nop ; fmul rf1, rf5, 0x40000000",
        "sub rf5, rf5, 1 ; nop",
        "b.anyna -40",
        "bu -48, r:unif; link",
        "nop ; nop",
        "nop ; nop ; ldtmu.rf5",
        "nop ; nop ; thrsw",
        "min rf0, rf1, rf2 ; vfmul rf3, rf4.ff, rf5",
    ]
    assert program.labels == {"loop": 3, "ldtmu_result": 7}


def test_notes_tell_what_text_leaves_out() -> None:
    tool = V3dToolkit(Isa.V3D42)
    rotated = assemble(Isa.V3D42, lambda q: q.mov(q.r0, q.r1, sig=q.rot(-3)), check=False).code[0]
    assert "-3" in str(tool.note(rotated))
    ucb = assemble(Isa.V3D42, lambda q: q.nop(sig=q.ucb), check=False).code[0]
    assert "ucb" in str(tool.note(ucb))
    assert tool.note(0x3C003186BB800000) is None
    assert "0x0200000000001000" in str(tool.note(0x0200000000001001))


@pytest.mark.full
@pytest.mark.skipif(find_spec("ruff") is None, reason="ruff, which formats the generated files, is not installed")
def test_generated_methods_are_current() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "gen_asm.py"), "--check"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_importing_stays_light() -> None:
    code = (
        "import sys, qpu.v3d.asm, qpu.v3d.instruction_set, qpu.v3d.parser, qpu.v3d.hazards;"
        "print('numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "False"
