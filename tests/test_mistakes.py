"""Mistakes of newcomers, each with the outcome that it must have: what was found, and what to write instead."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qpu
from qpu.__main__ import main
from qpu.emu.port import EmuPort
from qpu.errors import UnknownNameError
from tests.limits import HUNG_S


def refused(call: Callable[[], object], *words: str, error: type[Exception] = qpu.QpuError) -> str:
    with pytest.raises(error) as caught:
        call()
    text = str(caught.value)
    for word in words:
        assert word in text, text
    return text


def built(isa: str, *body: Callable[[Any], object]) -> Callable[[], object]:
    def program(q: Any) -> None:
        for part in body:
            part(q)
        q.end()

    return lambda: qpu.assemble(program, isa=isa)


@pytest.fixture(scope="module")
def pi5() -> Any:
    with qpu.open_device("pi5") as gpu:
        yield gpu


@pytest.fixture(scope="module")
def empty_program() -> qpu.Program:
    return qpu.assemble(lambda q: q.end(), isa="v3d71")


# -- builders


@pytest.mark.parametrize("isa", ["vc4", "v3d42", "v3d71"])
def test_a_register_in_a_condition_of_python(isa: str) -> None:
    def register(q: Any) -> Any:
        return q.ra[1] if isa == "vc4" else q.rf[1]

    for test in (lambda r: r == 0, lambda r: r != 0, bool, lambda r: r in (1, 2)):
        text = refused(
            built(isa, lambda q, test=test: test(register(q))), "the program runs later, on the GPU", "push="
        )
        assert "test_mistakes.py:" in text


@pytest.mark.parametrize("isa", ["vc4", "v3d42", "v3d71"])
def test_a_register_equals_itself_only(isa: str) -> None:
    def program(q: Any) -> None:
        r = q.ra if isa == "vc4" else q.rf
        assert r[1] == r[1] and hash(r[1]) == hash(r[1])
        assert {r[1]: 1}[r[1]] == 1
        q.end()

    qpu.assemble(program, isa=isa)


@pytest.mark.parametrize(
    ("isa", "name", "help"),
    [
        ("v3d71", "r0", "V3D 7.1 has no accumulators: use q.rf[0..63]"),
        ("v3d71", "ra", "q.rf[0..63]"),
        ("v3d42", "rb", "q.rf[0..63]"),
        ("v3d42", "elem_num", "q.eidx(q.rf[1])"),
        ("v3d71", "uniform", "q.ldunifrf(q.rf[1])"),
        ("v3d71", "fdiv", "q.recip"),
        ("v3d42", "jzc", "q.b(label, cond=...)"),
        ("v3d71", "exit", "q.end()"),
        ("v3d71", "setup_vpm_read", "q.tmua"),
        ("vc4", "eidx", "q.elem_num"),
        ("vc4", "rf", "q.ra[0..31]"),
        ("vc4", "fdiv", "q.sfu_recip"),
        ("vc4", "jzc", "cond='allnz'"),
        ("vc4", "jcs_any", "cond='anyc'"),
        ("vc4", "jcc", "cond='allcc'"),
        ("vc4", "exit", "q.end()"),
        ("vc4", "tmua", "q.tmu0_s"),
    ],
)
def test_a_name_of_another_chip_or_library(isa: str, name: str, help: str) -> None:
    refused(built(isa, lambda q: getattr(q, name)), f"has no {name!r}", help, error=UnknownNameError)


def test_the_branches_that_the_help_names_exist() -> None:
    """Each condition that replaces a branch of PyVideoCore is one of the builder's."""
    for flag in "znc":
        for state in "sc":
            for every in ("", "_any"):
                with pytest.raises(UnknownNameError) as caught:
                    built("vc4", lambda q, name=f"j{flag}{state}{every}": getattr(q, name))()
                condition = str(caught.value).partition("cond='")[2].partition("'")[0]
                built("vc4", lambda q, c=condition: q.b(q.label("here"), cond=c), lambda q: q.nops(3))()


def test_set_up_arguments_of_pyvideocore() -> None:
    refused(
        built("vc4", lambda q: q.setup_vpm_read(nrows=16)), "unexpected keyword argument 'nrows'", "write n= for nrows="
    )
    refused(built("vc4", lambda q: q.setup_vpm_write(Y=1)), "write y= for Y=")
    refused(built("vc4", lambda q: q.setup_vpm_read()), "missing 1 required positional argument: 'n'")


def test_comments_of_other_languages() -> None:
    for comment in ("// why", "/* why */", "-- why", ";; why"):
        refused(lambda c=comment: qpu.assemble(f"nop ; nop {c}\n", isa="v3d71"), "start a comment with #")
    refused(lambda: qpu.assemble("// why\nnop\n", isa="vc4"), "start a comment with #")


# -- devices, buffers, launches


def test_calls_of_other_libraries(pi5: Any, empty_program: qpu.Program) -> None:
    for name, help in (
        ("alloc", "gpu.empty"),
        ("copy", "gpu.array"),
        ("program", "qpu.assemble"),
        ("execute", "gpu.run"),
    ):
        refused(lambda n=name: getattr(pi5, n), f"has no {name!r}", help, error=AttributeError)
    refused(lambda: pi5.emty, "did you mean gpu.empty?", error=AttributeError)
    for name, help in (
        ("n_threads", "vc4.Programs(n)"),
        ("workgroup", "workgroups=(x, y, z)"),
        ("timeout", "timeout_s"),
    ):
        for call in (pi5.run, pi5.submit):
            refused(lambda c=call, n=name: c(empty_program, [], **{n: 4}), f"takes no argument {name!r}", help)
    refused(lambda: pi5.run(empty_program, [], nonsense=1), "unexpected keyword argument", error=TypeError)
    assert pi5.run(empty_program, uniforms=[], timeout_s=1.0).done


def test_every_replacement_that_a_device_names_exists(pi5: Any) -> None:
    from qpu.device import _METHODS_OF_OTHERS

    for name, help in _METHODS_OF_OTHERS.items():
        assert not hasattr(pi5, name)
        if help.startswith("gpu."):
            assert hasattr(pi5, help[4:].partition("(")[0])


def test_rows_of_uniforms_on_v3d(pi5: Any, empty_program: qpu.Program) -> None:
    refused(lambda: pi5.run(empty_program, [[1, 2], [3, 4]]), "2 rows", "pass one flat list")
    assert pi5.run(empty_program, [1, [2, 3]]).done  # a part of the one stream


def test_arithmetic_on_a_buffer(pi5: Any) -> None:
    y = pi5.zeros(16)
    refused(lambda: y.__setitem__(slice(None), 3), "y.write(data)")
    for call in (lambda: y + 1, lambda: 2 * y, lambda: -y, lambda: y @ y, lambda: y < 1, lambda: np.ones(16) + y):
        refused(call, "a Buffer is memory", "gpu.xp.asarray(y)")
    assert (y.numpy() == 0).all()


def test_a_program_is_data(pi5: Any) -> None:
    def program(q: Any) -> None:
        start = q.label("start")
        q.mov(q.rf[1], 1)
        q.b(start, cond="anya")
        for _ in range(3):
            q.nop()
        q.end()

    made = qpu.assemble(program, isa="v3d71")
    for again in (pickle.loads(pickle.dumps(made)), copy.deepcopy(made), copy.copy(made)):
        assert type(again) is qpu.Program and again.text == made.text and again.labels == made.labels
        assert [again.loc(i) for i in range(len(made))] == [made.loc(i) for i in range(len(made))]


def test_the_environment_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QPU_DEVICE", "banana")
    refused(lambda: qpu.open_device(), "QPU_DEVICE: unknown device 'banana'")
    monkeypatch.setenv("QPU_DEVICE", "pi9")
    refused(lambda: qpu.open_device(), "QPU_DEVICE: unknown board 'pi9'")
    monkeypatch.setenv("QPU_DEVICE", "")
    with qpu.open_device() as gpu:  # as if it were not set
        assert gpu.qpus > 0
    assert "QPU_DEVICE" not in refused(lambda: qpu.open_device("banana"), "unknown device 'banana'")


def test_a_program_that_runs_too_long_names_its_one_cause_and_its_loop() -> None:
    def endless(q: Any) -> None:
        with q.loop() as loop:
            q.b(loop.start)
        q.end()

    with qpu.open_device("pi3") as gpu:
        program = qpu.assemble(endless, isa=gpu.isa)
        text = refused(lambda: gpu.run(program), "over a second, the limit", "in the loop of instructions 0 (")
        assert "raised no host interrupt" not in text and "q.b(loop.start)" in text and "no time limit" in text


FAULT = """
import qpu
gpu = qpu.open_device("pi5")
y = gpu.empty(16)
memory = y.array
def store(q):
    q.nop(sig=q.ldunifrf(q.rf[1]))
    q.mov(q.tmud, 1)
    q.mov(q.tmua, q.rf[1])
    q.tmuwt()
    q.end()
program = qpu.assemble(store, isa="v3d71")
def mine():
    gpu.run(program, [5])
mine()
"""


@pytest.mark.parametrize("full", [False, True])
def test_a_fault_shows_the_frames_of_the_user(full: bool, tmp_path: Path) -> None:
    script = tmp_path / "fault.py"
    script.write_text(FAULT)
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=HUNG_S, check=False,
        env={"PYTHONPATH": str(Path(qpu.__file__).parents[1]), "QPU_TRACEBACK": "full" if full else ""},
    )  # fmt: skip
    frames = done.stderr.count("  File ")
    assert f'"{script}", line 14, in mine' in done.stderr and "EmuFault: misaligned" in done.stderr
    assert (frames > 8) if full else (frames == 3), done.stderr
    assert "Exception ignored" not in done.stderr and done.stderr.rstrip().splitlines()[-1].startswith("  help: ")


@pytest.mark.parametrize(("strict", "word"), [(True, "warnings"), (False, "faults")])
def test_what_a_strict_run_only_warns_of_is_not_called_a_fault(strict: bool, word: str, capsys: Any) -> None:
    from qpu.emu.process.emulate import Emulation

    emulation = Emulation("pi3", strict=strict)
    assert emulation.summary() == ""
    emulation._warn("thread-switch: a switch loses accumulators")
    assert emulation.summary() == f"qpu emulate: 1 {word} on the emulated pi3: 1 x thread-switch"
    assert "thread-switch" in capsys.readouterr().err


# -- command line


def command(monkeypatch: pytest.MonkeyPatch, capfd: Any, *arguments: str, stdin: str = "") -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
    status = main(arguments)
    sys.stdout.flush()
    out, err = capfd.readouterr()
    return status, out, err


def test_text_from_a_pipe(monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    status, out, _ = command(monkeypatch, capfd, "asm", "--isa", "v3d71", stdin="nop\n")
    assert (status, out) == (0, "38003186bb03f000\n")
    status, out, _ = command(monkeypatch, capfd, "disasm", "--isa", "pi5", stdin=out)
    assert (status, out.split()) == (0, ["nop", ";", "nop"])


def test_a_board_in_place_of_an_instruction_set(monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    for board, word in (("pi0", "100009e7009e7000"), ("pi4", "3c003186bb800000"), ("PI5,slices=3", "38003186bb03f000")):
        assert command(monkeypatch, capfd, "asm", "--isa", board, stdin="nop\n")[:2] == (0, f"{word}\n")
    status, _, err = command(monkeypatch, capfd, "asm", "--isa", "pi6", stdin="nop\n")
    assert status == 2 and "allowed: vc4, v3d42, v3d71, or a board: pi0, pi1" in err


def test_source_given_to_the_disassembler(monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    status, _, err = command(monkeypatch, capfd, "disasm", "--isa", "v3d71", stdin="nop ; nop\n")
    assert status == 2 and "looks like source" in err and "help: assemble it first: qpu asm --isa v3d71 -" in err


@pytest.mark.parametrize(("text", "words"), [("", "- is empty"), ("# only a comment\n", "- has no instructions")])
@pytest.mark.parametrize("name", ["disasm", "check"])
def test_a_file_without_instructions(
    monkeypatch: pytest.MonkeyPatch, capfd: Any, name: str, text: str, words: str
) -> None:
    status, out, err = command(monkeypatch, capfd, name, "--isa", "v3d71", stdin=text)
    assert (status, out) == (1, "") and words in err and "help: " in err


def test_findings_have_their_source_lines(monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    text = "nop ; nop ; thrsw\nnop\nnop ; nop ; thrsw\nnop\nnop\n"
    status, _, err = command(monkeypatch, capfd, "asm", "--isa", "v3d71", "--check", stdin=text)
    assert status == 1
    assert "<stdin>:3: error[thrsw-close]" in err and "    nop ; nop ; thrsw" in err and "  help: " in err
    assert "  with <stdin>:1: nop ; nop ; thrsw" in err


# -- devices


def test_a_named_node_that_is_elsewhere() -> None:
    """The right node is named, and no overlay of another GPU is advised."""
    from qpu.drivers.probe import open_driver
    from tests.drivers.fakes import FakePort

    compatible = {
        "/proc/device-tree/compatible": b"raspberrypi,4-model-b\0brcm,bcm2711\0",
        "/sys/class/drm/renderD128/device/uevent": b"DRIVER=v3d\n",
    }
    for path in ("/dev/dri/renderD129", "/dev/dri/card0"):
        text = refused(
            lambda path=path: open_driver(FakePort(files=compatible), path), "the v3d node is /dev/dri/renderD128"
        )
        assert "dtoverlay" not in text
    text = refused(
        lambda: qpu.open_device("/dev/dri/renderD128", port=EmuPort("pi3")), "use /dev/vcio, or device 'hardware'"
    )
    assert "dtoverlay" not in text
    text = refused(lambda: open_driver(FakePort(nodes={}, files={}), "/dev/dri/renderD128"), "there is no such node")
    assert "dtoverlay" not in text


@pytest.mark.parametrize(
    ("board", "setting"), [("pi3,cma=16M,vcsm=cma", "cma=128M"), ("pi3,gpu_mem=16M,vcsm=plain", "gpu_mem=128")]
)
def test_out_of_memory_on_old_boards(board: str, setting: str) -> None:
    with qpu.open_device(board) as gpu:
        kept = gpu.empty(6 << 20, np.uint8)
        text = refused(lambda: gpu.empty(24 << 20, np.uint8), "25165824 bytes asked for", f"{setting} would hold it")
        assert "the largest free piece found has " in text and "overlay" not in text
        assert kept.nbytes == 6 << 20


# -- declared uniforms


@pytest.mark.parametrize("board", ["pi3", "pi4"])
def test_declared_uniforms_are_converted_and_checked(board: str) -> None:
    def body(q: Any) -> None:
        q.uniforms(a="f32", n="i32", y="ptr")
        if q.isa == "vc4":
            q.mov(q.r1, q.uniform)
            q.mov(q.r0, q.uniform)
            q.setup_vpm_write()
            q.fadd(q.vpm, q.r1, 1.0)
            q.setup_dma_store(nrows=1)
            q.start_dma_store(q.uniform)
            q.wait_dma_store()
        else:
            q.eidx(q.r0, sig=q.ldunifrf(q.rf[1]))
            q.nop(sig=q.ldunifrf(q.rf[2]))
            q.shl(q.r0, q.r0, 2)
            q.nop(sig=q.ldunifrf(q.rf[3]))
            q.fadd(q.tmud, q.rf[1], 1.0)
            q.add(q.tmua, q.r0, q.rf[3])
            q.tmuwt()
        q.end()

    with qpu.open_device(board) as gpu:
        program = pickle.loads(pickle.dumps(qpu.assemble(body, isa=gpu.isa)))
        y = gpu.zeros(16)
        for three in (3, 3.0, np.float64(3), np.int8(3)):
            y.write(np.zeros(16, np.float32))
            gpu.run(program, [three, -1, y])
            assert (y.numpy() == 4).all()
        if board == "pi3":
            gpu.run(program, [[3, -1, y], [3, 1, y]])
        refused(lambda: gpu.run(program, [3, -1]), "2 uniforms given", "declares a: f32, n: i32, y: ptr")
        for wrong, words in (
            ([y, 1, y], "uniform 0 (a: f32)"),
            ([3, 1.5, y], "uniform 1 (n: i32): 1.5 is a float"),
            ([3, 1 << 31, y], "uniform 1 (n: i32): 2147483648 is outside"),
            ([3, 1, 2.0], "uniform 2 (y: ptr): 2.0 is a float"),
        ):
            refused(lambda row=wrong: gpu.run(program, row), words, "help: ")
        rows = np.array([np.float32(3).view(np.uint32), 1, y.address], np.uint32)
        gpu.run(program, rows)  # words already
        refused(lambda: gpu.run(program, rows[:2]), "2 uniforms given")


@pytest.mark.parametrize("isa", ["vc4", "v3d71"])
def test_declarations_of_uniforms(isa: str) -> None:
    refused(built(isa, lambda q: q.uniforms(x="f64")), "x='f64' is not a kind of uniform", "ptr, f32, i32, u32")
    refused(built(isa, lambda q: q.uniforms(x="ptr"), lambda q: q.uniforms(y="ptr")), "declared twice")
