"""What arrays look like, and reports of the kernels behind them."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from qpu.array.array import Array, provides
from qpu.errors import counted

if TYPE_CHECKING:
    from qpu.lang.launch import Plan

__all__ = ["explain", "html", "text"]

SHOWN = 1000  # elements up to which all are shown


def _values(x: Array) -> str:
    """The values as NumPy prints them; of long arrays only the ends are read."""
    view = x._node.view()
    with np.printoptions(threshold=SHOWN, edgeitems=3):
        return np.array2string(view, separator=", ")


def _head(x: Array) -> str:
    info = x.device.info
    where = info.emulated or info.board
    return f"{x.dtype.name}{list(x.shape)} on {where}"


@provides("text")
def text(x: Array) -> str:
    """Values, dtype, shape and device; what is not computed yet is computed."""
    if x._memory.pool.closed:
        return f"<Array {x.dtype.name}{list(x.shape)} of a closed device>"
    shape = "" if x.size else f", shape={x.shape}"
    return f"Array({_values(x)}, dtype={x.dtype.name}{shape}, device={_device(x)})"


def _device(x: Array) -> str:
    info: Any = x.device.info
    return str(info.emulated or info.board)


@provides("html")
def html(x: Array) -> str:
    """A small table for notebooks: shape, dtype, device, values."""
    if x._memory.pool.closed:
        return f"<pre>{escape(text(x))}</pre>"
    rows = {
        "shape": str(x.shape),
        "dtype": x.dtype.name,
        "device": f"{_device(x)}{' (emulated)' if x.device.emulated else ''}",
    }
    cells = "".join(f"<tr><th>{k}</th><td>{escape(v)}</td></tr>" for k, v in rows.items())
    return f"<table>{cells}</table><pre>{escape(_values(x))}</pre>"


@provides("explain")
def explain(x: Array) -> str:
    """The fused kernels that computing an array launches, with what each costs. The array is computed."""
    memory = x._memory
    node = x._node
    if not node.op:
        return f"{_head(x)}: in memory, nothing to compute"
    seen: list[tuple[Plan, dict[str, int]]] = []

    def listen(plan: Plan, numbers: dict[str, int]) -> None:
        seen.append((plan, dict(numbers)))

    memory.listening.append(listen)
    try:
        x.evaluate()
    finally:
        memory.listening.remove(listen)
    launches = counted(len(seen), "launch")
    rows = [f"{_head(x)}: {launches}"]
    for n, (plan, numbers) in enumerate(seen, 1):
        items = numbers["n"] * numbers.get("rows", 1)
        rows.append(f"{n}. {plan.title}: {counted(items, 'item')}")
        report = plan.compiled.explain().splitlines()
        table = next((n for n, line in enumerate(report) if line.split()[:1] == ["line"]), len(report))
        rows += [f"   {line}" for line in report[:table]]  # no table of lines: there is no source
    return "\n".join(rows)
