"""Registers and performance counters of the old libraries: `RegisterMapping` and `PerformanceCounter`."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any, Self

from qpu.compat.devices import BaseDriver
from qpu.core.isa import Isa
from qpu.drivers.counters import COUNTERS, VC4_COUNTERS
from qpu.drivers.vc4.adapter import Vc4Driver
from qpu.drivers.vc4.registers import Reg
from qpu.errors import DriverError, UsageError

__all__ = ["REGISTERS", "PerformanceCounter", "RegisterMapping"]

REGISTERS = {f"V3D_{reg.name}": reg.value for reg in Reg}
"""Offsets in bytes of the registers of VideoCore IV, by PyVideoCore's kind of name."""


class RegisterMapping:
    """The registers of the driver's GPU: ``with RegisterMapping(drv) as regmap``, ``regmap[offset]``.

    VideoCore IV only, as root or on an emulated board. On V3D Linux has the registers, and the mapping serves for
    `PerformanceCounter` alone.
    """

    def __init__(self, driver: BaseDriver) -> None:
        if not isinstance(driver, BaseDriver):
            raise UsageError(
                f"RegisterMapping of a {type(driver).__name__}; allowed: an open Driver",
                help="open it first: with Driver() as drv, RegisterMapping(drv) as regmap",
            )
        self.driver = driver

    def _registers(self, offset: Any) -> Any:
        adapter = self.driver.gpu.driver
        if not isinstance(adapter, Vc4Driver):
            raise DriverError(
                f"registers of {self.driver.isa.label} cannot be read or written: they are Linux's",
                help="count with PerformanceCounter(regmap, ...); `qpu info` has the identity",
            )
        if adapter.registers is None:
            raise DriverError(
                "the registers of VideoCore IV cannot be mapped: this process may not open /dev/mem",
                help="run as root, or on an emulated board: QPU_DEVICE=pi3",
            )
        if offset not in set(Reg) and not (Reg.PCTR0 <= offset < Reg.PCTR0 + 128 and offset % 4 == 0):
            allowed = ", ".join(f"{r:#x} {r.name}" for r in Reg)
            raise UsageError(f"no register at offset {offset!r}; allowed: {allowed}", help="offsets are bytes")
        return adapter.registers

    def __getitem__(self, offset: int) -> int:
        """The register at an offset in bytes, u32. Raises: DriverError, UsageError."""
        return int(self._registers(offset).read(offset))

    def __setitem__(self, offset: int, value: int) -> None:
        """Write the register at an offset in bytes. Raises: DriverError, UsageError."""
        if not 0 <= value < 1 << 32:
            raise UsageError(f"{value:#x} for a register; allowed: 0..0xffffffff", help="mask it to 32 bits")
        self._registers(offset).write(offset, value)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass  # the mapping is the driver's


class PerformanceCounter:
    """Counts of events while the block runs: ``with PerformanceCounter(regmap, [13, 16]) as pctr``, ``pctr.result()``.

    Events are numbers as in the chip's table, or names as in `qpu.drivers.counters`; at most 16 on VideoCore IV, 32 on
    V3D.
    """

    def __init__(self, regmap: RegisterMapping, counters: Iterable[int | str]) -> None:
        driver = regmap.driver
        table = VC4_COUNTERS if driver.isa is Isa.VC4 else COUNTERS[driver.isa]
        self.names: list[str] = []
        for event in counters:
            if not isinstance(event, str) and not 0 <= event < len(table):
                raise UsageError(
                    f"counter {event} of {driver.isa.label}; allowed: 0..{len(table) - 1}, or a name",
                    help="`qpu.drivers.counters` has the names in the order of their numbers",
                )
            self.names.append(event if isinstance(event, str) else table[event])
        self._gpu = driver.gpu
        self._stack = ExitStack()
        self._counted = dict.fromkeys(self.names, 0)
        self._values: dict[str, int] | None = None  # while counting; filled when it stops

    def _start(self) -> None:
        self._values = self._stack.enter_context(self._gpu.counters(*self.names))

    def _stop(self) -> None:
        values, self._values = self._values, None
        self._stack.close()
        for name, value in (values or {}).items():
            self._counted[name] += value

    def result(self) -> list[int]:
        """Counts since the begin of the block or the last `clear`, in the order of the events; waits for launches."""
        if self._values is not None:
            self._stop()
            self._start()
        return [self._counted[name] for name in self.names]

    def clear(self) -> None:
        """Count from zero again."""
        self.result()
        self._counted = dict.fromkeys(self.names, 0)

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop()
