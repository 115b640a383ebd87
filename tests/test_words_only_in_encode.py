"""Test that only one module of each family, its `encode`, assembles instruction words from fields.

A walk over the syntax trees finds expressions that put a field into a 64-bit word: something shifted left by a constant
of 32 or more, a field of a layout (`Field.put`), and bits joined to a word of nop bits.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ENCODERS = {"qpu/v3d/encode.py", "qpu/vc4/encode.py"}
OTHER = {
    "qpu/core/bits.py": "the layouts themselves",
    "qpu/drivers/vc4/mailbox.py": "joins two words of a mailbox reply",
    "qpu/debug/watch_v3d.py": "joins the two halves of a word in memory",
    "qpu/emu/engine/numpy_lanes.py": "builds binary64 powers of two",
    "qpu/emu/v3d/reference.py": "joins the two halves of a word in memory",
    "qpu/emu/v3d/services.py": "joins the two halves of a word in memory",
    "qpu/formats.py": "joins the two halves of a word in a file",
}


def assembles(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, what) of every expression that puts a field into an instruction word."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.BinOp, ast.AugAssign)) and isinstance(node.op, ast.LShift):
            value, by = (node.left, node.right) if isinstance(node, ast.BinOp) else (node.target, node.value)
            far = isinstance(by, ast.Constant) and isinstance(by.value, int) and 32 <= by.value < 64
            if far and not isinstance(value.operand if isinstance(value, ast.UnaryOp) else value, ast.Constant):
                yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr == "put" and len(node.args) == 1 and not node.keywords:
                yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            for side in (node.left, node.right):
                name = side.id if isinstance(side, ast.Name) else side.attr if isinstance(side, ast.Attribute) else ""
                if name.upper().strip("_").startswith("NOP"):
                    yield node.lineno, ast.unparse(node)


def found() -> dict[str, list[tuple[int, str]]]:
    out: dict[str, list[tuple[int, str]]] = {}
    for path in sorted((ROOT / "qpu").rglob("*.py")):
        hits = list(assembles(ast.parse(path.read_text(encoding="utf-8"))))
        if hits:
            out[path.relative_to(ROOT).as_posix()] = hits
    return out


def test_words_are_assembled_by_the_encoders_only() -> None:
    packing = found()
    others = {name: hits for name, hits in packing.items() if name not in ENCODERS | set(OTHER)}
    assert not others, others
    assert set(packing) >= ENCODERS


@pytest.mark.parametrize(
    ("code", "count"),
    [
        ("word = dst.n << 38", 1),
        ("half |= sig << 53 | cond << 46", 2),
        ("word = FIELD.put(3)", 1),
        ("word = NOP_WORD | field", 1),
        ("word = q._nop | bits", 1),
        ("limit = 1 << 64", 0),
        ("bit = 1 << 45", 0),
        ("x = n << 12 | m << 18", 0),
    ],
)
def test_what_counts_as_assembling(code: str, count: int) -> None:
    assert len(list(assembles(ast.parse(code)))) == count
