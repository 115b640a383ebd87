"""A module imports only from its own layer and those below it; `import qpu` stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "qpu"

# layer -> layers it may import from besides itself; the longest matching prefix names a module's layer
_ISA = {"qpu.core", "qpu.errors"}
_ENGINE = {"qpu.core", "qpu.emu.engine", "qpu.errors"}
LAYERS: dict[str, set[str]] = {
    "qpu.errors": set(),
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
    "qpu.device": {
        "qpu.buffers",
        "qpu.core",
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
    "qpu.kernels": {
        "qpu.buffers",
        "qpu.core",
        "qpu.device",
        "qpu.errors",
        "qpu.instruction_sets",
        "qpu.launch",
        "qpu.program",
        "qpu.runtime",
        "qpu.v3d",
        "qpu.vc4",
    },
    "qpu": {
        "qpu." + n
        for n in ("core.isa", "core", "program", "device", "buffers", "errors", "instruction_sets", "v3d", "vc4")
    },
}
ANYTHING = {"qpu.__main__"}


def layer_of(module: str) -> str:
    return max((name for name in LAYERS if module == name or module.startswith(name + ".")), key=len)


def modules() -> list[tuple[str, Path]]:
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        parts = ("qpu", *path.relative_to(ROOT).with_suffix("").parts)
        found.append((".".join(parts[:-1] if parts[-1] == "__init__" else parts), path))
    return found


def imports(path: Path) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(a.name, node.lineno) for a in node.names if a.name.split(".")[0] == "qpu"]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            if node.module is not None and node.module.split(".")[0] == "qpu":
                known = {m for m, _ in modules()}
                full = [f"{node.module}.{a.name}" for a in node.names]
                found += [(f if f in known else node.module, node.lineno) for f in full]
    return found


@pytest.mark.parametrize(("module", "path"), modules(), ids=lambda v: v if isinstance(v, str) else "")
def test_imports_respect_the_layers(module: str, path: Path) -> None:
    if module in ANYTHING:
        return
    layer = layer_of(module)
    for target, line in imports(path):
        if target == "qpu":
            continue
        other = layer_of(target)
        assert other == layer or other in LAYERS[layer], f"{path}:{line}: {module} ({layer}) imports {target} ({other})"


def test_every_layer_exists() -> None:
    present = {layer_of(m) for m, _ in modules()}
    assert present == set(LAYERS)


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
