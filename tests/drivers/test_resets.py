"""Tests of launches that a GPU reset cuts short: they are told from other launches, on old and new Linux."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from qpu.drivers.base import Completion, CsdJob
from qpu.drivers.drm.adapter import DrmV3d
from qpu.drivers.drm.resets import blame
from qpu.drivers.probe import open_driver
from qpu.emu.port import EmuPort
from qpu.errors import GpuResetError, GpuTimeoutError
from tests.hw.programs import endless, long


class Job:
    """The part of a fence that `blame` uses. word: state of the completion word; None without one."""

    def __init__(self, word: str | None = None) -> None:
        self.completion = None if word is None else self
        self.word = word or ""

    def missing(self) -> str:
        return self.word


def blamed(jobs: list[Job], before: int | None, now: int | None) -> list[int]:
    return sorted(jobs.index(f) for f, _ in blame(jobs, before, now))  # type: ignore[arg-type]  # Job is a substitute


def test_counters_and_completion_words_decide_together() -> None:
    assert blamed([Job(), Job()], 3, 3) == []
    assert blamed([Job()], 3, 4) == [0]
    assert blamed([Job("no"), Job()], None, None) == [0]
    assert blamed([Job("no"), Job()], 0, 1) == [0]
    assert blamed([Job(""), Job()], 0, 1) == [1]
    assert blamed([Job("no"), Job(), Job("")], 0, 2) == [0, 1]
    assert blamed([Job(), Job(), Job("")], 0, 1) == [0, 1]  # one of two; both may be cut short
    assert "another of the 2 launches" in blame([Job(), Job()], 0, 1)[0][1]  # type: ignore[list-item]
    assert blamed([Job("")], 0, 1) == [0]  # the program set its word and hung afterwards


def job(driver: DrmV3d, *, count: int | None, **changes: Any) -> CsdJob:
    """A dispatch that counts down from `count`, or never ends."""
    program = endless(driver.info.isa) if count is None else long(driver.info.isa)
    bo = driver.alloc(8192)
    bo.view[: len(program.data)] = program.data
    bo.view[4096:4100] = (count or 0).to_bytes(4, "little")
    return CsdJob(code=bo.address, uniforms=bo.address + 4096, bos=(bo,), **changes)


def opened(board: str) -> DrmV3d:
    driver = open_driver(EmuPort(board))
    assert isinstance(driver, DrmV3d)
    return driver


@pytest.mark.parametrize("board", ["pi4,watchdog=5", "pi5,watchdog=5"])
def test_only_the_launch_that_hangs_is_blamed(board: str) -> None:
    driver = opened(board)
    good, bad = job(driver, count=10), job(driver, count=None)
    fences = [driver.submit(j) for j in (good, bad, good, bad, good)]
    fences[4].wait(5.0)
    assert [f.error is None for f in fences] == [True, False, True, False, True]
    for at, queued in ((1, 3), (3, 1)):
        with pytest.raises(GpuResetError, match=f"{queued} later launches are queued"):
            fences[at].wait(5.0)
    last = driver.submit(bad)
    with pytest.raises(GpuResetError, match="3 resets, 2 before the job; it runs a trivial job again"):
        last.wait(5.0)
    driver.submit(good).wait(1.0)
    driver.close()


def test_polling_finds_the_same() -> None:
    driver = opened("pi5,watchdog=5")
    fences = [driver.submit(job(driver, count=n)) for n in (10, None, 10)]
    while not fences[2].poll():
        pass
    assert [f.error is None for f in fences] == [True, False, True]
    driver.close()


def test_who_looks_late_cannot_tell_and_says_so() -> None:
    """All launches end during a wait of another thread, before the counter is read."""
    port = EmuPort("pi5")
    mine, other = open_driver(port), open_driver(port)
    assert isinstance(mine, DrmV3d) and isinstance(other, DrmV3d)
    fences = [mine.submit(job(mine, count=n)) for n in (None, 10)]
    other.submit(job(other, count=1000), after=fences).wait(5.0)
    with pytest.raises(GpuResetError, match="may be another of the 2 launches"):
        fences[0].wait(1.0)
    with pytest.raises(GpuResetError, match="may be another of the 2 launches"):
        fences[1].wait(1.0)
    mine.submit(job(mine, count=10)).wait(1.0)
    mine.close()
    other.close()
    port.shutdown()


def test_resets_of_another_program_are_not_ours() -> None:
    port = EmuPort("pi5,watchdog=5")
    mine, other = open_driver(port), open_driver(port)
    assert isinstance(mine, DrmV3d) and isinstance(other, DrmV3d)
    bad = other.submit(job(other, count=None))
    good = mine.submit(job(mine, count=10))
    good.wait(5.0)
    with pytest.raises(GpuResetError):
        bad.wait(5.0)
    mine.close()
    other.close()
    port.shutdown()


@pytest.mark.parametrize("board", ["pi4,linux=old", "pi5,linux=old"])
def test_kernels_that_count_no_resets(board: str) -> None:
    """The completion word shows the reset; without one there is one warning about a launch that may be cut short."""
    driver = opened(f"{board},watchdog=5")
    word = driver.alloc(64)
    bad = job(driver, count=None)
    marked = CsdJob(code=bad.code, uniforms=bad.uniforms, bos=(*bad.bos, word), completion=Completion(word, 8, 1))
    with pytest.raises(GpuResetError, match="completion word 0x0 instead of 0x1; it runs a trivial job again"):
        driver.submit(marked).wait(5.0)
    word.view[8] = 1  # as a program at its end
    driver.submit(marked).wait(5.0)
    driver.close()

    driver = opened(board)
    bad, good = job(driver, count=None), job(driver, count=10)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        driver.submit(good).wait(1.0)
        assert not caught
        for _ in range(2):
            driver.submit(bad).wait(5.0)
    assert [str(w.message).partition(":")[0] for w in caught] == [driver.info.node]
    assert "does not count GPU resets" in str(caught[0].message)
    driver.close()


def test_a_timeout_is_not_an_end() -> None:
    driver = opened("pi5,watchdog=50")
    fence = driver.submit(job(driver, count=None))
    with pytest.raises(GpuTimeoutError, match="0 resets so far"):
        fence.wait(0.01)
    assert not fence.done
    with pytest.raises(GpuResetError):
        fence.wait(1.0)
    assert fence.done
    driver.close()
