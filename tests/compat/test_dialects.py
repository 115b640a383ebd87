# ruff: noqa: F821
# mypy: disable-error-code="name-defined"
"""Tests of `qpu.compat.videocore`, `.videocore6`, `.videocore7`: old programs with changed imports."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import qpu
from qpu.compat.devices import DriverError, words
from qpu.compat.dialect import CompatWarning
from qpu.compat.tables import VC4_ADD, VC4_BRANCHES, VC4_MUL, VC4_REGISTERS, VC4_SIGNALS
from qpu.compat.videocore import assembler as vc4
from qpu.compat.videocore import driver as vc4_driver
from qpu.compat.videocore6 import assembler as v6
from qpu.compat.videocore7 import assembler as v7
from qpu.errors import AsmError, UsageError
from tests.emu.process.emulate_rig import ROOT, emulate, ok

HERE = Path(__file__).parent


@pytest.mark.parametrize(
    ("name", "board"), [("old_vc4", "pi3"), ("old_v6", "pi4"), ("old_v7", "pi5"), ("old_v7_wide", "pi5")]
)
@pytest.mark.filterwarnings("error::qpu.compat.dialect.CompatWarning")
def test_programs_run_with_changed_imports(
    name: str, board: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("QPU_DEVICE", board)
    importlib.import_module(f"tests.compat.{name}").main()
    assert capsys.readouterr().out == "ok\n"


def test_the_driver_goes_through_linux(tmp_path: Path) -> None:
    """The old program with its old imports and without its library, on an emulated board below Linux's interfaces."""
    text = (HERE / "old_vc4.py").read_text().replace("qpu.compat.videocore", "videocore")
    done = emulate(tmp_path, text, board="pi3,bits=32", options=("--compat",), prelude=False)
    assert ok(done) == "ok\n" and "emulated Pi" not in done.stderr


def test_no_gpu_of_that_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QPU_DEVICE", "pi5")
    with pytest.raises(UsageError, match=r"QPU_DEVICE=pi5 has V3D 7\.1, this program is for VideoCore IV"):
        vc4_driver.Driver()
    monkeypatch.delenv("QPU_DEVICE")
    done = subprocess.run(
        [sys.executable, "-c", "from qpu.compat.videocore6 import Driver; Driver(data_area_size=4096).close()"],
        capture_output=True, text=True, cwd=ROOT, check=True,
    )  # fmt: skip
    assert "using an emulated Pi 4" in done.stderr


@pytest.mark.filterwarnings("ignore::qpu.compat.dialect.CompatWarning")
def test_errors_name_the_line() -> None:
    @vc4.qpu
    def bad(asm: object) -> None:
        fadd(r0, r1, r2, cond="zz")
        nop(sig="load tmu2")
        mov(ra0, 100)

    with pytest.raises(AsmError) as caught:
        vc4.assemble(bad)
    text = str(caught.value)
    for part in (
        'fadd(r0, r1, r2, cond="zz")',
        'nop(sig="load tmu2")',
        "mov(ra0, 100)",
        "load tmu0",
        "test_dialects.py",
    ):
        assert part in text


@pytest.mark.filterwarnings("ignore::qpu.compat.dialect.CompatWarning")
def test_names_are_the_modules_again_afterwards() -> None:
    global nop
    nop = "mine"

    @v7.qpu
    def end(asm: object) -> None:
        nop(sig=thrsw)

    assert len(v7.assemble(end)) == 1
    assert nop == "mine" and "thrsw" not in globals()
    del nop


def test_words_outside_of_a_program() -> None:
    with pytest.raises(UsageError, match="outside of a program"):
        vc4.fadd(vc4.r0, vc4.r1, vc4.r2)
    assert {"fadd", "rf63", "L", "qpu"} <= set(v6.__all__) & set(v7.__all__) and "r0" in v6.__all__
    assert not {"max", "min", "isa", "label"} & set(v6.__all__)


@pytest.mark.filterwarnings("ignore::qpu.compat.dialect.CompatWarning")
def test_flags_of_the_add_alu_are_the_default() -> None:
    @vc4.qpu
    def flags(asm: object) -> None:
        iadd(r0, r0, r1)
        iadd(r0, r0, r1, set_flags=False).fmul(r2, r0, r1)
        fmul(r0, r0, r1)
        fmul(r0, r0, r1, set_flags=True)
        nop()
        ldi(r0, 1)

    def ours(q: qpu.vc4.Asm) -> None:
        q.add(q.r0, q.r0, q.r1, push="z")
        q.add(q.r0, q.r0, q.r1).fmul(q.r2, q.r0, q.r1)
        q.fmul(q.r0, q.r0, q.r1)
        q.fmul(q.r0, q.r0, q.r1, push="z")
        q.nop()
        q.ldi(q.r0, 1)

    assert vc4.assemble(flags) == qpu.assemble(ours, isa="vc4", check=False).data


def test_every_word_is_known_to_the_builder() -> None:
    for name in (*VC4_ADD.values(), *VC4_MUL.values(), *VC4_REGISTERS, *filter(None, VC4_SIGNALS.values())):
        assert hasattr(qpu.vc4.Asm, name), name
    assert VC4_BRANCHES["jzc"] == "allnz" and VC4_BRANCHES["jnc_any"] == "anynn" and VC4_BRANCHES["jcc"] == "allcc"


def test_a_broken_rule_is_a_warning() -> None:
    @vc4.qpu
    def early(asm: object) -> None:
        mov(ra0, r0)
        mov(r1, ra0)
        exit()

    with pytest.warns(CompatWarning, match=r"mov\(r1, ra0\).*: H1 file-read-early"):
        vc4.assemble(early)


def test_uniforms_and_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    assert words([1, -1, 1.0, np.float32(2)]) == [1, 0xFFFFFFFF, 0x3F800000, 0x40000000]
    assert words(np.array([1.5], np.float32)) == [0x3FC00000]
    monkeypatch.setenv("QPU_DEVICE", "pi3")
    with vc4_driver.Driver(data_area_size=4096) as drv:
        x = drv.alloc((4, 4), "float32")
        assert x.address % 64 == 0 and x[1:, 2].address == x.address + 24
        assert x.T.addresses().tolist() == (x.address + 4 * np.arange(16).reshape(4, 4).T).tolist()
        with pytest.raises(AttributeError, match="not in the GPU's memory"):
            _ = (x + 1).address
        with pytest.raises(DriverError, match="the data area is full"):
            drv.alloc(1024, "float64")
        assert drv.array([1, 2], dtype="int32", copy=False).tolist() == [1, 2]
        with pytest.raises(UsageError, match="2 rows of uniforms for n_threads = 3"):
            drv.execute(3, drv.program(bytes(8)), [[1], [2]])
