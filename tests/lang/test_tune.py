"""Knobs that are chosen by trying them, and the file of what was found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qpu
from qpu.lang import cache, kernel, tune
from qpu.lang.schedule import Schedule
from tests.lang import kernels as ks
from tests.lang.rig import script

loops = script("benchmarks/_loops.py")


@pytest.mark.parametrize("board", ["pi3", "pi4", "pi5"])
def test_the_cheapest_comes_first_and_results_stay(board: str) -> None:
    with qpu.open_device(board, engine="reference") as gpu:
        made: list[Any] = []

        def arguments() -> tuple[Any, ...]:
            made.append(gpu.array(np.ones(2000, np.float32)))
            return 2.0, gpu.array(np.arange(2000, dtype=np.float32)), made[-1]

        found = tune.trials(kernel(ks.saxpy.fn), gpu, arguments)
        assert [t.cost for t in found] == sorted(t.cost for t in found) and len(found) >= 3
        assert any(t.schedule == Schedule() for t in found)
        want = np.arange(2000, dtype=np.float32) * 2 + 1
        assert all(np.array_equal(y.numpy(), want) for y in made)


def test_a_board_has_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter((3.0, 1.0, 2.0))
    monkeypatch.setattr(tune, "_seconds", lambda launch, arguments: next(seconds))
    k = kernel(ks.saxpy.fn)
    ranked = [tune.Trial(n, Schedule(coarsen=c)) for n, c in enumerate((8, 4, 2, None))]
    with qpu.open_device("pi5", engine="reference") as gpu:
        found = tune.confirmed(k, ranked, gpu, lambda: (), most=2)
    assert [(t.cost, t.schedule.coarsen) for t in found] == [(1.0, 4), (2.0, None), (3.0, 8)]


def test_the_file_decides_where_the_kernel_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QPU_CACHE_DIR", "off")
    name = cache.identity(ks.saxpy.source)
    assert name is not None
    file = tmp_path / "tuned.json"
    file.write_text(json.dumps({name: {"v3d71": {"coarsen": 2}}}))
    monkeypatch.setattr(tune, "FILE", file)
    tune._file.cache_clear()
    try:
        assert kernel(ks.saxpy.fn).compile("v3d71").coarsen == 2
        assert kernel(ks.saxpy.fn).compile("v3d42").coarsen == 4
        assert kernel(coarsen=1)(ks.saxpy.fn).compile("v3d71").coarsen == 1
    finally:
        tune._file.cache_clear()


def test_a_kernel_has_the_same_identity_under_every_python() -> None:
    """The names in the file were found under one Python; under another one the knobs must not be lost."""
    assert cache.identity(ks.saxpy.source) == "ee53d4a49168128d5a0acedc2c1ec491"


def test_the_file_that_ships_is_whole() -> None:
    known = json.loads(tune.FILE.read_text())
    assert {cache.identity(k.source) for k in (loops.polynomial, loops.soft)} <= known.keys()
    for isas in known.values():
        for isa, knobs in isas.items():
            assert qpu.Isa(isa)
            Schedule.of(knobs)
