"""The translator from V3D programs to LLVM IR: the control-flow graph with delay slots, in straight-line chains.

A node of the graph is an instruction together with its pending effects (a branch in its delay slots, a thread switch
in its delay slots, an SFU result). A chain ends at a TMU request, a branch, a switch, or where chains meet. ALU
instructions are emitted by `qpu.emu.v3d.alu` over `LlvmLanes`. The code of a thread returns to the scheduler at
suspension points with a `Reason`, and continues at the node whose number is in `Slot.RESUME`.
"""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from qpu.core.isa import Isa
from qpu.core.optable import Flags
from qpu.emu.engine.llvm_lanes import I8, I16, I32, I64, LlvmLanes, quick_names
from qpu.emu.engine.native import checkpoint
from qpu.emu.v3d.faults import sentence
from qpu.emu.v3d.prepare import UNIFA_EARLY, Prepared, after_thrsw, broken, pending, prepare
from qpu.emu.v3d.state import CLOBBERED
from qpu.emu.v3d.translate_alu import AluEmitter, Broken
from qpu.emu.v3d.translate_entry import entry_functions
from qpu.emu.v3d.translate_function import PTR
from qpu.emu.v3d.translate_graph import Fetch, explore, static_target
from qpu.emu.v3d.translate_state import (
    CHAIN,
    CHAIN_COUNTS,
    CONTINUE,
    NONE,
    Arg,
    Node,
    Reason,
    Slot,
    Translation,
    Untranslatable,
)
from qpu.emu.v3d.translate_tmu import STREAMS, declarations
from qpu.emu.v3d.translate_values import Values
from qpu.v3d.instr import Alu, Branch, Sig
from qpu.v3d.rules import BRANCH_SLOTS

__all__ = ["translate"]


def translate(
    isa: Isa, fetch: Fetch, entries: Sequence[Node], *, single_segment: bool, strict: bool, registers: int, avx512: bool
) -> Translation:
    """The IR of every node that can be reached from `entries`.

    fetch: as for `explore`. strict: what hardware does not define is a fault; in lenient mode such a program is not
    translated. registers: how many of rf0..rf63 a thread has.

    Raises: Untranslatable for programs that need what only the reference engine models.
    """
    return _Translator(isa, fetch, single_segment, strict, registers, avx512).run(entries)


class _Translator:
    def __init__(
        self, isa: Isa, fetch: Fetch, single_segment: bool, strict: bool, registers: int, avx512: bool
    ) -> None:
        self.isa = isa
        self.fetch = fetch
        self.single_segment = single_segment
        self.strict = strict
        self.registers = registers
        self.avx512 = avx512
        self.module = ir.Module("qpu")
        self.stats: list[list[int]] = []
        self.entries: dict[Node, int] = {}
        self.chain_needs: dict[Node, list[tuple[str, int]]] = {}
        self.rules: dict[tuple[str, str], int] = {}
        self.blocks: dict[Node, ir.Block] = {}
        self.todo: list[Node] = []
        self.reached: set[int] = set()
        self.computed: list[tuple[ir.Block, ir.Block, ir.Value, bool]] = []
        self.tmu, self.refills = declarations(self.module)

    def look(self, entries: Sequence[Node]) -> None:
        """Scan the whole program for properties on which all chains depend."""
        words, self.leaders = explore(self.isa, self.fetch, [n.at for n in entries])
        self.words: dict[int, Prepared] = {at: prepare(self.isa, word) for at, word in words.items()}
        known = [p for p in self.words.values() if p.problem is None]
        halves = [h for p in known if isinstance(p.instr, Alu) for h in (p.instr.add, p.instr.mul)]
        # Threads that meet at barriers exchange data. Some read the data of a neighbour and overwrite their own without
        # a second barrier (v3d.md 8.4), so every request of such a program is a suspension point.
        self.lockstep = any(p.joins_barrier for p in known)
        self.split = any(
            ((h.push or h.update) and h.op.flags is Flags.HALVES) or "flags_a" in h.op.implicit_writes for h in halves
        )
        self.volatile = any(p.volatile_rf0 for p in known)

    # -- graph

    def run(self, entries: Sequence[Node]) -> Translation:
        self.look(entries)
        types = [*[PTR] * 7, I64]
        self.function = ir.Function(self.module, ir.FunctionType(I32, types), "thread")
        self.function.linkage = "internal"
        self.function.attributes.add("noinline")
        for argument in (Arg.STATE, Arg.COUNTERS):
            self.function.args[argument].add_attribute("noalias")
        quick_names(self.function)
        start = self.function.append_basic_block("entry")
        self.leave = self.function.append_basic_block("leave")
        self.b = ir.IRBuilder(start)
        self.v = LlvmLanes(self.b, avx512=self.avx512)
        state = self.function.args[Arg.STATE]
        self.values = Values(self.b, self.v, state, split=self.split, volatile=self.volatile)
        self.alu = AluEmitter(self.values, self.v, self)
        self.budget = self.b.alloca(I64)
        self.reason = self.b.alloca(I32)
        self.b.store(self.function.args[Arg.BUDGET], self.budget)
        resume = self.values.scalar(Slot.RESUME)
        bad = self.function.append_basic_block("bad")
        switch = self.b.switch(resume, bad)
        for node in entries:
            self.entry(node)
        while self.todo:
            self.chain(self.todo.pop())
        for node, number in self.entries.items():
            switch.add_case(I32(number), self.blocks[node])
        self.finish_jumps()
        self.b.position_at_end(bad)
        self.b.store(I32(Reason.UNSUPPORTED), self.reason)
        self.b.branch(self.leave)
        self.b.position_at_end(self.leave)
        self.b.store(self.b.load(self.budget, typ=I64), self.values.pointer(Slot.LEFT))
        self.b.ret(self.b.load(self.reason, typ=I32))
        entry_functions(self.module, self.isa, self.function, self.tmu, lockstep=self.lockstep)
        needs = {self.entries[node]: found for node, found in self.chain_needs.items()}
        return Translation(
            self.module,
            self.stats,
            self.entries,
            needs,
            list(self.rules),
            sorted(self.reached),
            self.lockstep,
            self.split,
        )

    def prepared(self, index: int) -> Prepared | None:
        """The instruction at an index; None outside every buffer."""
        found = self.words.get(index)
        if found is None:
            word = self.fetch(index)
            if word is not None:
                found = self.words[index] = prepare(self.isa, word)
        return found

    def entry(self, node: Node) -> int:
        number = self.entries.setdefault(node, len(self.entries))
        self.block(node)
        return number

    def block(self, node: Node) -> ir.Block:
        found = self.blocks.get(node)
        if found is None:
            found = self.blocks[node] = self.function.append_basic_block(f"i{node.at}")
            self.todo.append(node)
        return found

    def follow(self, node: Node, at: int, **pending: object) -> Node:
        """The node at `at` after `node`."""
        before = NONE
        p = self.prepared(at)
        if p is not None and isinstance(p.instr, Alu) and p.instr.sig & Sig.ROT:
            before = node.at
        return Node(at, before=before, **pending)  # type: ignore[arg-type]

    # -- chains

    def chain(self, node: Node) -> None:
        """Emit instructions from `node` on until control leaves or reaches an existing block."""
        head = self.blocks[node]
        body = self.function.append_basic_block(f"c{node.at}")
        self.b.position_at_end(body)
        self.values.begin()
        self.count = [0] * len(CHAIN_COUNTS)
        self.counter = len(self.stats)
        self.stats.append(self.count)
        first = node
        while True:
            checkpoint()
            self.cut = False
            after = self.step(node)
            if after is None:
                break
            self.count[0] += 1
            if self.cut or after in self.blocks or self.count[0] >= CHAIN or self.leads(after):
                self.close()
                self.b.branch(self.block(after))
                break
            node = after
        self.checks(first, head, body)

    def leads(self, node: Node) -> bool:
        return node.at in self.leaders and node.plain

    def checks(self, node: Node, head: ir.Block, body: ir.Block) -> None:
        """Emit the check at the start of a chain: every result and word that the chain takes must be available."""
        b, values = self.b, self.values
        b.position_at_end(head)
        needs = values.needs
        if not needs:
            b.branch(body)
            return
        counts = {name: sum(n == name for n, _ in needs) for name in "rua"}
        used = [name for name in STREAMS if counts[name]]

        def fine() -> ir.Value:
            found: ir.Value | None = None
            slots = [(Slot.COUNT, counts["r"])] + [(STREAMS[name][2], counts[name]) for name in used]
            for slot, n in slots:
                if n:
                    enough = b.icmp_unsigned(">=", b.load(values.pointer(slot), typ=I32), I32(n))
                    found = enough if found is None else b.and_(found, enough)
            assert found is not None
            return found

        retry = self.function.append_basic_block("retry")
        b.cbranch(fine(), body, retry).set_weights([100_000, 1])
        b.position_at_end(retry)
        if used:
            stop = self.function.append_basic_block("lacking")
            arguments = [self.function.args[i] for i in (Arg.STATE, Arg.MEMORY, Arg.PAGES, Arg.KEPT, Arg.COPIES)]
            for name in used:
                b.call(self.refills[name], arguments)
            b.cbranch(fine(), body, stop)
            b.position_at_end(stop)
        self.chain_needs[node] = list(needs)
        self.leave_with(Reason.CHECK, node.at, self.entry(node))

    def close(self) -> None:
        """End the chain: write back streams, counts and budget."""
        self.values.finish()
        at = self.b.gep(self.function.args[Arg.COUNTERS], [I64(8 * self.counter)], source_etype=I8)
        self.b.store(self.b.add(self.b.load(at, typ=I64), I64(1)), at)
        self.spend()

    def spend(self) -> None:
        left = self.b.sub(self.b.load(self.budget, typ=I64), I64(self.count[0]))
        self.b.store(left, self.budget)

    def store(self, slot: Slot, value: ir.Value) -> None:
        """Write a number of the state that no chain caches."""
        self.b.store(value, self.values.pointer(slot))

    def load(self, slot: Slot) -> ir.Value:
        return self.b.load(self.values.pointer(slot), typ=I32)

    def leave_with(self, reason: Reason | ir.Value, index: int, resume: int | ir.Value | None) -> None:
        """Leave the function; the current block ends here."""
        if resume is not None:
            self.store(Slot.RESUME, I32(resume) if isinstance(resume, int) else resume)
        self.store(Slot.AT, I32(index))
        self.b.store(I32(reason) if isinstance(reason, Reason) else reason, self.reason)
        self.b.branch(self.leave)

    def rule(self, index: int, rule: str, message: str, condition: ir.Value | None) -> None:
        """Leave the function with a report, if `condition`; Untranslatable in lenient mode."""
        if not self.strict:
            raise Untranslatable(f"{rule} at instruction {index}")
        self.fault(index, rule, message, condition)

    def fault(self, index: int, rule: str, message: str, condition: ir.Value | None) -> None:
        """As `rule`, but also in lenient mode. For an empty message the host finds the text."""
        number = self.rules.setdefault((rule, message), len(self.rules))
        if condition is None:
            self.report(index, number)
            return
        with self.b.if_then(condition, likely=False):
            self.report(index, number)

    def report(self, index: int, number: int) -> None:
        self.store(Slot.RULE, I32(number))
        self.spend()
        self.leave_with(Reason.RULE, index, None)

    # -- one instruction

    def step(self, node: Node) -> Node | None:
        """Emit the instruction. Returns: the node that follows, or None when the block is complete."""
        index = node.at
        self.index = index
        p = self.prepared(index)
        self.reached.add(index)
        if p is None or p.problem is not None:
            self.spend()
            self.leave_with(Reason.BAD_CODE, index, None)
            return None
        always = self.always(node, p)
        if always is not None:
            self.rule(index, *always, None)
            return None
        self.count[2:] = map(sum, zip(self.count[2:], p.counts, strict=True))
        left, target = max(0, node.branch - 1), node.target
        switch, marked, ending = node.switch, node.marked, node.ending
        slow: ir.Value | None = None
        if node.branch:
            # The delay slots of a branch that was not taken are ordinary instructions.
            for rule, message in broken(p, pending(self.isa, branch=True)):
                self.rule(index, rule, message, self.taken())
        if isinstance(p.instr, Branch):
            target = self.branch(index, p.instr)
            left = BRANCH_SLOTS
        else:
            if p.thrsw and node.branch:
                left = 0
            try:
                slow = self.alu.emit(index, p, self.prepared(node.before) if node.before != NONE else None)
            except Broken:
                return None
            if p.thrsw:
                single = self.single_segment
                switch, marked, ending = after_thrsw(switch, marked, ending, single_segment=single)
            if slow is not None or p.writes_unifa:
                self.cut = True
        if node.late:
            self.deliver()
        after = self.follow(
            node,
            index + 1,
            branch=left,
            target=target if left else NONE,
            switch=tuple(n - 1 for n in switch),
            marked=marked,
            ending=max(0, ending - 1),
            late=p.sfu_write,
            unifa=UNIFA_EARLY if p.writes_unifa else max(0, node.unifa - 1),
        )
        return self.settle(node, after, slow, jumps=node.branch == 1 and left == 0 and not p.thrsw, ends=ending == 1)

    def always(self, node: Node, p: Prepared) -> tuple[str, str] | None:
        """The rule that the instruction breaks whenever this node executes."""
        if p.max_rf >= self.registers:
            return "register-range", sentence("register-range", p.max_rf)
        switch = bool(node.switch or node.ending)
        found = broken(p, pending(self.isa, late=node.late, unifa=bool(node.unifa), switch=switch))
        return found[0] if found else None

    def deliver(self) -> None:
        """Write the SFU result to r4."""
        values = self.values
        r4 = Slot.ACC + 16 * 4
        bits = self.b.trunc(values.scalar(Slot.LATE_MASK), I16)
        mask = self.b.bitcast(bits, ir.VectorType(ir.IntType(1), 16))
        values.put_vector(r4, self.v.select(mask, values.vector(Slot.LATE), values.vector(r4)))

    def request(self, address: ir.Value, live: ir.Value) -> ir.Value:
        """Start a TMU request. Returns: the condition under which the host must perform it."""
        self.store(Slot.AT, I32(self.index))
        pointers = [Arg.STATE, Arg.MEMORY, Arg.PAGES, Arg.KEPT, Arg.COPIES, Arg.CONTROL]
        code = self.b.call(self.tmu, [*[self.function.args[i] for i in pointers], address, live])
        return self.b.icmp_unsigned("!=", code, I32(0))

    # -- effects after an instruction

    def settle(self, node: Node, after: Node, slow: ir.Value | None, *, jumps: bool, ends: bool) -> Node | None:
        """Emit what follows an instruction: a request that the host must perform, a switch, the end, a branch."""
        index = node.at
        if ends:
            self.count[0] += 1
            self.close()
            self.suspend(I32(Reason.END), index, None, slow)
            return None
        if 0 in after.switch:
            self.count[0] += 1
            self.count[1] += 1
            if self.volatile:
                self.lose_rf0(node)
            self.values.rtop = self.v.const(0)
            sync = self.b.icmp_unsigned("!=", self.values.scalar(Slot.SYNC), I32(0))
            self.close()
            number = self.entry(after._replace(switch=tuple(n for n in after.switch if n)))
            reason = self.b.select(sync, I32(Reason.BARRIER), I32(Reason.SWITCH))
            self.suspend(reason, index, number, slow)
            return None
        if jumps:
            self.count[0] += 1
            self.close()
            self.jump(node, after, slow)
            return None
        if slow is None:
            return after
        self.count[0] += 1
        self.close()
        if self.lockstep:
            reason = self.b.select(slow, I32(Reason.TMU), I32(Reason.YIELD))
            self.store(Slot.THEN, I32(Reason.YIELD))
            self.leave_with(reason, index, self.entry(after))
            return None
        with self.b.if_then(slow, likely=False):
            self.suspend(I32(Reason.TMU), index, self.entry(after), None)
        self.b.branch(self.block(after))
        return None

    def lose_rf0(self, node: Node) -> None:
        """7.1: overwrite a volatile rf0 at a switch beside another register-writing signal (v3d.md 8.2)."""
        p = self.prepared(node.at)
        if self.isa is Isa.V3D71 and p is not None and p.addressed_signal:
            values = self.values
            lost = self.b.icmp_unsigned("!=", values.scalar(Slot.VOLATILE), I32(0))
            values.put_vector(Slot.RF, self.b.select(lost, self.v.const(CLOBBERED), values.vector(Slot.RF)))

    def suspend(self, reason: ir.Value, index: int, resume: int | ir.Value | None, slow: ir.Value | None) -> None:
        """Leave with `reason`; if `slow`, with TMU first and with `reason` when the host has done the request."""
        then: ir.Value = I32(CONTINUE)
        if slow is not None:
            then = self.b.select(slow, reason, then)
            reason = self.b.select(slow, I32(Reason.TMU), reason)
        self.store(Slot.THEN, then)
        self.leave_with(reason, index, resume)

    # -- branches

    def taken(self) -> ir.Value:
        """Whether the pending branch is taken."""
        return self.b.icmp_unsigned("!=", self.values.scalar(Slot.TAKEN), I32(0))

    def conditional(self, node: Node) -> bool:
        """Whether the branch whose last delay slot is `node` is conditional."""
        p = self.prepared(node.at - BRANCH_SLOTS)
        return p is None or not isinstance(p.instr, Branch) or bool(p.instr.cond)

    def jump(self, node: Node, after: Node, slow: ir.Value | None) -> None:
        """Emit the jump of the branch whose last delay slot is `node`."""
        b = self.b
        taken = b.icmp_unsigned("!=", self.load(Slot.TAKEN), I32(0))
        goal: Node | None = None
        if node.target != NONE:
            goal = self.follow(node, node.target, marked=after.marked, late=after.late, unifa=after.unifa)
        if slow is not None:
            with b.if_then(slow, likely=False):
                through = I32(self.entry(after))
                then: ir.Value = I32(CONTINUE)
                if goal is not None:
                    number: ir.Value = b.select(taken, I32(self.entry(goal)), through)
                else:
                    number, then = through, b.select(taken, I32(Reason.JUMP), then)
                    self.prepare_jump(after)
                self.store(Slot.THEN, then)
                self.leave_with(Reason.TMU, node.at, number)
        if self.conditional(node):
            here = self.function.append_basic_block("taken")
            b.cbranch(taken, here, self.block(after))
            b.position_at_end(here)
        if goal is None:
            self.prepare_jump(after)
            if after.late or after.unifa:
                self.leave_with(Reason.JUMP, node.at, None)
                return
            spent = b.icmp_signed("<=", b.load(self.budget, typ=I64), I64(0))
            known, unknown = self.function.append_basic_block("known"), self.function.append_basic_block("unknown")
            b.cbranch(spent, unknown, known)
            b.position_at_end(known)
            offset = b.sub(self.load(Slot.TARGET), self.load(Slot.CODE))
            self.computed.append((known, unknown, offset, after.marked))
            b.position_at_end(unknown)
            self.leave_with(Reason.JUMP, node.at, None)
        elif node.target <= node.at:
            spent = b.icmp_signed("<=", b.load(self.budget, typ=I64), I64(0))
            stop = self.function.append_basic_block("budget")
            b.cbranch(spent, stop, self.block(goal))
            b.position_at_end(stop)
            self.leave_with(Reason.BUDGET, node.at, self.entry(goal))
        else:
            b.branch(self.block(goal))

    def prepare_jump(self, after: Node) -> None:
        self.store(Slot.JUMP, self.load(Slot.TARGET))
        self.store(Slot.MARKED, I32(after.marked | after.late << 1 | after.unifa << 2))

    def finish_jumps(self) -> None:
        """Connect computed branches to all entry nodes."""
        for known, unknown, offset, marked in self.computed:
            self.b.position_at_end(known)
            switch = self.b.switch(offset, unknown)
            for node in self.entries:
                if node.plain and node.marked == marked and node.before == NONE:
                    switch.add_case(I32(8 * node.at & 0xFFFFFFFF), self.blocks[node])

    def branch(self, index: int, instr: Branch) -> int:
        """Emit the decision of a branch. Returns: a static target, or NONE with the address in `TARGET`."""
        b, values = self.b, self.values
        word: ir.Value | None = None
        if instr.ub and instr.bdu in ("abs", "rel"):
            word = values.word("u", index)
        taken = b.zext(self.condition(instr), I32) if instr.cond else I32(1)
        hit = b.icmp_unsigned("!=", taken, I32(0))
        target = static_target(index, instr)
        if target == NONE:
            if instr.bdi == "rel":
                after = 8 * (index + 1 + BRANCH_SLOTS)
                address: ir.Value = b.add(values.scalar(Slot.CODE), I32((after + instr.offset) & 0xFFFFFFFF))
            elif instr.bdi == "abs":
                address = I32(instr.offset)
            elif instr.bdi == "lri":
                address = values.scalar(Slot.LINK)
            else:
                address = b.extract_element(values.vector(Slot.RF + 16 * instr.raddr_a), I32(0))
            odd = b.icmp_unsigned("!=", b.and_(address, I32(7)), I32(0))
            values.put_scalar(Slot.TARGET, address)
            self.fault(index, "branch-misaligned", "", b.and_(hit, odd))
        if instr.ub:
            if instr.bdu == "rf":
                where = b.extract_element(values.vector(Slot.RF + 16 * instr.raddr_a), I32(1))
                value = b.and_(where, I32(0xFFFFFFF8))
            elif word is not None:
                value = word if instr.bdu == "abs" else b.add(values.stream_pointer("u"), word)
            else:
                value = values.scalar(Slot.LINK)
                place = b.select(hit, I32((index + 1) & 0xFFFFFFFF), values.scalar(Slot.FROM_LINK))
                values.put_scalar(Slot.FROM_LINK, place)
            values.move_stream("u", value, hit)
            self.cut = True
        if instr.link:
            address = b.add(values.scalar(Slot.CODE), I32(8 * (index + 1 + BRANCH_SLOTS) & 0xFFFFFFFF))
            values.put_scalar(Slot.LINK, b.select(hit, address, values.scalar(Slot.LINK)))
        values.put_scalar(Slot.TAKEN, taken)
        return target

    def condition(self, instr: Branch) -> ir.Value:
        """Whether a conditional branch is taken."""
        b, values = self.b, self.values
        flags = values.bits(values.a)
        if instr.cond in ("a0", "na0"):
            return b.icmp_unsigned("!=" if instr.cond == "a0" else "==", b.and_(flags, I32(1)), I32(0))
        mask: ir.Value = I32(0xFFFF)
        if instr.msfign:
            mask = values.bits(values.live)
            if instr.msfign == "q":
                pairs = b.or_(mask, b.lshr(mask, I32(1)))
                quads = b.and_(b.or_(pairs, b.lshr(pairs, I32(2))), I32(0x1111))
                mask = b.mul(quads, I32(15))
        if instr.cond in ("alla", "anyna"):
            flags = b.xor(flags, I32(0xFFFF))
        equal = "==" if instr.cond in ("alla", "allna") else "!="
        return b.icmp_unsigned(equal, b.and_(flags, mask), I32(0))
