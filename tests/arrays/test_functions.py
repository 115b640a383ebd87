"""Functions of the namespace beyond elementwise ones, against NumPy; each test on one board in turn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qpu.device import Device
from qpu.errors import UsageError

F = np.float32


def data(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(F)


def test_creation(gpu: Device) -> None:
    xp = gpu.xp
    for found, want in (
        (xp.arange(5), np.arange(5, dtype=np.int32)),
        (xp.arange(1.0, 2.0, 0.25), np.arange(1, 2, 0.25, dtype=F)),
        (xp.linspace(0, 1, 7), np.linspace(0, 1, 7, dtype=F)),
        (xp.eye(3, 4, k=1), np.eye(3, 4, 1, F)),
        (xp.full((2, 3), 7), np.full((2, 3), 7, np.int32)),
        (xp.ones_like(xp.zeros((2, 0))), np.ones((2, 0), F)),
        (xp.tril(xp.ones((3, 3))), np.tril(np.ones((3, 3), F))),
        (xp.triu(xp.ones((3, 3)), k=1), np.triu(np.ones((3, 3), F), 1)),
        (xp.meshgrid(xp.arange(2), xp.arange(3))[1], np.meshgrid(np.arange(2), np.arange(3))[1].astype(np.int32)),
        (xp.asarray([[1, 2], [3, 4]]), np.array([[1, 2], [3, 4]], np.int32)),
        (xp.asarray([[xp.asarray(1), 2], (3, xp.sum(xp.asarray([4])))]), np.array([[1, 2], [3, 4]], np.int32)),
        (xp.asarray([1 + 2j]), np.array([1 + 2j], np.complex64)),
    ):
        assert found.dtype == want.dtype
        np.testing.assert_array_equal(found.numpy(), want)


def test_manipulation(gpu: Device) -> None:
    xp = gpu.xp
    a = data(3, 4)
    x = xp.asarray(a)
    for found, want in (
        (xp.concat([x, x], axis=1), np.concatenate([a, a], 1)),
        (xp.stack([x, x], axis=1), np.stack([a, a], 1)),
        (xp.roll(x, 1, axis=1), np.roll(a, 1, 1)),
        (xp.flip(x), np.flip(a)),
        (xp.tile(x, (2, 1)), np.tile(a, (2, 1))),
        (xp.repeat(x, 2, axis=0), np.repeat(a, 2, 0)),
        (xp.reshape(x.T, (2, -1)), a.T.reshape(2, -1)),
        (xp.moveaxis(xp.reshape(x, (3, 2, 2)), 0, -1), np.moveaxis(a.reshape(3, 2, 2), 0, -1)),
        (xp.squeeze(xp.expand_dims(x, axis=1), 1), a),
        (xp.broadcast_to(x[:1], (5, 4)), np.broadcast_to(a[:1], (5, 4))),
        (xp.unstack(x)[2], a[2]),
        (x.real, a),
    ):
        np.testing.assert_array_equal(found.numpy(), want)


def test_sorting_and_sets(gpu: Device) -> None:
    xp = gpu.xp
    a = np.random.default_rng(2).integers(0, 20, 50).astype(np.int32)
    x = xp.asarray(a)
    np.testing.assert_array_equal(xp.sort(x).numpy(), np.sort(a))
    values, first, inverse, counts = np.unique(a, return_index=True, return_inverse=True, return_counts=True)
    found = xp.unique_all(x)
    for got, want in zip(found, (values, first, inverse, counts), strict=True):
        np.testing.assert_array_equal(got.numpy(), want)
    table = np.sort(a)
    want = np.searchsorted(table, a, "right")
    np.testing.assert_array_equal(xp.searchsorted(xp.asarray(table), x, side="right").numpy(), want)


@pytest.mark.soak
def test_sorting_along_axes(gpu: Device) -> None:
    xp = gpu.xp
    a = data(5, 7)
    np.testing.assert_array_equal(xp.sort(xp.asarray(a), axis=0).numpy(), np.sort(a, 0))


def test_running_sums(gpu: Device) -> None:
    xp = gpu.xp
    a = data(6, 9)
    x = xp.asarray(a)
    np.testing.assert_allclose(xp.cumulative_sum(x, axis=1).numpy(), a.cumsum(1), rtol=0, atol=1e-5)
    c = (a[:2] + 1j * a[2:4]).astype(np.complex64)
    np.testing.assert_allclose(xp.cumulative_sum(xp.asarray(c), axis=1).numpy(), c.cumsum(1), rtol=0, atol=1e-5)
    np.testing.assert_allclose(xp.var(xp.asarray(c), axis=1).numpy(), c.var(1), rtol=1e-4)
    initial = xp.cumulative_sum(xp.arange(5), include_initial=True)
    assert initial.numpy().tolist() == [0, 0, 1, 3, 6, 10]


def test_products(gpu: Device) -> None:
    xp = gpu.xp
    a, b = data(2, 3, 4), data(2, 4, 5)
    x, y = xp.asarray(a), xp.asarray(b)
    np.testing.assert_allclose((x @ y).numpy(), a @ b, rtol=0, atol=1e-5)
    np.testing.assert_allclose(xp.tensordot(x, y, axes=((0, 2), (0, 1))).numpy(),
                               np.tensordot(a, b, ((0, 2), (0, 1))), rtol=0, atol=1e-5)  # fmt: skip
    np.testing.assert_allclose(xp.vecdot(x, x).numpy(), (a * a).sum(-1), rtol=0, atol=1e-5)
    np.testing.assert_allclose(xp.linalg.vector_norm(x, axis=1).numpy(), np.linalg.norm(a, axis=1), rtol=1e-5)
    np.testing.assert_array_equal(xp.linalg.outer(x[0, 0], x[0, 1]).numpy(), np.outer(a[0, 0], a[0, 1]))
    assert float(xp.linalg.trace(x[0])) == pytest.approx(float(np.trace(a[0])), abs=1e-6)


def test_large_products_run_in_the_library(device: Any) -> None:
    xp = device("pi4").xp
    a, b = data(40, 50), data(50, 60)
    found = (xp.asarray(a) @ xp.asarray(b.T.copy()).T).numpy()
    np.testing.assert_allclose(found, a @ b, rtol=0, atol=2e-5)


def test_transforms(gpu: Device) -> None:
    xp = gpu.xp
    a = data(3, 16)
    x = xp.asarray(a)
    limit = {"rtol": 0, "atol": 1e-4}
    np.testing.assert_allclose(xp.fft.fft(x, norm="ortho").numpy(), np.fft.fft(a, norm="ortho"), **limit)
    np.testing.assert_allclose(xp.fft.irfft(xp.fft.rfft(x)).numpy(), a, **limit)
    np.testing.assert_array_equal(xp.fft.fftshift(x, axes=1).numpy(), np.fft.fftshift(a, 1))
    np.testing.assert_array_equal(xp.fft.fftfreq(8, d=0.5).numpy(), np.fft.fftfreq(8, 0.5).astype(F))


def test_factorisations(gpu: Device) -> None:
    """By the processor; what they give is on the device again, and copies are counted."""
    xp = gpu.xp
    a = data(2, 4, 4) + 4 * np.eye(4, dtype=F)
    s = a @ a.swapaxes(-1, -2)
    x, y, b = xp.asarray(a), xp.asarray(s), xp.asarray(data(2, 4, 3))
    gpu.transfers.reset()
    found = xp.linalg.solve(x, b)
    assert (gpu.transfers.uploads, gpu.transfers.downloads) == (1, 2) and found.device is gpu
    limit = {"rtol": 1e-3, "atol": 1e-4}
    np.testing.assert_allclose(found.numpy(), np.linalg.solve(a, b.numpy()), **limit)
    np.testing.assert_allclose(xp.linalg.cholesky(y, upper=True).numpy(), np.linalg.cholesky(s).swapaxes(1, 2), **limit)
    np.testing.assert_allclose(xp.linalg.eigh(y).eigenvalues.numpy(), np.linalg.eigvalsh(s), **limit)
    np.testing.assert_allclose(xp.linalg.svd(x).S.numpy(), np.linalg.svd(a).S, **limit)
    np.testing.assert_allclose(xp.linalg.slogdet(x).logabsdet.numpy(), np.linalg.slogdet(a).logabsdet, **limit)
    for n in (-2, -1, 1):
        np.testing.assert_allclose(xp.linalg.matrix_power(x, n).numpy(), np.linalg.matrix_power(a, n), **limit)
    q, r = xp.linalg.qr(x)
    np.testing.assert_allclose((q @ r).numpy(), a, **limit)
    assert xp.linalg.matrix_rank(x).numpy().tolist() == [4, 4]
    for ord in ("fro", 1, np.inf, 2, "nuc"):
        want = np.linalg.norm(a, ord, axis=(1, 2), keepdims=True)
        np.testing.assert_allclose(xp.linalg.matrix_norm(x, ord=ord, keepdims=True).numpy(), want, **limit)
    with pytest.raises(UsageError, match="help:"):
        xp.linalg.inv(xp.zeros((2, 2)))


@pytest.mark.soak
def test_all_transforms(gpu: Device) -> None:
    xp = gpu.xp
    a, c = data(4, 12), data(4, 12) + 1j * data(4, 12, seed=1)
    limit = {"rtol": 0, "atol": 1e-3}
    for norm in ("backward", "ortho", "forward"):
        for name in ("fft", "ifft", "fftn", "ifftn", "irfft", "irfftn", "hfft"):
            want = getattr(np.fft, name)(c, norm=norm)
            found = getattr(xp.fft, name)(xp.asarray(c, dtype=xp.complex64), norm=norm)
            np.testing.assert_allclose(found.numpy(), want, err_msg=name, **limit)
        for name in ("rfft", "rfftn", "ihfft"):
            want = getattr(np.fft, name)(a, norm=norm)
            np.testing.assert_allclose(
                getattr(xp.fft, name)(xp.asarray(a), norm=norm).numpy(), want, err_msg=name, **limit
            )
