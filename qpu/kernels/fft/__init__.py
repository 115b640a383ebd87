"""The Fourier transform, with windows for it: complex and real rows of any length."""

from __future__ import annotations

from qpu.kernels.fft.spectra import WINDOWS, frames, spectrogram, window
from qpu.kernels.fft.transforms import fft, fft2, ifft, ifft2, irfft, rfft

__all__ = ["WINDOWS", "fft", "fft2", "frames", "ifft", "ifft2", "irfft", "rfft", "spectrogram", "window"]
