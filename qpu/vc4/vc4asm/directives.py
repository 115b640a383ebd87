"""The directives of the language, one function each: engine, parser behind the name, lines, index of the next line.

Each returns the index of the line to go on with; directives that open a block run the block and return what follows it.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from qpu.vc4.vc4asm.expr import Parser
from qpu.vc4.vc4asm.fault import Fault
from qpu.vc4.vc4asm.output import Source
from qpu.vc4.vc4asm.parse import LABELS, split_lines, strip_comment
from qpu.vc4.vc4asm.place import NOP_WORD
from qpu.vc4.vc4asm.symbols import ExpressionFunction, LineFunction, Macro
from qpu.vc4.vc4asm.values import LabelRef, Value, described, float_bits, truth

if TYPE_CHECKING:
    from qpu.vc4.vc4asm.engine import Engine

__all__ = ["DIRECTIVES", "after_block"]

_NAME = re.compile(r"[A-Za-z_]\w*")
_DIRECTIVE = re.compile(r"\s*\.\s*([A-Za-z_]\w*)")
_REPEAT_LIMIT = 1_000_000

Handler = Callable[["Engine", Parser, Sequence[Source], int], int]


def _directive_of(source: Source) -> str:
    """The directive of a line, behind labels; empty when it has none."""
    text = strip_comment(source[0])
    match = _DIRECTIVE.match(text)
    if match is None and ":" in text:
        start = 0
        label = LABELS.match(text)
        while label is not None:
            start = label.end()
            label = LABELS.match(text, start)
        match = _DIRECTIVE.match(text, start)
    return match.group(1) if match else ""


def _block(
    lines: Sequence[Source], i: int, openers: frozenset[str], closers: frozenset[str], pos: int
) -> tuple[Sequence[Source], int]:
    """The lines up to the matching closer, and the index behind it."""
    depth = 1
    for j in range(i, len(lines)):
        name = _directive_of(lines[j])
        if name in openers:
            depth += 1
        elif name in closers:
            depth -= 1
            if not depth:
                return lines[i:j], j + 1
    raise Fault("block-end", f"there is no .{min(closers, key=len)} for this block", pos)


def _name(parser: Parser, what: str) -> tuple[str, int]:
    pos = parser.skip()
    match = _NAME.match(parser.text, pos)
    if match is None:
        raise Fault("directive-name", f"expected the name of {what}, found {parser.rest()}", pos)
    parser.pos = match.end()
    return match.group(), pos


def _end(parser: Parser) -> None:
    if parser.peek():
        raise Fault("trailing-text", f"unexpected {parser.rest()}", parser.pos)


def _values(parser: Parser) -> list[tuple[Value, int]]:
    found: list[tuple[Value, int]] = []
    while True:
        pos = parser.skip()
        found.append((parser.expression(), pos))
        if not parser.accept(","):
            break
    _end(parser)
    return found


def _integer(value: Value, pos: int, what: str, low: int, high: int) -> int:
    if not isinstance(value, int):
        raise Fault("value-type", f"{what} is an integer, not {described(value)}", pos)
    if not low <= value <= high:
        raise Fault("value-range", f"{what} is {value}", pos, allowed=f"{low}..{high}")
    return value


def _parameters(parser: Parser) -> tuple[str, ...]:
    parser.expect("(", "before the parameters")
    names: list[str] = []
    if not parser.accept(")"):
        while True:
            name, pos = _name(parser, "a parameter")
            if name in names:
                raise Fault("parameter-twice", f"the parameter {name!r} appears twice", pos)
            names.append(name)
            if not parser.accept(","):
                break
        parser.expect(")", "after the parameters")
    return tuple(names)


# -- constants and functions ---------------------------------------------------------------


def _setter(local: bool, final: bool) -> Handler:
    def run(engine: Engine, parser: Parser, lines: Sequence[Source], i: int) -> int:
        name, pos = _name(parser, "a constant")
        if parser.pos < len(parser.text) and parser.text[parser.pos] == "(":
            parameters = _parameters(parser)
            parser.accept(",")
            start = parser.skip()
            if not parser.peek():
                raise Fault("missing-operand", f"the expression of {name} is missing", start)
            scope = engine.scope if local else engine.root
            if name in scope.final:
                raise Fault("constant-final", f"{name!r} is a .const and cannot be defined again", pos)
            engine.shadow(name)
            scope.functions[name] = ExpressionFunction(name, parameters, engine.source, parser.text, start)
            scope.constants.pop(name, None)
            if final:
                scope.final.add(name)
            return i
        parser.expect(",", f"between {name} and its value")
        value = parser.expression()
        _end(parser)
        engine.define(name, value, pos, local=local, final=final)
        return i

    return run


def _unsetter(local: bool) -> Handler:
    def run(engine: Engine, parser: Parser, lines: Sequence[Source], i: int) -> int:
        name, pos = _name(parser, "a constant")
        _end(parser)
        scope = engine.scope if local else engine.root
        if name in scope.final:
            raise Fault("constant-final", f"{name!r} is a .const and cannot be removed", pos)
        if scope.constants.pop(name, None) is None and scope.functions.pop(name, None) is None:
            engine.warn("unset", f"{name!r} is not defined here", pos)
        return i

    return run


def _func(engine: Engine, parser: Parser, lines: Sequence[Source], i: int) -> int:
    name, pos = _name(parser, "a function")
    parameters = _parameters(parser)
    _end(parser)
    body, after = _block(lines, i, frozenset({"func"}), frozenset({"endf", "endfunc"}), pos)
    engine.shadow(name)
    engine.root.functions[name] = LineFunction(name, parameters, engine.source, tuple(body))
    engine.root.constants.pop(name, None)
    return after


def _local(engine: Engine, parser: Parser, lines: Sequence[Source], i: int) -> int:
    pos = parser.pos - len(".local")
    _end(parser)
    body, after = _block(lines, i, frozenset({"local"}), frozenset({"endloc"}), pos)
    engine.nested(body, {}, None, pos)
    return after


# -- macros and repetition ---------------------------------------------------------------


def _macro(engine: Engine, parser: Parser, lines: Sequence[Source], i: int) -> int:
    name, pos = _name(parser, "a macro")
    parameters: list[str] = []
    parser.accept(",")
    while parser.peek():
        parameter, where = _name(parser, "a parameter")
        if parameter in parameters:
            raise Fault("parameter-twice", f"the parameter {parameter!r} appears twice", where)
        parameters.append(parameter)
        if not parser.accept(","):
            _end(parser)
    for j in range(i, len(lines)):
        directive = _directive_of(lines[j])
        if directive == "endm":
            break
        if directive == "macro":
            engine.source = lines[j]
            raise Fault("macro-nested", "a macro cannot be defined inside another", lines[j][0].find("."))
    body, after = _block(lines, i, frozenset(), frozenset({"endm"}), pos)
    engine.shadow(name, macro=True)
    engine.macros[name] = Macro(name, tuple(parameters), engine.source, tuple(body))
    return after


def _rep(engine: Engine, parser: Parser, lines: Sequence[Source], i: int) -> int:
    name, pos = _name(parser, "the counter")
    parser.expect(",", "between the counter and the number of repetitions")
    where = parser.skip()
    count = _integer(parser.expression(), where, "the number of repetitions", 0, _REPEAT_LIMIT)
    _end(parser)
    body, after = _block(lines, i, frozenset({"rep"}), frozenset({"endr", "endrep"}), pos)
    source = engine.source
    for k in range(count):
        engine.nested(body, {name: k}, None, pos)
        engine.source = source
    return after


def _foreach(engine: Engine, parser: Parser, lines: Sequence[Source], i: int) -> int:
    name, pos = _name(parser, "the variable")
    parser.expect(",", "between the variable and its values")
    values = _values(parser)
    body, after = _block(lines, i, frozenset({"foreach"}), frozenset({"endfor"}), pos)
    source = engine.source
    for value, _ in values:
        engine.nested(body, {name: value}, None, pos)
        engine.source = source
    return after


# -- conditions ---------------------------------------------------------------

_IFS = frozenset({"if", "ifset"})
_BRANCHES = frozenset({"elseif", "elif", "else"})


def _next_branch(lines: Sequence[Source], i: int, pos: int) -> int:
    """Index of the next .elseif, .else or .endif of the current .if."""
    depth = 0
    for j in range(i, len(lines)):
        name = _directive_of(lines[j])
        if name in _IFS:
            depth += 1
        elif name == "endif":
            if not depth:
                return j
            depth -= 1
        elif name in _BRANCHES and not depth:
            return j
    raise Fault("block-end", "there is no .endif for this block", pos)


def _conditional(engine: Engine, holds: bool, lines: Sequence[Source], i: int, pos: int) -> int:
    """Run the branch of an .if that applies; returns the index behind .endif."""
    opened = engine.source
    chosen: Sequence[Source] | None = None
    seen_else = False
    while True:
        try:
            end = _next_branch(lines, i, pos)
        except Fault:
            engine.source = opened
            raise
        if holds and chosen is None:
            chosen = lines[i:end]
        line = lines[end]
        name = _directive_of(line)
        text = strip_comment(line[0])
        match = re.compile(r".*?\.\s*(?:elseif|elif|else|endif)\b").match(text)
        assert match is not None
        parser = Parser(text, engine, match.end())
        i = end + 1
        engine.source = line
        if name == "endif":
            _end(parser)
            break
        if seen_else:
            raise Fault("else-order", f".{name} after .else", text.find("."))
        if name == "else":
            _end(parser)
            seen_else = True
            holds = chosen is None
        else:
            where = parser.skip()
            holds = False
            if chosen is None:
                holds = truth(parser.expression(), where)
                _end(parser)
    engine.source = opened
    if chosen is not None:
        engine.run_lines(chosen, in_function=engine.results is not None)
    return i


_BLOCKS: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "if": (_IFS, frozenset({"endif"})),
    "ifset": (_IFS, frozenset({"endif"})),
    "rep": (frozenset({"rep"}), frozenset({"endr", "endrep"})),
    "foreach": (frozenset({"foreach"}), frozenset({"endfor"})),
    "macro": (frozenset({"macro"}), frozenset({"endm"})),
    "func": (frozenset({"func"}), frozenset({"endf", "endfunc"})),
    "local": (frozenset({"local"}), frozenset({"endloc"})),
    "back": (frozenset({"back"}), frozenset({"endb"})),
}


def after_block(name: str, lines: Sequence[Source], i: int) -> int:
    """Where to go on after a directive in error: behind the block it opens, if it opens one that is closed."""
    block = _BLOCKS.get(name)
    if block is None:
        return i
    try:
        return _block(lines, i, *block, 0)[1]
    except Fault:
        return i


def _if(engine: Engine, parser: Parser, lines: Sequence[Source], i: int) -> int:
    pos = parser.skip()
    holds = truth(parser.expression(), pos)
    _end(parser)
    return _conditional(engine, holds, lines, i, pos)


def _ifset(engine: Engine, parser: Parser, lines: Sequence[Source], i: int) -> int:
    name, pos = _name(parser, "a constant, function or macro")
    _end(parser)
    holds = engine.scope.find(name) is not None or engine.scope.find_function(name) is not None or name in engine.macros
    return _conditional(engine, holds, lines, i, pos)


def _stray(what: str) -> Handler:
    def run(engine: Engine, parser: Parser, lines: Sequence[Source], i: int) -> int:
        raise Fault("block-start", f"there is no {what} before this", len(parser.text) - len(parser.text.lstrip()))

    return run


def _assert(engine: Engine, parser: Parser, lines: Sequence[Source], i: int) -> int:
    pos = parser.skip()
    value = parser.expression()
    _end(parser)
    if not truth(value, pos):
        raise Fault("assertion", f"the assertion {parser.text[pos:].strip()!r} does not hold", pos)
    return i


# -- files ---------------------------------------------------------------


def _include(engine: Engine, parser: Parser, lines: Sequence[Source], i: int) -> int:
    from pathlib import Path

    pos = parser.skip()
    text = parser.text[pos:].strip()
    if len(text) < 3 or (text[0], text[-1]) not in (('"', '"'), ("<", ">")):
        raise Fault("include-name", 'a file name stands in "" or <>', pos)
    name = text[1:-1]
    places = [Path(p) for p in engine.include_path]
    if text[0] == '"':
        places.insert(0, Path(engine.source[1]).parent)
    note = f"included at {engine.source[1]}:{engine.source[2]}"
    if any(" included" in f" {n}" for n in engine.stack) and len(engine.stack) > 32:
        raise Fault("recursion", "files include each other more than 32 deep", pos)
    for place in places:
        path = place / name
        try:
            content = path.read_text(encoding="utf-8", errors="surrogateescape")
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            continue
        except OSError as problem:
            raise Fault("include", f"{path} cannot be read: {problem.strerror or problem}", pos) from None
        source = [(line, str(path), k) for k, line in enumerate(split_lines(content), 1)]
        engine.nested(source, {}, note, pos)
        return i
    if name == "vc4.qinc":
        from qpu.vc4.vc4asm.engine import standard_scope

        standard = standard_scope()
        engine.root.constants.update(standard.constants)
        engine.root.functions.update(standard.functions)
        return i
    looked = ", ".join(str(p) for p in places) or "nowhere: no include path is given"
    raise Fault("include", f"{name} is not found", pos, help=f"looked in {looked}")


# -- data ---------------------------------------------------------------


def _integers(bits: int) -> Handler:
    def run(engine: Engine, parser: Parser, lines: Sequence[Source], i: int) -> int:
        for value, pos in _values(parser):
            if isinstance(value, LabelRef):
                raise Fault("label-operand", "a label alone is no data; a difference of two labels is", pos)
            if not isinstance(value, int):
                raise Fault("value-type", f"data of {bits} bits are integers, not {described(value)}", pos)
            if bits < 64 and not -(1 << (bits - 1)) <= value < 1 << bits:
                engine.warn(
                    "data-range", f"{value} does not fit {bits} bits; the low {bits} bits are kept", pos,
                    f"write ({value} & {hex((1 << bits) - 1)}) if that is meant",
                )  # fmt: skip
            engine.out.data(value, bits, engine.source)
        return i

    return run


def _half_bits(value: float) -> int:
    try:
        bits: int = struct.unpack("<H", struct.pack("<e", value))[0]
    except OverflowError:
        return 0xFC00 if value < 0 else 0x7C00
    return bits


def _double_bits(value: float) -> int:
    bits: int = struct.unpack("<Q", struct.pack("<d", value))[0]
    return bits


def _floats(bits: int, encode: Callable[[float], int], infinity: int) -> Handler:
    def run(engine: Engine, parser: Parser, lines: Sequence[Source], i: int) -> int:
        for value, pos in _values(parser):
            if not isinstance(value, int | float):
                raise Fault("value-type", f"a number is needed, not {described(value)}", pos)
            pattern = encode(float(value))
            if pattern & infinity == infinity and abs(value) != float("inf") and value == value:
                engine.warn("float-range", f"{value} is out of range and becomes infinity", pos)
            engine.out.data(pattern, bits, engine.source)
        return i

    return run


def _align(engine: Engine, parser: Parser, lines: Sequence[Source], i: int) -> int:
    values = _values(parser)
    if len(values) > 2:
        raise Fault("operand-count", ".align takes an alignment and a base", values[2][1])
    to = _integer(values[0][0], values[0][1], "the alignment", 1, 64)
    if to & (to - 1):
        raise Fault("value-range", f"the alignment is {to}", values[0][1], allowed="1, 2, 4, 8, 16, 32, 64")
    base = 0
    if len(values) == 2:
        value, pos = values[1]
        base = engine.address(value) if isinstance(value, LabelRef) else _integer(value, pos, "the base", 0, 1 << 31)
    engine.out.align(to, base, engine.source)
    return i


def _region(code: bool) -> Handler:
    def run(engine: Engine, parser: Parser, lines: Sequence[Source], i: int) -> int:
        _end(parser)
        engine.out.region = code
        return i

    return run


def _global(engine: Engine, parser: Parser, lines: Sequence[Source], i: int) -> int:
    pos = parser.skip()
    value: Value
    if parser.peek() == ":":
        value = parser.expression()
        _end(parser)
        if not isinstance(value, LabelRef) or value.addend:
            raise Fault("global", "an exported label stands alone: .global :name", pos)
        name = value.key[0]
        if value.key[1]:
            raise Fault("label-export", f"the local label {name} cannot be exported", pos)
    else:
        name, pos = _name(parser, "a symbol")
        parser.expect(",", f"between {name} and its value")
        where = parser.skip()
        value = parser.expression()
        _end(parser)
        if not isinstance(value, int | float | LabelRef):
            raise Fault("value-type", f"a symbol is a number or a label, not {described(value)}", where)
    if name in engine.exports and engine.exports[name][0] != value:
        raise Fault("global-twice", f"the symbol {name!r} is already exported", pos)
    engine.exports[name] = (value, engine.source)
    return i


# -- moving and copying instructions ---------------------------------------------------------------


def _back(engine: Engine, parser: Parser, lines: Sequence[Source], i: int) -> int:
    pos = parser.skip()
    n = _integer(parser.expression(), pos, "the number of instructions", 0, 10)
    _end(parser)
    body, after = _block(lines, i, frozenset({"back"}), frozenset({"endb"}), pos)
    source = engine.source
    try:
        cut = engine.out.cut(n)
    except Fault as fault:
        fault.pos = pos
        raise
    try:
        engine.nested(body, {}, None, pos)
    finally:
        engine.source = source
        cut.restore(source)
    return after


def _clone(engine: Engine, parser: Parser, lines: Sequence[Source], i: int) -> int:
    pos = parser.skip()
    label = parser.expression()
    if not isinstance(label, LabelRef):
        raise Fault("value-type", f".clone starts at a label, not at {described(label)}", pos)
    parser.expect(",", "between the label and the number of instructions")
    where = parser.skip()
    n = _integer(parser.expression(), where, "the number of instructions", 0, 3)
    _end(parser)
    out = engine.out
    first = engine.address(label)
    if first % 8:
        raise Fault("clone", f"{first} is no address of an instruction", pos)
    first //= 8
    here = len(out.words) + bool(out.tail_bits)
    origin = out
    if first + n > len(out.words) and engine.previous is not None:
        origin = engine.previous
    for k in range(n):
        at = first + k
        word = origin.words[at] if 0 <= at < len(origin.words) else NOP_WORD
        out.word(word & ~0xFFFFFFFF if at in origin.fixups else word, engine.source, origin.fixups.get(at))
        if at in origin.fixups and origin is out:
            out.words[-1] = word
    engine.clones.append((label.key, label.addend, here, n))
    return i


DIRECTIVES: dict[str, Handler] = {
    **dict.fromkeys(("set", "define", "equ"), _setter(False, False)),
    "const": _setter(False, True),
    "lset": _setter(True, False),
    "lconst": _setter(True, True),
    **dict.fromkeys(("unset", "undef"), _unsetter(False)),
    "lunset": _unsetter(True),
    "local": _local,
    "endloc": _stray(".local"),
    "func": _func,
    **dict.fromkeys(("endf", "endfunc"), _stray(".func")),
    "macro": _macro,
    "endm": _stray(".macro"),
    "rep": _rep,
    **dict.fromkeys(("endr", "endrep"), _stray(".rep")),
    "foreach": _foreach,
    "endfor": _stray(".foreach"),
    "if": _if,
    "ifset": _ifset,
    **dict.fromkeys(("elseif", "elif", "else", "endif"), _stray(".if")),
    "assert": _assert,
    "include": _include,
    "back": _back,
    "endb": _stray(".back"),
    "clone": _clone,
    **dict.fromkeys(("bit", "int1"), _integers(1)),
    "int2": _integers(2),
    "int4": _integers(4),
    **dict.fromkeys(("byte", "int8"), _integers(8)),
    **dict.fromkeys(("short", "word", "int16"), _integers(16)),
    **dict.fromkeys(("int", "dword", "int32"), _integers(32)),
    **dict.fromkeys(("long", "qword", "int64"), _integers(64)),
    **dict.fromkeys(("half", "float16"), _floats(16, _half_bits, 0x7C00)),
    **dict.fromkeys(("float", "float32"), _floats(32, float_bits, 0x7F800000)),
    **dict.fromkeys(("double", "float64"), _floats(64, _double_bits, 0x7FF0000000000000)),
    "align": _align,
    "global": _global,
    **dict.fromkeys(("code", "text"), _region(True)),
    "rodata": _region(False),
}
"""Every directive."""
