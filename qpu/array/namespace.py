"""The namespace of a device, `gpu.xp`: the array API standard without 64-bit dtypes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from math import e, inf, nan, pi
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from qpu.array import (
    dtypes,
    elementwise,
    explain,
    indexing,
    interop,
    linalg,
    manipulation,
    methods,
    reduce,
    scan,
    sorting,
)
from qpu.array.array import VERSIONS
from qpu.array.creation import Creation
from qpu.array.dtypes import BY_NAME, C64, F32, I32, dtype_of
from qpu.device import Device
from qpu.errors import UsageError

if TYPE_CHECKING:
    from qpu.array.memory import Transfers

__all__ = ["VERSIONS", "Info", "Namespace", "namespace_of"]

HOMES: Final = {
    manipulation: "astype broadcast_arrays broadcast_to concat expand_dims flip matrix_transpose moveaxis permute_dims "
    "reshape roll squeeze stack tile unstack",
    elementwise: "clip where",
    reduce: "all any argmax argmin count_nonzero max mean min prod std sum var",
    scan: "cumulative_prod cumulative_sum",
    linalg: "matmul tensordot vecdot",
    indexing: "nonzero repeat take take_along_axis",
    sorting: "argsort searchsorted sort unique_all unique_counts unique_inverse unique_values",
}
"""Functions by the module that has them."""
FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    **elementwise.FUNCTIONS,
    **{name: getattr(module, name) for module, names in HOMES.items() for name in names.split()},
}
"""Functions that take arrays, by name."""
EXTENSIONS: Final = {"linalg": linalg.EXTENSION}
_WIDE: Final = ("float64", "int64", "uint64", "complex128")


class FInfo(NamedTuple):
    """Limits of a float dtype. bits: of an element, or of each part of a complex one."""

    bits: int
    eps: float
    max: float
    min: float
    smallest_normal: float
    dtype: Any


class IInfo(NamedTuple):
    """Limits of an integer dtype."""

    bits: int
    max: int
    min: int
    dtype: Any


class Info:
    """What a namespace can do, as the standard asks for it."""

    def __init__(self, gpu: Device) -> None:
        self._gpu = gpu

    def capabilities(self) -> dict[str, Any]:
        """Boolean indexing works, and so do shapes that depend on data. max dimensions: None, as many as you like."""
        return {"boolean indexing": True, "data-dependent shapes": True, "max dimensions": None}

    def default_device(self) -> Device:
        """The device of the namespace."""
        return self._gpu

    def devices(self) -> list[Device]:
        """The device of the namespace."""
        return [self._gpu]

    def default_dtypes(self, *, device: Any = None) -> dict[str, Any]:
        """float32, complex64 and int32."""
        return {"real floating": F32, "complex floating": C64, "integral": I32, "indexing": I32}

    def dtypes(self, *, device: Any = None, kind: Any = None) -> dict[str, Any]:
        """The dtypes of a kind by name; of the standard's, so float16 is not among them."""
        found = {name: dtype for name, dtype in BY_NAME.items() if name != "float16"}
        return found if kind is None else {n: d for n, d in found.items() if dtypes.isdtype(d, kind)}


class Namespace(Creation):
    """The functions and dtypes of `gpu.xp`. `e`, `inf`, `nan`, `newaxis` and `pi` are there, too."""

    __name__ = "qpu.array"
    __array_api_version__ = VERSIONS[-1]
    e, inf, nan, pi, newaxis = e, inf, nan, pi, None

    # -- dtypes

    @staticmethod
    def result_type(*arrays_and_dtypes: Any) -> Any:
        """The dtype of an operation on all of these. Raises: UsageError."""
        return dtypes.result_type(*arrays_and_dtypes)

    @staticmethod
    def can_cast(from_: Any, to: Any, /) -> bool:
        """Whether a dtype, or an array, is promoted to a dtype."""
        return dtypes.can_cast(from_, to)

    @staticmethod
    def isdtype(dtype: Any, kind: Any) -> bool:
        """Whether a dtype is of a kind: "bool", "integral", "real floating", a dtype, or a tuple of these."""
        return dtypes.isdtype(dtype, kind)

    @staticmethod
    def finfo(type: Any, /) -> FInfo:
        """Limits of a float dtype. Raises: UsageError for another one."""
        kind = dtype_of(getattr(type, "dtype", type))
        if kind.kind not in "fc":
            raise UsageError(f"finfo of {kind.name}", help="xp.iinfo for integers")
        found = np.finfo(kind)
        return FInfo(int(found.bits), float(found.eps), float(found.max), float(found.min),
                     float(found.smallest_normal), F32 if kind == C64 else kind)  # fmt: skip

    @staticmethod
    def iinfo(type: Any, /) -> IInfo:
        """Limits of an integer dtype. Raises: UsageError for another one."""
        kind = dtype_of(getattr(type, "dtype", type))
        if kind.kind not in "iu":
            raise UsageError(f"iinfo of {kind.name}", help="xp.finfo for floats")
        found = np.iinfo(kind)
        return IInfo(int(found.bits), int(found.max), int(found.min), kind)

    def __array_namespace_info__(self) -> Info:
        """What the namespace can do."""
        return Info(self._memory.gpu)

    # -- how it works

    def eager(self) -> AbstractContextManager[None]:
        """A block in which every operation is computed at once, for debugging."""
        return self._memory.eagerly()

    @property
    def fft(self) -> Any:
        """The `fft` extension: transforms of float32 and complex64."""
        from qpu.array.fft import Fft

        return Fft(self)

    @property
    def transfers(self) -> Transfers:
        """Copies between ordinary and device memory so far."""
        return self._memory.transfers

    # -- the rest

    def __getattr__(self, name: str) -> Any:
        found = FUNCTIONS.get(name) or BY_NAME.get(name) or EXTENSIONS.get(name)
        if found is None:
            if name in _WIDE:
                raise AttributeError(f"the QPUs have no {name}: they compute with 32 bits\n  help: write the cast")
            raise AttributeError(f"gpu.xp has no {name!r}\n  help: dir(gpu.xp) lists what it has")
        return found

    def __dir__(self) -> list[str]:
        return sorted({*object.__dir__(self), *FUNCTIONS, *BY_NAME, *EXTENSIONS})

    def __repr__(self) -> str:
        return f"<the array namespace of {self._memory.gpu!r}>"

    def __reduce__(self) -> Any:
        raise TypeError("a namespace belongs to one device of one process\n  help: use the gpu.xp of the other process")


assert explain and interop and methods  # loaded: they provide methods of arrays


def namespace_of(gpu: Device) -> Namespace:
    """The namespace of a device."""
    found = gpu.__dict__.get("_xp")
    if found is None:
        found = gpu.__dict__["_xp"] = Namespace(gpu)
    return found
