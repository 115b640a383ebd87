"""Tests of the rehearsal: a launch with a finding never reaches the board."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import qpu
from qpu import device
from qpu.debug import rehearse
from qpu.device import Device
from qpu.runtime.canary import wanted
from tests.debug import faults_v3d, faults_vc4
from tests.test_bounds import copy16


@pytest.mark.parametrize("board", ["pi3", "pi4", "pi5"])
def test_a_rehearsed_launch_runs(board: str) -> None:
    with qpu.open_device(board) as gpu:
        x, y = gpu.array(np.arange(16, dtype=np.uint32)), gpu.zeros(16, np.uint32)
        launch = gpu.run(qpu.assemble(copy16, isa=gpu.isa), [x, y], rehearse=True)
        assert (y.numpy() == np.arange(16)).all() and launch.stats is not None
        assert len(gpu.port.runs) == 1  # type: ignore[attr-defined]  # the rehearsal is not a launch of the board


@pytest.mark.parametrize(("board", "faults"), [("pi3", faults_vc4.FAULTS), ("pi5", faults_v3d.FAULTS)])
def test_a_finding_stops_it(board: str, faults: Any) -> None:
    fault = next(f for f in faults if f.name == "stores_a_register")
    with qpu.open_device(board) as gpu:
        x, y = gpu.zeros(fault.x, np.uint32), gpu.zeros(fault.y, np.uint32)
        program = qpu.assemble(fault.build, isa=gpu.isa, check=False)
        with pytest.raises(qpu.EmuFault, match="found by the rehearsal; nothing was submitted") as caught:
            gpu.run(program, [x, y, 0], rehearse=True)
        loc, other = caught.value.place.loc, caught.value.other
        assert loc is not None and "# here" in loc.source and other is not None and other.loc is not None
        assert not len(gpu.port.runs) and (y.numpy() == 0).all()  # type: ignore[attr-defined]
        gpu.run(program, [x, y, 0])  # without the rehearsal nothing notices


def as_hardware(monkeypatch: pytest.MonkeyPatch) -> Device:
    """An emulated Pi 3 whose device was opened as one on hardware."""
    with monkeypatch.context() as patched:
        patched.setattr(device, "wanted", lambda variable, info: wanted(variable, replace(info, emulated=None)))
        return qpu.open_device("pi3")


def test_by_default_first_launches_on_videocore_iv(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for each program and set of argument shapes; QPU_REHEARSE turns it off, or on everywhere."""
    found: list[int] = []
    monkeypatch.setattr(rehearse, "rehearse", lambda pool, info, program, jobs: found.append(len(program)))
    with qpu.open_device("pi3") as gpu:
        program = qpu.assemble(copy16, isa=gpu.isa)
        x, y = gpu.zeros(16), gpu.zeros(16)
        gpu.run(program, [x, y])
        assert not found  # an emulated board stops by itself
    with as_hardware(monkeypatch) as gpu:
        program = qpu.assemble(copy16, isa=gpu.isa)
        x, y = gpu.zeros(16), gpu.zeros(16)
        for _ in range(3):
            gpu.run(program, [x, y])
        assert len(found) == 1
        z = gpu.zeros(32)
        gpu.run(program, [z, y])
        gpu.submit(program, [z, y]).wait()
        assert len(found) == 2
        gpu.run(program, [x, y], rehearse=False)
        gpu.run(program, [x, y], rehearse=True)
        assert len(found) == 3
    monkeypatch.setenv("QPU_REHEARSE", "0")
    with as_hardware(monkeypatch) as gpu:
        gpu.run(qpu.assemble(copy16, isa=gpu.isa), [gpu.zeros(64), gpu.zeros(16)])
    assert len(found) == 3
    monkeypatch.setenv("QPU_REHEARSE", "yes")
    with pytest.raises(qpu.UsageError, match="QPU_REHEARSE='yes'"):
        qpu.open_device("pi5")
    monkeypatch.setenv("QPU_REHEARSE", "1")
    with qpu.open_device("pi5") as gpu:
        gpu.run(qpu.assemble(copy16, isa=gpu.isa), [gpu.zeros(16), gpu.zeros(16)])
    assert len(found) == 4


def test_a_launch_with_a_finding_is_rehearsed_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a clean run reaches the chip, however often somebody tries."""

    def wild(q: Any) -> None:  # data from a register that nobody wrote
        q.mov(q.ra[0], q.uniform)
        q.setup_vpm_write()
        q.mov(q.vpm, q.ra[5])
        q.setup_dma_store(nrows=1)
        q.start_dma_store(q.ra[0])
        q.wait_dma_store()
        q.end()

    with as_hardware(monkeypatch) as gpu:
        program, y = qpu.assemble(wild, isa=gpu.isa), gpu.array(np.full(16, 7, np.uint32))
        for _ in range(2):
            with pytest.raises(qpu.EmuFault, match="found by the rehearsal; nothing was submitted"):
                gpu.run(program, [y])
        assert (y.numpy() == 7).all()


def test_long_launches_are_rehearsed_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearse, "LIMIT_S", 0.0)
    monkeypatch.setattr(rehearse, "_SLICE", 16)
    with qpu.open_device("pi4") as gpu:
        x, y = gpu.zeros(16), gpu.zeros(16)
        with pytest.warns(qpu.EmuWarning, match="only the first .* clocks"):
            gpu.run(qpu.assemble(copy16, isa=gpu.isa), [x, y], rehearse=True)
