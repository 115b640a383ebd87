"""Test of a program that never ends; it runs last, because it makes Linux reset the GPU."""

from __future__ import annotations

import numpy as np
import pytest

import qpu
from qpu.core.isa import Isa
from qpu.device import Device
from tests.hw.programs import binary, endless


def test_an_endless_program_ends_and_the_device_goes_on(gpu: Device, board: str) -> None:
    """Either the wait times out or the watchdog resets the GPU; afterwards another device works."""
    word = gpu.zeros(1, np.uint32)
    # Linux before 6.17 counts no resets; the missing completion word shows the reset there.
    shape = None if gpu.isa is Isa.VC4 else qpu.v3d.Dispatch(completion=(word, 1))
    with pytest.raises((qpu.GpuTimeoutError, qpu.GpuResetError)):
        launch = gpu.submit(endless(gpu.isa), [], shape, timeout_s=0.9)
        launch.wait(20)
    gpu.close()
    with qpu.open_device(board) as again:
        x, out = again.array(np.full(16, 3, np.uint32)), again.empty(16, np.uint32)
        again.run(binary(again.isa, "add"), [x, x, out], timeout_s=20)
        assert (out.numpy() == 6).all()
