"""Random numbers: known answers, the same words on the host and on the three boards, and their distributions."""

from __future__ import annotations

import numpy as np
import pytest

import qpu
from qpu.errors import UsageError
from qpu.kernels import random
from qpu.kernels.random import Generator, words
from tests.kernels.turns import turns

SEED = 0x0123456789ABCDEF
BOARDS = ("pi3", "pi4", "pi5")

# The known answers that the authors of Philox publish for 2x32: counter, key, rounds, words.
KNOWN = [
    ((0, 0), 0, 7, (0x257A3673, 0xCD26BE2A)),
    ((0, 0), 0, 10, (0xFF1DAE59, 0x6CD10DF2)),
    ((0xFFFFFFFF, 0xFFFFFFFF), 0xFFFFFFFF, 7, (0xAB302C4D, 0x3DC9D239)),
    ((0xFFFFFFFF, 0xFFFFFFFF), 0xFFFFFFFF, 10, (0x2C3F628B, 0xAB4FD7AD)),
    ((0x243F6A88, 0x85A308D3), 0x13198A2E, 7, (0xBEDBBE6B, 0xE4C770B3)),
    ((0x243F6A88, 0x85A308D3), 0x13198A2E, 10, (0xDD7CE038, 0xF62A4C12)),
]


@pytest.mark.parametrize(("counter", "key", "rounds", "known"), KNOWN)
def test_known_answers(counter: tuple[int, int], key: int, rounds: int, known: tuple[int, int]) -> None:
    lane = counter[0] & 15
    found = words(counter[1] << 32 | key, 32, rounds, (counter[0] >> 4) * 32)
    assert (found[lane], found[lane + 16]) == known


@pytest.mark.parametrize(("board", "rounds"), turns([("pi3", 7), ("pi4", 10), ("pi5", 7)], 0, 1))
def test_words_are_those_of_the_host(board: str, rounds: int) -> None:
    with qpu.open_device(board, engine="reference") as gpu:
        g = Generator(SEED, rounds)
        for n in (1, 17, 32, 77, 300):
            start, out = g.position, gpu.zeros(n + 3, np.uint32)
            g.bits(out[3:])
            assert np.array_equal(out.numpy()[3:], words(SEED, n, rounds, start)) and not out.numpy()[:3].any()
        g.position = (1 << 33) - 64
        last = gpu.zeros(64, np.int32)
        g.bits(last)
        assert np.array_equal(last.numpy().view(np.uint32), words(SEED, 64, rounds, (1 << 33) - 64))
        with pytest.raises(UsageError, match="words of one seed"):
            g.bits(last)


@pytest.mark.parametrize("board", turns(["pi3", "pi5"], 0))
def test_distributions(board: str) -> None:
    n = 640
    with qpu.open_device(board, engine="reference") as gpu:
        g, u, z, i = Generator(SEED), gpu.zeros(n), gpu.zeros(n), gpu.zeros(n, np.int32)
        g.uniform(u)
        g.normal(z, 1.0, 2.0)
        g.integers(i, -5, 1000)
        u_, z_, i_ = u.numpy(), z.numpy(), i.numpy()
    every = words(SEED, 3 * n)
    uniform, want = random.reference_uniform(every[:n]), 1 + 2 * random.reference_normal(every[n : 2 * n])
    integers = (every[2 * n :].astype(np.uint64) * np.uint64(1005) >> np.uint64(32)).astype(np.int32) - 5
    assert np.array_equal(u_, uniform) and np.array_equal(i_, integers)
    # sine and cosine err by 2**-19, relative errors of log and root are below 2**-20, times a radius below 12
    assert np.abs(z_ - want).max() < 12 * 2.0**-18
    assert uniform.min() >= 0 and uniform.max() < 1 and abs(uniform.mean() - 0.5) < 4 / np.sqrt(12 * n)
    assert abs(want.mean() - 1) < 8 / np.sqrt(n) and abs(want.std() - 2) < 8 / np.sqrt(2 * n)
    assert integers.min() >= -5 and integers.max() < 1000


def test_refusals() -> None:
    with qpu.open_device("pi5") as gpu:
        g, x, i = Generator(1), gpu.zeros(8), gpu.zeros(8, np.int32)
        for call, message in (
            (lambda: Generator(-1), "seed = -1"),
            (lambda: Generator(1, 8), "rounds = 8"),
            (lambda: Generator(1.5), "seed = 1.5"),  # type: ignore[arg-type]
            (lambda: words(1, -1), "n = -1"),
            (lambda: words(1, 1, position=8), "position = 8"),
            (lambda: g.bits(x), "out holds float32"),
            (lambda: g.uniform(i), "out holds int32"),
            (lambda: g.integers(i, 3, 3), "integers from 3 to below 3"),
            (lambda: g.integers(i, 0, 1 << 32), "integers from 0"),
            (lambda: g.normal(x, 0.0, -1.0), "deviation = -1.0; allowed: a number from 0"),
            (lambda: g.uniform(x, 0.0, float("nan")), "high = nan; allowed: a number from"),
            (lambda: g.uniform(x, 2.0, 1.0), "high - low = -1.0; allowed: a number from 0"),
        ):
            with pytest.raises(UsageError, match=message) as caught:
                call()
            assert "help: " in str(caught.value)
        assert g.position == 0
