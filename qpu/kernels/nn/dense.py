"""Layers that are products of matrices: matmul, linear layers, attention; and embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qpu.buffers import Buffer, BufferView
from qpu.errors import UsageError
from qpu.kernels.common.jobs import Jobs, entry
from qpu.kernels.common.operands import Memory, device, operand, separate
from qpu.kernels.common.shapes import collected, flat, returned
from qpu.kernels.gemm import gemm
from qpu.kernels.move import gather, turned
from qpu.kernels.nn.activation import check_kind
from qpu.kernels.nn.conv import Shape, biased, check_shape, finished, submit_int8
from qpu.kernels.nn.norm import softened
from qpu.launch import Run

__all__ = ["attention", "embedding", "linear", "linear_int8", "matmul", "reference_attention"]


def _fitting(x: BufferView, w: BufferView, out: BufferView) -> None:
    if w.shape[1] != x.shape[1]:
        raise UsageError(
            f"x has the shape {list(x.shape)} and w {list(w.shape)}; allowed: (n, k) and (o, k)", help="w.T, or part()"
        )
    check_shape("out", out, (x.shape[0], w.shape[0]))


def _turned(x: BufferView) -> BufferView:
    """The transpose as an image of one row for each column."""
    n, m = x.shape
    return BufferView(x.buffer, x.offset, (m, 1, n), x.dtype, (x.strides[1], 0, x.strides[0]))


@entry
def linear(x: Memory, w: Memory, out: Memory, bias: Memory | None = None, activation: str = "none") -> Run:
    """out = x w' + bias through the activation. x: (n, k); w: (o, k); out: (n, o); bias: (o,); f32."""
    source, weights = operand("x", x, np.float32, 2), operand("w", w, np.float32, 2)
    target = operand("out", out, np.float32, 2, "out")
    check_kind(activation)
    _fitting(source, weights, target)
    with Jobs(device(x=source, w=weights, out=target)) as jobs:
        jobs.take(gemm(source, weights.T, target, bias=bias, relu=activation == "relu"))
        if target.size and activation not in ("none", "relu"):
            jobs.add(
                finished,
                BufferView(target.buffer, target.offset, (1, *target.shape), target.dtype, (0, *target.strides)),
                activation,
            )
        return jobs.run()


@entry
def matmul(a: Memory, b: Memory, out: Memory, bias: Memory | None = None, relu: bool = False) -> Run:
    """out = a b, plus bias for each row. a: (m, k); b: (k, n); out: (m, n); f32, with an axis of batches or without.

    See `qpu.kernels.gemm.gemm`, which this is.
    """
    return gemm(a, b, out, bias=bias, relu=relu)


@entry
def attention(q: Memory, k: Memory, v: Memory, out: Memory, causal: bool = False) -> Run:
    """out = softmax(q k' / sqrt(width)) v for each head. q: (heads, n, width); k: (heads, m, width); v: (heads, m,
    depth); out: (heads, n, depth); f32. causal: item i of q sees items 0..i of k.
    """
    names = {"q": q, "k": k, "v": v}
    x, y, z = (operand(name, value, np.float32, 3) for name, value in names.items())
    target = operand("out", out, np.float32, 3, "out")
    heads, n, width = x.shape
    if y.shape[::2] != (heads, width) or z.shape[:2] != y.shape[:2] or not width:
        raise UsageError(
            f"q has the shape {list(x.shape)}, k {list(y.shape)}, v {list(z.shape)}",
            help="allowed: (heads, n, width), (heads, m, width) and (heads, m, depth)",
        )
    check_shape("out", target, (heads, n, z.shape[2]))
    with Jobs(device(q=x, k=y, v=z, out=target)) as jobs:
        if target.size:
            scores, weights = (jobs.scratch((heads, n, y.shape[1]), np.float32) for _ in "ab")
            jobs.take(gemm(x, y.transpose(0, 2, 1), scores, alpha=float(width**-0.5)))
            softened(jobs, scores.view(0, scores.shape), weights.view(0, weights.shape), causal=causal)
            jobs.take(gemm(weights, z, target))
        return jobs.run()


@entry
def linear_int8(
    x: Memory, w: Memory, out: Memory, bias: Memory | None = None, scale: Memory | None = None, *, zero: int = 0,
    zero_out: int = 0, relu: bool = False,
) -> Run:  # fmt: skip
    """A linear layer of int8. x: (n, k); w: (o, k); out: (n, o), i32 or int8; see `conv2d_int8`."""
    source, weights = operand("x", x, np.int8, 2), operand("w", w, np.int8, 2)
    target = operand("out", out, (np.int8, np.int32), 2, "out")
    if not -128 <= zero <= 127 or not -128 <= zero_out <= 127:
        raise UsageError(f"zero = {zero}, zero_out = {zero_out}", help="allowed: -128..127")
    if (target.dtype == np.int8) != (scale is not None):
        raise UsageError(f"out holds {target.dtype}, and scale is {scale}", help="int8 needs a scale, int32 has none")
    _fitting(source, weights, target)
    (n, depth), o = source.shape, weights.shape[0]
    s = Shape(1, depth, 1, n, o, depth, 1, 1, (1, 1), (0, 0), (1, 1), 1)  # the items of a batch are one row of pixels
    with Jobs(device(x=source, w=weights, out=target)) as jobs:
        given, named = biased(jobs, bias, s.o, np.int32)
        scales = jobs.constant(np.ones(s.o, np.float32)) if scale is None else operand("scale", scale, np.float32, 1)
        separate("out", target, False, x=source, w=weights, **named)
        for v in (*named.values(), *([] if isinstance(scales, Buffer) else [scales])):
            check_shape("bias or scale", v, (s.o,))
        if target.size:
            rows = jobs.scratch((o, n), target.dtype)
            across = rows.view(0, (o, 1, n))
            submit_int8(jobs, _turned(source), weights, given, scales, across, s, (zero, zero_out), relu)
            turned(jobs, rows.view(0, (o, n)), target)
        return jobs.run()


@entry
def embedding(table: Memory, at: Memory, out: Memory) -> Run:
    """out[i] = table[at[i]]. table: (entries, width); at: i32, any shape; out: its shape and width more.

    Numbers outside of the table are undefined on hardware, and a fault on emulated boards.
    """
    places = operand("at", at, np.int32)
    target = operand("out", out, (np.float32, np.int8, np.float16), mode="out")
    rows = operand("table", table, target.dtype, 2)
    check_shape("out", target, (*places.shape, rows.shape[1]))
    with Jobs(device(table=rows, at=places, out=target)) as jobs:
        place = collected(jobs, target, len(places.shape), 1, read=False)
        jobs.take(gather(rows, flat(jobs, places), place, 0))
        returned(jobs, place, target)
        return jobs.run()


def reference_attention(q: NDArray[Any], k: NDArray[Any], v: NDArray[Any], causal: bool = False) -> NDArray[np.float64]:
    """`attention` in NumPy."""
    scores = q.astype(np.float64) @ np.swapaxes(k.astype(np.float64), -1, -2) / np.sqrt(q.shape[-1])
    if causal:
        scores = np.where(np.tri(*scores.shape[-2:]) > 0, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.asarray(weights / weights.sum(-1, keepdims=True) @ v.astype(np.float64))
