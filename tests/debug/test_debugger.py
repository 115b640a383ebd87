"""Tests of the debugger: sessions are lists of commands, and what they print."""

from __future__ import annotations

import io
import itertools
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qpu
from qpu.__main__ import main
from qpu.core.isa import Isa
from qpu.debug.debugger import Debugger, Quit
from qpu.debug.expressions import evaluate, names_in
from qpu.debug.trace import Trace
from qpu.device import Device
from qpu.lang import Grid, In, Out, f32, i32
from tests.lang import ten_kernels


def count(q: Any) -> None:
    """y[lane] = lane * 3, by three additions; uniform: y."""
    if q.isa is Isa.VC4:
        q.mov(q.ra[1], q.uniform)
        q.ldi(q.r1, 0)
        q.ldi(q.ra[2], 3)
        with q.loop("again") as again:
            q.add(q.r1, q.r1, q.element_number)
            q.sub(q.ra[2], q.ra[2], 1, push="z")
            q.b(again.start, cond="anynz")
        q.setup_vpm_write()
        q.mov(q.vpm, q.r1)
        q.setup_dma_store(nrows=1)
        q.start_dma_store(q.ra[1])
        q.wait_dma_store()
        q.end()
        return
    r = q.rf
    q.nop(sig=q.ldunifrf(r[10]))
    q.eidx(r[11])
    q.sub(r[12], r[11], r[11])
    q.add(r[13], r[12], 3)
    with q.loop("again") as again:
        q.add(r[12], r[12], r[11])
        q.sub(r[13], r[13], 1, push="pushz")
        q.b(again.start, cond="anyna")
    q.shl(r[11], r[11], 2)
    q.or_(q.tmud, r[12], r[12])
    q.add(q.tmua, r[10], r[11])
    q.tmuwt(q.null)
    q.end()


REGISTERS = {"pi3": ("r1", "ra2"), "pi4": ("rf12", "rf13"), "pi5": ("rf12", "rf13")}


@pytest.fixture(params=["pi3", "pi4", "pi5"])
def gpu(request: pytest.FixtureRequest) -> Iterator[Device]:
    with qpu.open_device(request.param) as device:
        yield device


def session(gpu: Device, commands: list[str]) -> tuple[str, Any]:
    y, out = gpu.zeros(16, np.uint32), io.StringIO()
    with Debugger(commands, out):
        gpu.run(qpu.assemble(count, isa=gpu.isa), [y])
    return out.getvalue(), y.numpy()


def test_a_session(gpu: Device) -> None:
    """Breakpoints at a label, with conditions; printing; setting; going back; watching; the end."""
    total, left = REGISTERS[str(gpu.info.emulated)]
    text, y = session(
        gpu,
        [
            "step", "back", "b again", f"b again if all({left} == 1)", "b", "c", f"p {total}", f"p/x {left}", "bt",
            "delete 1", "c", f"p {total}", "where", f"set {left} = 2", "back 3", "s", f"p {left}", "l", "thread",
            f"set {total}[3] = 100", f"p {total}[3]", "d", f"watch {left}", "c", "d", "x 0x0", "p no[", "unknown", "",
            "b nowhere", "set a 7", "c",
        ],
    )  # fmt: skip
    lines = text.splitlines()
    assert lines.count("(qpu) back") == 1 and "breakpoint 1 at instruction" in text and "breakpoint 2" in text
    assert f"{total} = 0 in all lanes" in text  # before the first addition
    assert f"{total} = {' '.join(str(2 * n) for n in range(16))}" in text  # before the third
    assert f"{left} = 0x00000003 in all lanes" in text and f"{left} changed" in text
    assert (
        re.search(r"\d+ -> \d+   # line \d+ -> line \d+", text)
        and "* QPU 0.0 at instruction" in text
        and f"{total}[3] = 100\n" in text
    )
    assert "not inside one buffer" in text and "unknown: no such command" in text and "neither an instruction" in text
    assert lines[-1] == "the launch has ended"
    assert (y == np.where(np.arange(16) == 3, y[3], 3 * np.arange(16))).all()  # what was set before `back` is undone


def test_lines_conditions_and_arguments_of_a_kernel() -> None:
    """A line has several places; a condition waits for values; arguments of any call have names."""
    text = Path(__file__).read_text().splitlines()
    line = next(n for n, row in enumerate(text, 1) if row.endswith("# the sum"))
    commands = [f"b line {line} if any(s > 1000)", f"b line {line} if nix", f"b line {line} if any(s",
                f"b {line}", "v", "p x[2:4]", "p n + 1",
                "set t = 1", "watch any(t > 90)", "c", "d 1", "", "c"]  # fmt: skip
    for board in ("pi3", "pi5"):
        out = io.StringIO()
        with qpu.open_device(board) as gpu, Debugger(commands, out):
            x, y = gpu.array(np.arange(100, dtype=np.float32)), gpu.zeros(100)
            poly(2.0, 3, x[::-1], y)
            assert np.allclose(y.numpy(), _poly(np.arange(100)[::-1]))
            gpu.run(qpu.assemble(count, isa=gpu.isa), [gpu.zeros(16)])
        said = out.getvalue()
        assert f"(for a line write `line {line}`)" in said
        assert re.search(r"breakpoint 1 at instructions \d+, \d+", said) and "x[2:4] = 97 96" in said, said
        assert "nix: no such register" in said and "never closed" in said and "n + 1 = 4" in said
        assert "t is a variable" in said and "watch 2 of any(t > 90)" in said and "any(t > 90) changed" in said
        assert "no value yet" not in said and said.count("has ended") == 2


def _poly(x: Any) -> Any:
    t = 2.0 * x
    return sum((t + j) * t for j in range(3))


def test_the_end_of_the_input_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("s\n"))
    with qpu.open_device("pi5") as gpu, pytest.raises(Quit), Debugger(out=io.StringIO()):
        gpu.run(qpu.assemble(count, isa=gpu.isa), [gpu.zeros(16)])


def test_leaving_ends_the_launch(gpu: Device) -> None:
    with pytest.raises(Quit, match="left before"):
        session(gpu, ["s", "quit"])
    text, y = session(gpu, ["s"])
    assert (y == 3 * np.arange(16)).all() and text.endswith("the launch has ended\n")


def test_source_lines_of_kernels(gpu: Device) -> None:
    """`next` goes to another line of the kernel; breakpoints have lines."""
    x, y, out = gpu.array(np.ones(20, np.float32)), gpu.zeros(20), io.StringIO()
    with Debugger(["next", "next", "c"], out):
        ten_kernels.saxpy(2.0, x, y)
    stops = [line for line in out.getvalue().splitlines() if line.startswith(">")]
    assert "y[i] = a * x[i] + y[i]" in out.getvalue() and len({s.partition("#")[2] for s in stops}) >= 2
    assert (y.numpy() == 2).all()


def test_scripts_kernels_and_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every door leads to the debugger; its commands come from standard input."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, numpy as np, qpu\nfrom tests.debug.test_debugger import count\n"
        "with qpu.open_device('pi4') as gpu:\n"
        "    y = gpu.zeros(16, np.uint32)\n    gpu.run(qpu.assemble(count, isa=gpu.isa), [y])\n"
        "    assert (y.numpy() == 3 * np.arange(16)).all() and sys.argv[1:] == ['-x', '1']\n"
    )
    monkeypatch.setattr("sys.stdin", io.StringIO("s\nc\n"))
    out = io.StringIO()
    monkeypatch.setattr("sys.stdout", out)
    assert main(["debug", str(script), "-x", "1"]) == 0
    assert out.getvalue().count("> QPU 0.0") == 2
    with qpu.open_device("pi5") as gpu:
        x, y = gpu.array(np.ones(20, np.float32)), gpu.zeros(20)
        ten_kernels.saxpy.debug(2.0, x, y, commands=[], out=out)
        z = gpu.zeros(16, np.uint32)
        gpu.debug(qpu.assemble(count, isa=gpu.isa), [z], commands=["c"], out=out)
        assert (y.numpy() == 2).all() and z.numpy()[1] == 3
    assert out.getvalue().count("the launch has ended") == 3


@qpu.kernel
def poly(k: Grid, a: f32, n: i32, x: In[f32], y: Out[f32]) -> None:
    i = k.index(y.size)
    t = x[i] * a
    s = 0.0
    for j in range(n):
        u = t + j
        s += u * t  # the sum
    y[i] = s


def test_variables_of_kernels(gpu: Device) -> None:
    """By name, of one value or per lane; arguments too. Conditions and watches know them; registers have a sign."""
    x, y, out = gpu.array(np.arange(20, dtype=np.float32)), gpu.zeros(20), io.StringIO()
    total = REGISTERS[str(gpu.info.emulated)][0]
    commands = [
        "v", "p s", "watch s", "c", "c", "c", "v", "p s * a", "p u[3] + n", "p x[18] - n", "p/x t", f"p %{total}",
        "p q", "back 4", "p %z9", "watch nothing", "d", "c",
    ]  # fmt: skip
    poly.debug(2.0, 3, x, y, commands=commands, out=out)
    text, t = out.getvalue(), 2 * np.arange(16)
    assert text.count("s: not assigned yet") == 1 and "s has no value yet in QPU 0.0" in text
    assert "a = 2   (argument)" in text and "x = 0 1 2 3 4" in text and "y = 0 in all 20 elements   (argument)" in text
    assert f"t = {' '.join(map(str, t))}\n" in text and f"u = {' '.join(map(str, t + 2))}\n" in text
    assert (
        f"s = {' '.join(map(str, 3 * t * t + 3 * t))}\n" in text
        and f"s * a = {' '.join(map(str, 2 * (3 * t * t + 3 * t)))}"
    )
    assert "u[3] + n = 11\n" in text and "x[18] - n = 15\n" in text and "t = 0x00000000 0x40000000 0x40800000" in text
    assert "q: no such register or variable" in text and "%z9: no such" in text and "nothing: no such" in text
    assert (y.numpy() == [3 * v * v + 3 * v for v in 2.0 * np.arange(20)]).all()


@qpu.kernel
def folded(k: Grid, x: In[f32], y: Out[f32]) -> None:
    i = k.index(y.size)
    t = x[i] * 0.5
    u = t * t
    if u > 2.0:
        u = u - t
    y[i] = u + t


@qpu.kernel
def other(k: Grid, x: In[f32], y: Out[f32]) -> None:
    i = k.index(y.size)
    t = x[i] * 0.5
    u = t + 1.0
    if t > 2.0:
        u = t
    else:
        u = u / (t + 1.0)
    y[i] = u


@qpu.kernel
def turns(k: Grid, x: In[f32], y: Out[f32]) -> None:
    i = k.index(y.size)
    u = x[i]
    while u > 8.0:
        u = u - 4.0
    if u > 7.0:
        u = 0.0
    y[i] = u


@qpu.kernel
def repeated(k: Grid, x: In[f32], y: Out[f32]) -> None:
    i = k.index(y.size)
    u = x[i]
    for _ in range(3):
        if u > 20.0:
            break
        u = u + u / 4.0
    y[i] = u


_N = np.arange(16.0)
_BREAK = [_N]
for _ in range(3):
    _BREAK.append(np.where(_BREAK[-1] > 20, _BREAK[-1], _BREAK[-1] * 1.25))
_T = _N / 2


@pytest.mark.parametrize(
    "board, kernel, values",
    [("pi3", folded, [_T * _T, np.where(_T * _T > 2, _T * _T - _T, _T * _T)]),
     ("pi5", folded, [_T * _T, np.where(_T * _T > 2, _T * _T - _T, _T * _T)]),
     ("pi4", other, [_T + 1, np.where(_T > 2, _T, _T + 1), np.where(_T > 2, _T, 1)]),
     ("pi3", turns, [_N, np.where(_N > 8, _N - 4, _N), np.where(_N > 12, _N - 8, np.where(_N > 8, _N - 4, _N)),
                     np.array([0, 1, 2, 3, 4, 5, 6, 7, 0, 5, 6, 7, 0, 5, 6, 7])]),
     ("pi5", repeated, _BREAK)],
    ids=["folded-pi3", "folded-pi5", "other-pi4", "turns-pi3", "repeated-pi5"],
)  # fmt: skip
def test_assignments_under_conditions_count(board: str, kernel: Any, values: list[Any]) -> None:
    """A variable assigned under a condition changes in the lanes where it holds, and a watch sees it."""
    out = io.StringIO()
    with qpu.open_device(board) as gpu:
        x, y = gpu.array(np.arange(16, dtype=np.float32)), gpu.zeros(16)
        kernel.debug(x, y, commands=["watch u"] + ["c", "p u"] * len(values) + ["d", "c"], out=out)
    found = re.findall("^u = (.*)", out.getvalue(), re.M)
    assert found == [" ".join(f"{n:g}" for n in v) for v in values], out.getvalue()
    assert out.getvalue().count("u changed") == len(values)


@pytest.mark.parametrize(
    "text",
    ["().__class__", "__import__('os')", "rf1.tofile('x')", "[1 for x in rf1]", "lambda: 1", "'a' * 9", "f32(rf1, 2)",
     "any(rf1)(2)", "f'{rf1}'", "(rf1 := 3)", "rf1 if rf1 else 2", "1 +", "(" * 500, "1" * 2000, "x" * 1001,
     "rf1[9:99999999999999999999]",
     "rf1 @ rf1", "2 ** 99", "print(1)", "rf1[rf1]", "\0"],
)  # fmt: skip
def test_expressions_are_arithmetic_only(text: str) -> None:
    with pytest.raises(qpu.UsageError, match="help:"):
        evaluate(text, {"rf1": np.arange(16, dtype=np.int32)})


@pytest.mark.parametrize("board", ["pi3", "pi5"])
def test_commands_refuse_what_they_do_not_take(board: str) -> None:
    """Each wrong argument has a message with what is allowed; nothing is set, deleted or executed."""
    name = {"pi3": "ra1", "pi5": "rf1"}[board]
    flag = {"pi3": "z", "pi5": "a"}[board]
    refused = [
        f"set {name}[16] = 5", f"set {name}[-1] = 5", f"set {name}[1.5] = 5", f"set {name} = 99999999999",
        f"set {name} = 1e99", f"set {name} = 08", "set", f"set {flag} = 2", "print", "p/z 1", 'p "a"', "p 2**9",
        f"p {name}[2.5]", f"p {name}[16]", f"p {name} << 64", "p 1.5 << 1", "p 1 // 0", "p 99999999999999999999",
        "p/x 1 << 40", "watch", "watch 12", f"b 0 if {name}[16]", "back -1", "back x", "back 0", "back " + "9" * 5000,
        "step 3", "next 1", "c 1", "q 1", "bt 1", "l 1", "v 1", "delete 77", "thread 7", "x", "x 1 0", "x -1",
    ]  # fmt: skip
    out = io.StringIO()
    with qpu.open_device(board) as gpu:
        commands = [f"set {name} = 0xe", "b 2", *refused, f"p {name}", f"p/d f32({name}) * 0 + 1.5", "b", "d", "c"]
        gpu.debug(qpu.assemble(count, isa=gpu.isa), [gpu.zeros(16)], commands=commands, out=out)
    said = re.split(r"^\(qpu\) ", out.getvalue(), flags=re.M)
    for command in refused:
        answer = next(part for part in said if part.startswith(f"{command}\n")).removeprefix(command)
        assert "allowed: " in answer and "help: " in answer and "Constant" not in answer, answer
    assert f"p {name}\n{name} = 14 in all lanes\n" in out.getvalue() and "b\n1: 2\n" in out.getvalue()
    assert "= 1069547520 in all lanes" in out.getvalue() and out.getvalue().count("> QPU") == 1


def test_values_of_expressions() -> None:
    names = {"x": np.arange(16, dtype=np.int32), "%a": np.full(16, -1, np.int32), "f": np.full(16, 0.5, np.float32)}
    assert evaluate("x[3] << 2 | 1", names) == 13 and evaluate("%a >> 1", names)[0] == -1
    assert (evaluate("x > 2 and not x >= 5", names) == [2 < n < 5 for n in range(16)]).all()
    assert (
        evaluate("1 < x[2] <= 2", names)
        and evaluate("u32(%a)[0] + 1", names) == 1 << 32
        and evaluate("f32(u32(f))[1]", names) == 0.5
    )
    assert evaluate("sum(x[2:4]) // 2 % 2 ^ 1", names) == 1 and np.isinf(evaluate("1 / 0", names))
    assert names_in("x + %rf3") == {"x", "%rf3"} and evaluate("~x[0] + -f[0]", names) == -1.5


def test_wrong_arguments_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"commands": "continue"}, "allowed: a list of texts"),
        ({"commands": 5}, "allowed: a list of texts"),
        ({"commands": [5]}, "a command is 5; allowed: texts"),
        ({"commands": [], "out": "x.txt"}, "allowed: an open text file"),
    ]
    with qpu.open_device("pi5") as gpu:
        program, x = qpu.assemble(count, isa=gpu.isa), gpu.zeros(16)
        for given, text in wrong:
            with pytest.raises(qpu.UsageError, match=text):
                gpu.debug(program, [x], **{"out": io.StringIO(), **given})
    for words, text in (
        ([], "no script to debug\n  help: write qpu debug SCRIPT"),
        (["/none.py"], "cannot read /none.py"),
    ):
        assert main(["debug", *words]) == 2
        assert text in capsys.readouterr().err


def test_scripts_find_their_own_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `python SCRIPT` does."""
    monkeypatch.setattr("sys.path", [*sys.path])
    (tmp_path / "beside_the_script.py").write_text("import sys\nsys.exit(3)\n")
    (tmp_path / "script.py").write_text("import beside_the_script\n")
    with pytest.raises(SystemExit, match="3"):
        main(["debug", str(tmp_path / "script.py")])


def test_one_tool_observes(gpu: Device) -> None:
    """Never does one of two tools see nothing, and say nothing."""
    tools = (qpu.profile, qpu.sanitize, Trace, lambda: Debugger([], io.StringIO()))
    for outer, inner in itertools.permutations(tools, 2):
        with outer(), pytest.raises(qpu.UsageError, match=r"inside of .*; allowed: one of them at a time"), inner():
            pass
    with qpu.sanitize():
        program = qpu.assemble(count, isa=gpu.isa)
        gpu.run(program, [gpu.zeros(16)], rehearse=True)  # a rehearsal is not a launch of the user
    with pytest.raises(qpu.UsageError, match="rehearse = 'yes'; allowed: True, False, None"):
        gpu.run(program, [gpu.zeros(16)], rehearse="yes")  # type: ignore[arg-type]
