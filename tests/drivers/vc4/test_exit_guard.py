"""Tests of the exit guard: exit, unhandled error, SIGTERM, SIGHUP, SIGINT, a forked child."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from qpu.drivers.vc4 import exit_guard
from tests.limits import HUNG_S

HERE = Path(__file__).parents[3]

PROGRAM = """
import os, signal, sys, time
sys.path.insert(0, {here!r})
from tests.drivers.vc4.fake_linux import FakeLinux, PI3
from qpu.drivers.vc4 import exit_guard
from qpu.drivers.vc4.adapter import open_adapter
import atexit

# Whoever runs the tests may ignore signals (nohup, a background job), and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
for name in ("SIGTERM", "SIGHUP"):
    if hasattr(signal, name):
        signal.signal(getattr(signal, name), signal.SIG_DFL)
how = {how!r}
if how == "ignored":
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

linux = FakeLinux(nodes=("vcio", "mem"))
atexit.register(lambda: print("left:", linux.left(), flush=True))
driver = open_adapter(linux, PI3)
view = driver.alloc(4096).view
if how == "error":
    raise RuntimeError("x")
elif how == "fork":
    linux.getpid = os.getpid
    pid = os.fork()
    if pid == 0:
        sys.exit(0)
    os.waitpid(pid, 0)
    print("parent has", len(linux.handles), linux.powered, flush=True)
elif how == "own":
    signal.signal(signal.SIGTERM, lambda *_: print("mine", flush=True))
    os.kill(os.getpid(), signal.SIGTERM)
elif how == "ignored":
    os.kill(os.getpid(), signal.SIGHUP)
    print("still there", flush=True)
elif how != "exit":
    os.kill(os.getpid(), getattr(signal, how))
    time.sleep(5)
"""


@pytest.mark.parametrize(
    ("how", "status"),
    [
        ("exit", 0),
        ("error", 1),
        ("SIGTERM", 143),
        ("SIGHUP", 129),
        ("SIGINT", -2),
        ("fork", 0),
        ("own", 0),
        ("ignored", 0),
    ],
)
def test_ways_out(how: str, status: int) -> None:
    if how.startswith("SIG") and not hasattr(signal, how):
        pytest.skip("no such signal here")
    run = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PROGRAM.format(here=str(HERE), how=how)],
        capture_output=True,
        text=True,
        timeout=HUNG_S,
        check=False,
    )
    assert run.returncode == status, run.stderr
    # The map of a live view ends with the process; firmware memory and power must be gone.
    last = run.stdout.strip().splitlines()[-1]
    assert last.startswith("left: ["), run.stdout
    assert "firmware" not in last
    assert "powered" not in last
    if how == "fork":
        assert "parent has 2 True" in run.stdout
        assert "firmware" in run.stdout.splitlines()[0]  # the child did not release the parent's memory
    if how == "own":
        assert "mine" in run.stdout
    if how == "ignored":  # as under nohup
        assert "still there" in run.stdout


def test_signals_are_given_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert before is signal.SIG_DFL
    closed: list[int] = []
    exit_guard.guard(1, lambda: closed.append(1))
    exit_guard.guard(2, lambda: closed.append(2))
    assert signal.getsignal(signal.SIGTERM) is not before
    exit_guard.unguard(1)
    assert signal.getsignal(signal.SIGTERM) is not before
    exit_guard.unguard(2)
    assert signal.getsignal(signal.SIGTERM) is before
    exit_guard.unguard(2)
    assert closed == []


def test_a_handler_of_the_program_stays() -> None:
    def mine(*_: object) -> None: ...

    previous = signal.signal(signal.SIGTERM, mine)
    try:
        exit_guard.guard(1, lambda: None)
        assert signal.getsignal(signal.SIGTERM) is mine
        exit_guard.unguard(1)
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, previous)


def test_one_failing_closer_does_not_stop_the_others() -> None:
    closed: list[int] = []

    def fails() -> None:
        raise OSError("x")

    exit_guard.guard(1, fails)
    exit_guard.guard(2, lambda: closed.append(2))
    exit_guard.release_all()
    assert closed == [2]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
