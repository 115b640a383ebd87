"""The typed builder of VideoCore IV under the name that the one of V3D has: `qpu.v3d.asm`.

Its names are loaded when first used; they live in `qpu.vc4.builder`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qpu.core.lazy import lazy

if TYPE_CHECKING:
    from qpu.vc4.builder import Asm, assemble, build

__all__ = ["Asm", "assemble", "build"]

__getattr__, __dir__ = lazy("qpu.vc4", {"builder": "Asm assemble build"})
