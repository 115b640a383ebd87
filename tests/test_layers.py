"""Tests of the layers: a module imports only from its own layer and those below, without circles."""

from __future__ import annotations

import ast
import enum
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent / "qpu"

# layer -> layers it may import from besides itself; the longest matching prefix names a module's layer
_ISA = {"qpu.core", "qpu.errors"}
_ENGINE = {"qpu.core", "qpu.emu.engine", "qpu.errors"}
LAYERS: dict[str, set[str]] = {
    "qpu.findings": set(),
    "qpu.errors": {"qpu.findings"},
    "qpu.core": {"qpu.errors"},
    "qpu.display": {
        "qpu.core",
        "qpu.drivers",
        "qpu.emu.engine",
        "qpu.errors",
    },
    "qpu.vc4": _ISA,
    "qpu.v3d": _ISA,
    "qpu.program": {*_ISA, "qpu.display", "qpu.v3d", "qpu.vc4"},
    "qpu.instruction_sets": {*_ISA, "qpu.program"},
    "qpu.formats": {"qpu.errors"},
    "qpu.scripts": set(),
    "qpu.drivers": {"qpu.core", "qpu.drivers.counters", "qpu.drivers.port", "qpu.drivers.uapi", "qpu.errors"},
    "qpu.drivers.port": set(),
    "qpu.drivers.counters": {"qpu.core", "qpu.core.isa", "qpu.errors"},
    "qpu.drivers.uapi": set(),
    # the emulated boards: engines below, the two families side by side, the operating system above
    "qpu.emu.engine": {"qpu.core", "qpu.display", "qpu.drivers.port", "qpu.errors"},
    "qpu.emu.v3d": {*_ENGINE, "qpu.v3d"},
    "qpu.emu.vc4": {*_ENGINE, "qpu.vc4"},
    "qpu.emu.boards": {"qpu.core", "qpu.errors"},
    "qpu.emu.engines": {
        "qpu.core",
        "qpu.emu.boards",
        "qpu.emu.engine",
        "qpu.errors",
    },  # the factory; families by name only
    "qpu.emu.linux": {
        "qpu.core",
        "qpu.drivers.counters",
        "qpu.drivers.port",
        "qpu.drivers.uapi",
        "qpu.emu.boards",
        "qpu.emu.engine",
        "qpu.emu.engines",
        "qpu.errors",
    },
    "qpu.emu.process": {
        "qpu.core",
        "qpu.drivers.port",
        "qpu.drivers.uapi",
        "qpu.emu",
        "qpu.emu.boards",
        "qpu.emu.engine",
        "qpu.emu.engines",
        "qpu.emu.linux",
        "qpu.errors",
    },
    "qpu.emu": {
        "qpu.core",
        "qpu.drivers.port",
        "qpu.drivers.uapi",
        "qpu.emu.boards",
        "qpu.emu.engine",
        "qpu.emu.linux",
        "qpu.errors",
    },
    "qpu.runtime": {"qpu.core", "qpu.drivers", "qpu.errors", "qpu.v3d", "qpu.vc4"},
    "qpu.buffers": {"qpu.core", "qpu.drivers", "qpu.errors", "qpu.runtime"},
    "qpu.launch": {"qpu.core", "qpu.drivers", "qpu.emu.engine", "qpu.errors", "qpu.runtime"},
    "qpu.array.surface": set(),  # the types of gpu.xp alone, so that devices may name them
    "qpu.device": {
        "qpu.array.surface",
        "qpu.buffers",
        "qpu.core",
        "qpu.debug",
        "qpu.display",
        "qpu.drivers",
        "qpu.drivers.port",
        "qpu.emu",
        "qpu.emu.boards",
        "qpu.emu.engine",
        "qpu.emu.engines",
        "qpu.errors",
        "qpu.launch",
        "qpu.runtime",
    },
    # the kernel language: never a driver, never the emulator; only launching knows devices
    "qpu.lang": {
        *_ISA,
        "qpu.lang.cache",
        "qpu.lang.elementwise",
        "qpu.lang.entry",
        "qpu.program",
        "qpu.scripts",
        "qpu.v3d",
        "qpu.vc4",
    },
    "qpu.lang.cache": {*_ISA, "qpu.lang", "qpu.program"},
    "qpu.lang.travel": {*_ISA, "qpu.lang", "qpu.lang.cache"},
    "qpu.lang.tune": {*_ISA, "qpu.device", "qpu.lang"},
    "qpu.lang.interpret": {*_ISA, "qpu.buffers", "qpu.lang"},
    "qpu.lang.arguments": {"qpu.buffers", "qpu.errors"},
    "qpu.lang.signature": {"qpu.buffers", "qpu.errors", "qpu.lang", "qpu.lang.arguments"},
    "qpu.lang.variants": {
        *_ISA,
        "qpu.device",
        "qpu.instruction_sets",
        "qpu.lang",
        "qpu.lang.travel",
        "qpu.launch",
        "qpu.program",
    },
    "qpu.lang.launch": {
        *_ISA,
        "qpu.buffers",
        "qpu.device",
        "qpu.lang",
        "qpu.lang.arguments",
        "qpu.lang.signature",
        "qpu.launch",
        "qpu.runtime",
        "qpu.v3d",
        "qpu.vc4",
    },
    "qpu.lang.elementwise": {
        *_ISA,
        "qpu.buffers",
        "qpu.lang",
        "qpu.lang.broadcast",
        "qpu.lang.entry",
        "qpu.lang.travel",
    },
    "qpu.lang.broadcast": {
        *_ISA,
        "qpu.buffers",
        "qpu.device",
        "qpu.lang",
        "qpu.lang.arguments",
    },
    "qpu.lang.entry": {
        *_ISA,
        "qpu.debug",
        "qpu.device",
        "qpu.lang",
        "qpu.lang.cache",
        "qpu.lang.interpret",
        "qpu.lang.launch",
        "qpu.lang.signature",
        "qpu.lang.travel",
        "qpu.lang.tune",
        "qpu.lang.variants",
        "qpu.launch",
    },
    "qpu.kernels": {
        "qpu.buffers",
        "qpu.core",
        "qpu.device",
        "qpu.errors",
        "qpu.instruction_sets",
        "qpu.lang",
        "qpu.lang.arguments",
        "qpu.lang.elementwise",
        "qpu.lang.entry",
        "qpu.launch",
        "qpu.program",
        "qpu.runtime",
        "qpu.v3d",
        "qpu.vc4",
    },
    "qpu.array": {
        *_ISA,
        "qpu.buffers",
        "qpu.device",
        "qpu.kernels",
        "qpu.lang",
        "qpu.lang.cache",
        "qpu.lang.launch",
        "qpu.launch",
    },
    # observers of the reference engines; nobody below imports them, factories load them by name
    "qpu.debug": {
        "qpu.buffers",
        "qpu.core",
        "qpu.drivers",
        "qpu.emu.boards",
        "qpu.emu.engine",
        "qpu.emu.engines",
        "qpu.emu.v3d",
        "qpu.emu.vc4",
        "qpu.errors",
        "qpu.program",
        "qpu.runtime",
        "qpu.scripts",
        "qpu.v3d",
        "qpu.vc4",
    },
    # programs of the predecessors: shims over system calls, dialects over builders and devices
    "qpu.compat": {
        "qpu.buffers",
        "qpu.core",
        "qpu.device",
        "qpu.drivers",
        "qpu.drivers.counters",
        "qpu.drivers.uapi",
        "qpu.errors",
        "qpu.instruction_sets",
        "qpu.launch",
        "qpu.program",
        "qpu.runtime",
        "qpu.v3d",
        "qpu.vc4",
    },
    "qpu.completion": {"qpu.errors"},
    "qpu.cluster": {"qpu.array", "qpu.device", "qpu.errors"},
    "qpu": {
        "qpu." + n
        for n in (
            "core.isa",
            "core",
            "debug",
            "launch",
            "program",
            "device",
            "buffers",
            "errors",
            "instruction_sets",
            "lang.elementwise",
            "lang.entry",
            "v3d",
            "vc4",
        )
    },
}
ANYTHING = {"qpu.__main__"}


def layer_of(module: str) -> str:
    return max((name for name in LAYERS if module == name or module.startswith(name + ".")), key=len)


@cache
def modules() -> list[tuple[str, Path]]:
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        parts = ("qpu", *path.relative_to(ROOT).with_suffix("").parts)
        found.append((".".join(parts[:-1] if parts[-1] == "__init__" else parts), path))
    return found


class Kind(enum.IntEnum):
    """Where an import statement is."""

    MODULE = 0
    FUNCTION = 1
    ANNOTATION = 2  # under TYPE_CHECKING


class Arrow(NamedTuple):
    target: str
    kind: Kind
    line: int


@cache
def known() -> frozenset[str]:
    return frozenset(m for m, _ in modules())


@cache
def imports(path: Path) -> tuple[Arrow, ...]:
    """Imports of the package's own modules in a file."""
    found: list[Arrow] = []

    def visit(node: ast.AST, kind: Kind) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                for part in child.body:
                    visit(ast.Module([part], []), Kind.ANNOTATION)
                for part in child.orelse:
                    visit(ast.Module([part], []), kind)
            elif isinstance(child, ast.Import):
                found.extend(Arrow(a.name, kind, child.lineno) for a in child.names if a.name.split(".")[0] == "qpu")
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}:{child.lineno}: relative import"
                if child.module is not None and child.module.split(".")[0] == "qpu":
                    full = [f"{child.module}.{a.name}" for a in child.names]
                    found.extend(Arrow(f if f in known() else str(child.module), kind, child.lineno) for f in full)
            else:
                inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
                visit(child, max(kind, Kind.FUNCTION) if inside else kind)

    visit(ast.parse(path.read_text()), Kind.MODULE)
    return tuple(found)


@pytest.mark.parametrize(("module", "path"), modules(), ids=lambda v: v if isinstance(v, str) else "")
def test_imports_respect_the_layers(module: str, path: Path) -> None:
    if module in ANYTHING:
        return
    layer = layer_of(module)
    for target, _, line in imports(path):
        if target == "qpu":
            continue
        other = layer_of(target)
        assert other == layer or other in LAYERS[layer], f"{path}:{line}: {module} ({layer}) imports {target} ({other})"


def test_every_layer_exists() -> None:
    present = {layer_of(m) for m, _ in modules()}
    assert present == set(LAYERS)


def test_the_kernel_language_imports_neither_drivers_nor_emulator() -> None:
    """Kernels compile without a device; the rule applies from the first module of `qpu.lang` on."""
    for module, path in modules():
        if module == "qpu.lang" or module.startswith("qpu.lang."):
            for target, _, line in imports(path):
                assert not target.startswith(("qpu.drivers", "qpu.emu")), f"{path}:{line}: imports {target}"


def test_nobody_imports_the_displays_before_they_are_used() -> None:
    for module, path in modules():
        if not module.startswith("qpu.display"):
            for target, kind, line in imports(path):
                assert not (target.startswith("qpu.display") and kind == Kind.MODULE), f"{path}:{line}"


def test_the_emulator_has_few_entries() -> None:
    entries = [e.name for e in (ROOT / "emu").iterdir() if e.name not in ("__init__.py", "__pycache__")]
    assert len(entries) <= 10, sorted(entries)


# -- circles

# Circles with annotations that stay, by their reason: at most two.
ANNOTATED = {
    "a notebook shows statistics and traces by the classes themselves": {
        "qpu.display.emulation",
        "qpu.emu.engine.machine",
        "qpu.emu.engine.trace",
    },
}


def circles(most: Kind) -> list[set[str]]:
    """Strongly connected components of more than one module, of the graph with imports up to that kind."""
    graph = {m: sorted({a.target for a in imports(p) if a.kind <= most and a.target in known()}) for m, p in modules()}
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []

    def visit(v: str) -> None:  # Tarjan
        number[v] = low[v] = len(number)
        stack.append(v)
        for w in graph[v]:
            if w not in number:
                visit(w)
                low[v] = min(low[v], low[w])
            elif w in stack:
                low[v] = min(low[v], number[w])
        if low[v] == number[v]:
            at = stack.index(v)
            if len(stack) - at > 1 or v in graph[v]:
                found.append(set(stack[at:]))
            del stack[at:]

    for module in graph:
        if module not in number:
            visit(module)
    return found


@pytest.mark.parametrize("most", list(Kind), ids=lambda kind: kind.name)
def test_there_are_no_circles(most: Kind) -> None:
    assert len(ANNOTATED) <= 2
    allowed = list(ANNOTATED.values()) if most is Kind.ANNOTATION else []
    for circle in circles(most):
        assert circle in allowed, sorted(circle)


# Modules that import inside functions, and why. "light": an import of the module would cost much more than what most
# of its users need. "optional": what is imported exists only on some platforms, or with some extras. To break a circle
# is no reason: `test_there_are_no_circles` counts these imports, too.
DEFERRED = {
    "qpu": "light: names are loaded on first use",
    "qpu.__main__": "light: each command loads what it needs",
    "qpu.array.linalg": "light: the library's matrix product, only for large matrices",
    "qpu.array.namespace": "light: the library's Fourier transforms",
    "qpu.array.scan": "light: a kernel of the library",
    "qpu.array.sorting": "light: kernels of the library, each when it is used",
    "qpu.core.toolkit": "light: the checker, unless switched off",
    "qpu.debug.sanitizer": "light: the machines, when the sanitizer is on",
    "qpu.device": "light: the emulator, the display; optional: the Linux port",
    "qpu.drivers.doctor": "light: the mailbox, only on boards that have one",
    "qpu.drivers.probe": "light: the adapters, only those that are tried",
    "qpu.emu.engine.machine": "light: the display, only in notebooks",
    "qpu.emu.engine.trace": "light: the display, only in notebooks",
    "qpu.emu.process.child_site.sitecustomize": "light: runs in every child process",
    "qpu.emu.v3d.prepare": "light: the printer, only for messages",
    "qpu.emu.vc4.faults": "light: the printer, only for messages",
    "qpu.errors": "light: what errors carry, where something goes wrong",
    "qpu.lang.elementwise": "light: the compiler and launching, each when it is used",
    "qpu.lang.entry": "light: the compiler, launching, and plain Python, each when it is used",
    "qpu.lang.launch": "light: the check of passes, only where it is asked for",
    "qpu.lang.inline_asm": "light: the operations of one instruction set",
    "qpu.lang.report": "light: the decoder of one instruction set",
    "qpu.lang.specialise": "light: the back end of one instruction set",
    "qpu.lang.variants": "light: the assembler, only for programs",
    "qpu.lang.surface": "light: NumPy, where the language's functions and types are called outside a kernel",
    "qpu.program": "light: one instruction set, and the display only in notebooks",
    "qpu.v3d.asm": "light: the checker, unless switched off",
    "qpu.v3d.instruction_set": "light: builder, parser and checker, each when it is used",
    "qpu.vc4.builder": "light: the checker, unless switched off",
    "qpu.vc4.instruction_set": "light: builder, assembler, printer and checker, each when it is used",
    "qpu.vc4.printer": "light: the assembler, only to see whether a text comes back",
}


def test_imports_inside_functions_have_a_reason() -> None:
    wrong = [
        f"{path}:{line}: {module} imports {target} inside a function"
        for module, path in modules()
        for target, kind, line in imports(path)
        if kind == Kind.FUNCTION and module not in DEFERRED
    ]
    assert not wrong, "\n".join(wrong)
    assert all(reason.startswith(("light: ", "optional: ")) for reason in DEFERRED.values())
    defer = {m for m, path in modules() for _, kind, _ in imports(path) if kind == Kind.FUNCTION}
    assert set(DEFERRED) - defer <= {"qpu"}, "these import at their head by now"


def test_import_is_light() -> None:
    code = (
        "import sys, qpu; print(sorted(m for m in sys.modules if m.split('.')[0] in ('numpy', 'llvmlite', 'ctypes')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_assembling_does_not_load_numpy() -> None:
    code = "import sys, qpu\nfor i in ('v3d71', 'vc4'): qpu.assemble('nop', isa=i)\nprint('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_names_of_the_package_need_no_further_import() -> None:
    code = "import sys, qpu; assert 'typing' not in sys.modules; qpu.vc4.Asm, qpu.v3d.Asm42, qpu.v3d.Asm71, qpu.isa"
    subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path.insert(0, {str(ROOT.parent)!r}); {code}"], check=True
    )
