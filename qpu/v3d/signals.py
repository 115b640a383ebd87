"""Signals and branch targets that the builders of both V3D versions have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from qpu.core.isa import Isa
from qpu.v3d.builder import LRI, Absolute, Builder
from qpu.v3d.instr import Sig
from qpu.v3d.operands import LAYERS, Dest42, Dest71, Signal

__all__ = ["LDUNIF", "LDUNIFA", "Signals"]

LAYERS.add(__file__)
THRSW: Final = Signal(int(Sig.THRSW))
LDUNIF: Final = Signal(int(Sig.LDUNIF))
LDUNIFA: Final = Signal(int(Sig.LDUNIFA))
WRTMUC: Final = Signal(int(Sig.WRTMUC))
UCB: Final = Signal(int(Sig.UCB))


class Signals(Builder):
    """Signals, tails and branch targets that both versions have."""

    __slots__ = ()

    thrsw: Final = THRSW
    """Thread switch after two more instructions."""
    wrtmuc: Final = WRTMUC
    """Next uniform to the TMU configuration."""
    ucb: Final = UCB
    """Uniform cache or breakpoint control; not used by compilers."""
    lri: Final = LRI
    """The link register as a branch target."""

    def absolute(self, address: int) -> Absolute:
        """A GPU address as a branch target; a multiple of 8."""
        return Absolute(address)

    def _writing(self, bit: Sig, d: object) -> Signal:
        kind = Dest71 if self.isa is Isa.V3D71 else Dest42
        if not isinstance(d, kind) or d.mod:
            name = str(bit.name).lower()
            self._error(
                "signal-destination",
                f"{d!r} is no destination of {name}",
                "rf[n] or a magic destination, without modifier",
            )
            return Signal(0)
        return Signal(int(bit), d)

    if not TYPE_CHECKING:

        def __getattr__(self, name):
            if name.startswith("__"):
                raise AttributeError(name)
            known = [n for n in dir(type(self)) if not n.startswith("_")]
            raise self._unknown(name, known, f"the builder of {self.isa.label}")
