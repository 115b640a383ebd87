"""Tests of sources of programs that ran on silicon, with the words of the reference assembler."""

from __future__ import annotations

import pytest

from qpu.errors import AsmError
from qpu.vc4.vc4asm import assemble_text

NOPS = ["100009e7009e7000"] * 3

WORDS = {
    "a constant before the rotation that decides it": ("mov ra1, 3;  v8adds rb6, r3<<4, r5", ["d0024046d79fcfdd"]),
    "the rotation first": ("v8adds rb6, r3<<4, r5; mov ra1, 3", ["d0024046d79fcfdd"]),
    "'-' is nop": (".macro m, c\n.if c != nop\nmov r0, 1\n.else\nmov r0, 2\n.endif\n.endm\nm -", ["e002082700000002"]),
    "aliases are equal": (
        ".set a, unif\n.set b, uniform_read\n.if a == b\nmov r0, 1\n.else\nmov r0, 2\n.endif\n", ["e002082700000001"],
    ),
    ".back joins the instruction before it": (
        "nop\nfmul r1, r2, rb23;\nfadd r1, r1, r3\n.back 1\n;mov.setf -, ra10\n.endb\n",
        ["100009e7009e7000", "100269e135297d97", "10020867019e72c0"],
    ),
    "16 on the MUL ALU": ("add t0s, r0, r2; mov r0, 16", ["d0024e204c9c40bf"]),
    "an unpack by its long name": ("add r0, r4, ra1.unpack8b", ["1a0208270c067980"]),
    "a rotated destination": ("fmul r2>>8, r2, ra0", ["d00049e220038016"]),
    "a label of digits and letters": (":0_a\nbrr -, :0_a\nnop\nnop\nnop\n", ["f0f809e7ffffffe0", *NOPS]),
    "an exchange to the ADD ALU leaves ws set": ("v8adds r0, r0, r1; v8min r2, r2, rb30", ["100258229e9de057"]),
}  # fmt: skip


@pytest.mark.parametrize(("text", "words"), WORDS.values(), ids=WORDS)
def test_reference(text: str, words: list[str]) -> None:
    assert [f"{w:016x}" for w in assemble_text(text).words] == words


def test_a_macro_that_asks_whether_it_got_a_register() -> None:
    macro = ".macro clear, what\n.if what != nop\nmov what + 1, 0\n.else\nmov r0, 1\n.endif\n.endm\n"
    assert assemble_text(macro + "clear -\nclear ra3\n").words == assemble_text("mov r0, 1\nmov ra4, 0\n").words


def test_equal_registers_are_those_with_one_address_and_direction() -> None:
    def equal(a: str, b: str) -> bool:
        return assemble_text(f".set a, {a}\n.set b, {b}\n.if a == b\n.int64 1\n.else\n.int64 0\n.endif").words == (1,)

    assert equal("unif", "uniform")
    assert equal("r5rep", "broadcast")
    assert not equal("elem_num", "qpu_num")  # address 38 in file A, 38 in file B
    assert not equal("ra32", "unif")
    assert not equal("r0", "r0 << 1")


def test_labels_of_digits_and_letters_may_be_defined_again() -> None:
    text = ":0_pass\nbrr -, :0_pass\nbrr -, :0_passf\n:0_pass\nbrr -, :0_passb\n"
    offsets = [(w & 0xFFFFFFFF) - (1 << 32) * (w >> 31 & 1) for w in assemble_text(text).words]
    assert offsets == [-32, 16 - 40, -32]


def test_a_join_ends_at_a_label_and_at_data() -> None:
    joined = assemble_text("mov r0, r1;\n;fmul r2, r3, r3").words
    assert len(joined) == 1
    for between in (":", ":a", ".int64 1", "nop", ".align 8"):
        assert len(assemble_text(f"mov r0, r1;\n{between}\n;fmul r2, r3, r3").words) >= 2, between


def test_a_join_keeps_its_warnings() -> None:
    found = assemble_text("mov r0, r1;\n;fmul r2, r3>>1, r2").warnings
    assert [(d.rule, d.loc.line if d.loc else 0) for d in found] == [("rotate-both", 2)]


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("mul24.pack16a rb0, r1, r2", "pack-file-a"),
        ("mov.pack16a r0, r1", "pack-file-a"),
        ("mov r0, ra0.16a; fmul r1, ra0.16a, ra0.16a", "unpack-type"),
        ("fadd r0, ra0.8c, r1; mov r2, ra0.8c", "unpack-type"),
        ("mov.pack8a vpm, r1", "pack-file-a"),
        ("add.pack16af ra0, r1, r2", "pack-type"),
        ("fmul.unpack16ai r0, r4, r2", "unpack-unused"),
        ("add.unpack8a r0, r1, r2", "unpack-unused"),
        ("add.unpack8a r0, unif, r2", "unpack-unused"),
    ],
)
def test_what_gives_other_code_than_it_says_is_a_warning(text: str, rule: str) -> None:
    assert [d.rule for d in assemble_text(text).warnings] == [rule]


@pytest.mark.parametrize(
    "text",
    [
        "mov r0, ra0.8a; mov r1, ra0.8a",
        "mov r0, ra0.8dr; fmul r1, ra0.8dr, r2",
        "mov r0, ra0.16af; fmul r1, ra0.16a, ra0.16a",
        "fadd r0, ra0.16a, r4; fmul r1, ra0.16a, r4",
        "add r0, ra0.8a, unif",
    ],
)
def test_unpacks_that_say_what_they_do(text: str) -> None:
    assert not assemble_text(text).warnings


def test_a_comment_of_another_language_names_ours() -> None:
    for text in ("// x", "mov r0, r1 // x", "/* x */"):
        with pytest.raises(AsmError) as caught:
            assemble_text(text)
        assert caught.value.diagnostics[0].help == "start a comment with #", text
