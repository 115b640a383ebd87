"""The kernel language: one Python source for all three GPUs."""

from __future__ import annotations

TYPE_CHECKING = False

if TYPE_CHECKING:
    from qpu.lang.cache import load_file as load_cache
    from qpu.lang.compiled import Compiled
    from qpu.lang.entry import Kernel, kernel
    from qpu.lang.surface import (
        Const,
        Grid,
        In,
        In2,
        In3,
        InOut,
        InOut2,
        InOut3,
        Out,
        Out2,
        Out3,
        PerformanceNote,
        Team,
        c64,
        f16,
        f32,
        fast,
        i8,
        i8x4,
        i16,
        i16x2,
        i32,
        static_assert,
        u8,
        u8x4,
        u16,
        u32,
        unroll,
        where,
    )

__all__ = [
    "Compiled",
    "Const",
    "Grid",
    "In",
    "In2",
    "In3",
    "InOut",
    "InOut2",
    "InOut3",
    "Kernel",
    "Out",
    "Out2",
    "Out3",
    "PerformanceNote",
    "Team",
    "c64",
    "f16",
    "f32",
    "fast",
    "i8",
    "i8x4",
    "i16",
    "i16x2",
    "i32",
    "kernel",
    "load_cache",
    "static_assert",
    "u8",
    "u8x4",
    "u16",
    "u32",
    "unroll",
    "where",
]

_HOMES = {"Compiled": "compiled", "Kernel": "entry", "kernel": "entry", "load_cache": "cache"}


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name.startswith("__"):
        raise AttributeError(name)
    module = import_module(f"qpu.lang.{_HOMES.get(name, 'surface')}")
    value = getattr(module, "load_file" if name == "load_cache" else name)
    globals()[name] = value
    return value
