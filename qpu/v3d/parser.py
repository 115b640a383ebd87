"""The text assembler of V3D 4.2 and 7.1.

The language is the disassembler's output with free spacing, plus, for hand-written programs:

* ``name:`` defines a label; branches take labels as targets;
* ``# ...`` is a comment;
* ``.set name, value`` names a constant or a register; integer expressions may use names, ``+ - * / << >> & | ^ ~`` and
  parentheses (``/`` is exact); ``rf[expression]`` is a register;
* ``.word value`` emits a 64-bit word;
* one half may be left out: ``fmul rf0, rf1, rf2`` and ``add rf0, rf1, rf2`` are instructions;
* the signals that the driver's text omits: ``ucb``, and on 4.2 ``rot.5``, ``rot.-3``, ``rot.r5``; ``link`` on branches;
* lines of a program dump of the driver (word, text, note) are accepted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from qpu.core.code import Code
from qpu.core.isa import Isa, Unit
from qpu.core.locations import LINE_LIMIT
from qpu.core.optable import Op
from qpu.errors import AsmError, DecodeError, Diagnostic, Loc, Severity
from qpu.v3d.advice import mistake
from qpu.v3d.codes import CONDS, PUSHES, SIG_NUMBERS, UPDATES, WRITING_SIGS, sig_names
from qpu.v3d.decode import decode
from qpu.v3d.encode import KEYS, HalfKey, encode
from qpu.v3d.expr import TextError, comment_help, near, wrong
from qpu.v3d.instr import AluHalf, Branch, Dst, Sig, Src
from qpu.v3d.ops import modifiers, table, untried
from qpu.v3d.pairing import ADD, ADD_FLAGS, MUL, MUL_FLAGS, SIGNAL, draft, explain, idle
from qpu.v3d.parse_branch import is_branch, parse_branch
from qpu.v3d.parse_operands import OperandParser
from qpu.v3d.printer import text as printed
from qpu.v3d.regs import SIGNAL_ROWS

__all__ = ["assemble_text"]

_half: Final = tuple.__new__  # twice as fast as calling the class
_SIGNALS: Final = {row.name: Sig(row.bit) for row in SIGNAL_ROWS if row.kind != "imm"}

# Mesa's dump of a program: a head, then lines "0x<word> <text> (<uniform>)".
_DUMP_HEAD = re.compile(r"\s*[A-Z_]+ prog \d+/-?\d+ QPU:\s*$")
_DUMP = re.compile(r"\s*0x([0-9a-fA-F]{16})\s+(?=[a-z])")
_DUMP_NOTE = re.compile(r"\s*\([^()]*(?:\[[^\]]*\])?\)\s*$")
_LINE_END = re.compile(r"\r\n|\n|\r")  # str.splitlines splits at more characters than editors do
_FLAGS: Final = (*CONDS, *PUSHES[1:], *UPDATES)
_LABEL = re.compile(r"\s*([A-Za-z_$][\w.$]*)\s*:")
_DIRECTIVE = re.compile(r"\s*\.(\w+)\s*")
_HEAD = re.compile(r"\s*([A-Za-z_]\w*)((?:\.\w*)*)(?=\s|$)\s*")
_SIGNAL = re.compile(r"\s*([A-Za-z_]\w*)(?:\.(\S+))?\s*$")


@dataclass(slots=True)
class _Half:
    """A parsed operation with the columns of its parts: operation, suffix, destination, a, b."""

    half: AluHalf
    column: int
    suffix: int
    operands: tuple[int, ...]


@dataclass(slots=True)
class _Fixup:
    index: int
    label: str
    branch: Branch
    loc: Loc


_Operand = TypeVar("_Operand", Src, Dst)


def _spaced(known: dict[str, _Operand], text: str) -> _Operand | None:
    """The operand of a text with spaces around it; kept with them, too."""
    found = known.get(text.strip())
    if found is not None:
        known[text] = found
    return found


def assemble_text(isa: Isa, source: str, *, filename: str = "<text>") -> Code:
    """A program from assembly text. Raises: AsmError with every diagnostic, each with line and column."""
    return _Assembler(isa, filename).run(source)


class _Assembler(OperandParser):
    __slots__ = (
        "destinations", "errors", "filename", "fixups", "halves", "heads", "idle", "keys", "labels",
        "locs", "ops", "roles", "sources", "tails", "untried", "warnings", "words",
    )  # fmt: skip

    def __init__(self, isa: Isa, filename: str) -> None:
        super().__init__(isa)
        self.filename = filename
        self.ops = table(isa)
        self.words: list[int] = []
        self.locs: list[Loc] = []
        self.labels: dict[str, int] = {}
        self.fixups: list[_Fixup] = []
        self.errors: list[Diagnostic] = []
        self.warnings: list[Diagnostic] = []
        # columns and messages of forms in the current line that no program is known to have run on hardware
        self.untried: list[tuple[int, str]] = []
        self.roles: dict[str, list[str]] = {}
        # Caches of `quick`, by text: halves with their keys; operations with flags, whether there is a destination,
        # the number of operands, and whether each unit has it; destinations and sources without modifier; signals
        # with their destination and rotation amount.
        self.halves: tuple[dict[str, tuple[AluHalf, HalfKey]], ...] = {}, {}
        self.keys = KEYS[isa, Unit.ADD], KEYS[isa, Unit.MUL]
        self.idle = tuple((idle(), keys[idle()]) for keys in self.keys)
        self.heads: dict[str, tuple[Op, tuple[str, str, str], bool, int, tuple[bool, ...]]] = {}
        self.destinations: dict[str, Dst] = {}
        self.sources: dict[str, Src] = {}
        self.tails: dict[str | None, tuple[int, Dst | None, int | None]] = {None: (0, None, None)}

    def run(self, source: str) -> Code:
        lines = _LINE_END.split(source.removeprefix("\ufeff"))
        words, locs = self.words, self.locs
        for number, line in enumerate(lines, 1):
            code = line.partition("#")[0]
            if not code or code.isspace():
                continue
            loc = Loc(self.filename, number, None, line)
            try:
                if len(code) > LINE_LIMIT:
                    raise wrong(LINE_LIMIT, "line-length", "the line is too long", f"{LINE_LIMIT} characters")
                word = self.quick(code)
                if word is None:
                    self.line(code, loc)
                    continue
                words.append(word)
                locs.append(loc)
            except TextError as e:
                found = replace(e.found, help=comment_help(code) or e.found.help)
                self.errors.append(replace(found, loc=Loc(self.filename, number, e.column + 1, line)))
                # keep the instruction indices of the following lines right
                if not code.lstrip().startswith(".set"):
                    self.words.append(0)
                    self.locs.append(loc)
        for fixup in self.fixups:
            self.resolve(fixup)
        if self.errors:
            raise AsmError.of(self.errors)
        return Code(self.isa, tuple(self.words), self.labels, self.locs, tuple(self.warnings))

    def line(self, code: str, loc: Loc) -> None:
        column = 0
        if _DUMP_HEAD.match(code):
            return
        dumped = _DUMP.match(code)
        if dumped is not None:
            self.dumped(int(dumped[1], 16), _DUMP_NOTE.sub("", code), dumped.end(), loc)
            return
        while (m := _LABEL.match(code, column)) is not None:
            self.label(m[1], m.start(1))
            column = m.end()
        rest = code[column:]
        if not rest or rest.isspace():
            return
        m = _DIRECTIVE.match(code, column)
        if m is not None:
            self.directive(m[1], m.start(1), code, m.end(), loc)
            return
        if is_branch(code, column):
            word = self.branch(code, column, loc)
        else:
            self.untried.clear()
            word = self.alu(code, column)
            for at, message in self.untried:
                place = Loc(loc.file, loc.line, at + 1, loc.text)
                self.warnings.append(replace(mistake("untried", message), severity=Severity.WARNING, loc=place))
        self.words.append(word)
        self.locs.append(loc)

    def dumped(self, word: int, code: str, column: int, loc: Loc) -> None:
        """Assemble a line of the driver's dump from its word, which must agree with the text."""
        if is_branch(code, column):
            said = self.branch(code, column, loc)
        else:
            said = self.alu(code, column)
        try:
            shown = printed(decode(self.isa, word))
        except DecodeError as error:
            shown = error.diagnostics[0].message
        if shown != printed(decode(self.isa, said)):
            why = f"the word 0x{word:016x} of this line is {' '.join(shown.split())!r} on {self.isa.label}"
            help = f"check if the dump is of another chip; without the word the text assembles to 0x{said:016x}"
            raise wrong(column, "dump-word", why, help=help)
        self.words.append(word)
        self.locs.append(loc)

    def label(self, name: str, column: int) -> None:
        if name in self.labels:
            raise wrong(column, "label-twice", f"label {name!r} is defined twice")
        if name == "lri" or re.fullmatch(r"rf[0-9]+", name):
            raise wrong(column, "label-name", f"{name!r} cannot be a label, it names a branch target")
        self.labels[name] = len(self.words)

    def directive(self, name: str, column: int, code: str, at: int, loc: Loc) -> None:
        if name == "word":
            value = self.value(code[at:].strip(), at + len(code[at:]) - len(code[at:].lstrip()))
            if not isinstance(value, int) or not 0 <= value < 1 << 64:
                raise wrong(at, "word", f"{value!r} is not an instruction word")
            self.words.append(value)
            self.locs.append(loc)
        elif name == "set":
            target, comma, text = code[at:].partition(",")
            if not comma or not text.strip():
                raise wrong(at, "set-value", "no value")
            target = target.strip()
            if not re.fullmatch(r"[A-Za-z_]\w*", target) or self.is_register(target):
                raise wrong(at, "constant-name", f"{target!r} is not a name for a constant")
            if target in self.constants or target in self.registers:
                raise wrong(at, "defined-twice", f"{target!r} is defined twice")
            start = at + code[at:].index(",") + 1
            start += len(text) - len(text.lstrip())
            text = text.strip()
            if self.is_register(text):
                self.registers[target] = text
            else:
                self.constants[target] = self.value(text, start)
        else:
            help = near(name, ("set", "word"))
            raise wrong(column - 1, "directive", f"unknown directive .{name}", help=help)

    # -- ALU instructions

    def alu(self, code: str, column: int) -> int:
        pieces: list[tuple[str, int]] = []
        for piece in code[column:].split(";"):
            pieces.append((piece, column))
            column += len(piece) + 1
        halves: list[_Half] = []
        sig = Sig.NONE
        sig_dst: Dst | None = None
        sig_column = 0
        rot: int | None = None
        for number, (piece, at) in enumerate(pieces):
            start = at + len(piece) - len(piece.lstrip())
            if not piece.strip():
                raise wrong(start, "empty-part", "an operation or signal is missing here")
            m = _SIGNAL.match(piece)
            if number and m is not None and m[1] in _SIGNALS:
                bit = _SIGNALS[m[1]]
                if sig & bit:
                    raise wrong(start, "signal-twice", f"signal {m[1]} appears twice")
                if bit is Sig.ROT:
                    rot = self.rotation(m[2], start)
                elif bit & WRITING_SIGS:
                    if sig_dst is not None:
                        names = sig_names(sig & WRITING_SIGS)
                        raise wrong(start, "one-writing-signal", f"{names} and {m[1]} both write a register")
                    sig_dst = self.signal_dst(m[1], m[2], start)
                elif m[2] is not None:
                    raise wrong(at + m.start(2), "signal-takes-none", f"signal {m[1]} takes no destination")
                sig |= bit
                if not (sig & ~bit):
                    sig_column = start
                if self.isa is Isa.V3D71 and bit is Sig.ROT:
                    raise wrong(start, "rot-signal", "signal rot exists on V3D 4.2 only")
                if sig not in SIG_NUMBERS[self.isa]:
                    raise wrong(start, "signal-set", f"{self.isa.label} cannot combine the signals {sig_names(sig)}")
                continue
            if len(halves) == 2 or number > 1:
                raise self.not_a_signal(piece, start)
            halves.append(self.parse_half(piece, at, number))
        word = self.instruction(halves, sig, sig_dst, sig_column, rot)
        if sig:
            tail = ";".join(piece for piece, _ in pieces[len(halves) :]).strip()
            self.tails[tail] = int(sig), sig_dst, rot
        if halves[-1].half.op.name == "nop":
            unit, (piece, _) = len(halves) - 1, pieces[len(halves) - 1]
            self.halves[unit][piece.strip()] = halves[-1].half, self.keys[unit][halves[-1].half]
        return word

    def quick(self, code: str) -> int | None:
        """The word of an ALU instruction whose parts are all in the caches; None for every other line.

        This does not count columns: `line` parses a line again that has an error, a label or a new part.
        """
        pieces = code.split(";", 2)
        tail = pieces[2].strip() if len(pieces) > 2 else None
        try:
            add, mul = self.quick_half(pieces[0].strip(), 0), None
            if len(pieces) > 1:
                text = pieces[1].strip()
                mul = self.quick_half(text, 1)
                if mul is None:
                    tail = text if tail is None else f"{text};{tail}"
            if add is None and mul is None:
                add, mul = self.idle[0], self.quick_half(pieces[0].strip(), 1)
            elif mul is None:
                mul = self.idle[1]
            signals = self.tails.get(tail)
            if signals is None or add is None or mul is None:
                return None
            return encode(*draft(self.isa, add[0], mul[0], *signals, (add[1], mul[1])))
        except AsmError:
            return None

    def quick_half(self, text: str, unit: int) -> tuple[AluHalf, HalfKey] | None:
        """The half of a text and its key, if it or each of its parts is in the caches. unit: 0 add, 1 mul."""
        halves = self.halves[unit]
        half = halves.get(text)
        if half is not None:
            return half
        head, _, rest = text.partition(" ")
        known = self.heads.get(head)
        if known is None:
            return None
        op, flags, has_dst, operands, units = known
        texts = rest.split(",")
        if len(texts) != operands or not units[unit]:
            return None
        dst = a = b = None
        at = 0
        if has_dst:
            dst, at = self.destinations.get(texts[0]) or _spaced(self.destinations, texts[0]), 1
            if dst is None:
                return None
        if operands > at:
            sources = self.sources
            a = sources.get(texts[at]) or _spaced(sources, texts[at])
            if a is None:
                return None
            if operands > at + 1:
                b = sources.get(texts[at + 1]) or _spaced(sources, texts[at + 1])
                if b is None:
                    return None
        found = _half(AluHalf, (op, dst, a, b, "", *flags))
        half = halves[text] = found, self.keys[unit].make(found)
        return half

    def not_a_signal(self, piece: str, column: int) -> TextError:
        name = re.split(r"[\s.]", piece.strip())[0]
        if name in self.ops:
            return wrong(column, "third-operation", f"{name} would be a third operation")
        return wrong(column, "unknown-signal", f"unknown signal {name!r}", ", ".join(_SIGNALS), near(name, _SIGNALS))

    def parse_half(self, piece: str, at: int, number: int) -> _Half:
        m = _HEAD.match(piece)
        start = at + len(piece) - len(piece.lstrip())
        if m is None:
            raise wrong(start, "no-operation", f"{piece.strip()!r} does not start with an operation")
        op = self.ops.get(m[1])
        if op is None:
            if number and not m[2] and not piece[m.end() :].strip():
                raise self.not_a_signal(piece, start)
            if m[1] in _SIGNALS:
                raise wrong(start, "signal-first", f"signal {m[1]} before any operation", f"nop; {m[1]}")
            help = near(m[1], (n for o in self.ops for n in (o.name, *o.aliases)))
            raise wrong(start, "unknown-operation", f"{self.isa.label} has no operation {m[1]!r}", help=help)
        suffix = at + m.start(2)
        cond, push, update = self.suffixes(m[2], suffix)
        texts: list[tuple[str, int]] = []
        column = at + m.end()
        if piece[m.end() :].strip():
            for text in piece[m.end() :].split(","):
                texts.append((text, column + len(text) - len(text.lstrip())))
                column += len(text) + 1
        roles = self.roles.get(op.name)
        if roles is None:
            roles = self.roles[op.name] = [o.role for o in op.parsed] if op.name != "nop" else []
        if len(texts) != len(roles):
            where = texts[len(roles)][1] if len(texts) > len(roles) else start
            forms = {"d": "destination", "a": "source", "b": "source"}
            allowed = f"{op.name} " + ", ".join(forms[r] for r in roles) if roles else f"{op.name} alone"
            why = f"{op.name} has {len(roles)} operands, found {len(texts)}"
            raise wrong(where, "operand-count", why, allowed)
        dst: Dst | None = Dst(6, True) if op.name == "nop" else None
        pack = ""
        sources: list[Src] = []
        for (text, col), role in zip(texts, roles, strict=True):
            if role == "d":
                dst, pack = self.destination(text, col)
                if not pack:
                    self.destinations[text.strip()] = dst
            else:
                source = self.source(text, col)
                sources.append(source)
                if not source.mod:
                    self.sources[text.strip()] = source
        if roles:
            head = m[1] + m[2]
            units = tuple(unit in op.code[self.isa] for unit in (Unit.ADD, Unit.MUL))
            self.heads[head] = op, (cond, push, update), roles[0] == "d", len(roles), units
        half = AluHalf(
            op, dst, sources[0] if sources else None, sources[1] if len(sources) > 1 else None, pack, cond, push, update
        )
        return _Half(half, start, suffix, tuple(c for _, c in texts))

    @staticmethod
    def suffixes(text: str, column: int) -> tuple[str, str, str]:
        cond = push = update = ""
        for part in text.split(".")[1:]:
            if (cond or push or update) and part in _FLAGS:
                raise wrong(column, "condition-set", f"{text!r}: one of condition, push, update in each half")
            if part in CONDS:
                cond = part
            elif part in PUSHES[1:]:
                push = part
            elif part in UPDATES:
                update = part
            else:
                help = near(part, _FLAGS)
                raise wrong(column, "flag-name", f"unknown condition or flag .{part}", ", ".join(_FLAGS), help)
            column += len(part) + 1
        return cond, push, update

    # -- joining

    def instruction(self, halves: list[_Half], sig: Sig, sig_dst: Dst | None, sig_column: int, rot: int | None) -> int:
        isa = self.isa
        nop = _Half(idle(), halves[0].column, halves[0].column, ())
        if len(halves) == 1:
            first = halves[0]
            alone_mul = Unit.ADD not in first.half.op.code[isa]
            add, mul = (nop, first) if alone_mul else (first, nop)
        else:
            add, mul = halves
        signals = int(sig)
        for half, unit in ((add, Unit.ADD), (mul, Unit.MUL)):
            mod = half.half.pack or (half.half.a.mod if half.half.a is not None else "")
            if mod and untried(half.half, isa, unit):
                message = f"{half.half.op.name} with .{mod} is in no program known to have run; its meaning is assumed"
                self.untried.append((half.operands[0], message))
        try:
            return encode(*draft(isa, add.half, mul.half, signals, sig_dst, rot))
        except AsmError as error:
            d, part = explain(error, isa, add.half, mul.half, signals, sig_dst, rot)
        if part in (ADD, MUL):
            raise self.invalid(add if part == ADD else mul, Unit.ADD if part == ADD else Unit.MUL, d)
        columns = {SIGNAL: sig_column, ADD_FLAGS: add.suffix, MUL_FLAGS: mul.suffix}
        if part < SIGNAL:
            half = add if part < 2 else mul
            columns[part] = half.operands[(part & 1) - half.half.op.arity]
        if d.rule == "operand-order":
            columns[part] = add.column
        raise TextError(columns[part], d)

    def invalid(self, half: _Half, unit: Unit, d: Diagnostic) -> TextError:
        """The error about a half that a unit cannot execute, at the column of the part concerned."""
        op, h = half.half.op, half.half
        column = half.column
        if d.rule == "operation":
            help = "write the operation of the add ALU first"
            if unit is Unit.MUL:
                return TextError(column, replace(d, allowed=", ".join(self.ops.names(unit)), help=help))
            return TextError(column, replace(d, help=help + ", that of the mul ALU second"))
        if d.rule == "register":
            column = half.operands[0]
        elif d.rule == "modifier":
            allowed_mods = modifiers(op, self.isa, unit)
            roles = [o.role for o in op.parsed]
            for role, name in (("d", h.pack), ("a", h.a.mod if h.a else ""), ("b", h.b.mod if h.b else "")):
                if name and name not in allowed_mods.get(role, ()):
                    column = half.operands[roles.index(role)]
                    break
        elif d.rule == "small-imm":
            column = half.operands[-1]
        return TextError(column, d)

    # -- branches

    def branch(self, code: str, column: int, loc: Loc) -> int:
        branch, label, at = parse_branch(self, code, column)
        if label is not None:
            place = Loc(loc.file, loc.line, at + 1, loc.text)
            self.fixups.append(_Fixup(len(self.words), label, branch, place))
        return encode(branch)

    def resolve(self, fixup: _Fixup) -> None:
        at = self.labels.get(fixup.label)
        if at is None:
            known = ", ".join(sorted(self.labels)[:12]) or "no label is defined"
            help = near(fixup.label, self.labels) or f"define it: {fixup.label}:"
            found = mistake("undefined-label", f"label {fixup.label!r} is not defined", known, help)
            self.errors.append(replace(found, loc=fixup.loc))
            return
        offset = (at - fixup.index - 4) * 8 & 0xFFFFFFFF
        self.words[fixup.index] = encode(fixup.branch._replace(offset=offset))
