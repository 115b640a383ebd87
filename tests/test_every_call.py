"""Tests of a failure or a Ctrl-C at every system call of a session, on each interface of Linux: no leaks."""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

import qpu
from qpu.core.isa import Isa
from qpu.drivers.port import Lock
from qpu.drivers.uapi import mailbox
from qpu.drivers.vc4 import exit_guard
from qpu.emu.port import EmuPort
from qpu.emu.testing import RecordingPort, ioctl_name
from tests.hw.programs import binary

# Interface -> (board, name of the device).
INTERFACES = {
    "DRM, V3D 4.2": ("pi4", "hardware"),
    "DRM, V3D 7.1": ("pi5", "hardware"),
    "DRM, old Linux": ("pi4,linux=old", "hardware"),
    "mailbox and VCSM-CMA": ("pi3,vcsm=cma", "hardware"),
    "mailbox and VCSM": ("pi3,vcsm=plain", "hardware"),
    "mailbox memory and /dev/mem": ("pi3,vcsm=none", "hardware"),
    "registers": ("pi3,vcsm=cma", "/dev/mem"),
}
FULL = pytest.mark.soak


class FailingPort(RecordingPort):
    """Call number `at` (from 1) of open, ioctl, mmap and mmio raises, before it acts or after it has acted."""

    def __init__(
        self, inner: EmuPort, at: int = 0, error: Callable[[], BaseException] = OSError, after: bool = False
    ) -> None:
        super().__init__(inner)
        self.at, self.error, self.after = at, error, after
        self.count = 0
        self.hit = ""

    def _step(self, what: str, call: Callable[[], Any]) -> Any:
        self.count += 1
        mine = self.count == self.at
        if mine:
            self.hit = what
        if mine and not self.after:
            raise self.error()  # a new one: kept, it would keep views alive through its frames
        result = call()
        if mine:
            raise self.error()  # a new one: kept, it would keep views alive through its frames
        return result

    def open(self, path: str, *, read_only: bool = False, sync: bool = False) -> int:
        fd: int = self._step(f"open {path}", lambda: RecordingPort.open(self, path, read_only=read_only, sync=sync))
        return fd

    def ioctl(self, fd: int, request: int, arg: bytearray) -> int:
        name = ioctl_name(request)
        if name == mailbox.PROPERTY.name:
            name += f" {int.from_bytes(arg[8:12], 'little'):#x}" + (" off" if arg[20:21] == b"\0" else "")
        result: int = self._step(name, lambda: RecordingPort.ioctl(self, fd, request, arg))
        return result

    def mmap(self, fd: int, size: int, offset: int) -> Any:
        return self._step("mmap", lambda: RecordingPort.mmap(self, fd, size, offset))

    def flock(self, fd: int, lock: Lock) -> None:
        self._step(f"flock {lock.value}", lambda: RecordingPort.flock(self, fd, lock))

    def mmio(self, base: int, size: int) -> Any:
        return self._step("mmio", lambda: RecordingPort.mmio(self, base, size))


def session(port: FailingPort, name: str) -> None:
    """Open, synchronous and asynchronous launches, a launch in parts, a buffer closed early, close."""
    with qpu.open_device(name, port=port) as gpu:
        x, out = gpu.array(np.ones(16, np.uint32)), gpu.empty(16, np.uint32)
        program = binary(gpu.isa, "add")
        gpu.run(program, [x, x, out])
        launches = [gpu.submit(program, [x, out, out]) for _ in range(2)]
        if gpu.isa is not Isa.VC4:
            launches.append(gpu.submit(program, [x, x, out], qpu.v3d.Dispatch(workgroups=3, max_batches=1)))
        gpu.empty(8).close()
        for launch in reversed(launches):
            launch.wait(1.0)
        assert launches[0].poll()


def board(name: str) -> EmuPort:
    return EmuPort(name, engine="reference")


def check(interface: str, error: Callable[[], BaseException], *, after: bool = False) -> None:
    name, device = INTERFACES[interface]
    clean = FailingPort(board(name))
    session(clean, device)
    assert clean.inner.leaked == []  # type: ignore[attr-defined]  # an EmuPort
    hits = 0
    for at in range(1, clean.count + 1):
        emulated = board(name)
        port = FailingPort(emulated, at, error, after)
        with suppress(qpu.QpuError, KeyboardInterrupt):  # never a bare OSError
            session(port, device)
        exit_guard.release_all()  # as at the end of the process, after a second Ctrl-C
        hits += bool(port.hit)
        held = emulated.leaked if emulated.board.closed else emulated.allocated()
        if after and port.hit.startswith("open"):
            held = [h for h in held if not h.startswith("fd ")]  # nobody learned of the descriptor
        if after and port.hit == "mmap":
            held = [h for h in held if not h.startswith("memory ")]  # nor of the map
        assert held == [], (at, port.hit, held)
        vc4 = emulated.board.vc4
        assert vc4 is None or not vc4.enabled, (at, port.hit)
        emulated.shutdown()
    assert hits >= clean.count - 3  # threads may save a call or two


@pytest.mark.parametrize("interface", INTERFACES)
def test_a_failing_call(interface: str) -> None:
    check(interface, lambda: OSError(errno.EIO, "injected"))


@pytest.mark.parametrize("number", [errno.EINTR, errno.EAGAIN])
@pytest.mark.parametrize("interface", INTERFACES)
def test_interrupted_requests_are_repeated(interface: str, number: int) -> None:
    """A signal at any request changes nothing; EAGAIN of DRM means something else."""
    name, device = INTERFACES[interface]
    if number == errno.EAGAIN and interface.startswith("DRM"):
        pytest.skip("a refusal there")
    clean = FailingPort(board(name))
    session(clean, device)
    for at in range(1, clean.count + 1):
        emulated = board(name)
        port = FailingPort(emulated, at, lambda: OSError(number, "injected"))
        try:
            session(port, device)
        except qpu.QpuError:
            # not an ioctl, or one of VCSM that does not answer EAGAIN
            assert not port.hit.startswith((mailbox.PROPERTY.name, "DRM")), port.hit
            assert number == errno.EAGAIN or port.hit.startswith(("open", "mm")), port.hit
        exit_guard.release_all()
        assert (emulated.leaked if emulated.board.closed else emulated.allocated()) == []


@FULL
@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EINVAL, errno.EACCES, errno.ENODEV])
@pytest.mark.parametrize("interface", INTERFACES)
def test_other_failures(interface: str, number: int) -> None:
    check(interface, lambda: OSError(number, "injected"))


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("interface", ["DRM, V3D 7.1", "mailbox and VCSM-CMA", "registers"])
def test_ctrl_c_in_a_call(interface: str, after: bool) -> None:
    check(interface, KeyboardInterrupt, after=after)


@FULL
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("interface", ["DRM, old Linux", "mailbox and VCSM", "mailbox memory and /dev/mem"])
def test_ctrl_c_in_a_call_elsewhere(interface: str, after: bool) -> None:
    check(interface, KeyboardInterrupt, after=after)
