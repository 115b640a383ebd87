"""Fusion: pending expressions become groups, groups become kernels, kernels are launched.

A group is gathered greedily from the node that is wanted. Its structure, as plain tuples, is the key of its kernel:
an expression that was seen before costs one look-up. Limits: `INPUTS` arrays that are read, `OUTPUTS` that are written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from qpu.array import parts
from qpu.array.dtypes import Scalar
from qpu.array.emit import CONTIGUOUS, FIXED, INDEXED, PER_ROW, SOURCE, STRIDED, Group, Leaf, Output, Step, elementwise
from qpu.array.formula import caller, formula
from qpu.array.memory import ABSORB, EVALUATE, DeviceMemory
from qpu.array.node import Node, c_strides, pending
from qpu.core.isa import Isa
from qpu.errors import Loc
from qpu.lang import cache as disk
from qpu.lang.kir import Loop, walk
from qpu.lang.launch import Plan
from qpu.lang.schedule import Schedule
from qpu.lang.specialise import Special, compile_ir

if TYPE_CHECKING:
    from qpu.lang.compile import KernelIR
    from qpu.lang.compiled import Compiled
    from qpu.launch import Run

__all__ = ["INPUTS", "OUTPUTS", "Walk", "compiled", "fuse", "merged", "moves_of", "write"]

INPUTS: Final = 6
OUTPUTS: Final = 4
PLAIN: Final = Schedule()
SHORT = 48  # items of the last axis below which an index is taken apart instead of giving a worker a row


# -- groups


class Walk:
    """The nodes of one group in order of evaluation, and its key. entries: one a value: a leaf, a scalar, a step.

    absorb: a reduction or product of the shape may stay pending, as `absorbed`, for a kernel that computes it and the
    group after it; its entry is True.
    """

    __slots__ = ("absorb", "absorbed", "entries", "inside", "leaves", "numbers", "scalars", "shape", "sites", "sources",
                 "steps")  # fmt: skip

    def __init__(self, shape: tuple[int, ...], absorb: bool = False) -> None:
        self.shape, self.absorb = shape, absorb
        self.absorbed: Node | None = None
        self.numbers: dict[int, int] = {}
        self.entries: list[Any] = []
        self.leaves: list[Node] = []
        self.scalars: list[Scalar] = []
        self.steps: list[Node] = []
        self.inside: set[int] = set()
        self.sites: tuple[str, ...] = ()
        self.sources: set[int] = set()  # leaves that are read by an index that the group computes

    def source(self, node: Node) -> int:
        """The number of an array that `gather` reads."""
        node.ready()
        self.sources.add(len(self.leaves))
        self.leaves.append(node)
        self.entries.append(False)
        return len(self.entries) - 1

    def visit(self, node: Node) -> int:
        """The number of a node's value."""
        found = self.numbers.get(id(node))
        if found is not None:
            return found
        if node.op and not (node.op[0] != "%" and (node.shape == self.shape or not node.shape or node.size == 1)):
            if (
                self.absorb
                and self.absorbed is None
                and node.op in ABSORB
                and node.shape == self.shape
                and not node.fused
            ):
                self.absorbed = node
                self.entries.append(True)
                number = self.numbers[id(node)] = len(self.entries) - 1
                return number
            node.memory.evaluate(node)
        entries = self.entries
        if not node.op:
            self.leaves.append(node)
            entries.append(None)
        else:
            args: list[int] = []
            given = node.args
            if node.op == "gather":
                args.append(self.source(given[0]))
                self.sites += (node.site,)
                given = given[1:]
            for a in given:
                if a.__class__ is Scalar:
                    self.scalars.append(a)
                    args.append(len(entries))
                    entries.append(a.dtype)
                else:
                    args.append(self.visit(a))
            self.steps.append(node)
            self.inside.add(id(node))
            entries.append((node.op, tuple(args), node.dtype, node.attr))
        number = self.numbers[id(node)] = len(entries) - 1
        return number


def _split(walk: Walk) -> None:
    """Evaluate a part of a group that reads too many arrays: the largest one that reads few enough."""
    reads: dict[int, int] = {id(leaf): 1 << n for n, leaf in enumerate(walk.leaves)}
    best, most = None, 0
    for node in walk.steps[:-1]:
        found = 0
        for a in node.args:
            if a.__class__ is Node:
                found |= reads.get(id(a), 0)
        reads[id(node)] = found
        count = found.bit_count()
        if most < count <= INPUTS and node.op:
            best, most = node, count
    assert best is not None and most > 1
    best.memory.evaluate(best)


def gathered(root: Node) -> Walk:
    """The group that computes a node."""
    while True:
        walk = Walk(root.shape)
        walk.visit(root)
        if len(walk.leaves) <= INPUTS:
            return walk
        _split(walk)


def fuse(memory: DeviceMemory, root: Node) -> None:
    """Compute a pending elementwise node, and in the same launch what else of its expression is needed later."""
    walk = Walk(root.shape, True)
    walk.visit(root)
    if walk.absorbed is not None:
        if _absorbed(memory, walk, walk.absorbed, root):
            return
        walk.absorbed.ready()
        walk = gathered(root)
    elif len(walk.leaves) > INPUTS:
        walk = gathered(root)
    shape = root.shape
    stored = [root]
    for node in reversed(walk.steps[:-1]):
        if node.shape == shape and len(stored) < OUTPUTS and (node.fused or node.needed(walk.inside)):
            stored.append(node)
        else:
            node.fused += 1
    outputs = [memory.storage(shape, node.dtype) for node in stored]
    if 0 not in shape:
        targets = [(walk.numbers[id(n)], n.dtype, storage.buffer.address, None) for n, storage in
                   zip(stored, outputs, strict=True)]  # fmt: skip
        run = launched(memory, walk, shape, targets)
        for storage in outputs:
            storage.run = run
    for node, storage in zip(stored, outputs, strict=True):
        node.becomes(storage)


def _absorbed(memory: DeviceMemory, walk: Walk, node: Node, root: Node) -> bool:
    """Compute the root in the kernel of a reduction or product before it, where nothing else needs a value between."""
    if not node.op or walk.sources or node.needed(walk.inside):
        return False
    between = walk.steps[:-1]
    if any(n.fused or n.needed(walk.inside) for n in between) or not ABSORB[node.op](memory, walk, node, root):
        return False
    for n in (node, *between):
        n.fused += 1
    return True


EVALUATE[""] = fuse


def write(memory: DeviceMemory, target: Node, value: Node) -> None:
    """Write a value of the same shape into memory that a view describes."""
    if 0 in target.shape:
        return
    storage = target.storage
    assert storage is not None
    storage.settle()
    if value.op and value.op[0] != "%" and value.dtype == target.dtype:
        walk = gathered(value)
    else:
        value.ready()
        walk = Walk(target.shape)
        walk.visit(value)
    if any(leaf.storage is storage for leaf in walk.leaves):  # what is read would be overwritten
        value.ready()
        walk = Walk(target.shape)
        walk.visit(value)
        if value.storage is storage:
            copy = pending("astype", (value,), value.shape, value.dtype)
            fuse(memory, copy)
            walk = Walk(target.shape)
            walk.visit(copy)
            value = copy
    number = walk.numbers[id(value)]
    strides = None if target.strides is None else target.strides
    run = launched(memory, walk, target.shape, [(number, target.dtype, target.address, strides)])
    storage.written(run)


# -- iteration


def merged(shape: Sequence[int], strides: Sequence[Sequence[int]]) -> tuple[list[int], list[list[int]]]:
    """Axes that all arrays run through as one axis are one: extents, and strides of each array."""
    extents: list[int] = []
    found: list[list[int]] = [[] for _ in strides]
    for axis in range(len(shape) - 1, -1, -1):
        n = shape[axis]
        if n == 1:
            continue
        if extents and all(s[axis] == f[-1] * extents[-1] for s, f in zip(strides, found, strict=True)):
            extents[-1] *= n
            continue
        extents.append(n)
        for s, f in zip(strides, found, strict=True):
            f.append(s[axis])
    if not extents:
        extents = [1]
        found = [[0] for _ in strides]
    return extents[::-1], [f[::-1] for f in found]


def spread_out(node: Node, shape: Sequence[int]) -> list[int]:
    """Strides of a node broadcast to a shape."""
    steps = node.steps
    extra = len(shape) - len(steps)
    return [0] * extra + [0 if n == 1 else s for n, s in zip(node.shape, steps, strict=True)]


def divided(extents: list[int], strides: list[list[int]]) -> None:
    """Cut the last axis where there are too few rows to keep every worker busy."""
    rows = 1
    for n in extents[:-1]:
        rows *= n
    n = extents[-1]
    if rows >= 32 or n < 1024:
        return
    for pieces in range(min(64, n // 256), 1, -1):
        if n % pieces == 0:
            extents[-1:] = [pieces, n // pieces]
            for s in strides:
                s[-1:] = [s[-1] * (n // pieces), s[-1]]
            return


def moves_of(form: str, strides: Sequence[int]) -> tuple[int, tuple[bool, ...]]:
    """How an array moves along the last axis, and along which outer axes."""
    if not any(strides):
        return FIXED, (False,) * (len(strides) if form == "index" else len(strides) - 1)
    if form == "index":
        return INDEXED, tuple(s != 0 for s in strides)
    last = strides[-1]
    return (CONTIGUOUS if last == 1 else PER_ROW if not last else STRIDED), tuple(s != 0 for s in strides[:-1])


def launched(
    memory: DeviceMemory, walk: Walk, shape: tuple[int, ...],
    targets: Sequence[tuple[int, Any, int, tuple[int, ...] | None]], places: tuple[int, int] | None = None,
) -> Run:  # fmt: skip
    """Launch a group. targets: number of the value, dtype, address and strides of each array that is written; places:
    of the one array that is written by index: numbers of the values that say where, and whether (or -1).
    """
    numbers: dict[str, int] = {}
    leaves = walk.leaves
    isa = memory.isa
    pattern: list[int] = []
    sources = walk.sources
    for k, leaf in enumerate(leaves):
        if k in sources:
            pattern.append(SOURCE)
        elif leaf.shape == shape and leaf.strides is None:
            pattern.append(CONTIGUOUS)
        elif leaf.size == 1:
            pattern.append(FIXED)
        else:
            break
    addresses = [leaf.storage.buffer.address + leaf.offset for leaf in leaves]  # type: ignore[union-attr]  # in memory
    addresses += [t[2] for t in targets]
    spaces: Any
    if len(pattern) == len(leaves) and all(t[3] is None for t in targets):
        n = 1
        for extent in shape:
            n *= extent
        numbers["n"] = n
        form, axes = "flat", 1
        spaces = tuple(pattern)
        wide: tuple[bool, ...] = ()
        if isa is Isa.V3D42:
            wide = tuple([not a & 15 for a in addresses])
    else:
        strides = [[0] * len(shape) if k in sources else spread_out(leaf, shape) for k, leaf in enumerate(leaves)]
        strides += [list(c_strides(shape) if t[3] is None else t[3]) for t in targets]
        extents, strides = merged(shape, strides)
        if len(extents) > 1 and extents[-1] >= SHORT:
            divided(extents, strides)
        form = "flat" if len(extents) == 1 else "rows" if extents[-1] >= SHORT else "index"
        axes = len(extents)
        sizes = [leaf.dtype.itemsize for leaf in leaves] + [t[1].itemsize for t in targets]
        found = []
        wide_: list[bool] = []
        for k, (s, size) in enumerate(zip(strides, sizes, strict=True)):
            moves = (SOURCE, ()) if k in sources else moves_of(form, s)
            found.append(moves)
            name = f"x{k}" if k < len(leaves) else f"y{k - len(leaves)}"
            if moves[0] == STRIDED:
                numbers[f"{name}.t"] = s[-1] * size
            for axis, step in enumerate(s if form == "index" else s[:-1]):
                numbers[f"{name}.t{axis}"] = step * size
            wide_.append(not addresses[k] & 15 and all(not step * size & 15 for step in s[:-1]))
        for axis, extent in enumerate(extents):
            numbers[f"d{axis}"] = extent
        if form == "rows":
            rows = 1
            for extent in extents[:-1]:
                rows *= extent
            numbers["rows"], numbers["n"] = rows, extents[-1]
        else:
            n = 1
            for extent in extents:
                n *= extent
            numbers["n"] = n
        spaces = tuple(found)
        wide = tuple(wide_) if isa is Isa.V3D42 else ()
    key = (form, axes, spaces, wide, tuple([x.dtype for x in leaves]), tuple(walk.entries),
           tuple([(t[0], t[1]) for t in targets]), places)  # fmt: skip
    plan = memory.kernels.get(key)
    if plan is None:
        plan = memory.kernels[key] = _plan(memory, walk, form, axes, spaces, wide, targets, places)
    for n, address in enumerate(addresses[: len(leaves)]):
        numbers[f"x{n}.base"] = address
    for n, address in enumerate(addresses[len(leaves) :]):
        numbers[f"y{n}.base"] = address
    for n, scalar in enumerate(walk.scalars):
        numbers[f"s{n}"] = scalar.bits[0]
        if len(scalar.bits) > 1:
            numbers[f"s{n}i"] = scalar.bits[1]
    if numbers["n"] * numbers.get("rows", 1) <= parts.FREE:
        return memory.start(plan, numbers, walk.sites)
    kinds = [s if isinstance(s, int) else s[0] for s in spaces] + [CONTIGUOUS] * (len(addresses) - len(spaces))
    names = [f"x{k}" for k in range(len(leaves))] + [f"y{k}" for k in range(len(targets))]
    types = [x.dtype for x in leaves] + [t[1] for t in targets]
    steps = {
        name: 0 if move == SOURCE or (places and name == "y0") else numbers.get(f"{name}.t0", 0) if form != "flat"
        else dtype.itemsize if move == CONTIGUOUS else numbers.get(f"{name}.t", 0)
        for name, move, dtype in zip(names, kinds, types, strict=True)
    }  # fmt: skip
    length = len(plan.compiled.program.words)
    runs = [memory.start(plan, part, walk.sites) for part in parts.parted(numbers, form, length, steps)]
    return runs[0] if len(runs) == 1 else parts.Several(runs)  # type: ignore[return-value]  # waits as a run does


# -- kernels


def numbered(walk: Walk) -> tuple[list[int], tuple[Step, ...]]:
    """Where each value of a walk is when the leaves come first, then the scalars, then the steps; and the steps."""
    places = [0] * len(walk.entries)
    leaves = scalars = steps = 0
    for n, e in enumerate(walk.entries):
        if e is None or e is False:
            places[n], leaves = leaves, leaves + 1
    for n, e in enumerate(walk.entries):
        if e is not None and e is not False and not isinstance(e, tuple):
            places[n], scalars = leaves + scalars, scalars + 1
    for n, e in enumerate(walk.entries):
        if isinstance(e, tuple):
            places[n], steps = leaves + scalars + steps, steps + 1
    return places, tuple(
        Step(e[0], tuple(places[a] for a in e[1]), e[2].name, e[3]) for e in walk.entries if isinstance(e, tuple)
    )


def _plan(
    memory: DeviceMemory, walk: Walk, form: str, axes: int, spaces: Sequence[Any], wide: tuple[bool, ...],
    targets: Sequence[tuple[int, Any, int, tuple[int, ...] | None]], scattered: tuple[int, int] | None,
) -> Plan:  # fmt: skip
    places, steps = numbered(walk)
    flat = form == "flat" and axes == 1 and (not spaces or isinstance(spaces[0], int))
    moves = [(m, ()) for m in spaces] + [(CONTIGUOUS, ())] * len(targets) if flat else spaces
    count = len(walk.leaves)
    leaves = tuple(Leaf(x.dtype.name, m, tuple(o)) for x, (m, o) in zip(walk.leaves, moves[:count], strict=True))
    outputs = tuple(
        Output(places[t[0]], t[1].name, m, tuple(o)) for t, (m, o) in zip(targets, moves[count:], strict=True)
    )
    if scattered is not None:
        at, only = (places[n] if n >= 0 else -1 for n in scattered)
        outputs = tuple(o._replace(moves=SOURCE, at=at, only=only) for o in outputs)
    group = Group(form, axes, leaves, tuple(s.dtype.name for s in walk.scalars), steps, outputs)
    return Plan(formula(group), {}, compiled(memory.isa, group, wide, elementwise))


def _coarsen(ir: KernelIR) -> int:
    """How many vectors a turn takes: fewer where each is much work, which hides latencies by itself."""
    operations = list(walk(ir.region))
    own = [v for v in operations if isinstance(v.attr, Loop) and not v.attr.items]
    if len(own) > (ir.extent is not None and len(ir.extent) > 1):  # loops of the items
        return 1
    each = len(operations) // 2  # the main loop, and the rest under a mask
    return 4 if each <= 60 else 2 if each <= 120 else 1


@cache
def _hash() -> str:
    """Stands for the source of this package."""
    found = hashlib.sha256()
    try:
        for path in sorted(Path(__file__).parent.glob("*.py")):
            found.update(f"{path.name}\0".encode() + path.read_bytes())
    except OSError:
        return ""
    return found.hexdigest()


def compiled(
    isa: Isa,
    group: Group,
    wide: tuple[bool, ...],
    emit: Callable[[Group, str, int, str], KernelIR],
    schedule: Schedule = PLAIN,
) -> Compiled:
    """The kernel of a group, from the cache on disk where it is there. Raises: CompileError."""
    arrays = len(group.leaves) + len(group.outputs)
    if schedule is PLAIN:
        schedule = Schedule(coarsen=_coarsen(emit(group, str(isa), 1, "row")))
    special = Special(isa, (), schedule, wide or (True,) * arrays)

    def make() -> Compiled:
        return compile_ir(lambda coarsen, layout: emit(group, str(isa), coarsen, layout), special, False,
                          Loc("<expression>", 1), make)  # fmt: skip

    if not _hash() or not disk.compiler_hash():
        return make()
    text = json.dumps([disk.compiler_hash(), _hash(), repr(group), str(isa), wide])
    key = hashlib.sha256(text.encode()).hexdigest()
    found = disk.load_made(key, None, isa, make)
    if found is None:
        found = make()
        disk.save(key, found, None)
    return found


def scatter(memory: DeviceMemory, target: Node, index: Node, value: Node, *, only: Node | None = None) -> None:
    """Write elements of a value to places of an array in memory. index: elements from its first one on, i32; only:
    where to write. Elements that share a place: one of them.
    """
    if 0 in index.shape:
        return
    storage = target.storage
    assert storage is not None
    storage.settle()
    walk = Walk(index.shape)
    walk.sites = (caller(),)
    given = [value, index] if only is None else [value, index, only]
    for node in given:
        if node.op or any(leaf.storage is storage for leaf in walk.leaves):
            node.ready()
        walk.visit(node)
    found = [walk.numbers[id(node)] for node in given]
    run = launched(memory, walk, index.shape, [(found[0], target.dtype, target.address, None)],
                   (found[1], found[2] if only is not None else -1))  # fmt: skip
    storage.written(run)
