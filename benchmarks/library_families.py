"""Rows of `library` for scans, sorting, random numbers, images and networks: what further items cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from qpu.device import Device
from qpu.kernels import image, misc, move, nn, scan, search, sort
from qpu.kernels.common.retyped import retyped
from qpu.kernels.random import Generator

__all__ = ["rows"]

F, B, N = np.float32, np.uint8, np.int32
STEP = 64 * 64
HIGH = 128
LINE_OF_64 = (256, 1280)
LINE = (2 * STEP, 6 * STEP)
LONG = (4 * STEP, 8 * STEP)  # as many workers for both


def pictures(gpu: Device, n: int, kinds: tuple[Any, Any] = (B, B)) -> list[Any]:
    """Two images of HIGH rows."""
    return [gpu.zeros((HIGH, n), kind) for kind in kinds]


def networks(gpu: Device, n: int, kinds: tuple[Any, Any, Any], out: int = 8) -> list[Any]:
    """16 channels of 16 x 16 for n images, weights of 3 x 3, and the result."""
    shapes = ((n, 16, 18, 18), (out, 16, 3, 3), (n, out, 16, 16))
    return [gpu.zeros(s, kind) for s, kind in zip(shapes, kinds, strict=True)]


def whole(gpu: Device, n: int, kinds: tuple[Any, Any] = (F, F)) -> object:
    """An image of 16 channels for 64, as a product of matrices."""
    x, w = gpu.zeros((1, 16, 2 + n, 66), kinds[0]), gpu.zeros((64, 16, 3, 3), kinds[0])
    return (nn.conv2d if kinds[0] is F else nn.conv2d_int8)(x, w, gpu.zeros((1, 64, n, 64), kinds[1]))


def second_launch(gpu: Device, n: int) -> object:
    """The scan alone, when the sums of all runs are known."""
    code = retyped(scan.scan_runs, "i32", x="i32").on(gpu, workers=scan.WORKERS)
    return code(gpu.zeros(n, N), gpu.zeros(scan.WORKERS, N), gpu.zeros(n, N), "sum", True, 0)


def rows(row: Callable[..., Any]) -> list[Any]:
    """The rows, made by `row`. A scan reads the array twice and writes it: its floor is that of both launches; a round
    of random numbers has 8 operations for the ALU that adds, 11 on VideoCore IV, and makes two words; 5 x 5 weights
    have four additions a pass, one that rounds, and a shift.
    """
    area, many, much = (64, 192), (lambda n: 48.0 * n), (lambda n: float(HIGH * n))
    macs = 8 * 16 * 9 * 256.0

    def of(name: str, item: str, run: Callable[[Device, int], object], sizes: tuple[int, int] = LINE,
           items: Callable[[int], float] = float, *more: Any) -> Any:  # fmt: skip
        return row(name, item, run, sizes, items, *more)

    def filtered(name: str, function: Callable[..., object], *more: Any, known: tuple[Any, ...] = ()) -> Any:
        return of(name, "pixel", lambda g, n: function(*pictures(g, n), *more), area, much, *known)

    return [
        of("scan.cumulative_sum, int32", "element", lambda g, n: scan.cumulative_sum(g.zeros(n, N), g.zeros(n, N)),
           LONG, float, (5.25, 7, 7.5)),
        of("scan.cumulative_sum, int32, its second launch", "element", second_launch, LONG, float, (3, 4.25, 4.25),
           (8, 8, 10)),
        of("scan.cumulative_max, float32", "element", lambda g, n: scan.cumulative_max(g.zeros(n), g.zeros(n)), LONG),
        of("sort.sort, 4096 to 8192", "element", lambda g, n: sort.sort(g.zeros(n), g.zeros(n)), (4096, 8192)),
        of("sort.argsort, 4096 to 8192", "element", lambda g, n: sort.argsort(g.zeros(n), g.zeros(n, N)), (4096, 8192)),
        of("sort.unique, 4096 to 8192", "element", lambda g, n: sort.unique(g.zeros(n), g.zeros(n)), (4096, 8192)),
        of("sort.topk, 16 of 4096 to 8192", "element", lambda g, n: sort.topk(g.zeros(n), g.zeros(16)), (4096, 8192)),
        of("search.searchsorted in 1024", "element",
           lambda g, n: search.searchsorted(g.array(np.arange(1024, dtype=N)), g.zeros(n, N), g.zeros(n, N))),
        of("search.histogram, 256 bins", "element",
           lambda g, n: search.histogram(g.array((np.arange(n) % 256).astype(B)), g.zeros(256, N)), (STEP, 3 * STEP)),
        of("move.gather", "element", lambda g, n: move.gather(g.zeros(n), g.zeros(n, N), g.zeros(n))),
        of("move.scatter", "element",
           lambda g, n: move.scatter(g.zeros(n), g.array(np.arange(n, dtype=N)), g.zeros(n))),
        of("move.transpose", "element", lambda g, n: move.transpose(g.zeros((64, n)), g.zeros((n, 64))), (64, 192),
           lambda n: 64.0 * n, (2.25, 4.25, 3.25)),
        of("move.compact, half of them", "element",
           lambda g, n: move.compact(g.zeros(n), g.array(np.arange(n) % 2 == 0), g.zeros(n)), (STEP, 3 * STEP)),
        of("random, 7 rounds", "word", lambda g, n: Generator(1, 7).bits(g.zeros(n, np.uint32)), LINE, float,
           (33.5, 33.5, 40), (40, 44, 55)),
        of("random, 10 rounds", "word", lambda g, n: Generator(1, 10).bits(g.zeros(n, np.uint32)), LINE, float,
           (47, 47, 56), (55, 60, 75)),
        of("random, normal", "number", lambda g, n: Generator(1).normal(g.zeros(n))),
        filtered("image.box 3 x 3", image.box, 3),
        filtered("image.separable, 5 x 5", image.separable, *[(1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)] * 2,
                 known=((10, 10, 10), (16, 16, 16))),
        filtered("image.filter2d 3 x 3", image.filter2d, np.ones((3, 3))),
        filtered("image.sobel", image.sobel),
        filtered("image.median 3 x 3", image.median, 3),
        filtered("image.erode 3 x 3", image.erode, 3),
        filtered("image.median 5 x 5", image.median, 5),
        filtered("image.gaussian, sigma 2", image.gaussian, 2.0),
        filtered("image.filter2d 9 x 9", image.filter2d, np.ones((9, 9))),
        filtered("image.threshold", image.threshold, 100),
        filtered("image.warp, affine", image.warp, ((1, 0.1, 0), (0.1, 1, 0))),
        of("image.resize, bilinear, to half", "pixel",
           lambda g, n: image.resize(g.zeros((96, 2 * n), B), g.zeros((48, n), B)), area, many),
        of("image.resize, nearest, to half", "pixel",
           lambda g, n: image.resize(g.zeros((96, 2 * n), B), g.zeros((48, n), B), "nearest"), area, many),
        of("image.pyramid_down", "pixel",
           lambda g, n: image.pyramid_down(g.zeros((96, 2 * n), B), g.zeros((48, n), B)), area, many),
        of("image.pyramid_up", "pixel",
           lambda g, n: image.pyramid_up(g.zeros((24, n // 2), B), g.zeros((48, n), B)), area, many),
        of("image.blend", "pixel",
           lambda g, n: image.blend(*pictures(g, n), g.zeros((HIGH, n), B), 0.5), area, much),
        filtered("image.tint", image.tint, 0.5),
        of("image.lookup", "pixel",
           lambda g, n: image.lookup(*pictures(g, n), g.zeros(256, B)), area, much),
        filtered("image.equalise", image.equalise),
        of("image.yuv420_of_rgb", "pixel",
           lambda g, n: image.yuv420_of_rgb(g.zeros((48, n, 3), B), g.zeros((48, n), B),
                                            *(g.zeros((24, n // 2), B) for _ in "uv")), area, many),
        of("image.rgb_of_grey", "pixel",
           lambda g, n: image.rgb_of_grey(g.zeros((48, n), B), g.zeros((48, n, 3), B)), area, many),
        of("image.grey", "pixel", lambda g, n: image.grey(g.zeros((48, n, 3), B), g.zeros((48, n), B)), area, many),
        of("image.rgb_of_yuv420", "pixel",
           lambda g, n: image.rgb_of_yuv420(g.zeros((48, n), B), *(g.zeros((24, n // 2), B) for _ in "uv"),
                                            g.zeros((48, n, 3), B)), area, many),
        of("nn.conv2d 3 x 3, 16 to 8", "multiplication",
           lambda g, n: nn.conv2d(*networks(g, n, (F, F, F))), (1, 3), lambda n: macs * n, (1, 1, 1)),
        of("nn.conv2d 3 x 3, 16 to 64, by gemm", "multiplication", whole, (16, 32), lambda n: 64 * 16 * 9 * 64.0 * n,
           (1, 1, 1), (1.18, 1.25, 1.54)),
        of("nn.conv2d_int8 3 x 3, 16 to 64, by gemm", "multiplication", lambda g, n: whole(g, n, (np.int8, N)),
           (16, 32), lambda n: 64 * 16 * 9 * 64.0 * n, (1, 1, 1), (1.18, 1.25, 1.54)),
        of("nn.conv2d_int8 3 x 3, 16 to 8", "multiplication",
           lambda g, n: nn.conv2d_int8(*networks(g, n, (np.int8, np.int8, N))), (1, 3), lambda n: macs * n, (1, 1, 1)),
        of("nn.max_pool 2 x 2", "result",
           lambda g, n: nn.max_pool(g.zeros((n, 8, 32, 32)), g.zeros((n, 8, 16, 16)), 2), (1, 3),
           lambda n: 2048.0 * n),
        of("nn.average_pool 2 x 2", "result",
           lambda g, n: nn.average_pool(g.zeros((n, 8, 32, 32)), g.zeros((n, 8, 16, 16)), 2), (1, 3),
           lambda n: 2048.0 * n),
        of("nn.layer_norm, rows of 256", "element",
           lambda g, n: nn.layer_norm(*(g.zeros((n, 256)) for _ in "xo"), g.zeros(256), g.zeros(256)), (64, 192),
           lambda n: 256.0 * n),
        of("nn.batch_norm", "element",
           lambda g, n: nn.batch_norm(*(g.zeros((1, 64, n)) for _ in "xo"), *(g.zeros(64) for _ in "mvgs")), LINE_OF_64,
           lambda n: 64.0 * n),
        of("nn.attention, 64 x 64, 32 wide", "head",
           lambda g, n: nn.attention(*(g.zeros((n, 64, 32)) for _ in "qkvo")), (2, 6)),
        of("nn.linear, 256 to 64", "multiplication",
           lambda g, n: nn.linear(g.zeros((n, 256)), g.zeros((64, 256)), g.zeros((n, 64))), (192, 384),
           lambda n: 256.0 * 64 * n, (1, 1, 1)),
        of("nn.linear_int8, 256 to 64", "multiplication",
           lambda g, n: nn.linear_int8(g.zeros((n, 256), np.int8), g.zeros((64, 256), np.int8), g.zeros((n, 64), N)),
           (192, 384), lambda n: 256.0 * 64 * n, (1, 1, 1)),
        of("nn.embedding, 64 wide", "element",
           lambda g, n: nn.embedding(g.zeros((9, 64)), g.zeros(n, N), g.zeros((n, 64))), (64, 192), lambda n: 64.0 * n),
        of("nn.dequantise", "element",
           lambda g, n: nn.dequantise(g.zeros((64, n), np.int8), g.zeros((64, n)), 0.1), LINE_OF_64,
           lambda n: 64.0 * n),
        of("nn.softmax, rows of 256", "element", lambda g, n: nn.softmax(g.zeros((n, 256)), g.zeros((n, 256))),
           (64, 192), lambda n: 256.0 * n),
        of("nn.activate, gelu", "element", lambda g, n: nn.activate(g.zeros(n), g.zeros(n), "gelu")),
        of("nn.quantise", "element",
           lambda g, n: nn.quantise(g.zeros((64, n)), g.zeros((64, n), np.int8), 0.1), (64, 192), lambda n: 64.0 * n),
        of("misc.convolve, 16 weights", "result",
           lambda g, n: misc.convolve(g.zeros(n), g.zeros(16), g.zeros(n + 15))),
        of("misc.kmeans_step, 4 centres of 2 numbers", "point",
           lambda g, n: misc.kmeans_step(g.zeros((n, 2)), g.zeros((4, 2)), g.zeros(n, N), g.zeros((4, 2)))),
        of("misc.distances, 3 numbers", "pair",
           lambda g, n: misc.distances(g.zeros((64, 3)), g.zeros((n, 3)), g.zeros((64, n))), (64, 192),
           lambda n: 64.0 * n),
        of("misc.accelerations, 512 bodies", "pair of bodies",
           lambda g, n: misc.accelerations(g.zeros((3, n)), g.zeros(n), g.zeros((3, n))), (256, 512),
           lambda n: float(n * n)),
    ]  # fmt: skip
