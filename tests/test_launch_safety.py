"""Tests of long dispatches, resets, chains and background launches, with `Device` on emulated boards."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import numpy as np
import pytest

import qpu
from qpu.core.isa import Isa
from qpu.device import Device
from qpu.drivers.uapi import drm
from qpu.emu.port import EmuPort
from qpu.emu.testing import RecordingPort
from tests.hw.programs import binary, endless, long
from tests.limits import HUNG_S

BOARDS = ("pi3", "pi4", "pi5")
ATOMIC_ADD = 0xFFFFFF87  # TMU configuration: one request "add", then ordinary ones


def _work(q: Any, isa: Isa, proof: bool) -> None:
    """out[workgroup x, lane] = x + 1 after a countdown; then, as proof, 1 is added per lane to a word.

    uniforms: turns, out, and with proof the address of the word and ATOMIC_ADD.
    """
    x = q.rf[20]
    if isa is Isa.V3D42:
        q.mov(x, q.rf[0])
    else:
        q.mov(x, q.rf[3])
    for n in (10, 11, *((12, 13) if proof else ())):
        q.nop(sig=q.ldunifrf(q.rf[n]))
    q.shl(x, x, 15)
    q.shl(x, x, 1)
    q.shr(x, x, 15)
    q.shr(x, x, 1)
    with q.loop() as body:
        q.sub(q.rf[10], q.rf[10], 1, push="pushz")
        q.b(body.start, cond="na0")
        q.nop()
        q.nop()
        q.nop()
    q.eidx(q.rf[21])
    q.shl(q.rf[21], q.rf[21], 2)
    q.shl(q.rf[22], x, 6)
    q.add(q.rf[21], q.rf[21], q.rf[22])
    q.add(q.tmud, x, 1)
    q.add(q.tmua, q.rf[11], q.rf[21])
    q.tmuwt(q.null)
    if proof:
        q.mov(q.tmuc, q.rf[13])
        q.mov(q.tmud, 1)
        q.mov(q.tmua, q.rf[12])
        q.nop(sig=q.ldtmu(q.rf[23]))
        q.tmuwt(q.null)
    q.end()


def work(isa: Isa, *, proof: bool = False) -> qpu.Program:
    return qpu.assemble(_work, isa, proof, isa=isa)


def ids(count: int) -> np.ndarray:
    return np.repeat(np.arange(1, count + 1, dtype=np.uint32), 16).reshape(count, 16)


# -- splitting


@pytest.mark.parametrize("board", ["pi4,watchdog=1", "pi5,watchdog=1"])
def test_a_dispatch_that_the_watchdog_would_kill_runs_in_parts(board: str) -> None:
    """The threads of a full GPU take four times as long each as threads that have a QPU for themselves."""
    with qpu.open_device(board) as gpu:
        groups = 4 * gpu.qpus
        turns = int(0.75e-3 * gpu.info.clock_hz / 20)  # 0.75 ms of one thread alone
        out = gpu.zeros((groups, 16), np.uint32)
        program = work(gpu.isa)
        with pytest.raises(qpu.GpuResetError, match="1 reset, 0 before the job; it runs a trivial job again"):
            gpu.run(program, [turns, out], qpu.v3d.Dispatch(workgroups=groups))
        assert not (out.numpy() == ids(groups)).all()
        launch = gpu.run(program, [turns, out], qpu.v3d.Dispatch(workgroups=groups, max_batches=gpu.qpus))
        np.testing.assert_array_equal(out.numpy(), ids(groups))
        assert launch.stats is not None and launch.stats.threads == groups


@pytest.mark.parametrize("board", ["pi4", "pi5"])
@pytest.mark.parametrize(("groups", "limit", "parts"), [(50, 7, 8), (50, 50, 1), (50, 1000, 1), (9, 1, 9)])
def test_parts_are_jobs_with_the_ids_of_the_whole(board: str, groups: int, limit: int, parts: int) -> None:
    port = RecordingPort(EmuPort(board))
    with qpu.open_device(port=port) as gpu:
        out = gpu.zeros((groups, 16), np.uint32)
        launch = gpu.submit(work(gpu.isa), [1, out], qpu.v3d.Dispatch(workgroups=groups, max_batches=limit))
        cfgs = [
            drm.layout("drm_v3d_submit_csd", 8).numbers(c.before, "cfg")
            for c in port.calls
            if c.name == "DRM_IOCTL_V3D_SUBMIT_CSD"
        ]
        assert len(cfgs) == parts
        assert sum(cfg[0] >> 16 for cfg in cfgs) == groups
        assert [cfg[0] & 0xFFFF for cfg in cfgs] == [i * limit for i in range(parts)]
        while not launch.poll():
            pass
        assert launch.done
        np.testing.assert_array_equal(out.numpy(), ids(groups))
    assert port.inner.allocated() == []  # type: ignore[attr-defined]


def test_parts_have_one_time_limit() -> None:
    with qpu.open_device("pi5") as gpu:
        out = gpu.zeros((8, 16), np.uint32)
        launch = gpu.submit(work(gpu.isa), [20_000, out], qpu.v3d.Dispatch(workgroups=8, max_batches=1))
        with pytest.raises(qpu.GpuTimeoutError):
            launch.wait(1e-3)
        assert not launch.done
        launch.wait(1.0)
        np.testing.assert_array_equal(out.numpy(), ids(8))


@pytest.mark.parametrize(("limit", "message"), [(0, "max_batches = 0"), (True, "max_batches"), (1.5, "max_batches")])
def test_bad_limits(limit: Any, message: str) -> None:
    with qpu.open_device("pi5") as gpu, pytest.raises(qpu.UsageError, match=message):
        gpu.run(endless(gpu.isa), shape=qpu.v3d.Dispatch(max_batches=limit))


def test_a_part_that_is_reset_fails_the_launch_and_the_others_run() -> None:
    """Workgroup 1 hangs: its countdown starts from what another launch left there."""
    with qpu.open_device("pi5,watchdog=1") as gpu:
        out = gpu.zeros((4, 16), np.uint32)
        good = work(gpu.isa)
        launch = gpu.submit(good, [100_000, out], qpu.v3d.Dispatch(workgroups=3, max_batches=1))
        with pytest.raises(qpu.GpuResetError, match=r"part 1 of 3, and 2 more: .*later launches are queued"):
            launch.wait(10)
        assert launch.done and isinstance(launch.error, qpu.GpuResetError)
        with pytest.raises(qpu.GpuResetError):
            launch.wait()
        gpu.run(good, [10, out], qpu.v3d.Dispatch(workgroups=4))
        np.testing.assert_array_equal(out.numpy(), ids(4))


# -- completion


@pytest.mark.parametrize("board", ["pi4", "pi5", "pi4,linux=old", "pi5,linux=old"])
def test_completion_word(board: str) -> None:
    """Every lane of every thread adds one: an old Linux has no other proof that a dispatch was not cut short."""
    groups = 12
    with qpu.open_device(f"{board},watchdog=5") as gpu:
        out, words = gpu.zeros((groups, 16), np.uint32), gpu.array(np.full(8, 99, np.uint32))
        program = work(gpu.isa, proof=True)
        for limit in (None, 5):
            gpu.run(
                program,
                [10, out, words[3], ATOMIC_ADD],
                qpu.v3d.Dispatch(workgroups=groups, max_batches=limit, completion=(words[3], 16 * groups)),
            )
            assert words.numpy().tolist() == [99, 99, 99, 16 * groups, 99, 99, 99, 99]
        with pytest.raises(qpu.GpuResetError, match="completion word 0xc0 instead of 0xc1"):
            gpu.run(
                program,
                [10, out, words, ATOMIC_ADD],
                qpu.v3d.Dispatch(workgroups=groups, completion=(words, 16 * groups + 1)),
            )
        with pytest.raises(qpu.GpuResetError, match=r"completion word 0x0 .*; it runs a trivial job again"):
            gpu.run(endless(gpu.isa), shape=qpu.v3d.Dispatch(completion=(words, 1)))


def test_bad_completion_words() -> None:
    with qpu.open_device("pi5") as gpu, qpu.open_device("pi5") as other, qpu.open_device("pi3") as old:
        word, foreign = gpu.empty(2, np.uint32), other.empty(1, np.uint32)
        program = binary(gpu.isa, "add")
        for completion, message in (
            ((word, 0), r"completion value = 0; allowed: 1\.\."),
            ((word, 1 << 32), "completion value"),
            ((word.view(2), 1), "byte 2 of 8"),
            ((word.view(8), 1), "byte 8 of 8"),
            ((foreign, 1), "another device"),
        ):
            with pytest.raises(qpu.UsageError, match=message):
                gpu.run(program, [word, word, word], qpu.v3d.Dispatch(completion=completion))
        with pytest.raises(qpu.UsageError, match="V3D"):
            old.run(binary(old.isa, "add"), [], qpu.v3d.Dispatch(completion=(old.empty(1, np.uint32), 1)))


# -- chains and background


@pytest.mark.parametrize("board", BOARDS)
def test_submit_does_not_wait(board: str) -> None:
    """The launch has not ended when `submit` returns, also where the interface of Linux blocks."""
    with qpu.open_device(board) as gpu:
        turns = 1 << 15
        launches = [gpu.submit(long(gpu.isa), [turns]) for _ in range(3)]
        assert not launches[-1].done
        for launch in reversed(launches):
            launch.wait(5.0)
        assert all(launch.done and launch.error is None for launch in launches)


@pytest.mark.parametrize("board", BOARDS)
def test_launches_in_the_background_keep_their_order(board: str) -> None:
    """Asynchronous and synchronous ones mixed: each adds one to the result of the one before."""
    with qpu.open_device(board) as gpu:
        one, total = gpu.array(np.ones(16, np.uint32)), gpu.zeros(16, np.uint32)
        program = binary(gpu.isa, "add")
        for n in range(20):
            (gpu.run if n % 3 == 2 else gpu.submit)(program, [total, one, total])
        gpu.run(program, [total, one, total])
        assert total.numpy().tolist() == [21] * 16


@pytest.mark.parametrize(("first", "second"), [("pi3", "pi5"), ("pi5", "pi3"), ("pi4", "pi5"), ("pi3", "pi2")])
def test_chains_across_devices(first: str, second: str) -> None:
    with qpu.open_device(first) as one, qpu.open_device(second) as two:
        a, b = (d.array(np.ones(16, np.uint32)) for d in (one, two))
        earlier = one.submit(binary(one.isa, "add"), [a, a, a])
        later = two.submit(binary(two.isa, "add"), [b, b, b], after=[earlier])
        later.wait(5.0)
        assert earlier.done and (a.numpy() == 2).all() and (b.numpy() == 2).all()


def test_chains_between_devices_of_one_kernel_are_the_kernels() -> None:
    port = RecordingPort(EmuPort("pi5"))
    one, two = qpu.open_device(port=port), qpu.open_device(port=port)
    x, y = one.array(np.ones(16, np.uint32)), two.array(np.ones(16, np.uint32))
    earlier = one.submit(binary(one.isa, "add"), [x, x, x], qpu.v3d.Dispatch(max_batches=1))
    port.calls.clear()
    later = two.submit(binary(two.isa, "add"), [y, y, y], after=[earlier])
    assert not [name for name in port.names("ioctl") if "WAIT" in name]
    later.wait(1.0)
    assert earlier.done and (x.numpy() == 2).all() and (y.numpy() == 2).all()
    one.close()
    two.close()


def test_the_error_of_an_earlier_launch_comes_out_of_the_chain() -> None:
    with qpu.open_device("pi5,watchdog=1") as one, qpu.open_device("pi4") as two:
        bad = one.submit(endless(one.isa))
        x = two.array(np.ones(16, np.uint32))
        with pytest.raises(qpu.GpuResetError):
            two.submit(binary(two.isa, "add"), [x, x, x], after=[bad]).wait(5.0)


@pytest.mark.parametrize("board", BOARDS)
def test_failures_in_the_background_come_out_of_wait(board: str) -> None:
    with qpu.open_device(board) as gpu:
        x, out = gpu.array(np.ones(16, np.uint32)), gpu.empty(16, np.uint32)
        stray = gpu.submit(binary(gpu.isa, "add"), [0x3F00_0000, x, out])
        for _ in range(2):
            with pytest.raises(qpu.EmuFault, match="out-of-bounds"):
                stray.wait(1.0)
        assert stray.done and isinstance(stray.error, qpu.EmuFault)
        hung = gpu.submit(endless(gpu.isa))
        with pytest.raises((qpu.GpuTimeoutError, qpu.GpuResetError)):
            hung.wait(20.0)
        assert hung.done
        gpu.run(binary(gpu.isa, "add"), [x, x, out])
        assert (out.numpy() == 2).all()


@pytest.mark.parametrize("board", BOARDS)
def test_closing_with_launches_in_flight(board: str) -> None:
    port = EmuPort(board)
    gpu = qpu.open_device(port=port)
    launches = [gpu.submit(long(gpu.isa), [1 << 28]) for _ in range(20)]
    time.sleep(0.05)
    gpu.close()
    assert port.leaked == []
    for launch in launches:
        with pytest.raises(qpu.QpuError):
            launch.wait(1.0)
    assert "the device was closed" in str(launches[-1].error)  # it waited, or it was the one that ran


@pytest.mark.parametrize("board", BOARDS)
def test_closing_while_another_thread_waits(board: str) -> None:
    gpu = qpu.open_device(board)
    launch = gpu.submit(long(gpu.isa), [1 << 28])
    outcome: list[BaseException] = []

    def wait() -> None:
        try:
            launch.wait()
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.1)
    gpu.close()
    thread.join(HUNG_S)
    assert not thread.is_alive()
    assert len(outcome) == 1 and isinstance(outcome[0], qpu.QpuError)


@pytest.mark.parametrize("board", BOARDS)
def test_awaiting_can_be_given_up(board: str) -> None:
    """A cancelled await leaves its thread and the launch alone; the launch can be waited for again."""

    async def go(gpu: Device) -> None:
        launch = gpu.submit(long(gpu.isa), [1 << 22])
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(_wait(launch), 1e-4)
        await launch
        assert launch.done

    async def _wait(launch: qpu.Launch) -> None:
        await launch

    with qpu.open_device(board) as gpu:
        asyncio.run(go(gpu))


def test_awaiting_several_at_once() -> None:
    async def go() -> list[list[int]]:
        results: list[list[int]] = []

        async def one(board: str, number: int) -> None:
            with qpu.open_device(board) as gpu:
                x, out = gpu.array(np.full(16, number, np.uint32)), gpu.empty(16, np.uint32)
                await gpu.submit(binary(gpu.isa, "add"), [x, x, out])
                results.append(sorted(set(out.numpy().tolist())))

        await asyncio.gather(*(one(board, n) for n, board in enumerate(BOARDS)))
        return sorted(results)

    assert asyncio.run(go()) == [[0], [2], [4]]
