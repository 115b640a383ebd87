"""Trials of layers of networks, and of signals, points and bodies."""

from __future__ import annotations

from typing import Any

import numpy as np

from qpu.kernels import misc, nn
from qpu.kernels.nn import activation, conv, dense, int8, norm, pool
from tests.kernels.trials import SIDES, B, D, F, N, Trial, case

# -- networks


@case("nn.activate")
def _(t: Trial) -> Any:
    kind = t.pick(*activation.KINDS)
    x = t.floats(*t.pick((t.n(),), (3, 5, 4), (2, 3, 4, 5))) * F(3)
    out = t.out(x.shape, F)
    nn.activate(t.put(x), out, kind)
    t.close(out, activation.reference_activate(x, kind), 24, 1 + abs(x))
    return (out,)


def _convolution(t: Trial) -> tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]:
    groups = t.n(1, 2, 4)
    how = {"stride": t.pick(1, (2, 1)), "padding": t.pick(0, (1, 2)), "dilation": t.pick(1, (1, 2)), "groups": groups}
    taps = t.pick((1, 1), (3, 3), (2, 3))
    return (t.n(1, 2), 4, 7, t.n(8, 19)), (4 * t.n(1, 2), 4 // groups, *taps), how


@case("nn.conv2d")
def _(t: Trial) -> Any:
    shape, taps, how = _convolution(t)
    x, w, b, kind = t.floats(*shape), t.floats(*taps), t.floats(taps[0]), t.pick("none", "relu", "leaky_relu")
    want = conv.reference_conv2d(x, w, b, **how)
    out = t.out(want.shape, F)
    nn.conv2d(t.put(x), t.put(w), out, t.put(b), activation=kind, **how)
    size = conv.reference_conv2d(abs(x), abs(w), abs(b), **how)
    t.close(out, activation.reference_activate(want, kind), 2 * np.prod(taps[1:]) + 4, size)
    return (out,)


@case("nn.conv2d_int8")
def _(t: Trial) -> Any:
    shape, taps, how = _convolution(t)
    x, w, b = t.numbers(B, *shape), t.numbers(B, *taps), t.noise.integers(-999, 999, taps[0], N)
    total = conv.reference_conv2d(x.astype(np.int64) + 7, w, b, **how)
    total = np.maximum(total, 0) if (relu := t.pick(False, True)) else total
    given, scale = (t.put(x), t.put(w)), t.noise.uniform(1e-3, 4e-3, taps[0]).astype(F)
    if t.pick(False, True):
        out = t.out(total.shape, N)
        nn.conv2d_int8(*given, out, t.put(b), zero=-7, relu=relu, **how)
        t.same(out, total)
    else:
        out = t.out(total.shape, B)
        nn.conv2d_int8(*given, out, t.put(b), t.put(scale), zero=-7, zero_out=3, relu=relu, **how)
        t.same(out, int8.reference_requantise(total, scale[:, None, None], 3))
    return (out,)


@case("nn.max_pool, average_pool")
def _(t: Trial) -> Any:
    dtype = t.pick(F, B, np.uint8)
    x = t.numbers(dtype, t.n(1, 2), 3, 9, t.n(5, 18))
    how = t.pick((2, None, 0), (3, 2, 1), ((1, 3), (2, 1), (0, 1)), ((9, x.shape[3] + 6), None, (0, 6)))
    outs = []
    for kind in ("max", "mean"):
        want = pool.reference_pool(x, kind, *how)
        outs.append(t.out(want.shape, dtype))
        (nn.max_pool if kind == "max" else nn.average_pool)(t.put(x), outs[-1], *how)
        if dtype is F:
            t.close(outs[-1], want, 0 if kind == "max" else 9 * (x.shape[3] + 8), abs(x).max())
        else:
            t.same(outs[-1], np.floor(want + 0.5))
    return outs


@case("nn.softmax")
def _(t: Trial) -> Any:
    x, logarithm = t.floats(*t.pick((5,), (2, 3, 16), (3, 37), (1, 1))) * F(9), t.pick(False, True)
    out = t.out(x.shape, F)
    nn.softmax(t.put(x), out, logarithm)
    t.close(out, norm.reference_softmax(x, logarithm), 60, 60.0 if logarithm else 1.0)
    return (out,)


@case("nn.layer_norm")
def _(t: Trial) -> Any:
    x = t.floats(*t.pick((2, 5, 21), (3, 16), (7,))) + F(0.5)
    gain, shift = t.floats(x.shape[-1]), t.floats(x.shape[-1])
    out = t.out(x.shape, F)
    nn.layer_norm(t.put(x), out, t.put(gain), t.put(shift))
    t.close(out, norm.reference_layer_norm(x, gain, shift), 60, 20.0)
    return (out,)


@case("nn.batch_norm")
def _(t: Trial) -> Any:
    x = t.floats(*t.pick((2, 5, 21), (3, 16), (2, 3, 4, 5)))
    mean, gain, shift = (t.floats(x.shape[1]) for _ in range(3))
    variance = t.floats(x.shape[1]) ** 2 + F(0.1)
    out = t.out(x.shape, F)
    nn.batch_norm(t.put(x), out, *(t.put(v) for v in (mean, variance, gain, shift)))
    want = norm.reference_batch_norm(x, mean, variance, gain, shift)
    t.close(out, want, 16, norm.reference_batch_norm(abs(x), -abs(mean), variance, abs(gain), abs(shift)))
    return (out,)


@case("nn.attention")
def _(t: Trial) -> Any:
    n, m, causal = t.n(1, 7, 17), t.n(9, 17), t.pick(False, True)
    q, k, v = t.floats(2, n, 5), t.floats(2, m, 5), t.floats(2, m, 6)
    out = t.out((2, n, 6), F)
    nn.attention(t.put(q), t.put(k), t.put(v), out, causal)
    t.close(out, dense.reference_attention(q, k, v, causal), 99, 8.0)
    return (out,)


@case("nn.linear, matmul")
def _(t: Trial) -> Any:
    x, w, b = t.floats(n := t.n(*SIDES), k := t.n(*SIDES)), t.floats(o := t.n(*SIDES), k), t.floats(o)
    kind = t.pick("none", "relu", "tanh")
    out, plain = t.out((n, o), F), t.out((n, o), F)
    nn.linear(t.put(x), t.put(w), out, t.put(b), kind)
    total, size = x.astype(D) @ w.T.astype(D), abs(x) @ abs(w.T) + abs(b) + 1
    t.close(out, activation.reference_activate(total + b, kind), k + 32, size)
    nn.matmul(t.put(x), t.put(np.ascontiguousarray(w.T)), plain)
    t.close(plain, total, k + 2, size)
    return out, plain


@case("nn.linear_int8")
def _(t: Trial) -> Any:
    x, w = t.numbers(B, n := t.n(*SIDES), k := t.n(*SIDES, 70)), t.numbers(B, o := t.n(*SIDES), k)
    b, scale = t.noise.integers(-999, 999, o, N), t.noise.uniform(1e-3, 4e-3, o).astype(F)
    total = (x.astype(np.int64) - 9) @ w.T.astype(np.int64) + b
    out, sums = t.out((n, o), B), t.out((n, o), N)
    nn.linear_int8(t.put(x), t.put(w), sums, t.put(b), zero=9)
    t.same(sums, total)
    nn.linear_int8(t.put(x), t.put(w), out, t.put(b), t.put(scale), zero=9, zero_out=-2, relu=True)
    t.same(out, int8.reference_requantise(np.maximum(total, 0), scale, -2))
    return out, sums


@case("nn.embedding")
def _(t: Trial) -> Any:
    table = t.numbers(t.pick(F, B), 9, t.n(*SIDES))
    at = t.noise.integers(0, 9, t.pick((5,), (2, 3), (1, 0))).astype(N)
    out = t.out((*at.shape, table.shape[1]), table.dtype)
    nn.embedding(t.put(table), t.put(at), out)
    t.same(out, table[at])
    return (out,)


@case("nn.quantise, dequantise")
def _(t: Trial) -> Any:
    x, axis = t.floats(2, 3, t.n(1, 23)) * F(2), t.pick(0, 1, 2)
    scale = t.noise.uniform(0.01, 0.03, x.shape[axis]).astype(F)
    wide = scale.reshape([-1 if n == axis else 1 for n in range(3)])
    small, back = t.out(x.shape, B), t.out(x.shape, F)
    nn.quantise(t.put(x), small, t.put(scale), -9, axis)
    assert abs(small.numpy() - int8.reference_quantise(x, wide, -9)).max() <= 0.5 + 1e-4
    nn.dequantise(small, back, t.put(scale), -9, axis)
    t.close(back, int8.reference_dequantise(small.numpy(), wide, -9), 1, 137 * wide)
    return small, back


# -- signals, points, bodies


@case("misc.convolve")
def _(t: Trial) -> Any:
    x, mode = t.floats(t.n(6, 17, 40)), t.pick("full", "same", "valid")
    w = t.floats(t.n(1, 2, 6))
    want = np.convolve(x.astype(D), w.astype(D), mode)
    out = t.out(len(want), F)
    misc.convolve(t.put(x), t.put(w), out, mode)
    t.close(out, want, len(w) + 1, np.convolve(abs(x).astype(D), abs(w).astype(D), mode))
    return (out,)


@case("misc.distances")
def _(t: Trial) -> Any:
    width, squared = t.n(1, 3, 5), t.pick(False, True)
    x, y = t.floats(t.n(*SIDES), width), t.floats(t.n(*SIDES), width)
    out = t.out((len(x), len(y)), F)
    misc.distances(t.put(x), t.put(y), out, squared)
    want = misc.reference_distances(x, y)
    t.close(out, want**2 if squared else want, 2 * width + 16, (want**2 if squared else want) + 1e-3)
    return (out,)


@case("misc.kmeans_step")
def _(t: Trial) -> Any:
    x, old = t.floats(t.n(1, 17, 37), width := t.n(1, 2, 3)), t.floats(t.n(1, 3), width)
    labels, new = t.out(len(x), N), t.out(old.shape, F)
    misc.kmeans_step(t.put(x), t.put(old), labels, new)
    near = labels.numpy()
    apart = misc.reference_distances(x, old)
    assert (apart[np.arange(len(x)), near] <= apart.min(1) * (1 + 1e-5) + 1e-6).all()
    want = np.array([x[near == j].mean(0, dtype=D) if (near == j).any() else old[j] for j in range(len(old))])
    t.close(new, want, len(x) + 8, abs(x).max() + abs(old).max())
    return labels, new


@case("misc.accelerations, nbody_step")
def _(t: Trial) -> Any:
    p, v = t.floats(3, n := t.n(1, 17)), t.floats(3, n)
    m = t.noise.uniform(0.5, 1, n).astype(F)
    pull = misc.reference_accelerations(p, m, 0.05)
    found, bp, bv = t.out((3, n), F), t.put(p), t.put(v)
    misc.accelerations(bp, t.put(m), found, 0.05)
    size = n * 0.05**-1.0
    t.close(found, pull, n + 40, size)
    misc.nbody_step(bp, bv, t.put(m), 0.01, 0.05)
    t.close(bv, v + 0.01 * pull, n + 44, size)
    t.close(bp, p + 0.01 * (v + 0.01 * pull), n + 48, size + abs(p))
    return found, bp, bv
