"""Tests of devices, buffers and launches, for emulated boards and a real one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import numpy as np
import pytest

import qpu
from qpu.core.isa import Isa
from qpu.device import Device
from tests.hw.programs import INT_OPS, binary

Record = Callable[..., None]


def operands(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two vectors of 16 words, edge cases among them."""
    draw = np.random.default_rng(seed)
    edges = np.array([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF], np.uint32)
    a, b = (draw.integers(0, 1 << 32, 16, dtype=np.uint32) for _ in range(2))
    a[:5], b[:5], b[5:10] = edges, edges[::-1], edges
    return a, b


def expected(op: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """What the instruction does to 32-bit patterns; shift counts are taken modulo 32."""
    x, y, n = a.astype(np.int64), b.astype(np.int64), (b & 31).astype(np.int64)
    sx, sy = a.view(np.int32).astype(np.int64), b.view(np.int32).astype(np.int64)
    found = {
        "add": x + y,
        "sub": x - y,
        "and_": x & y,
        "or_": x | y,
        "xor": x ^ y,
        "shl": x << n,
        "shr": x >> n,
        "asr": sx >> n,
        "ror": x >> n | x << (32 - n),
        "min": np.minimum(sx, sy),
        "max": np.maximum(sx, sy),
        "umin": np.minimum(x, y),
        "umax": np.maximum(x, y),
    }[op]
    return (found & 0xFFFFFFFF).astype(np.uint32)


def test_the_device_says_who_it_is(gpu: Device, board: str) -> None:
    info = gpu.info
    assert gpu.qpus == info.slices * info.qpus_per_slice >= 4
    assert info.node.startswith("/dev/") and info.driver and str(info)
    assert gpu.emulated == board.startswith("pi")
    assert info.board.generation == {Isa.VC4: 4, Isa.V3D42: 6, Isa.V3D71: 7}[gpu.isa]


def test_integer_instructions(gpu: Device) -> None:
    wrong = []
    for seed, op in enumerate(INT_OPS[gpu.isa]):
        a, b = operands(seed)
        x, y, out = gpu.array(a), gpu.array(b), gpu.empty(16, np.uint32)
        gpu.run(binary(gpu.isa, op), [x, y, out])
        if not np.array_equal(out.numpy(), expected(op, a, b)):
            wrong.append(f"{op}: {out.numpy()} for {a}, {b}")
    assert not wrong, "\n".join(wrong)


def test_float_instructions(gpu: Device) -> None:
    """Within one unit in the last place: VideoCore IV truncates (vc4.md 10.1)."""
    draw = np.random.default_rng(1)
    a, b = (draw.uniform(1, 2, 16).astype(np.float32) for _ in range(2))
    x, y, out = gpu.array(a), gpu.array(b), gpu.empty(16)
    for op, want in (("fadd", a + b), ("fsub", a - b), ("fmul", a * b), ("fmin", np.minimum(a, b))):
        gpu.run(binary(gpu.isa, op), [x, y, out])
        assert (np.abs(out.numpy() - want) <= np.spacing(np.maximum(np.abs(want), np.float32(1)))).all(), op


def test_a_wrong_operation_is_noticed(gpu: Device) -> None:
    """The comparison itself can fail on this device."""
    a, b = operands()
    x, y, out = gpu.array(a), gpu.array(b), gpu.empty(16, np.uint32)
    gpu.run(binary(gpu.isa, "add"), [x, y, out])
    assert not np.array_equal(out.numpy(), expected("sub", a, b))


def test_memory_comes_zeroed_and_keeps_what_is_written(gpu: Device, record_figure: Record) -> None:
    gpu.array(np.full(1 << 20, 0xA5, np.uint8)).close()
    buffer = gpu.empty(1 << 20, np.uint8)
    assert not buffer.numpy().any()
    data = np.random.default_rng(0).integers(0, 256, 1 << 20, dtype=np.uint8)
    start = time.perf_counter()
    buffer.write(data)
    written = time.perf_counter()
    result = buffer.numpy()
    record_figure("buffer write", data.nbytes / (written - start) / 1e6, "MB/s")
    record_figure("buffer read", data.nbytes / (time.perf_counter() - written) / 1e6, "MB/s")
    np.testing.assert_array_equal(result, data)


def test_launches_run_in_order(gpu: Device, record_figure: Record) -> None:
    count = 32
    one = gpu.array(np.ones(16, np.uint32))
    cells = [gpu.array(np.zeros(16, np.uint32)) for _ in range(count + 1)]
    program = binary(gpu.isa, "add")
    gpu.run(program, [one, one, cells[0]])
    start = time.perf_counter()
    launches = [gpu.submit(program, [cells[i], one, cells[i + 1]]) for i in range(count)]
    for launch in launches:
        launch.wait(30)
    record_figure("launch", (time.perf_counter() - start) / count * 1e6, "us")
    assert all(launch.done and launch.poll() for launch in launches)
    assert [int(c.numpy()[7]) for c in cells] == list(range(2, count + 3))


def test_launches_can_be_awaited(gpu: Device) -> None:
    a, b = operands()
    x, y, out = gpu.array(a), gpu.array(b), gpu.empty(16, np.uint32)

    async def go() -> None:
        await gpu.submit(binary(gpu.isa, "xor"), [x, y, out])

    asyncio.run(go())
    np.testing.assert_array_equal(out.numpy(), a ^ b)


def test_launches_side_by_side(gpu: Device) -> None:
    """Many launches at once where Linux queues them, each with its own data."""
    data = np.arange(16 * gpu.qpus, dtype=np.uint32).reshape(-1, 16)
    x, out = gpu.array(data), gpu.empty(data.shape, np.uint32)
    program = binary(gpu.isa, "add")
    for launch in [gpu.submit(program, [x[i], x[i], out[i]]) for i in range(gpu.qpus)]:
        launch.wait(30)
    np.testing.assert_array_equal(out.numpy(), 2 * data)


def test_counters_count(gpu: Device, record_figure: Record) -> None:
    name = {Isa.VC4: "QPU-total-clk-cycles-executing-valid-instr"}.get(gpu.isa, "cycle-count")
    a, b = operands()
    x, y, out = gpu.array(a), gpu.array(b), gpu.empty(16, np.uint32)
    program = binary(gpu.isa, "add")
    try:
        with gpu.counters(name) as values:
            gpu.run(program, [x, y, out])
    except qpu.DriverError as error:
        pytest.skip(f"no counters here: {str(error).splitlines()[0]}")
    assert values[name] > 0
    record_figure(name, values[name], "clocks")


def test_the_device_can_be_opened_again_and_again(board: str) -> None:
    for _ in range(5):
        with qpu.open_device(board) as gpu:
            x, out = gpu.array(np.full(16, 3, np.uint32)), gpu.empty(16, np.uint32)
            gpu.run(binary(gpu.isa, "add"), [x, x, out])
            assert (out.numpy() == 6).all()
