"""Tests of calls in the background: state after an interrupt."""

from __future__ import annotations

import threading
import time

import pytest

from qpu.drivers.vc4.background import Background
from qpu.emu.port import EmuPort


def test_an_interrupt_while_handing_over_loses_no_later_call(monkeypatch: pytest.MonkeyPatch) -> None:
    port = EmuPort("pi3")
    background = Background(port, "test")
    background.submit(lambda: None).wait(10)
    time.sleep(0.05)  # the thread waits for calls again

    def interrupted(self: threading.Condition, n: int = 1) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(threading.Condition, "notify", interrupted)
        with pytest.raises(KeyboardInterrupt):
            background.submit(lambda: None)
    done = threading.Event()
    drained = threading.Thread(target=lambda: (background.drain(10), done.set()), daemon=True)
    drained.start()
    assert done.wait(5), "nobody makes the call that is waited for"
    background.submit(lambda: None).wait(10)
    background.close()
    port.shutdown()
