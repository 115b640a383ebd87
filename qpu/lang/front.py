"""The front end: a kernel's syntax tree to KIR by staged evaluation.

Whatever needs no kernel value is run by Python itself, at compile time; the rest becomes operations. This module holds
the state of one evaluation: names, mask, errors. `front_expr` evaluates expressions, `front_flow` statements and
control flow, `mapping` spreads items over workers and lanes.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final, NoReturn, TypeAlias

from qpu.core.scalar_lanes import float_bits
from qpu.errors import CompileError, Diagnostic, Loc, Severity
from qpu.lang.bounds import Ranges
from qpu.lang.fold import fold
from qpu.lang.kir import Access, Builder, Region, Value
from qpu.lang.source import MISSING, Source
from qpu.lang.types import LETTER
from qpu.lang.values import POISON, Bound, Complex, Index, Inside, Packed, Poison, Unbound, View

__all__ = [
    "INTERNAL",
    "LANGUAGE",
    "Exits",
    "Frame",
    "Front",
    "LangError",
    "Language",
    "Site",
    "guarded",
    "internal_error",
]

LIMIT_DEPTH = 64  # helper functions inside one another


class LangError(Exception):
    """One finding, on its way from an expression to the statement that contains it."""

    def __init__(self, finding: Diagnostic) -> None:
        super().__init__(finding.message)
        self.finding = finding


@dataclass(slots=True)
class Site:
    """One access in the text: for launch checks and reports. affine: index of each axis as the launch checks it."""

    array: int
    kind: str
    loc: Loc | None
    checked: bool = False


@dataclass(slots=True)
class Exits:
    """Lanes that have left a loop or function. Masks, or None where none has."""

    kind: str  # "loop", "function"
    left: Value | None = None  # broken out of the loop, or returned
    skipped: Value | None = None  # continued with the next turn
    mask: Value | None = None  # the mask at entry
    result: Any = None  # of a function: what lanes returned so far
    static: bool = True  # a loop that Python unrolls


@dataclass(slots=True)
class Frame:
    """Names of the kernel or of a helper that is evaluated inside it. decided: which side Python took, by `if`.

    targets: where each name was assigned last.
    """

    source: Source
    names: dict[str, Any]
    kernel: bool
    exits: list[Exits] = field(default_factory=list)
    decided: dict[int, bool] = field(default_factory=dict)
    targets: dict[str, ast.Name] = field(default_factory=dict)


Handler: TypeAlias = "Callable[[Front, Any], Any]"


@dataclass(frozen=True, slots=True)
class Language:
    """What the nodes of the syntax tree do, by their type; execute: a block of statements; assign: target = value."""

    expressions: Mapping[type[ast.AST], Handler]
    statements: Mapping[type[ast.AST], Handler]
    execute: Callable[[Front, Sequence[ast.stmt]], None]
    assign: Callable[[Front, ast.expr, Any], None]


LANGUAGE: Final = (
    "assignments, if, while, for, break, continue, return, assert, expressions, calls of functions, "
    "nested functions, comprehensions"
)


class Front:
    """One evaluation of a kernel for one set of types and constants.

    q: makes the KIR. mask: lanes that run the current statement, None for all. own: lists that the evaluation made
    and may change. sites: accesses in order of the text.
    """

    def __init__(self, source: Source, isa: str, language: Language, *, check: bool = False, unroll: int = 1) -> None:
        self.language = language
        self.q = Builder(fold)
        self.isa = isa
        self.source = source
        self.mask: Value | None = None
        self.frames: list[Frame] = []
        self.findings: list[Diagnostic] = []
        self.notes: dict[tuple[str, int], Diagnostic] = {}
        self.sites: dict[tuple[str, int, int, str], int] = {}
        self.site_rows: list[Site] = []
        self.own: dict[int, Any] = {}  # by id; keeps them alive so that an id is not given twice
        self.kernel_object: Any = None  # what the first parameter stands for
        self.quiet = 0  # depth of evaluations whose KIR is dropped
        self.placed: dict[int, Value] = {}  # values that have the place of a variable; keeps them alive as `own` does
        self.born: dict[int, int] = {}  # lists that the evaluation made, in order
        self.walls: list[tuple[int, set[int]]] = []  # of loops and conditions: lists made before, those they carry
        self.outer: set[int] = set()  # lists that were made outside of the condition that varies
        self.ranges = Ranges(self.q.top)
        self.inside: dict[int, Inside] = {}  # what is known of indices, by their offsets
        self.interior: dict[int, list[tuple[Value, int]]] = {}  # offsets of items that are at no edge: what they touch
        self.turns: dict[int, tuple[Region, int]] = {}  # items that a turn of a loop takes, by its region
        self.shared: dict[tuple[int, int], tuple[int, int]] = {}  # start and bytes of shared memory, by place
        self.settled: dict[tuple[object, ...], Any] = {}  # what loops carry, by loop and what names are before it
        self.unroll = unroll  # turns of an innermost loop that are made one
        self.check = check  # clamp the accesses that a launch does not check

    # -- evaluation

    def evaluate(self, node: ast.expr) -> Any:
        """The value of an expression: a Python object, or what `qpu.lang.values` lists. Raises: LangError."""
        handler = self.language.expressions.get(type(node))
        if handler is None:
            what = type(node).__name__
            raise self.error(node, "lang-syntax", f"{what} is not part of the kernel language", allowed=LANGUAGE)
        if not self.quiet or self.q.loc is None:
            self.q.loc = self.loc(node)
        return handler(self, node)

    def execute(self, body: Sequence[ast.stmt]) -> None:
        """Statements, one after another."""
        self.language.execute(self, body)

    def assign(self, target: ast.expr, value: Any) -> None:
        """target = value."""
        self.language.assign(self, target, value)

    # -- names

    @property
    def frame(self) -> Frame:
        return self.frames[-1]

    @property
    def names(self) -> dict[str, Any]:
        return self.frames[-1].names

    def lookup(self, node: ast.Name) -> Any:
        """The value of a name. Raises: LangError (lang-name)."""
        name = node.id
        if name in self.names:
            value = self.names[name]
            if isinstance(value, Unbound):
                raise self.error(
                    node,
                    "lang-name",
                    f"{name!r} may be unbound here: it was first bound {value.where} (line {value.line})",
                    help=f"bind {name} before",
                )
            return value
        value = self.frame.source.lookup(name)
        if value is MISSING:
            import difflib

            known = [*self.names, *self.frame.source.closure, *self.frame.source.fn.__globals__]
            close = difflib.get_close_matches(name, known, 1)
            raise self.error(
                node,
                "lang-name",
                f"name {name!r} is not defined",
                help=f"did you mean {close[0]!r}?" if close else "bind it before, or pass it as a parameter",
            )
        return value

    # -- errors

    def loc(self, node: ast.AST) -> Loc:
        return self.frame.source.loc(node)

    def error(
        self, node: ast.AST, rule: str, message: str, *, allowed: str | None = None, help: str | None = None
    ) -> LangError:
        """A finding at a node, to be raised."""
        if allowed is None and help is None:
            help = _HELP.get(rule)
        return LangError(Diagnostic(rule, message, loc=self.loc(node), allowed=allowed, help=help))

    def report(self, finding: Diagnostic) -> None:
        """Keep a finding, once for each rule and place: bodies are evaluated several times."""
        if all((f.rule, f.loc) != (finding.rule, finding.loc) for f in self.findings):
            self.findings.append(finding)

    def silent(self) -> NoReturn:
        """Stop an expression that contains what was reported before."""
        raise LangError(_SILENT)

    def keep(self, error: LangError) -> None:
        """Report what an error says, unless it follows from what was reported before."""
        if error.finding is not _SILENT:
            self.report(error.finding)

    def note(self, node: ast.AST, rule: str, message: str, help: str | None = None) -> None:
        """A performance note, once a line."""
        loc = self.loc(node)
        self.notes.setdefault((rule, loc.line), Diagnostic(rule, message, Severity.INFO, loc, help=help))

    def finish(self) -> None:
        """Raises: CompileError with every finding."""
        if self.findings:
            found = sorted(self.findings, key=lambda d: (d.loc.line, d.loc.column or 0) if d.loc else (0, 0))
            raise CompileError("\n".join(d.render() for d in found), found)

    # -- values

    def describe(self, value: Any) -> str:
        """A value's type in the language's words."""
        if isinstance(value, Value):
            return LETTER[value.type]
        if isinstance(value, Index):
            return "i32"
        if isinstance(value, View):
            return f"array {value.name!r}"
        if isinstance(value, Complex):
            return "c64"
        if isinstance(value, Packed):
            return value.dtype.name
        if isinstance(value, Bound):
            return f"the method {value.name}"
        if value is self.kernel_object:
            return "the kernel object"
        return f"{type(value).__name__} {value!r}"[:60]

    @staticmethod
    def is_value(value: Any) -> bool:
        """Whether it exists on the GPU only."""
        return isinstance(value, Value | Index | Complex | Packed | Poison)

    def lift(self, value: Any, node: ast.AST, type_: str = "") -> Value:
        """A KIR value of a number or value. type_: what a Python number becomes; by default i32, f32 or a mask."""
        if isinstance(value, Value):
            return value
        if isinstance(value, Index):
            return value.value(self.q)
        if isinstance(value, Poison):
            self.silent()
        if isinstance(value, bool) and type_ in ("", "b"):
            return self.q.const("b", value)
        import numbers

        if isinstance(value, numbers.Integral):
            number = int(value)
            if type_ == "f":
                return self.q.const("f", float_bits(float(number)))
            if not -(1 << 31) <= number < 1 << 32:
                raise self.error(node, "lang-type", f"{number} does not fit 32 bits", allowed="-2**31 .. 2**32-1")
            kind = type_ or ("i" if number < 1 << 31 else "u")
            if kind == "b":
                raise self.error(node, "lang-type", f"{number} is a number where a condition is wanted")
            return self.q.const(kind, number & 0xFFFFFFFF)
        if isinstance(value, numbers.Real):
            if type_ in ("i", "u"):
                raise self.error(
                    node, "lang-type", f"the float {value!r} is used as {LETTER[type_]}", help=f"{LETTER[type_]}(...)"
                )
            return self.q.const("f", float_bits(float(value)))
        raise self.error(
            node,
            "lang-type",
            f"{self.describe(value)} is not a value of the kernel language",
            allowed="numbers, bool, values of f32, i32, u32",
            help="an item, or * before it where several numbers are wanted"
            if isinstance(value, list | tuple)
            else None,
        )

    def convert(self, value: Any, type_: str, node: ast.AST) -> Value:
        """An explicit cast to a value type; masks become 0 and 1."""
        if isinstance(value, Complex | Packed):
            raise self.error(node, "lang-type", f"{self.describe(value)} has no conversion to {LETTER[type_]}")
        if not isinstance(value, Value | Index | Poison):
            import numbers

            if type_ in ("i", "u") and isinstance(value, numbers.Real) and not isinstance(value, numbers.Integral):
                value = int(float(value))
            if isinstance(value, bool) and type_ != "b":
                value = int(value)
            return self.lift(value, node, type_)
        v = self.lift(value, node)
        q = self.q
        if v.type == type_:
            return v
        if v.type == "b":
            one = q.const(type_, 0x3F800000 if type_ == "f" else 1)
            return q.emit("select", v, one, q.const(type_, 0))
        if type_ == "b":
            return q.emit("ne", v, q.const(v.type, 0), type_="b", attr=v.type)
        if type_ == "f":
            return q.emit("itof" if v.type == "i" else "utof", v)
        if v.type == "f":
            return q.emit("ftoi" if type_ == "i" else "ftou", v)
        return q.emit("bitcast", v, type_=type_)

    # -- masks

    def under(self, condition: Value) -> Value:
        """The mask of lanes that run and for which the condition holds."""
        return condition if self.mask is None else self.q.emit("band", self.mask, condition)

    @contextmanager
    def masked(self, mask: Value | None) -> Iterator[None]:
        """Statements run for the lanes of `mask`."""
        before, self.mask = self.mask, mask
        try:
            yield
        finally:
            self.mask = before

    @contextmanager
    def into(self, region: Region) -> Iterator[None]:
        """Operations are appended to `region`."""
        before, self.q.region = self.q.region, region
        try:
            yield
        finally:
            self.q.region = before

    @contextmanager
    def dropped(self) -> Iterator[None]:
        """A trial: notes and who has left are as before afterwards, and its KIR goes nowhere."""
        notes = dict(self.notes)
        exits = [[(e.left, e.skipped, e.result) for e in f.exits] for f in self.frames]
        self.quiet += 1
        try:
            yield
        finally:
            self.quiet -= 1
            self.notes = notes
            for frame, saved in zip(self.frames, exits, strict=False):
                for e, (left, skipped, result) in zip(frame.exits, saved, strict=False):
                    e.left, e.skipped, e.result = left, skipped, result

    def site(self, node: ast.AST, kind: str, array: int) -> int:
        """The number of an access in the text: the same for every copy of the body."""
        loc = self.loc(node)
        key = (loc.file, loc.line, loc.column or 0, kind)
        number = self.sites.get(key)
        if number is None:
            number = self.sites[key] = len(self.site_rows)
            self.site_rows.append(Site(array, kind, loc))
        return number

    def access(self, view: View, offset: int, node: ast.AST, kind: str, operation: str = "") -> Access:
        return Access(view.number, offset, view.dtype.name, self.site(node, kind, view.number), operation)


_HELP: Final = {
    "lang-syntax": f"the language has {LANGUAGE}",
    "lang-name": "dir(...) in ordinary Python lists the names",
    "lang-type": "cast it, as in i32(...), u32(...), f32(...)",
    "lang-call": "the arguments as the function declares them",
    "lang-varying": "what is known when compiling: numbers, Const parameters, unroll(range(...)) over those",
    "lang-assert": "it compares what is known when the kernel is compiled: call the kernel with other constants",
    "lang-python": "Python itself evaluated this when compiling, and raised the error",
}
"""Help where a finding has none of its own."""

INTERNAL: Final = ("lang-internal", "the compiler itself failed at this statement")


def internal_error(finding: Diagnostic, error: Exception) -> CompileError:
    """The error for a fault of the compiler; what it was made of stays its cause."""
    message = f"{finding.message}: {type(error).__name__}: {error}"
    help = "this is a fault of qpu, not of the kernel: please report it with the kernel and this traceback"
    found = replace(finding, message=message, help=help)
    return CompileError(found.render(), [found])


_SILENT = Diagnostic("lang-poison", "reported before")


def guarded(f: Front, node: ast.AST, work: Callable[[], Any]) -> Any:
    """The result of `work`; what goes wrong in it is kept at its place, and the result is poison."""
    try:
        return work()
    except LangError as error:
        f.keep(error)
        return POISON
