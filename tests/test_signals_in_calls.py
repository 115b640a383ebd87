"""Tests of signals inside emulated system calls: a call is not interrupted halfway, and nothing is lost."""

from __future__ import annotations

import gc
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

import numpy as np
import pytest

import qpu
from qpu.core.deferred_signals import critical, run_pending
from qpu.emu.engine.memory import Memory
from qpu.emu.port import EmuPort
from qpu.emu.testing import Injector
from qpu.runtime import pool
from tests.hw.programs import binary, long

BOARDS = ("pi3", "pi5")


def strike() -> None:
    signal.raise_signal(signal.SIGINT)


@contextmanager
def striking(where: Any, name: str, at: int = 1) -> Iterator[list[int]]:
    """Ctrl-C right inside a method, at its `at`-th call: before and after its work."""
    real: Callable[..., Any] = getattr(where, name)
    calls = [0]

    def struck(*args: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] != at:
            return real(*args, **named)
        strike()
        try:
            return real(*args, **named)
        finally:
            strike()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(where, name, struck)
        yield calls


def add_twice(gpu: qpu.Device) -> None:
    """A launch works."""
    x, out = gpu.array(np.ones(16, np.uint32)), gpu.zeros(16, np.uint32)
    gpu.run(binary(gpu.isa, "add"), [x, x, out])
    assert set(out.numpy().tolist()) == {2}


def make_and_close(gpu: qpu.Device) -> None:
    gpu.empty(5000).close()


def stopped(*actions: Callable[[], object]) -> bool:
    """True when Ctrl-C ended one of the actions, or came soon after it."""
    try:
        try:
            for action in actions:
                action()
        finally:
            for thread in threading.enumerate():  # what a finalizer held off
                if "_interrupt_later" in thread.name:
                    thread.join()
    except KeyboardInterrupt:
        return True
    return False


def still_whole(port: EmuPort, gpu: qpu.Device) -> None:
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    add_twice(gpu)
    gpu.close()
    assert port.leaked == [] and port.allocated() == []


@pytest.mark.parametrize("board", BOARDS)
@pytest.mark.parametrize("method", ["map", "unmap"])
def test_ctrl_c_inside_memory_management(board: str, method: str) -> None:
    assert callable(getattr(Memory, method))
    for at in (1, 2, 3):
        port = EmuPort(board)
        gpu = qpu.open_device(port=port)
        add_twice(gpu)
        caught = False
        with striking(port.board.memory, method, at) as calls:
            for _ in range(6):
                caught |= stopped(partial(make_and_close, gpu))
        assert calls[0] >= at and caught
        still_whole(port, gpu)


@pytest.mark.parametrize("board", BOARDS)
@pytest.mark.parametrize("call", ["ioctl", "mmap"])
def test_ctrl_c_inside_each_call(board: str, call: str) -> None:
    """After a signal in any call of a program, later launches work and nothing stays allocated."""
    for at in range(1, 40):
        port = EmuPort(board)
        gpu = qpu.open_device(port=port)
        real = Injector.check
        seen = 0

        def check(self: Injector, kind: str, *rest: Any, at: int = at, real: Any = real) -> None:
            nonlocal seen
            if kind == call:
                seen += 1
                if seen == at:
                    strike()
            real(self, kind, *rest)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Injector, "check", check)
            assert stopped(*[partial(add_twice, gpu)] * 2) == (seen >= at)
        still_whole(port, gpu)
        if seen < at:
            break
    else:
        pytest.fail("more calls than expected")


@pytest.mark.parametrize("board", BOARDS)
def test_a_handler_that_does_not_raise_changes_nothing(board: str) -> None:
    told: list[int] = []

    def tell(number: int, frame: FrameType | None) -> None:
        told.append(number)

    before = signal.signal(signal.SIGINT, tell)
    try:
        port = EmuPort(board)
        with qpu.open_device(port=port) as gpu:
            with striking(port.board.memory, "map") as calls:
                add_twice(gpu)
            assert calls[0] > 1 and told == [signal.SIGINT]
        assert signal.getsignal(signal.SIGINT) is tell and port.leaked == []
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("board", BOARDS)
def test_a_long_wait_is_left_at_once(board: str) -> None:
    port = EmuPort(board, engine="reference")  # takes minutes for the second after which firmware or watchdog act
    gpu = qpu.open_device(port=port)
    begun = port.monotonic()
    struck = threading.Timer(0.3, strike)
    struck.start()
    with pytest.raises(KeyboardInterrupt):
        while True:
            try:
                gpu.run(long(gpu.isa), [1 << 31], timeout_s=1000)
            except (qpu.GpuTimeoutError, qpu.GpuResetError):
                pass
    assert port.monotonic() - begun < 0.1  # of emulated time: the run was not waited for
    struck.join()
    gpu.close()
    assert port.leaked == []


def test_a_finalizer_passes_ctrl_c_on() -> None:
    """An exception in a finalizer is printed and lost; so handlers run after it."""
    port = EmuPort("pi5")
    gpu = qpu.open_device(port=port)
    buffer: qpu.Buffer | None = gpu.empty(5000)
    lost: list[object] = []
    gc.collect()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "unraisablehook", lost.append)
        with pytest.raises(KeyboardInterrupt), striking(pool, "_close") as calls:
            assert buffer is not None
            buffer = None  # the last reference: nothing else is collected
            assert calls[0] == 1
            time.sleep(5)
    assert not lost
    still_whole(port, gpu)


def test_nested_blocks() -> None:
    order: list[str] = []

    def tell(number: int, frame: FrameType | None) -> None:
        order.append("handler")

    before = signal.signal(signal.SIGINT, tell)
    try:
        with critical():
            strike()
            with critical():
                strike()
            order.append("inner over")
            with critical() as stop:
                assert stop.pending
            run_pending()
            order.append("delivered")
            run_pending()
            strike()
            order.append("end")
        assert order == ["inner over", "handler", "delivered", "end", "handler"]
        with critical():
            signal.signal(signal.SIGINT, signal.default_int_handler)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_held_signal_does_not_replace_an_error() -> None:
    with pytest.raises(KeyboardInterrupt) as caught, critical():
        strike()
        raise OSError("mine")
    assert isinstance(caught.value.__context__, OSError)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_other_threads_hold_nothing() -> None:
    found: list[object] = []

    def work() -> None:
        with critical():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.default_int_handler]
