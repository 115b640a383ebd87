"""Layers of neural networks, for inference: images are batch by channels by rows by columns, of f32 or int8."""

from __future__ import annotations

from qpu.kernels.nn.activation import activate
from qpu.kernels.nn.conv import conv2d, conv2d_int8
from qpu.kernels.nn.dense import attention, embedding, linear, linear_int8, matmul
from qpu.kernels.nn.int8 import dequantise, quantise
from qpu.kernels.nn.norm import batch_norm, layer_norm, softmax
from qpu.kernels.nn.pool import average_pool, max_pool

__all__ = [
    "activate", "attention", "average_pool", "batch_norm", "conv2d", "conv2d_int8", "dequantise", "embedding",
    "layer_norm", "linear", "linear_int8", "matmul", "max_pool", "quantise", "softmax",
]  # fmt: skip
