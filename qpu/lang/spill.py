"""Spilling: values that do not fit the registers are made again before each use, or kept in memory in between.

Kept where: on V3D in scratch memory of the thread behind the TMU, one word a lane; on VideoCore IV in rows of the VPM
that belong to the worker, and where those do not suffice in scratch memory as well, by DMA through one of the rows
(then one worker runs at a time, as it has all rows). Made again: constants, the lane's number, and what one operation
makes of values that are live there anyway.

Results of a TMU come in the order of the requests, and a configuration word counts them, so memory is accessed only at
quiet places: where nothing is pending. Between two of them a spilled value is in one short-lived register.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final, Protocol

from qpu.core.isa import Isa
from qpu.errors import CompileError, Diagnostic, Loc
from qpu.lang.liveness import bits, conflicts, liveness, mutual
from qpu.lang.mir import Block, Fixed, Function, Imm, MOp, OutOfRegisters
from qpu.lang.select_vpm import ROWS
from qpu.v3d.regs import Sig, imm_index
from qpu.vc4.vpm import dma_load, dma_store, vpm_read, vpm_write

__all__ = ["Chip", "ScratchV3d", "Spiller", "VpmVc4", "out_of_registers", "pressure"]

RELOAD, SAVE = "reload", "save"  # roles of operations that `Spiller.finish` replaces; their byte is the slot


ROUNDS = 24  # of colouring and spilling


class Chip(Protocol):
    """How an instruction set keeps values elsewhere. slots: how many there may be."""

    slots: int

    def plan(self, slots: int) -> None:
        """So many slots are needed; the others come next."""

    def quiet(self, ops: list[MOp]) -> list[bool]:
        """For each operation and the end of the block, whether memory may be accessed in front of it."""
        ...

    def load(self, dst: int, base: int, slot: int, register: Callable[[], int]) -> list[MOp]:
        """A value from its slot."""
        ...

    def save(self, source: int, base: int, slot: int, register: Callable[[], int]) -> list[MOp]:
        """A value to its slot."""
        ...

    def frame(self, base: int, slots: int, register: Callable[[], int], payload: int | None) -> list[MOp]:
        """What makes the base, for the start of the program. payload: the register that holds what the launch left."""
        ...


def pressure(function: Function) -> Iterator[tuple[Block, int, int]]:
    """Block, position and the registers that are live behind the operation there."""
    _, out = liveness(function)
    for block in function.blocks:
        live = out[block]
        for i in range(len(block.ops) - 1, -1, -1):
            m = block.ops[i]
            for w in m.writes():
                live |= 1 << w
            yield block, i, live
            live = _before(m, live)


def _before(m: MOp, live: int) -> int:
    for w in m.writes():
        if not ((m.cond or m.pack) and w == m.dst):
            live &= ~(1 << w)
    for r in m.reads():
        live |= 1 << r
    return live


def out_of_registers(function: Function, registers: int) -> CompileError:
    """The error that names what is live at the worst place, by the lines where it is made."""
    block, at, live = max(pressure(function), key=lambda row: row[2].bit_count())
    m = block.ops[at]
    made: dict[int, Loc | None] = {}
    for op in function.ops():
        for w in op.writes():
            made.setdefault(w, op.loc)
    lines: dict[int, int] = {}
    for r in bits(live):
        loc = made.get(r)
        if loc is not None and loc.line is not None:
            lines[loc.line] = lines.get(loc.line, 0) + 1
    rows = ", ".join(f"line {line}: {n}" for line, n in sorted(lines.items(), key=lambda row: -row[1])[:8])
    finding = Diagnostic(
        "lang-reg",
        f"{live.bit_count()} values are live here, there are {registers} registers; made in {rows}",
        loc=m.loc,
        allowed=f"{registers} values at a time, and what can be kept in memory where no result of a load is pending",
        help="coarsen=1, fewer items of a list, or a loop that is not unrolled",
    )
    return CompileError(finding.render(), [finding])


class Spiller:
    """Spilling of one function. scratch: words a lane that it keeps elsewhere."""

    def __init__(self, function: Function, chip: Chip) -> None:
        self.function = function
        self.chip = chip
        self.short: set[int] = {r for m in function.ops() if m.role == "payload" for r in m.writes()}
        self.base: int | None = None
        self.kept: dict[int, float] = {}  # what is in memory, and what that costs
        self.clash = mutual(conflicts(function))
        self.copies = [(m.dst, m.a) for m in function.ops() if m.role == "copy" and type(m.dst) is type(m.a) is int]
        self.frame: list[MOp] = []

    def register(self) -> int:
        """A further virtual register, which is not spilled."""
        self.function.registers += 1
        self.short.add(self.function.registers - 1)
        return self.function.registers - 1

    def reduce(self, limit: int) -> None:
        """Spill until at most so many values are live anywhere. Raises: OutOfRegisters where that cannot be."""
        while True:
            victims = self._victims(limit)
            if not victims:
                return
            self._rewrite(victims)

    def colour(self, attempt: Callable[[Mapping[int, float]], object]) -> None:
        """Spill what finds no place, until `attempt` raises no OutOfRegisters. attempt: takes the registers' costs.

        Raises: OutOfRegisters where that cannot be.
        """
        for last in (*[False] * ROUNDS, True):
            cost = self.costs()
            try:
                attempt(cost)
            except OutOfRegisters as error:
                victims = {} if last else self._instead(error.registers, cost)
                if not victims:
                    raise
                self._rewrite(victims)
            else:
                return

    def costs(self) -> dict[int, float]:
        """What accesses of each register cost in memory."""
        found: dict[int, float] = {}
        for block in self.function.blocks:
            weight = 8.0 ** min(block.depth, 6)
            for m in block.ops:
                for r in (*m.reads(), *m.writes()):
                    found[r] = found.get(r, 0) + weight
        found.update(dict.fromkeys(self.short, float("inf")))
        return found

    def _instead(self, failed: list[int], cost: Mapping[int, float]) -> dict[int, float]:
        """What to spill for registers without a place: themselves, or of a short one the cheapest beside it."""
        found = {r: cost[r] for r in failed if r not in self.short}
        clash = mutual(conflicts(self.function))
        for r in failed:
            beside = [x for x in bits(clash[r]) if x not in self.short and x in cost]
            if r in self.short and beside and not any(x in found for x in beside):
                best = min(beside, key=lambda x: (cost[x] / (clash[x].bit_count() + 1), x))
                found[best] = cost[best]
        cheapest = sorted(found, key=lambda r: (cost[r] / (clash[r].bit_count() + 1), r))
        return {r: found[r] for r in cheapest[: max(8, len(found) // 2)]}

    # -- which

    def _victims(self, limit: int) -> dict[int, float]:
        """Registers to spill and what their accesses cost, so that no place is over the limit."""
        spots = [(live, block, i) for block, i, live in pressure(self.function) if live.bit_count() > limit]
        if not spots:
            return {}
        cost = self.costs()
        near: dict[int, set[tuple[int, int]]] = {}  # places around its accesses, where spilling does not help
        for block in self.function.blocks:
            for i, m in enumerate(block.ops):
                for r in (*m.reads(), *m.writes()):
                    near.setdefault(r, set()).update(((id(block), i), (id(block), i - 1)))
        covers: dict[int, list[int]] = {}
        for n, (live, block, i) in enumerate(spots):
            for r in bits(live):
                if r not in self.short and (id(block), i) not in near[r]:
                    covers.setdefault(r, []).append(n)
        price = {r: cost[r] / len(rows) for r, rows in covers.items()}
        over = [live.bit_count() - limit for live, _, _ in spots]
        here: list[list[int]] = [[] for _ in spots]
        for r, rows in covers.items():
            for n in rows:
                here[n].append(r)
        found: dict[int, float] = {}
        while (most := max(over)) > 0:
            worst = over.index(most)
            left = [r for r in here[worst] if r not in found]
            if not left:
                if found:
                    return found  # the rest after a look at what these left
                raise OutOfRegisters(list(bits(spots[worst][0])))
            best = min(left, key=lambda r: (price[r], r))
            found[best] = cost[best]
            for n in covers[best]:
                over[n] -= 1
        return found

    def _again(self, victims: dict[int, float]) -> dict[int, MOp]:
        """Of the victims those that one operation makes anew wherever they are used, with the operation."""
        made: dict[int, list[MOp]] = {}
        for m in self.function.ops():
            for w in m.writes():
                made.setdefault(w, []).append(m)
        found: dict[int, MOp] = {}
        for r in victims:
            ops = made.get(r, [])
            if len(ops) != 1 or not self._plain(ops[0]):
                continue
            sources = ops[0].sources()
            if any(len(made.get(s, [])) != 1 or s in victims for s in sources):
                continue
            found[r] = ops[0]
        if not found:
            return found
        needed = {r: sum(1 << s for s in set(m.sources())) for r, m in found.items()}
        _, out = liveness(self.function)
        for block in self.function.blocks:
            live = out[block]
            for m in reversed(block.ops):
                live = _before(m, live)
                for r in m.reads():
                    if r in found and needed[r] & ~live:
                        del found[r]
        return found

    @staticmethod
    def _plain(m: MOp) -> bool:
        """Whether an operation has its result alone, from registers and immediates alone."""
        if m.sig or m.cond or m.push or m.update or m.pack or m.role not in ("", "copy") or m.rot is not None:
            return False
        if m.op in ("multop", "umul24") or m.rf_only:
            return False
        return all(x is None or isinstance(x, int | Imm) or x.kind == "io_a" for x in (m.a, m.b))

    # -- how

    def _rewrite(self, victims: dict[int, float]) -> None:
        again = self._again(victims)
        self.kept.update({r: cost for r, cost in victims.items() if r not in again})
        if self.kept and self.base is None:
            self.base = self.register()
            first = self.function.blocks[0]
            payload = [m for m in first.ops if m.role == "payload"]
            self.frame = [MOp("", dst=self.base)]
            first.ops = payload + self.frame + [m for m in first.ops if m.role != "payload"]
        _, out = liveness(self.function)
        for block in self.function.blocks:
            self._block(block, victims, again, out[block])

    def _block(self, block: Block, victims: dict[int, float], again: dict[int, MOp], live: int) -> None:
        """live: behind the block. What dies before the next quiet place is not saved: its slot may be another's."""
        quiet = self.chip.quiet(block.ops)
        behind: list[int] = []  # live registers behind each operation, from the last one
        for m in reversed(block.ops):
            behind.append(live)
            live = _before(m, live)
        behind.reverse()
        ops: list[MOp] = []
        start = 0
        for end in range(1, len(block.ops) + 1):
            if not quiet[end] and end < len(block.ops):
                continue
            part = block.ops[start:end]
            start = end
            if not any(r in victims for m in part for r in (*m.reads(), *m.writes())):
                ops += part
                continue
            place: dict[int, int] = {}
            loads: list[MOp] = []
            written: dict[int, None] = {}
            kept: list[MOp] = []
            for m in part:
                made: dict[int, int] = {}  # again, directly in front of its use
                for r in m.reads():
                    if r in again and r not in made:
                        made[r] = self.register()
                        kept.append(self._make(made[r], again[r]))
                    elif r in victims and r not in again and r not in place:
                        place[r] = self.register()
                        loads.append(MOp("", place[r], role=RELOAD, byte=r))
                if m.dst in again and m is again[m.dst]:
                    continue
                for w in m.writes():
                    if w in victims:
                        place.setdefault(w, self.register())
                        written[w] = None
                m.a, m.b, m.dst, m.sig_dst = (
                    made.get(x, place.get(x, x)) if type(x) is int else x for x in (m.a, m.b, m.dst, m.sig_dst)
                )
                kept.append(m)
            lasting = [w for w in written if behind[end - 1] >> w & 1]
            ops += loads + kept + [MOp("", a=place[w], role=SAVE, byte=w) for w in lasting]
        block.ops = ops

    @staticmethod
    def _make(r: int, m: MOp) -> MOp:
        return MOp(m.op, r, m.a, m.b, amod=m.amod, bmod=m.bmod, byte=m.byte, role=m.role, rf_only=m.rf_only, loc=m.loc)

    def _slots(self) -> dict[int, int]:
        """A slot for each value that is kept; those that are never live together may have one, copies prefer that."""
        copies: dict[int, list[int]] = {}
        for d, a in self.copies:
            copies.setdefault(d, []).append(a)
            copies.setdefault(a, []).append(d)
        found: dict[int, int] = {}
        for r in sorted(self.kept, key=lambda r: (-self.kept[r], r)):
            taken = {found[x] for x in bits(self.clash[r]) if x in found}
            wanted = [found[x] for x in copies.get(r, ()) if x in found]
            found[r] = next(s for s in (*wanted, *range(len(found) + 1)) if s not in taken)
        return found

    def finish(self) -> int:
        """Put accesses of memory in the place of what was planned; how many slots there are. Raises: OutOfRegisters."""
        if self.base is None:
            return 0
        slots = self._slots()
        count = max(slots.values()) + 1
        if count > self.chip.slots:
            raise OutOfRegisters(list(slots))
        self.chip.plan(count)
        for block in self.function.blocks:
            ops: list[MOp] = []
            rows = block.ops
            i = 0
            while i < len(rows):
                m = rows[i]
                i += 1
                if m.role == RELOAD:
                    save = rows[i + 1] if i + 1 < len(rows) else m
                    if (
                        save.role == SAVE and rows[i].role == "copy" and not rows[i].cond
                        and (rows[i].a, rows[i].dst) == (m.dst, save.a) and slots[m.byte] == slots[save.byte]
                    ):  # fmt: skip  # a copy within a slot
                        i += 2
                        continue
                    assert isinstance(m.dst, int)
                    ops += self.chip.load(m.dst, self.base, slots[m.byte], self.register)
                elif m.role == SAVE:
                    assert isinstance(m.a, int)
                    ops += self.chip.save(m.a, self.base, slots[m.byte], self.register)
                elif m in self.frame:
                    payload = next((x.dst for x in block.ops if x.role == "payload"), None)
                    assert payload is None or isinstance(payload, int)
                    ops += self.chip.frame(self.base, count, self.register, payload)
                else:
                    ops.append(m)
            block.ops = ops
        return count


_TMUD, _TMUA = Fixed("magic", 11), Fixed("magic", 12)
_NEAR: Final = (0, 4, 8, 12, -4, -8, -12, -16)  # offsets that are small immediates
ZERO_OFFSET = 16  # of the base in a lane's words


class ScratchV3d:
    """Scratch memory of a thread: `stride` bytes a lane, lanes of a worker and workers one after another."""

    slots = 512

    def __init__(self, isa: Isa) -> None:
        self.payload = {Isa.V3D42: 0, Isa.V3D71: 3}[isa]

    @staticmethod
    def stride(slots: int) -> int:
        """Bytes a lane: a power of two."""
        return max(32, 1 << (4 * slots - 1).bit_length())

    def plan(self, slots: int) -> None:
        """There is nothing to decide."""

    def quiet(self, ops: list[MOp]) -> list[bool]:
        found: list[bool] = []
        pending = configured = 0
        data = False
        for i, m in enumerate(ops):
            found.append(not (pending or configured > 0 or data))
            if m.role == "config":
                rows = [x.byte for x in ops[i + 1 :] if x.role in ("request", "store")][:4]
                configured = max((n for n, byte in enumerate(rows, 1) if byte != 0xFF), default=0)
            elif m.role == "data":
                data = True
            elif m.role in ("request", "store"):
                pending += m.words
                configured -= 1
                data = False
            elif m.role == "pop":
                pending -= 1
        return [*found, True]

    def _address(self, base: int, slot: int, register: Callable[[], int]) -> tuple[list[MOp], MOp]:
        if slot < len(_NEAR):
            offset = _imm(_NEAR[slot])
            return [], MOp("add", _TMUA, base, offset) if _NEAR[slot] else MOp("mov", _TMUA, base)
        words = slot - 4  # behind the base, by octal digits
        digits = [words >> n & 7 for n in (6, 3, 0) if words >> n]
        t = register()
        ops = [MOp("mov", t, _imm(digits[0]))]
        for name, n in (*(row for d in digits[1:] for row in (("shl", 3), ("add", d))), ("shl", 2)):
            if name == "shl" or n:
                after = register()
                ops.append(MOp(name, after, t, _imm(n)))
                t = after
        return ops, MOp("add", _TMUA, base, t)

    def load(self, dst: int, base: int, slot: int, register: Callable[[], int]) -> list[MOp]:
        ops, request = self._address(base, slot, register)
        request.role, request.words = "request", 1
        return [*ops, request, MOp("", sig=int(Sig.LDTMU), sig_dst=dst, role="pop")]

    def save(self, source: int, base: int, slot: int, register: Callable[[], int]) -> list[MOp]:
        ops, store = self._address(base, slot, register)
        store.role = "store"
        return [*ops, MOp("mov", _TMUD, source, role="data"), store]

    def frame(self, base: int, slots: int, register: Callable[[], int], payload: int | None) -> list[MOp]:
        read = []
        if payload is None:
            payload = register()
            read = [MOp("shl", payload, Fixed("rf", self.payload), _imm(-16), role="payload")]
        worker, first, lane, number, at, start, offset = (register() for _ in range(7))
        half, by = _imm(-16), _imm(self.stride(slots).bit_length() - 1)
        return [
            *read,
            MOp("shr", worker, payload, half),
            MOp("shl", first, worker, _imm(4)),
            MOp("eidx", lane),
            MOp("add", number, first, lane),
            MOp("shl", at, number, by),
            MOp("", sig=int(Sig.LDUNIFRF), sig_dst=start, role="uniform", uniform=("scratch", None)),
            MOp("add", offset, at, start),
            MOp("sub", base, offset, _imm(-ZERO_OFFSET)),
        ]


def _imm(value: int) -> Imm:
    index = imm_index(value)
    assert index is not None, value
    return Imm(index)


ALL_ROWS: Final = 64


class VpmVc4:
    """Rows of the VPM behind those that the worker's stores go through (vc4.md 14). far: more slots than rows are
    needed: the last row is the way to and from memory, and the base is the address of that.
    """

    slots = 512
    rows = ALL_ROWS - ROWS

    def __init__(self) -> None:
        self.far = False

    def plan(self, slots: int) -> None:
        """So many slots are needed."""
        self.far = slots > self.rows

    def used(self, slots: int) -> tuple[int, int]:
        """Rows of the VPM, and bytes of memory, for so many slots."""
        return (ALL_ROWS, 64 * (slots - self.rows + 1)) if slots > self.rows else (ROWS + slots, 0)

    @staticmethod
    def gather(ops: list[MOp]) -> list[MOp]:
        """Set-ups directly in front of what they set up, so that most places are quiet."""
        found: list[MOp] = []
        waiting: list[MOp] = []
        for m in ops:
            setup = m.role == "vpm" and m.dst in (_SETUP_READ, _SETUP_WRITE)
            if (m.role == "vpm" and not setup) or any(w in x.reads() for x in waiting for w in m.writes()):
                found += waiting
                waiting = []
            (waiting if setup else found).append(m)
        return found + waiting

    def quiet(self, ops: list[MOp]) -> list[bool]:
        """Not between a set-up and the accesses that it is for, whatever other set-up is between them; nor between the
        set-up of a DMA and its start, nor until the end of one that loads.
        """
        ahead = [False] * (len(ops) + 1)  # whether an access comes next, set-ups apart
        near = [False] * (len(ops) + 1)  # and directly
        starts = [False] * (len(ops) + 1)  # whether the start of a DMA comes next, set-ups and accesses apart
        for i in range(len(ops) - 1, -1, -1):
            m = ops[i]
            vpm = m.role == "vpm"
            access, setup = _VPM in (m.dst, m.a), m.dst in _SETUPS
            near[i] = access if vpm else near[i + 1]
            ahead[i] = (access or (setup and ahead[i + 1])) if vpm else ahead[i + 1]
            starts[i] = (m.dst in _STARTS or ((access or setup) and starts[i + 1])) if vpm else starts[i + 1]
        found: list[bool] = []
        armed = ready = loading = False
        for i, m in enumerate(ops):
            found.append(not (near[i] or (armed and ahead[i]) or (ready and starts[i]) or loading))
            if m.role == "vpm":
                armed = m.dst in _SETUPS
                ready = armed or (ready and _VPM in (m.dst, m.a))
                loading = m.dst == _START_LOAD or (loading and m.a != _START_LOAD)
        return [*found, True]

    def _setup(self, word: int, dst: Fixed, base: int, register: Callable[[], int]) -> list[MOp]:
        """A set-up, of a row that counts from the worker's own; where memory is used these are all rows."""
        t = register()
        if self.far:
            return [MOp("ldi", t, byte=word), MOp("mov", dst, t, role="vpm")]
        return [MOp("ldi", t, byte=word), MOp("add", dst, base, t, role="vpm")]

    def _start(self, slot: int, dst: Fixed, base: int, register: Callable[[], int]) -> list[MOp]:
        """The address of a slot in memory, which starts the DMA."""
        t = register()
        return [MOp("ldi", t, byte=64 * (slot - self.rows + 1)), MOp("add", dst, base, t, role="vpm")]

    def load(self, dst: int, base: int, slot: int, register: Callable[[], int]) -> list[MOp]:
        row = ROWS + min(slot, self.rows - 1)
        found: list[MOp] = []
        if self.far and slot >= self.rows - 1:
            found += self._setup(dma_load(1, 16, y=row), _SETUP_READ, base, register)
            found += self._start(slot, _START_LOAD, base, register)
            found.append(MOp("mov", _NOWHERE, _START_LOAD, role="vpm"))
        setup = self._setup(vpm_read(1, y=row), _SETUP_READ, base, register)
        return [*found, *setup, MOp("mov", dst, _VPM, role="vpm")]

    def save(self, source: int, base: int, slot: int, register: Callable[[], int]) -> list[MOp]:
        row = ROWS + min(slot, self.rows - 1)
        setup = self._setup(vpm_write(y=row), _SETUP_WRITE, base, register)
        found = [*setup, MOp("mov", _VPM, source, role="vpm")]
        if self.far and slot >= self.rows - 1:
            found.insert(0, MOp("mov", _NOWHERE, _START_STORE, role="vpm"))
            found += self._setup(dma_store(1, 16, y=row), _SETUP_WRITE, base, register)
            found += self._start(slot, _START_STORE, base, register)
            found.append(MOp("mov", _NOWHERE, _START_STORE, role="vpm"))
        return found

    def frame(self, base: int, slots: int, register: Callable[[], int], payload: int | None) -> list[MOp]:
        return [MOp("mov", base, Fixed("io", 32), role="uniform", uniform=("scratch" if self.far else "row", None))]


_NOWHERE, _VPM, _SETUP_READ, _SETUP_WRITE = Fixed("io", 39), Fixed("io", 48), Fixed("io_a", 49), Fixed("io_b", 49)
_START_LOAD, _START_STORE = Fixed("io_a", 50), Fixed("io_b", 50)  # written; read, they wait for the end
_SETUPS, _STARTS = (_SETUP_READ, _SETUP_WRITE), (_START_LOAD, _START_STORE)
