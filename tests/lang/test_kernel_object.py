"""Kernels as objects: text, pickles, the cache on disk, files of compiled kernels, variants, reports, plain Python."""

from __future__ import annotations

import math
import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

import qpu
from qpu.errors import CompileError
from qpu.lang import Const, Grid, In, InOut, Kernel, Out, Team, cache, f32, i32, kernel, load_cache, sqrt, unroll
from tests.lang import kernels as ks

F = np.float32
SCALE = 3.0
TABLE = (1.0, 2.0)


def helper(x: f32, by: float = SCALE) -> f32:
    return sqrt(x * by) + TABLE[1]


@kernel(coarsen=2)
def scaled(k: Grid, x: In[f32], y: Out[f32], times: Const[int] = 1) -> None:
    """Uses a helper, a module and a constant."""
    i = k.index()
    y[i] = helper(x[i]) * times + math.pi


def want(x: np.ndarray, times: int = 1, by: float = 3.0) -> np.ndarray:
    return (np.sqrt(x * by) + 2) * times + math.pi


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cache, "_said", set())
    monkeypatch.setattr(cache, "_loaded", {})
    monkeypatch.setenv("QPU_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "lang" / cache.compiler_hash()


def run(k: Any, board: str = "pi5", n: int = 40, **consts: Any) -> np.ndarray:
    with qpu.open_device(board, engine="reference") as gpu:
        x, y = gpu.array(np.arange(n, dtype=F)), gpu.zeros(n)
        k(x, y, **consts)
        return y.numpy()


# -- text


def test_a_kernel_from_text() -> None:
    text = (
        "from qpu.lang import *\n\n"
        "def twice(k: Grid, x: In[f32], y: Out[f32]) -> None:\n"
        "    i = k.index()\n"
        "    y[i] = x[i] + x[i]\n"
    )
    k = qpu.kernel and ks.saxpy.from_source(text)
    assert np.array_equal(run(k), 2 * np.arange(40, dtype=F))
    with pytest.raises(CompileError) as caught:
        ks.saxpy.from_source(text.replace("+ x[i]", "+ z[i]")).compile("vc4")
    loc = caught.value.diagnostics[0].loc
    assert loc is not None and (loc.line, loc.column) == (5, 19) and "y[i] = x[i] + z[i]" in str(caught.value)
    assert ks.saxpy.from_source(text, "twice", coarsen=1).schedule.coarsen == 1
    with pytest.raises(qpu.UsageError, match="no function other"):
        ks.saxpy.from_source(text, "other")
    with pytest.raises(CompileError, match="lang-syntax"):
        ks.saxpy.from_source("def broken(:\n")


def test_a_prompt_has_no_source() -> None:
    names: dict[str, Any] = {}
    exec("from qpu.lang import *\n@kernel\ndef k(k: Grid, y: Out[i32]) -> None:\n    y[k.index()] = 1\n", names)
    with pytest.raises(CompileError, match="from_source"):
        names["k"].compile("v3d71")


@pytest.mark.parametrize(
    "knobs",
    [{"coarsen": 3}, {"coarsen": 2.0}, {"threads": 1}, {"unroll": 0}, {"march": "x"}, {"reassociate": 1}, {"x": 1}],
)
def test_wrong_knobs(knobs: dict[str, Any]) -> None:
    with pytest.raises(qpu.UsageError, match="help:"):
        kernel(**knobs)
    with pytest.raises(qpu.UsageError):
        scaled.compile("vc4", **knobs)


def test_wrong_targets() -> None:
    with pytest.raises(qpu.UsageError, match="vc4, v3d42, v3d71"):
        scaled.compile("v3d33")
    with pytest.raises(qpu.UsageError, match="@kernel"):
        kernel(3)  # type: ignore[call-overload]


# -- names that change


def test_a_global_that_changes_is_seen() -> None:
    global SCALE, TABLE
    x = np.arange(40, dtype=F)
    try:
        for TABLE in ((1.0, 2.0), (1.0, 5.0)):
            assert np.allclose(run(scaled), want(x) + TABLE[1] - 2)
    finally:
        TABLE = (1.0, 2.0)


# -- pickles


def test_a_kernel_travels_with_its_source(place: Path) -> None:
    compiled = scaled.compile("v3d71", times=2)
    data = pickle.dumps(scaled)
    again = pickle.loads(data)
    assert again is not scaled and again.schedule == scaled.schedule
    assert again.compile("v3d71", times=2).words == compiled.words
    assert again.compile("v3d71", times=2).kir.name == "scaled"
    x = np.arange(40, dtype=F)
    assert np.allclose(run(again, times=3), want(x, 3), rtol=1e-6)
    code = (
        "import pickle, sys, numpy as np, qpu\n"
        "k = pickle.load(sys.stdin.buffer)\n"
        "from qpu.lang import cache, specialise\n"
        "specialise.specialise = None\n"
        "c = k.compile('v3d71', times=2)\n"
        "print(len(c.words), c.loc(len(c.words) // 2))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=False,
                          env={**os.environ, "QPU_CACHE_DIR": "off"})  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().split()[0] == str(len(compiled.words))


def test_wrong_lines_of_a_pickled_kernel_are_the_users(tmp_path: Path) -> None:
    text = "from qpu.lang import *\n@kernel\ndef k(k: Grid, y: Out[i32]) -> None:\n    y[k.index()] = 1 + missing\n"
    (tmp_path / "module_of_kernels.py").write_text(text)
    code = f"import sys, pickle; sys.path.insert(0, {str(tmp_path)!r}); import module_of_kernels as m\n"
    code += "sys.stdout.buffer.write(pickle.dumps(m.k))"
    data = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    with pytest.raises(CompileError) as caught:
        pickle.loads(data).compile("vc4")
    loc = caught.value.diagnostics[0].loc
    assert loc is not None and loc.file.endswith("module_of_kernels.py") and (loc.line, loc.column) == (4, 24)


# -- the cache on disk


def entries(place: Path) -> list[Path]:
    return sorted(place.glob("*.qpk")) if place.is_dir() else []


def fresh(**knobs: Any) -> Any:
    return kernel(**{"coarsen": 2, **knobs})(scaled.fn)


def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: Any) -> Any:
        raise AssertionError("it was compiled")

    monkeypatch.setattr("qpu.lang.specialise.specialise", refused)


def test_the_second_process_compiles_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = {isa: fresh().compile(isa) for isa in qpu.Isa}
    assert len(entries(place)) == 3
    with monkeypatch.context() as patch:
        no_compiler(patch)
        for isa, compiled in first.items():
            second = fresh().compile(isa)
            assert second.words == compiled.words and second.uniforms == compiled.uniforms
            assert [a.row() for a in second.accesses] == [a.row() for a in compiled.accesses]
            assert second.extent == compiled.extent == ["y.shape0"]
            assert second.program.labels == compiled.program.labels and compiled.program.labels  # breakpoints of lines
            for i in range(len(second.words)):
                a, b = compiled.loc(i), second.loc(i)
                assert (a and (a.file, a.line)) == (b and (b.file, b.line))
        assert np.allclose(run(fresh(), "pi4"), want(np.arange(40, dtype=F)))
    assert second.report.loops and second.kir.name == "scaled" and second.mir.blocks


def test_what_a_kernel_depends_on_is_in_the_key(place: Path) -> None:
    fresh().compile("v3d71")
    for n, change in enumerate(({"times": 2}, {"times": 1.0}, {"coarsen": 1}, {"wide": False}, {"check": True}), 2):
        fresh().compile("v3d71", **change)
        assert len(entries(place)) == n, change
    fresh().compile("v3d71", times=1)
    assert len(entries(place)) == n
    global TABLE
    try:
        TABLE = (1.0, 9.0)
        fresh().compile("v3d71")
    finally:
        TABLE = (1.0, 2.0)
    assert len(entries(place)) == n + 1


T = TypeVar("T")
TABLES: dict[str, list[float]] = {"low": [1.0, 2.0], "high": [3.0]}


def ends(items: Iterable[T]) -> list[T]:
    first, *_, last = items
    return [first, last]


@kernel
def reaching(k: Grid, y: Out[f32]) -> None:
    i = k.index()
    total = 0.0
    for d in unroll(range(2)):
        total += TABLES["low"][d]
    a, b = ends((total, TABLES["high"][0]))
    y[i] = a * b


def test_kernels_that_reach_tables_and_generic_helpers_are_kept(place: Path) -> None:
    for n, low in enumerate(([1.0, 2.0], [1.0, 4.0]), 1):
        TABLES["low"] = low
        made = kernel(reaching.fn)
        made.compile("v3d42")
        assert len(entries(place)) == n
        with qpu.open_device("pi4") as gpu:
            y = gpu.empty(5, F)
            made(y)
            assert (y.numpy() == 3 * sum(low)).all()


TEXT = (
    "from qpu.lang import *\n\n\n{before}def k(k: Grid, y: Out[i32]) -> None:\n"
    "    i = k.index(){comment}\n    y[i] = {value}\n"
)


def test_layout_and_comments_are_not_in_the_key(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ks.saxpy.from_source(TEXT.format(before="", comment="", value="i * 3")).compile("v3d71")
    with monkeypatch.context() as patch:
        no_compiler(patch)
        moved = ks.saxpy.from_source(TEXT.format(before="\n# moved\n\n", comment="  # the item", value="(i * 3)"))
        compiled = moved.compile("v3d71")
    lines = {loc.line for i in range(len(compiled.words)) if (loc := compiled.loc(i)) is not None}
    assert lines and lines <= {7, 8, 9}
    ks.saxpy.from_source(TEXT.format(before="", comment="", value="i * 4")).compile("v3d71")
    assert len(entries(place)) == 2


def test_objects_without_a_text_are_not_kept(place: Path) -> None:
    class Table:
        def __getitem__(self, at: int) -> int:
            return at

    table = Table()

    @kernel
    def k(k: Grid, y: Out[i32]) -> None:
        y[k.index()] = table[1]

    k.compile("vc4")
    assert not entries(place)


DAMAGE = {
    "empty": lambda d: b"",
    "half": lambda d: d[: len(d) // 2],
    "a byte of code": lambda d: d[:-9] + bytes([d[-9] ^ 1]) + d[-8:],
    "a byte of the header": lambda d: d[:80] + bytes([d[80] ^ 1]) + d[81:],
    "noise": lambda d: os.urandom(500),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_a_miss(what: str, place: Path) -> None:
    words = fresh().compile("v3d71").words
    (entry,) = entries(place)
    good = entry.read_bytes()
    entry.write_bytes(DAMAGE[what](good))
    assert fresh().compile("v3d71").words == words
    assert entry.read_bytes() == good, "it was written again"


@pytest.mark.parametrize("head", [b"null", b"{}", b"[]", b'{"isa": "v3d71"}', b"", b"\xff"])
def test_a_whole_entry_of_nonsense_is_a_miss(head: bytes, place: Path) -> None:
    words = fresh().compile("v3d71").words
    (entry,) = entries(place)
    entry.write_bytes(cache._files(place).sealed(entry.stem, head + b"\n" + b"\0" * 64))
    assert fresh().compile("v3d71").words == words


def test_an_operation_that_does_not_exist_is_a_miss(place: Path) -> None:
    words = fresh().compile("v3d71").words
    (entry,) = entries(place)
    body = entry.read_bytes().partition(b"\n")[2].replace(b'"extent":["y.shape0"]', b'"extent":[["__import__",1]]')
    entry.write_bytes(cache._files(place).sealed(entry.stem, body))
    assert fresh().compile("v3d71").words == words


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no users here")
def test_a_directory_that_others_can_write_to_is_not_used(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fresh().compile("v3d71")
    for directory in (place, place.parent):
        directory.chmod(0o777)
        cache._said.clear()
        fresh().compile("v3d71")
        assert "is writable by others" in capsys.readouterr().err
        directory.chmod(0o700)


def test_the_oldest_go_first(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh().compile("v3d71")
    old = place.parent / ("0" * 32)
    old.mkdir(mode=0o700)
    size = entries(place)[0].stat().st_size
    (old / "a.qpk").write_bytes(b"x" * 3 * size)
    os.utime(old / "a.qpk", (1000, 1000))
    monkeypatch.setattr(cache, "LIMIT", 3 * size)
    fresh().compile("v3d42")
    assert not old.exists() and len(entries(place)) == 2


@pytest.mark.parametrize("value", ["off", "0", ""])
def test_switched_off(value: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QPU_CACHE_DIR", value)
    fresh().compile("v3d71")
    assert not place.exists()


def test_the_default_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("QPU_CACHE_DIR")
    if sys.platform.startswith("linux"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert cache.directory() == tmp_path / "qpu" / "lang" / cache.compiler_hash()


# -- files


def test_a_file_of_compiled_kernels(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "kernels.qpk"
    said: list[str] = []
    file.write_bytes(cache.file_of(cache.entries_of([scaled, ks.dot], list(qpu.Isa), said.append)))
    assert len(said) == 6
    monkeypatch.setenv("QPU_CACHE_DIR", "off")
    assert load_cache(file) == 6
    with monkeypatch.context() as patch:
        no_compiler(patch)
        for isa in qpu.Isa:
            fresh().compile(isa)
        kernel(ks.dot.fn).compile("vc4")
    data = file.read_bytes()
    for bad in (b"", data[:-1], data[:-1] + b"x", b"not one"):
        file.write_bytes(bad)
        with pytest.raises(qpu.UsageError, match="not a whole file"):
            load_cache(file)
    with pytest.raises(qpu.UsageError, match="cannot read"):
        load_cache(tmp_path / "missing")


MODULE = """
from qpu.lang import Const, Grid, Out, i32, kernel
from tests.lang.kernels import saxpy

@kernel
def first(k: Grid, y: Out[i32]) -> None:
    y[k.index()] = 1

@kernel
def second(k: Grid, y: Out[i32], n: Const[int] = 3) -> None:
    y[k.index()] = n

@kernel
def third(k: Grid, y: Out[i32], n: Const[int]) -> None:
    y[k.index()] = n
"""


def test_build(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from qpu.__main__ import main

    file, out = tmp_path / "kernels_to_build.py", tmp_path / "out.qpk"
    file.write_text(MODULE)
    assert main(["build", str(file), "-o", str(out)]) == 0
    said = capsys.readouterr().err
    assert "first for vc4" in said and "second for v3d71" in said and "third: left out" in said and "saxpy" not in said
    assert load_cache(out) == 6
    assert main(["build", str(file), "--isa", "v3d42", "-o", str(out)]) == 0
    assert load_cache(out) == 2
    file.write_text(MODULE.replace("= 1", "= missing"))
    assert main(["build", str(file), "-o", str(out)]) == 1
    assert "kernels_to_build.py:7:" in capsys.readouterr().err
    for wrong in (["build", str(tmp_path / "none.py"), "-o", "x"], ["build", "no_such_module", "-o", "x"]):
        assert main(wrong) == 2
    file.write_text("x = 1\n")
    assert main(["build", str(file), "-o", str(out)]) == 2


# -- variants


def saxpy_of(gpu: Any) -> Any:
    return kernel(ks.saxpy.fn)


def _with_variants() -> Kernel:
    own, value = kernel(ks.saxpy.fn), 2.0

    @own.variant("v3d71")
    @kernel
    def other(k: Grid, a: f32, x: In[f32], y: InOut[f32]) -> None:
        i = k.index(y.size)
        y[i] = a * x[i] + y[i] + 100.0

    def twos(q: Any) -> None:
        """16 times 2.0 to the first elements of y."""
        q.eidx(q.rf[1])
        q.shl(q.rf[1], q.rf[1], 2)
        q.nop(sig=q.ldunifrf(q.rf[2]))
        q.mov(q.tmud, value)
        q.add(q.tmua, q.rf[1], q.rf[2])
        q.end()

    def plan(gpu: Any, args: Any) -> Any:
        return [args["y"]], {}

    own.variant("v3d71", plan=plan)(twos)
    return own


def test_a_variant_runs_instead() -> None:
    own = _with_variants()
    x = np.ones(16, F)
    with qpu.open_device("pi5", engine="reference") as gpu:
        bx = gpu.array(x)
        for name, value in ((None, 2.0), ("twos", 2.0), ("other", 103.0), ("compiled", 3.0)):
            y = gpu.array(x)
            own.on(gpu, variant=name)(2.0, bx, y)
            assert np.array_equal(y.numpy(), np.full(16, value, F)), name
        with pytest.raises(qpu.UsageError, match="compiled, other, twos"):
            own.on(gpu, variant="none")(2.0, bx, gpu.zeros(16))
    with qpu.open_device("pi4", engine="reference") as gpu:
        y = gpu.array(x)
        own(2.0, gpu.array(x), y)
        assert np.array_equal(y.numpy(), np.full(16, 3, F))


def test_variants_travel() -> None:
    again = pickle.loads(pickle.dumps(_with_variants()))
    x = np.ones(16, F)
    with qpu.open_device("pi5", engine="reference") as gpu:
        for name, want in (("other", 103.0), ("twos", 2.0), ("compiled", 3.0)):
            y = gpu.array(x)
            again.on(gpu, variant=name)(2.0, gpu.array(x), y)
            assert (y.numpy() == want).all(), name


def test_wrong_variants() -> None:
    own = kernel(ks.saxpy.fn)
    for made, more, words in (
        (ks.dot, {}, "other parameters"),
        (3, {}, "a variant is 3"),
        (lambda q: None, {}, "no plan"),
        (kernel(ks.saxpy.fn), {"plan": print}, "needs no plan"),
        (kernel(ks.saxpy.fn), {"name": "compiled"}, "names the compiled kernel"),
    ):
        with pytest.raises(qpu.UsageError, match=words):
            own.variant("vc4", **more)(made)
    with pytest.raises(qpu.UsageError, match="allowed: vc4"):
        own.variant("gpu")


# -- reports


@pytest.mark.parametrize("isa", list(qpu.Isa))
def test_reports(isa: qpu.Isa) -> None:
    compiled = ks.saxpy.compile(isa)
    r = compiled.report
    (loop,) = r.loops
    assert loop.items == 64 and loop.loaded == 512 and loop.stored == 256 and loop.depth == 1
    assert 0 < loop.instructions < r.instructions == len(compiled.program)
    assert loop.per_16 == loop.instructions / 4 and max(loop.uses.values()) <= loop.instructions
    assert 0 < r.registers <= 64 and r.uniforms == len(compiled.uniforms)
    text = compiled.explain()
    assert "y[i] = a * x[i] + y[i]" in text and "bound by" in text and "64 items a turn" in text


def test_explain_for_arguments() -> None:
    with qpu.open_device("pi4", engine="reference") as gpu:
        x, y = gpu.zeros(8), gpu.zeros(8)
        assert "saxpy on V3D 4.2" in ks.saxpy.explain(1.0, x, y)
        assert "saxpy on V3D 4.2" in ks.saxpy.on(gpu, check=True).explain(1.0, x, y)
        with pytest.raises(qpu.UsageError, match="it needs 'y'"):
            ks.saxpy.explain(1.0, x)


# -- elsewhere


@pytest.mark.parametrize("n", [1, 17, 70])
def test_interpreted(n: int) -> None:
    x = np.arange(n, dtype=F)
    y, z = np.ones(n, F), np.ones(n, F)
    ks.saxpy.interpret(2.0, x, y)
    ks.saxpy.python(2.0, x, z)
    assert np.array_equal(y, 2 * x + 1) and np.array_equal(z, y)
    out, other = np.zeros(5, F), np.zeros(5, F)
    ks.dot.interpret(x, x, out)  # as many workers as it has room for
    ks.dot.python(x, x, other, workers=5)
    assert np.array_equal(out, other) and out.sum() == (x * x).sum()
    a, b = np.zeros(n, np.int32), np.zeros(n, np.int32)
    ks.mandelbrot.interpret(8, 0.3, a)
    ks.mandelbrot.python(8, 0.3, b)
    assert np.array_equal(a, b)


@pytest.mark.parametrize("isa", list(qpu.Isa))
def test_interpreted_as_the_board_computes(isa: qpu.Isa) -> None:
    board = {"vc4": "pi3", "v3d42": "pi4", "v3d71": "pi5"}[isa]
    x = np.random.default_rng(1).normal(size=50).astype(F)
    y = x[::-1].copy()
    with qpu.open_device(board, engine="reference") as gpu:
        by = gpu.array(y)
        ks.saxpy(1.7, gpu.array(x), by)
        ks.saxpy.interpret(1.7, x, y, isa=str(isa))
        assert np.array_equal(by.numpy(), y)


@pytest.mark.parametrize("isa", list(qpu.Isa))
@pytest.mark.parametrize("unroll", [1, 2, 4])
def test_unrolled_loops(isa: qpu.Isa, unroll: int) -> None:
    @kernel(coarsen=1, unroll=unroll)
    def polynomial(k: Grid, n: i32, x: In[i32], y: Out[i32]) -> None:
        i = k.index()
        s = 0
        for j in range(1, n):
            if j % 3 == 1:
                continue
            s = s * 3 + x[i] + j
        y[i] = s

    board = {"vc4": "pi3", "v3d42": "pi4", "v3d71": "pi5"}[isa]
    x = np.arange(20, dtype=np.int32)
    with qpu.open_device(board, engine="reference") as gpu:
        for n in (-2, 0, 1, 2, 5, 6, 7, 9):
            y, want = gpu.zeros(20, np.int32), np.zeros(20, np.int32)
            polynomial(n, gpu.array(x), y)
            polynomial.python(n, x, want)
            assert np.array_equal(y.numpy(), want), n
    assert polynomial.compile(isa).program.check() == []


@pytest.mark.parametrize("isa", ["v3d42", "v3d71"])
def test_four_threads(isa: str) -> None:
    assert ks.saxpy.compile(isa, threads=4).threads == 4
    assert np.array_equal(run_saxpy(isa, 4), run_saxpy(isa, 2))


def run_saxpy(isa: str, threads: int) -> np.ndarray:
    k = kernel(threads=threads)(ks.saxpy.fn)
    with qpu.open_device({"v3d42": "pi4", "v3d71": "pi5"}[isa], engine="reference") as gpu:
        x, y = gpu.array(np.arange(500, dtype=F)), gpu.array(np.ones(500, F))
        k(2.0, x, y)
        return y.numpy()


@pytest.mark.parametrize("run", [ks.saxpy.python, ks.saxpy.interpret], ids=["python", "interpret"])
def test_runs_on_the_host_refuse(run: Callable[..., None]) -> None:
    x = np.zeros(4, np.float32)
    for args, words in (
        ((2.0, x), "it needs 'y'"),
        ((2.0, x, x, x), "3 arguments, 4 are given"),
        ((2.0, x, [1.0]), "y is a list"),
        ((2.0, x.astype(float), x), "x is an ndarray of float64"),
        ((2.0, x.reshape(2, 2), x), "rank 2"),
        (("2", x, x), "a = '2' is a str"),
    ):
        with pytest.raises(qpu.UsageError, match="launch-type") as caught:
            run(*args)
        assert words in str(caught.value)
        assert "allowed" in str(caught.value) or "help" in str(caught.value)


def test_a_lambda_is_refused() -> None:
    with pytest.raises(qpu.CompileError, match="a kernel of lambda"):
        kernel(lambda k, y: None).compile("vc4")


def test_accesses_outside_stop_the_interpreter() -> None:
    with pytest.raises(qpu.EmuFault, match=r"x\[2\]"):
        ks.saxpy.interpret(2.0, np.zeros(2, F), np.zeros(3, F))


def test_runs_on_the_host_take_names_and_buffers() -> None:
    with qpu.open_device("pi4") as gpu:
        x, y = gpu.array(np.arange(4, dtype=np.float32)), gpu.zeros(8)
        ks.saxpy.python(2.0, y=y[4:], x=x)
        ks.saxpy.interpret(a=2.0, x=x, y=y[4:])
        assert y.numpy().tolist() == [0, 0, 0, 0, 0, 4, 8, 12]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def wrong(k: Grid, y: Out[f32], *more) -> None: ...", "'more' takes any number of arguments"),
        ("def wrong(k: Grid, y: Out[f32], **more) -> None: ...", "'more' takes any number of arguments"),
        ("def wrong() -> None: ...", "a kernel without parameters"),
        ("def wrong(k: Grid, y: Out[float]) -> None: ...", "an array of"),
        ("def wrong(k: 'Grit', y: Out[f32]) -> None: ...", "the annotation of 'k'"),
        ("def wrong(k: Grid, y: Out[f32], a: u8) -> None: ...", "'a' is u8"),
        ("def wrong(k: Grid, y: Out[f32], a) -> None: ...", "parameter 'a' has no annotation"),
        ("def wrong(x: In[f32], y: Out[f32]) -> None: ...", "the first parameter 'x' is not a Grid or Team"),
    ],
)
def test_wrong_signatures(text: str, words: str) -> None:
    with pytest.raises(qpu.CompileError, match="lang-") as caught:
        Kernel.from_source(f"from qpu.lang import *\n\n\n{text}\n", "wrong").compile("v3d71")
    (finding,) = [d for d in caught.value.diagnostics if words in d.message]
    assert finding.loc is not None and finding.loc.line == 4 and (finding.help or finding.allowed)


def test_print_and_the_debugger_work(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    @kernel
    def noisy(k: Grid, y: Out[i32]) -> None:
        i = k.index()
        print("item", i)
        y[i] = i

    noisy.python(np.zeros(3, np.int32))
    assert capsys.readouterr().out == "item 0\nitem 1\nitem 2\n"
    text = (
        "import numpy as np, pdb\n"
        "from qpu.lang import Grid, Out, i32, kernel\n"
        "@kernel\n"
        "def stopped(k: Grid, y: Out[i32]) -> None:\n"
        "    i = k.index()\n"
        "    if i == 1:\n"
        "        pdb.set_trace()\n"
        "    y[i] = i\n"
        "y = np.zeros(3, np.int32)\n"
        "stopped.python(y)\n"
        "print('end', y.tolist())\n"
    )
    (tmp_path / "stops.py").write_text(text)
    command = [sys.executable, str(tmp_path / "stops.py")]
    done = subprocess.run(command, input="p i\nc\n", capture_output=True, text=True, check=False)
    assert "(Pdb) 1" in done.stdout and "end [0, 1, 2]" in done.stdout, done.stdout + done.stderr


def test_importing_stays_light() -> None:
    code = (
        "import sys, qpu, qpu.lang\n"
        "from qpu.lang import Grid, In, InOut, Team, f32, kernel, sqrt, unroll\n"
        "assert qpu.kernel is kernel\n"
        "@kernel\n"
        "def k(k: Grid, x: In[f32], y: InOut[f32]) -> None: ...\n"
        "print(sorted(m for m in sys.modules if m in ('numpy', 'inspect', 'ast', 'hashlib') or 'lang.front' in m))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "numpy" not in done.stdout and "lang" not in done.stdout, done.stdout


def test_compiling_needs_no_numpy() -> None:
    code = "import sys\nfrom tests.lang import kernels as ks\n"
    code += "for i in ('vc4', 'v3d42', 'v3d71'): ks.saxpy.compile(i)\nassert 'numpy' not in sys.modules"
    with warnings.catch_warnings():
        env = {**os.environ, "QPU_CACHE_DIR": "off"}
        subprocess.run([sys.executable, "-c", code], check=True, env=env, cwd=Path(__file__).parents[2])


def test_workers_of_plain_python() -> None:
    @kernel
    def ids(k: Team, out: Out[i32]) -> None:
        out[k.worker] = k.workers * 10 + k.worker

    out = np.zeros(3, np.int32)
    ids.python(out, workers=3)
    assert out.tolist() == [30, 31, 32]


@kernel
def _builtins(k: Grid, x: In[f32], y: Out[f32], z: Out[i32]) -> None:
    i = k.index()
    y[i] = pow(2.0, x[i]) + pow(x[i] + 3.0, 1.5) + x[i] ** 2
    z[i] = int(x[i] > 1.0) + 2 * int(float(x[i] > 2.0))


def test_builtins_of_python_in_plain_python() -> None:
    x = np.float32([0, 1, 2, 3])
    y, z = np.zeros(4, np.float32), np.zeros(4, np.int32)
    _builtins.python(x, y, z)
    assert np.allclose(y, 2.0**x + (x + 3) ** 1.5 + x**2, rtol=1e-6) and z.tolist() == [0, 0, 1, 3]
    got, whole = np.zeros(4, np.float32), np.zeros(4, np.int32)
    _builtins.interpret(x, got, whole)
    assert np.allclose(got, y, rtol=1e-6) and whole.tolist() == z.tolist()
