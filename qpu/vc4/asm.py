"""The typed builder of VideoCore IV, as programs import it; the counterpart of `qpu.v3d.asm`.

Its names are imported from `qpu.vc4.builder` on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qpu.core.lazy import lazy

if TYPE_CHECKING:
    from qpu.vc4.builder import Asm, assemble, build

__all__ = ["Asm", "assemble", "build"]

__getattr__, __dir__ = lazy("qpu.vc4", {"builder": "Asm assemble build"})
