"""Checks of MIR between passes: registers are written before they are read, results of the TMU are taken as often as
words were asked for, uniforms are read where no path skips them.
"""

from __future__ import annotations

from qpu.lang.liveness import bits
from qpu.lang.mir import Block, Function, Imm, MOp

__all__ = ["MirError", "verify_mir"]


class MirError(AssertionError):
    """MIR that the compiler itself got wrong."""


def verify_mir(function: Function, capacity: int) -> None:
    """Raises: MirError naming the first operation that breaks an invariant. capacity: words that may be pending."""
    ways: dict[Block, list[Block]] = {b: [] for b in function.blocks}
    for block in function.blocks:
        for successor in block.successors:
            if successor not in ways:
                raise MirError(f"{block.name} leads to {successor.name}, which is not laid out")
            ways[successor].append(block)
    _defined(function, ways)
    pending = {function.blocks[0]: 0}
    for block in function.blocks:
        if block not in pending:
            raise MirError(f"nothing leads to {block.name} but what comes after it")
        left = _queue(block, pending[block], capacity)
        for successor in block.successors:
            if pending.setdefault(successor, left) != left:
                raise MirError(f"{successor.name} begins with {left} or {pending[successor]} words pending")
        for i, m in enumerate(block.ops):
            _operands(block, i, m, function.registers)
            if m.role == "uniform" and block is not function.blocks[0] and m.uniform and m.uniform[0] != "stream":
                raise _fail(block, i, m, "a uniform is read in a block that a path may skip or repeat")


def _fail(block: Block, i: int, m: MOp, what: str) -> MirError:
    return MirError(f"{block.name}[{i}] {m}: {what}")


def _operands(block: Block, i: int, m: MOp, registers: int) -> None:
    for r in (*m.reads(), *m.writes()):
        if not 0 <= r < registers:
            raise _fail(block, i, m, f"register {r} of {registers}")
    immediates = {x.n for x in (m.a, m.b) if isinstance(x, Imm)}
    if len(immediates) > 1:
        raise _fail(block, i, m, "two small immediates")


def _queue(block: Block, pending: int, capacity: int) -> int:
    for i, m in enumerate(block.ops):
        if m.role in ("request", "store"):
            pending += m.words
        elif m.role == "pop":
            pending -= 1
        if pending < 0:
            raise _fail(block, i, m, "a result is taken that nothing asked for")
        if pending > capacity:
            raise _fail(block, i, m, f"{pending} words are pending, there is room for {capacity}")
    return pending


def _defined(function: Function, ways: dict[Block, list[Block]]) -> None:
    """Every register that is read is written on every way from the start, in part at least."""
    everything = (1 << function.registers) - 1
    out = dict.fromkeys(function.blocks, everything)
    changed = True
    while changed:
        changed = False
        for block in function.blocks:
            known = _into(block, function, ways, out)
            for m in block.ops:
                for w in m.writes():
                    known |= 1 << w
            if known != out[block]:
                out[block] = known
                changed = True
    for block in function.blocks:
        known = _into(block, function, ways, out)
        for i, m in enumerate(block.ops):
            missing = sum(1 << r for r in set(m.reads())) & ~known
            if missing:
                raise _fail(block, i, m, f"register {next(bits(missing))} may not be written yet")
            for w in m.writes():
                known |= 1 << w


def _into(block: Block, function: Function, ways: dict[Block, list[Block]], out: dict[Block, int]) -> int:
    if block is function.blocks[0]:
        return 0
    known = (1 << function.registers) - 1
    for before in ways[block]:
        known &= out[before]
    return known
