"""Generator of the API pages: every name of every ``__all__`` with its signature and docstring, as MyST text."""

from __future__ import annotations

import ast
import enum
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from functools import cache
from types import ModuleType

import qpu

TITLES = {
    "qpu": "Devices, buffers, programs",
    "core": "Core: rows, programs, hazards",
    "v3d": "V3D 4.2 and 7.1",
    "vc4": "VideoCore IV",
    "drivers": "Drivers",
    "emu": "Emulated boards",
    "lang": "Kernel language",
    "kernels": "Kernels",
}
GENERATED = re.compile(r"qpu\.(v3d|vc4)\.generated\.")  # one method for each operation; the ISA pages list them
_SECTION = re.compile(r"(?m)^(?=(?:Returns|Raises|Source|Sources|Yields):)")
_CODE = re.compile(r"(`+)(.+?)\1", re.S)


def modules() -> list[str]:
    """Names of all modules of the package, `qpu` first."""
    names = ["qpu"]
    for info in pkgutil.walk_packages(qpu.__path__, "qpu."):
        if info.name not in ("qpu.__main__",) and "child_site" not in info.name:
            names.append(info.name)
    return names


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


def signature(thing: object, *, method: bool = False) -> str:
    """Parameters as text, without `self` for methods; ``()`` when Python does not know them."""
    try:
        found = inspect.signature(thing)  # type: ignore[arg-type]  # anything callable
    except (TypeError, ValueError):
        return "()"
    parameters = list(found.parameters.values())
    if method and parameters and parameters[0].name in ("self", "cls"):
        parameters = parameters[1:]
    shown = []
    for p in parameters:
        default = p.default
        if default is not p.empty and not isinstance(default, (int, float, str, bytes, tuple, type(None))):
            default = ...
        elif isinstance(default, enum.Enum):
            default = default.value
        note = _Bare(p.annotation) if isinstance(p.annotation, str) else p.annotation
        shown.append(p.replace(default=default, annotation=note))
    back = found.return_annotation
    try:
        text = str(found.replace(parameters=shown, return_annotation=_Bare(back) if isinstance(back, str) else back))
    except ValueError:
        text = str(found)
    return re.sub(r"<[^>]*>", "...", text).replace("ForwardRef", "").replace("\n", " ")


def directive(kind: str, head: str, body: str, depth: int = 3) -> str:
    """A directive with its content."""
    fence = ":" * depth
    return f"{fence}{{py:{kind}}} {head}\n{body.strip()}\n{fence}\n"


def members(cls: type) -> Iterator[str]:
    """Public methods and properties that a class defines itself."""
    for name, thing in vars(cls).items():
        if name.startswith("_"):
            continue
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
        bases = [b.__name__ for b in thing.__bases__ if b.__module__.startswith("qpu")]
        body = (f"Bases: {', '.join(f'`{b}`' for b in bases)}.\n\n" if bases else "") + markdown(thing.__doc__)
        if issubclass(thing, enum.Enum):
            values = ", ".join(f"`{m.name}`" for m in thing)
            body += f"\n\nMembers: {values}."
        elif GENERATED.match(thing.__module__):
            body += "\n\nOne method for each operation: see the instruction reference."
        if not GENERATED.match(thing.__module__):
            body += "\n\n" + "\n".join(members(thing))
        # An enumeration is not called, and the parameters of an exception are of no use to the reader.
        head = name if issubclass(thing, (enum.Enum, BaseException)) else name + signature(thing)
        return directive(kind, head.partition(" -> ")[0], body, 4)
    if callable(thing) and hasattr(thing, "__name__") and not inspect.isclass(thing):
        return directive("function", name + signature(thing), markdown(thing.__doc__), 4)
    return directive("data", name, markdown(attribute_docs(module).get(name)), 4)


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
    module = load(home)
    return module is not None and name in module.__all__


def api_pages() -> dict[str, str]:
    """Pages by name; `index` lists them."""
    parts: dict[str, list[str]] = {key: [] for key in TITLES}
    for name in modules():
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
