"""Tests of the DRM v3d adapter on a scripted driver: call sequences, errors, resets, leaks."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from qpu.core.isa import Isa
from qpu.drivers.base import Completion, CsdJob, QpuJob
from qpu.drivers.board import UNKNOWN, board_from
from qpu.drivers.drm.adapter import TRIVIAL, DrmBo, DrmV3d, open_adapter
from qpu.drivers.drm.identity import Identity
from qpu.drivers.uapi.drm import Param
from qpu.errors import DriverError, GpuResetError, GpuTimeoutError, UsageError
from tests.drivers.fakes import OLD, PARAMS_42, PARAMS_71, FakePort, os_error

PI5 = board_from(revision=bytes.fromhex("00c04170"))
PARAM_READS = ["GET_PARAM"] * (len(Param) + 1)


@contextmanager
def opened(port: FakePort | None = None) -> Iterator[tuple[FakePort, DrmV3d]]:
    port = FakePort() if port is None else port
    driver = open_adapter(port, PI5)
    try:
        yield port, driver
    finally:
        driver.close()
        assert port.leaks() == {}


def dispatch(bo: DrmBo, *more: DrmBo, **changes: Any) -> CsdJob:
    return CsdJob(code=bo.address, uniforms=bo.address + 512, bos=(bo, *more), **changes)


# -- identity


def test_info() -> None:
    with opened() as (_, driver):
        info = driver.info
        assert (info.isa, info.slices, info.qpus_per_slice, info.qpus) == (Isa.V3D71, 4, 4, 16)
        assert (info.adapter, info.node, info.driver) == ("drm_v3d", "/dev/dri/renderD128", "v3d 1.0.0")
        assert (info.revision, info.emulated, info.clock_hz) == ("7.1.7", None, 910_000_000)


def test_identity_of_a_pi_4() -> None:
    got = Identity.decode(PARAMS_42)
    assert (got.version, got.revision, got.slices, got.qpus_per_slice, got.cores) == (42, 14, 2, 4, 1)
    assert (got.vpm_bytes, got.semaphores, got.label) == (64 << 10, 0, "4.2.14")
    with opened(FakePort(params=PARAMS_42)) as (_, driver):
        assert driver.info.isa is Isa.V3D42


def test_slices_are_never_taken_from_a_table() -> None:
    with opened(FakePort(params=PARAMS_71 | {Param.V3D_CORE0_IDENT1: 0x004431})) as (_, driver):
        assert (driver.info.slices, driver.info.qpus) == (3, 12)


def test_board_unknown_without_device_tree() -> None:
    driver = open_adapter(FakePort(params=PARAMS_42), UNKNOWN)
    assert (driver.info.board.soc, driver.info.board.generation) == ("BCM2711", 6)
    driver.close()


def test_old_linux() -> None:
    with opened(FakePort(params=OLD)) as (port, driver):
        assert set(driver.identity.params) == set(OLD)
        bo = driver.alloc(100)
        driver.submit(dispatch(bo)).wait(1)
        assert port.calls.count("GET_PARAM") == len(Param)  # absent counters are not asked for again
        with pytest.raises(DriverError, match="older than the parameter"), driver.counters(["cycle-count"]):
            pass


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({Param.SUPPORTS_CSD: 0}, "no compute dispatch"),
        ({Param.V3D_CORE0_IDENT0: 0x09443356}, "V3D of unknown version"),
        ({Param.V3D_CORE0_IDENT0: 0x07000000}, "V3D of unknown version"),
    ],
)
def test_gpus_that_cannot_be_used(change: dict[Param, int], message: str) -> None:
    port = FakePort(params=PARAMS_71 | change)
    with pytest.raises(DriverError, match=message):
        open_adapter(port, PI5)
    assert port.leaks() == {}


# -- call sequences


def test_calls_of_a_launch() -> None:
    port = FakePort(nodes={"/dev/dri/renderD128": "v3d"})
    driver = open_adapter(port, PI5)
    assert port.calls == ["open /dev/dri/renderD128", "VERSION", *PARAM_READS]
    port.calls.clear()
    bo = driver.alloc(5000)
    assert (bo.size, bo.address % 4096, len(bo.view)) == (8192, 0, 8192)
    assert port.calls == ["CREATE_BO", "MMAP_BO", "mmap"]
    port.calls.clear()
    fence = driver.submit(dispatch(bo))
    assert port.calls == ["SYNCOBJ_CREATE", "SUBMIT_CSD"]
    port.calls.clear()
    fence.wait(1.0)
    assert port.calls == ["WAIT_BO", "GET_PARAM"]
    port.calls.clear()
    fence.wait(1.0)
    assert fence.poll()
    assert port.calls == []
    driver.submit(dispatch(bo)).wait()
    assert port.calls == ["SUBMIT_CSD", "WAIT_BO", "GET_PARAM"]  # the sync object is used again
    port.calls.clear()
    bo.close()
    bo.close()
    assert port.calls == ["GEM_CLOSE"]
    port.calls.clear()
    driver.close()
    driver.close()
    assert port.calls == ["close"]
    assert port.leaks() == {}


def test_registers_reach_the_kernel() -> None:
    with opened() as (port, driver):
        bo = driver.alloc(4096)
        driver.submit(dispatch(bo, workgroups=(6, 1, 1)))
        one = 1 << 16
        assert port.jobs[0]["cfg"] == (6 << 16, one, one, 16 | 1 << 8, 6, bo.address | 1, bo.address + 512)


def test_duplicate_buffers_are_listed_once() -> None:
    with opened() as (port, driver):
        a, b = driver.alloc(1), driver.alloc(1)
        driver.submit(dispatch(a, b, a, b))
        assert port.jobs[0]["handles"] == [a.handle, b.handle]


def test_each_launch_is_awaited_on_its_own() -> None:
    with opened() as (port, driver):
        bo = driver.alloc(1)
        first, second, third = (driver.submit(dispatch(bo)) for _ in range(3))
        port.calls.clear()
        second.wait(1)
        # In order, to attribute resets; waiting on the buffer would also wait for the third job.
        assert port.calls == 2 * ["SYNCOBJ_WAIT", "GET_PARAM"]
        assert (first.done, second.done, third.done) == (True, True, False)
        assert not port.jobs[2]["done"]
        third.wait(1)
        assert port.calls[4:] == ["WAIT_BO", "GET_PARAM"]


def test_poll() -> None:
    with opened() as (port, driver):
        fence = driver.submit(dispatch(driver.alloc(1)))
        port.hang = True
        assert not fence.poll()
        port.hang = False
        assert fence.poll()


# -- errors of calls


def failing(what: str, number: int, times: int = 10**9) -> Callable[[int, str], None]:
    left = [times]

    def before(n: int, call: str) -> None:
        if call == what and left[0]:
            left[0] -= 1
            raise os_error(number)

    return before


@pytest.mark.parametrize(
    ("call", "number", "message"),
    [
        ("CREATE_BO", errno.ENOMEM, "4096 bytes asked for, 2097152 bytes available"),
        ("CREATE_BO", errno.ENOSPC, "have no free range of that size"),
        ("CREATE_BO", errno.EINVAL, "belongs to another driver"),
        ("CREATE_BO", errno.EIO, "EIO"),
        ("MMAP_BO", errno.ENOENT, "V3D_MMAP_BO: ENOENT"),
        ("mmap", errno.EMFILE, "too many files open"),
        ("mmap", errno.ENOMEM, "mmap: ENOMEM"),
    ],
)
def test_alloc_fails(call: str, number: int, message: str) -> None:
    port = FakePort(files={"/proc/meminfo": b"MemTotal: 4096 kB\nMemAvailable:    2048 kB\n"})
    with opened(port) as (_, driver):
        port.before = failing(call, number)
        with pytest.raises(DriverError, match=message) as caught:
            driver.alloc(10)
        assert caught.value.errno == number
        assert "\n  help: " in str(caught.value)
        assert port.leaks() == {"fds": 1}


def test_alloc_sizes() -> None:
    with opened() as (_, driver):
        for size in (0, -1, 0x1_0000_0000):
            with pytest.raises(UsageError, match=f"a buffer of {size} bytes"):
                driver.alloc(size)


def test_alloc_collects_finished_launches_before_it_gives_up() -> None:
    with opened() as (port, driver):
        bo = driver.alloc(1)
        driver.submit(dispatch(bo))
        bo.close()
        assert port.leaks()["bos"] == 1  # still in use
        port.before = failing("CREATE_BO", errno.ENOMEM, 1)
        driver.alloc(1)
        assert port.leaks()["bos"] == 1


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.EACCES, "use the render node"),
        (errno.EINVAL, "refused the job description"),
        (errno.ENOENT, "was freed"),
        (errno.ENOMEM, "out of memory"),
        (errno.EAGAIN, "EAGAIN"),
        (errno.ENODEV, "driver is not loaded any more"),
    ],
)
def test_submit_fails(number: int, message: str) -> None:
    with opened() as (port, driver):
        bo = driver.alloc(1)
        port.before = failing("SUBMIT_CSD", number)
        with pytest.raises(DriverError, match=message) as caught:
            driver.submit(dispatch(bo))
        assert caught.value.errno == number
        assert "cfg 0x10000 0x10000 0x10000 0x110 0x1 " in str(caught.value)
        port.before = lambda n, what: None
        driver.submit(dispatch(bo)).wait(1)
        assert port.calls.count("SYNCOBJ_CREATE") == 1


def test_refused_before_any_call() -> None:
    with opened() as (port, driver):
        other = open_adapter(port, PI5)
        foreign, closed, mine = other.alloc(1), driver.alloc(1), driver.alloc(1)
        other.close()
        closed.close()
        port.calls.clear()
        for job, message in [
            (dispatch(foreign), "another device"),
            (dispatch(closed), "closed buffer"),
            (dispatch(mine, workgroup_size=0), "workgroup_size = 0"),
            (QpuJob(()), "submit a CsdJob"),
        ]:
            with pytest.raises(UsageError, match=message):
                driver.submit(job)
        with pytest.raises(UsageError, match="does not list"):
            driver.submit(dispatch(mine, completion=Completion(closed, 0, 1)))
        assert port.calls == []


@pytest.mark.parametrize("call", ["WAIT_BO", "SUBMIT_CSD", "CREATE_BO", "GEM_CLOSE", "SYNCOBJ_CREATE", "GET_PARAM"])
def test_interrupted_calls_are_repeated(call: str) -> None:
    port = FakePort()
    port.before = failing(call, errno.EINTR, 3)
    with opened(port) as (_, driver):
        bo = driver.alloc(1)
        driver.submit(dispatch(bo)).wait(1)
        bo.close()
        assert port.leaks() == {"fds": 1, "syncobjs": 1}


def test_endless_interruption_ends() -> None:
    with opened() as (port, driver):

        def before(n: int, what: str) -> None:
            if what == "CREATE_BO":
                port.clock += 1
                raise os_error(errno.EINTR)

        port.before = before
        with pytest.raises(DriverError, match="EINTR"):
            driver.alloc(1)


def test_ctrl_c_during_a_wait() -> None:
    with opened() as (port, driver):
        bo = driver.alloc(1)
        fence = driver.submit(dispatch(bo))

        def before(n: int, what: str) -> None:
            if what == "WAIT_BO":
                raise KeyboardInterrupt

        port.before = before
        with pytest.raises(KeyboardInterrupt):
            fence.wait(1)
        port.before = lambda n, what: None
        assert not fence.done
        fence.wait(1)


# -- waiting against a deadline


def test_timeout_rebuilds_the_remaining_time() -> None:
    with opened() as (port, driver):
        fence = driver.submit(dispatch(driver.alloc(1)))
        seen: list[int] = []
        handler = port.do_wait_bo

        def slow(v: dict[str, Any], name: str) -> None:
            seen.append(v["timeout_ns"])
            port.clock += 0.4
            raise os_error(errno.EINTR if len(seen) % 2 else errno.EAGAIN)

        port.do_wait_bo = slow  # type: ignore[method-assign]
        with pytest.raises(GpuTimeoutError, match=r"1 s: ETIME"):
            fence.wait(1.0)
        assert [round(ns / 1e9, 1) for ns in seen] == [1.0, 0.6, 0.2]
        port.do_wait_bo = handler  # type: ignore[method-assign]
        fence.wait(1.0)


def test_timeout_keeps_the_buffers() -> None:
    with opened() as (port, driver):
        bo = driver.alloc(1)
        fence = driver.submit(dispatch(bo))
        port.hang = True
        with pytest.raises(GpuTimeoutError, match="0 resets so far; the job keeps 1 buffer until it ends") as caught:
            fence.wait(0.5)
        assert isinstance(caught.value, TimeoutError)
        assert caught.value.errno == errno.ETIME
        bo.close()
        assert port.leaks()["bos"] == 1
        assert "maps" not in port.leaks()
        port.hang = False
        fence.wait(0.5)
        assert "bos" not in port.leaks()


def test_waiting_without_a_limit() -> None:
    with opened() as (port, driver):
        fence = driver.submit(dispatch(driver.alloc(1)))
        port.before = failing("WAIT_BO", errno.ETIME, 2)
        fence.wait(None)
        assert fence.done


def test_wait_errors() -> None:
    with opened() as (port, driver):
        fence = driver.submit(dispatch(driver.alloc(1)))
        port.before = failing("WAIT_BO", errno.EINVAL, 1)
        with pytest.raises(DriverError, match="WAIT_BO: EINVAL"):
            fence.wait(1)
        assert not fence.done


# -- resets


def test_a_reset_is_an_error_and_says_whether_the_gpu_lives() -> None:
    with opened() as (port, driver):
        bo = driver.alloc(1)
        fence = driver.submit(dispatch(bo))
        port.params[Param.CONTEXT_RESET_COUNTER] = 1
        port.params[Param.GLOBAL_RESET_COUNTER] = 1
        with pytest.raises(GpuResetError, match="1 reset, 0 before the job; it runs a trivial job again"):
            fence.wait(1)
        with pytest.raises(GpuResetError):
            fence.wait(1)
        assert len(port.jobs) == 2
        driver.submit(dispatch(bo)).wait(1)  # usable again


def test_a_reset_after_which_nothing_runs() -> None:
    with opened() as (port, driver):
        fence = driver.submit(dispatch(driver.alloc(1)))
        handler = port.do_submit_csd

        def hang_from_here(v: dict[str, Any], name: str) -> None:
            handler(v, name)
            port.hang = True

        port.do_submit_csd = hang_from_here  # type: ignore[method-assign]
        port.params[Param.CONTEXT_RESET_COUNTER] = 1
        with pytest.raises(GpuResetError, match="it does not run a trivial job: reboot"):
            fence.wait(1)


def test_resets_of_other_programs_do_not_matter() -> None:
    with opened() as (port, driver):
        fence = driver.submit(dispatch(driver.alloc(1)))
        port.params[Param.GLOBAL_RESET_COUNTER] = 5
        fence.wait(1)


def test_a_missing_completion_word_is_a_reset() -> None:
    with opened(FakePort(params=OLD)) as (_, driver):
        bo = driver.alloc(64)
        bo.view[8:12] = (0xC0FFEE).to_bytes(4, "little")
        driver.submit(dispatch(bo, completion=Completion(bo, 8, 0xC0FFEE))).wait(1)
        fence = driver.submit(dispatch(bo, completion=Completion(bo, 12, 0xC0FFEE)))
        with pytest.raises(GpuResetError, match="completion word 0x0 instead of 0xc0ffee"):
            fence.wait(1)


@pytest.mark.parametrize("isa", [Isa.V3D42, Isa.V3D71])
def test_trivial_program(isa: Isa) -> None:
    toolkit = pytest.importorskip("qpu").isa(isa)
    assert [" ".join(toolkit.disassemble(word).split()) for word in TRIVIAL[isa]] == [
        "nop ; nop ; thrsw",
        "nop ; nop",
        "nop ; nop",
    ]


# -- fences of other devices


def test_waiting_for_another_device_in_the_kernel() -> None:
    port = FakePort()
    with opened(port) as (_, one):
        two = open_adapter(port, PI5)
        bo = one.alloc(1)
        fences = [two.submit(dispatch(two.alloc(1))) for _ in range(2)]
        port.calls.clear()
        one.submit(dispatch(bo), after=fences[:1])
        assert port.calls == [
            "SYNCOBJ_HANDLE_TO_FD",
            "SYNCOBJ_FD_TO_HANDLE",
            "close",
            "SYNCOBJ_CREATE",
            "SUBMIT_CSD",
            "SYNCOBJ_DESTROY",
        ]
        assert len(port.jobs[-1]["waits"]) == 1
        one.submit(dispatch(bo), after=fences)
        assert len(port.jobs[-1]["waits"]) == 2  # multisync
        assert port.exported == 0
        last = one.submit(dispatch(bo))
        one.submit(dispatch(bo), after=[last])  # in order anyway
        assert port.jobs[-1]["waits"] == []
        two.close()


def test_waiting_for_another_device_here() -> None:
    port = FakePort(params=PARAMS_42 | {Param.SUPPORTS_MULTISYNC_EXT: 0})
    with opened(port) as (_, one):
        two = open_adapter(port, PI5)
        fences = [two.submit(dispatch(two.alloc(1))) for _ in range(2)]
        one.submit(dispatch(one.alloc(1)), after=fences)
        assert fences[1].done
        assert len(port.jobs[-1]["waits"]) == 1
        two.close()


def test_no_sync_objects() -> None:
    port = FakePort()
    port.before = failing("SYNCOBJ_CREATE", errno.EOPNOTSUPP)
    with opened(port) as (_, driver):
        bo = driver.alloc(1)
        first, second = driver.submit(dispatch(bo)), driver.submit(dispatch(bo))
        first.wait(1)
        second.wait(1)
        assert "SYNCOBJ_WAIT" not in port.calls


# -- counters


def test_counters() -> None:
    with opened() as (port, driver):
        bo = driver.alloc(1)
        with driver.counters(["counter-7", "counter-3"]) as values:
            driver.submit(dispatch(bo))
            assert port.jobs[-1]["perfmon"] == 1
            with pytest.raises(UsageError, match="read already"), driver.counters(["counter-1"]):
                pass
        assert values == {"counter-7": 1007, "counter-3": 1003}
        assert port.jobs[-1]["done"]
        assert port.perfmons == {}
        driver.submit(dispatch(bo))
        assert port.jobs[-1]["perfmon"] == 0


def test_counters_of_an_older_linux_end_at_86() -> None:
    params = {p: v for p, v in PARAMS_71.items() if p <= Param.SUPPORTS_CPU_QUEUE}
    with opened(FakePort(params=params)) as (_, driver):
        assert len(driver.counter_names()) == 87
        assert driver.counter_names()[83] == "QPU-active"
        with pytest.raises(UsageError, match="QPU-stalls-other"), driver.counters(["QPU-stalls-other"]):
            pass


def test_counters_are_destroyed_when_the_block_fails() -> None:
    with opened() as (port, driver):
        with pytest.raises(RuntimeError), driver.counters(["counter-7"]) as values:
            raise RuntimeError
        assert values == {}
        assert port.perfmons == {}


def test_a_global_monitor_elsewhere() -> None:
    with opened() as (port, driver):
        bo = driver.alloc(1)
        port.before = failing("SUBMIT_CSD", errno.EAGAIN)
        with driver.counters(["counter-7"]), pytest.raises(DriverError, match="a global performance monitor is active"):
            driver.submit(dispatch(bo))
        assert port.calls.count("SUBMIT_CSD") == 1


# -- life


def test_buffers_with_views_cannot_be_closed() -> None:
    with opened() as (port, driver):
        bo = driver.alloc(1)
        view = bo.view
        with pytest.raises(BufferError):
            bo.close()
        assert not bo.closed
        del view
        bo.close()
        with pytest.raises(UsageError, match="this buffer is closed"):
            _ = bo.view
        assert port.leaks() == {"fds": 1}


def test_use_after_close() -> None:
    with opened() as (_, driver):
        bo = driver.alloc(1)
        fence = driver.submit(dispatch(bo))
        driver.close()
        for call in (lambda: driver.alloc(1), lambda: driver.submit(dispatch(bo)), driver.counter_names):
            with pytest.raises(UsageError, match="closed"):
                call()
        with pytest.raises(DriverError, match="closed before the job had ended"):
            fence.wait(1)
        bo.close()


def test_fork_is_noticed() -> None:
    port = FakePort()
    driver = open_adapter(port, PI5)
    bo = driver.alloc(1)
    fence = driver.submit(dispatch(bo))
    port.pid += 1
    for call in (lambda: driver.alloc(1), lambda: driver.submit(dispatch(bo)), lambda: fence.wait(1)):
        with pytest.raises(UsageError, match=r"before fork\(\)"):
            call()
    port.calls.clear()
    bo.close()
    assert port.calls == []  # the handle is the parent's
    driver.close()


def scenario(port: FakePort) -> None:
    driver = open_adapter(port, PI5)
    try:
        a, b = driver.alloc(4096), driver.alloc(100_000)
        driver.submit(dispatch(a, b)).wait(1)
        with driver.counters(["counter-1"]):
            fences = [driver.submit(dispatch(a, b)) for _ in range(3)]
            fences[0].wait(1)
        assert all(f.poll() for f in fences)
        a.close()
        driver.check_alive()
    finally:
        driver.close()


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOMEM, errno.EINVAL, errno.EACCES])
def test_a_failure_at_any_call_leaves_nothing(number: int) -> None:
    clean = FakePort()
    scenario(clean)
    assert clean.leaks() == {}
    total = len(clean.calls)
    assert total > 40
    for at in range(1, total + 1):
        port = FakePort()

        def before(n: int, what: str, at: int = at) -> None:
            if n == at:
                raise os_error(number)

        port.before = before
        try:
            scenario(port)
        except (
            OSError,
            UsageError,
        ):  # UsageError: a parameter answered EINVAL counts as absent, so the name is unknown
            pass
        assert port.leaks() == {}, f"call {at}: {port.calls[at - 1]}"


@pytest.mark.parametrize("kind", [KeyboardInterrupt, MemoryError])
def test_an_exception_at_any_call_leaves_nothing(kind: type[BaseException]) -> None:
    clean = FakePort()
    scenario(clean)
    for at in range(1, len(clean.calls) + 1):
        port = FakePort()

        def before(n: int, what: str, at: int = at) -> None:
            if n == at:
                raise kind

        port.before = before
        with pytest.raises(kind):
            scenario(port)
        assert port.leaks() == {}, f"call {at}: {port.calls[at - 1]}"


def test_many_forgotten_launches_do_not_pile_up() -> None:
    with opened() as (port, driver):
        bo = driver.alloc(1)
        for _ in range(1000):
            driver.submit(dispatch(bo))
        assert len(port.syncobjs) <= 65


def test_two_threads() -> None:
    import threading

    with opened() as (port, driver):
        errors: list[BaseException] = []

        def work() -> None:
            try:
                for _ in range(100):
                    bo = driver.alloc(1)
                    driver.submit(dispatch(bo)).wait(1)
                    bo.close()
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert "bos" not in port.leaks()


def test_host_pointers_are_alive_during_the_call() -> None:
    with opened() as (port, driver):
        bos = [driver.alloc(1) for _ in range(50)]
        seen: list[list[int]] = []
        handler = port.do_submit_csd

        def look(v: dict[str, Any], name: str) -> None:
            seen.append(list((ctypes.c_uint32 * v["bo_handle_count"]).from_address(v["bo_handles"])))
            handler(v, name)

        port.do_submit_csd = look  # type: ignore[method-assign]
        driver.submit(dispatch(*bos))
        assert seen == [[bo.handle for bo in bos]]
