"""Test of rule identifiers: each that the emulator reports is a row of the checker's table, or is listed here."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from qpu.v3d.rules import RULES as V3D
from qpu.vc4.rules import RULES as VC4

EMU = Path(__file__).parents[2] / "qpu" / "emu"
_ID = re.compile(r"H\d+|[a-z]+(-[a-z0-9]+)*")
# Functions and classes that take a rule among their first three arguments.
_REPORTS = {"fault", "hazard", "warn", "report", "rule", "Issue", "EmuFault", "Concern", "TextureError", "_tell"}

# Findings that need an execution, or that concern launches: identifiers without a row of the checker.
OWN = {
    "v3d": {
        # memory and control flow
        "branch-misaligned", "code-out-of-bounds", "deadlock", "misaligned", "out-of-bounds", "uniforms-from-link",
        # dispatches and engines
        "dispatch", "interrupted", "register-range",
        # instructions without a known meaning in a compute program
        "graphics", "rotate", "same-destination", "syncu", "texture",
        # counts that depend on configuration words
        "barrier-tmu", "tmu-data", "tmu-data-overflow", "tmu-empty", "tmu-overflow", "tmu-request", "tmu-unpopped",
    },
    "vc4": {
        # memory and control flow
        "branch-lane", "branch-link", "breakpoint", "deadlock", "endless-loop", "no-uniforms", "out-of-bounds",
        "unaligned-code", "uniforms-end", "uniforms-relative", "uniforms-unaligned",
        # instructions without a known meaning in a user program
        "add-nop-write", "graphics-register", "graphics-signal", "scoreboard", "thread-switch", "unassigned-read",
        "unpack-input",
        # units
        "dma-misaligned", "mutex-held", "mutex-not-held", "texture-coordinate", "texture-setup", "texture-uncertain",
        "texture-unsupported", "tmu-component-twice", "tmu-empty", "tmu-noswap-busy", "tmu-overflow",
        "tmu-uncollected", "vpm-dma-column", "vpm-dma-laned", "vpm-dma-offset", "vpm-dma-row", "vpm-empty",
        "vpm-no-setup", "vpm-reserved", "vpm-row", "vpm-setup",
    },
}  # fmt: skip
RULES = {"v3d": V3D, "vc4": VC4}
FAMILY = pytest.mark.parametrize("family", ["v3d", "vc4"])


def _text(node: ast.AST) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def used(path: Path) -> set[str]:
    """Identifiers of rules in a module: arguments of reports, first halves of (rule, message)."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in _REPORTS:
                found.update([t for t in map(_text, node.args[:3]) if _ID.fullmatch(t)][:1])
        elif isinstance(node, ast.Tuple) and len(node.elts) >= 2:
            rule, message = node.elts[:2]
            if _ID.fullmatch(_text(rule)) and (isinstance(message, ast.JoinedStr | ast.Call) or " " in _text(message)):
                found.add(_text(rule))
    return found


@FAMILY
def test_every_rule_of_the_emulator_has_one_name(family: str) -> None:
    found = {rule: path.name for path in sorted((EMU / family).glob("*.py")) for rule in used(path)}
    strange = {rule: name for rule, name in found.items() if rule not in RULES[family] and rule not in OWN[family]}
    assert not strange, "neither a row of the checker's table nor listed as the emulator's own"
    assert len(found) > 20


@FAMILY
def test_what_is_listed_is_used(family: str) -> None:
    source = "".join(path.read_text() for path in (EMU / family).glob("*.py"))
    assert not {rule for rule in OWN[family] if f'"{rule}"' not in source}
    assert OWN[family].isdisjoint(RULES[family])


def test_the_search_finds_reports() -> None:
    assert used(EMU / "v3d" / "services.py") >= {"tmu-request", "tmu-pending", "unifa-early"}
    assert used(EMU / "vc4" / "tmu.py") >= {"H10", "H26", "tmu-empty"}
