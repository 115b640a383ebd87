"""Calls of library functions with arguments that hypothesis draws: arrays in several layouts, and what they should be.

A trial of a function draws, calls, compares and returns the views that were written; `CASES` has all of them by name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st

from qpu.device import Device
from qpu.kernels.common.rounding import bound

__all__ = ["CASES", "LENGTHS", "NUMBERS", "SIDES", "B", "C", "Case", "D", "F", "N", "Trial", "U", "Wrong", "case"]

F, D, C, N, U, B = np.float32, np.float64, np.complex64, np.int32, np.uint32, np.int8
LENGTHS = (0, 1, 15, 16, 17, 65, 130)
SIDES = (1, 2, 5, 16, 17)
LAYOUTS = ("plain", "inside", "gaps", "backwards", "turned")
NUMBERS = (F, N, U, np.int8, np.uint8, np.int16, np.uint16)


@dataclass
class Trial:
    """One call: draws its arguments and knows what must stay as it is."""

    gpu: Device
    data: Any
    kept: list[tuple[Any, Any, Any]] = field(default_factory=list)

    def pick(self, *choices: Any) -> Any:
        """One of the choices."""
        return self.data.draw(st.sampled_from(choices))

    @property
    def noise(self) -> np.random.Generator:
        """Random numbers of a drawn seed."""
        return np.random.default_rng(self.data.draw(st.integers(0, 9)))

    def n(self, *choices: int) -> int:
        """A length."""
        return int(self.pick(*(choices or LENGTHS)))

    def floats(self, *shape: int) -> Any:
        """Numbers of both signs, none of them tiny."""
        return self.noise.normal(size=shape).astype(F)

    def numbers(self, dtype: Any, *shape: int) -> Any:
        """Numbers of a type; integers of its whole range."""
        if dtype is F:
            return self.floats(*shape)
        limits = np.iinfo(dtype)
        return self.noise.integers(limits.min, limits.max + 1, shape, dtype)

    def put(self, x: Any, *layouts: str) -> Any:
        """An array on the device, in a drawn layout."""
        how = self.pick(*(layouts or LAYOUTS)) if x.ndim else "plain"
        shape = list(x.shape)
        index: list[Any] = [slice(None)] * x.ndim
        if how == "inside":
            shape[-1] += 5
            index[-1] = slice(3, shape[-1] - 2)
            if x.ndim > 1:
                shape[0] += 3
                index[0] = slice(1, -2)
        elif how == "gaps":
            shape[-1] *= 2
            index[-1] = slice(None, None, 2)
        elif how == "backwards":
            index[0] = slice(None, None, -1)
        elif how == "turned":
            shape.reverse()
        host = np.full(shape, 77).astype(x.dtype)
        place = host.T if how == "turned" else host
        place[tuple(index)] = x
        buffer = self.gpu.array(host)
        view = buffer.T if how == "turned" else buffer[tuple(index)] if x.ndim else buffer
        self.kept.append((buffer, host, (how == "turned", tuple(index))))
        return view

    def out(self, shape: Any, dtype: Any, *layouts: str) -> Any:
        """Memory for a result, which holds NaN or large numbers so far."""
        shape = shape if isinstance(shape, tuple) else (int(shape),)
        kind = np.dtype(dtype)
        return self.put(np.full(shape, np.nan if kind.kind in "fc" else np.iinfo(kind).max - 1, kind), *layouts)

    def stays(self, *written: Any) -> None:
        """Check everything that no view of `written` covers."""
        for buffer, host, (turned, index) in self.kept:
            now, then = np.array(buffer.numpy()), host.copy()
            if any(getattr(v, "buffer", v) is buffer for v in written):
                for x in (now, then):
                    (x.T if turned else x)[index if x.ndim and not turned else ...] = 0
            np.testing.assert_array_equal(now, then)

    def close(self, found: Any, wanted: Any, operations: float, size: Any) -> None:
        """Whether results err by no more than so many roundings of terms of that size."""
        error = np.abs(np.asarray(found.numpy() if hasattr(found, "numpy") else found) - wanted)
        limit = bound(self.gpu.isa, operations, np.abs(size))
        assert (error <= limit).all(), (error - limit).max()

    def same(self, found: Any, wanted: Any) -> None:
        """Whether results are exactly those."""
        np.testing.assert_array_equal(found.numpy() if hasattr(found, "numpy") else found, wanted)


Case = Callable[[Trial], Any]
CASES: dict[str, Case] = {}


def case(name: str) -> Callable[[Case], Case]:
    """Decorator: the trial of a function; it returns the views that are written."""

    def added(function: Case) -> Case:
        CASES[name] = function
        return function

    return added


class Wrong(Trial):
    """The first of all choices, and one argument that is on another device, or of a type that nothing computes with."""

    def __init__(self, gpu: Device, other: Device | None, number: int) -> None:
        super().__init__(gpu, None)
        self.other, self.number = other, number

    def pick(self, *choices: Any) -> Any:
        return choices[-1] if isinstance(choices[-1], (int, tuple)) else choices[0]

    @property
    def noise(self) -> np.random.Generator:
        return np.random.default_rng(1)

    def put(self, x: Any, *layouts: str) -> Any:
        self.number -= 1
        if self.number:
            return self.gpu.array(x)
        return self.gpu.array(np.zeros(x.shape, np.float16)) if self.other is None else self.other.array(x)
