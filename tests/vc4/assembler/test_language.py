"""Tests of the language: labels, directives, macros, functions, includes, data, placement, the worked examples."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from qpu.errors import AsmError
from qpu.vc4.vc4asm import Symbol, assemble_text

NOP = 0x100009E7009E7000


def words(text: str) -> list[int]:
    return list(assemble_text(text).words)


def rules(text: str) -> list[str]:
    return [w.rule for w in assemble_text(text).warnings]


def immediate(text: str) -> int:
    """The signed value that ``ldi r0, text`` loads."""
    (word,) = words(f"ldi r0, {text}")
    assert word >> 32 == 0xE0020827
    return struct.unpack("<i", struct.pack("<I", word & 0xFFFFFFFF))[0]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("nop", 0x100009E7009E7000),
        ("ldi r0, 1.0", 0xE00208273F800000),
        ("mov r0, r1", 0x10020827159E7240),
        ("add r0, ra1, rb2; fmul r1, ra1, rb2", 0x100248212C042DF7),
        ("nop; mov r0, r1>>3", 0xD00049E0809F3009),
        ("nop; ldtmu0", 0xA00009E7009E7000),
        ("sacq -, 3", 0xE80009E700000013),
        ("sacq -, 19", 0xE80009E700000013),
        (":x brr -, :x", 0xF0F809E7FFFFFFE0),
        ("bra -, ra4", 0xF0F489E700000000),
        ("ldi r0, [0,1,2,3,0,1,2,3,0,1,2,3,0,1,2,3]", 0xE6020827CCCCAAAA),
    ],
)
def test_worked_examples(text: str, word: int) -> None:
    assert words(text) == [word]


# -- labels


def test_label_offsets_and_exports() -> None:
    result = assemble_text(":a nop\nb: nop\n::c :d nop\n.global e, 5\n.global f, 1.5\n.global :a\n:end")
    assert result.labels == {"a": 0, "b": 8, "c": 16, "d": 16, "end": 24}
    assert result.globals == {
        "c": Symbol(16, True),
        "e": Symbol(5, False),
        "f": Symbol(1.5, False),
        "a": Symbol(0, True),
    }


def test_local_labels() -> None:
    got = words(":1 nop\nbrr -, :1\nbrr -, :1f\n:1 nop\nbrr -, r:1")
    assert [struct.unpack("<i", struct.pack("<I", w & 0xFFFFFFFF))[0] for w in (got[1], got[2], got[4])] == [
        0 - (8 + 32),
        24 - (16 + 32),
        24 - (32 + 32),
    ]


def test_backward_reference_may_say_so() -> None:
    assert words(":1 nop\nbrr -, :1b") == words(":1 nop\nbrr -, :1")


def test_line_ends() -> None:
    assert words("nop\r\nmov r0, r1\rnop\n") == words("nop\nmov r0, r1\nnop")
    result = assemble_text("# form\x0cfeed\nnop")
    assert result.locs[0].line == 2


def test_label_arithmetic() -> None:
    assert words("brr -, :x + 8\n:x nop") == words("brr -, 8 + :x\n:x nop")
    assert words("brr -, :x - 8\nnop\n:x nop")[0] & 0xFFFFFFFF == (16 - 8 - 32) & 0xFFFFFFFF
    assert words(":a nop\nnop\n:b ldi r0, :b - :a")[2] & 0xFFFFFFFF == 16
    assert words("ldi r0, :b - :a\n:a nop\nnop\n:b nop")[0] & 0xFFFFFFFF == 16
    assert words("ldi r0, (:b - :a) / 8 + 100\n:a nop\nnop\n:b nop")[0] & 0xFFFFFFFF == 102


def test_branch_to_label_with_register() -> None:
    (word, _) = words("brr ra1, ra2, :x\n:x nop")
    assert word & 0xFFFFFFFF == (8 - 32) & 0xFFFFFFFF
    assert word >> 50 & 3 == 3
    assert word >> 45 & 31 == 2


def test_absolute_branch_to_label_warns() -> None:
    assert rules("bra -, :x\n:x nop") == ["branch-absolute"]
    assert rules("bra -, ra5") == ["branch-odd"]
    assert rules("bra.setf -, ra5") == []
    assert rules("brr -, 3") == ["branch-alignment"]


def test_labels_that_decide_about_the_program() -> None:
    # The first pass takes :b for 0 and leaves the nop out.
    source = ".if :b - :a > 8\nnop\n.endif\n:a nop\nnop\n:b nop"
    assert words(source) == [NOP] * 4


def test_labels_that_contradict_themselves() -> None:
    with pytest.raises(AsmError) as caught:
        assemble_text(".if :b > :a + 8\n.endif\n:a nop\n:b nop")
    assert caught.value.diagnostics[0].rule == "value-type"
    with pytest.raises(AsmError) as caught:
        assemble_text(":a nop\n.if :b - :a < 16\nnop\n.endif\n:b nop")
    assert caught.value.diagnostics[0].rule == "unsettled"


# -- constants, functions, macros


def test_scopes() -> None:
    source = """
.set a, 1
.local
  .lset a, 2
  ldi r0, a
  .set a, 3
  ldi r0, a
.endloc
ldi r0, a
"""
    assert [w & 0xFFFFFFFF for w in words(source)] == [2, 2, 3]


def test_set_may_refer_to_itself_and_to_registers() -> None:
    assert words(".set n, 7\n.set n, n + 1\nldi r0, n") == words("ldi r0, 8")
    assert words(".set t, ra3\nadd t, t+1, r0") == words("add ra3, ra4, r0")
    assert words(".set r9, rb4\nmov r9+2, r0") == words("mov rb6, r0")


def test_user_names_win_over_registers() -> None:
    assert words(".set r0, ra7\nadd r0, r1, r2") == words("add ra7, r1, r2")
    assert words("add r0, r1, r2") == [0x100208270C9E7280]  # nothing of that was kept
    assert words(".macro add, x\nmov x, 1.0\n.endm\nadd r0") == words("mov r0, 1.0")
    assert words("add r0, r1, r2") == [0x100208270C9E7280]


def test_expression_functions() -> None:
    assert words(".set f(x,y) x*16+y\nldi r0, f(2,3)\n.set k, 2\nldi r0, f(k, f(0,1))") == words(
        "ldi r0, 35\nldi r0, 33"
    )
    # The body is evaluated where the function is used.
    assert words(".set g(x) x+k\n.set k, 5\nldi r0, g(1)\n.set k, 6\nldi r0, g(1)") == words("ldi r0, 6\nldi r0, 7")


def test_line_functions() -> None:
    source = """
.func gcd(a, b)
  .assert a > 0
  .if b == 0
    a
  .else
    .lset r, a % b
    gcd(b, r)
  .endif
.endf
ldi r0, gcd(48, 36)
"""
    assert words(source) == words("ldi r0, 12")


def test_macros() -> None:
    source = """
.macro scale, dst, src, factor
  .if factor == 1
    mov dst, src
  .else
    shl dst, src, factor
  .endif
.endm
.macro both, d
  scale d, r1, 1
  scale d+1, r2, 3
.endm
both ra4
"""
    assert words(source) == words("mov ra4, r1\nshl ra5, r2, 3")


def test_macro_arguments_are_evaluated_outside() -> None:
    source = ".macro m, a, b\n ldi r0, a + b\n.endm\n.set a, 10\nm a+1, a"
    assert words(source) == words("ldi r0, 21")


def test_local_labels_in_macros() -> None:
    source = ".macro skip\n brr -, :1f\n nop\n nop\n nop\n:1\n.endm\nskip\nskip"
    assert [w & 0xFFFFFFFF for w in words(source) if w >> 60 == 15] == [0, 0]


def test_repetition() -> None:
    assert words(".rep i, 3\n.rep j, i\nldi r0, i*16+j\n.endr\n.endr") == words(
        "ldi r0, 0x10\nldi r0, 0x20\nldi r0, 0x21"
    )
    assert words(".foreach r, ra1, rb2, r3\nmov r, 100\n.endfor") == words("mov ra1, 100\nmov rb2, 100\nmov r3, 100")
    assert words(".macro m\n:x .rep i, 2\nnop\n.endrep\n.endm\nm") == [NOP, NOP]


def test_conditions() -> None:
    source = (
        ".set v, {}\n.if v == 1\nldi r0, 1\n.elseif v == 2\nldi r0, 2\n.elif v == 3\nldi r0, 3\n"
        ".else\nldi r0, 4\n.endif"
    )
    for v in (1, 2, 3, 4):
        assert words(source.format(v)) == words(f"ldi r0, {v}")
    assert words(".ifset nope\nfoo bar\n.if also_nope\n.endif\n.else\nnop\n.endif") == [NOP]
    assert words(".macro m\n.endm\n.ifset m\nnop\n.endif") == [NOP]


# -- files


def test_include_paths(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "a.qinc").write_text('.include "b.qinc"\n.set va, vb + 1\n.lset hidden, 1\n')
    (tmp_path / "lib" / "b.qinc").write_text(".set vb, 41 # forty-one\n")
    source = ".include <a.qinc>\nldi r0, va\n.ifset hidden\nnop\n.endif"
    assert list(assemble_text(source, include_path=[tmp_path / "lib"]).words) == words("ldi r0, 42")
    main = tmp_path / "main.qasm"
    text = '.include "lib/a.qinc"\nldi r0, va'
    assert list(assemble_text(text, filename=str(main)).words) == words("ldi r0, 42")


def test_include_of_itself_ends(tmp_path: Path) -> None:
    file = tmp_path / "loop.qinc"
    file.write_text('.include "loop.qinc"\n')
    with pytest.raises(AsmError) as caught:
        assemble_text('.include "loop.qinc"', filename=str(tmp_path / "main"))
    assert caught.value.diagnostics[0].rule == "recursion"


def test_standard_include_with_and_without_including() -> None:
    use = "ldi r0, vpm_setup(1, 1, h32(0))"
    assert (
        words(use)
        == words(".include <vc4.qinc>\n" + use)
        == words('.include "vc4.qinc"\n' + use)
        == words("ldi r0, 0x101a00")
    )
    assert words(".set M_PI, 3\nldi r0, M_PI") == words("ldi r0, 3")
    assert words(".include <vc4.qinc>\n.ifset vdw_setup_0\nnop\n.endif") == [NOP]


def test_own_standard_include_wins(tmp_path: Path) -> None:
    (tmp_path / "vc4.qinc").write_text(".set h32(y) 77\n")
    source = ".include <vc4.qinc>\nldi r0, h32(0)"
    assert list(assemble_text(source, include_path=[str(tmp_path)]).words) == words("ldi r0, 77")


def test_defines() -> None:
    source = ".if N > 2\nldi r0, N\nmov D, r0\n.endif"
    assert list(assemble_text(source, defines={"N": 40, "D": "ra1+1"}).words) == words("ldi r0, 40\nmov ra2, r0")
    with pytest.raises(AsmError) as caught:
        assemble_text("nop", defines={"N": "1 +"})
    assert "<define N>" in str(caught.value)


@pytest.mark.parametrize(
    ("call", "value"),
    [
        ("vpm_setup(1, 1, v32(0, 0))", 0x101200),
        ("vdw_setup_0(16, 16, dma_h32(0, 0))", 0x88104000),
        ("vdr_setup_1(64)", 0x90000040),
        ("vdr_setup_1(12288)", 0x90003000),
        ("ilog2(0)", -1),
        ("ilog2(0xffffffff)", 31),
        ("countBits(-1)", 64),
        ("reverseBits16(0x1234)", 0x2C48),
        ("reverseBits32(0x12345678)", 0x1E6A2C48),
        ("reverseBits(6, 4)", 6),
        ("max(-3, 4)", 4),
        ("sacq(7) == sacq7", 1),
    ],
)
def test_standard_functions(call: str, value: int) -> None:
    assert immediate(call) & 0xFFFFFFFF == value & 0xFFFFFFFF


# -- data


def test_data() -> None:
    assert words(".byte 1,2,3\n.short -1\n.byte 0xff\n.short 0x1234") == [0x1234FFFFFF030201]
    assert words(".bit 1,0,1,1\n.int4 5\n.byte 7") == [0x075D]
    assert words(".bit 1\n.byte 7") == [0x0701]
    assert words(".double 1.0\n.float -2\n.half 0.5") == [0x3FF0000000000000, 0x3800C0000000]
    assert words(":a .int 1\n:b .int 2\n.int :b - :a") == [0x200000001, 4]
    assert rules(".byte 256") == ["data-range"]
    assert rules(".half 1e6") == ["float-range"]


def test_alignment() -> None:
    assert words("nop\n.align 32\nnop") == [NOP] * 5
    assert words(".byte 1\n.align 16\n.byte 2") == [1, NOP, 2]
    assert words("nop\n.align 16, 8\nnop") == [NOP] * 2
    assert words("nop\n:x nop\n.align 16, :x\nnop") == [NOP] * 4


def test_instruction_after_data() -> None:
    assert words(".int 1\nnop") == [1, NOP]
    assert rules(".int 1\nnop") == ["data-padding"]


def test_code_and_data_ranges() -> None:
    result = assemble_text("nop\n.int 1, 2\nnop\n.rodata\nnop\n.code\n.long 5")
    assert result.code == ((0, 1), (2, 3), (4, 5))
    assert result.data == ((1, 2), (3, 4))
    assert len(result.locs) == 5
    assert [loc.line for loc in result.locs] == [1, 2, 3, 5, 7]
    assert result.locs[1].text == ".int 1, 2"


# -- moving and copying


def test_back_moves_labels_and_branches() -> None:
    source = """
:loop nop
nop
:mid nop
brr -, :mid
.back 2
  brr -, :loop
.endb
:end nop
"""
    result = assemble_text(source)
    assert result.labels == {"loop": 0, "mid": 16, "end": 40}  # a label at the place stays before what is inserted
    offsets = [struct.unpack("<i", struct.pack("<I", w & 0xFFFFFFFF))[0] for w in result.words if w >> 60 == 15]
    assert offsets == [0 - (16 + 32), 16 - (32 + 32)]


def test_clone() -> None:
    forward = "brr -, :t + 24\n.clone :t, 3\n:t ldi r0, 1\nldi r1, 2\nldi r2, 3\nnop"
    got = words(forward)
    assert got[1:4] == got[4:7] == words("ldi r0, 1\nldi r1, 2\nldi r2, 3")
    # A copied branch goes to the same place.
    got = words(":t brr -, :x\nnop\nnop\nnop\n.clone :t, 1\n:x nop")
    assert [w & 0xFFFFFFFF for w in (got[0], got[4])] == [40 - 32, (40 - 64) & 0xFFFFFFFF]


# -- packing of lines


def test_semicolon_merge() -> None:
    assert words("add r0, r1, r2;\n;fmul r1, r2, r3") == words("add r0, r1, r2; fmul r1, r2, r3")
    assert words("add r0, r1, r2;\n\n# comment\n ; ldtmu0") == words("add r0, r1, r2; ldtmu0")
    assert words("add r0, r1, r2;\n;fmul r1, r2, r3;\n;ldtmu0") == words("add r0, r1, r2; fmul r1, r2, r3; ldtmu0")
    separate = words("add r0, r1, r2\nfmul r1, r2, r3")
    assert words("add r0, r1, r2;\n:x ;fmul r1, r2, r3") == separate
    assert words("add r0, r1, r2;\n:\n;fmul r1, r2, r3") == separate
    assert words("add r0, r1, r2;\nfmul r1, r2, r3") == separate
    assert words("add r0, r1, r2\n;fmul r1, r2, r3") == separate
    assert words("mov t0s, r0;\n;ldtmu0") == words("mov t0s, r0\nldtmu0")
    assert words("add r0, r1, r2;\n;sub r1, r2, r3") == words("add r0, r1, r2\nsub r1, r2, r3")


def test_swaps() -> None:
    assert words("mov r0, r1; add r2, r3, r0") == words("add r2, r3, r0; mov r0, r1")
    # The exchange leaves ws set, without effect for accumulators: so in the reference assembler.
    assert words("v8min r0, r1, r1; fmul r2, r3, r3") == [w | 1 << 44 for w in words("or r0, r1, r1; fmul r2, r3, r3")]
    assert words("min r0, r1, r1; max r2, r3, r3") == words("max r2, r3, r3; v8min r0, r1, r1")
    assert words("v8adds r0, r1, r2; fmul r2, r3, r3") == [
        w | 1 << 44 for w in words("av8adds r0, r1, r2; fmul r2, r3, r3")
    ]
    with pytest.raises(AsmError):
        words("max r0, r1, r2; add r2, r3, r0")


def test_port_choice() -> None:
    assert words("add r0, unif, ra1") == words("add r0, rb32, ra1")
    assert words("add r0, unif, rb1") == words("add r0, ra32, rb1")
    assert words("mov r0, unif; fmul r1, ra1, r2") == words("mov r0, rb32; fmul r1, ra1, r2")
    assert words("mov r0, vpm; fmul r1, vpm, r2") == words("mov r0, ra48; fmul r1, ra48, r2")
    assert words("add r0, unif, vpm") == words("add r0, ra32, rb48")


def test_reading_only() -> None:
    assert words("read unif; read rb5") == [0x100009E700805000]
    assert words("add r0, r1, r2; read ra3; read 5") == words("add r0, r1, r2; read 5; read ra3")


def test_mov_of_constants_beside_other_work() -> None:
    assert words("mov r0, 0x80000000; mov r1, 1") == [0xD0024821909C1FFF]
    assert words("fadd r0, r1, r2; mov r3, 10") == words("fadd r0, r1, r2; v8min r3, 10, 10")
    assert words("mov r0, 5; mov r1, 10") == words("or r0, 5, 5; v8adds r1, 5, 5")
    assert words("mov r0, 0x12345678; mov r1, 0x12345678") == words("mov r0, r1, 0x12345678")


def test_shift_counts_and_sixteen() -> None:
    assert words("shl r0, r1, 31") == words("shl r0, r1, -1") == words("shl r0, r1, 63")
    assert words("add r0, r1, 16") == words("sub r0, r1, -16")
    assert words("sub r0, r1, 16") == words("add r0, r1, -16")
    assert words("mov r2, 5; add r0, r1, -5") == words("sub r0, r1, 5; mov r2, 5")


def test_rotation_forms() -> None:
    assert (
        words("mov r0, r1 >> 3") == words("mov r0 << 3, r1") == words("mov r0, r1 << 13") == words("mov r0, r1 << -3")
    )
    assert words("mov r0, r1 >> 16") == words("mov r0, r1")
    assert words(".set x, r1 >> 1\nmov r0, x >> 2") == words("mov r0, r1 >> 3")
    assert words("mov r1, r2>>3; or r0, r3, -13") == words("or r0, r3, -13; mov r1, r2>>3")
    assert rules("mov r0, ra1 >> 4") == ["rotate-quad"]
    assert rules("mov r0, r5 >> 1") == ["rotate-r5"]
    assert rules("fmul r0, r1, r2 >> 1") == ["rotate-both"]


# -- warnings


@pytest.mark.parametrize(
    ("source", "rule"),
    [
        ("ldi r0, 1.6e+01", "exponent-sign"),
        ("ldi r0, 017", "leading-zero"),
        ("ldi r0, 1e40", "float-range"),
        ("fmul r0.8a, r1, r2", "reserved-pack"),
        ("fmul r0.8abcdsf, r1, r2", "reserved-pack"),
        ("add r1, r2, r3; mov rb0, 0x02020202", "reserved-pack"),
        ("nop; mov r3, 0", "zero-lost"),
        ("mov ra0, rb1, r1", "mov-two-destinations"),
        ("fsub r0, 9, 9", "fsub-folded"),
        ("ldi r0, min(3, 5)", "standard-min"),
        ("add.unpack16af r0, ra1, r2", "unpack-type"),
        (".unset nothing", "unset"),
    ],
)
def test_oddities_of_the_language_are_warned_about(source: str, rule: str) -> None:
    result = assemble_text(source)
    (warning,) = result.warnings
    assert warning.rule == rule
    assert warning.loc is not None
    assert warning.loc.line == 1


def test_plain_code_gives_no_warnings() -> None:
    assert rules("add r0, r1, r2; fmul r1, r2, r3\nmov r0, 5\nldi ra1, 1.5\nnop; thrend\nnop\nnop") == []


def test_result_is_the_same_twice_and_from_the_cache() -> None:
    source = "add r0, r1, 5\nfadd r0, r1, r2; ldtmu1 # x\n"
    assert words(source) == words(source)
    assert len(words(source * 50)) == 100
