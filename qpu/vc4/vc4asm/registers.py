"""Table of the register names of the language, with read and write addresses, and register arithmetic (``ra3 + 1``)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from qpu.vc4 import regs

__all__ = ["NOP_REG", "REGISTERS", "ROTATE_BY_R5", "Reg", "numbered"]

ROTATE_BY_R5 = 16
"""`Reg.rotation` of a register that is rotated by r5; 1..15 rotate up by that many lanes, 0 does not rotate."""


@dataclass(frozen=True, slots=True)
class Reg:
    """The read and write addresses of a register name. Two names of one register are equal.

    family: group within which register arithmetic works (``ra``, ``rb``, ``r``, ``sacq``, ``srel``, ``io``).
    mux: 0..5 when it is read through a multiplexer (accumulator), else -1. read_files, write_files: bit 0 = file A,
    bit 1 = file B; 3 for an address that both files have. semaphore: the low bits of a semaphore instruction, or -1.
    """

    name: str = field(compare=False)
    family: str
    number: int
    mux: int = -1
    raddr: int = -1
    read_files: int = 0
    waddr: int = -1
    write_files: int = 0
    semaphore: int = -1
    rotation: int = 0

    @property
    def readable(self) -> bool:
        """True when an instruction can take it as a source."""
        return self.mux >= 0 or self.read_files != 0

    @property
    def group(self) -> str:
        """The family; for I/O registers with the files in which they can be read and written."""
        return f"io{self.read_files}/{self.write_files}" if self.family == "io" else self.family

    def rotated(self, up: int) -> Reg:
        """The register rotated up by `up` lanes (taken modulo 16), or by r5."""
        return replace(self, rotation=up if up == ROTATE_BY_R5 else (self.rotation + up) & 15)


def _registers() -> tuple[dict[str, Reg], dict[tuple[str, int], Reg]]:
    table: dict[str, Reg] = {}
    for n in range(64):
        table[f"ra{n}"] = Reg(f"ra{n}", "ra", n, -1, n, 1, n, 1)
        table[f"rb{n}"] = Reg(f"rb{n}", "rb", n, -1, n, 2, n, 2)
    for n in range(16):
        table[f"sacq{n}"] = Reg(f"sacq{n}", "sacq", n, semaphore=16 + n)
        table[f"srel{n}"] = Reg(f"srel{n}", "srel", n, semaphore=n)
    reads = {name: row for row in regs.READS for name in row.names}
    writes = {name: row for row in regs.WRITES for name in row.names}
    for name in {**reads, **writes}:
        if name == "-":
            continue
        r, w = reads.get(name), writes.get(name)
        # Graphics coordinates have one address for reads and writes; quad_x and quad_y read that of the pixel.
        if name in ("quad_x", "quad_y") and r is None:
            r = reads["x_coord" if name == "quad_x" else "y_coord"]
        read_files = 0 if r is None else sum(1 << f for f in r.files)
        write_files = 0 if w is None else sum(1 << f for f in w.files)
        addr = (w or r).addr  # type: ignore[union-attr]  # one of them has the name
        family = "nop" if addr == 39 else "io"
        raddr, waddr = -1 if r is None else r.addr, -1 if w is None else w.addr
        table[name] = Reg(name, family, addr, -1, raddr, read_files, waddr, write_files)
    for n in range(6):
        old = table.get(f"r{n}")
        table[f"r{n}"] = Reg(
            f"r{n}", "r", n, n, -1, 0, -1 if old is None else old.waddr, 0 if old is None else old.write_files
        )
    for name in ("r5quad", "r5_pix0", "r5rep", "broadcast"):
        old = table[name]
        table[name] = Reg(name, "r5", 5, 5, -1, 0, old.waddr, old.write_files)
    by_number: dict[tuple[str, int], Reg] = {}
    for reg in table.values():
        by_number.setdefault((reg.group, reg.number), reg)
    return table, by_number


REGISTERS, _BY_NUMBER = _registers()
"""Every register name."""

NOP_REG = Reg("-", "nop", 39, -1, 39, 3, 39, 3)
"""The register ``-``: reads nothing and discards the result."""


def numbered(reg: Reg, number: int) -> Reg | None:
    """The register `number` of the group that `reg` belongs to, or None; never across 31/32 of ra and rb."""
    if reg.family in ("ra", "rb") and (number >= 32) != (reg.number >= 32):
        return None
    return _BY_NUMBER.get((reg.group, number))
