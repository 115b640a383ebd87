"""NumPy's surface on the QPUs: the array API standard, evaluated lazily in fused kernels. See `Device.xp`."""

from __future__ import annotations

TYPE_CHECKING = False

if TYPE_CHECKING:
    from qpu.array.array import Array as Array
    from qpu.array.blocks import map_blocks as map_blocks
    from qpu.array.namespace import Namespace as Namespace

__all__ = ["Array", "Namespace", "map_blocks"]

_HOMES = {"Array": "array", "Namespace": "namespace", "map_blocks": "blocks"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'qpu.array' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"qpu.array.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
