"""Performance monitors of the DRM v3d adapter: counters by name (drivers.md 1.3 and 3)."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from qpu.core.isa import Isa
from qpu.drivers.counters import COUNTERS, counter_ids
from qpu.drivers.drm.calls import Calls
from qpu.drivers.errors_table import fault
from qpu.drivers.uapi import drm
from qpu.drivers.uapi.drm import Param
from qpu.errors import UsageError

__all__ = ["Perfmons"]


class Perfmons:
    """The performance monitors of one adapter; one of them is active at a time."""

    def __init__(self, calls: Calls, isa: Isa, params: Mapping[Param, int], wait: Callable[[int], None]) -> None:
        """params: GET_PARAM values. wait: waits for the jobs that a monitor counts.

        active: id of the monitor that counts the next jobs, 0 for none.
        """
        self._calls = calls
        self._isa = isa
        self._params = params
        self._wait = wait
        self._names: tuple[str, ...] | None = None
        self.active = 0

    def _call(self, name: str, detail: str = "", **values: int | tuple[int, ...]) -> bytearray:
        try:
            return self._calls.request(name, **values)
        except OSError as error:
            raise fault("unexpected", self._calls.what(name), error.errno, detail) from error

    def names(self) -> tuple[str, ...]:
        """Names by id: those that Linux reports (6.11 and newer), else the known ones."""
        if self._names is None:
            count = self._params.get(Param.MAX_PERF_COUNTERS)
            if count is None:
                # Older versions of Linux check ids against the number of 4.2 counters on 7.1 too.
                self._names = COUNTERS[self._isa][: drm.PERFCNT_NUM]
            else:
                self._names = tuple(self._name(i) for i in range(count))
        return self._names

    def _name(self, index: int) -> str:
        call = "DRM_IOCTL_V3D_PERFMON_GET_COUNTER"
        raw = self._calls.layout(call).get(self._call(call, counter=index), "name")
        assert isinstance(raw, bytes)
        return raw.partition(b"\0")[0].decode("ascii", "replace")

    @contextmanager
    def counting(self, names: Sequence[str]) -> Iterator[dict[str, int]]:
        """Count events of the jobs submitted inside the block; its end fills the dictionary, unless by an error.

        names: up to 32 of `names`. The end of the block waits for those jobs. The hardware counts in 32 bits and
        Linux accumulates at job switches, so that a job longer than 2**32 cycles wraps.
        Raises: UsageError for a wrong name, DriverError where Linux has no counters.
        """
        self._calls.usable()
        if self.active:
            raise UsageError("counters are being read already on this device", help="name all counters in one block")
        if not self._params.get(Param.SUPPORTS_PERFMON):
            raise fault("old-linux", f"{self._calls.node}: performance counters (Linux 5.15 and newer)")
        ids = counter_ids(names, self.names(), drm.MAX_PERFMON_COUNTERS)
        create = "DRM_IOCTL_V3D_PERFMON_CREATE"
        arg = self._call(create, f"counters {ids}", ncounters=len(ids), counters=tuple(ids))
        perfmon = self.active = self._calls.layout(create).number(arg, "id")
        values: dict[str, int] = {}
        try:
            yield values
            self._wait(perfmon)
            counted = array("Q", bytes(8 * len(ids)))
            self._call("DRM_IOCTL_V3D_PERFMON_GET_VALUES", id=perfmon, values_ptr=counted.buffer_info()[0])
            values.update(zip(names, counted.tolist(), strict=True))
        finally:
            self.active = 0
            self._destroy(perfmon)

    def _destroy(self, perfmon: int) -> None:
        if self._calls.closed:
            return  # destroyed with the file
        try:
            self._calls.request("DRM_IOCTL_V3D_PERFMON_DESTROY", id=perfmon)
        except OSError:
            pass  # destroyed with the file at the latest
