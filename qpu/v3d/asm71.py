"""The typed builder of V3D 7.1."""

from __future__ import annotations

from typing import Final

from qpu.v3d.builder import Absolute, BranchCond, Msfign, UnifTarget, _LinkTarget
from qpu.v3d.generated.ops71 import Ops71
from qpu.v3d.instr import Sig
from qpu.v3d.operands import LAYERS, Dest71, Label, Reg71, Signal
from qpu.v3d.signals import LDUNIF, LDUNIFA, Signals

__all__ = ["Asm71"]

LAYERS.add(__file__)


class Asm71(Ops71, Signals):
    """Builder of V3D 7.1 programs (Raspberry Pi 5): registers ``rf[0..63]``, no accumulators.

    Not thread-safe itself, but any number can be used at the same time.
    """

    __slots__ = ()

    quad: Final = Dest71(5, True)
    """rf0, each lane from the first lane of its quad."""
    null: Final = Dest71(6, True)
    tlb: Final = Dest71(7, True)
    tlbu: Final = Dest71(8, True)
    unifa: Final = Dest71(9, True)
    tmul: Final = Dest71(10, True)
    tmud: Final = Dest71(11, True)
    tmua: Final = Dest71(12, True)
    tmuau: Final = Dest71(13, True)
    vpm: Final = Dest71(14, True)
    vpmu: Final = Dest71(15, True)
    sync: Final = Dest71(16, True)
    syncu: Final = Dest71(17, True)
    syncb: Final = Dest71(18, True)
    tmuc: Final = Dest71(32, True)
    tmus: Final = Dest71(33, True)
    tmut: Final = Dest71(34, True)
    tmur: Final = Dest71(35, True)
    tmui: Final = Dest71(36, True)
    tmub: Final = Dest71(37, True)
    tmudref: Final = Dest71(38, True)
    tmuoff: Final = Dest71(39, True)
    tmuscm: Final = Dest71(40, True)
    tmusf: Final = Dest71(41, True)
    tmuslod: Final = Dest71(42, True)
    tmuhs: Final = Dest71(43, True)
    tmuhscm: Final = Dest71(44, True)
    tmuhsf: Final = Dest71(45, True)
    tmuhslod: Final = Dest71(46, True)
    rep: Final = Dest71(55, True)
    """rf0, all lanes from lane 0."""

    ldunif: Final = LDUNIF
    """Next uniform to rf0."""
    ldunifa: Final = LDUNIFA
    """Next word of the unifa stream to rf0."""

    def magic(self, n: int) -> Dest71:
        """Magic destination n, 0..63, named or not."""
        if not 0 <= n < 64:
            self._error("register", f"magic destination {n} does not exist", "0..63")
            return self.null
        return Dest71(n, True)

    def ldunifrf(self, d: Dest71) -> Signal:
        """Next uniform to d."""
        return self._writing(Sig.LDUNIFRF, d)

    def ldunifarf(self, d: Dest71) -> Signal:
        """Next word of the unifa stream to d."""
        return self._writing(Sig.LDUNIFARF, d)

    def ldtmu(self, d: Dest71) -> Signal:
        """Next TMU result vector to d; waits for it."""
        return self._writing(Sig.LDTMU, d)

    def ldvary(self, d: Dest71) -> Signal:
        """Next varying to d. Fragment shaders only."""
        return self._writing(Sig.LDVARY, d)

    def ldtlb(self, d: Dest71) -> Signal:
        """Tile buffer read to d. Fragment shaders only."""
        return self._writing(Sig.LDTLB, d)

    def ldtlbu(self, d: Dest71) -> Signal:
        """Tile buffer read, configured by a uniform, to d. Fragment shaders only."""
        return self._writing(Sig.LDTLBU, d)

    def b(
        self,
        target: str | Label | int | Reg71 | Absolute | _LinkTarget,
        *,
        cond: BranchCond | None = None,
        msfign: Msfign | None = None,
        unif: UnifTarget | Reg71 | None = None,
        link: bool = False,
    ) -> None:
        """Branch; the three instructions after it are executed in any case.

        target: label, byte offset from the fourth instruction after the branch, register (lane 0), ``q.lri``, or
        ``q.absolute(address)``. cond: on flag A. msfign: leave out lanes (p) or quads (q) without live samples.
        unif: also move the uniform stream: to the address (abs) or by the offset (rel) that the next uniform
        holds, to the link register, or to a register. link: set the link register to the fourth instruction after
        the branch.
        """
        self._emit_branch(target, cond, msfign, unif, link, Reg71)
