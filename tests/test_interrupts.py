"""Tests of Ctrl-C, exceptions and interpreter exit: programs end at once and leave nothing allocated."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import qpu
from qpu.emu.port import EmuPort
from tests.hw.programs import binary
from tests.limits import HUNG_S

ROOT = Path(__file__).parent.parent
BOARDS = ("pi3", "pi4", "pi5")

COMMON = """
import asyncio, atexit, sys
import numpy as np
import qpu
from tests.hw.programs import binary, long
from qpu.emu.port import EmuPort

board, engine = sys.argv[1:3]
port = EmuPort(board, engine=engine)

def at_the_end():  # registered first, called last; then Linux closes the descriptors of a process
    port.end_process()
    power = port.board.vc4 is not None and port.board.vc4.enabled
    print("held at the end:", [h for h in port.allocated() if not h.startswith("memory ")], "power", power, flush=True)

atexit.register(at_the_end)
gpu = qpu.open_device(port=port)
x, out = gpu.array(np.ones(16, np.uint32)), gpu.empty(16, np.uint32)
gpu.run(binary(gpu.isa, "add"), [x, x, out])
endless = long(gpu.isa)
print("ready", flush=True)
"""
# Firmware and watchdog end a launch after a while; then the next one begins.
RUN = """
while True:
    try:
        gpu.run(endless, [1 << 31], timeout_s=1000)
    except (qpu.GpuTimeoutError, qpu.GpuResetError):
        pass
"""
WAIT = RUN.replace("gpu.run(endless, [1 << 31], timeout_s=1000)", "gpu.submit(endless, [1 << 31]).wait()")
AWAIT = """
async def go():
    while True:
        try:
            await gpu.submit(endless, [1 << 31])
        except (qpu.GpuTimeoutError, qpu.GpuResetError):
            await asyncio.sleep(0)

asyncio.run(go())
"""
full = pytest.mark.soak
ENGINES = ("auto", pytest.param("reference", marks=full))


def indented(text: str) -> str:
    return "".join(f"    {line}\n" for line in text.strip().splitlines())


def start(script: str, board: str, engine: str = "auto") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", COMMON + script, board, engine],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests")))},
    )


def interrupted(script: str, board: str, engine: str = "auto", number: int = signal.SIGINT) -> tuple[int, str, str]:
    """(status, stdout, stderr) of a script that gets a signal while its launch runs."""
    with start(script, board, engine) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            time.sleep(0.4)  # the launch has begun
            assert child.poll() is None, "the launch is over already"
            child.send_signal(number)
            out, err = child.communicate(timeout=HUNG_S)
        finally:
            child.kill()
    return child.returncode, out, err


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("board", BOARDS)
def test_ctrl_c_during_a_launch(board: str, engine: str) -> None:
    script = f"try:\n  with gpu:\n{indented(RUN)}finally:\n  print('leaked:', port.leaked)\n"
    status, out, err = interrupted(script, board, engine)
    assert status == -signal.SIGINT, (out, err)
    assert "KeyboardInterrupt" in err
    assert "leaked: []" in out and "held at the end: [] power False" in out


@pytest.mark.parametrize("board", ["pi3", *(pytest.param(b, marks=full) for b in ("pi4", "pi5"))])
def test_ctrl_c_during_a_wait(board: str) -> None:
    script = f"try:\n  with gpu:\n{indented(WAIT)}finally:\n  print('leaked:', port.leaked)\n"
    status, out, err = interrupted(script, board)
    assert status == -signal.SIGINT and "leaked: []" in out, (out, err)


@full
@pytest.mark.parametrize("board", BOARDS)
def test_the_device_goes_on_after_ctrl_c(board: str) -> None:
    script = f"""
try:
{indented(RUN)}except KeyboardInterrupt:
    out.array[...] = 0
    try:
        gpu.run(binary(gpu.isa, "add"), [x, x, out])
    except qpu.GpuResetError:  # of the interrupted job: whether this one was cut short as well, nobody knows
        gpu.run(binary(gpu.isa, "add"), [x, x, out])
    print("result", set(out.numpy().tolist()))
gpu.close()
print("leaked:", port.leaked)
"""
    status, out, err = interrupted(script, board)
    assert status == 0 and "leaked: []" in out and "result {2}" in out, (out, err)


@pytest.mark.parametrize("board", BOARDS)
def test_ctrl_c_without_close(board: str) -> None:
    """The program does not close the device: what would outlive the process is released even so.

    Mapped memory goes with the process.
    """
    status, out, err = interrupted(RUN, board)
    assert status == -signal.SIGINT and "held at the end: [] power False" in out, (out, err)


def finished(script: str, board: str) -> tuple[int, str, str]:
    """(status, stdout, stderr) of a script that ends on its own."""
    with start(script, board) as child:
        out, err = child.communicate(timeout=HUNG_S)
    return child.returncode, out, err


@pytest.mark.parametrize("board", BOARDS)
@pytest.mark.parametrize(
    ("ending", "status"),
    [
        pytest.param("", 0, marks=full),
        ("launch = gpu.submit(endless, [1 << 12])", 0),
        pytest.param("raise SystemExit(7)", 7, marks=full),
        pytest.param("raise ValueError('mine')", 1, marks=full),
        pytest.param(
            "import threading; threading.Thread(target=gpu.run, args=(endless, [1 << 12])).start()", 0, marks=full
        ),
    ],
)
def test_exit_without_close(board: str, ending: str, status: int) -> None:
    got, out, err = finished(ending, board)
    assert got == status and "held at the end: [] power False" in out, (got, out, err)
    assert ("ValueError: mine" in err) if status == 1 else not err, err


@pytest.mark.parametrize("board", ["pi3", "pi4", "pi5"])
def test_an_exception_inside_with(board: str) -> None:
    port = EmuPort(board)
    with pytest.raises(ZeroDivisionError), qpu.open_device(port=port) as gpu:
        x, out = gpu.array(np.ones(16, np.uint32)), gpu.empty(16, np.uint32)
        launch = gpu.submit(binary(gpu.isa, "add"), [x, x, out])
        assert launch is not None
        raise ZeroDivisionError
    assert port.leaked == [] and port.allocated() == []
    with pytest.raises(qpu.UsageError, match="closed"):
        gpu.empty(4)


@pytest.mark.parametrize("board", ["pi3", *(pytest.param(b, marks=full) for b in ("pi4", "pi5"))])
def test_ctrl_c_during_await(board: str) -> None:
    script = f"try:\n  with gpu:\n{indented(AWAIT)}finally:\n  print('leaked:', port.leaked)\n"
    status, out, err = interrupted(script, board)
    assert status == -signal.SIGINT and "leaked: []" in out, (out, err)
