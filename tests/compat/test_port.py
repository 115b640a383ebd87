"""Tests of `qpu port`: the new program computes what the old one did."""

from __future__ import annotations

import types
from pathlib import Path

import pytest

import qpu
from qpu.__main__ import main
from qpu.compat.port import port
from qpu.compat.videocore import assembler
from qpu.errors import UsageError

HERE = Path(__file__).parent

# tests written in the old dialect, without what has no counterpart
LEFT_OUT = {
    "old_vc4": ("get_label_position, ", ", DriverError", "        assert get_label_position(endless, \"here\") == 0\n"),
    "old_v6": (
        "from qpu.compat.videocore6 import pack_unpack\n",
        '        assert pack_unpack("f", "I", [1.0]) == [0x3F800000]\n',
    ),
    "old_v7": (),
}  # fmt: skip
CHANGED = {
    "old_vc4": ("import struct", "import struct"),
    "old_v6": ("return unif.addresses()[0]", "return unif"),
    "old_v7": (", reg_a: Register = rf10", ", reg_a: Register"),
}


def run(text: str, name: str) -> None:
    module = types.ModuleType(name)
    exec(compile(text, name, "exec"), vars(module))
    module.main()


@pytest.mark.parametrize(("name", "board"), [("old_vc4", "pi3"), ("old_v6", "pi4"), ("old_v7", "pi5")])
def test_whole_programs(name: str, board: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (HERE / f"{name}.py").read_text()
    for part in LEFT_OUT[name]:
        assert part in text
        text = text.replace(part, "")
    old, new = CHANGED[name]
    text = text.replace(old, new)
    if name == "old_vc4":  # limits of the old data area
        text = text[: text.index("        try:\n")]
    if name == "old_v6":
        text = text[: text.index("        with drv.compute_shader_dispatcher")]
    if name == "old_v7":
        text = text.replace("drv.program(saxpy)", "drv.program(saxpy, rf10)").replace("rf10)", "RF10)")
    found = port(text, name)
    notes = [note for _, note in found.notes]
    if name == "old_v6":  # the stream is passed as what a helper returns
        assert set(notes) == {"a uniform stream by address: pass its buffer"}
    else:
        assert not notes
    monkeypatch.setenv("QPU_DEVICE", board)
    text = found.text
    if name == "old_v7":
        text = text.replace("assemble(saxpy, RF10", "assemble(lambda q: saxpy(q, q.rf[10])")
    run(text, name)


SHORT = '''
from videocore.assembler import qpu, print_qhex
@qpu
def f(asm, n):
    """Doc."""
    iadd(r0, r0,  # why
         r1)
    ldi(ra0, rb0, 1.5, cond='zs')
    fadd(ra1.pack('16a sat'), r0, r1, sig='load tmu0', set_flags=False).fmul(r1, r2, r3, cond='nc')
    for i in range(n):
        asm.isub(r0, r0, 1)
        jnn_like = 1
    rotate(r0, r1, 3)
    jcc_any(L.end)
    nop(); nop(); nop()
    isub(r0, r0, 1)
    mov(r1, r0, cond=n)
    L.end
    setup_dma_load(mode='32bit vertical', Y=16)
    exit(interrupt=False)
'''

PORTED = '''
import qpu
def f(q: qpu.vc4.Asm, n):
    """Doc."""
    q.add(q.r0, q.r0,  # why
         q.r1, push="z")
    q.ldi(q.ra[0], 1.5, dst2=q.rb[0], cond="ifz", cond2="ifz")
    q.fadd(q.ra[1].pack("16as"), q.r0, q.r1, sig=q.ldtmu0).fmul(q.r1, q.r2, q.r3, cond="ifnn")
    for i in range(n):
        q.sub(q.r0, q.r0, 1, push="z")
        jnn_like = 1
    q.rotate(q.r0, q.r1, 3)
    q.b("end", cond="anycc")
    q.nop(); q.nop(); q.nop()
    q.sub(q.r0, q.r0, 1, push="z")
    q.mov(q.r1, q.r0, cond=n, push="z")
    q.label("end")
    q.setup_dma_load(mode='32bit vertical', y=16, nrows=16)
    q.end(interrupt=False)
'''


def test_text_layout_and_what_is_listed() -> None:
    found = port(SHORT, "old.py")
    assert found.text == PORTED
    assert found.notes == ((2, "print_qhex of the old library"), (17, "cond=n"))


def test_the_words_are_the_same_but_for_unread_flags() -> None:
    text = "from videocore.assembler import qpu\n@qpu\ndef f(asm):\n" + "".join(
        f"    {line}\n"
        for line in (
            "imul24(r0, r1, r2)", "mov(r1, -3)", "bxor(r2, r1, r0)", "isub(null, r2, 1)",
            "fmin(r3, r2, 0.5, cond='zc')",
            "jnz_all = 0", "jzs(L.a)", "nop()", "nop()", "nop()", "L.a", "sema_up(3)", "v8adds(r0, r0, r1)",
            "itof(r0, r0).v8min(r1, r2, r3)", "start_dma_store(ra5)", "exit()",
        )
    )  # fmt: skip
    old, new = types.ModuleType("old"), types.ModuleType("new")
    exec(text.replace("videocore.", "qpu.compat.videocore."), vars(old))
    exec(port(text).text, vars(new))
    flag = 1 << 45
    ours = qpu.assemble(new.f, isa="vc4", check=False).words
    theirs = assembler.assemble(old.f)
    words = [int.from_bytes(theirs[i : i + 8], "little") for i in range(0, len(theirs), 8)]
    differ = [i for i, word in enumerate(words) if word != ours[i]]
    assert [words[i] ^ int(ours[i]) for i in differ] == [flag] * len(differ) and len(words) == len(ours)
    assert words[3] == ours[3] and differ, "flags that the condition reads stay"


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = tmp_path / "old.py", tmp_path / "new.py"
    old.write_text(SHORT)
    assert main(["port", str(old), "-o", str(new)]) == 1
    assert new.read_text() == PORTED and f"{old}:17: not translated: cond=n" in capsys.readouterr().err
    old.write_text(SHORT.replace(", print_qhex", "").replace("cond=n", "cond='zs'"))
    assert main(["port", str(old), "-o", str(new)]) == 0
    old.write_text("import numpy\n")
    assert main(["port", str(old)]) == 2
    assert "imports none of videocore, videocore6, videocore7" in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"x\.py:1: "):
        port("print 1", "x.py")
