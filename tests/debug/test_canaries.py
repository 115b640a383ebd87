"""Tests of canary pages: what writes next to a buffer is reported when the launch has ended."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import qpu
from qpu.device import Device
from qpu.drivers.base import DeviceInfo
from qpu.runtime.canary import PAGE, Guarded, wanted
from tests.limits import HUNG_S
from tests.test_bounds import copy16


@pytest.fixture(params=["pi3", "pi5"])
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    """Canaries take the place of exact bounds: stores next to a buffer go through, as on hardware."""
    monkeypatch.setenv("QPU_CANARIES", "1")
    with qpu.open_device(request.param) as device:
        yield device


def test_stores_next_to_a_buffer_are_found(gpu: Device) -> None:
    """Past the end, in its last page and the page after; before the start; each once, at the launch that did it."""
    x, y = gpu.array(np.arange(16, dtype=np.uint32) | 1 << 24), gpu.zeros(8, np.uint32)
    z = gpu.zeros(16, np.uint32)
    program = qpu.assemble(copy16, isa=gpu.isa)
    gpu.run(program, [x, z])
    assert (z.numpy() == x.numpy()).all()
    with pytest.raises(qpu.OverrunError, match=r"uint32\[8\]: 32 bytes changed, the first 1 byte past the end"):
        gpu.run(program, [x, y])
    gpu.run(program, [x, z])
    launch = gpu.submit(program, [x, z.address + PAGE])
    with pytest.raises(qpu.OverrunError, match=r"uint32\[16\]: 64 bytes .* first 4033 bytes past the end .*\n  help: "):
        launch.wait()
    with pytest.raises(qpu.OverrunError, match=r"uint32\[16\]: 64 bytes .* 64 bytes before the start"):
        gpu.run(program, [x, z.address - 64])
    assert isinstance(launch.error, qpu.OverrunError)
    y.close()
    z.close()
    gpu.run(program, [x, x])


def test_buffers_work_as_without(gpu: Device) -> None:
    """Sizes from nothing to pages, views, copies; memory is zero at first."""
    for n in (0, 1, 1023, 1024, 1025, 5000):
        with gpu.empty(n, np.uint32) as buffer:
            assert not buffer.numpy().any() and buffer.array.shape == (n,)
            buffer.array[...] = 7
            assert buffer.address % 4 == 0 and (buffer.numpy() == 7).all()
    x = gpu.array(np.arange(64, dtype=np.float32))
    y = gpu.zeros(64)
    gpu.run(qpu.assemble(copy16, isa=gpu.isa), [x[16:32], y[48:]])
    assert (y.numpy()[48:] == np.arange(16, 32)).all() and not y.numpy()[:48].any()


def test_by_default_on_hardware_of_videocore_iv(monkeypatch: pytest.MonkeyPatch) -> None:
    def on(info: DeviceInfo) -> bool:
        return wanted("QPU_CANARIES", info)

    def real(gpu: Device) -> DeviceInfo:
        return replace(gpu.info, emulated=None)

    with qpu.open_device("pi3") as old, qpu.open_device("pi5") as new:
        assert [on(old.info), on(real(old)), on(real(new))] == [False, True, False]
        monkeypatch.setenv("QPU_CANARIES", "0")
        assert not on(real(old))
        monkeypatch.setenv("QPU_CANARIES", "on")
        with pytest.raises(qpu.UsageError, match="QPU_CANARIES='on'"):
            on(real(old))


def test_every_byte_around_is_compared() -> None:
    class Memory:
        size, address = 3 * PAGE, 0x1000

        def __init__(self, size: int) -> None:
            self.view = memoryview(bytearray(size))

    class Driver:
        def alloc(self, size: int) -> Memory:
            return Memory(size)

    bo = Guarded(Driver(), 10)  # type: ignore[arg-type]
    for at in (0, PAGE - 1, PAGE + 10, 2 * PAGE - 1, 2 * PAGE, 3 * PAGE - 1):
        bo.inner.view[at] ^= 0x80
        assert bo.damage() == [(at - PAGE, 1)] and bo.damage() == []
    for at in (PAGE, PAGE + 9):
        bo.inner.view[at] ^= 0x80
    assert bo.damage() == [] and bo.view[0] == bo.view[9] == 0x80 and bo.address == 0x2000


@pytest.mark.soak
@pytest.mark.skipif(sys.platform != "linux", reason="qpu emulate needs Linux")
def test_on_the_path_of_real_boards(tmp_path: Path) -> None:
    """A process on a Pi 3, as `qpu emulate` makes one: bounds are those of pages there."""
    script = tmp_path / "script.py"
    script.write_text(
        "import numpy as np, qpu\nfrom tests.test_bounds import copy16\n"
        "with qpu.open_device('hardware') as gpu:\n"
        "    x, y = gpu.array(np.arange(16, dtype=np.uint32)), gpu.zeros(8, np.uint32)\n"
        "    gpu.run(qpu.assemble(copy16, isa=gpu.isa), [x, y])\n"
    )
    command = [sys.executable, "-m", "qpu", "emulate", "--board", "pi3", str(script)]
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root), "QPU_CANARIES": "1"}
    ran = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=HUNG_S)
    assert ran.returncode != 0 and "OverrunError: a launch wrote outside of uint32[8]" in ran.stderr, ran.stderr
