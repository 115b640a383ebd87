"""The `Driver` of py-videocore6 and py-videocore7 on our devices."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, TextIO

import numpy as np

from qpu.compat.devices import Array, BaseDriver, DriverError
from qpu.compat.dialect import CompatWarning, assembled
from qpu.launch import Launch
from qpu.program import Program
from qpu.v3d.launch import MAX_GROUPS_PER_SUPERGROUP, Dispatch

__all__ = ["Array", "DriverError", "V3dDriver"]


class _Dispatcher:
    """What ``compute_shader_dispatcher`` gives: launches that run one after another."""

    def __init__(self, driver: V3dDriver, timeout_sec: float) -> None:
        self._driver = driver
        self._timeout = timeout_sec
        self.launches: list[Launch] = []

    def dispatch(self, code: Array, uniforms: Any = None, **named: Any) -> None:
        """Start a launch; arguments as of `V3dDriver.execute`."""
        self.launches.append(self._driver._submit(code, uniforms, timeout_sec=self._timeout, **named))

    def wait(self) -> None:
        """Wait for all of them."""
        for launch in self.launches:
            launch.wait(self._timeout)


class V3dDriver(BaseDriver):
    """``with Driver() as drv``: arrays (`alloc`), `program` and `execute`."""

    words: ClassVar[Mapping[str, Any]]

    def __init__(
        self, *, code_area_size: int = 1024 * 1024, data_area_size: int = 32 * 1024 * 1024, **unused: Any
    ) -> None:
        super().__init__(data_area_size=data_area_size)
        self._programs: dict[int, Program] = {}  # by address

    def program(self, prog: Callable[..., Any], *args: Any, **named: Any) -> Array:
        """The words of a builder function under ``@qpu``, in the data area. Raises: AsmError."""
        made = assembled(self.isa, self.words, prog, *args, **named)
        code = self.alloc(len(made), np.uint64)
        code[...] = made.words
        self._programs[code.address] = made
        return code

    def dump_program(self, prog: Callable[..., Any], *args: Any, file: TextIO | None = None, **named: Any) -> None:
        """Print the words of a program, one a line."""
        for word in assembled(self.isa, self.words, prog, *args, **named):
            print(f"{word:#018x}", file=file or sys.stdout)

    def execute(
        self,
        code: Array,
        local_invocation: Any = (16, 1, 1),
        uniforms: Any = None,
        timeout_sec: float = 10,
        **named: Any,
    ) -> Launch:
        """Run a program and wait.

        uniforms: the address of a stream, by position also in the second place. local_invocation: items of a workgroup
        in x, y, z. Named: workgroup, their counts; wgs_per_sg, workgroups of a supergroup; thread, batches in all;
        threading, propagate_nan, single_seg. Returns: the launch. Raises: GpuTimeoutError, UsageError, EmuFault.
        """
        if not isinstance(local_invocation, (tuple, list)):
            local_invocation, uniforms = (16, 1, 1), local_invocation
        launch = self._submit(code, uniforms, local_invocation=local_invocation, timeout_sec=timeout_sec, **named)
        launch.wait(timeout_sec)
        return launch

    def _submit(
        self,
        code: Array,
        uniforms: Any = None,
        timeout_sec: float = 10,
        workgroup: tuple[int, int, int] = (16, 1, 1),
        wgs_per_sg: int = 16,
        thread: int = 1,
        local_invocation: tuple[int, int, int] = (16, 1, 1),
        propagate_nan: bool = False,
        single_seg: bool = False,
        threading: bool = False,
    ) -> Launch:
        program = self._programs.get(code.address)
        if program is None or (program.words != code).any():  # made or changed by hand
            program = Program.of_words(self.isa, code.tolist())
        if wgs_per_sg > MAX_GROUPS_PER_SUPERGROUP:
            what = f"wgs_per_sg = {wgs_per_sg} does not fit its four bits; {MAX_GROUPS_PER_SUPERGROUP} is used"
            warnings.warn(CompatWarning(what), stacklevel=3)
        shape = Dispatch(
            workgroups=workgroup,
            workgroup_size=local_invocation[0] * local_invocation[1] * local_invocation[2],
            workgroups_per_supergroup=min(wgs_per_sg, MAX_GROUPS_PER_SUPERGROUP),
            max_supergroup_id=0,
            threads=4 if threading else 2,
            single_segment=single_seg,
            batches=thread,
        )
        stream = () if uniforms is None else self._area.at(int(np.asarray(uniforms).ravel()[0]))
        return self.gpu.submit(program, stream, shape, timeout_s=timeout_sec)

    @contextmanager
    def compute_shader_dispatcher(self, timeout_sec: float = 10) -> Iterator[_Dispatcher]:
        """Launches without waits: ``csd.dispatch(...)``; the end of the block waits for all."""
        found = _Dispatcher(self, timeout_sec)
        yield found
        found.wait()
