"""From a kernel's source and types to KIR: what is specialised, parameters, layout of items."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from qpu.errors import CompileError, Diagnostic
from qpu.lang import front_expr, front_flow, front_loops, front_names, surface
from qpu.lang.bounds import Access, Expr
from qpu.lang.front import Exits, Frame, Front, Language, Site
from qpu.lang.kir import Loop, Region, Skip, Value, walk
from qpu.lang.mapping import GridBody, GridObject, TeamObject
from qpu.lang.meeting import apart
from qpu.lang.merge_stores import merge_stores
from qpu.lang.reassociate import reassociate
from qpu.lang.roll import carry_rows
from qpu.lang.share_loads import share_loads
from qpu.lang.source import Source
from qpu.lang.types import DTYPES
from qpu.lang.values import View

__all__ = ["KernelIR", "Parameter", "parameters", "tidied", "to_kir"]


_STATEMENTS: dict[type[ast.AST], Any] = {}
_STATEMENTS.update(front_flow.HANDLERS)
_STATEMENTS.update(front_loops.HANDLERS)
_LANGUAGE: Final = Language(
    front_expr.HANDLERS,
    _STATEMENTS,
    front_flow.execute,
    front_names.assign,
)


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a kernel. kind: "kernel", "scalar", "array" or "const"; type: of scalars and arrays."""

    name: str
    kind: str
    type: str = ""
    mode: str = ""
    rank: int = 0
    default: Any = None
    has_default: bool = False


def parameters(source: Source) -> list[Parameter]:
    """The parameters by their annotations. Raises: CompileError (lang-type)."""
    import inspect

    tree = source.tree
    if not isinstance(tree, ast.FunctionDef):
        kind = type(tree).__name__.lower().replace("asyncfunctiondef", "async def")
        finding = Diagnostic("lang-syntax", f"a kernel of {kind}", loc=source.loc(tree), allowed="functions of `def`")
        raise CompileError(finding.render(), [finding])
    found: list[Parameter] = []
    findings: list[Diagnostic] = []

    def wrong(where: ast.AST, rule: str, message: str, *, allowed: str | None = None, help: str | None = None) -> None:
        findings.append(Diagnostic(rule, message, loc=source.loc(where), allowed=allowed, help=help))

    findings += _any_number(source)
    if not (tree.args.posonlyargs or tree.args.args):
        wrong(tree, "lang-type", "a kernel without parameters", allowed="a Grid or Team first, as in k: Grid")
    names = {**source.fn.__globals__, **source.closure}
    signature = inspect.signature(source.fn)
    for i, arg in enumerate([*tree.args.posonlyargs, *tree.args.args, *tree.args.kwonlyargs]):
        annotation = source.fn.__annotations__.get(arg.arg)
        if isinstance(annotation, str):
            try:
                annotation = eval(annotation, names)
            except Exception as error:
                message = f"the annotation of {arg.arg!r}: {error}"
                wrong(arg, "lang-type", message, help="import its names at the top of the file")
                continue
        default = signature.parameters[arg.arg].default
        has = default is not inspect.Parameter.empty
        if i == 0:
            if annotation not in (surface.Grid, surface.Team):
                message = f"the first parameter {arg.arg!r} is not a Grid or Team"
                wrong(arg, "lang-type", message, help=f"{arg.arg}: Grid")
            found.append(Parameter(arg.arg, "kernel", getattr(annotation, "__name__", "")))
        elif isinstance(annotation, surface.ArrayType):
            if annotation.dtype not in DTYPES:
                wrong(arg, "lang-type", f"an array of {annotation.dtype}", allowed=", ".join(DTYPES))
                continue
            found.append(Parameter(arg.arg, "array", annotation.dtype, annotation.mode, annotation.rank))
        elif isinstance(annotation, surface.ScalarType):
            if annotation.name not in ("f32", "i32", "u32"):
                wrong(arg, "lang-type", f"{arg.arg!r} is {annotation.name}", allowed="scalars of f32, i32, u32")
            found.append(Parameter(arg.arg, "scalar", annotation.name, default=default, has_default=has))
        elif annotation is surface.Const or getattr(annotation, "__origin__", None) is surface.Const:
            found.append(Parameter(arg.arg, "const", default=default, has_default=has))
        else:
            what = f"the annotation {annotation!r}" if annotation else "no annotation"
            allowed = "f32, i32, u32, In[...], Out[...], InOut[...] and their 2 and 3, Const[...]"
            wrong(arg, "lang-type", f"parameter {arg.arg!r} has {what}", allowed=allowed)
    if findings:
        raise CompileError("\n".join(d.render() for d in findings), findings)
    return found


def _any_number(source: Source) -> list[Diagnostic]:
    """Findings for parameters that take any number of arguments."""
    args = source.tree.args
    return [
        Diagnostic("lang-syntax", f"{more.arg!r} takes any number of arguments", loc=source.loc(more),
                   help="a parameter for each argument")
        for more in (args.vararg, args.kwarg) if more is not None
    ]  # fmt: skip


def scalar_types(fn: Callable[..., Any]) -> tuple[list[str], str]:
    """Types of a function of scalars: of its parameters, and of its result; "" where there is no annotation.

    Raises: CompileError (lang-type).
    """
    source = Source.of(fn)
    tree = source.tree
    names = {**fn.__globals__, **source.closure}
    findings = _any_number(source)

    def of(where: ast.AST, what: str, annotation: Any, extra: tuple[str, ...]) -> str:
        if isinstance(annotation, str):
            try:
                annotation = eval(annotation, names)
            except Exception as error:
                findings.append(Diagnostic("lang-type", f"the annotation of {what}: {error}", loc=source.loc(where)))
        if annotation is None:
            return ""  # what it is called with decides
        name = "bool" if annotation is bool else getattr(annotation, "name", "")
        if (isinstance(annotation, surface.ScalarType) and DTYPES[name].lanes == 1 and name != "c64") or name in extra:
            return name
        allowed = ", ".join([*(n for n, t in DTYPES.items() if t.lanes == 1 and n != "c64"), *extra])
        message = f"{what} has the annotation {annotation!r}"
        findings.append(Diagnostic("lang-type", message, loc=source.loc(where), allowed=allowed))
        return ""

    args = [*tree.args.posonlyargs, *tree.args.args]
    found = [of(a, repr(a.arg), fn.__annotations__.get(a.arg), ()) for a in args]
    result = of(tree, "the result", fn.__annotations__.get("return"), ("bool",))
    if findings:
        raise CompileError("\n".join(d.render() for d in findings), findings)
    return found, result


@dataclass(frozen=True, slots=True)
class LoopFacts:
    """A loop of the KIR. depth: loops around it, itself included; items: that a turn takes, 0 where that is not known;
    loaded, stored: bytes of a turn.
    """

    depth: int
    items: int
    loaded: int
    stored: int


def _loops(region: Region, turns: Mapping[int, tuple[Region, int]], depth: int = 1) -> list[LoopFacts]:
    """The loops in a region, each before those inside it."""
    found: list[LoopFacts] = []
    for v in region.ops:
        if isinstance(v.attr, Loop):
            inside = v.attr.region
            loaded, stored = (_bytes(inside, op) for op in ("load", "store"))
            found.append(LoopFacts(depth, turns.get(id(inside), (None, 0))[1], loaded, stored))
            found += _loops(inside, turns, depth + 1)
        elif isinstance(v.attr, Skip):
            found += _loops(v.attr.region, turns, depth)
    return found


def _mark_items(region: Region, turns: Mapping[int, tuple[Region, int]]) -> bool:
    """Note the loops whose turns are items or rows of items. Whether the region has such a loop of its own."""
    found = False
    for v in region.ops:
        if isinstance(v.attr, Loop):
            v.attr.items = _mark_items(v.attr.region, turns) or id(v.attr.region) in turns
            found |= v.attr.items
        elif isinstance(v.attr, Skip):
            found |= _mark_items(v.attr.region, turns)
    return found


def _bytes(region: Region, op: str) -> int:
    """Bytes that 16 lanes load or store in a region, loops inside left out."""
    total = 0
    for v in region.ops:
        if v.op == op:
            t = DTYPES[v.attr.dtype]
            total += 16 * (4 if t.name == "c64" else t.size)
        elif isinstance(v.attr, Skip):
            total += _bytes(v.attr.region, op)
    return total


@dataclass(slots=True)
class KernelIR:
    """A kernel as KIR. region: its operations; sites: its accesses; layout: of items; notes: what costs; accesses and
    extent: what a launch checks and counts; shared: bytes of memory of the team.
    """

    name: str
    region: Region
    parameters: list[Parameter]
    sites: list[Site]
    layout: str
    coarsen: int
    team: bool
    notes: list[Diagnostic] = field(default_factory=list)
    accesses: list[Access] = field(default_factory=list)
    extent: list[Expr] | None = None
    loops: list[LoopFacts] = field(default_factory=list)
    shared: int = 0

    @property
    def inputs(self) -> frozenset[int] | None:
        """Of a Team: numbers of the arrays that overlap nothing that is written. The items of a Grid may do that, too:
        they are independent.
        """
        return self.read_only if self.team else None

    @property
    def read_only(self) -> frozenset[int]:
        """Numbers of the arrays that nothing writes during the launch."""
        modes = [p.mode for p in self.parameters if p.kind == "array"]
        return frozenset(n for n, mode in enumerate(modes) if mode == "in")

    @property
    def params(self) -> list[Value]:
        """Launch arguments that the KIR reads, in the order of their first use."""
        return [v for v in walk(self.region) if v.op == "param"]


def to_kir(
    source: Source,
    isa: str,
    consts: Mapping[str, Any],
    *,
    coarsen: int = 1,
    layout: str = "row",
    check: bool = False,
    unroll: int = 1,
    strided: Sequence[bool] = (),
    march: str | None = None,
    regroup: bool = False,
) -> KernelIR:
    """Evaluate a kernel. check: clamp what a launch does not check; unroll: turns of an innermost loop made one;
    strided: of the arrays, which have rows whose elements are not neighbours (empty: none); march: "y" for workers that
    take columns; regroup: sums and products of floats.

    Raises: CompileError with every finding.
    """
    rows = parameters(source)
    f = Front(source, isa, _LANGUAGE, check=check, unroll=unroll)
    q = f.q
    names: dict[str, Any] = {}
    arrays = 0
    for row in rows:
        if row.kind == "kernel":
            f.kernel_object = names[row.name] = TeamObject() if row.type == "Team" else GridObject()
        elif row.kind == "const":
            names[row.name] = consts[row.name]
        elif row.kind == "scalar":
            names[row.name] = q.emit("param", type_=DTYPES[row.type].value, attr=row.name)
        else:
            t = DTYPES[row.type]
            shape = tuple(q.emit("param", type_="i", attr=f"{row.name}.shape{k}") for k in range(row.rank))
            moving = row.rank if arrays < len(strided) and strided[arrays] else row.rank - 1
            strides = tuple(q.emit("param", type_="i", attr=f"{row.name}.stride{k}") for k in range(moving))
            base = q.emit("param", type_="u", attr=f"{row.name}.base")
            names[row.name] = View(row.name, arrays, t, row.mode, row.rank, base, shape, strides)
            arrays += 1
    team = f.kernel_object.team
    frame = Frame(source, names, True, [Exits("function")])
    f.frames.append(frame)
    if team:
        f.execute(source.body)
    else:
        GridBody(f, source.body, coarsen, layout, march).evaluate()
    f.finish()
    for barrier in apart(q.top) if team else ():
        f.report(Diagnostic("lang-barrier", "a barrier that some workers may not reach, or not as often as others",
                            loc=barrier.loc, allowed="conditions and turns that are the same for all workers",
                            help="what depends on k.worker belongs before or after the barrier"))  # fmt: skip
    f.finish()
    if regroup:
        q.top = reassociate(q.top, isa, f.turns)
    if march == "y":
        q.top = carry_rows(q.top, isa, f.turns)
    assert isinstance(source.tree, ast.FunctionDef)
    ir = KernelIR(source.tree.name, q.top, rows, f.site_rows, layout, coarsen, team, list(f.notes.values()),
                  f.ranges.accesses, f.ranges.extent, shared=sum(size for _, size in f.shared.values()))  # fmt: skip
    return tidied(ir, isa, f.turns)


def tidied(ir: KernelIR, isa: str, turns: dict[int, tuple[Region, int]]) -> KernelIR:
    """The kernel as built, with loads shared, stores merged, dead operations gone and facts of its loops noted.

    turns: items that a turn of a loop takes, by the id of its region.
    """
    ir.region = merge_stores(share_loads(ir.region, isa, turns), isa, turns)
    _mark_items(ir.region, turns)
    remove_dead(ir.region)
    ir.loops = _loops(ir.region, turns)
    return ir


_EFFECTS = frozenset({
    "store", "atomic", "barrier", "stream", "data", "row", "commit", "lock", "unlock", "semaphore", "seek",
})  # fmt: skip
_KEEP = (_EFFECTS - {"stream"}) | {"loop", "if_any", "request", "pop", "next"}


def remove_dead(top: Region) -> None:
    """Drop operations whose results nothing needs, and carried values that only carry themselves."""
    removed = True
    while removed:
        removed = False
        everything = list(walk(top))
        nests = [v for v in everything if isinstance(v.attr, Loop | Skip)]
        needed = _needed(everything, nests)
        for v in nests:
            attr: Loop | Skip = v.attr
            keep = [n for n, r in enumerate(attr.results) if id(r) in needed or (
                isinstance(attr, Loop) and id(attr.region.parameters[n]) in needed)]  # fmt: skip
            if len(keep) == len(attr.yields):
                continue
            removed = True
            v.args = (v.args[0], *(v.args[1 + n] for n in keep))
            attr.yields = [attr.yields[n] for n in keep]
            attr.results = [attr.results[n] for n in keep]
            carried = list(attr.results)
            if isinstance(attr, Loop):
                attr.region.parameters = [attr.region.parameters[n] for n in keep]
                carried += attr.region.parameters
            for n, x in enumerate(carried):
                x.attr = n % len(keep)
        for region in [top, *(v.attr.region for v in nests)]:
            kept = [v for v in region.ops if id(v) in needed and not _empty(v)]
            if len(kept) != len(region.ops):
                removed = True
                region.ops = kept


def _needed(everything: Sequence[Value], nests: Sequence[Value]) -> set[int]:
    """Values that an effect, a condition or a kept value needs, by id; what a turn carries only with the parameter."""
    owner = {id(v.attr.region): v for v in nests}
    todo = [v for v in everything if v.op in _KEEP]
    found: set[int] = set()
    while todo:
        v = todo.pop()
        if id(v) in found:
            continue
        found.add(id(v))
        if isinstance(v.attr, Loop | Skip):
            todo.append(v.args[0])
            if isinstance(v.attr, Loop):
                todo.append(v.attr.cond)
        elif v.op in ("result", "parameter"):
            of = v.args[0] if v.op == "result" else owner[id(v.region)]
            todo += (of.attr.yields[v.attr], of.args[1 + v.attr])
        else:
            todo += v.args
    return found


def _empty(v: Value) -> bool:
    """A loop or skipped part without effect whose results nothing uses (they are gone by then)."""
    if not isinstance(v.attr, Loop | Skip) or v.attr.results:
        return False
    return not any(x.op in _EFFECTS for x in walk(v.attr.region))
