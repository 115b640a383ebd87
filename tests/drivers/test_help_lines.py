"""Tests that every error of the package and every problem that doctor finds has help, and how messages count."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import qpu
from qpu.drivers import doctor, probe
from qpu.drivers.port import Port
from qpu.emu.port import EmuPort
from qpu.errors import counted
from tests.drivers.fakes import FakePort

PACKAGE = Path(qpu.__file__).parent
ERRORS = {"UsageError", "DriverError", "GpuTimeoutError", "GpuResetError", "NoDeviceError", "EmuFault"}
# Errors made from an error or a row that has its help: errors_table.fault, no_device and reason_of, a part's reset.
FROM_ROWS = {
    ("errors_table.py", "no_device"), ("vcsm.py", "open_memory"), ("adapter.py", "_execute"), ("fences.py", "wait"),
    ("arguments.py", "refusal"),
}  # fmt: skip


def without_help(path: Path) -> Iterator[str]:
    """Places where an error is made without ``help=`` or a help line."""
    text = path.read_text()
    if not any(f"{name}(" in text for name in ERRORS):
        return
    nodes = list(ast.walk(ast.parse(text)))
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
    for call in nodes:
        if not isinstance(call, ast.Call) or getattr(call.func, "id", "") not in ERRORS:
            continue
        names = {node.id for node in ast.walk(call) if isinstance(node, ast.Name)}
        around = {f.name for f in functions if f.lineno <= call.lineno <= (f.end_lineno or 0)}
        from_row = any((path.name, name) in FROM_ROWS for name in around)
        if not from_row and "HELP" not in names and not any(k.arg == "help" for k in call.keywords):
            yield f"{path.relative_to(PACKAGE)}:{call.lineno}: {ast.unparse(call)}"


def test_every_error_has_a_help_line() -> None:
    paths = [path for path in sorted(PACKAGE.rglob("*.py")) if "generated" not in path.parts]
    assert [place for path in paths for place in without_help(path)] == []


@pytest.mark.parametrize(
    "port",
    [
        FakePort(nodes={}),
        FakePort(nodes={}, files={"/proc/device-tree/compatible": b"raspberrypi,4-model-b\0brcm,bcm2711\0"}),
        FakePort(nodes={}, files={"/proc/device-tree/compatible": b"raspberrypi,3-model-b\0brcm,bcm2837\0"}),
        EmuPort("pi3,deny=1"),
        EmuPort("pi3,kms=1"),
        EmuPort("pi3,vcsm=none"),
        EmuPort("pi5,deny=1"),
    ],
    ids=["computer", "pi4", "pi3", "pi3,deny=1", "pi3,kms=1", "pi3,vcsm=none", "pi5,deny=1"],
)
def test_every_problem_of_the_doctor_has_help(port: Port) -> None:
    found = [c for c in doctor.examine(port).checks if c.status in (doctor.Status.WARN, doctor.Status.FAIL)]
    assert all(check.helps for check in found), found
    assert found or port.emulated is not None or not probe.detect_board(port).is_pi


COUNTED = re.compile(
    r"\{[^{}]+\} (uniforms|arguments|instructions|axes|elements|items|launches|programs|bytes (past|before|into))\b"
)


def counts_by_hand(path: Path) -> Iterator[str]:
    """Lines with a value before a noun in the plural, which would say "1 uniforms"; constants may."""
    for n, line in enumerate(path.read_text().splitlines(), 1):
        found = COUNTED.search(line)
        if found is not None and not re.search(r"[A-Z]{3}", found[0]):
            yield f"{path.relative_to(PACKAGE)}:{n}: {line.strip()}"


def test_messages_count_in_one_way() -> None:
    """Numbers of things are written by `qpu.errors.counted`."""
    assert [counted(n, noun) for n, noun in ((1, "byte"), (0, "axis"), (2, "index"), (3, "entry"), (2, "launch"))] == [
        "1 byte", "0 axes", "2 indices", "3 entries", "2 launches",
    ]  # fmt: skip
    paths = [path for path in sorted(PACKAGE.rglob("*.py")) if "uapi" not in path.parts]
    assert [place for path in paths for place in counts_by_hand(path)] == []
