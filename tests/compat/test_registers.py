# ruff: noqa: F821
# mypy: disable-error-code="name-defined"
"""Tests of `RegisterMapping` and `PerformanceCounter` of the old libraries."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from qpu.compat.videocore import v3d
from qpu.compat.videocore.assembler import qpu
from qpu.compat.videocore.driver import Driver
from qpu.drivers.counters import COUNTERS, VC4_COUNTERS
from qpu.errors import DriverError, UsageError
from tests.compat import old_v6, old_v7

INSTRUCTIONS = "QPU-total-clk-cycles-executing-valid-instr"
WAITING = "QPU-total-clk-cycles-waiting-TMU"


@qpu
def short(asm: Any) -> None:
    nop()
    exit()


def test_registers_and_counts_of_videocore_iv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QPU_DEVICE", "pi3")
    number = VC4_COUNTERS.index(INSTRUCTIONS)
    with Driver() as drv, v3d.RegisterMapping(drv) as regmap:
        assert regmap[v3d.V3D_IDENT0] == 0x02443356  # type: ignore[attr-defined]
        code = drv.program(short)
        with v3d.PerformanceCounter(
            regmap, [number, INSTRUCTIONS.replace("executing-valid-instr", "waiting-TMU")]
        ) as c:
            assert c.result() == [0, 0]
            drv.execute(n_threads=1, program=code)
            once = c.result()[0]
            drv.execute(n_threads=1, program=code)
            assert c.result()[0] == 2 * once > 0
            c.clear()
            assert c.result() == [0, 0]
            drv.execute(n_threads=1, program=code)
        assert c.result()[0] == once
        with pytest.raises(UsageError, match=r"no register at offset 3; allowed: 0x0 IDENT0"):
            regmap[3]
        with pytest.raises(UsageError, match=r"counter 30 of VideoCore IV; allowed: 0\.\.29"):
            v3d.PerformanceCounter(regmap, [30])
        with pytest.raises(UsageError, match=r"allowed: 0\.\.0xffffffff"):
            regmap[0x10] = 1 << 32
        regmap[0x670] = 0xFFFF
        monkeypatch.setattr(drv.gpu.driver, "registers", None)
        with pytest.raises(DriverError, match="may not open /dev/mem"):
            regmap[0]
    with pytest.raises(UsageError, match="RegisterMapping of a int"):
        v3d.RegisterMapping(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("library", "end", "board"),
    [("videocore6", old_v6.exit_qpu, "pi4"), ("videocore7", old_v7.qpu_exit, "pi5")],
)
def test_counts_of_v3d(library: str, end: Any, board: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QPU_DEVICE", board)
    module = importlib.import_module(f"qpu.compat.{library}.v3d")
    old = importlib.import_module(f"qpu.compat.{library}")

    with old.Driver(data_area_size=1 << 16) as drv, module.RegisterMapping(drv) as regmap:
        code = drv.program(end)
        with module.PerformanceCounter(regmap, [COUNTERS[drv.isa].index("cycle-count")]) as c:
            drv.execute(code)
            assert c.result()[0] > 0
        with pytest.raises(DriverError, match="cannot be read or written: they are Linux's"):
            regmap[0]
