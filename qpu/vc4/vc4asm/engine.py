"""The engine of one pass over a source text: executes lines, functions and macros, and writes the output."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from qpu.core.locations import LINE_LIMIT
from qpu.errors import counted, suggest
from qpu.vc4.encode import NOP_WORD, encode
from qpu.vc4.instr import Alu, Branch, Instr, Reserved, Semaphore
from qpu.vc4.regs import SIG_SMALL_IMM
from qpu.vc4.vc4asm.budget import Budget
from qpu.vc4.vc4asm.builtins import PREDICATES
from qpu.vc4.vc4asm.expr import Callable_, Parser, evaluate
from qpu.vc4.vc4asm.fault import Fault
from qpu.vc4.vc4asm.labels import Labels
from qpu.vc4.vc4asm.names import OPCODES
from qpu.vc4.vc4asm.operands import Operation
from qpu.vc4.vc4asm.output import Output
from qpu.vc4.vc4asm.parse import parse_operation
from qpu.vc4.vc4asm.place import Instruction
from qpu.vc4.vc4asm.report import Report
from qpu.vc4.vc4asm.symbols import ExpressionFunction, LineFunction, Macro, Scope, Symbols
from qpu.vc4.vc4asm.text import DIRECTIVE, LABELS, Block, Lines, Source, strip_comment
from qpu.vc4.vc4asm.values import Key, LabelRef, Value

__all__ = ["STANDARD_INCLUDE", "Engine", "Handler"]

STANDARD_INCLUDE = "vc4.qinc"

_WORD = re.compile(r"\s*([A-Za-z_]\w*)")

# Line -> word, for lines that use no name of the source text.
_LINE_CACHE: dict[str, int] = {}
_OPERATION_CACHE: dict[str, Operation] = {}
_CACHE_LIMIT = 200_000

# Writes and reads that may appear once in an instruction (TMU, SFU, TLB, mutex, semaphore); colour counts extra.
_ONCE_WRITE = frozenset({41, 42, 43, 44, 45, 46, 47, *range(52, 64)})
_ONCE_READ = frozenset({41, 42, 51})


def _exclusive(instr: Instr) -> int:
    """Number of single-use resources (TMU, SFU, TLB, mutex, semaphore, signal) that an instruction uses."""
    if isinstance(instr, Branch | Reserved):
        return 0
    n = (instr.waddr_add in _ONCE_WRITE) + (instr.waddr_mul in _ONCE_WRITE)
    if not isinstance(instr, Alu):
        return n + isinstance(instr, Semaphore)
    n += (instr.raddr_a in _ONCE_READ) + (instr.sig != SIG_SMALL_IMM and instr.raddr_b in _ONCE_READ)
    return n + (7 <= instr.sig <= 12)


class Engine:
    """State of one pass. It is the environment of expressions, see `qpu.vc4.vc4asm.expr.Environment`.

    directives: what each directive does. standard: the names of the standard include. previous: the output of the
    pass before; expressions with forward references use its labels, ``.clone`` of later code uses its words.
    """

    def __init__(
        self,
        directives: Mapping[str, Handler],
        standard: Scope | None = None,
        previous: Output | None = None,
        *,
        include_path: Sequence[str] = (),
        include_root: str | None = None,
    ) -> None:
        self.directives = directives
        self.previous = previous
        self.include_path = tuple(include_path)
        self.include_root = include_root
        self.budget = Budget()
        self.report = Report()
        self.symbols = Symbols(standard)
        self.out = Output()
        self.labels = Labels(self.out.labels, {} if previous is None else previous.labels)
        self.exports: dict[str, tuple[Value, Source]] = {}
        self.clones: list[tuple[Key, int, int, int]] = []
        self.source: Source = ("", "", 0)
        self.results: list[Value] | None = None  # inside a .func: the values of its lines
        self.names: set[str] | None = None  # inside a function: names that its value may depend on
        self.instruction = Instruction()
        self.lookup = self.symbols.lookup
        self.unknown = self.symbols.unknown

    # -- environment of expressions ------------------------------------------------------------------------------

    def function(self, name: str) -> Callable_ | None:
        """The function `name` of the source text, else a predicate, else a function of the standard include."""
        found = self.symbols.find_function(name)
        if found is None:
            return PREDICATES.get(name)
        return lambda arguments, pos: self.call(found, arguments, pos)

    def label(self, name: str, pos: int) -> LabelRef:
        """The label that a reference in the current line means."""
        self.symbols.tainted = True
        self.symbols.effects += 1
        return self.labels.reference(name, pos, self.source)

    def label_difference(self, a: LabelRef, b: LabelRef) -> int:
        """Bytes from label `b` to label `a`."""
        self.symbols.effects += 1
        return self.labels.difference(a, b)

    def warn(self, rule: str, message: str, pos: int, help: str | None = None) -> None:
        """Record a warning in the current line."""
        self.symbols.tainted = True
        self.symbols.effects += 1
        self.report.warn(Fault(rule, message, pos, help=help), self.source)

    # -- functions -----------------------------------------------------------------------------------------------

    def call(self, function: ExpressionFunction | LineFunction, arguments: Sequence[Value], pos: int) -> Value:
        """The value of a function call."""
        name = function.name
        if len(arguments) != len(function.parameters):
            wanted = len(function.parameters)
            raise Fault("argument-count", f"{name} takes {counted(wanted, 'argument')}, not {len(arguments)}", pos,
                        allowed=f"{name}({', '.join(function.parameters)})")  # fmt: skip
        budget, symbols = self.budget, self.symbols
        names = self.names
        if names is None:
            budget.called = 0
        key = (function, *arguments) if all(type(a) is int for a in arguments) else None
        known = None if key is None else symbols.results.get(key)
        if known is not None and symbols.outermost(known.names):
            budget.evaluate(len(known.names), pos, known.cost)
            if names is not None:
                names |= known.names
            return known.value
        before, effects = budget.called, symbols.effects
        budget.enter(1, "functions and macros", pos, call=True)
        if name == "min" and function.source[1] == STANDARD_INCLUDE:
            self.warn("standard-min",
                      "min of the standard include gives the larger number, as in the reference assembler", pos,
                      "define a function of your own")  # fmt: skip
        scope = symbols.enter(dict(zip(function.parameters, arguments, strict=True)))
        source, results = self.source, self.results
        self.names = set(function.words)
        try:
            if isinstance(function, ExpressionFunction):
                budget.evaluate(len(function.text), pos)
                self.source = function.source
                value = evaluate(function.text, self, function.pos)
            else:
                self.results = []
                self.run_block(function.body)
                if len(self.results) != 1:
                    count = "no value" if not self.results else f"{counted(len(self.results), 'value')}"
                    raise Fault("function-value", f"{name} gives {count} instead of one", pos,
                                help="write exactly one expression on a line of its own for every case")  # fmt: skip
                value = self.results[0]
        except Fault as fault:
            if self.source is not source and fault.rule not in ("recursion", "expansion"):
                _, file, line = self.source
                fault.message += f"; in {name} at {file}:{line}"
            raise fault.at(pos) from None
        finally:
            symbols.scope, self.source, self.results = scope, source, results
            budget.leave()
            found = self.names.difference(function.parameters)
            self.names = names
            if names is not None:
                names |= found
        if key is not None and effects == symbols.effects and symbols.outermost(found):
            symbols.remember(key, value, budget.called - before, found)
        budget.characters -= len(found)
        return value

    # -- lines ---------------------------------------------------------------------------------------------------

    def run_text(self, text: str, filename: str) -> None:
        """Assemble a whole text."""
        lines = Lines.of(text, filename)
        self.budget.text(len(lines.sources))
        self.run_block(lines.whole)

    def run_block(self, block: Block) -> None:
        """Execute lines in order. Faults are recorded and skipped, except in functions, where they propagate."""
        lines, i, stop = block
        sources = lines.sources
        in_function = self.results is not None
        out, symbols, budget = self.out, self.symbols, self.budget
        get = _LINE_CACHE.get
        while i < stop:
            source = sources[i]
            text = source[0]
            if symbols.plain and not in_function:
                word = get(text)
                if word is not None and not out.tail_bits:
                    out.words.append(word)
                    out.where.append(source)
                    out.is_code.append(out.region is not False)
                    i += 1
                    continue
            self.source = source
            at = i
            i += 1
            try:
                if in_function:
                    budget.evaluate(len(text), 0)
                elif budget.level:
                    budget.line(len(text))
                code = strip_comment(text)
                if len(code) > LINE_LIMIT:
                    raise Fault("syntax", "the line is too long", LINE_LIMIT, allowed=f"{LINE_LIMIT} characters",
                                help="split the line")  # fmt: skip
                match = DIRECTIVE.match(code)
                if match is None:
                    start = 0
                    label = LABELS.match(code)
                    while label is not None and not in_function:
                        start = label.end()
                        self._label(label)
                        label = LABELS.match(code, start)
                    match = DIRECTIVE.match(code, start) if start else None
                    if match is None:
                        if in_function:
                            if code.strip() and self.results is not None:
                                self.results.append(evaluate(code, self))
                        elif code[start:].strip():
                            self._instructions(code, start)
                        continue
                i = self._directive(code, match, block, at)
                self.source = source
            except Fault as fault:
                if in_function:
                    raise
                self.report.error(fault, self.source)

    def _label(self, match: re.Match[str]) -> None:
        if match.group(4):
            self.out.seal()
            return
        group = 2 if match.group(2) else 3
        name, pos = match.group(group), match.start(group)
        export = match.group(1) == "::"
        key = self.labels.define(name, export, pos, self.source)
        if export:
            self.exports[name] = (LabelRef(key), self.source)
        self.out.label(key)

    def _directive(self, code: str, match: re.Match[str], block: Block, at: int) -> int:
        """Execute the directive on line `at`; returns the next line."""
        name = match.group(1)
        handler = self.directives.get(name)
        if handler is None:
            help = suggest(name, self.directives, ".{}") or "see the list of directives in the language reference"
            raise Fault("unknown-directive", f"there is no directive .{name}", match.start(1), help=help)
        in_function = self.results is not None
        if in_function and name not in _IN_FUNCTIONS:
            raise Fault("function-line", f".{name} is not a directive of functions", match.start(1),
                        allowed=" ".join("." + n for n in sorted(_IN_FUNCTIONS)))  # fmt: skip
        parser = Parser(code, self, match.end())
        try:
            after = handler(self, parser, block, at)
            return at + 1 if after is None else after
        except Fault as fault:
            if in_function or fault.rule == "block-end":
                raise
            self.report.error(fault, self.source)
            opened = block.inner(at)
            return at + 1 if opened is None else opened.stop + 1

    # -- instructions --------------------------------------------------------------------------------------------

    def _instructions(self, code: str, start: int) -> None:
        symbols = self.symbols
        word = _WORD.match(code, start)
        if word is not None and word.group(1) in symbols.macros:
            self._expand(symbols.macros[word.group(1)], code, word)
            return
        pieces = code[start:].split(";")
        leads = not pieces[0].strip()
        trails = len(pieces) > 1 and not pieces[-1].strip()
        operations: list[Operation] = []
        offsets: list[int] = []
        at = start
        symbols.tainted = False
        cache = symbols.plain
        try:
            for piece in pieces:
                if piece.strip():
                    operation = _OPERATION_CACHE.get(piece) if cache else None
                    if operation is None:
                        clean, symbols.tainted = symbols.tainted, False
                        try:
                            operation = parse_operation(piece, self)
                        except Fault as fault:
                            raise self._better(fault, piece).shifted(at) from None
                        if cache and not symbols.tainted:
                            if len(_OPERATION_CACHE) > _CACHE_LIMIT:
                                _OPERATION_CACHE.clear()
                            _OPERATION_CACHE[piece] = operation
                        symbols.tainted |= clean
                    operations.append(operation)
                    offsets.append(at)
                at += len(piece) + 1
            if not operations:
                return
            if leads and self._merge(operations, offsets, trails):
                return
            quiet = self._emit(operations, offsets)
        except Fault:
            self.out.word(NOP_WORD, self.source)  # keeps later addresses right
            raise
        if trails:
            self.out.joinable[len(self.out.words) - 1] = operations
        elif quiet and cache and not symbols.tainted and not leads and not start:
            if len(_LINE_CACHE) > _CACHE_LIMIT:
                _LINE_CACHE.clear()
            _LINE_CACHE[self.source[0]] = self.out.words[-1]

    def _better(self, fault: Fault, piece: str) -> Fault:
        """The fault with better help where a macro is misspelt or used after a semicolon."""
        if fault.rule == "unknown-instruction":
            word = _WORD.match(piece)
            if word is not None and word.group(1) in self.symbols.macros:
                return Fault("macro-place", f"the macro {word.group(1)} must be alone on its line", word.start(1),
                             help="write it on a line of its own")  # fmt: skip
            if word is not None:
                fault.help = suggest(word.group(1), [*self.symbols.macros, *OPCODES]) or fault.help
        return fault

    def _emit(self, operations: Sequence[Operation], offsets: Sequence[int]) -> bool:
        """Write one instruction; returns whether its word may be cached."""
        ins = self.instruction
        try:
            word = encode(ins.assemble(operations))
        except Fault as fault:
            raise fault.shifted(offsets[ins.current]) from None  # the current operation is the one that failed
        if self.out.word(word, self.source, ins.target):
            self.warn("data-padding", "the data before this instruction was padded to 8 bytes", offsets[0],
                      "write .align 8")  # fmt: skip
            return False
        for note in ins.notes:
            self.warn(note.rule, note.message, note.pos + offsets[note.operation], note.help)
        return not ins.notes and ins.target is None

    def _merge(self, operations: Sequence[Operation], offsets: Sequence[int], trails: bool) -> bool:
        """Try to add `operations` to the previous instruction, if that ended with a semicolon."""
        out = self.out
        index = len(out.words) - 1
        before = out.joinable.get(index)
        if before is None or out.tail_bits:
            return False
        del out.joinable[index]
        together = [*before, *operations]
        try:
            instr = self.instruction.assemble(together)
        except Fault:
            return False
        if _exclusive(instr) > 1:
            return False
        out.words[index] = encode(instr)
        for note in self.instruction.notes:
            if note.operation >= len(before):
                self.warn(note.rule, note.message, note.pos + offsets[note.operation - len(before)], note.help)
        if trails:
            out.joinable[index] = together
        return True

    # -- macros --------------------------------------------------------------------------------------------------

    def _expand(self, macro: Macro, code: str, word: re.Match[str]) -> None:
        parser = Parser(code, self, word.end())
        found = parser.listed(parser.placed) if parser.peek() else []
        arguments = [value for value, _ in found]
        if parser.peek():
            raise Fault("syntax", f"unexpected {parser.rest()} after the arguments of {macro.name}", parser.pos,
                        help="separate arguments by commas")  # fmt: skip
        wanted = len(macro.parameters)
        if len(arguments) != wanted:
            pos = found[wanted][1] if len(arguments) > wanted else word.start(1)
            takes = counted(wanted, "argument")
            raise Fault("argument-count", f"the macro {macro.name} takes {takes}, not {len(arguments)}", pos,
                        allowed=f"{macro.name} {', '.join(macro.parameters)}".strip())  # fmt: skip
        self.nested(macro.body, dict(zip(macro.parameters, arguments, strict=True)),
                    f"in macro {macro.name} called at {self.source[1]}:{self.source[2]}", word.start(1))  # fmt: skip

    def nested(self, block: Block, constants: Mapping[str, Value], call: str | None, pos: int) -> None:
        """Execute lines in a scope of their own. call: a description of the call for error messages."""
        self.budget.enter(block.stop - block.start, "macros and includes", pos)
        scope, source = self.symbols.enter(constants), self.source
        if call:
            self.report.calls.append(call)
        try:
            self.run_block(block)
        finally:
            self.symbols.scope, self.source = scope, source
            self.budget.leave()
            if call:
                self.report.calls.pop()

    # -- the end -------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Complete the output: pad it, resolve branches, report undefined labels."""
        self.out.flush(self.source)
        for fault, source in self.labels.undefined():
            self.report.error(fault, source)
        self.out.resolve()

    @property
    def settled(self) -> bool:
        """False when a value that was used differs from its final value: another pass is needed."""
        labels, words = self.out.labels, self.out.words
        if not self.labels.settled:
            return False
        for key, addend, index, n in self.clones:
            first = (labels.get(key, 0) + addend) // 8
            for k in range(n):
                if first + k >= len(words):
                    return False
                if words[index + k] != words[first + k] and index + k not in self.out.fixups:
                    return False
        return True


Handler: TypeAlias = Callable[[Engine, Parser, Block, int], int | None]
"""A directive: engine, parser after its name, the block being executed, its line; returns the next line."""

_IN_FUNCTIONS = frozenset(
    "if elseif elif else endif ifset set define equ const lset lconst unset undef lunset assert local endloc".split()
)
