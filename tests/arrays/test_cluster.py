"""Tests of `qpu.cluster`: a Dask cluster of three processes with an emulated Pi 3, Pi 4 and Pi 5."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("distributed")
import dask.array as da
from distributed import Client, LocalCluster

import qpu
import qpu.cluster
from qpu.array.current import use

pytestmark = [pytest.mark.full, pytest.mark.filterwarnings("default")]
F = np.float32


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with (
        qpu.open_device("pi5") as gpu,
        LocalCluster(n_workers=3, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        Client(cluster) as found,
    ):
        use(gpu)
        qpu.cluster.setup(found, ["pi3", "pi4", "pi5"])
        yield found
        use(None)


def test_a_graph_runs_on_three_boards(client: Any) -> None:
    """Elementwise functions, reductions, products, blocks and overlapping blocks."""
    boards = client.run(_board)
    assert sorted(boards.values()) == ["pi3", "pi4", "pi5"]
    a = np.random.default_rng(0).uniform(0, 1, (30, 40)).astype(F)
    x = qpu.cluster.to_qpu(da.from_array(a, chunks=(10, 20)))
    results = {
        "elementwise": (qpu.cluster.to_numpy(x * 2 + 1), a * 2 + 1),
        "sum": (qpu.cluster.to_numpy(x.sum(axis=0)), a.sum(axis=0)),
        "mean": (qpu.cluster.to_numpy(x.mean(axis=0)), a.mean(axis=0)),
        "product": (qpu.cluster.to_numpy(da.tensordot(x, x.T, axes=1)), a @ a.T),
        "matmul": (qpu.cluster.to_numpy(x @ x.T), a @ a.T),
        "blocks": (qpu.cluster.to_numpy(qpu.cluster.map_blocks(x, _halved)), a / 2),
        "overlap": (qpu.cluster.to_numpy(qpu.cluster.map_overlap(x, _smoothed, {0: 1, 1: 0})), _smoothed_numpy(a)),
    }
    found = client.compute([x for x, _ in results.values()], sync=True)
    for (name, (_, want)), got in zip(results.items(), found, strict=True):
        assert isinstance(got, np.ndarray), name
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-4, err_msg=name)
    with pytest.raises(qpu.UsageError, match="help:"):
        qpu.cluster.map_blocks(x, _lost).compute()


def _board() -> str:
    from qpu.array.current import current

    return str(current().info.emulated)


def _halved(block: Any) -> Any:
    return block / 2


def _lost(block: Any) -> Any:
    return block.numpy()


def _smoothed(block: Any) -> Any:
    y = block * 1.0
    y[1:-1] = (block[:-2] + block[1:-1] + block[2:]) / 3.0
    return y


def _smoothed_numpy(a: Any) -> Any:
    wide = np.pad(a, ((1, 1), (0, 0)), mode="edge")
    return (wide[:-2] + wide[1:-1] + wide[2:]) / F(3)


@pytest.mark.soak
def test_more_of_dask(client: Any) -> None:
    """Extremes, other chunks, stacks."""
    a = np.random.default_rng(2).uniform(0, 1, (30, 40)).astype(F)
    x = qpu.cluster.to_qpu(da.from_array(a, chunks=(10, 20)))
    for lazy, want in (
        (x.min(axis=1), a.min(axis=1)),
        (x.max(), a.max()),
        (x.rechunk((30, 8)) + 1, a + 1),
        (da.concatenate([x, x]), np.concatenate([a, a])),
        (x.T, a.T),
        (da.where(x > 0.5, x, x * 2), np.where(a > F(0.5), a, a * 2)),
    ):
        np.testing.assert_allclose(qpu.cluster.to_numpy(lazy).compute(), want, rtol=1e-6)


@pytest.mark.soak
def test_a_worker_that_is_killed(client: Any) -> None:
    """In the middle of its work, which is done again; the process that takes its place opens its device."""
    a = np.random.default_rng(1).uniform(0, 1, (64, 64)).astype(F)
    x = qpu.cluster.to_qpu(da.from_array(a, chunks=(8, 8)))
    processes = client.run(os.getpid)
    victim = next(iter(processes))
    future = client.compute(qpu.cluster.to_numpy(qpu.cluster.map_blocks(x, _slow)))
    while not client.processing()[victim]:
        time.sleep(0.01)
    os.kill(processes[victim], signal.SIGKILL)
    np.testing.assert_allclose(future.result(timeout=300), a + 1, rtol=1e-6)
    stop = time.monotonic() + 300
    boards: dict[str, str] = {}
    while len(boards) < 3 and time.monotonic() < stop:  # until another process has taken its place
        time.sleep(1)
        boards = client.run(_board, on_error="ignore")
    assert sorted(boards.values()) == ["pi3", "pi4", "pi5"]
    assert processes[victim] not in client.run(os.getpid).values()


def _slow(block: Any) -> Any:
    time.sleep(0.05)
    return block + 1
