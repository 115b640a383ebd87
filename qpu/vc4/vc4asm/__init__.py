"""The text assembler of VideoCore IV, for the language of vc4asm, with errors at line and column.

`assemble_text` runs passes (`engine`) until all labels have their final addresses.

Source: the language as documented for vc4asm and its standard include, and its output for several thousand snippets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from os import PathLike, fspath

from qpu.core.recursion import deep
from qpu.errors import AsmError, Diagnostic, Loc
from qpu.vc4.vc4asm.directives import DIRECTIVES
from qpu.vc4.vc4asm.engine import STANDARD_INCLUDE, Engine
from qpu.vc4.vc4asm.expr import evaluate
from qpu.vc4.vc4asm.fault import Fault
from qpu.vc4.vc4asm.output import Locs, Output
from qpu.vc4.vc4asm.report import TooManyErrors
from qpu.vc4.vc4asm.symbols import Scope
from qpu.vc4.vc4asm.values import LabelRef

__all__ = ["AssembledText", "Symbol", "assemble_text"]

_PASSES = 8


@dataclass(frozen=True, slots=True)
class Symbol:
    """An exported symbol. value: a number, or a byte offset from the start of the words when `is_label`."""

    value: int | float
    is_label: bool


@dataclass(frozen=True, slots=True)
class AssembledText:
    """The result of assembling a source text.

    words: instructions and data in order, 64 bits each. labels: name -> byte offset, without local (numeric) labels.
    globals: exported symbols. locs: the source location of each word. code, data: runs of words as (first, past the
    last). warnings: in order of source location.
    """

    words: tuple[int, ...]
    labels: Mapping[str, int]
    globals: Mapping[str, Symbol]
    locs: Locs
    code: tuple[tuple[int, int], ...]
    data: tuple[tuple[int, int], ...]
    warnings: tuple[Diagnostic, ...]


def assemble_text(
    text: str,
    *,
    filename: str = "<text>",
    include_path: Sequence[str | PathLike[str]] = (),
    include_root: str | PathLike[str] | None = None,
    defines: Mapping[str, int | float | str] | None = None,
) -> AssembledText:
    """Assemble a source text.

    filename: name of the text in messages; includes are also searched in its directory. include_path: directories for
    ``.include``; the standard include ``vc4.qinc`` is always available, and its functions are defined without including
    it. include_root: directory that must contain all included files; use it for text that you did not write.
    defines: constants defined before the text; a string is an expression.
    Raises: AsmError with up to 20 located diagnostics.
    """
    path = [fspath(p) for p in include_path]
    root = None if include_root is None else fspath(include_root)
    return deep(lambda: _assemble(text, filename, path, root, defines or {}))  # functions of the text may recurse


def _assemble(
    text: str, filename: str, path: Sequence[str], root: str | None, defines: Mapping[str, int | float | str]
) -> AssembledText:
    previous: Output | None = None
    for _ in range(_PASSES):
        engine = Engine(DIRECTIVES, standard_scope(), previous, include_path=path, include_root=root)
        previous = engine.out
        try:
            _define(engine, defines)
            engine.run_text(text, filename)
            engine.finish()
        except TooManyErrors:
            if not engine.labels.used:
                break
            # Forward references read as 0 may have caused the errors: run another pass with the labels found so far.
        if engine.settled:
            break
    else:
        if not engine.report.errors:
            fault = Fault("unsettled", "the labels depend on themselves: their addresses change with every pass",
                          help="use only labels defined earlier in conditions")  # fmt: skip
            engine.report.error(fault, engine.source)
    if engine.report.errors:
        raise AsmError.of(engine.report.errors)
    out = engine.out
    labels = {key[0]: offset for key, offset in out.labels.items() if not key[1]}
    symbols: dict[str, Symbol] = {}
    for name, (value, _source) in engine.exports.items():
        if isinstance(value, LabelRef):
            symbols[name] = Symbol(out.labels[value.key] + value.addend, True)
        elif isinstance(value, int | float):
            symbols[name] = Symbol(value, False)
    return AssembledText(tuple(out.words), labels, symbols, Locs(out.where), out.ranges(True), out.ranges(False),
                         tuple(sorted(engine.report.warnings, key=_place)))  # fmt: skip


def _define(engine: Engine, defines: Mapping[str, int | float | str]) -> None:
    for name, value in defines.items():
        engine.source = (str(value), f"<define {name}>", 1)
        try:
            if not name.isidentifier():
                raise Fault(
                    "directive-name", f"{name!r} is not a name for a constant", help="use letters, digits and _"
                )
            engine.symbols.define(name, evaluate(value, engine) if isinstance(value, str) else value, 0)
        except Fault as fault:
            engine.report.error(fault, engine.source)


@cache
def standard_scope() -> Scope:
    """The functions and constants of the standard include."""
    engine = Engine(DIRECTIVES)
    text = resources.files("qpu.vc4.vc4asm").joinpath(STANDARD_INCLUDE).read_text(encoding="utf-8")
    engine.run_text(text, STANDARD_INCLUDE)
    if engine.report.errors:
        raise AssertionError(engine.report.errors[0].render())
    return engine.symbols.root


def _place(d: Diagnostic) -> tuple[str, int, int]:
    loc = d.loc if d.loc is not None else Loc("", 0)
    return loc.file, loc.line, loc.column or 0
