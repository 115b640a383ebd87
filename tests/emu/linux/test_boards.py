"""Tests of board names and their profiles."""

from __future__ import annotations

import pytest

from qpu.core.isa import Isa
from qpu.emu.boards import BOARDS, parse_board
from qpu.errors import UsageError


@pytest.mark.parametrize(
    ("name", "isa", "slices", "qpus", "soc", "clock"),
    [
        ("pi0", Isa.VC4, 3, 12, "BCM2835", 300_000_000),
        ("pi1", Isa.VC4, 3, 12, "BCM2835", 250_000_000),
        ("pi2", Isa.VC4, 3, 12, "BCM2836", 250_000_000),
        ("pi3", Isa.VC4, 3, 12, "BCM2837", 400_000_000),
        ("pi4", Isa.V3D42, 2, 8, "BCM2711", 500_000_000),
        ("pi5", Isa.V3D71, 4, 16, "BCM2712", 910_000_000),
        ("pi5,slices=3", Isa.V3D71, 3, 12, "BCM2712", 910_000_000),
    ],
)
def test_boards(name: str, isa: Isa, slices: int, qpus: int, soc: str, clock: int) -> None:
    p = parse_board(name)
    assert (p.name, p.isa, p.slices, p.qpus, p.soc, p.clock_hz) == (name, isa, slices, qpus, soc, clock)


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("pi5,rev=10", "rev", 10),
        ("pi5,page=4k", "page_size", 4096),
        ("pi4,page=16k", "page_size", 16384),
        ("pi4,linux=old", "old_linux", True),
        ("pi4,linux=old", "zero_count", "65536"),
        ("pi5,card=1", "card", 1),
        ("pi3,cma=16M", "cma", 16 << 20),
        ("pi4,mem=256M", "memory", 256 << 20),
        ("pi3,kms=1", "kms", True),
        ("pi3,deny=1", "deny", True),
        ("pi4,devmem=1", "devmem", True),
        ("pi3,linux=old", "vcsm", "plain"),
        ("pi5,watchdog=20", "watchdog_s", 0.02),
        ("pi3, cma = 16M , deny=0", "cma", 16 << 20),
    ],
)
def test_options(name: str, field: str, value: object) -> None:
    assert getattr(parse_board(name), field) == value


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("pi6", "pi0, pi1, pi2, pi3, pi4, pi5"),
        ("", "pi5,slices=3"),
        ("pi5,speed=9", "slices, rev, page"),
        ("pi5,slices=5", "1 to 4"),
        ("pi5,slices=0", "1 to 4"),
        ("pi5,slices=x", "1 to 4"),
        ("pi5,slices", "needs a value"),
        ("pi5,slices=", "needs a value"),
        ("pi5,slices=3,slices=3", "twice"),
        ("pi5,page=8k", "4k, 16k"),
        ("pi5,kms=1", "pi0, pi1, pi2, pi3"),
        ("pi3,card=1", "pi4, pi5"),
        ("pi3,rev=7", "pi4, pi5"),
        ("pi3,cma=1T", "such as 64M"),
        ("pi3,cma=512M,gpu_mem=512M", "no room"),
        ("pi5,deny=yes", "0, 1"),
        ("pi5,", "unknown board option"),
    ],
)
def test_bad_names(name: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse_board(name)


def test_cfg4_rule() -> None:
    assert parse_board("pi5").exact_batches
    assert parse_board("pi5,rev=6").exact_batches
    assert not parse_board("pi5,rev=5").exact_batches
    assert not parse_board("pi4").exact_batches


def test_registry_is_consistent() -> None:
    for name, profile in BOARDS.items():
        assert profile.name == profile.board == name
