"""The `Driver` of PyVideoCore on our devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from qpu.compat.devices import Array, BaseDriver, DriverError, words
from qpu.compat.dialect import assembled
from qpu.compat.vc4_words import WORDS
from qpu.core.isa import Isa
from qpu.errors import GpuTimeoutError, UsageError, counted
from qpu.launch import Launch
from qpu.program import Program as Code
from qpu.vc4.launch import Programs

__all__ = ["Array", "Driver", "DriverError", "Program"]


class Program:
    """An assembled program. code: its bytes; size: their number."""

    def __init__(self, code: Code) -> None:
        self.program = code

    @property
    def code(self) -> bytes:
        """The instructions, eight bytes each."""
        return self.program.data

    @property
    def size(self) -> int:
        """Bytes."""
        return 8 * len(self.program)


class Driver(BaseDriver):
    """``with Driver() as drv``: arrays (`alloc`, `copy`, `array`), `program` and `execute`."""

    isa = Isa.VC4

    def __init__(
        self,
        data_area_size: int = 32 * 1024 * 1024,
        code_area_size: int = 1024 * 1024,
        max_threads: int = 1024,
        cache_mode: int | None = None,
        **unused: Any,
    ) -> None:
        super().__init__(data_area_size=data_area_size)
        self.max_threads = max_threads

    def program(self, program: Callable[..., Any] | bytes | Program, *args: Any, **named: Any) -> Program:
        """A program from a builder function under ``@qpu``, or from the bytes of `assemble`. Raises: AsmError."""
        if isinstance(program, Program):
            return program
        if isinstance(program, (bytes, bytearray)):
            return Program(Code.of_words(self.isa, np.frombuffer(program, "<u8").tolist()))
        return Program(assembled(self.isa, WORDS, program, *args, **named))

    def execute(self, n_threads: int, program: Program, uniforms: Any = None, timeout: int = 10_000) -> Launch:
        """Run `program` on `n_threads` QPUs and wait.

        uniforms: a row for all, or a row for each (2-D). timeout: ms. Returns: the launch, with statistics on an
        emulated board. Raises: DriverError when it takes longer; UsageError.
        """
        rows: Any = ()
        shape: Programs | None = Programs(n_threads)
        if uniforms is not None:
            nested = uniforms if isinstance(uniforms, np.ndarray) else np.asarray(list(uniforms), dtype=object)
            if nested.ndim > 1:
                if len(nested) != n_threads:
                    raise UsageError(
                        f"{counted(len(nested), 'row')} of uniforms for n_threads = {n_threads}",
                        help="give one row a thread",
                    )
                rows, shape = [words(row) for row in nested], None
            else:
                rows = words(nested)
        try:
            return self.gpu.run(program.program, rows, shape, timeout_s=timeout / 1000)
        except GpuTimeoutError as error:
            help = "shorten the program, or give more time: timeout=, in milliseconds"
            raise DriverError(f"QPU execution timeout: {error}", help=help) from error
