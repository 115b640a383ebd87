"""Count of the programs that the tests run on each instruction set; printed with ``-s``."""

from __future__ import annotations

import importlib

from tests.emu.v3d.idioms import PROGRAMS

MODULES = ("algorithms", "arithmetic", "atomics", "branches", "control", "exchange", "loops", "patterns", "programs")


def test_at_least_sixty_programs_on_each_instruction_set() -> None:
    for name in (*MODULES, "threads", "vectors"):
        importlib.import_module(f"tests.emu.v3d.test_{name}")
    for isa, names in PROGRAMS.items():
        print(f"{isa}: {len(names)} programs")
        assert len(names) >= 60, sorted(names)
