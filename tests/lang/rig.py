"""Running kernels in tests: through the KIR interpreter, as plain Python, and on emulated boards."""

from __future__ import annotations

import importlib.util
import linecache
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qpu.emu.engine.numpy_lanes import NumpyLanes
from qpu.lang import lanes_run
from qpu.lang.compile import KernelIR, parameters, to_kir
from qpu.lang.interp import Interpreter
from qpu.lang.source import Source
from qpu.lang.verify import verify_kir

__all__ = ["interpret", "kernel_of", "launch_values", "plain", "script"]

ROOT = Path(__file__).parents[2]


def script(path: str) -> ModuleType:
    """The module of a file of this repository, made with its own folder on the path."""
    file = ROOT / path
    spec = importlib.util.spec_from_file_location(f"{file.parent.name}_{file.stem}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(file.parent))
    try:
        with warnings.catch_warnings():
            spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(file.parent))
    return module


def kernel_of(text: str, name: str = "generated") -> Callable[..., None]:
    """The function that a module's text defines, with its lines where errors look for them."""
    file = f"<generated {abs(hash(text)):x}>"
    linecache.cache[file] = (len(text), None, text.splitlines(True), file)
    names: dict[str, Any] = {}
    exec(compile(text, file, "exec"), names)
    found: Callable[..., None] = names[name]
    return found


def interpret(
    fn: Callable[..., None],
    args: Mapping[str, Any],
    *,
    isa: str = "v3d71",
    coarsen: int = 1,
    layout: str = "row",
    workers: int = 4,
    consts: Mapping[str, Any] | None = None,
) -> KernelIR:
    """Run a kernel in the KIR interpreter; arrays are changed in place."""
    ir = to_kir(Source.of(fn), isa, consts or {}, coarsen=coarsen, layout=layout)
    verify_kir(ir.region)
    params, memory, names = launch_values(ir, args)
    Interpreter(ir.region, params, memory, workers, NumpyLanes(), names=names).run()
    return ir


def launch_values(ir: KernelIR, args: Mapping[str, Any]) -> tuple[dict[str, int], list[NDArray[np.uint8]], list[str]]:
    """What an interpreter needs of arguments: values by name, arrays as bytes, their names."""
    params: dict[str, int] = {}
    memory: list[NDArray[np.uint8]] = []
    names = []
    for row in ir.parameters[1:]:
        value = args.get(row.name)
        if row.kind == "array":
            assert isinstance(value, np.ndarray)
            for axis, n in enumerate(value.shape):
                params[f"{row.name}.shape{axis}"] = n
                params[f"{row.name}.stride{axis}"] = value.strides[axis]
            params[f"{row.name}.base"] = 0
            memory.append(value.reshape(-1).view(np.uint8))
            names.append(row.name)
        elif row.kind == "scalar":
            params[row.name] = int(np.float32(value).view(np.uint32)) if row.type == "f32" else int(value) & 0xFFFFFFFF  # type: ignore[arg-type]  # a number
    return params, memory, names


def plain(fn: Callable[..., None], args: Mapping[str, Any]) -> None:
    """Run a Grid kernel as plain Python; arrays are changed in place."""
    rows = parameters(Source.of(fn))[1:]
    with np.errstate(all="ignore"):
        lanes_run.run_grid(fn, lanes_run.views(rows, [args[row.name] for row in rows]))
