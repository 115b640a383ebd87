"""The typed builder of V3D 4.2."""

from __future__ import annotations

from typing import Final

from qpu.v3d.builder import Absolute, BranchCond, Msfign, UnifTarget, _LinkTarget
from qpu.v3d.generated.ops42 import Ops42
from qpu.v3d.instr import Sig
from qpu.v3d.operands import LAYERS, Dest42, Label, Reg42, Signal
from qpu.v3d.regs import imm_index
from qpu.v3d.signals import LDUNIF, LDUNIFA, Signals

__all__ = ["Asm42"]

LAYERS.add(__file__)


class Asm42(Ops42, Signals):
    """Builder of V3D 4.2 programs (Raspberry Pi 4): registers ``rf[0..63]``, accumulators ``r0``..``r5``.

    Read ports are assigned by the builder. Not thread-safe itself, but any number can be used at the same time.
    """

    __slots__ = ()

    r0: Final = Reg42(0, True)
    r1: Final = Reg42(1, True)
    r2: Final = Reg42(2, True)
    r3: Final = Reg42(3, True)
    r4: Final = Reg42(4, True)
    r5: Final = Reg42(5, True)
    """As destination: each lane gets the value of the first lane of its quad."""
    null: Final = Dest42(6, True)
    tlb: Final = Dest42(7, True)
    tlbu: Final = Dest42(8, True)
    unifa: Final = Dest42(9, True)
    tmul: Final = Dest42(10, True)
    tmud: Final = Dest42(11, True)
    tmua: Final = Dest42(12, True)
    tmuau: Final = Dest42(13, True)
    vpm: Final = Dest42(14, True)
    vpmu: Final = Dest42(15, True)
    sync: Final = Dest42(16, True)
    syncu: Final = Dest42(17, True)
    syncb: Final = Dest42(18, True)
    sfu_recip: Final = Dest42(19, True)
    """Starts 1 / x; r4 holds the result from the second instruction on. Likewise the other sfu_ destinations."""
    sfu_rsqrt: Final = Dest42(20, True)
    sfu_exp: Final = Dest42(21, True)
    sfu_log: Final = Dest42(22, True)
    sfu_sin: Final = Dest42(23, True)
    sfu_rsqrt2: Final = Dest42(24, True)
    tmuc: Final = Dest42(32, True)
    tmus: Final = Dest42(33, True)
    tmut: Final = Dest42(34, True)
    tmur: Final = Dest42(35, True)
    tmui: Final = Dest42(36, True)
    tmub: Final = Dest42(37, True)
    tmudref: Final = Dest42(38, True)
    tmuoff: Final = Dest42(39, True)
    tmuscm: Final = Dest42(40, True)
    tmusf: Final = Dest42(41, True)
    tmuslod: Final = Dest42(42, True)
    tmuhs: Final = Dest42(43, True)
    tmuhscm: Final = Dest42(44, True)
    tmuhsf: Final = Dest42(45, True)
    tmuhslod: Final = Dest42(46, True)
    r5rep: Final = Dest42(55, True)
    """r5, all lanes from lane 0."""

    ldunif: Final = LDUNIF
    """Next uniform to r5."""
    ldunifa: Final = LDUNIFA
    """Next word of the unifa stream to r5."""

    def magic(self, n: int) -> Dest42:
        """Magic destination n, 0..63, named or not."""
        if not 0 <= n < 64:
            self._error("register", f"magic destination {n} does not exist", "0..63")
            return self.null
        return Dest42(n, True)

    def ldunifrf(self, d: Dest42) -> Signal:
        """Next uniform to d."""
        return self._writing(Sig.LDUNIFRF, d)

    def ldunifarf(self, d: Dest42) -> Signal:
        """Next word of the unifa stream to d."""
        return self._writing(Sig.LDUNIFARF, d)

    def ldtmu(self, d: Dest42) -> Signal:
        """Next TMU result vector to d; waits for it."""
        return self._writing(Sig.LDTMU, d)

    def ldvary(self, d: Dest42) -> Signal:
        """Next varying to d. Fragment shaders only."""
        return self._writing(Sig.LDVARY, d)

    def ldtlb(self, d: Dest42) -> Signal:
        """Tile buffer read to d. Fragment shaders only."""
        return self._writing(Sig.LDTLB, d)

    def ldtlbu(self, d: Dest42) -> Signal:
        """Tile buffer read, configured by a uniform, to d. Fragment shaders only."""
        return self._writing(Sig.LDTLBU, d)

    def rot(self, amount: int | Reg42) -> Signal:
        """Rotates the operands of the mul operation: lane j gets lane j - amount.

        Accumulators rotate over all 16 lanes, registers inside each quad (py-videocore6 device tests).

        amount: 1..15 or -16..-1, or r5. It occupies read port B.
        """
        if isinstance(amount, Reg42) and amount.magic and amount.n == 5 and not amount.mod:
            return Signal(int(Sig.ROT), None, 0)
        if isinstance(amount, int) and not isinstance(amount, bool) and amount and -16 <= amount <= 15:
            return Signal(int(Sig.ROT), None, imm_index(amount))
        self._error("rotate", f"{amount!r} is no rotation amount", "1..15, -16..-1, q.r5")
        return Signal(0)

    def b(
        self,
        target: str | Label | int | Reg42 | Absolute | _LinkTarget,
        *,
        cond: BranchCond | None = None,
        msfign: Msfign | None = None,
        unif: UnifTarget | Reg42 | None = None,
        link: bool = False,
    ) -> None:
        """Branch; the three instructions after it are executed in any case.

        target: label, byte offset from the fourth instruction after the branch, register (lane 0), ``q.lri``, or
        ``q.absolute(address)``. cond: on flag A. msfign: leave out lanes (p) or quads (q) without live samples.
        unif: also move the uniform stream: to the address (abs) or by the offset (rel) that the next uniform
        holds, to the link register, or to a register. link: set the link register to the fourth instruction after
        the branch.
        """
        self._emit_branch(target, cond, msfign, unif, link, Reg42)
