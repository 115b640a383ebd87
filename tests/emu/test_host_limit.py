"""Tests of the host time of emulated runs: the limit, and Ctrl-C while a program is translated."""

from __future__ import annotations

import os
import re
import signal
import threading
from typing import Any

import pytest

import qpu
from qpu.emu.engine import host_limit
from qpu.emu.engine.host_limit import HostLimit, chosen_limit, exceeded
from qpu.emu.port import EmuPort
from tests.limits import HUNG_S

LOOPS = {  # count the first uniform down
    "v3d": """nop ; nop ; ldunifrf.rf5
again: sub.pushz rf5, rf5, 1 ; nop
b.anyna again
nop
nop
nop
nop ; nop ; thrsw
nop ; nop ; thrsw
nop
nop
nop ; nop ; thrsw
nop
nop
nop
""",
    "vc4": """mov r0, unif
:again
sub.setf r0, r0, 1
brr.anynz -, :again
nop
nop
nop
mov interrupt, 1
nop; thrend
nop
nop
""",
}


def loop(isa: qpu.Isa) -> qpu.Program:
    return qpu.assemble(LOOPS["vc4" if isa is qpu.Isa.VC4 else "v3d"], isa=isa)


@pytest.mark.parametrize("board", ["pi3", "pi4", "pi5"])
@pytest.mark.parametrize("engine", ["reference", "compiled"])
def test_a_long_run_ends_with_a_fault_and_the_device_goes_on(board: str, engine: str) -> None:
    if engine == "compiled":
        pytest.importorskip("llvmlite")
    # The mailbox of a Pi 3 allows one second of the board, which a fast host emulates within the limit: by registers.
    profile, name = ("pi3", "/dev/mem") if board == "pi3" else (f"{board},watchdog=60000", "hardware")
    with qpu.open_device(name, port=EmuPort(profile, engine=engine, host_limit_s=0.2)) as gpu:
        turns = 2_000_000_000
        with pytest.raises(qpu.EmuFault, match=r"more than 0\.2 s of host time, for (\d+) emulated clocks") as caught:
            gpu.run(loop(gpu.isa), [turns], timeout_s=1000.0)
        assert caught.value.rule == "host-limit"
        clocks = re.search(r"for (\d+) emulated clocks", str(caught.value))
        assert clocks is not None and 0 < int(clocks[1]) < 16 * turns  # 16 and 20 clocks each: not to its end
        assert goes_on(gpu)


def goes_on(gpu: qpu.Device) -> bool:
    """Whether a short program runs; a machine under load may need more than the limit for it, but not always."""
    for _ in range(100):
        try:
            return gpu.run(loop(gpu.isa), [3]).done
        except qpu.EmuFault as fault:
            assert fault.rule == "host-limit"
    return False


def test_only_what_a_job_takes_itself_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(host_limit.time, "perf_counter", lambda: now[0])
    limit = HostLimit(0.05)
    with limit:
        now[0] += 0.04
        assert not exceeded()
    now[0] += 0.1
    limit.check(0)
    with limit:
        now[0] += 0.02
        assert exceeded()
    assert not exceeded()
    with pytest.raises(qpu.EmuFault, match="7 emulated clocks"):
        limit.check(7)
    unlimited = HostLimit(None)
    with unlimited:
        assert not exceeded()
    unlimited.check(1)


def test_choosing_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QPU_EMU_HOST_LIMIT_S", raising=False)
    assert chosen_limit(None) is None and chosen_limit(2) == 2.0
    monkeypatch.setenv("QPU_EMU_HOST_LIMIT_S", "1.5")
    assert chosen_limit(None) == 1.5 and chosen_limit(3) == 3.0
    for wrong in ("x", "0", "-1", "nan", "inf"):
        monkeypatch.setenv("QPU_EMU_HOST_LIMIT_S", wrong)
        with pytest.raises(qpu.UsageError, match="QPU_EMU_HOST_LIMIT_S"):
            chosen_limit(None)
    for value in (0, -1, True, "1", float("nan")):
        with pytest.raises(qpu.UsageError, match="host_limit_s"):
            chosen_limit(value)  # type: ignore[arg-type] # wrong on purpose


# -- translation


@pytest.fixture
def slow_compiler(monkeypatch: pytest.MonkeyPatch) -> Any:
    """LLVM takes until the event is set."""
    pytest.importorskip("llvmlite")
    from qpu.emu.engine import native

    hold, original = threading.Event(), native._compile

    def held(*arguments: Any) -> Any:
        assert hold.wait(HUNG_S)
        return original(*arguments)

    monkeypatch.setenv("QPU_CACHE_DIR", "off")
    monkeypatch.setattr(native, "_compile", held)
    yield hold
    hold.set()
    native.Improvement.wait()


def fresh(isa: qpu.Isa, what: int) -> qpu.Program:
    """A program that no test has translated before: it adds up 40 constants and stores nothing."""
    source = LOOPS["vc4" if isa is qpu.Isa.VC4 else "v3d"]
    line = "add r1, r1, {0}\n" if isa is qpu.Isa.VC4 else "add rf{0}, rf{0}, rf1 ; nop\n"
    body = "".join(line.format((what + i) % 15 if isa is qpu.Isa.VC4 else 6 + (what + i) % 20) for i in range(40))
    at = source.index("\n") + 1
    return qpu.assemble(source[:at] + body + source[at:], isa=isa)


@pytest.mark.parametrize("board", ["pi3", "pi4", "pi5"])
def test_ctrl_c_during_translation(board: str, slow_compiler: threading.Event) -> None:
    with qpu.open_device(board, engine="compiled") as gpu:
        program = fresh(gpu.isa, 1)
        for handler in (signal.default_int_handler, handle):
            before = signal.signal(signal.SIGINT, handler)
            try:
                timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
                timer.start()
                with pytest.raises((KeyboardInterrupt, Stopped)):
                    gpu.run(program, [50_000])
                timer.join()
            finally:
                signal.signal(signal.SIGINT, before)
        slow_compiler.set()
        assert gpu.run(program, [50]).done


@pytest.mark.parametrize("board", ["pi3", "pi4", "pi5"])
def test_ctrl_c_between_the_instructions_of_a_translation(board: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long programs take seconds until LLVM sees them: 6,000 instructions of V3D took 1.2 s of CPU."""
    pytest.importorskip("llvmlite")
    from qpu.emu.engine import native
    from qpu.emu.v3d import translate as v3d
    from qpu.emu.vc4 import translate as vc4

    steps = []

    def checkpoint() -> None:
        steps.append(1)
        if len(steps) == 10:
            os.kill(os.getpid(), signal.SIGINT)
        native.checkpoint()

    monkeypatch.setenv("QPU_CACHE_DIR", "off")
    monkeypatch.setattr(vc4 if board == "pi3" else v3d, "checkpoint", checkpoint)
    with qpu.open_device(board, engine="compiled") as gpu:
        program = fresh(gpu.isa, 3)
        with pytest.raises(KeyboardInterrupt):
            gpu.run(program, [50_000])
        assert 10 <= len(steps) <= 10 + native.EVERY
        assert gpu.run(program, [50]).done


class Stopped(Exception):
    pass


def handle(number: int, frame: object) -> None:
    raise Stopped


@pytest.mark.parametrize("board", ["pi3", "pi4", "pi5"])
def test_the_limit_counts_translation(board: str, slow_compiler: threading.Event) -> None:
    with qpu.open_device(board, engine="compiled", host_limit_s=0.2) as gpu:
        with pytest.raises(qpu.EmuFault, match="host time"):
            gpu.run(fresh(gpu.isa, 2), [20_000])
        slow_compiler.set()


def test_errors_of_the_compiler_come_out(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("llvmlite")
    from qpu.emu.engine.native import build

    monkeypatch.setenv("QPU_CACHE_DIR", "off")
    with pytest.raises(RuntimeError, match="expected top-level entity"):
        build(b"nonsense", lambda: ("nonsense", {}))
