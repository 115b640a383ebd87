"""Tests of the guide: its code runs, its commands work, its links resolve, its generated pages are up to date.

Languages of code blocks and their tests, in page order, with one directory for each page:

* ``python`` runs, all blocks of a page in one namespace; ``console`` runs line by line (``$ command``, then its
  output if it is given; ``# exit 1`` after a command that is meant to fail). ``output`` is what the block before
  prints; ``...`` stands for anything.
* ``vc4 v3d42 v3d71`` are assembled for that instruction set, ``v3d`` for both.
* A first line ``# file: name`` puts a block into a file instead, for the commands that follow.
* ``pi-shell`` needs a real Pi: its syntax is checked. ``pi-config`` are lines for config.txt.
"""

from __future__ import annotations

import contextlib
import doctest
import importlib
import io
import linecache
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import qpu
from tests.limits import HUNG_S

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
GENERATED = DOCS / "reference" / "api"
PAGES = sorted(
    path
    for path in [ROOT / "README.md", *(ROOT / "examples").rglob("*.md"), *DOCS.rglob("*.md")]
    if not {GENERATED, DOCS / "hardware"} & set(path.parents)
    and "_build" not in path.parts
    and ".venv" not in path.parts
)
ASSEMBLY = {"vc4": ("vc4",), "v3d42": ("v3d42",), "v3d71": ("v3d71",), "v3d": ("v3d42", "v3d71")}
KNOWN = {"python", "console", "output", "pi-shell", "pi-config", "text", *ASSEMBLY}
FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|~{3,})(?P<info>[^`]*)$")
ON_A_PI = re.compile(r"(sudo|dmesg|vcgencmd|modprobe|reboot|groups|docker|raspi-config|ls /dev|getent)\b")
CI = (ROOT / ".ci" / "run").read_text()
ELSEWHERE = re.compile(
    r"uv run (pytest|sphinx-build\b.*|examples/sgemm\.py --device all)(?= |$)"
)  # CI runs them itself


@dataclass
class Block:
    """A fenced block of a page."""

    page: str
    line: int  # of its first line of code
    language: str
    code: str
    name: str | None = field(init=False)  # the file it goes to

    def __post_init__(self) -> None:
        match = re.match(r"(?:#|//) file: (\S+)\n", self.code)
        self.name = match[1] if match else None


def blocks(path: Path) -> list[Block]:
    """All code blocks; directives such as ```{note} are prose and are looked into."""
    found: list[Block] = []
    lines = path.read_text().splitlines()
    number = 0
    while number < len(lines):
        match = FENCE.match(lines[number])
        number += 1
        if match is None or match["info"].strip().startswith("{"):
            continue
        if not match["info"].strip() and _closes_directive(found, lines, number):
            continue
        end = next(i for i in range(number, len(lines)) if lines[i].strip() == match["fence"])
        indent = len(match["indent"])
        code = "".join(line[indent:] + "\n" for line in lines[number:end])
        found.append(Block(str(path.relative_to(ROOT)), number + 1, match["info"].strip(), code))
        number = end + 1
    return found


def _closes_directive(found: list[Block], lines: list[str], number: int) -> bool:
    """Whether the bare fence before line `number` ends a directive."""
    fence = lines[number - 1].strip()
    start = found[-1].line + found[-1].code.count("\n") if found else 0
    opened = [line.strip() for line in lines[start : number - 1] if line.strip().startswith(fence + "{")]
    closed = [line for line in lines[start : number - 1] if line.strip() == fence]
    return len(opened) > len(closed)


IDS = [str(path.relative_to(ROOT)) for path in PAGES]
everywhere = pytest.mark.parametrize("path", PAGES, ids=IDS)


@everywhere
def test_every_block_says_what_it_is(path: Path) -> None:
    for block in blocks(path):
        assert block.language in KNOWN, f"{block.page}:{block.line}: language {block.language!r}; known: {KNOWN}"
    outside = re.sub(r"(?ms)^( *)(`{3,})[^`\n]*\n.*?^\1\2$", "", path.read_text())
    for match in re.finditer(r"\n\n {4,}\S", outside):
        before = outside[: match.start()].rsplit("\n\n", 1)[-1]
        assert re.match(r"\s*([-*:]|\d+\.) ", before), f"{path}: indented code; use a fence with a language: {match[0]}"


def check_output(block: Block, want: str, got: str) -> None:
    """Compare with the output on the page."""
    got = "".join(line.rstrip() + "\n" for line in got.splitlines())
    if not doctest.OutputChecker().check_output(want, got, doctest.ELLIPSIS):
        pytest.fail(f"{block.page}:{block.line}: the page says\n{want}\nbut it is\n{got}")


class Runner:
    """Runs the blocks of one page."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.namespace: dict[str, Any] = {"__name__": "guide"}
        self.printed: str | None = None
        bin_ = directory / ".bin"
        bin_.mkdir()
        for name in ("examples", "benchmarks", "tools", "tests", "docs", "pyproject.toml"):
            (directory / name).symlink_to(ROOT / name)
        uv = (
            "#!/bin/bash\nset -e\n"
            'if [ "$1" != run ]; then echo "uv $1: not tried" >&2; exit 97; fi\nshift\n'
            'while :; do case "$1" in --no-group|--group|--extra) shift 2;; --*) shift;; *) break;; esac; done\n'
            'case "$1" in *.py) exec python "$@";; *) exec "$@";; esac\n'
        )
        tools = {
            "uv": uv,
            "qpu": '#!/bin/bash\nexec python -m qpu "$@"\n',
            "pip": "#!/bin/bash\n",
            "git": "#!/bin/bash\n",
            "python": f'#!/bin/bash\nexec "{sys.executable}" "$@"\n',
        }
        for name, text in tools.items():
            (bin_ / name).write_text(text)
            (bin_ / name).chmod(0o755)
        self.environment = {
            **{k: v for k, v in os.environ.items() if k == "QPU_CACHE_DIR" or not k.startswith(("QPU_", "PYTEST"))},
            "PATH": f"{bin_}:/usr/local/bin:/usr/bin:/bin",
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "COLUMNS": "120",
        }

    def run(self, block: Block) -> None:
        """Test a block according to its language."""
        if block.name is not None:
            (self.directory / block.name).write_text(block.code)
            if block.language == "python":
                compile(block.code, block.name, "exec")
                return
        if block.language == "python":
            self.python(block)
        elif block.language == "console":
            self.console(block)
        elif block.language == "output":
            assert self.printed is not None, f"{block.page}:{block.line}: output of what?"
            check_output(block, block.code, self.printed)
        elif block.language in ASSEMBLY:
            for isa in ASSEMBLY[block.language]:
                qpu.assemble(block.code, isa=isa, filename=f"{block.page}:{block.line}")
        elif block.language == "pi-shell":
            self.syntax(block.code.replace("$ ", ""), block)
        elif block.language == "pi-config":
            for line in block.code.splitlines():
                assert re.fullmatch(r"#?[a-z0-9_]+=[\w,.=/-]+|\[\w+\]|", line), f"{block.page}: {line!r}"

    def python(self, block: Block) -> None:
        """In this process; errors name ``example.py`` and the line within the block.

        Kernels are compiled from their source when they are used, so their blocks have names of their own.
        """
        kernels = re.search(r"(?m)^@(qpu\.)?(kernel|ufunc)\b", block.code)
        name = f"example_{block.line}.py" if kernels else "example.py"
        linecache.cache[name] = (len(block.code), None, block.code.splitlines(True), name)
        out = io.StringIO()
        try:
            with contextlib.redirect_stdout(out):
                exec(compile(block.code, name, "exec"), self.namespace)
        except Exception as error:
            error.add_note(f"in {block.page}, the block at line {block.line}")
            raise
        self.printed = out.getvalue()

    def syntax(self, script: str, block: Block) -> None:
        """The shell accepts it; nothing runs."""
        done = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
        assert done.returncode == 0 and not done.stderr, f"{block.page}:{block.line}: {done.stderr}"

    def console(self, block: Block) -> None:
        """Each command, with its output where the page shows some."""
        for command, want in commands(block.code):
            self.syntax(command, block)
            if ELSEWHERE.match(command):
                assert command.partition(" -m ")[0] in CI, f"{block.page}:{block.line}: {command} is not in .ci/run"
                continue
            if ON_A_PI.match(command):
                continue
            status = int(m[1]) if (m := re.search(r"# exit (\d)$", command)) else 0
            done = subprocess.run(
                ["bash", "-c", command], cwd=self.directory, env=self.environment, text=True, timeout=HUNG_S,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
            where = f"{block.page}:{block.line}: {command}"
            assert done.returncode == status, f"{where}: status {done.returncode}\n{done.stdout}"
            if want:
                check_output(block, want, done.stdout)
            self.printed = done.stdout


def commands(code: str) -> Iterator[tuple[str, str]]:
    """Commands of a console block, each with the output shown below it."""
    assert code.startswith("$ "), f"a console block starts with a command: {code!r}"
    for part in re.split(r"(?m)^\$ ", code)[1:]:
        lines = part.splitlines(True)
        count = 1
        while lines[count - 1].rstrip().endswith("\\"):
            count += 1
        yield "".join(lines[:count]).strip(), "".join(lines[count:])


@everywhere
def test_code_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = blocks(path)
    if not found:
        pytest.skip("no code")
    if path.stem == "4-sgemm" and find_spec("llvmlite") is None:
        pytest.skip("takes minutes on the reference engine")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("QPU_DEVICE", raising=False)
    runner = Runner(tmp_path)
    for block in found:
        runner.run(block)
    shell = "".join(block.code for block in found if block.language != "output")
    for block in found:
        assert block.name is None or shell.count(block.name) > 1, f"{block.page}: nothing uses the file {block.name}"


# -- links


def anchors(path: Path) -> set[str]:
    """What a fragment can name: headings as Sphinx and the code hosts spell them, and explicit targets."""
    text = re.sub(r"(?ms)^(`{3,})[^`\n]*\n.*?^\1$", "", path.read_text())
    found = set(re.findall(r"(?m)^\(([^)]+)\)=$", text))
    for heading in re.findall(r"(?m)^#+ +(.+)$", text):
        bare = re.sub(r"[^\w\- ]", "", heading.lower())
        found.add(bare.strip().replace(" ", "-"))
    return found


@everywhere
def test_links_resolve(path: Path) -> None:
    text = re.sub(r"(?ms)^( *)(`{3,})[^`\n]*\n.*?^\1\2$", "", path.read_text())
    text = re.sub(r"`[^`\n]*`", "", text)
    for target in re.findall(r"\]\(([^)\s]+)(?: \"[^\"]*\")?\)", text):
        if re.match(r"[a-z]+:", target):
            assert target.startswith("https://"), target
            continue
        name, _, fragment = target.partition("#")
        place = path if not name else (path.parent / name).resolve()
        if not name and not fragment:
            continue
        if re.fullmatch(r"[\w-]+", name) and not place.exists():
            assert f"({name})=" in path.read_text(), f"{path}: no target {name!r}"
            continue
        if GENERATED in place.parents:
            continue  # written by the build, which checks its own links
        assert place.exists(), f"{path}: {target} does not exist"
        if fragment and place.suffix == ".md":
            assert fragment in anchors(place), f"{path}: {place.name} has no {fragment!r}"


# -- generated pages


def test_generated_pages_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, "tools/gen_docs.py", "--check"], cwd=ROOT, capture_output=True, text=True, timeout=HUNG_S
    )
    assert done.returncode == 0, done.stderr


def test_every_rule_is_explained() -> None:
    page = (DOCS / "reference" / "hazard-rules.md").read_text()
    from qpu.v3d.rules import RULES as V3D
    from qpu.vc4.rules import RULES as VC4

    for rule in [*V3D.values(), *VC4.values()]:
        assert f"### {rule.label}\n\n*{rule.severity}*" in page, rule


@pytest.mark.parametrize("isa", ["vc4", "v3d42", "v3d71"])
def test_every_operation_has_a_row(isa: str) -> None:
    page = (DOCS / "reference" / f"isa-{isa}.md").read_text()
    from qpu.v3d.ops import table
    from qpu.vc4.ops import TABLE

    for op in TABLE if isa == "vc4" else table(qpu.Isa(isa)):
        rows = re.findall(rf"(?m)^\| `{re.escape(op.name)}` \|", page)
        assert len(rows) >= len(op.units_on(qpu.Isa(isa))), op.name


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The sections of the API reference by module."""
    made = tmp_path_factory.mktemp("api")
    command = [sys.executable, "tools/gen_docs.py", "--api", str(made)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text = "".join(path.read_text() for path in made.glob("*.md"))
    parts = re.split(r"(?m)^## (?=qpu)", text)[1:]
    return {part.split("\n", 1)[0]: part for part in parts}


def test_every_public_name_is_in_the_api_reference(api: dict[str, str]) -> None:
    count = 0
    for module, section in api.items():
        for name in importlib.import_module(module).__all__:
            entry = rf"(?m)^:+\{{py:\w+\}} {re.escape(name)}\b|[.`]{re.escape(name)}`"
            assert re.search(entry, section), f"{module}.{name}"
            count += 1
    assert count > 300
    for name in qpu.__all__:
        assert re.search(rf"(\}} |\.){re.escape(name)}\b", api["qpu"]), name
    for page in [*DOCS.glob("*.md"), *DOCS.glob("tutorials/*.md"), *ROOT.glob("examples/*.py")]:
        for module, names in re.findall(r"(?m)^ *from (qpu[\w.]*) import ([\w, ]+)", page.read_text()):
            for name in re.findall(r"(\w+)(?: as \w+)?", names):
                known = f"{module}.{name}" in api or any(name in getattr(sys.modules[m], "__all__", ()) for m in api)
                assert known, f"{page.name} imports {module}.{name}, which the API reference does not have"


def test_the_api_reference_has_no_internal_module(api: dict[str, str]) -> None:
    assert {"qpu", "qpu.array", "qpu.cluster", "qpu.errors", "qpu.lang", "qpu.v3d", "qpu.vc4"} <= api.keys()
    closed = ("qpu.array.", "qpu.lang.", "qpu.v3d.", "qpu.cluster.", "qpu.core", "qpu.runtime", "qpu.display")
    for module in api:
        assert not module.startswith(closed), module
        parts = module.split(".")
        assert not any(p.startswith("_") for p in parts), module
        assert not {"linux", "process", "generated", "common", "uapi"} & set(parts), module
    assert len(api) < 80, "a new module of the reference is a promise"


def test_defaults_are_shown_as_written(api: dict[str, str]) -> None:
    for section in api.values():
        for line in re.findall(r"(?m)^:+\{py:\w+\} .*", section):
            assert not re.search(r"= ?<|0x[0-9a-f]{9,}| at 0x|= \.\.\.[,)]", line), line
    assert "32 * 1024 * 1024" in api["qpu.compat.videocore.driver"]


# -- commands


@pytest.mark.parametrize("command", ["info", "doctor", "asm", "disasm", "check", "build", "port", "emulate"])
def test_every_option_is_on_the_page(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    from qpu.__main__ import main

    with pytest.raises(SystemExit):
        main([command, "--help"])
    page = (DOCS / "reference" / "cli.md").read_text()
    section = re.split(r"(?m)^## qpu ", page)
    text = next(part for part in section if part.startswith(command + "\n"))
    for option in set(re.findall(r"--[a-z][a-z-]*", capsys.readouterr().out)) - {"--help"}:
        assert re.search(rf"`{option}[ `]|, `{option}", text), option


# -- the build


@pytest.mark.full
@pytest.mark.skipif(
    any(find_spec(name) is None for name in ("sphinx", "myst_parser", "furo", "sphinx_design")),
    reason="the docs group is not installed",
)
def test_the_guide_builds_without_warnings(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q", "-d", str(tmp_path / "doctrees")]
    done = subprocess.run(
        [*command, "docs", str(tmp_path / "html")], cwd=ROOT, capture_output=True, text=True, timeout=HUNG_S
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "html" / "index.html").exists()
