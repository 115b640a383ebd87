"""Launching kernels: arguments are checked, uniforms are packed, and the program is submitted."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from qpu.buffers import Buffer
from qpu.core.isa import Isa
from qpu.device import device_of
from qpu.errors import UsageError
from qpu.lang.compiled import TEAM, Compiled, KernelRun
from qpu.lang.types import DTYPES
from qpu.v3d.launch import Dispatch
from qpu.vc4.launch import Programs

if TYPE_CHECKING:
    from qpu.device import Device
    from qpu.lang.compile import Parameter

__all__ = ["launch"]


class Launchable(Protocol):
    """A kernel, as far as launching it goes."""

    @property
    def fn(self) -> Callable[..., None]: ...
    @property
    def parameters(self) -> list[Parameter]: ...
    @property
    def team(self) -> bool: ...
    def compile(self, isa: str | Isa, **consts: Any) -> Compiled: ...


def launch(
    k: Launchable, gpu: Device | None, workers: int | None, args: tuple[Any, ...], keywords: dict[str, Any]
) -> KernelRun:
    """Launch a kernel. Raises: UsageError before anything is submitted."""
    values = _bind(k, args, keywords)
    rows = {row.name: row for row in k.parameters}
    arrays = {name: v for name, v in values.items() if rows[name].kind == "array"}
    for name, value in arrays.items():
        _check_array(k, rows[name], value)
    gpu = _device(k, gpu, arrays)
    _check_overlap(k, rows, arrays)
    consts = {name: v for name, v in values.items() if rows[name].kind == "const"}
    compiled = k.compile(gpu.isa, **consts)
    count = workers if workers is not None else _workers(k, gpu, arrays, rows)
    if any(v.size == 0 for n, v in arrays.items() if rows[n].mode != "in") and not k.team:
        return KernelRun(())
    if gpu.isa is not Isa.VC4:
        words = _words(compiled, values, rows, 0, 0, count)
        shape = Dispatch(workgroups=(count, 1, 1), threads=compiled.threads)
        return KernelRun((gpu.submit(compiled.program, words, shape),))
    launches = []
    for first in range(0, count, gpu.qpus):
        last = min(first + gpu.qpus, count)
        streams = [_words(compiled, values, rows, w, w - first, count) for w in range(first, last)]
        launches.append(gpu.submit(compiled.program, np.array(streams, np.uint32), Programs(len(streams))))
    return KernelRun(launches)


def _words(
    compiled: Compiled, values: dict[str, Any], rows: dict[str, Parameter], worker: int, slot: int, workers: int
) -> list[int]:
    """The uniform list of one worker."""
    found: list[int] = []
    for kind, what in compiled.laid.uniforms:
        if kind == "const":
            found.append(cast("int", what))
        else:
            number = {"workers": workers, "worker": worker, "slot": slot}.get(kind)
            found.append(_word(str(what), values, rows) if number is None else number)
    return found


def _bind(k: Launchable, args: tuple[Any, ...], keywords: dict[str, Any]) -> dict[str, Any]:
    rows = k.parameters
    name = k.fn.__name__
    if len(args) > len(rows):
        raise UsageError(f"{name} takes {len(rows)} arguments, {len(args)} are given")
    values = dict(zip((row.name for row in rows), args, strict=False))
    for key, value in keywords.items():
        if key in values:
            raise UsageError(f"{name} got two values for {key!r}")
        if key not in {row.name for row in rows}:
            raise UsageError(f"{name} has no parameter {key!r}; it has {', '.join(row.name for row in rows)}")
        values[key] = value
    for row in rows:
        if row.name not in values:
            if not row.has_default:
                raise UsageError(f"{name} needs {row.name!r}")
            values[row.name] = row.default
        if row.kind == "scalar":
            _check_scalar(name, row, values[row.name])
    return values


def _check_scalar(kernel: str, row: Parameter, value: Any) -> None:
    t = DTYPES[row.type]
    if isinstance(value, bool) or not isinstance(value, numbers.Real | np.number):
        raise UsageError(f"{kernel}: {row.name} = {value!r} is a {type(value).__name__}; allowed: a number ({t})")
    if t.integer:
        if not isinstance(value, numbers.Integral):
            raise UsageError(f"{kernel}: {row.name} = {value!r} is not an integer; allowed: {t}")
        if not t.low <= int(value) <= t.high:
            raise UsageError(f"{kernel}: {row.name} = {value} does not fit {t}; allowed: {t.low}..{t.high}")


def _check_array(k: Launchable, row: Parameter, value: Any) -> None:
    name = k.fn.__name__
    t = DTYPES[row.type]
    if not isinstance(value, Buffer):
        help_ = f"gpu.array({row.name})" if isinstance(value, np.ndarray) else "gpu.array(...), gpu.empty(...)"
        raise UsageError(f"{name}: {row.name} is a {type(value).__name__}; allowed: a buffer of {t}; help: {help_}")
    if value.dtype != np.dtype(t.numpy):
        raise UsageError(
            f"{name}: {row.name} holds {value.dtype}, the parameter is {t}; help: gpu.array(x.astype(np.{t.numpy}))"
        )
    if len(value.shape) != row.rank:
        raise UsageError(f"{name}: {row.name} has {len(value.shape)} axes, the parameter has {row.rank}")


def _device(k: Launchable, gpu: Device | None, arrays: dict[str, Any]) -> Device:
    for name, value in arrays.items():
        owner = device_of(value)
        if gpu is None:
            gpu = owner
        elif owner is not gpu:
            raise UsageError(f"{k.fn.__name__}: {name} belongs to another device than the arguments before it")
    if gpu is None:
        raise UsageError(f"{k.fn.__name__} has no array argument; help: {k.fn.__name__}.on(gpu)(...)")
    return gpu


def _check_overlap(k: Launchable, rows: dict[str, Parameter], arrays: dict[str, Any]) -> None:
    """In promises not to overlap what the launch writes; an output overlaps no other one."""
    spans = [(name, v.address, v.address + v.nbytes, rows[name].mode) for name, v in arrays.items() if v.nbytes]
    for i, (first, a0, a1, mode) in enumerate(spans):
        for second, b0, b1, other in spans[i + 1 :]:
            if a0 < b1 and b0 < a1 and not (mode == other == "in"):
                raise UsageError(
                    f"{k.fn.__name__}: {first} and {second} overlap, and the kernel writes one of them; "
                    "help: use one InOut parameter, or a copy"
                )


def _workers(k: Launchable, gpu: Device, arrays: dict[str, Any], rows: dict[str, Parameter]) -> int:
    if k.team:
        return TEAM
    return gpu.qpus * 2 if gpu.isa is not Isa.VC4 else gpu.qpus


def _word(what: str, values: dict[str, Any], rows: dict[str, Parameter]) -> int:
    name, _, rest = what.partition(".")
    value = values[name]
    if not rest:
        if rows[name].type == "f32":
            return int(np.float32(value).view(np.uint32))
        return int(value) & 0xFFFFFFFF
    if rest == "base":
        return int(value.address)
    if rest.startswith("shape"):
        return int(value.shape[int(rest[5:])])
    axis = int(rest[6:])
    stride = value.dtype.itemsize
    for extent in value.shape[axis + 1 :]:
        stride *= extent
    return int(stride)
