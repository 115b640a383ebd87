"""The control-flow graph of a VideoCore IV program, for the compiled engine.

A node is an instruction together with everything pending when it starts: a branch in its delay slots, an SFU result
in the pipeline, and those effects of the three instructions before with which one of the next three could break a rule.
Nodes that the reference engine must execute are marked with a reason; the others can be translated.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from qpu.emu.vc4.alu import BRANCH_SLOTS, SFU_LATENCY
from qpu.emu.vc4.fetch import step
from qpu.emu.vc4.prepare import FILES, Half, Place, Plan, Read, Source, over_branch
from qpu.vc4.instr import Alu, Branch, LoadImm
from qpu.vc4.regs import File

__all__ = ["ALL_EFFECTS", "DYNAMIC", "NOWHERE", "Graph", "Node", "breaks", "history_key", "releases", "why_not"]

ALL_EFFECTS = -1
NOWHERE, DYNAMIC = -1, -2
MUTEX = 51
MAX_NODES = 20_000
_SFU = range(52, 56)
_OUTPUTS = frozenset({40, 48, 49, 50, 51, *_SFU, 56, 60})


class Node(NamedTuple):
    """An instruction and what is pending when it starts.

    at: instruction index; -1: the unknown target of a computed branch. left: remaining delay slots of a pending branch;
    target: its target, an index or `DYNAMIC`. sfu: instructions until an SFU result is in r4. one, two, three: effects
    of the last instructions, newest first, that can still matter.
    """

    at: int
    left: int = 0
    target: int = NOWHERE
    sfu: int = 0
    one: int = 0
    two: int = 0
    three: int = 0


def _source_reason(source: Source | None) -> str:
    if source is None or source.read in (Read.REGISTER, Read.SMALL_IMM):
        return ""
    if source.read is Read.LATCH:
        return "operand latch"
    if source.index in (32, 38, 48):
        return ""
    if source.index in (49, 50, 51) and source.read is Read.INPUT:
        return ""
    return f"input register {source.index}"


def _dest_reason(half: Half, merged: bool) -> str:
    dest = half.dest
    if dest.place in (Place.HOST, Place.GRAPHICS):
        return "host interrupt" if dest.place is Place.HOST else "graphics register"
    if dest.place is not Place.IO:
        return ""
    file_b = dest.file is File.B
    if merged or dest.number not in _OUTPUTS or half.pack is not None:
        return f"output register {dest.number}"
    if dest.number == 40 and file_b:
        return "relative uniforms address"
    if dest.number == MUTEX and half.cond != 1:
        return "conditional release of the mutex"
    return ""


def why_not(plan: Plan) -> str:
    """Why the reference engine must execute this instruction; empty when it can be translated."""
    instr = plan.instr
    if plan.issues:
        return f"rule {plan.issues[0].rule}"
    if plan.blocks and not plan.needs_mutex:
        return "semaphore"
    if plan.ends:
        return "program end"
    if plan.switches:
        return "thread switch"
    halves = (plan.add, plan.mul)
    if isinstance(instr, Branch):
        if instr.reg and instr.raddr_a & 1:
            return "branch through an odd register"
        return ""
    if not isinstance(instr, Alu | LoadImm):
        return "semaphore"
    complementary = halves[0].cond >= 2 and halves[0].cond ^ 1 == halves[1].cond
    if plan.clash and halves[0].active and halves[1].active and not complementary:
        return "both halves write one register"
    for half in halves:
        if not half.active:
            continue
        reason = _dest_reason(half, plan.merged)
        if reason:
            return reason
    if isinstance(instr, Alu):
        if plan.mul.active and plan.mul.op.sem is None:
            return "MUL nop with a destination"
        for source in (plan.read_a, plan.read_b):
            reason = _source_reason(source)
            if reason:
                return reason
    outputs = [h.dest.number for h in halves if h.dest.place is Place.IO and h.active]
    ports = [s.index for s in (plan.read_a, plan.read_b) if s is not None and s.read is Read.INPUT]
    if plan.needs_mutex and (outputs or {48, 49, 50} & set(ports)):
        return "mutex together with another unit"
    if len(outputs) == 2 and not {56, 60, 40} & set(outputs):
        return "two output registers at once"
    return ""


def releases(plan: Plan) -> bool:
    """Whether an instruction releases the mutex, after which other QPUs run."""
    return any(h.active and h.dest.place is Place.IO and h.dest.number == MUTEX for h in (plan.add, plan.mul))


def reads_latch(plan: Plan) -> bool:
    """Whether an instruction can read an operand latch or the MUL latch."""
    if any(s is not None and s.read is Read.LATCH for s in (plan.read_a, plan.read_b)):
        return True
    return isinstance(plan.instr, Alu) and plan.mul.active and plan.mul.op.sem is None


def breaks(plan: Plan, history: tuple[int, int, int]) -> bool:
    """Whether an instruction breaks a rule after instructions with these effects, newest first."""
    one, two, three = history
    return bool((plan.forbid1 & one) | (plan.forbid2 & two) | (plan.forbid3 & three))


def history_key(history: Sequence[int], masks: Sequence[int]) -> tuple[int, int, int]:
    """The effects of a history that `masks` selects."""
    return history[0] & masks[0], history[1] & masks[1], history[2] & masks[2]


class Graph:
    """The nodes of a program and their successors. words: instruction words by index, to the end of the buffer."""

    def __init__(self, words: Sequence[int]) -> None:
        self.words = words
        self.plans: dict[int, Plan] = {}
        self.follow: dict[Node, tuple[Node, ...]] = {}
        self.roots: list[Node] = []
        self.reasons: dict[Node, str] = {}
        self.dynamic = False
        self.complete = True

    def plan(self, at: int) -> Plan | None:
        """The plan of an instruction; None outside the buffer."""
        found = self.plans.get(at)
        if found is None:
            if not 0 <= at < len(self.words):
                return None
            found = self.plans[at] = step(int(self.words[at])).plan
        return found

    def masks(self, at: int, left: int, target: int) -> tuple[int, int, int]:
        """Masks of the effects of the last three instructions that can matter to the next three."""
        ways: list[list[int]] = [[at], [at + 1], [at + 2]]
        if left:
            if target == DYNAMIC:
                return ALL_EFFECTS, ALL_EFFECTS, ALL_EFFECTS
            for k in range(left, 3):
                ways[k].append(target + k - left)
        forbid = []
        for places in ways:
            plans = [p for p in map(self.plan, places) if p is not None]
            forbid.append([sum_or([getattr(p, f"forbid{n}") for p in plans]) for n in (1, 2, 3)])
        (a1, a2, a3), (_, b2, b3), (_, _, c3) = forbid
        return a1 | b2 | c3, a2 | b3, a3

    def node(self, at: int, left: int, target: int, sfu: int, history: tuple[int, int, int]) -> Node:
        """The node for a situation, without effects that cannot matter."""
        return Node(at, left, target, sfu, *history_key(history, self.masks(at, left, target)))

    def explore(self, roots: Sequence[Node]) -> None:
        """Add all nodes that can be reached from `roots`."""
        todo = [n for n in roots if n not in self.follow]
        self.roots += [n for n in roots if n not in self.roots]
        while todo:
            node = todo.pop()
            if node in self.follow:
                continue
            if len(self.follow) >= MAX_NODES:
                self.complete = False
                return
            after = self.follow[node] = self._after(node)
            todo += [n for n in after if n.at >= 0 and n not in self.follow]

    def mark(self) -> None:
        """Fill `reasons`: the nodes that the reference engine must execute, and why."""
        conflicts: set[Node] = set()
        for node in self.follow:
            plan = self.plan(node.at)
            if plan is None:
                self.reasons[node] = "outside the program's buffer"
                continue
            reason = why_not(plan)
            if plan.is_branch and node.left:
                reason = "branch in a delay slot"
            if node.left and releases(plan):
                reason = "mutex released in a delay slot"
            if node.sfu and plan.load is not None:
                reason = "SFU result pending"
            if breaks(plan, (node.one, node.two, node.three)):
                conflicts.add(node)
                reason = "hazard"
            if reason:
                self.reasons[node] = reason
        # When a register is read too early, the reference engine must execute its writer too: the lanes written decide.
        # A computed branch may lead to such a reader.
        for node, after in self.follow.items():
            if node in self.reasons:
                continue
            plan = self.plan(node.at)
            writes = plan is not None and bool(plan.effects & FILES)
            if any(n in conflicts or (n.at < 0 and writes) for n in after):
                self.reasons[node] = "hazard"

    def _after(self, node: Node) -> tuple[Node, ...]:
        plan = self.plan(node.at)
        if plan is None or plan.ends:
            return ()
        history = plan.effects, node.one, node.two
        sfu = max(0, node.sfu - 1)
        if any(h.dest.place is Place.IO and h.dest.number in _SFU for h in (plan.add, plan.mul)):
            sfu = SFU_LATENCY - 1
        left, target = max(0, node.left - 1), node.target
        if plan.is_branch:
            left, target = BRANCH_SLOTS, self.target(node.at)
            self.dynamic = self.dynamic or target == DYNAMIC
        if not left:
            target = NOWHERE
        through = self.node(node.at + 1, left, target, sfu, history)
        over = over_branch(plan.effects), node.one, node.two
        if node.left != 1:
            return (through,)
        if not self.conditional(node):
            if node.target == DYNAMIC:
                return (Node(-1, left, target, sfu, *over),)
            return (self.node(node.target, left, target, sfu, over),)
        if node.target == DYNAMIC:
            return through, Node(-1, left, target, sfu, *over)
        taken = self.node(node.target, left, target, sfu, over)
        return through, taken

    def loops(self, nodes: Iterable[Node]) -> set[Node]:
        """Nodes that lie on a way from one of `nodes` to one of them: all loops around them."""
        before: dict[Node, list[Node]] = {}
        for node, after in self.follow.items():
            for n in after:
                before.setdefault(n, []).append(node)
        start = list(nodes)
        return _reached(start, self.follow) & _reached(start, before)

    def conditional(self, node: Node) -> bool:
        """Whether the branch whose last delay slot is `node` is conditional."""
        plan = self.plan(node.at - BRANCH_SLOTS)
        return plan is None or not isinstance(plan.instr, Branch) or plan.instr.cond < 12

    def target(self, at: int) -> int:
        """Target of the branch at `at`: an index, or `DYNAMIC`."""
        plan = self.plan(at)
        assert plan is not None and isinstance(plan.instr, Branch)
        instr = plan.instr
        offset = instr.imm - (1 << 32) if instr.imm >> 31 else instr.imm
        goal = at + 1 + BRANCH_SLOTS + offset // 8
        if instr.reg or not instr.rel or offset % 8 or not 0 <= goal < len(self.words):
            return DYNAMIC
        return goal

    @property
    def latches(self) -> bool:
        """Whether any instruction may read a latch."""
        return self.dynamic or any(map(reads_latch, self.plans.values()))


def _reached(start: Iterable[Node], edges: Mapping[Node, Sequence[Node]]) -> set[Node]:
    """The nodes at which a way of at least one step from one of `start` ends."""
    found: set[Node] = set()
    todo = list(start)
    while todo:
        fresh = set(edges.get(todo.pop(), ())) - found
        found |= fresh
        todo += fresh
    return found


def sum_or(values: Sequence[int]) -> int:
    """Bitwise or of all values."""
    total = 0
    for v in values:
        total |= v
    return total
