"""Launches that belong together: submitted in order, with scratch memory that lives until all have ended."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from qpu.errors import CompileError, UsageError
from qpu.kernels.common.operands import integer, real, switch
from qpu.launch import Launch, Run

if TYPE_CHECKING:
    from qpu.buffers import Buffer
    from qpu.core.code import Code
    from qpu.device import Device
    from qpu.lang.entry import Kernel

__all__ = ["Jobs", "entry"]

P = ParamSpec("P")
R = TypeVar("R")


CHECKS: Final = {"bool": switch, "float": real, "int": integer}
"""What a parameter with this annotation has to be."""


def entry(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator of functions that users call: refusals point to the caller's line, not into the library.

    Parameters that are annotated as bool, float or int are checked here, so that an error names this function.
    """
    code, given = getattr(function, "__code__"), function.__annotations__  # noqa: B009  (mypy: a Callable has none)
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    checks = [(n, name, CHECKS[given[name]]) for n, name in enumerate(names) if given.get(name) in CHECKS]
    plain: Callable[..., R] = function
    where = f"{getattr(function, '__name__')}: "  # noqa: B009

    @functools.wraps(function)
    def called(*args: P.args, **keywords: P.kwargs) -> R:
        values: list[Any] = list(args)
        try:
            for n, name, check in checks:
                if n < len(values):
                    values[n] = check(name, values[n], where)
                elif name in keywords:
                    keywords[name] = check(name, keywords[name], where)
            return plain(*values, **keywords)
        except (CompileError, UsageError) as error:
            raise error.with_traceback(None) from error.__cause__

    return called


class Jobs:
    """The launches of one call of the library. A context manager, which closes the scratch memory.

    ``with Jobs(gpu) as jobs: t = jobs.scratch(n); jobs.add(first, x, t); jobs.add(second, t, y); return jobs.run()``
    """

    def __init__(self, gpu: Device) -> None:
        self.gpu = gpu
        self._launches: list[Launch] = []
        self._scratch: list[Buffer] = []

    def __enter__(self) -> Jobs:
        return self

    def __exit__(self, *_: object) -> None:
        for launch in self._launches:
            if not launch.done and launch.error is None:
                launch.wait()
        for buffer in self._scratch:
            buffer.close()

    def scratch(self, shape: int | tuple[int, ...], dtype: DTypeLike = np.float32) -> Buffer:
        """Memory for results of one launch that the next one reads."""
        buffer = self.gpu.empty(shape, dtype)
        self._scratch.append(buffer)
        return buffer

    def constant(self, data: Any) -> Buffer:
        """An array of the host on the device, until the jobs are done."""
        buffer = self.gpu.array(data)
        self._scratch.append(buffer)
        return buffer

    def add(self, kernel: Kernel, *args: Any, workers: int | None = None, **consts: Any) -> None:
        """Submit a kernel after the launches so far."""
        how = kernel if workers is None else kernel.on(self.gpu, workers=workers)
        self._launches.extend(how.submit(*args, **consts).launches)

    def start(self, program: Code, rows: Sequence[NDArray[np.uint32]]) -> None:
        """Submit a program of VideoCore IV after the launches so far, with a parameter stream for each QPU."""
        self._launches.append(self.gpu.submit(program, rows))

    def take(self, run: Run) -> None:
        """Launches that something else has submitted."""
        self._launches.extend(run.launches)

    def run(self) -> Run:
        """Wait for all of them."""
        for launch in self._launches:
            launch.wait()
        return Run(tuple(self._launches))
