"""Trials of scans, sorting, moving, searching and random numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from qpu.kernels import move, scan, search, sort
from qpu.kernels.random import Generator, reference_normal, reference_uniform, words
from tests.kernels.trials import LENGTHS, NUMBERS, SIDES, Case, D, F, N, Trial, U, case

# -- scans, order, moving, searching


def _cumulative(op: str) -> Case:
    def trial(t: Trial) -> Any:
        dtype = t.pick(*NUMBERS)
        shape = t.pick((t.n(1, 15, 64, 65, 517),), (3, 5, 18), (2, 17), (1, 0))
        x, axis = t.numbers(dtype, *shape), t.pick(*range(len(shape)))
        if op == "prod" and dtype is F:
            x = np.exp2(np.clip(x, -1, 1) / 8).astype(F)
        out = t.out(shape, scan.result_type(dtype))
        getattr(scan, f"cumulative_{op}")(t.put(x), out, axis)
        want = scan.reference(x, op, axis)
        if dtype is F and op in ("sum", "prod"):
            size = np.abs(x.astype(D)).cumsum(axis) if op == "sum" else want
            t.close(out, want, shape[axis] + 80, size)
        else:
            t.same(out, want)
        return (out,)

    return trial


for _op in ("sum", "prod", "min", "max"):
    case(f"scan.cumulative_{_op}")(_cumulative(_op))


@case("sort.sort")
def _(t: Trial) -> Any:
    x, down = t.numbers(t.pick(*NUMBERS), t.n(*LENGTHS, 300)), t.pick(False, True)
    out = t.out(len(x), x.dtype)
    sort.sort(t.put(x), out, down)
    t.same(out, np.sort(x)[:: -1 if down else 1])
    return (out,)


@case("sort.argsort")
def _(t: Trial) -> Any:
    x = t.numbers(t.pick(*NUMBERS), t.n(*LENGTHS)) // 16 * 16
    out = t.out(len(x), N)
    sort.argsort(t.put(x), out)
    t.same(out, np.argsort(x, kind="stable"))
    return (out,)


@case("sort.topk")
def _(t: Trial) -> Any:
    x = t.numbers(t.pick(*NUMBERS), n := t.n(*LENGTHS, 300)) // 16 * 16
    k = t.pick(*{0, min(n, 1), min(n, 9), min(n, 65), n})
    values, places = t.out(k, x.dtype), t.out(k, N)
    sort.topk(t.put(x), values)
    want, at = sort.reference_topk(x, k)
    t.same(values, want)
    sort.topk(t.put(x), values, places)
    t.same(values, want)
    t.same(places, at)
    return values, places


@case("sort.unique")
def _(t: Trial) -> Any:
    x = t.numbers(t.pick(*NUMBERS), t.n()) // 32 * 32
    out = t.out(len(x), x.dtype)
    count = sort.unique(t.put(x), out)
    t.same(out.numpy()[:count], np.unique(x))
    return (out,)


@case("search.searchsorted")
def _(t: Trial) -> Any:
    dtype, side = t.pick(*NUMBERS), t.pick("left", "right")
    a, v = np.sort(t.numbers(dtype, t.n())), t.numbers(dtype, t.n(1, 17, 65))
    if len(a):
        v[0] = a[-1]
    out = t.out(len(v), N)
    search.searchsorted(t.put(a), t.put(v), out, side)
    t.same(out, np.searchsorted(a, v, side))
    return (out,)


@case("search.histogram")
def _(t: Trial) -> Any:
    x = t.numbers(t.pick(np.uint8, np.int8, np.int16), t.n(0, 1, 17, 300, 4000))
    x[: len(x) * t.n(0, 1)] = 16
    bins, low, start = t.n(1, 17, 256, 300), t.pick(0, -9), t.pick(True, False)
    out = t.put(np.full(bins, 3, N))
    search.histogram(t.put(x), out, low, start)
    t.same(out, search.reference_histogram(x, bins, low) + (0 if start else 3))
    return (out,)


@case("move.gather")
def _(t: Trial) -> Any:
    x = t.numbers(t.pick(*NUMBERS), *t.pick((17,), (3, 5, 4), (2, 9)))
    axis = t.pick(*range(x.ndim))
    at = t.noise.integers(0, x.shape[axis], t.n(1, 16, 33)).astype(N)
    out = t.out(x.take(at, axis).shape, x.dtype)
    move.gather(t.put(x), t.put(at), out, axis)
    t.same(out, x.take(at, axis))
    return (out,)


@case("move.scatter")
def _(t: Trial) -> Any:
    x = t.numbers(t.pick(F, N, np.uint8), n := t.n(1, 17, 33))
    at = t.noise.permutation(40)[:n].astype(N)
    want = np.full(40, 9, x.dtype)
    out = t.put(want)
    want[at] = x
    move.scatter(t.put(x), t.put(at), out)
    t.same(out, want)
    return (out,)


@case("move.transpose")
def _(t: Trial) -> Any:
    x = t.numbers(t.pick(*NUMBERS), t.n(*SIDES), t.n(*SIDES, 33))
    out = t.out(x.shape[::-1], x.dtype)
    move.transpose(t.put(x), out)
    t.same(out, x.T)
    return (out,)


@case("move.compact, nonzero")
def _(t: Trial) -> Any:
    x = t.numbers(t.pick(*NUMBERS), n := t.n())
    mask = t.noise.random(n) < t.pick(0.0, 0.5, 1.0)
    out, numbers = t.out(n, x.dtype), t.out(n, N)
    given = t.put(mask)
    count = move.compact(t.put(x), given, out)
    t.same(out.numpy()[:count], x[mask])
    count = move.nonzero(given, numbers)
    t.same(numbers.numpy()[:count], np.flatnonzero(mask))
    return out, numbers


@case("random")
def _(t: Trial) -> Any:
    shape, seed, rounds = t.pick((1,), (17,), (5, 13)), t.pick(0, 2**64 - 1), t.pick(7, 10)
    n = int(np.prod(shape))
    whole, g = -(-n // 32) * 32, Generator(seed, rounds)
    outs = [t.out(shape, dtype) for dtype in (U, F, F, N)]
    g.bits(outs[0])
    g.uniform(outs[1])
    g.normal(outs[2])
    g.integers(outs[3], -5, 1000)
    every = words(seed, 4 * whole, rounds).reshape(4, whole)
    t.same(outs[0], every[0, :n].reshape(shape))
    t.same(outs[1], reference_uniform(every[1, :n]).reshape(shape))
    assert abs(outs[2].numpy() - reference_normal(every[2])[:n].reshape(shape)).max() < 6 * 2.0**-18
    t.same(outs[3], ((every[3, :n].astype(np.uint64) * np.uint64(1005) >> np.uint64(32)).astype(N) - 5).reshape(shape))
    return outs
