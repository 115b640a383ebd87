"""Generator of the API pages: the names of the public modules with their signatures and docstrings, as MyST text."""

from __future__ import annotations

import ast
import dataclasses
import enum
import importlib
import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

TITLES = {
    "qpu": "Devices, buffers, programs",
    "v3d": "V3D 4.2 and 7.1",
    "vc4": "VideoCore IV",
    "lang": "Kernel language",
    "array": "Arrays",
    "kernels": "Kernels",
    "cluster": "Clusters",
    "debug": "Debugging",
    "emu": "Emulated boards",
    "drivers": "Drivers",
    "compat": "Old programs",
}
PUBLIC = """
    qpu qpu.device qpu.buffers qpu.program qpu.launch qpu.errors qpu.findings qpu.formats qpu.instruction_sets
    qpu.v3d qpu.vc4 qpu.vc4.vpm qpu.vc4.vc4asm qpu.lang qpu.array qpu.cluster
    qpu.kernels.blas1 qpu.kernels.blas2 qpu.kernels.fft qpu.kernels.gemm qpu.kernels.igemm qpu.kernels.image
    qpu.kernels.image.colour qpu.kernels.image.filters qpu.kernels.image.ranks qpu.kernels.image.sizes
    qpu.kernels.misc qpu.kernels.move qpu.kernels.nn qpu.kernels.nn.conv qpu.kernels.nn.int8 qpu.kernels.random
    qpu.kernels.scan qpu.kernels.search qpu.kernels.sgemm qpu.kernels.sort
    qpu.debug.cost qpu.debug.explore qpu.debug.findings qpu.debug.profile qpu.debug.record qpu.debug.rehearse
    qpu.debug.replay qpu.debug.sanitizer qpu.debug.spans qpu.debug.trace
    qpu.emu.boards qpu.emu.engine.machine qpu.emu.engine.trace qpu.emu.port qpu.emu.testing
    qpu.drivers.counters qpu.drivers.doctor qpu.drivers.port qpu.drivers.probe
    qpu.drivers.drm.adapter qpu.drivers.vc4.adapter qpu.drivers.vc4.mailbox
    qpu.compat qpu.compat.port qpu.compat.shims qpu.compat.rpi_vcsm
    qpu.compat.videocore qpu.compat.videocore.assembler qpu.compat.videocore.driver qpu.compat.videocore.v3d
    qpu.compat.videocore6 qpu.compat.videocore6.assembler qpu.compat.videocore6.driver qpu.compat.videocore6.v3d
    qpu.compat.videocore7 qpu.compat.videocore7.assembler qpu.compat.videocore7.driver qpu.compat.videocore7.v3d
""".split()  # what the package promises; all other modules are internal
GENERATED = re.compile(r"qpu\.(v3d|vc4)\.generated\.")  # one method for each operation; the ISA pages list them
_SECTION = re.compile(r"(?m)^(?=(?:Returns|Raises|Source|Sources|Yields):)")
_CODE = re.compile(r"(`+)(.+?)\1", re.S)


def load(name: str) -> ModuleType | None:
    """The module, when it has an ``__all__`` and can be imported on this system."""
    try:
        module = importlib.import_module(name)
    except ImportError:  # parts that need Linux or LLVM
        return None
    return module if getattr(module, "__all__", None) else None


def markdown(doc: str | None) -> str:
    """A docstring as Markdown: literals and indented code are kept, the rest is escaped, sections are paragraphs."""
    if not doc:
        return ""
    paragraphs = _SECTION.sub("\n", inspect.cleandoc(doc)).split("\n\n")
    parts = []
    for number, text in enumerate(paragraphs):
        if number and text.startswith("    "):
            parts.append(text)
            continue
        out, at = [], 0
        for match in _CODE.finditer(text):
            out += [_plain(text[at : match.start()]), match[0]]
            at = match.end()
        parts.append("".join([*out, _plain(text[at:])]))
    return "\n\n".join(re.sub(r"::$", ":", part) for part in parts).replace(":::", "\\:::")


def _plain(text: str) -> str:
    return re.sub(r"([<*\[\]])", r"\\\1", text)


class _Bare(str):
    """An annotation that prints without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


@cache
def attribute_docs(module: str) -> dict[str, str]:
    """Docstrings after assignments, by name; those in classes as ``Class.name``."""
    source = inspect.getsource(importlib.import_module(module))
    found: dict[str, str] = {}

    def scan(body: list[ast.stmt], prefix: str) -> None:
        for statement, after in zip(body, [*body[1:], None], strict=True):
            if isinstance(statement, ast.ClassDef):
                scan(statement.body, f"{statement.name}.")
            elif isinstance(statement, (ast.Assign, ast.AnnAssign)) and isinstance(after, ast.Expr):
                target = statement.targets[0] if isinstance(statement, ast.Assign) else statement.target
                if isinstance(target, ast.Name) and isinstance(after.value, ast.Constant):
                    found[prefix + target.id] = str(after.value.value)

    scan(ast.parse(source).body, "")
    return found


@cache
def _functions(path: str) -> dict[int, ast.FunctionDef | ast.AsyncFunctionDef]:
    """The functions of a source file by their first line, which is that of the first decorator."""
    nodes = ast.walk(ast.parse(Path(path).read_text(encoding="utf-8")))
    found = [n for n in nodes if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    return {min([n.lineno, *(d.lineno for d in n.decorator_list)]): n for n in found}


def _fields(cls: type) -> dict[str, str]:
    """Values of the fields of a class and of its bases, as written in the source."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not base.__module__.startswith("qpu"):
            continue
        for node in ast.parse(inspect.getsource(importlib.import_module(base.__module__))).body:
            if isinstance(node, ast.ClassDef) and node.name == base.__name__:
                for field in node.body:
                    if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and field.value:
                        found[field.target.id] = ast.unparse(field.value)
    return found


def defaults_of(thing: object) -> dict[str, str]:
    """Defaults of parameters by name, as written in the source."""
    if inspect.isclass(thing):
        if dataclasses.is_dataclass(thing) or issubclass(thing, tuple):  # the latter: NamedTuple
            return _fields(thing)
        thing = thing.__new__ if thing.__init__ is object.__init__ else thing.__init__
    made = inspect.unwrap(thing) if callable(thing) else thing
    code = getattr(made, "__code__", None)
    node = _functions(code.co_filename).get(code.co_firstlineno) if code and Path(code.co_filename).exists() else None
    if node is None:
        return {}
    plain = [*node.args.posonlyargs, *node.args.args]
    pairs = list(zip(reversed(plain), reversed(node.args.defaults), strict=False))
    pairs += [(a, d) for a, d in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True) if d is not None]
    return {a.arg: ast.unparse(d) for a, d in pairs}


def signature(thing: object, *, method: bool = False) -> str:
    """Parameters as text, without `self` for methods; ``()`` when Python does not know them."""
    try:
        found = inspect.signature(thing)  # type: ignore[arg-type]  # anything callable
    except (TypeError, ValueError):
        return "()"
    parameters = list(found.parameters.values())
    if method and parameters and parameters[0].name in ("self", "cls"):
        parameters = parameters[1:]
    written = defaults_of(thing)
    shown = []
    for p in parameters:
        default = p.default
        if default is not p.empty:
            default = _Bare(written.get(p.name, repr(default)))
        note = getattr(p.annotation, "__forward_arg__", p.annotation)
        note = _Bare(note) if isinstance(note, str) else note
        shown.append(p.replace(default=default, annotation=note))
    back = found.return_annotation
    try:
        text = str(found.replace(parameters=shown, return_annotation=_Bare(back) if isinstance(back, str) else back))
    except ValueError:
        text = str(found)
    return re.sub(r"<[^>]*>", "...", text).replace("\n", " ")


def directive(kind: str, head: str, body: str, depth: int = 3) -> str:
    """A directive with its content."""
    fence = ":" * depth
    return f"{fence}{{py:{kind}}} {head}\n{body.strip()}\n{fence}\n"


def members(cls: type) -> Iterator[str]:
    """Public methods and properties that a class defines, or has from a class that is not documented itself."""
    seen: set[str] = set()
    for base in cls.__mro__:
        ours = base.__module__.startswith("qpu") and not GENERATED.match(base.__module__)
        if ours and (base is cls or not _documented(base.__module__, base.__name__)):
            yield from _members_of(base, seen)


def _members_of(cls: type, seen: set[str]) -> Iterator[str]:
    for name, thing in vars(cls).items():
        if name.startswith("_") or name in seen:
            continue
        seen.add(name)
        if f"{cls.__name__}.{name}" in attribute_docs(cls.__module__):
            yield directive("attribute", name, markdown(attribute_docs(cls.__module__)[f"{cls.__name__}.{name}"]))
        elif isinstance(thing, property):
            yield directive("property", name, markdown(thing.__doc__))
        elif isinstance(thing, (classmethod, staticmethod)):
            kind = "classmethod" if isinstance(thing, classmethod) else "staticmethod"
            yield directive(
                kind, name + signature(thing.__func__, method=kind == "classmethod"), markdown(thing.__doc__)
            )
        elif inspect.isfunction(thing):
            yield directive("method", name + signature(thing, method=True), markdown(thing.__doc__))


def entry(module: str, name: str, thing: object) -> str:
    """One public name."""
    if inspect.isclass(thing) and thing.__module__ != "builtins":  # of those, names are aliases
        kind = "exception" if issubclass(thing, BaseException) else "class"
        bases = [b.__name__ for b in thing.__bases__ if _documented(b.__module__, b.__name__)]
        body = (f"Bases: {', '.join(f'`{b}`' for b in bases)}.\n\n" if bases else "") + markdown(thing.__doc__)
        if issubclass(thing, enum.Enum):
            values = ", ".join(f"`{m.name}`" for m in thing)
            body += f"\n\nMembers: {values}."
        elif GENERATED.match(thing.__module__):
            body += "\n\nOne method for each operation: see the instruction reference."
        body += "\n\n" + "\n".join(members(thing))
        # An enumeration is not called, and the parameters of an exception are of no use to the reader.
        head = name if issubclass(thing, (enum.Enum, BaseException)) else name + signature(thing)
        return directive(kind, head.partition(" -> ")[0], body, 4)
    if callable(thing) and hasattr(thing, "__name__") and not inspect.isclass(thing):
        return directive("function", name + signature(thing), markdown(thing.__doc__), 4)
    return directive("data", name, markdown(_doc_of_data(module, name)), 4)


def _doc_of_data(module: str, name: str) -> str | None:
    """The docstring of a value, also where the module has it from another one."""
    for node in ast.parse(inspect.getsource(importlib.import_module(module))).body:
        if isinstance(node, ast.ImportFrom) and node.module and any(a.name == name for a in node.names):
            return attribute_docs(node.module).get(name)
    return attribute_docs(module).get(name)


def module_section(name: str, module: ModuleType) -> str:
    """All public names of a module."""
    own, others = [], []
    for item in module.__all__:
        thing = getattr(module, item)
        home = getattr(thing, "__module__", name)
        if inspect.ismodule(thing):
            others.append(f"{{py:mod}}`{thing.__name__}`")
        elif isinstance(home, str) and home != name and _documented(home, item) and hasattr(thing, "__name__"):
            others.append(f"{{py:obj}}`{home}.{item}`")
        else:
            own.append(entry(name, item, thing))
    head = f"## {name}\n\n:::{{py:module}} {name}\n:::\n\n{markdown(module.__doc__)}\n\n"
    if others:
        head += f"Names from elsewhere: {', '.join(others)}.\n\n"
    return head + "\n".join(own)


def _documented(home: str, name: str) -> bool:
    module = load(home) if home in PUBLIC else None
    return module is not None and name in module.__all__


def api_pages() -> dict[str, str]:
    """Pages by name; `index` lists them."""
    parts: dict[str, list[str]] = {key: [] for key in TITLES}
    for name in PUBLIC:
        module = load(name)
        if module is None:
            continue
        first = name.split(".")[1] if name.count(".") else "qpu"
        parts[first if first in TITLES else "qpu"].append(module_section(name, module))
    pages = {key: f"# {TITLES[key]}\n\n" + "\n".join(sections) for key, sections in parts.items()}
    listing = "\n".join(TITLES)
    pages["index"] = (
        "# API reference\n\nEvery public name, from its docstring. Most programs need the first page and the typed "
        f"builder of one instruction set.\n\n```{{toctree}}\n:maxdepth: 2\n\n{listing}\n```\n"
    )
    return pages
