"""Factors of the Fourier transform: rounded from float64, kept on the device for each length."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from qpu.buffers import Buffer, BufferView

if TYPE_CHECKING:
    from qpu.device import Device

__all__ = ["chirp", "halves", "radices", "turns"]

C64: TypeAlias = NDArray[np.complex64]
KEPT = 12
"""Tables of a device; with one more, the one that was not used for longest is dropped. A call uses up to four."""

_known: WeakKeyDictionary[Device, dict[tuple[object, ...], tuple[Buffer, ...]]] = WeakKeyDictionary()


def radices(n: int) -> list[int]:
    """The radices of the passes for a power of two."""
    log = n.bit_length() - 1
    return [4] * (log // 2) + [2] * (log % 2)


def circle(numerators: NDArray[np.int64], denominator: int, sign: int) -> C64:
    """exp(-2 pi i sign a / b). The angle is reduced before it is rounded."""
    angle = (-2 * np.pi * sign / denominator) * (numerators % denominator)
    return np.asarray(np.exp(1j * angle), np.complex64)


def turns(gpu: Device, n: int, sign: int) -> dict[int, BufferView]:
    """For each p of the passes with more than one: factors of results 1, 2 and 3, p each (see `passes.turned4`)."""
    runs, p = [], n
    for radix in radices(n):
        p //= radix
        if p > 1:
            runs.append(p)

    def made() -> tuple[C64, ...]:
        every = [circle(np.outer([1, 2, 3], np.arange(p)), 4 * p, sign).reshape(-1) for p in runs]
        return (np.concatenate(every) if every else np.zeros(1, np.complex64),)

    (table,) = _kept(gpu, ("turns", n, sign), made)
    starts = np.cumsum([0, *(3 * p for p in runs)])
    return {p: table.view(8 * int(at), (3 * p,)) for p, at in zip(runs, starts, strict=False)}


def halves(gpu: Device, n: int) -> Buffer:
    """exp(-2 pi i j / n) / 2 for j = 0 .. n / 2."""
    return _kept(gpu, ("halves", n), lambda: (circle(np.arange(n // 2 + 1), n, 1) / np.complex64(2),))[0]


def chirp(gpu: Device, n: int, m: int, sign: int, scale: float) -> tuple[Buffer, Buffer, Buffer]:
    """For length n by transforms of length m: the chirp, the transform of its conjugate, the chirp times `scale`."""

    def made() -> tuple[C64, ...]:
        k = np.arange(n, dtype=np.int64)
        angle = (-np.pi * sign / n) * (k * k % (2 * n))
        wave = np.exp(1j * angle)
        other = np.zeros(m, np.complex128)
        other[:n] = wave.conj()
        other[m - n + 1 :] = wave[1:][::-1].conj()
        return tuple(np.asarray(x, np.complex64) for x in (wave, np.fft.fft(other), scale * wave))

    first, second, third = _kept(gpu, ("chirp", n, m, sign, scale), made)
    return first, second, third


def _kept(gpu: Device, key: tuple[object, ...], made: Callable[[], tuple[C64, ...]]) -> tuple[Buffer, ...]:
    mine = _known.setdefault(gpu, {})
    found = mine.pop(key, None)
    if found is None:
        while len(mine) >= KEPT:
            for buffer in mine.pop(next(iter(mine))):
                buffer.close()
        found = tuple(gpu.array(data) for data in made())
    mine[key] = found  # the last one now
    return found
