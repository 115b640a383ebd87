"""Expressions as text, for reports and errors, and the lines of a program that built them."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType
from typing import Any, Final

from qpu.array.emit import Group
from qpu.errors import EmuFault
from qpu.launch import Run

__all__ = ["Located", "caller", "formula"]

INFIX: Final = {
    "add": "+", "subtract": "-", "multiply": "*", "divide": "/", "floor_divide": "//", "remainder": "%", "pow": "**",
    "equal": "==", "not_equal": "!=", "less": "<", "less_equal": "<=", "greater": ">", "greater_equal": ">=",
    "bitwise_and": "&", "bitwise_or": "|", "bitwise_xor": "^", "logical_and": "&", "logical_or": "|",
}  # fmt: skip
MOST: Final = 120  # characters
HERE: Final = str(Path(__file__).parent.parent)


def formula(group: Group) -> str:
    """What a kernel computes: x0, x1, ... are arrays that it reads, s0, s1, ... numbers, y0, y1, ... its results."""
    texts = [f"x{n}" for n in range(len(group.leaves))] + [f"s{n}" for n in range(len(group.scalars))]
    for step in group.steps:
        args = [texts[a] for a in step.args]
        if step.op in INFIX and len(args) == 2:
            text = f"({args[0]} {INFIX[step.op]} {args[1]})"
        elif step.op == "power":
            text = f"{args[0]}**{step.attr}"
        elif step.op == "gather":
            text = f"{args[0]}[{_bare(args[1])}]"
        else:
            name = step.op
            if name == "reduce" and group.reduction is not None:
                name = group.reduction.op
            elif name == "astype":
                name = step.dtype
            text = f"{name}({', '.join(_bare(a) for a in args)})"
        texts.append(text)
    found = [_bare(texts[o.value]) for o in group.outputs]
    text = found[0] if len(found) == 1 else "; ".join(f"y{n} = {t}" for n, t in enumerate(found))
    return text if len(text) <= MOST else f"{text[: MOST - 4]} ..."


def _bare(text: str) -> str:
    """Without parentheses around the whole."""
    if not (text.startswith("(") and text.endswith(")")):
        return text
    depth = 0
    for n, c in enumerate(text):
        depth += (c == "(") - (c == ")")
        if not depth:
            return text[1:-1] if n == len(text) - 1 else text
    return text


def caller() -> str:
    """File and line of the program that called this package."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(HERE):
        frame = frame.f_back
    return "" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"


class Located:
    """A launch whose faults name the expression, and the lines at which its indices were given."""

    def __init__(self, run: Run, what: str, sites: tuple[str, ...]) -> None:
        self.run, self.what, self.sites = run, what, sites

    def wait(self) -> Any:
        """Wait for it. Raises: as the launch."""
        try:
            return self.run.wait()
        except EmuFault as error:
            note(error, self.what, self.sites)
            raise


def note(error: EmuFault, what: str, sites: tuple[str, ...]) -> None:
    """Say in a fault which expression it was."""
    lines = "".join(f"\n  indexed at {site}" for site in dict.fromkeys(sites))
    error.add_note(f"  in the expression {what}{lines}")
