"""Checks of the standard's text on drawn shapes, indices and dtypes: what is short by default, the rest as a soak."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.array_api import make_strategies_namespace

from qpu.array.dtypes import BY_NAME
from qpu.device import Device
from tests.arrays.exceptions import INDICES

NAMES = tuple(n for n in BY_NAME if n != "float16")
HEALTH = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large,
          HealthCheck.filter_too_much]  # fmt: skip


def checked(examples: int) -> Callable[..., Any]:
    """Decorator of a check(draw, xp, x, a): x drawn by Hypothesis's own strategies for the standard, a its values."""

    def decorate(check: Callable[..., None]) -> Callable[..., None]:
        @settings(max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=HEALTH)
        @given(data=st.data())
        def test(gpu: Device, data: st.DataObject) -> None:
            xp = gpu.xp
            xps: Any = make_strategies_namespace(xp, api_version="2023.12")
            shape = data.draw(xps.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
            exact = [n for n in NAMES if gpu.isa != "vc4" or n not in ("float32", "complex64")]  # no NaN, no denormals
            x = data.draw(xps.arrays(data.draw(st.sampled_from(exact)), shape))
            check(data.draw, xp, xps, x)

        test.__name__, test.__doc__ = check.__name__, check.__doc__
        return test

    return decorate


def same(found: Any, want: Any) -> None:
    """Shape, dtype and values; indices of NumPy are int64."""
    got, want = found.numpy(), np.asarray(want)
    if want.dtype == np.int64 and INDICES:
        want = want.astype(np.int32)
    assert (got.shape, got.dtype) == (want.shape, want.dtype)
    np.testing.assert_array_equal(got, want)


@checked(8)
def test_indexing(draw: Any, xp: Any, xps: Any, x: Any) -> None:
    """Integers, slices of any step, ..., None, masks; reading and writing."""
    a = x.numpy()
    key = draw(xps.indices(x.shape, allow_newaxis=True))
    same(x[key], a[key])
    mask = draw(xps.arrays("bool", x.shape))
    same(x[mask], a[mask.numpy()])
    key = draw(xps.indices(x.shape))
    if not a[key].size:
        return
    y, b, value = xp.asarray(x, copy=True), a.copy(), a.reshape(-1)[-1]
    y[key] = xp.asarray(value)
    b[key] = value
    same(y, b)
    y[mask] = value.item()
    b[mask.numpy()] = value
    same(y, b)
    same(x, a)


@pytest.mark.soak
@checked(60)
def test_operators(draw: Any, xp: Any, xps: Any, x: Any) -> None:
    """With numbers on both sides, with themselves, and in place."""
    a = x.numpy()
    kind = a.dtype.kind
    number = {"b": True, "i": 3, "u": 5, "f": 1.5, "c": 2 + 1j}[kind]
    found: list[Any] = [operator.eq, operator.ne]
    found += [operator.and_, operator.or_, operator.xor] if kind in "biu" else []
    found += [operator.add, operator.sub] if kind != "b" else []
    found += [operator.mul] if kind in "iuf" else []
    found += [operator.lt, operator.ge] if kind in "iuf" else []
    function = draw(st.sampled_from(found))
    with np.errstate(all="ignore"):
        same(function(x, number), function(a, number))
        same(function(number, x), function(number, a))
        same(function(x, x), function(a, a))
        if kind != "b":
            y, b = xp.asarray(x, copy=True), a.copy()
            y += number
            b += number
            same(y, b)


@pytest.mark.soak
@checked(60)
def test_manipulation(draw: Any, xp: Any, xps: Any, x: Any) -> None:
    a = x.numpy()
    order = draw(st.permutations(range(a.ndim)))
    same(xp.permute_dims(x, tuple(order)), a.transpose(order))
    same(xp.flip(x), np.flip(a))
    same(xp.roll(x, 3), np.roll(a, 3))
    same(xp.expand_dims(x, axis=-1), a[..., None])
    same(xp.tile(x, (2, 1)), np.tile(a, (2, 1)))
    same(xp.repeat(x, 2), np.repeat(a, 2))
    same(xp.stack([x, x], axis=-1), np.stack([a, a], -1))
    same(xp.astype(x, xp.bool), a.astype(bool))
    if not a.ndim:
        return
    axis = draw(st.integers(-a.ndim, a.ndim - 1))
    same(xp.concat([x, x], axis=axis), np.concatenate([a, a], axis))
    same(xp.roll(x, -2, axis=axis), np.roll(a, -2, axis))
    same(xp.moveaxis(x, axis, 0), np.moveaxis(a, axis, 0))
    counts = np.arange(a.shape[axis], dtype=np.int32)
    same(xp.repeat(x, xp.asarray(counts), axis=axis), np.repeat(a, counts, axis))
    for mine, other in zip(xp.nonzero(x), np.nonzero(a), strict=True):
        same(mine, other)
    if a.ndim > 1:
        same(x.mT, a.swapaxes(-1, -2))
        same(xp.tril(x, k=1), np.tril(a, 1))


@pytest.mark.soak
@checked(60)
def test_reductions(draw: Any, xp: Any, xps: Any, x: Any) -> None:
    a = x.numpy()
    axis = draw(st.none() | xps.valid_tuple_axes(a.ndim))
    keep = draw(st.booleans())
    for name in ("any", "all"):
        same(getattr(xp, name)(x, axis=axis, keepdims=keep), getattr(np, name)(a, axis=axis, keepdims=keep))
    if a.dtype.kind in "iu":
        wide = np.int32 if a.dtype.kind == "i" else np.uint32
        same(xp.sum(x, axis=axis, keepdims=keep), a.sum(axis=axis, keepdims=keep, dtype=wide))
        same(xp.prod(x, axis=axis, keepdims=keep), a.prod(axis=axis, keepdims=keep, dtype=wide))
    if a.dtype.kind in "iuf" and a.size:
        for name in ("min", "max"):
            same(getattr(xp, name)(x, axis=axis, keepdims=keep), getattr(np, name)(a, axis=axis, keepdims=keep))
        one = draw(st.none() | st.integers(-a.ndim, a.ndim - 1)) if a.ndim else None
        for name in ("argmin", "argmax"):
            same(getattr(xp, name)(x, axis=one, keepdims=keep), getattr(np, name)(a, axis=one, keepdims=keep))


@pytest.mark.soak
@checked(40)
def test_sorting_and_sets(draw: Any, xp: Any, xps: Any, x: Any) -> None:
    a = x.numpy()
    found = xp.unique_all(x)
    if not (a != a).any():
        for mine, other in zip(found, np.unique(a, True, True, True), strict=True):
            same(mine, other)
    if a.dtype.kind in "iuf" and a.ndim:
        axis = draw(st.integers(-a.ndim, a.ndim - 1))
        same(xp.sort(x, axis=axis), np.sort(a, axis))
        same(xp.argsort(x, axis=axis), np.argsort(a, axis, stable=True))
