"""Random numbers from counters: Philox 2x32, the same words on every board and on the host.

A word depends on the seed and on its place alone, so numbers come in any order, from any number of workers. Ten rounds
are the default, as its authors advise; seven pass the usual test batteries and cost less.

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC11.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qpu.core.arguments import number, within
from qpu.errors import UsageError
from qpu.kernels.common.jobs import Jobs, entry
from qpu.kernels.common.operands import Memory, device, operand, recast
from qpu.kernels.common.retyped import retyped
from qpu.kernels.common.shapes import flat, returned
from qpu.lang import Const, Out, Team, cos, f32, i32, kernel, log, mul24, sin, sqrt, u32, unroll
from qpu.lang.entry import Kernel
from qpu.launch import Run

__all__ = ["ROUNDS", "Generator", "words"]

BIG: Final = float(np.finfo(np.float32).max)

ROUNDS: Final = 10
"""Of a generator that nobody tells how many."""
MULTIPLIER: Final = 0xD256D193
WEYL: Final = 0x9E3779B9
BLOCK: Final = 32
"""Words of a step: two from each lane's counter, the first ones of all lanes before the second ones."""
WORKERS: Final = 64
MOST: Final = 1 << 33
"""Words of one seed."""


def low_half(k: Any, v: Any) -> Any:
    """The low 16 bits; on VideoCore IV by the ALU that multiplies, because the other one has more to do."""
    return u32(k.vc4.v8min(v, u32(0xFFFF))) if k.isa == "vc4" else v & 0xFFFF


def product(k: Any, a: Any, b: Any, exact: Any) -> Any:
    """High and low word of the product of two u32, from products of 16-bit halves. exact: their product modulo 2**32
    where the chip multiplies words.
    """
    a0, a1 = low_half(k, a), a >> 16
    b0, b1 = b & 0xFFFF, b >> 16
    low = mul24(a0, b0)
    middle = mul24(a0, b1) + (low >> 16)
    other = mul24(a1, b0) + low_half(k, middle)
    high = mul24(a1, b1) + (middle >> 16) + (other >> 16)
    if k.isa == "vc4":
        return high, mul24(other, u32(1 << 16)) | low_half(k, low)
    return high, exact


def philox(k: Any, counter: Any, stream: Any, keys: Any) -> Any:
    """Two random words of a counter."""
    left, right = counter, stream
    for key in unroll(keys):
        high, low = product(k, left, u32(MULTIPLIER), left * u32(MULTIPLIER))
        left, right = high ^ (key ^ right), low
    return left, right


def as_uniform(word: Any) -> Any:
    """[0, 1) in steps of 2**-24, exact on every chip."""
    return f32(i32(word >> 8)) * 2.0**-24


def shaped(k: Any, kind: str, left: Any, right: Any, low: Any, span: Any) -> Any:
    """Two words as two numbers of a distribution."""
    if kind == "bits":
        return left, right
    if kind == "integers":
        return low + product(k, left, span, left)[0], low + product(k, right, span, right)[0]
    if kind == "uniform":
        return low + span * as_uniform(left), low + span * as_uniform(right)
    radius = span * sqrt(-2.0 * log(as_uniform(left) + 2.0**-24))
    angle = 2.0 * np.pi * as_uniform(right)
    return low + radius * cos(angle), low + radius * sin(angle)


@kernel
def generate(
    k: Team, out: Out[f32], first: u32, stream: u32, low: f32, span: f32, rounds: Const[int], kind: Const[str],
    k0: u32, k1: u32, k2: u32, k3: u32, k4: u32, k5: u32, k6: u32, k7: u32, k8: u32, k9: u32,
) -> None:  # fmt: skip
    keys = [k0, k1, k2, k3, k4, k5, k6, k7, k8, k9][:rounds]
    for block in range(k.worker, out.size >> 5, k.workers):
        left, right = philox(k, first + u32(16 * block + k.lane), stream, keys)
        a, b = shaped(k, kind, left, right, low, span)
        at = 32 * block + k.lane
        out[at] = a
        out[at + 16] = b
    if k.worker == 0 and (out.size & 31) != 0:
        last = out.size >> 5
        left, right = philox(k, first + u32(16 * last + k.lane), stream, keys)
        a, b = shaped(k, kind, left, right, low, span)
        at = 32 * last + k.lane
        if at < out.size:
            out[at] = a
        if at + 16 < out.size:
            out[at + 16] = b


def _stream(seed: int, rounds: int) -> tuple[int, int]:
    """A seed and a number of rounds. Raises: UsageError."""
    if rounds not in (7, 10):
        raise UsageError(f"rounds = {rounds!r}; allowed: 7, 10", help="ten are the default")
    return within("seed", seed, 0, (1 << 64) - 1), rounds


class Generator:
    """A stream of random numbers. seed: 0..2**64 - 1; rounds: 7 or 10.

    Each method fills an array of any shape, last axis first, and moves on by its length, rounded up to 32 words.
    """

    def __init__(self, seed: int, rounds: int = ROUNDS) -> None:
        self.seed, self.rounds = _stream(seed, rounds)
        self.position = 0
        """Words that have been used."""

    def _fill(self, out: Memory, dtypes: Any, kind: str, low: float, span: float) -> Run:
        target = operand("out", out, dtypes, mode="out")
        end = self.position + -(-target.size // BLOCK) * BLOCK
        if end > MOST:
            raise UsageError(f"{end} words of one seed", help="another seed after 2**33 words")
        value = {"f": "f32", "u": "u32", "i": "i32"}[target.dtype.kind]
        if kind in ("bits", "integers"):
            target, value = recast(target, np.uint32), "u32"
        keys = [(self.seed + n * WEYL) & 0xFFFFFFFF for n in range(10)]
        with Jobs(device(out=target)) as jobs:
            if target.size:
                place = flat(jobs, target, read=False)
                jobs.add(_KERNELS[value], place, self.position // 2, self.seed >> 32, low, span, self.rounds, kind,
                         *keys, workers=max(1, min(WORKERS, target.size // BLOCK)))  # fmt: skip
                returned(jobs, place, target)
            self.position = end
            return jobs.run()

    @entry
    def bits(self, out: Memory) -> Run:
        """Random words. out: u32 or i32."""
        return self._fill(out, (np.uint32, np.int32), "bits", 0, 0)

    @entry
    def uniform(self, out: Memory, low: float = 0.0, high: float = 1.0) -> Run:
        """low + (high - low) * u, u in [0, 1) in steps of 2**-24. out: f32.

        The same bits on every board for low = 0; VideoCore IV rounds the sum otherwise. Raises: UsageError unless both
        and high - low are finite in float32, and low <= high.
        """
        low, high = number("low", low, -BIG, BIG), number("high", high, -BIG, BIG)
        return self._fill(out, np.float32, "uniform", low, number("high - low", high - low, 0, BIG))

    @entry
    def normal(self, out: Memory, mean: float = 0.0, deviation: float = 1.0) -> Run:
        """Normally distributed numbers by the method of Box and Muller, within 5.8 deviations. out: f32.

        The words are the same on every board; logarithm, root and sine differ in their last bits. Raises: UsageError
        for a deviation below 0, and for numbers that are not finite.
        """
        mean, deviation = number("mean", mean, -BIG, BIG), number("deviation", deviation, 0, BIG)
        return self._fill(out, np.float32, "normal", mean, deviation)

    @entry
    def integers(self, out: Memory, low: int, high: int) -> Run:
        """Integers of low..high - 1, each as likely as the others up to (high - low) / 2**32. out: i32 or u32.

        Raises: UsageError for an empty range, or one that the type does not hold.
        """
        kind = operand("out", out, (np.int32, np.uint32), mode="out").dtype
        limits = np.iinfo(kind)
        if not (limits.min <= low < high <= limits.max + 1) or high - low >= 1 << 32:
            raise UsageError(f"integers from {low} to below {high}",
                             help=f"allowed: {limits.min} <= low < high <= {limits.max + 1}, {kind}")  # fmt: skip
        return self._fill(out, kind, "integers", low & 0xFFFFFFFF, high - low)


_KERNELS: dict[str, Kernel] = {value: retyped(generate, value) for value in ("u32", "f32")}


def words(seed: int, n: int, rounds: int = ROUNDS, position: int = 0) -> NDArray[np.uint32]:
    """The n words from `position` (a multiple of 32) on, computed by NumPy. Raises: UsageError, as `Generator` does."""
    seed, rounds = _stream(seed, rounds)
    n, position = within("n", n, 0, MOST), within("position", position, 0, MOST)
    if position % BLOCK:
        raise UsageError(f"position = {position}", help=f"allowed: multiples of {BLOCK}")
    at = position + np.arange(n, dtype=np.uint64)
    left = (at >> np.uint64(5)) * np.uint64(16) + (at & np.uint64(15))
    right = np.full(n, seed >> 32, np.uint64)
    mask = np.uint64(0xFFFFFFFF)
    for turn in range(rounds):
        whole = left * np.uint64(MULTIPLIER)
        key = np.uint64((seed + turn * WEYL) & 0xFFFFFFFF)
        left, right = (whole >> np.uint64(32)) ^ key ^ right, whole & mask
    return np.where(at & np.uint64(16), right, left).astype(np.uint32)


def reference_uniform(word: NDArray[np.uint32]) -> NDArray[np.float32]:
    """[0, 1) of random words."""
    return (word >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)


def reference_normal(word: NDArray[np.uint32]) -> NDArray[np.float64]:
    """Normally distributed numbers of whole blocks of random words, in float64."""
    u = reference_uniform(word).astype(np.float64).reshape(-1, 2, 16)
    radius, angle = np.sqrt(-2 * np.log(u[:, 0] + 2.0**-24)), 2 * np.pi * u[:, 1]
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1).reshape(-1)
