"""Tests of reports that users of a device see: source lines, waiting threads, lenient boards, limits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import qpu
from qpu import v3d
from qpu.core.isa import Isa
from qpu.errors import EmuFault, EmuWarning, GpuTimeoutError
from tests.emu.v3d.idioms import barrier, group_x, jump, lane_address, take
from tests.emu.v3d.rig import ISAS, Rig

BOARDS = {Isa.V3D42: "pi4", Isa.V3D71: "pi5"}
boards = pytest.mark.parametrize("isa", ISAS)


@pytest.fixture(autouse=True)
def chosen(monkeypatch: pytest.MonkeyPatch, engine: str) -> None:
    """Devices use the engine of the test."""
    monkeypatch.setenv("QPU_EMU_ENGINE", engine)


def reads_far(q: Any) -> None:
    take(q, q.rf[5])
    lane_address(q, q.rf[6], q.rf[5])
    q.add(q.tmua, q.rf[6], 0)
    q.nop(sig=q.ldtmu(q.rf[7]))
    q.end()


@boards
def test_python_line_of_a_fault(isa: Isa) -> None:
    """The line of Python that wrote the instruction."""
    with qpu.open_device(BOARDS[isa]) as device:
        far = device.zeros(16, np.uint32).address + (1 << 26)
        with pytest.raises(EmuFault) as caught:
            device.run(qpu.assemble(reads_far, isa=isa), [far])
    e = caught.value
    assert e.rule == "out-of-bounds"
    assert (e.place.qpu, e.place.thread, e.place.instruction, e.place.lane) == (0, 0, 4, 0)
    assert e.place.address == far
    assert e.place.loc is not None
    assert e.place.loc.source.strip() == "q.add(q.tmua, q.rf[6], 0)"
    assert e.place.loc.file.endswith("test_reports.py")
    assert f"source: {e.place.loc}" in str(e)
    assert "bytes past its end" in e.message


@boards
def test_text_line_of_a_fault(isa: Isa) -> None:
    text = "nop ; nop\n# one result too many\nnop ; nop ; ldtmu.rf3\nnop ; nop ; thrsw\nnop ; nop ; thrsw\n"
    text += "nop ; nop\nnop ; nop\nnop ; nop ; thrsw\nnop ; nop\nnop ; nop\n"
    with qpu.open_device(BOARDS[isa]) as device, pytest.raises(EmuFault) as caught:
        device.run(qpu.assemble(text, isa=isa, filename="empty.qasm", check=False))
    e = caught.value
    assert (e.rule, e.place.instruction) == ("tmu-empty", 1)
    assert e.place.loc is not None
    assert (e.place.loc.file, e.place.loc.line) == ("empty.qasm", 3)
    assert "ldtmu.rf3" in str(e)


@boards
def test_lenient_devices_go_on_with_a_warning(isa: Isa, monkeypatch: pytest.MonkeyPatch) -> None:
    """QPU_EMU_STRICT=0 and strict=False: the result of hardware, a warning with the place, and a record."""
    built = qpu.assemble(reads_far, isa=isa)
    monkeypatch.setenv("QPU_EMU_STRICT", "1")
    with qpu.open_device(BOARDS[isa]) as device, pytest.raises(EmuFault, match="out-of-bounds"):
        device.run(built, [1 << 30])
    monkeypatch.setenv("QPU_EMU_STRICT", "0")
    for chosen in (None, False):
        with qpu.open_device(BOARDS[isa], strict=chosen) as device:
            with pytest.warns(EmuWarning) as seen:
                launch = device.run(built, [1 << 30])
            assert launch.stats is not None
            assert len(launch.stats.faults) == len(seen) == 1
            text = str(seen[0].message)
            assert text.startswith("out-of-bounds: MMU error")
            assert f"({BOARDS[isa]}: QPU 0, thread 0, instruction 4: add tmua, rf6, 0" in text
            assert "source: " in text
            assert "q.add(q.tmua, q.rf[6], 0)" in text
            assert seen[0].filename == __file__


@boards
def test_warnings_of_strict_devices(isa: Isa) -> None:
    """Code that is known to work although compilers never make it gets a warning, not a fault."""

    def nine(q: Any) -> None:
        take(q, q.rf[5])
        for _ in range(9):
            q.add(q.tmua, q.rf[5], 0)
        for _ in range(9):
            q.nop(sig=q.ldtmu(q.rf[6]))
        q.end()

    with qpu.open_device(BOARDS[isa]) as device:
        data = device.zeros(16, np.uint32)
        with pytest.warns(EmuWarning, match="9 result words are pending; 8 are known to fit"):
            device.run(qpu.assemble(nine, isa=isa, check=False), [data], v3d.Dispatch(threads=2))


@boards
def test_a_deadlock_names_the_threads_and_the_barrier(isa: Isa) -> None:
    """Three threads wait for a fourth that has left by another way."""
    rig = Rig(isa)

    def whole(q: Any) -> None:
        group_x(q, q.rf[4])
        q.sub(q.null, q.rf[4], 1, push="pushz")
        jump(q, "out", "a0")
        q.nop()
        barrier(q)
        q.nop()
        q.label("out")
        q.end()

    with pytest.raises(EmuFault) as caught:
        rig.run(whole, workgroups=(4, 1, 1), per_supergroup=4)
    e = caught.value
    assert e.rule == "deadlock"
    assert "supergroup 0: 3 of 4 batches wait at the barrier (QPU 0.0, QPU 2.0, QPU 3.0)" in e.message
    assert "the other batches of the dispatch have ended" in e.message
    assert e.place.qpu == 0
    assert e.place.disassembly is not None
    assert e.place.disassembly.startswith("barrierid syncb")


@boards
def test_many_waiting_threads_are_counted(isa: Isa) -> None:
    rig = Rig(isa)
    n = rig.machine.qpus * 2 + 1

    def whole(q: Any) -> None:
        barrier(q)
        q.end()

    with pytest.raises(EmuFault, match=rf"QPU 7\.0 and {n - 9} more.*{n} batches, but only {n - 1} threads can run"):
        rig.run(whole, workgroups=(n, 1, 1), batches_per_supergroup=n, per_supergroup=16, batches=n)


@boards
def test_endless_programs_end_by_emulated_time(isa: Isa) -> None:
    """The limit counts the board's clocks, not the host's; it comes after the same number of instructions."""

    def forever(q: Any) -> None:
        with q.loop() as loop:
            jump(q, loop.start)
        q.end()

    with qpu.open_device(BOARDS[isa]) as device:
        launch = device.submit(qpu.assemble(forever, isa=isa))
        before = device.now()
        with pytest.raises(GpuTimeoutError):
            launch.wait(0.0005)
        assert 0.0005 <= device.now() - before < 0.1


@boards
def test_two_runs_are_the_same(isa: Isa) -> None:
    """Memory, statistics and order of a program whose threads contend; on both engines the same memory."""
    from tests.emu.v3d import test_atomics as test_v3d_atomics
    from tests.emu.v3d import test_threads as test_v3d_threads

    def once(kind: str) -> list[tuple[bytes, int]]:
        seen: list[tuple[bytes, int]] = []

        class Recorder(Rig):
            def run(self, *arguments: Any, **options: Any) -> Any:
                run = super().run(*arguments, **options)
                end = self._next
                seen.append(
                    (bytes(self.memory.view(0x10000, 4096)) + end.to_bytes(8, "little"), run.stats.instructions)
                )
                return run

        Recorder.engine = kind
        for module in (test_v3d_atomics, test_v3d_threads):
            module.Rig = Recorder
        try:
            test_v3d_atomics.test_every_atomic_under_contention(isa)
            test_v3d_atomics.test_ticket_lock_serves_in_order(isa)
            test_v3d_atomics.test_work_queue(isa)
            test_v3d_threads.test_bitonic_sort_in_memory(isa)
        finally:
            for module in (test_v3d_atomics, test_v3d_threads):
                module.Rig = Rig
        return seen

    first = once(Rig.engine)
    assert first == once(Rig.engine)
    assert len(first) == 4
