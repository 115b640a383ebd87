"""One pass over a source text: lines, scopes, macros, blocks. Directives are in `qpu.vc4.vc4asm.directives`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache

from qpu.errors import Diagnostic, Loc, Severity
from qpu.vc4.vc4asm.builtins import PREDICATES
from qpu.vc4.vc4asm.expr import Callable_, Parser, evaluate
from qpu.vc4.vc4asm.fault import Fault
from qpu.vc4.vc4asm.names import OPCODES, REGISTERS
from qpu.vc4.vc4asm.output import Key, Output, Source
from qpu.vc4.vc4asm.parse import LABELS, parse_operation, split_lines, strip_comment
from qpu.vc4.vc4asm.place import NOP_WORD, Instruction
from qpu.vc4.vc4asm.quick import quick_word
from qpu.vc4.vc4asm.state import Operation
from qpu.vc4.vc4asm.symbols import ExpressionFunction, LineFunction, Macro, Scope
from qpu.vc4.vc4asm.values import NAMED, LabelRef, Value

__all__ = ["ERROR_LIMIT", "STANDARD_INCLUDE", "Engine", "TooManyErrors", "standard_scope"]

ERROR_LIMIT = 20
"""Errors reported in one go."""
STANDARD_INCLUDE = "vc4.qinc"
_DEPTH_LIMIT = 120
_EXPANSION_LIMIT = 2_000_000  # lines that macros, functions and repetitions execute in one pass

_DIRECTIVE = re.compile(r"\s*\.\s*([A-Za-z_]\w*)")
_WORD = re.compile(r"\s*([A-Za-z_]\w*)")

# Line -> word, for lines whose meaning depends on nothing but the language.
_LINE_CACHE: dict[str, int] = {}
_OPERATION_CACHE: dict[str, Operation] = {}
_CACHE_LIMIT = 200_000

# Writes and reads that may appear once in an instruction (TMU, SFU, TLB, mutex, semaphore); colour counts extra.
_ONCE_WRITE = frozenset({41, 42, 43, 44, 45, 46, 47, *range(52, 64)})
_ONCE_READ = frozenset({41, 42, 51})


class TooManyErrors(Exception):
    """Raised inside a pass when there are enough errors to report."""


def once_per_instruction(word: int) -> int:
    """How many of the things that an instruction may do only once `word` does."""
    sig = word >> 60
    if sig == 15:
        return 0
    n = (word >> 38 & 63 in _ONCE_WRITE) + (word >> 32 & 63 in _ONCE_WRITE)
    if sig == 14:
        return n + (word >> 57 & 7 == 4)
    n += (word >> 18 & 63 in _ONCE_READ) + (sig != 13 and word >> 12 & 63 in _ONCE_READ)
    return n + (7 <= sig <= 12)


@cache
def standard_scope() -> Scope:
    """The functions and constants of the standard include."""
    from importlib import resources

    engine = Engine(standard=False)
    text = resources.files("qpu.vc4.vc4asm").joinpath(STANDARD_INCLUDE).read_text(encoding="utf-8")
    engine.run_text(text, STANDARD_INCLUDE)
    if engine.diagnostics:
        raise AssertionError(engine.diagnostics[0].render())
    return engine.root


class Engine:
    """State of one pass.

    known: label offsets of the previous pass, for forward references inside expressions; previous: its output, for
    ``.clone`` of code that comes later. unsettled: the pass used a value that turned out different; run another.
    """

    def __init__(
        self,
        *,
        include_path: Sequence[str] = (),
        known: Mapping[Key, int] | None = None,
        previous: Output | None = None,
        standard: bool = True,
    ) -> None:
        self.include_path = tuple(include_path)
        self.known = known
        self.previous = previous
        self.standard = standard
        self.out = Output()
        self.root = Scope()
        self.scope = self.root
        self.macros: dict[str, Macro] = {}
        self.exports: dict[str, tuple[Value, Source]] = {}
        self.diagnostics: list[Diagnostic] = []
        self.warnings: list[Diagnostic] = []
        self.errors = 0
        self.used: set[tuple[Key, int]] = set()
        self.clones: list[tuple[Key, int, int, int]] = []
        self.references: dict[Key, tuple[Source, int, str]] = {}
        self.defined: dict[Key, Source] = {}
        self.counts: dict[str, int] = {}
        self.source: Source = ("", "", 0)
        self.stack: list[str] = []  # "in macro m called at file:line", innermost last
        self.depth = 0
        self.expansions = 0
        self.tainted = False
        self.cacheable = True
        self.results: list[Value] | None = None  # inside a .func: the values its lines give
        self.instruction = Instruction()
        from qpu.vc4.vc4asm.directives import DIRECTIVES, after_block

        self.directives: Mapping[str, Callable[[Engine, Parser, Sequence[Source], int], int]] = DIRECTIVES
        self.after_block: Callable[[str, Sequence[Source], int], int] = after_block

    # -- environment of expressions ------------------------------------------------------------------------------

    def lookup(self, name: str) -> Value | None:
        """The value of a constant or register."""
        value = self.scope.find(name)
        if value is not None:
            self.tainted = True
            return value
        if self.scope.find_function(name) is not None:
            return None
        register = REGISTERS.get(name)
        if register is not None:
            return register
        if self.standard and name not in NAMED:
            value = standard_scope().constants.get(name)
            if value is not None:
                self.tainted = True
            return value
        return None

    def function(self, name: str) -> Callable_ | None:
        """The function `name`: the program's, else a predicate, else the standard include's."""
        found = self.scope.find_function(name)
        if found is None:
            if name in PREDICATES:
                return PREDICATES[name]
            if self.standard:
                found = standard_scope().functions.get(name)
            if found is None:
                return None
        self.tainted = True
        return lambda arguments, pos: self.call(found, arguments, pos)

    def label(self, name: str, pos: int) -> LabelRef:
        """The label that a reference means: ``1`` or ``1b`` the last label 1, ``1f`` the next; ``1_x`` alike."""
        self.tainted = True
        if name[0].isdigit():
            count, forward = self.counts.get(name, 0), False
            if not count and name[-1] in "bf":
                forward = name[-1] == "f"
                name = name[:-1]
                count = self.counts.get(name, 0)
            if not forward and not count:
                raise Fault("label-undefined", f"no label {name} has been defined so far", pos,
                            help=f"write :{name}f for the next one")  # fmt: skip
            key = (name, count + forward)
        else:
            key = (name, 0)
        self.references.setdefault(key, (self.source, pos, name))
        return LabelRef(key)

    def address(self, label: LabelRef) -> int:
        """The byte offset of a label, or 0 for the time being."""
        key = label.key
        offset: int | None = None
        if self.known is not None:
            offset = self.known.get(key)
        if offset is None:
            offset = self.out.labels.get(key, 0)
        self.used.add((key, offset))
        return offset + label.addend

    def label_difference(self, a: LabelRef, b: LabelRef) -> int:
        """Bytes from label `b` to label `a`."""
        if a.key == b.key:
            return a.addend - b.addend
        return self.address(a) - self.address(b)

    def warn(self, rule: str, message: str, pos: int, help: str | None = None) -> None:
        """Record a warning in the current line."""
        self.tainted = True
        self._record(rule, message, pos, None, help, Severity.WARNING, self.source)

    def unknown(self, name: str, pos: int) -> Fault:
        """The fault for a name that means nothing."""
        known: list[str] = [*REGISTERS, *NAMED, *PREDICATES]
        scope: Scope | None = self.scope
        while scope is not None:
            known += [*scope.constants, *scope.functions]
            scope = scope.parent
        if self.standard:
            known += [*standard_scope().functions, *standard_scope().constants]
        close = difflib.get_close_matches(name, known, 1)
        what = "is an instruction, not a value" if name in OPCODES else "is not defined"
        return Fault("undefined-name", f"{name!r} {what}", pos, help=f"did you mean {close[0]!r}?" if close else None)

    # -- diagnostics ---------------------------------------------------------------------------------------------

    def _record(
        self, rule: str, message: str, pos: int, allowed: str | None, help: str | None, severity: Severity, src: Source
    ) -> None:
        text, file, line = src
        if self.stack:
            shown = self.stack[:-4:-1]
            rest = len(self.stack) - len(shown)
            message += "; " + ", ".join(shown) + (f" and {rest} more" if rest else "")
        loc = Loc(file, line, pos + 1 if line else None, text)
        found = Diagnostic(rule, message, severity, loc, allowed, help)
        if severity is Severity.ERROR:
            self.diagnostics.append(found)
            self.errors += 1
            if self.errors >= ERROR_LIMIT:
                raise TooManyErrors
        else:
            self.warnings.append(found)

    def error(self, fault: Fault, source: Source | None = None) -> None:
        """Record an error; raises TooManyErrors at the limit."""
        self._record(
            fault.rule, fault.message, fault.pos, fault.allowed, fault.help, Severity.ERROR, source or self.source
        )

    # -- definitions ---------------------------------------------------------------------------------------------

    def define(self, name: str, value: Value, pos: int, *, local: bool = False, final: bool = False) -> None:
        """Define a constant in the outermost scope, or the current one."""
        scope = self.scope if local else self.root
        if name in scope.final:
            raise Fault("constant-final", f"{name!r} is a .const and cannot be defined again", pos)
        if final and name in scope.constants:
            raise Fault("constant-final", f"{name!r} is already defined and cannot become a .const", pos)
        self.shadow(name)
        scope.constants[name] = value
        scope.functions.pop(name, None)
        if final:
            scope.final.add(name)

    def shadow(self, name: str, *, macro: bool = False) -> None:
        """Note a definition; lines are not taken from the cache once a name of the language has a new meaning."""
        if name in OPCODES if macro else (name in REGISTERS or name in NAMED):
            self.cacheable = False

    def define_label(self, name: str, export: bool, pos: int) -> None:
        """Define a label at the current place."""
        if name[0].isdigit():
            count = self.counts.get(name, 0) + 1
            self.counts[name] = count
            key = (name, count)
            if export:
                raise Fault("label-export", f"the local label {name} cannot be exported", pos)
        else:
            key = (name, 0)
            if key in self.defined:
                _, file, line = self.defined[key]
                raise Fault("label-twice", f"the label {name!r} is already defined at {file}:{line}", pos)
            if export:
                self.exports[name] = (LabelRef(key), self.source)
        self.defined[key] = self.source
        self.out.label(key)

    def _expanded(self, lines: int, pos: int) -> None:
        """Count lines that are executed again; the source of a program that never ends is refused."""
        self.expansions += lines + 1
        if self.expansions > _EXPANSION_LIMIT:
            raise Fault("expansion", f"macros and repetitions execute more than {_EXPANSION_LIMIT} lines", pos,
                        help="split the program, or keep its tables as .int64 data")  # fmt: skip

    # -- functions -----------------------------------------------------------------------------------------------

    def call(self, function: ExpressionFunction | LineFunction, arguments: Sequence[Value], pos: int) -> Value:
        """The value of a function call."""
        name = function.name
        if len(arguments) != len(function.parameters):
            raise Fault(
                "argument-count", f"{name} takes {len(function.parameters)} arguments, not {len(arguments)}", pos
            )
        if self.depth >= _DEPTH_LIMIT:
            raise Fault("recursion", f"{name}: functions and macros are nested more than {_DEPTH_LIMIT} deep", pos)
        self._expanded(1, pos)
        if name == "min" and function.source[1] == STANDARD_INCLUDE:
            self.warn(
                "standard-min",
                "min of the standard include gives the larger number, as in the reference assembler",
                pos,
                "define a function of your own",
            )
        scope = self.scope
        self.scope = Scope(scope, dict(zip(function.parameters, arguments, strict=True)))
        for parameter in function.parameters:
            self.shadow(parameter)
        self.depth += 1
        source, results = self.source, self.results
        try:
            if isinstance(function, ExpressionFunction):
                self.source = function.source
                return evaluate(function.text, self, function.pos)
            self.results = []
            self.run_lines(function.body, in_function=True)
            if len(self.results) != 1:
                count = "no value" if not self.results else f"{len(self.results)} values"
                raise Fault("function-value", f"{name} gives {count} instead of one", pos)
            return self.results[0]
        except Fault as fault:
            if self.source is not source and fault.rule != "recursion":
                _, file, line = self.source
                fault = Fault(
                    fault.rule,
                    f"{fault.message}; in {name} at {file}:{line}",
                    pos,
                    allowed=fault.allowed,
                    help=fault.help,
                )
            else:
                fault.pos = pos
            raise fault from None
        finally:
            self.scope, self.source, self.results = scope, source, results
            self.depth -= 1

    # -- lines ---------------------------------------------------------------------------------------------------

    def run_text(self, text: str, filename: str) -> None:
        """Assemble a whole text."""
        lines = [(line, filename, i) for i, line in enumerate(split_lines(text.removeprefix("\ufeff")), 1)]
        self.run_lines(lines)

    def run_lines(self, lines: Sequence[Source], *, in_function: bool = False) -> None:
        """Execute lines in order. Faults are recorded and skipped, except in functions, where they propagate."""
        i, n = 0, len(lines)
        out = self.out
        get = _LINE_CACHE.get
        while i < n:
            source = lines[i]
            text = source[0]
            if self.cacheable and not in_function:
                word = get(text)
                if word is None:
                    word = quick_word(text)
                    if word is not None and len(_LINE_CACHE) < _CACHE_LIMIT:
                        _LINE_CACHE[text] = word
                if word is not None and not out.tail_bits:
                    out.words.append(word)
                    out.where.append(source)
                    out.is_code.append(out.region is not False)
                    i += 1
                    continue
            self.source = source
            i += 1
            try:
                code = strip_comment(text)
                match = _DIRECTIVE.match(code)
                if match is None:
                    start = 0
                    label = LABELS.match(code)
                    while label is not None and not in_function:
                        start = label.end()
                        self._label(label)
                        label = LABELS.match(code, start)
                    match = _DIRECTIVE.match(code, start)
                    if match is None:
                        if in_function:
                            self._function_line(code)
                        elif code[start:].strip():
                            self._instructions(code, start)
                        continue
                i = self._directive(code, match, lines, i, in_function)
                self.source = source
            except Fault as fault:
                if in_function:
                    raise
                self.error(fault)

    def _label(self, match: re.Match[str]) -> None:
        if match.group(4):
            self.out.seal()
            return
        name = match.group(2) or match.group(3)
        self.define_label(name, match.group(1) == "::", match.start(2) if match.group(2) else match.start(3))

    def _function_line(self, code: str) -> None:
        if not code.strip():
            return
        assert self.results is not None
        self.results.append(evaluate(code, self))

    def _directive(self, code: str, match: re.Match[str], lines: Sequence[Source], i: int, in_function: bool) -> int:
        name = match.group(1)
        handler = self.directives.get(name)
        if handler is None:
            close = difflib.get_close_matches(name, self.directives, 1)
            raise Fault(
                "unknown-directive",
                f"there is no directive .{name}",
                match.start(1),
                help=f"did you mean .{close[0]}?" if close else None,
            )
        if in_function and name not in _IN_FUNCTIONS:
            raise Fault("function-line", f".{name} cannot stand in a function", match.start(1),
                        allowed=" ".join("." + n for n in sorted(_IN_FUNCTIONS)))  # fmt: skip
        parser = Parser(code, self, match.end())
        try:
            return handler(self, parser, lines, i)
        except Fault as fault:
            if in_function or fault.rule == "block-end":
                raise
            self.error(fault)
            return self.after_block(name, lines, i)

    # -- instructions --------------------------------------------------------------------------------------------

    def _instructions(self, code: str, start: int) -> None:
        word = _WORD.match(code, start)
        if word is not None and word.group(1) in self.macros:
            self._expand(self.macros[word.group(1)], code, word)
            return
        pieces = code[start:].split(";")
        leads = not pieces[0].strip()
        trails = len(pieces) > 1 and not pieces[-1].strip()
        operations: list[Operation] = []
        offsets: list[int] = []
        at = start
        self.tainted = False
        cache = self.cacheable
        try:
            for piece in pieces:
                if piece.strip():
                    operation = _OPERATION_CACHE.get(piece) if cache else None
                    if operation is None:
                        clean, self.tainted = self.tainted, False
                        try:
                            operation = parse_operation(piece, self)
                        except Fault as fault:
                            raise self._better(fault, piece).shifted(at) from None
                        if cache and not self.tainted:
                            if len(_OPERATION_CACHE) > _CACHE_LIMIT:
                                _OPERATION_CACHE.clear()
                            _OPERATION_CACHE[piece] = operation
                        self.tainted |= clean
                    operations.append(operation)
                    offsets.append(at)
                at += len(piece) + 1
            if not operations:
                return
            if leads and self._merge(operations, offsets, trails):
                return
            quiet = self._emit(operations, offsets, code)
        except Fault:
            self.out.word(NOP_WORD, self.source)  # keeps the addresses of what follows
            raise
        if trails:
            self.out.joinable[len(self.out.words) - 1] = operations
        elif quiet and cache and not self.tainted and not leads and not start:
            if len(_LINE_CACHE) > _CACHE_LIMIT:
                _LINE_CACHE.clear()
            _LINE_CACHE[self.source[0]] = self.out.words[-1]

    def _better(self, fault: Fault, piece: str) -> Fault:
        """A macro that is misspelt, or used after a semicolon, deserves its own words."""
        if fault.rule == "unknown-instruction":
            word = _WORD.match(piece)
            if word is not None and word.group(1) in self.macros:
                return Fault("macro-place", f"the macro {word.group(1)} stands alone on its line", word.start(1))
            if word is not None:
                close = difflib.get_close_matches(word.group(1), [*self.macros, *OPCODES], 1)
                if close:
                    fault.help = f"did you mean {close[0]!r}?"
        return fault

    def _place(self, operations: Sequence[Operation], offsets: Sequence[int]) -> int:
        try:
            return self.instruction.assemble(operations)
        except Fault as fault:
            # The operation that failed is the last one the instruction saw.
            raise fault.shifted(offsets[self.instruction.current]) from None

    def _emit(self, operations: Sequence[Operation], offsets: Sequence[int], code: str) -> bool:
        word = self._place(operations, offsets)
        ins = self.instruction
        if self.out.word(word, self.source, ins.target):
            self.warn("data-padding", "the data before this instruction was padded to 8 bytes", offsets[0])
            ins.notes.clear()
            return False
        if ins.notes:
            for note in ins.notes:
                self.warn(note.rule, note.message, note.pos + offsets[note.operation], note.help)
            return False
        return ins.target is None

    def _merge(self, operations: Sequence[Operation], offsets: Sequence[int], trails: bool) -> bool:
        """Try to put `operations` into the instruction before, if that ended with a semicolon."""
        out = self.out
        index = len(out.words) - 1
        before = out.joinable.get(index)
        if before is None or out.tail_bits:
            return False
        del out.joinable[index]
        together = [*before, *operations]
        try:
            word = self.instruction.assemble(together)
        except Fault:
            return False
        if once_per_instruction(word) > 1:
            return False
        out.words[index] = word
        for note in self.instruction.notes:
            if note.operation >= len(before):
                self.warn(note.rule, note.message, note.pos + offsets[note.operation - len(before)], note.help)
        if trails:
            out.joinable[index] = together
        return True

    # -- macros --------------------------------------------------------------------------------------------------

    def _expand(self, macro: Macro, code: str, word: re.Match[str]) -> None:
        parser = Parser(code, self, word.end())
        arguments: list[Value] = []
        places: list[int] = []
        if parser.peek():
            while True:
                places.append(parser.skip())
                arguments.append(parser.expression())
                if not parser.accept(","):
                    break
            if parser.peek():
                raise Fault("syntax", f"unexpected {parser.rest()} after the arguments of {macro.name}", parser.pos)
        wanted = len(macro.parameters)
        if len(arguments) != wanted:
            pos = places[wanted] if len(arguments) > wanted else word.start(1)
            raise Fault("argument-count", f"the macro {macro.name} takes {wanted} arguments, not {len(arguments)}", pos)
        self.nested(
            macro.body,
            dict(zip(macro.parameters, arguments, strict=True)),
            f"in macro {macro.name} called at {self.source[1]}:{self.source[2]}",
            word.start(1),
        )

    def nested(self, lines: Sequence[Source], constants: dict[str, Value], note: str | None, pos: int) -> None:
        """Execute lines in a scope of their own."""
        if self.depth >= _DEPTH_LIMIT:
            raise Fault("recursion", f"macros and includes are nested more than {_DEPTH_LIMIT} deep", pos)
        self._expanded(len(lines), pos)
        scope, source = self.scope, self.source
        self.scope = Scope(scope, constants)
        for name in constants:
            self.shadow(name)
        self.depth += 1
        if note:
            self.stack.append(note)
        try:
            self.run_lines(lines, in_function=self.results is not None)
        finally:
            self.scope, self.source = scope, source
            self.depth -= 1
            if note:
                self.stack.pop()

    # -- the end -------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Complete the output: pad it, resolve branches, report labels that nobody defined."""
        self.out.flush(self.source)
        for key, (source, pos, name) in self.references.items():
            if key not in self.out.labels:
                if key[1]:
                    fault = Fault("label-undefined", f"there is no label {key[0]} further on", pos)
                else:
                    close = difflib.get_close_matches(name, [k[0] for k in self.out.labels if not k[1]], 1)
                    help = f"did you mean :{close[0]}?" if close else None
                    fault = Fault("label-undefined", f"the label {name!r} is not defined", pos, help=help)
                self.error(fault, source)
        self.out.resolve()

    @property
    def unsettled(self) -> bool:
        """True when a value that was used differs from what it turned out to be."""
        labels, words = self.out.labels, self.out.words
        if any(labels.get(key) != offset for key, offset in self.used if key in labels):
            return True
        for key, addend, index, n in self.clones:
            first = (labels.get(key, 0) + addend) // 8
            for k in range(n):
                if first + k >= len(words):
                    return True
                a, b = words[index + k], words[first + k]
                if a != b and a >> 60 != 15:
                    return True
        return False


_IN_FUNCTIONS = frozenset(
    "if elseif elif else endif ifset set define equ const lset lconst unset undef lunset assert local endloc".split()
)
