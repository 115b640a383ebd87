"""The ten kernels of the examples that `test_ten_kernels` runs on three boards, against NumPy."""

from __future__ import annotations

from tests.lang.rig import script

__all__ = ["add_offsets", "blur", "dot", "fft_pass", "gemm_narrow", "gemm_tile", "histogram", "mandelbrot",
           "prefix_in_quads", "prefix_sum", "saxpy", "soft_threshold"]  # fmt: skip

blur = script("examples/blur_bytes.py").blur
dot = script("examples/dot.py").dot
fft_pass = script("examples/fft.py").fft_pass
histogram = script("examples/histogram.py").histogram
mandelbrot = script("examples/mandelbrot.py").mandelbrot
saxpy = script("examples/saxpy.py").saxpy
soft_threshold = script("examples/soft_threshold.py").soft_threshold
_prefixes, _tiles = script("examples/prefix_sum.py"), script("examples/matrix_tiles.py")
add_offsets, prefix_in_quads, prefix_sum = (
    getattr(_prefixes, name) for name in ("add_offsets", "prefix_in_quads", "prefix_sum")
)
gemm_narrow, gemm_tile = _tiles.gemm_narrow, _tiles.gemm_tile
