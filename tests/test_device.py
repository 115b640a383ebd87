"""Tests of devices, buffers and launches on emulated boards, with the drivers of the package."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import pickle
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import qpu
from qpu.buffers import BufferView
from qpu.core.isa import Isa
from qpu.device import Device
from qpu.emu.port import EmuPort
from qpu.emu.testing import RecordingPort
from qpu.runtime.uniforms import pack_uniforms
from tests.lang.ten_kernels import saxpy
from tests.limits import HUNG_S

BOARDS = ("pi0", "pi3", "pi4", "pi5", "pi5,slices=3", "pi5,page=16k")


def double_42(q: Any) -> None:
    """y[lane] = 2 * x[lane]; uniforms: x, y."""
    q.nop(sig=q.ldunifrf(q.rf[11]))
    q.nop(sig=q.ldunifrf(q.rf[12]))
    q.eidx(q.rf[10])
    q.shl(q.rf[10], q.rf[10], 2)
    q.add(q.tmua, q.rf[11], q.rf[10])
    q.nop(sig=q.ldtmu(q.rf[13]))
    q.fadd(q.tmud, q.rf[13], q.rf[13])
    q.add(q.tmua, q.rf[12], q.rf[10])
    q.tmuwt(q.null)
    q.end()


def double_vc4(q: Any) -> None:
    """As double_42, with a DMA store from the VPM."""
    q.shl(q.r0, q.element_number, 2)
    q.add(q.tmu0_s, q.r0, q.uniform)
    q.setup_vpm_write()
    q.nop(sig=q.ldtmu0)
    q.fadd(q.vpm, q.r4, q.r4)
    q.setup_dma_store(nrows=1)
    q.start_dma_store(q.uniform)
    q.wait_dma_store()
    q.end()


def double(isa: Isa) -> qpu.Program:
    return qpu.assemble(double_vc4 if isa is Isa.VC4 else double_42, isa=isa)


def endless(isa: Isa) -> qpu.Program:
    if isa is Isa.VC4:
        return qpu.assemble(":l\nbrr -, :l\nnop\nnop\nnop\n", isa=isa)
    return qpu.assemble("l: b l\nnop\nnop\nnop\nnop ; nop ; thrsw\nnop\nnop\n", isa=isa)


@pytest.fixture(params=BOARDS)
def port(request: pytest.FixtureRequest) -> Iterator[EmuPort]:
    made = EmuPort(request.param)
    yield made
    made.shutdown()


@pytest.fixture
def gpu(port: EmuPort) -> Iterator[Device]:
    with qpu.open_device(port=port) as device:
        yield device


@pytest.fixture
def pi5() -> Iterator[Device]:
    with qpu.open_device("pi5") as device:
        yield device


def test_a_program_runs_and_numpy_agrees(gpu: Device) -> None:
    x = gpu.array(np.arange(16, dtype=np.float32))
    y = gpu.empty(16, np.float32)
    launch = gpu.run(double(gpu.isa), [x, y])
    assert launch.done and launch.poll()
    np.testing.assert_array_equal(y.numpy(), 2 * np.arange(16, dtype=np.float32))
    assert launch.stats is not None and launch.stats.instructions >= 10
    assert gpu.stats is launch.stats


def test_info_names_board_and_says_it_is_emulated(gpu: Device) -> None:
    text = str(gpu.info)
    assert "EMULATED" in text and gpu.info.node in text
    assert gpu.qpus == gpu.info.slices * gpu.info.qpus_per_slice
    assert gpu.emulated and "<table>" in gpu._repr_html_()


def test_programs_are_uploaded_once(gpu: Device) -> None:
    program = double(gpu.isa)
    assert gpu._pool.upload(program) is gpu._pool.upload(program)
    assert gpu._pool.upload(program).address % 8 == 0


def test_code_is_found_by_the_program_itself(gpu: Device) -> None:
    """A dead program whose finalizer was interrupted leaves an entry, and its id may be that of another one."""
    old, new = qpu.assemble([1, 2], isa=gpu.isa), double(gpu.isa)
    bo = gpu._pool.upload(old)
    dead = weakref.ref(type("Gone", (), {})())
    gpu._pool._code[id(new)] = dead, bo  # type: ignore[assignment] # as if it had been one
    assert gpu._pool.upload(new) is not bo
    assert bytes(gpu._pool.upload(new).view[: len(new.data)]) == new.data


def test_scratch_memory_is_large_enough(gpu: Device) -> None:
    x, y = gpu.array(np.ones(16, np.float32)), gpu.empty(16)
    for count in (0, 30_000, 10):  # words that the program does not read
        gpu.run(double(gpu.isa), [x, y, *[5] * count])
        assert (y.numpy() == 2).all()
    assert {bo.size >= 4 * 30_002 for bo in gpu._pool._scratch} == {True, False}


def test_scratch_memory_of_the_same_size_is_used_again(gpu: Device) -> None:
    pool = gpu._pool
    one = pool.scratch(1)
    pool.end(None, [one])
    for size in (one.size, one.size - 1, 1):
        assert pool.scratch(size) is one
        pool.end(None, [one])
    other = pool.scratch(one.size + 1)
    assert other is not one and other.size > one.size
    pool.end(None, [other])


def test_arrays_of_the_other_byte_order_are_converted(gpu: Device) -> None:
    with gpu.array(np.arange(16, dtype=">f4")) as x:
        assert x.array.tobytes() == np.arange(16, dtype="<f4").tobytes()
    assert pack_uniforms([np.array([1, 2], ">u4")]) == bytes([1, 0, 0, 0, 2, 0, 0, 0])
    assert pack_uniforms(np.array([1.5], ">f4")) == np.array([1.5], "<f4").tobytes()


def test_behind_a_uniform_stream_there_is_nothing(gpu: Device) -> None:
    """Not the stream of an earlier launch in the same scratch memory. Lenient runs read zeros, strict ones stop."""

    def late_v3d(q: Any) -> None:  # y[lane] = uniform 16
        q.nop(sig=q.ldunifrf(q.rf[12]))
        for _ in range(16):
            q.nop(sig=q.ldunifrf(q.rf[13]))
        q.eidx(q.rf[10])
        q.shl(q.rf[10], q.rf[10], 2)
        q.or_(q.tmud, q.rf[13], q.rf[13])
        q.add(q.tmua, q.rf[12], q.rf[10])
        q.tmuwt(q.null)
        q.end()

    def late_vc4(q: Any) -> None:
        q.mov(q.ra[0], q.uniform)
        q.setup_vpm_write()
        for _ in range(16):
            q.mov(q.r0, q.uniform)
        q.mov(q.vpm, q.r0)
        q.setup_dma_store(nrows=1)
        q.start_dma_store(q.ra[0])
        q.wait_dma_store()
        q.end()

    y = gpu.empty(16, np.uint32)
    program = qpu.assemble(late_vc4 if gpu.isa is Isa.VC4 else late_v3d, isa=gpu.isa)
    gpu.run(program, [y, *[7] * 99])
    assert (y.numpy() == 7).all()
    with pytest.raises(qpu.EmuFault, match="uniform 17 of 16"):
        gpu.run(program, [y, *[7] * 15])
    with qpu.open_device(gpu.info.emulated, strict=False) as lenient:
        y = lenient.empty(16, np.uint32)
        lenient.run(program, [y, *[7] * 99])
        lenient.run(program, [y, *[7] * 15])
        assert (y.numpy() == 0).all()


@pytest.mark.parametrize("name", ["int64", "uint64", "float64", "complex128"])
def test_64_bit_arrays_need_a_cast_or_their_dtype(pi5: Device, name: str) -> None:
    data = np.arange(4).astype(name)
    half = {"int64": "int32", "uint64": "uint32", "float64": "float32", "complex128": "complex64"}[name]
    with pytest.raises(qpu.UsageError, match=rf"astype\(np\.{half}\)"):
        pi5.array(data)
    with pytest.raises(qpu.UsageError, match=rf"astype\(np\.{half}\)" if half != "complex64" else "complex"):
        pi5.run(double(pi5.isa), data)
    assert pi5.array(data, name).dtype == name


def test_lists_become_32_bit_data(pi5: Device) -> None:
    for data, kind in (
        ([1, -2], np.int32),
        (range(3), np.int32),
        ([1, 1 << 31], np.uint32),
        ([1.5, 2], np.float32),
        (3, np.int32),
        (0.5, np.float32),
        ([[1j]], np.complex64),
        ([True], np.bool_),
    ):
        made = pi5.array(data)
        assert made.dtype == kind
        np.testing.assert_array_equal(made.numpy(), np.asarray(data, kind))
    for wide in ([1 << 32], [-1, 1 << 31], [-(1 << 31) - 1]):
        with pytest.raises(qpu.UsageError, match="32 bits"):
            pi5.array(wide)


def test_asynchronous_launches(gpu: Device) -> None:
    program = double(gpu.isa)
    xs = [gpu.array(np.full(16, i, np.float32)) for i in range(5)]
    ys = [gpu.empty(16) for _ in xs]
    launches = [gpu.submit(program, [x, y]) for x, y in zip(xs, ys, strict=True)]
    for launch in launches:
        launch.wait(5)
        launch.wait(5)  # waiting again is fine
    for i, y in enumerate(ys):
        np.testing.assert_array_equal(y.numpy(), np.full(16, 2 * i, np.float32))


def test_launches_can_be_awaited(pi5: Device) -> None:
    x, y = pi5.array(np.ones(16, np.float32)), pi5.empty(16)

    async def go() -> None:
        await pi5.submit(double(pi5.isa), [x, y])

    asyncio.run(go())
    assert (y.numpy() == 2).all()


def test_launches_of_other_devices_are_waited_for(pi5: Device) -> None:
    with qpu.open_device("pi4") as other:
        x, y = other.array(np.ones(16, np.float32)), other.empty(16)
        first = other.submit(double(other.isa), [x, y])
        a, b = pi5.array(np.ones(16, np.float32)), pi5.empty(16)
        second = pi5.submit(double(pi5.isa), [a, b], after=[first])
        assert first.done
        second.wait()
        assert (b.numpy() == 2).all()


def test_several_devices_in_several_threads() -> None:
    results: dict[int, np.ndarray] = {}

    def work(number: int) -> None:
        with qpu.open_device(BOARDS[number % 4]) as gpu:
            x, y = gpu.array(np.full(16, number, np.float32)), gpu.empty(16)
            program = double(gpu.isa)
            for _ in range(5):
                gpu.run(program, [x, y])
            results[number] = y.numpy()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert {i: float(v[0]) for i, v in results.items()} == {i: 2.0 * i for i in range(8)}


def test_one_device_from_several_threads(pi5: Device) -> None:
    program = double(pi5.isa)
    bad: list[int] = []

    def work(number: int) -> None:
        x, y = pi5.array(np.full(16, number, np.float32)), pi5.empty(16)
        for _ in range(5):
            pi5.run(program, [x, y])
            if not (y.numpy() == 2 * number).all():
                bad.append(number)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not bad


def test_buffers_that_another_thread_closes_while_a_job_is_submitted(
    pi5: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job lists them; Linux refuses a job with a freed buffer."""
    program, x, y = double(pi5.isa), pi5.array(np.ones(16, np.float32)), pi5.empty(16)
    others = [pi5.empty(16) for _ in range(3)]
    submit = pi5.driver.submit

    def late(*arguments: Any, **options: Any) -> Any:
        thread = threading.Thread(target=lambda: (others[0].close(), others.pop(1)))
        thread.start()
        thread.join()
        return submit(*arguments, **options)

    monkeypatch.setattr(pi5.driver, "submit", late)
    pi5.run(program, [x, y])
    assert (y.numpy() == 2).all()
    monkeypatch.undo()
    again = pi5.empty(16)  # the pool closes them now
    assert not pi5._pool._pending and not again.closed


# -- leaks


def test_closing_returns_everything(port: EmuPort) -> None:
    with qpu.open_device(port=port) as gpu:
        x, y = gpu.array(np.ones(16, np.float32)), gpu.empty(16)
        gpu.run(double(gpu.isa), [x, y])
        view = x.array
    assert port.allocated() == []
    del view
    gpu.close()


def test_buffers_go_with_their_last_reference(port: EmuPort) -> None:
    with qpu.open_device(port=port) as gpu:
        before = len(port.allocated())
        for _ in range(20):
            gpu.empty(1 << 16)
        gc.collect()
        assert len(port.allocated()) <= before + 2  # memory and handle of the last one


def test_a_failure_at_any_call_leaves_nothing(port: EmuPort) -> None:
    def session(through: RecordingPort) -> None:
        with qpu.open_device(port=through) as gpu:
            x, y = gpu.array(np.ones(16, np.float32)), gpu.empty(16)
            gpu.run(double(gpu.isa), [x, y])

    clean = RecordingPort(port)
    session(clean)
    total = sum(c.kind in ("ioctl", "mmap", "open", "mmio") for c in clean.calls)
    assert total > 5 and port.allocated() == []
    failed = 0
    for kind in ("ioctl", "mmap", "open"):
        count = sum(c.kind == kind for c in clean.calls)
        for n in range(1, count + 1):
            through = RecordingPort(port)
            through.inject(kind, 12, at=n)  # ENOMEM
            try:
                session(through)
            except (qpu.QpuError, OSError):
                failed += 1
            assert port.allocated() == [], (kind, n)
    assert failed


# -- refusals


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"workgroups": 0}, "workgroups in x"),
        ({"workgroups": (1, 2)}, "three for x, y, z"),
        ({"workgroups": (1, 1, 70000)}, "workgroups in z"),
        ({"workgroup_size": 257}, "1..256"),
        ({"workgroups_per_supergroup": 17}, "1..16"),
        ({"max_supergroup_id": 64}, "0..63"),
        ({"threads": 3}, "2 or 4"),
        ({"threads": 2.0}, "2 or 4"),
        ({"workgroups": 1.5}, "workgroups in x"),
        ({"workgroups": True}, "workgroups in x"),
        ({"max_batches": 0}, "max_batches"),
        ({"completion": 5}, r"\(word, 1\)"),
    ],
)
def test_impossible_dispatches(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(qpu.UsageError, match=message):
        qpu.v3d.Dispatch(**arguments)


def test_numpy_integers_shape_a_launch() -> None:
    given = qpu.v3d.Dispatch(np.array([2, 3, 4]), threads=np.int32(2))  # type: ignore[arg-type] # beyond its type
    assert given == qpu.v3d.Dispatch((2, 3, 4), threads=2) and given.counts == (2, 3, 4)
    assert qpu.vc4.Programs(np.uint8(3)) == qpu.vc4.Programs(3)  # type: ignore[arg-type] # beyond its type


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": qpu.vc4.Programs(4)}, r"VideoCore IV; this device is V3D 7\.1"),
        ({"shape": 4}, r"give a v3d\.Dispatch"),
        ({"shape": qpu.v3d.Dispatch(completion=(5, 1))}, "device memory"),  # type: ignore[arg-type] # wrong on purpose
        ({"timeout_s": 0}, "positive"),
        *(({"timeout_s": t}, "number of seconds") for t in (float("nan"), float("inf"), "1", None, True)),
    ],
)
def test_bad_launches_are_refused_before_any_ioctl(arguments: dict[str, Any], message: str) -> None:
    inner = EmuPort("pi5")
    port = RecordingPort(inner)
    with qpu.open_device(port=port) as gpu:
        program = double(gpu.isa)
        calls = len(port.calls)
        with pytest.raises(qpu.UsageError, match=message):
            gpu.run(program, [], **arguments)
        assert len(port.calls) == calls
    inner.shutdown()


def test_vc4_refuses_v3d_arguments_and_too_many_programs() -> None:
    with qpu.open_device("pi3") as gpu:
        program = double(gpu.isa)
        with pytest.raises(qpu.UsageError, match="V3D"):
            gpu.run(program, [], qpu.v3d.Dispatch(workgroups=3))
        with pytest.raises(qpu.UsageError, match=r"1\.\.12"):
            gpu.run(program, [[0, 0]] * 13)
        with pytest.raises(qpu.UsageError, match="rows of uniforms"):
            gpu.run(program, [[0, 0]] * 2, qpu.vc4.Programs(count=3))
        for streams in ([], 5, gpu.empty(16)):
            with pytest.raises(qpu.UsageError, match="list with the stream"):
                gpu.run(program, shape=qpu.vc4.Programs(streams=streams))  # type: ignore[arg-type] # wrong on purpose
        with pytest.raises(qpu.UsageError, match="device memory"):
            gpu.run(program, shape=qpu.vc4.Programs(streams=[5]))  # type: ignore[list-item] # wrong on purpose


def test_foreign_and_closed_things_are_refused(pi5: Device) -> None:
    program = double(pi5.isa)
    x = pi5.empty(16)
    with qpu.open_device("pi5") as other:
        mine = other.empty(16)
        with pytest.raises(qpu.UsageError, match="another device"):
            pi5.run(program, [x, mine])
    with pytest.raises(qpu.UsageError, match="closed"):
        other.empty(4)
    x.close()
    x.close()
    with pytest.raises(qpu.UsageError, match="closed"):
        pi5.run(program, [x, x])
    with pytest.raises(qpu.UsageError, match="closed"):
        _ = x.array
    with pytest.raises(qpu.UsageError, match=r"VideoCore IV cannot run on V3D 7\.1"):
        pi5.run(double(Isa.VC4), [])
    with pytest.raises(qpu.UsageError, match="not a program"):
        pi5.run(double_42, [])  # type: ignore[arg-type] # wrong on purpose


@pytest.mark.parametrize("shape", [-1, (1 << 20, 1 << 20), 1.5, (2.5,), "4", None, True, [3, "x"]])
def test_impossible_shapes(pi5: Device, shape: Any) -> None:
    with pytest.raises(qpu.UsageError):
        pi5.empty(shape)


@pytest.mark.parametrize("shape", [0, (3, 0), (0, 2)])
def test_buffers_of_nothing(pi5: Device, shape: Any) -> None:
    with pi5.empty(shape) as x:
        assert (x.size, x.nbytes, len(x)) == (0, 0, x.shape[0]) and x.numpy().shape == x.shape
        x.write(np.zeros(x.shape, np.float32))
        assert x.view().address == x.address
    assert pi5.array(np.zeros(shape, np.int32)).dtype == np.int32


def test_what_makes_no_array(pi5: Device) -> None:
    x = pi5.zeros(4)
    for refused in (
        lambda: pi5.empty(4, "numbers"),
        lambda: pi5.empty(4, object),
        lambda: pi5.array([[1, 2], [3]]),
        lambda: pi5.array([1, 2], "numbers"),
        lambda: x.write([[1, 2], [3]]),
    ):
        with pytest.raises(qpu.UsageError):
            refused()


@pytest.mark.parametrize("board", ["pi3", "pi5"])
@pytest.mark.parametrize("uniforms", [None, 5, "abc", b"abcd", {1: 2}, {3}, np.float32(1)])
def test_what_is_no_uniform_stream(board: str, uniforms: Any) -> None:
    with qpu.open_device(board) as gpu, pytest.raises(qpu.UsageError, match="not a stream of words"):
        gpu.run(double(gpu.isa), uniforms)


def test_waiting_for_what_is_no_launch_or_no_time(pi5: Device) -> None:
    x = pi5.zeros(16)
    launch = pi5.submit(double(pi5.isa), [x, x])
    after: Any
    for after in (None, launch, [5]):
        with pytest.raises(qpu.UsageError, match="list of launches"):
            pi5.submit(double(pi5.isa), [x, x], after=after)
    timeout: Any
    for timeout in (float("nan"), float("inf"), "1"):
        with pytest.raises(qpu.UsageError, match="number of seconds"):
            launch.wait(timeout)
    launch.wait(10)
    with pytest.raises(qpu.UsageError, match="names one by one"), pi5.counters(5):  # type: ignore[arg-type] # wrong
        pass


def test_too_much_memory_is_one_clear_line() -> None:
    with qpu.open_device("pi5,mem=256M") as gpu, pytest.raises(qpu.DriverError) as caught:
        gpu.empty(1 << 29, np.uint8)
    assert "memory" in str(caught.value).lower()


def test_pickling_is_refused_with_advice(pi5: Device) -> None:
    for thing in (pi5, pi5.empty(4)):
        with pytest.raises(TypeError, match=r"open it|numpy\(\)"):
            pickle.dumps(thing)


def _in_child(make: Callable[[], Any], queue: Any) -> None:
    try:
        make()
        queue.put("worked")
    except qpu.UsageError as error:
        queue.put(str(error))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork()")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_is_told(pi5: Device) -> None:
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(lambda: pi5.empty(4), queue))
    child.start()
    assert "fork" in queue.get(timeout=HUNG_S)
    child.join(HUNG_S)


@pytest.mark.parametrize("name", ["pi9", "cuda", "pi5,slices=x", "pi5,colour=red", ""])
def test_unknown_devices(name: str) -> None:
    with pytest.raises(qpu.UsageError):
        qpu.open_device(name)


@pytest.mark.parametrize("name", [5, b"pi5", ["pi5"]])
def test_names_of_devices_are_text(name: Any) -> None:
    with pytest.raises(qpu.UsageError, match="give a name"):
        qpu.open_device(name)


@pytest.mark.parametrize("value", ["false", "yes", "2", " 0"])
def test_strictness_is_0_or_1(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("QPU_EMU_STRICT", value)
    with pytest.raises(qpu.UsageError, match="QPU_EMU_STRICT"):
        qpu.open_device("pi5")


def test_environment_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QPU_DEVICE", "pi4")
    with qpu.open_device() as gpu:
        assert gpu.isa is Isa.V3D42


def test_auto_falls_back_and_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Any, capsys: Any) -> None:
    monkeypatch.setenv("QPU_SYSROOT", str(tmp_path))
    monkeypatch.delenv("QPU_DEVICE", raising=False)
    with qpu.open_device() as gpu:
        assert gpu.emulated and gpu.isa is Isa.V3D71
    err = capsys.readouterr().err
    assert err == "qpu: using an emulated Pi 5 (no Raspberry Pi here; qpu doctor says more)\n"
    with pytest.raises(qpu.NoDeviceError):
        qpu.open_device("hardware")


@pytest.mark.parametrize(
    ("compatible", "name"),
    [
        ("raspberrypi,model-zero-w\0brcm,bcm2835\0", "pi0"),
        ("raspberrypi,3-model-b\0brcm,bcm2837\0", "pi3"),
        ("raspberrypi,4-model-b\0brcm,bcm2711\0", "pi4"),
    ],
)
def test_auto_emulates_the_pi_whose_gpu_cannot_be_used(
    compatible: str, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any, capsys: Any
) -> None:
    tree = tmp_path / "proc" / "device-tree"
    tree.mkdir(parents=True)
    (tree / "compatible").write_text(compatible)
    monkeypatch.setenv("QPU_SYSROOT", str(tmp_path))
    monkeypatch.delenv("QPU_DEVICE", raising=False)
    with qpu.open_device() as gpu:
        assert gpu.info.emulated == name
    err = capsys.readouterr().err
    assert err.startswith(f"qpu: using an emulated Pi {name[2:]} (no usable GPU (") and "/dev/" in err


# -- faults


@pytest.mark.parametrize("board", ["pi3", "pi4", "pi5"])
def test_stray_accesses_fault_at_the_source_line(board: str) -> None:
    with qpu.open_device(board) as gpu:
        y = gpu.empty(16)
        with pytest.raises(qpu.EmuFault) as caught:
            gpu.run(double(gpu.isa), [0x3F00_0000, y])
        fault = caught.value
        assert fault.rule == "out-of-bounds"
        assert fault.place.loc is not None and fault.place.loc.file == __file__
        assert "tmu" in fault.place.loc.source
        gpu.run(double(gpu.isa), [y, y])  # the device goes on


# -- the source line of a fault, wherever the launch comes from


@pytest.mark.parametrize("board", ["pi3", "pi4", "pi5"])
def test_faults_of_asynchronous_launches_name_their_own_program(board: str) -> None:
    """The first one faults while the second is waited for: its own `wait` raises that, with its own source line."""
    text = {
        "pi3": "mov ra1, 0\nmov t0s, ra1 # here\nnop\nmov interrupt, 1\nnop; thrend\nnop\nnop\n",
        "pi4": "xor rf1, rf1, rf1 ; nop\nor tmua, rf1, rf1 ; nop\nnop\nnop ; nop ; thrsw\nnop\nnop\n",
        "pi5": "xor rf1, rf1, rf1 ; nop\nmov tmua, rf1 ; nop\nnop\nnop ; nop ; thrsw\nnop\nnop\n",
    }
    with qpu.open_device(board) as gpu:
        x, y = gpu.array(np.ones(16, np.float32)), gpu.empty(16)
        stray, good = qpu.assemble(text[board], isa=gpu.isa), double(gpu.isa)
        first, second = gpu.submit(stray), gpu.submit(good, [x, y])
        second.wait(5.0)
        assert (y.numpy() == 2).all() and second.error is None
        with pytest.raises(qpu.EmuFault) as caught:
            first.wait(5.0)
        assert first.error is caught.value
        loc = caught.value.place.loc
        assert loc is not None and loc.line == 2 and ("tmua" in loc.source or "t0s" in loc.source)


@pytest.mark.parametrize("board", ["pi4", "pi5"])
def test_timeouts_do_not_lose_the_device(board: str) -> None:
    with qpu.open_device(board) as gpu, pytest.raises((qpu.GpuTimeoutError, qpu.GpuResetError)):
        gpu.run(endless(gpu.isa), [0], timeout_s=0.05)


# -- uniforms and buffers


def test_uniform_words() -> None:
    words = np.frombuffer(
        pack_uniforms([1, -1, 0xFFFFFFFF, 1.0, np.float32(2), np.int32(-2), [3, (4,)], np.array([5, 6], np.uint32)]),
        np.uint32,
    )
    assert words.tolist() == [1, 0xFFFFFFFF, 0xFFFFFFFF, 0x3F800000, 0x40000000, 0xFFFFFFFE, 3, 4, 5, 6]


@pytest.mark.parametrize(
    "bad", [1 << 32, -(1 << 31) - 1, 1e39, True, "x", None, np.array([1.0]), np.arange(3, dtype=np.int64)]
)
def test_bad_uniforms_name_their_place(bad: Any) -> None:
    with pytest.raises(qpu.UsageError, match="uniform 1"):
        pack_uniforms([7, bad])


def test_buffer_views_and_copies(pi5: Device) -> None:
    data = np.arange(12, dtype=np.int32).reshape(3, 4)
    x = pi5.array(data)
    assert x.shape == (3, 4) and len(x) == 3 and x.size == 12
    assert x[1].address == x.address + 16 and x[-1].address == x.address + 32 and x[1:].address == x[1].address
    np.testing.assert_array_equal(np.asarray(x), data)
    copy = x.numpy()
    x.write(5)
    assert (x.array == 5).all() and (copy == data).all()
    with pytest.raises(qpu.UsageError, match="shape"):
        x.write(np.zeros(5, np.int32))
    with pytest.raises(qpu.UsageError, match="dtype"):
        x.write(np.zeros((3, 4)))
    with pytest.raises(qpu.UsageError, match="outside"):
        _ = x[4]
    with pytest.raises(qpu.UsageError, match="step"):
        _ = x[::0]
    assert [part.address for part in x] == [x.address + 16 * i for i in range(3)]
    for i in (np.int64(1), np.uint8(1)):
        assert x[i] == x.view(16, (4,)) and x.view(16 * i) == x.view(16) and type(x[i].address) is int
    for bad in ("1", 1.0, None, (0, 1.0), True, slice("1", None), slice(0.5, None)):
        with pytest.raises(qpu.UsageError, match="whole number"):
            _ = x[bad]
    for bad in ("4", 4.0, None, True):
        with pytest.raises(qpu.UsageError, match="whole number"):
            x.view(bad)
    x.close()
    with pytest.raises(qpu.UsageError, match="closed"):
        x.write(5)
    assert (pi5.zeros((2, 2)).numpy() == 0).all()


def test_views_are_those_of_numpy(pi5: Device) -> None:
    data = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    x = pi5.array(data)
    for view, want in (
        (x[1], data[1]),
        (x[::-2, 1:3], data[::-2, 1:3]),
        (x[..., 3], data[..., 3]),
        (x[0, 1, 2], data[0, 1, 2]),
        (x[2:1], data[2:1]),
        (x[1:99, -2], data[1:99, -2]),
        (x.T[2], data.T[2]),
        (x[:, 0].transpose(1, 0)[::2], data[:, 0].T[::2]),
        (x[:, :1].broadcast_to((2, 3, 4, 5)), np.broadcast_to(data[:, :1], (2, 3, 4, 5))),
        (x.view(4, (2, 3)), data.reshape(-1)[2:8].reshape(2, 3)),
        (x.view(0, (15,), np.float64), data.reshape(-1).view(np.float64)),
        (x.view(118), data.reshape(-1)[59:]),
    ):
        np.testing.assert_array_equal(view.numpy(), want)
        assert view.shape == want.shape and view.size == want.size and view.contiguous == want.flags.c_contiguous
        assert view.address - x.address == view.offset
    for wrong, words in (
        (lambda: x[3], "outside the first axis"),
        (lambda: x[0, 4], "outside axis 1"),
        (lambda: x[0, 0, 0, 0], "4 indices for 3 axes"),
        (lambda: x.view(100, (11,)), "100..122 of a buffer of 120"),
        (lambda: BufferView(x, 0, (2,), None, (-2,)), "bytes -2..2"),
        (lambda: x.view(0, (2, -1)), r"shape \(2, -1\)"),
        (lambda: x[0].transpose(0, 0), "axes"),
        (lambda: x[0].broadcast_to((3, 5)), "cannot become"),
    ):
        with pytest.raises(qpu.UsageError, match=words):
            wrong()
    program = double(pi5.isa)
    with pytest.raises(qpu.UsageError, match=r"uniform 0: the elements of .* do not follow each other"):
        pi5.run(program, [x[0, 0, ::2], x])


def test_forgotten_uniforms_are_counted(gpu: Device) -> None:
    x, y, program = gpu.array(np.arange(16, dtype=np.float32)), gpu.zeros(16), double(gpu.isa)
    gpu.run(program, [x, y])
    for words, found in (([x], "uniform 2 of 1"), ([], "uniform 1 of 0")):
        with pytest.raises(qpu.EmuFault, match=found):
            gpu.run(program, words)
    gpu.run(program, [x, y])


def test_a_launch_nobody_waits_for_does_not_keep_closed_buffers() -> None:
    with qpu.open_device("pi3") as gpu:
        x, y = gpu.zeros(16), gpu.zeros(16)
        forgotten = gpu.submit(double(gpu.isa), [x, y])  # as an interrupt in `run` leaves it
        for _ in range(1000):
            if forgotten.done:
                break
            time.sleep(0.01)
        for _ in range(100):
            gpu.empty(16).close()
        assert len(gpu._pool._pending) <= 33 and not gpu._pool._running


def test_memory_comes_zeroed(gpu: Device) -> None:
    first = gpu.array(np.full(4096, 0xA5, np.uint8))
    first.close()
    assert not gpu.empty(4096, np.uint8).numpy().any()


@pytest.mark.parametrize("board", ["pi3", "pi5"])
def test_nothing_keeps_a_closed_device(board: str) -> None:
    """An emulated board has memory and files of its own: who opens many gets them back."""
    with qpu.open_device(board) as gpu:
        x = gpu.array(np.arange(16, dtype=np.float32))
        gpu.run(double(gpu.isa), [x, x])
        saxpy(2.0, x, gpu.zeros(16))
        assert float(gpu.xp.sum(gpu.xp.ones(16))) == 16
    with pytest.raises(qpu.UsageError, match="closed"):
        saxpy(2.0, x, x)
    kept = weakref.ref(gpu), weakref.ref(gpu._port)
    del gpu, x
    for _ in range(500):
        gc.collect()
        if kept[1]() is None:
            break
        time.sleep(0.01)  # a thread that executed launches may still be ending
    assert [k() for k in kept] == [None, None]
