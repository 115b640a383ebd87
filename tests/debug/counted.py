"""A plugin of pytest: counts the different programs that the tests of a run launch under the sanitizer.

QPU_TEST_COUNT names the file to which the numbers go, as JSON: instruction set -> programs.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from qpu.core.code import Code
from qpu.drivers.base import DeviceInfo, Job
from qpu.emu.engines import observer_of_environment, watching
from qpu.runtime.jobs import OBSERVERS, JobObserver
from qpu.runtime.pool import MemoryPool


class Counted(JobObserver):
    """The programs that ran under an observer."""

    def __init__(self) -> None:
        self.programs: set[tuple[str, tuple[int, ...]]] = set()

    def submitted(self, pool: MemoryPool, info: DeviceInfo, program: Code, job: Job) -> None:
        """See `qpu.runtime.jobs.JobObserver`."""
        if info.emulated is not None and watching(observer_of_environment()) is not None:
            self.programs.add((program.isa.value, tuple(program.code)))


COUNTED = Counted()


def pytest_configure(config: pytest.Config) -> None:
    """Count from now on."""
    OBSERVERS.append(COUNTED)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Write the numbers."""
    OBSERVERS.remove(COUNTED)
    numbers = Counter(isa for isa, _ in COUNTED.programs)
    Path(os.environ["QPU_TEST_COUNT"]).write_text(json.dumps(numbers))
