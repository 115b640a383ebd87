"""Launching kernels: arguments are checked, uniforms are packed, and the program is submitted.

Everything that can be refused is refused before anything is submitted, with the name of the parameter. What depends on
types and constants alone is kept in a plan, so that a launch of the same kind costs a few look-ups.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np

from qpu.buffers import Buffer, BufferView
from qpu.core.isa import Isa
from qpu.device import device_of
from qpu.errors import UsageError, counted
from qpu.lang.arguments import Span, apart, overlap, refusal, view_of
from qpu.lang.bounds import WORKERS, Access, Expr, evaluator, room_of_workers
from qpu.lang.compiled import TEAM, Compiled
from qpu.lang.schedule import Schedule
from qpu.lang.signature import Row, Signature, scalar_of
from qpu.lang.specialise import Special
from qpu.lang.words import LARGEST
from qpu.launch import Launch, Run
from qpu.runtime.jobs import OBSERVERS
from qpu.runtime.pool import MemoryPool
from qpu.v3d.launch import Dispatch
from qpu.vc4.launch import Programs

if TYPE_CHECKING:
    from qpu.device import Device
    from qpu.lang.compile import Parameter
    from qpu.lang.source import Source

__all__ = ["Order", "Plan", "compiled_for", "launch"]

How: TypeAlias = tuple[int | None, str | None, bool]
"""Workers, name of a variant, whether to clamp."""


VPM_ROWS = 64  # of programs (vc4.md 14)
LIMIT = 1 << 31  # of an index
SUPERGROUP = 16
"""Workers of V3D that can wait for each other: workgroups of one supergroup (v3d.md 8.4)."""


class Launchable(Protocol):
    """A kernel, as far as launching it goes."""

    schedule: Schedule
    plans: dict[Any, Any]

    @property
    def fn(self) -> Callable[..., None]: ...
    @property
    def parameters(self) -> list[Parameter]: ...
    @property
    def team(self) -> bool: ...
    @property
    def variants(self) -> Mapping[Isa, Mapping[str, Any]]: ...
    @property
    def source(self) -> Source: ...
    def made(self, special: Special) -> Compiled: ...
    def refresh(self) -> None: ...


def launch(
    k: Launchable, gpu: Device | None, how: How, args: Sequence[Any], keywords: Mapping[str, Any], wait: bool
) -> Run:
    """Launch a kernel. Raises: UsageError before anything is submitted; CompileError."""
    call = _Call(k, gpu, how, args, keywords)
    for observer in OBSERVERS:
        observer.called(call.named())
    variant = call.variant(how[1])
    if variant is not None:
        return variant.launch(call.gpu, call.named(), wait)  # type: ignore[no-any-return]  # of `qpu.lang.variants`
    plan = call.plan(how[2])
    if "QPU_LANG_VERIFY" in os.environ:
        _verify(call, plan)
    return plan.run(call, wait)


def compiled_for(
    k: Launchable, gpu: Device | None, how: How, args: Sequence[Any], keywords: Mapping[str, Any]
) -> Compiled:
    """The compiled kernel that a launch with these arguments would run. Raises: as `launch`."""
    return _Call(k, gpu, how, args, keywords).plan(how[2]).compiled


class _Call:
    """One call. values: one a parameter; numbers: launch values by name, as the program reads them."""

    __slots__ = ("gpu", "k", "numbers", "signature", "strided", "values", "wide", "words", "workers")

    def __init__(
        self, k: Launchable, gpu: Device | None, how: How, args: Sequence[Any], keywords: Mapping[str, Any]
    ) -> None:
        k.refresh()
        signature = k.plans.get("signature")
        if signature is None:
            signature = k.plans["signature"] = Signature(k)
        self.k, self.signature = k, signature
        self.workers = how[0]
        self.values = signature.bind(args, keywords)
        self.numbers: dict[str, int] = {}
        self.wide: list[bool] = []
        pool: MemoryPool | None = None
        self.strided: list[bool] = []
        self.words: list[bool] = []
        spans: list[Span] = []
        for row, value in zip(signature.rows, self.values, strict=True):
            if row.kind == "array":
                pool = self._array(row, value, pool, spans)
            elif row.kind == "scalar":
                self.numbers[row.name] = scalar_of(signature.title, row, value)
        self.gpu = self._device(gpu, pool)
        if len(spans) > 1:
            self._overlap(spans)

    def named(self) -> dict[str, Any]:
        """The arguments by parameter name."""
        return {r.name: v for r, v in zip(self.signature.rows, self.values, strict=True)}

    # -- arguments

    def _array(self, row: Row, value: Any, pool: MemoryPool | None, spans: list[Span]) -> MemoryPool:
        title = self.signature.title
        if type(value) is not Buffer:
            value = view_of(title, row, value)
        home = value.buffer if type(value) is BufferView else value
        if home.closed:
            raise refusal("launch-device", title, f"{row.name} is closed", help="allocate a new buffer")
        shape, dtype, address, owner = value.shape, value.dtype, value.address, home.pool
        if dtype is not row.dtype and dtype != row.dtype:
            t = row.type
            assert t is not None
            raise refusal("launch-type", title, f"{row.name} holds {dtype}", allowed=f"{row.dtype}, as {t} wants",
                          help=f"gpu.array({row.name}.astype(np.{t.numpy}))")  # fmt: skip
        if len(shape) != row.rank:
            raise refusal("launch-type", title, f"{row.name} has {counted(len(shape), 'axis')}",
                          allowed=counted(row.rank, "axis"),
                          help=f"{row.name}.view() is a buffer as one axis" if row.rank == 1 else
                          f"a buffer of {counted(row.rank, 'axis')}")  # fmt: skip
        if pool is not None and owner is not pool:
            raise refusal("launch-device", title, f"{row.name} belongs to another device than the arguments before it",
                          help=f"make a copy there: gpu.array({row.name}.numpy())")  # fmt: skip
        if address & row.misaligned:
            raise refusal("launch-align", title, f"{row.name} begins at address {address:#x}",
                          allowed=f"multiples of {row.misaligned + 1}", help="offsets of whole elements")  # fmt: skip
        numbers_ = self.numbers
        numbers_[row.base] = address
        aligned = not address & 15
        if home is value:
            stride = row.size
            for axis in range(row.rank - 1, -1, -1):
                numbers_[row.shapes[axis]] = shape[axis]
                numbers_[row.strides[axis]] = stride
                stride *= shape[axis]
                if axis and stride & 15:
                    aligned = False
            self.wide.append(aligned)
            self.strided.append(False)
            self.words.append(row.size < 4 and _wordy(address, shape, [numbers_[s] for s in row.strides[:-1]]))
            if value.nbytes:
                spans.append((address, address + value.nbytes, row, value))
            return owner
        for axis in range(row.rank):
            numbers_[row.shapes[axis]] = shape[axis]
            numbers_[row.strides[axis]] = stride = value.strides[axis]
            if stride & row.misaligned and shape[axis] > 1:
                found = f"{row.name} has elements {counted(stride, 'byte')} apart on axis {axis}"
                allowed = f"multiples of {row.misaligned + 1}"
                raise refusal("launch-align", title, found, allowed=allowed, help="strides of whole elements")
            if axis < row.rank - 1 and stride & 15:
                aligned = False
        strided = bool(row.rank) and shape[-1] > 1 and value.strides[-1] != row.size
        self.wide.append(aligned and not strided)
        self.strided.append(strided)
        self.words.append(row.size < 4 and not strided and _wordy(address, shape, value.strides[:-1]))
        if row.mode != "in" and not apart(value):
            raise refusal("launch-overlap", title, f"elements of {row.name} share memory, and the kernel writes it",
                          allowed="elements that are apart", help="write to a buffer of its own")  # fmt: skip
        first, end = value.span
        if end > first:
            spans.append((address - value.offset + first, address - value.offset + end, row, value))
        return owner

    def _device(self, gpu: Device | None, pool: MemoryPool | None) -> Device:
        title = self.signature.title
        if pool is None:
            if gpu is None:
                raise refusal("launch-device", title, "no argument is an array, so there is no device",
                              help=f"{title}.on(gpu)(...)")  # fmt: skip
            return gpu
        owner = device_of(pool)
        if gpu is not None and owner is not gpu:
            first = next(r.name for r in self.signature.rows if r.kind == "array")
            raise refusal("launch-device", title, f"{first} belongs to another device than the kernel was bound to",
                          allowed=str(gpu), help=f"{title}.on(...) of its device")  # fmt: skip
        return owner

    def _overlap(self, spans: list[Span]) -> None:
        """In promises not to overlap what the launch writes; an output overlaps no other one."""
        for i, (a0, a1, first, a) in enumerate(spans):
            for b0, b1, second, b in spans[i + 1 :]:
                if a0 < b1 and b0 < a1 and not (first.mode == second.mode == "in") and overlap(a, b):
                    names = f"{first.name} and {second.name}"
                    raise refusal("launch-overlap", self.signature.title,
                                  f"{names} overlap, and the kernel writes one of them",
                                  allowed="arrays that do not overlap",
                                  help="use one InOut parameter, or a copy")  # fmt: skip

    # -- what runs

    def variant(self, name: str | None) -> Any:
        """The variant to run, None for the compiled kernel. Raises: UsageError."""
        known = self.k.variants.get(self.gpu.isa)
        if name == "compiled" or (name is None and not known):
            return None
        if name is None:
            return list(known.values())[-1] if known else None
        if not known or name not in known:
            raise UsageError(f"{self.signature.title} has no variant {name!r} for {self.gpu.isa.label}",
                             help=f"there are: {', '.join(['compiled', *(known or ())])}")  # fmt: skip
        return known[name]

    def plan(self, check: bool) -> Plan:
        """The plan for these types, constants and places."""
        isa, signature = self.gpu.isa, self.signature
        wide = tuple(self.wide) if isa is Isa.V3D42 else None
        strided = tuple(self.strided) if True in self.strided else ()
        words = tuple(self.words) if True in self.words else ()
        most = 8
        if self.workers is not None and not signature.team:  # what is left over takes a worker a vector
            while most > self.workers:
                most //= 2
        consts = tuple((signature.rows[n].name, self.values[n]) for n in signature.consts)
        try:
            key: tuple[Any, ...] = (isa, wide, strided, words, check, most, *((type(v), v) for _, v in consts))
            found = self.k.plans.get(key)
        except TypeError:  # a constant that cannot be hashed
            key = (isa, wide, strided, words, check, most, repr(consts))
            found = self.k.plans.get(key)
        if found is None:
            wide = wide or tuple(not s for s in self.strided)
            special = Special(isa, consts, self.k.schedule, wide, check, most, strided, words)
            ranks = {r.name: r.rank for r in signature.rows}
            found = self.k.plans[key] = Plan(signature.title, ranks, self.k.made(special), check)
        return found


def _wordy(address: int, shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether narrow elements may be accessed as words (`qpu.lang.words`)."""
    if address & 3:
        return False
    return not strides or (max(shape) <= LARGEST and all(not s & 3 and 0 <= s <= LARGEST for s in strides))


def _trivial(a: Access) -> bool:
    """Whether its index runs over the array."""
    return a.constant == 0 and a.terms == ((0, f"{a.array}.shape{a.axis}", 1),)


def _verify(call: _Call, plan: Plan) -> None:
    """Execute what each pass made on copies of the arguments. Raises: PassError, UsageError."""
    from qpu.lang.passes import Arrays, check, stages

    workers = plan.admit(call)
    if not workers:
        return
    arrays, types, numbers_ = [], [], dict(call.numbers)
    for row, value in zip(call.signature.rows, call.values, strict=True):
        if row.kind == "array":
            place = view_of(call.signature.title, row, value)
            home = place.buffer if isinstance(place, BufferView) else place
            numbers_[row.base] -= home.address
            arrays.append((row.name, home.numpy().reshape(-1).view(np.uint8), home.address & 15))
            types.append(place.dtype)
    check(*stages(plan.compiled.remake), Arrays(arrays, numbers_), workers, types)


class Order(Protocol):
    """A launch: numbers by name, as the program reads them, and where. workers: None where the plan decides."""

    numbers: dict[str, int]
    gpu: Device
    workers: int | None


class Plan:
    """A compiled kernel with what its launches evaluate. ranks: axes of each array by its name; strict: an index
    that wraps is refused, too, since the program does not clamp what a launch checks.
    """

    def __init__(self, title: str, ranks: Mapping[str, int], compiled: Compiled, strict: bool = False) -> None:
        self.title, self.compiled, self.strict = title, compiled, strict
        self.team = compiled.team
        self.ranks = ranks
        self.extent = None if compiled.extent is None else evaluator(compiled.extent)
        around = {str((0, e)) for e in compiled.extent or ()}
        self.accesses = [a for a in compiled.accesses if not _trivial(a)]
        expressions: list[Expr] = []
        for a in self.accesses:
            guards = [g for g in a.guards if str(g) not in around]
            lows: list[Expr] = [["low", *t] for t in a.terms]
            highs: list[Expr] = [["high", *t] for t in a.terms]
            expressions += [
                ["empty", *(x for g in guards for x in g)] if guards else 0,
                ["sum", a.constant, *lows],
                ["sum", a.constant, *highs],
                f"{a.array}.shape{a.axis}" if a.array else 1 << 32,
            ]
        self.bounds = evaluator(expressions)
        self.by_worker = room_of_workers(self.accesses)
        self.template = [int(what) & 0xFFFFFFFF if kind == "const" else 0 for kind, what in compiled.uniforms]  # type: ignore[call-overload]  # bits
        self.slots = [
            (n, str(what) if kind == "param" else f"%{kind}")
            for n, (kind, what) in enumerate(compiled.uniforms)
            if kind not in ("const", "worker", "row")
        ]
        self.own = [(n, kind) for n, (kind, _) in enumerate(compiled.uniforms) if kind in ("worker", "row")]
        self.shapes: dict[int, Dispatch] = {}
        self.scratch: WeakKeyDictionary[Device, Buffer] = WeakKeyDictionary()
        self.memory: WeakKeyDictionary[Device, Buffer] = WeakKeyDictionary()

    def admit(self, call: Order) -> int:
        """How many workers; 0 where there is nothing to do. Raises: UsageError for an access outside of its array."""
        count = self._workers(call)
        call.numbers[WORKERS] = count
        found = self.bounds(call.numbers) if count else ()
        for n in range(0, len(found), 4):
            if (
                (found[n + 1] < 0 or found[n + 2] >= found[n + 3])
                and not found[n]
                and (self.strict or (found[n + 1] >= -LIMIT and found[n + 2] < LIMIT))  # it does not wrap
            ):
                self._refuse(self.accesses[n // 4], found[n + 1], found[n + 2], found[n + 3])
        return count

    def run(self, call: Order, wait: bool) -> Run:
        """Launch."""
        numbers_, gpu, compiled = call.numbers, call.gpu, self.compiled
        count = self.admit(call)
        if not count:
            return Run(())
        if compiled.shared:
            numbers_["%shared"] = self._shared(gpu).address
        if compiled.scratch:
            numbers_["%scratch"] = self._scratch(gpu, count * compiled.scratch).address
        words = self.template.copy()
        for n, name in self.slots:
            words[n] = numbers_[name] & 0xFFFFFFFF
        if gpu.isa is not Isa.VC4:
            shape = self.shapes.get(count)
            if shape is None:
                together = count if compiled.resident else 1
                shape = self.shapes[count] = Dispatch(
                    workgroups=(count, 1, 1), workgroups_per_supergroup=together, threads=compiled.threads
                )
            packed = np.array(words, np.uint32)
            start = gpu.run if wait else gpu.submit
            return Run((start(compiled.program, packed, shape),))
        launches: list[Launch] = []
        together = self._together(gpu)
        for first in range(0, count, together):
            last = min(first + together, count)
            streams = np.tile(np.array(words, np.uint32), (last - first, 1))
            for n, kind in self.own:
                streams[:, n] = np.arange(first, last) if kind == "worker" else np.arange(last - first) * compiled.rows
            start = gpu.run if wait and last == count else gpu.submit
            launches.append(start(compiled.program, streams, Programs(last - first)))
        run = Run(tuple(launches))
        return run.wait() if wait else run

    def _together(self, gpu: Device) -> int:
        """Workers of VideoCore IV that run at once: one a QPU, as far as there are rows of the VPM."""
        return min(gpu.qpus, VPM_ROWS // self.compiled.rows)

    def _scratch(self, gpu: Device, size: int) -> Buffer:
        """Memory for values that find no register; launches run one after another there."""
        found = self.scratch.get(gpu)
        if found is None or found.nbytes < size:
            found = self.scratch[gpu] = gpu.empty(size // 4, np.uint32)
        return found

    def _shared(self, gpu: Device) -> Buffer:
        """Memory of the team on a device; launches run one after another there."""
        found = self.memory.get(gpu)
        if found is None:
            found = self.memory[gpu] = gpu.empty(self.compiled.shared // 4, np.uint32)
        return found

    def _workers(self, call: Order) -> int:
        """How many workers; 0 where there is nothing to do."""
        gpu, given = call.gpu, call.workers
        full = self._together(gpu) if gpu.isa is Isa.VC4 else gpu.qpus * self.compiled.threads
        if self.team:
            count = given or (TEAM if self.by_worker is None else call.numbers[self.by_worker])
            if gpu.isa is not Isa.VC4:
                full = min(full, SUPERGROUP)
            if self.compiled.resident and count > full:
                raise refusal("lang-team", self.title, f"{count} workers wait for each other (barrier)",
                              allowed=f"{full} run at once on {gpu.info.emulated or gpu.info.board}",
                              help=f"{self.title}.on(gpu, workers={full})")  # fmt: skip
            return count
        if self.extent is None:
            return given or full
        extent = self.extent(call.numbers)
        if min(extent) <= 0:
            return 0
        n, chunk = extent[-1], 16 * self.compiled.coarsen
        if len(extent) == 1 or self.compiled.march:
            rest = n % chunk
            return max(min(given or full, n // chunk), -(-rest // 16))
        rows = 1
        for size in extent[:-1]:
            rows *= size
        return min(given or full, rows)

    def _refuse(self, a: Access, low: int, high: int, size: int) -> None:
        at = low if low < 0 else high
        if not a.array:
            place = "" if a.loc is None else f" (line {a.loc.line})"
            message = f"{a.text}{place} has the step {low + 1}"
            help = "a step that the launch decides counts up"
            raise refusal("launch-bounds", self.title, message, allowed="positive steps", help=help)
        where = "" if a.loc is None else f" (line {a.loc.line})"
        axis = "" if self.ranks[a.array] == 1 else f" of axis {a.axis}"
        raise refusal(
            "launch-bounds", self.title, f"{a.text}{where} reaches index {at}{axis} of {a.array!r}, which has {size}",
            allowed=f"0..{size - 1}" if size else "nothing: it is empty",
            help=f"a longer {a.array}, a smaller extent, or {a.array}.get(...), {a.array}.clamp[...]",
        )  # fmt: skip
