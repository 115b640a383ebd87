"""Tests of long counts: nothing leaks or grows, no result is lost, and all runs are equal.

`pytest -m soak` runs the full counts; the normal run a small part of each.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import qpu
from qpu.device import Device
from qpu.emu.port import EmuPort
from qpu.kernels import sgemm
from tests.hw.programs import binary
from tests.limits import HUNG_S

ROOT = Path(__file__).parent.parent
BOARDS = ("pi3", "pi4", "pi5")
MIB = 1 << 20

full = pytest.mark.soak
needs_statm = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")


def counts(small: int, large: int) -> pytest.MarkDecorator:
    """The count of the normal run, and the full count."""
    return pytest.mark.parametrize("count", [small, pytest.param(large, marks=full)])


def resident() -> int:
    """Bytes of this process in memory."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(params=BOARDS)
def board(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@counts(100, 10_000)
@needs_statm
def test_launches(board: str, count: int) -> None:
    """Each adds one to the result of the one before: a lost or doubled launch shows in the sum."""
    port = EmuPort(board)
    with qpu.open_device(port=port) as gpu:
        one, total = gpu.array(np.ones(16, np.uint32)), gpu.zeros(16, np.uint32)
        program = binary(gpu.isa, "add")
        before: tuple[list[str], int] | None = None
        for number in range(count):
            gpu.run(program, [total, one, total])
            if number == max(count // 10, 20):
                before = (port.allocated(), resident())
        assert before is not None
        assert total.numpy().tolist() == [count] * 16
        assert port.allocated() == before[0]
        grown = resident() - before[1]
        print(f"{board}: {count} launches, resident memory grew by {grown / MIB:.2f} MiB")
        assert grown < 24 * MIB  # the allocator may keep a page table of 8 MiB; a leak grows with the launches
    assert port.allocated() == []
    assert port.leaked == []


@counts(10, 100)
def test_concurrent_asynchronous_launches(board: str, count: int) -> None:
    port = EmuPort(board)
    with qpu.open_device(port=port) as gpu:
        program = binary(gpu.isa, "add")
        number = gpu.array(np.repeat(np.arange(count, dtype=np.uint32), 16).reshape(count, 16))
        out = gpu.zeros((count, 16), np.uint32)
        for turn in range(3):
            before = len(port.allocated())
            launches = [gpu.submit(program, [number[i], number[i], out[i]]) for i in range(count)]
            order = np.random.default_rng(turn).permutation(count)
            for i in order:
                launches[i].wait(30)
            assert all(launch.done for launch in launches)
            np.testing.assert_array_equal(out.numpy(), 2 * number.numpy())
            out.array[...] = 0
            del launches
            if turn:
                assert len(port.allocated()) <= before
    assert port.allocated() == []


@counts(20, 1000)
@needs_statm
def test_open_launch_close(board: str, count: int) -> None:
    """A device for one launch, again and again: neither memory nor descriptors of the process grow."""

    def cycle(number: int) -> None:
        port = EmuPort(board)
        with qpu.open_device(port=port) as gpu:
            x, out = gpu.array(np.full(16, number, np.uint32)), gpu.empty(16, np.uint32)
            gpu.run(binary(gpu.isa, "add"), [x, x, out])
            assert (out.numpy() == 2 * number).all()
        assert port.leaked == []

    warm = max(count // 10, 5)
    for number in range(warm):
        cycle(number)
    before, files = resident(), len(os.listdir("/proc/self/fd"))
    for number in range(warm, count):
        cycle(number)
    grown = resident() - before
    print(f"{board}: {count} devices, resident memory grew by {grown / MIB:.2f} MiB")
    assert grown < 16 * MIB
    assert len(os.listdir("/proc/self/fd")) == files


SHARE = """
import sys
import numpy as np, qpu
from tests.hw.programs import binary

board, mine, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with qpu.open_device(board) as gpu:
    print("open", flush=True)
    sys.stdin.readline()
    one, total = gpu.array(np.full(16, mine, np.uint32)), gpu.zeros(16, np.uint32)
    program = binary(gpu.isa, "add")
    for _ in range(count):
        gpu.run(program, [total, one, total])
    print(total.numpy().tolist())
"""


@counts(20, 1000)
def test_two_processes(board: str, count: int) -> None:
    """Both have the board open at the same time; neither sees the other's memory."""
    children = [
        subprocess.Popen(
            [sys.executable, "-c", SHARE, board, str(mine), str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests")))},
        )
        for mine in (3, 5)
    ]
    try:
        for child in children:
            assert child.stdout is not None and child.stdout.readline() == "open\n"
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        outputs = [child.communicate(timeout=HUNG_S)[0] for child in children]
    finally:
        for child in children:
            child.kill()
            child.wait()
    assert [child.returncode for child in children] == [0, 0]
    assert [json.loads(text) for text in outputs] == [[mine * count] * 16 for mine in (3, 5)]


@counts(20, 1000)
@needs_statm
def test_two_processes_on_one_node(board: str, count: int) -> None:
    """Two processes of one emulated board: descriptors and handles apart, memory and GPU shared, calls interleaved.

    A third one dies in the middle of its work, with launches in flight and memory in use.
    """
    first = EmuPort(board)
    ports = [first, first.process()]
    devices = [qpu.open_device(port=port) for port in ports]
    failures: list[BaseException] = []
    totals: dict[int, list[int]] = {}
    ready, half = threading.Barrier(3), threading.Barrier(3)

    def work(number: int, gpu: Device) -> None:
        try:
            one, total = gpu.array(np.full(16, number + 2, np.uint32)), gpu.zeros(16, np.uint32)
            program = binary(gpu.isa, "add")
            gpu.run(program, [total, one, total])
            ready.wait(HUNG_S)
            for turn in range(count - 1):
                launch = gpu.submit(program, [total, one, total])
                if turn % 7 == 0:
                    launch.wait(60)
                if turn == count // 2:
                    half.wait(HUNG_S)
            gpu.run(program, [total, one, total])
            totals[number] = total.numpy().tolist()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n, gpu)) for n, gpu in enumerate(devices)]
    for thread in threads:
        thread.start()
    ready.wait(HUNG_S)
    dying = first.process()
    if not board.startswith("pi3"):  # there the death of a process leaves the QPUs powered, or takes the power away
        third = qpu.open_device(port=dying)
        x = third.array(np.ones(16, np.uint32))
        for _ in range(5):
            third.submit(binary(third.isa, "add"), [x, x, x])
    dying.shutdown()
    half.wait(HUNG_S)
    held, before = len(first.allocated()), resident()
    for thread in threads:
        thread.join()
    assert failures == []
    assert totals == {n: [(n + 2) * (count + 1)] * 16 for n in range(2)}
    grown = resident() - before
    print(f"{board}: 2 x {count} launches, resident memory grew by {grown / MIB:.2f} MiB")
    assert grown < 24 * MIB
    assert len(first.allocated()) < held + 150  # launches that nobody waited for are settled by the dozen
    for gpu in devices:
        gpu.close()
    assert [port.leaked for port in ports] == [[], []]


def session(board: str, engine: str) -> dict[str, object]:
    """A session with several kernels; digests of all memory of the board, addresses and statistics."""
    port = EmuPort(board, engine=engine)
    with qpu.open_device(port=port) as gpu:
        draw = np.random.default_rng(7)
        a, b, c = (draw.uniform(-1, 1, s).astype(np.float32) for s in ((40, 12), (12, 36), (40, 36)))
        result = product(gpu, a, b, c)
        x, out = gpu.array(draw.integers(0, 1 << 32, 16, dtype=np.uint32)), gpu.zeros(16, np.uint32)
        programs = [binary(gpu.isa, op) for op in ("add", "xor", "min")]
        for program in programs:
            gpu.run(program, [x, out, out])
        memory = {
            bo.address: hashlib.sha256(bytes(bo.view)).hexdigest()
            for bo in [*gpu._pool._bos.values(), *gpu._pool._scratch]
        } | {bo.address: hashlib.sha256(bytes(bo.view)).hexdigest() for _, bo in gpu._pool._code.values()}
        stats = [(s.instructions, s.clocks, s.per_qpu, s.bytes_moved) for s in port.runs]
        return {"memory": memory, "result": result.tobytes(), "stats": stats, "time": port.monotonic()}


def product(gpu: Device, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    with sgemm.Sgemm(gpu, len(a), b.shape[1], len(b)) as job:
        job.load(a, b, c, 1.5, 0.5)
        job.launch()
        return job.result()


@pytest.mark.parametrize("engine", ["auto", pytest.param("reference", marks=full)])
def test_two_runs_are_identical(board: str, engine: str) -> None:
    first = session(board, engine)
    memory = first["memory"]
    assert isinstance(memory, dict) and len(memory) >= 6
    assert first == session(board, engine)
