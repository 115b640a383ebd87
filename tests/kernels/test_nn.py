"""Layers of networks against NumPy: floats within bounds of their roundings, integers exact; boards take turns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import qpu
from qpu.device import Device
from qpu.errors import UsageError
from qpu.kernels import nn
from qpu.kernels.common.rounding import bound
from qpu.kernels.nn import activation, conv, dense, int8, norm, pool
from tests.kernels.turns import turns

F, B, N = np.float32, np.int8, np.int32
BOARDS = ("pi3", "pi4", "pi5")
pytestmark = pytest.mark.filterwarnings("ignore::qpu.lang.PerformanceNote")


@pytest.fixture(scope="module")
def boards() -> Iterator[dict[str, Device]]:
    opened = {name: qpu.open_device(name, engine="reference") for name in BOARDS}
    yield opened
    for gpu in opened.values():
        gpu.close()


def numbers(shape: tuple[int, ...], dtype: Any = F, seed: int = 0) -> NDArray[Any]:
    random = np.random.default_rng(seed)
    return random.normal(size=shape).astype(F) if dtype is F else random.integers(-128, 128, shape).astype(dtype)


# Channels, columns of the weights, and tiles of 4, 2 and 1 output channels differ; so do borders, strides, dilations.
CONVOLUTIONS: list[tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ("pi3", (2, 3, 6, 9), (4, 3, 3, 3), {"padding": 1}),
    ("pi4", (1, 4, 9, 8), (4, 1, 3, 2), {"stride": 2, "padding": (1, 2), "groups": 4}),
    ("pi5", (1, 4, 9, 19), (4, 2, 2, 3), {"dilation": (2, 1), "stride": (1, 2), "groups": 2}),
]


@pytest.mark.parametrize(("board", "shape", "taps", "how"), turns(CONVOLUTIONS, 1))
def test_conv2d(boards: dict[str, Device], board: str, shape: Any, taps: Any, how: dict[str, Any]) -> None:
    gpu, x, w, b = boards[board], numbers(shape), numbers(taps, seed=1), numbers(taps[:1], seed=2)
    want = conv.reference_conv2d(x, w, b, **how)
    out = gpu.zeros(want.shape)
    nn.conv2d(gpu.array(x), gpu.array(w), out, gpu.array(b), activation="relu" if board == "pi5" else "none", **how)
    size = conv.reference_conv2d(abs(x), abs(w), abs(b), **how)
    if board == "pi5":
        want = np.maximum(want, 0)
    assert (np.abs(out.numpy() - want) <= bound(gpu.isa, 2 * np.prod(taps[1:]) + 2, size)).all()


@pytest.mark.parametrize(("board", "shape", "taps", "how"), turns(CONVOLUTIONS, 2))
def test_conv2d_int8(boards: dict[str, Device], board: str, shape: Any, taps: Any, how: dict[str, Any]) -> None:
    """Sums as they are on one board, as bytes on the others."""
    gpu, x, w = boards[board], numbers(shape, B), numbers(taps, B, 1)
    b, scale = numbers(taps[:1], N, 2) * 9, np.random.default_rng(3).uniform(1e-3, 4e-3, taps[0]).astype(F)
    want = conv.reference_conv2d(x.astype(np.int64) + 7, w, b, **how)
    if board == "pi4":
        out = gpu.zeros(want.shape, N)
        nn.conv2d_int8(gpu.array(x), gpu.array(w), out, gpu.array(b), zero=-7, **how)
    else:
        out = gpu.zeros(want.shape, B)
        given = (gpu.array(v) for v in (b, scale))
        nn.conv2d_int8(gpu.array(x), gpu.array(w), out, *given, zero=-7, zero_out=-3, relu=board == "pi5", **how)
        total = np.maximum(want, 0) if board == "pi5" else want
        want = int8.reference_requantise(total, scale[:, None, None], -3)
    assert np.array_equal(out.numpy(), want)


def test_sums_of_many_int8_are_exact(boards: dict[str, Device]) -> None:
    """The largest products there are, more of them than f32 adds exactly."""
    gpu = boards["pi5"]
    x, w = np.full((3, 600), -128, B), np.full((2, 600), -128, B)
    w[1, ::3] = 127
    out = gpu.zeros((3, 2), N)
    nn.linear_int8(gpu.array(x), gpu.array(w), out, zero=127)
    assert np.array_equal(out.numpy(), (x.astype(np.int64) - 127) @ w.astype(np.int64).T)


@pytest.mark.parametrize("board", turns(BOARDS[1:], 0))
def test_large_convolutions_are_products_of_matrices(boards: dict[str, Device], board: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(conv, "LARGE", 1)
    gpu, x, w, b = boards[board], numbers((2, 2, 6, 7)), numbers((16, 2, 3, 3), seed=1), numbers((16,), seed=2)
    want = conv.reference_conv2d(x, w, b, padding=1, stride=(1, 2))
    out = gpu.zeros(want.shape)
    nn.conv2d(gpu.array(x), gpu.array(w), out, gpu.array(b), padding=1, stride=(1, 2), activation="leaky_relu")
    size = conv.reference_conv2d(abs(x), abs(w), abs(b), padding=1, stride=(1, 2))
    want = np.where(want > 0, want, 0.01 * want)
    assert (np.abs(out.numpy() - want) <= bound(gpu.isa, 2 * 18 + 6, size)).all()


@pytest.mark.parametrize("board", turns(BOARDS, 1))
def test_large_convolutions_of_int8_are_products_of_matrices(
    boards: dict[str, Device], board: str, monkeypatch: Any
) -> None:
    monkeypatch.setattr(conv, "LARGE", 1)
    gpu, x, w, b = boards[board], numbers((2, 2, 6, 7), B), numbers((16, 2, 3, 3), B, 1), numbers((16,), N, 2)
    want = conv.reference_conv2d(x.astype(np.int64) + 7, w, b, padding=1, stride=(1, 2))
    sums, out, scale = gpu.zeros(want.shape, N), gpu.zeros(want.shape, B), np.full(16, 3e-3, F)
    given = gpu.array(x), gpu.array(w)
    nn.conv2d_int8(*given, sums, gpu.array(b), zero=-7, padding=1, stride=(1, 2))
    assert np.array_equal(sums.numpy(), want)
    nn.conv2d_int8(*given, out, gpu.array(b), gpu.array(scale), zero=-7, padding=1, stride=(1, 2), relu=True)
    assert np.array_equal(out.numpy(), int8.reference_requantise(np.maximum(want, 0), scale[:, None, None]))


@pytest.mark.parametrize(
    ("board", "kind", "dtype"), turns([("pi3", "max", B), ("pi4", "mean", F), ("pi5", "max", F)], 0, 1)
)
def test_pooling(boards: dict[str, Device], board: str, kind: str, dtype: Any) -> None:
    gpu, x = boards[board], numbers((2, 3, 9, 18), dtype)
    for size, stride, padding in ((3, 2, 1), (3, None, 0)):
        want = pool.reference_pool(x, kind, size, stride, padding)
        out = gpu.zeros(want.shape, dtype)
        (nn.max_pool if kind == "max" else nn.average_pool)(gpu.array(x), out, size, stride, padding)
        assert np.abs(out.numpy() - want).max() <= (0 if kind == "max" else 1e-5)


@pytest.mark.parametrize(
    ("board", "kinds"), turns(list(zip(BOARDS, np.array_split(activation.KINDS[1:], 3), strict=True)), 1)
)
def test_activations(boards: dict[str, Device], board: str, kinds: Any) -> None:
    gpu = boards[board]
    x = np.concatenate([numbers((40,)) * 3, np.array([0, -0.0, 100, -100, 1e-6, 6, -3], F)]).reshape(1, 47)
    for kind in map(str, kinds):
        out = gpu.zeros(x.shape)
        nn.activate(gpu.array(x), out, kind)
        # functions of 8 units in the last place (16 on VideoCore IV), then a few operations
        assert (np.abs(out.numpy() - activation.reference_activate(x, kind)) <= bound(gpu.isa, 24, 1 + abs(x))).all()


@pytest.mark.parametrize(("board", "logarithm"), turns([("pi3", False), ("pi4", True), ("pi5", False)], 0))
def test_softmax(boards: dict[str, Device], board: str, logarithm: bool) -> None:
    gpu = boards[board]
    for columns in (1, 16, 37):
        x = (numbers((2, 3, columns)) * 9).astype(F)
        x[0, 0] += 1000
        out = gpu.zeros(x.shape)
        nn.softmax(gpu.array(x), out, logarithm)
        limit = bound(gpu.isa, 40, 1.0 if not logarithm else 60.0)
        assert np.abs(out.numpy() - norm.reference_softmax(x, logarithm)).max() <= limit


@pytest.mark.parametrize("board", turns(BOARDS, 1))
def test_norms(boards: dict[str, Device], board: str) -> None:
    gpu, x = boards[board], numbers((2, 5, 21)) + F(0.5)
    if board == "pi4":
        mean, variance, gain, shift = numbers((5,)), numbers((5,), seed=1) ** 2, numbers((5,), seed=2), numbers((5,))
        out = gpu.zeros(x.shape)
        nn.batch_norm(gpu.array(x), out, *(gpu.array(v) for v in (mean, variance, gain, shift)))
        factor = (gain / np.sqrt(variance.astype(float) + 1e-5))[:, None]
        want = (x.astype(float) - mean[:, None]) * factor + shift[:, None]
        size = (abs(x) + abs(mean[:, None])) * abs(factor) + abs(shift[:, None])
        assert (np.abs(out.numpy() - want) <= bound(gpu.isa, 12, size)).all()
        return
    gain, shift = numbers((21,), seed=1), numbers((21,), seed=2)
    out = gpu.zeros(x.shape)
    nn.layer_norm(gpu.array(x), out, gpu.array(gain), gpu.array(shift))
    assert (np.abs(out.numpy() - norm.reference_layer_norm(x, gain, shift)) <= bound(gpu.isa, 40, 20.0)).all()


@pytest.mark.parametrize(("board", "causal"), turns([("pi4", True), ("pi5", False)], 0))
def test_attention(boards: dict[str, Device], board: str, causal: bool) -> None:
    gpu = boards[board]
    q, k, v = (numbers(shape, seed=n) for n, shape in enumerate(((2, 7, 5), (2, 9, 5), (2, 9, 6))))
    out = gpu.zeros((2, 7, 6))
    nn.attention(gpu.array(q), gpu.array(k), gpu.array(v), out, causal)
    assert np.abs(out.numpy() - dense.reference_attention(q, k, v, causal)).max() <= bound(gpu.isa, 80, 8.0)


@pytest.mark.parametrize("board", turns(["pi3", "pi5"], 1))
def test_linear_and_embedding(boards: dict[str, Device], board: str) -> None:
    gpu, x, w, b = boards[board], numbers((5, 30)), numbers((7, 30), seed=1), numbers((7,), seed=2)
    out = gpu.zeros((5, 7))
    nn.linear(gpu.array(x), gpu.array(w), out, gpu.array(b), "relu" if board == "pi3" else "elu")
    want = activation.reference_activate(x.astype(float) @ w.T + b, "relu" if board == "pi3" else "elu")
    assert (np.abs(out.numpy() - want) <= bound(gpu.isa, 80, abs(x) @ abs(w.T) + 1)).all()
    at, rows = np.array([[4, 0, 4], [1, 2, 3]], N), gpu.zeros((2, 3, 30))
    nn.embedding(gpu.array(x), gpu.array(at), rows)
    assert np.array_equal(rows.numpy(), x[at])


@pytest.mark.parametrize("board", turns(BOARDS, 0))
def test_quantise(boards: dict[str, Device], board: str) -> None:
    gpu, x = boards[board], numbers((2, 3, 23)) * 2
    scale = np.array([0.01, 0.03, 0.02], F)
    x[0, 0, :3] = np.inf, -np.inf, 1e30
    small, back = gpu.zeros(x.shape, B), gpu.zeros(x.shape)
    nn.quantise(gpu.array(x), small, gpu.array(scale), -9, axis=1)
    nn.dequantise(small, back, gpu.array(scale), -9, axis=-2)
    want = int8.reference_quantise(x, scale[:, None], -9)
    assert np.abs(small.numpy() - want).max() <= 0.5 + 1e-4
    assert np.abs(back.numpy() - (small.numpy().astype(float) + 9) * scale[:, None]).max() <= 1e-6


def test_refusals(boards: dict[str, Device]) -> None:
    gpu = boards["pi5"]
    x, w, y = gpu.zeros((1, 2, 5, 5)), gpu.zeros((4, 2, 3, 3)), gpu.zeros((1, 4, 3, 3))
    q = gpu.zeros((1, 2, 5, 5), B)
    cases: list[tuple[Any, str]] = [
        (lambda: nn.conv2d(x, w, gpu.zeros((1, 4, 3, 4))), "out has the shape"),
        (lambda: nn.conv2d(x, w, y, groups=2), "x has 2 channels"),
        (lambda: nn.conv2d(x, w, y, stride=0), "stride = 0"),
        (lambda: nn.conv2d(x, gpu.zeros((4, 2, 6, 6)), y), "smaller than the weights"),
        (lambda: nn.conv2d(x, w, y, gpu.zeros(3)), "bias has the shape"),
        (lambda: nn.conv2d(x, w, y, activation="softmax"), "activation = 'softmax'"),
        (lambda: nn.conv2d_int8(q, gpu.zeros((4, 2, 3, 3), B), gpu.zeros((1, 4, 3, 3), B)), "out holds int8"),
        (lambda: nn.conv2d_int8(q, gpu.zeros((4, 2, 3, 3), B), gpu.zeros((1, 4, 3, 3), N), zero=300), "zero = 300"),
        (lambda: nn.conv2d_int8(q, gpu.zeros((4, 2, 3, 3), B), gpu.zeros((1, 4, 3, 3), N), zero_out=3), "zero_out = 3"),
        (
            lambda: nn.conv2d_int8(
                gpu.zeros((1, 1, 23, 23), B), gpu.zeros((1, 1, 23, 23), B), gpu.zeros((1, 1, 1, 1), N)
            ),
            "weights of 23 rows",
        ),
        (lambda: nn.max_pool(x, gpu.zeros((1, 2, 2, 2)), 2, 2, 2), "size = 2, padding = 2"),
        (lambda: nn.average_pool(x, gpu.zeros((1, 2, 3, 3)), 2), "out has the shape"),
        (lambda: nn.linear(gpu.zeros((2, 3)), gpu.zeros((4, 5)), gpu.zeros((2, 4))), "x has the shape"),
        (lambda: nn.softmax(x, x), "out overlaps x"),
        (lambda: nn.layer_norm(x, gpu.zeros((1, 2, 5, 5)), gpu.zeros(4), gpu.zeros(5)), "gain has the shape"),
        (lambda: nn.layer_norm(x, gpu.zeros((1, 2, 5, 5)), gpu.zeros(5), gpu.zeros(5), -1), "epsilon = -1"),
        (lambda: nn.batch_norm(x, gpu.zeros((1, 2, 5, 5)), *[gpu.zeros(2)] * 4, float("nan")), "epsilon = nan"),
        (lambda: nn.quantise(x, q, -1.0), "scale = -1.0"),
        (lambda: nn.quantise(x, q, 1.0, axis=4), "axis = 4"),
        (lambda: nn.embedding(gpu.zeros((3, 4)), gpu.zeros(2, N), gpu.zeros((2, 5))), "out has the shape"),
        (lambda: nn.attention(*(gpu.zeros((1, 2, n)) for n in (3, 4, 5)), gpu.zeros((1, 2, 5))), "q has the shape"),
        (lambda: nn.activate(x, gpu.zeros((1, 2, 5, 5)), "cube"), "activation = 'cube'"),
    ]
    for call, found in cases:
        with pytest.raises(UsageError, match=found) as caught:
            call()
        assert "help: " in str(caught.value)
