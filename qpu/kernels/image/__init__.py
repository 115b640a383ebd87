"""Images on the GPU: filters, sizes, colours. Rows by columns, or rows by columns by channels, of u8 or f32."""

from __future__ import annotations

from qpu.kernels.image.colour import (
    blend,
    equalise,
    grey,
    histogram,
    lookup,
    rgb_of_grey,
    rgb_of_yuv420,
    threshold,
    tint,
    yuv420_of_rgb,
)
from qpu.kernels.image.filters import box, filter2d, gaussian, separable, sobel
from qpu.kernels.image.ranks import dilate, erode, median
from qpu.kernels.image.sizes import pyramid_down, pyramid_up, resize, warp

__all__ = [
    "blend", "box", "dilate", "equalise", "erode", "filter2d", "gaussian", "grey", "histogram", "lookup", "median",
    "pyramid_down", "pyramid_up", "resize", "rgb_of_grey", "rgb_of_yuv420", "separable", "sobel", "threshold", "tint",
    "warp", "yuv420_of_rgb",
]  # fmt: skip
