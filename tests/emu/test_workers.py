"""Tests of the host threads that engines share work with."""

from __future__ import annotations

import threading
import time

import pytest

from qpu.emu.engine.workers import Workers


def test_every_item_is_done_once_and_by_more_than_one_thread() -> None:
    crew = Workers(3)
    done: list[tuple[int, int, int]] = []

    def work(item: int, worker: int) -> None:
        time.sleep(0.002)  # long enough for the other threads to begin
        done.append((item, worker, threading.get_ident()))

    crew.share(range(60), work)
    crew.close()
    assert sorted(item for item, _, _ in done) == list(range(60))
    used = {worker: {ident for _, w, ident in done if w == worker} for _, worker, _ in done}
    assert len(used) > 1 and all(len(threads) == 1 for threads in used.values())
    assert used[0] == {threading.get_ident()}


def test_one_item_and_one_worker_need_no_threads() -> None:
    for crew, items in ((Workers(4), [1]), (Workers(1), [1, 2, 3])):
        threads = []
        crew.share(items, lambda item, worker, threads=threads: threads.append((worker, threading.get_ident())))  # type: ignore[misc]
        assert threads == [(0, threading.get_ident())] * len(items)
        assert crew._pool is None


@pytest.mark.parametrize("bad", [0, 1])
def test_an_exception_of_any_worker_reaches_the_caller_after_all_have_returned(bad: int) -> None:
    crew = Workers(2)
    both = threading.Barrier(2, timeout=60)
    left: list[int] = []

    def work(item: int, worker: int) -> None:
        both.wait()
        if worker == bad:
            raise ZeroDivisionError
        time.sleep(0.01)
        left.append(item)

    with pytest.raises(ZeroDivisionError):
        crew.share([1, 2], work)
    assert len(left) == 1
    crew.close()
