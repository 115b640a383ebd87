"""Profiles of emulated boards, and the parser of their names: ``pi5``, ``pi5,slices=3``, ``pi3,kms=1``."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from qpu.core.isa import Isa
from qpu.errors import UsageError, suggest

__all__ = ["BOARDS", "BoardProfile", "ZeroCount", "parse_board"]

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


class ZeroCount:
    """The effect of a dispatch with a workgroup count of 0 (drivers.md 1.6)."""

    SKIP = "skip"  # newer versions of Linux drop the dispatch: it completes at once
    WRAP = "65536"  # older versions submit it, and the hardware takes 0 as 65536


@dataclass(frozen=True, slots=True)
class BoardProfile:
    """An emulated board and the Linux on it.

    name: as given, with options. board: ``pi0`` .. ``pi5``. model, compatible, revision: as in the device tree.
    soc: ``BCM2837``. clock_hz: of V3D, Hz. memory, cma, gpu_mem: bytes of RAM, of Linux's contiguous area, of
    the firmware's part (VideoCore IV). page_size: bytes of a CPU page. old_linux: DRM without parameters 9 to 16,
    performance monitors and multisync; VideoCore IV with /dev/vcsm only. card: number of the card node of v3d.
    deny: every device node answers EACCES. devmem: /dev/mem can be opened. kms: Linux owns V3D (VideoCore IV).
    rev: revision of the V3D core (IPREV). watchdog_s: seconds of emulated time between the watchdog's checks of a job.
    zero_count: a `ZeroCount`. root: the user is root, hence always authenticated on card nodes. vcsm: ``both``,
    ``cma``, ``plain`` or ``none``. unknown_tag: the firmware rejects a message with an unknown tag (``einval``) or
    leaves bit 31 of the tag clear (``clear``). bits: word size of the programs; 0: that of this Python.
    """

    name: str
    board: str
    model: str
    compatible: str
    soc: str
    revision: int
    isa: Isa
    slices: int
    qpus_per_slice: int
    tmus_per_slice: int
    clock_hz: int
    memory: int
    cma: int
    gpu_mem: int = 0
    page_size: int = 4 * KIB
    old_linux: bool = False
    card: int = 0
    deny: bool = False
    devmem: bool = False
    kms: bool = False
    rev: int = 0
    watchdog_s: float = 0.5
    zero_count: str = ZeroCount.SKIP
    root: bool = True
    vcsm: str = "none"
    unknown_tag: str = "einval"
    bits: int = 0

    @property
    def qpus(self) -> int:
        """Number of QPUs."""
        return self.slices * self.qpus_per_slice

    @property
    def is_drm(self) -> bool:
        """Whether programs are launched through DRM (V3D 4.2 and 7.1)."""
        return self.isa is not Isa.VC4

    @property
    def exact_batches(self) -> bool:
        """Whether CFG4 is the number of batches; otherwise it is that number minus one (drivers.md 2)."""
        return self.isa is Isa.V3D71 and self.rev >= 6

    @property
    def peripheral_base(self) -> int:
        """Physical address of the peripherals as the ARM sees them (drivers.md 6.1)."""
        return _PERIPHERALS[self.soc]

    @property
    def gpu_mem_base(self) -> int:
        """Physical address of the firmware's memory: the top of the RAM that VideoCore IV can reach."""
        return min(self.memory, self.peripheral_base, 1 << 30) - self.gpu_mem

    @property
    def cma_base(self) -> int:
        """Physical address of Linux's contiguous area, below the firmware's memory."""
        return self.gpu_mem_base - self.cma

    @property
    def v3d_base(self) -> int:
        """Physical address of the registers of V3D; on V3D 4.2 and 7.1 those of the core."""
        return {Isa.V3D42: 0xFEC0_4000, Isa.V3D71: 0x10_0200_8000}.get(self.isa, self.peripheral_base + 0xC0_0000)


_PERIPHERALS = {
    "BCM2835": 0x2000_0000,
    "BCM2836": 0x3F00_0000,
    "BCM2837": 0x3F00_0000,
    "BCM2711": 0xFE00_0000,
    "BCM2712": 0x10_7C00_0000,
}

# Clocks: firmware defaults (drivers.md 7.3). Memory splits are assumed: large enough for programs with data areas of
# 32 MiB, for which users set gpu_mem and cma accordingly. Revisions of V3D: identification registers of boards
# (drivers.md 1.3).
_MODELS = """
name model                compatible    soc     revision slices MHz memory_M cma_M gpu_mem_M page_K rev
pi0  Zero Rev 1.3         model-zero    BCM2835 900093   3      300      512   128       128      4   0
pi1  Model B Plus Rev 1.2 model-b-plus  BCM2835 000010   3      250      512   128       128      4   0
pi2  2 Model B Rev 1.1    2-model-b     BCM2836 a01041   3      250     1024   256       256      4   0
pi3  3 Model B Rev 1.2    3-model-b     BCM2837 a02082   3      400     1024   256       256      4   0
pi4  4 Model B Rev 1.4    4-model-b     BCM2711 c03114   2      500     4096   512         0      4  14
pi5  5 Model B Rev 1.0    5-model-b     BCM2712 d04170   4      910     8192   512         0     16   7
"""


def _profile(row: str) -> BoardProfile:
    words = row.split()
    name, model, (compatible, soc, revision) = words[0], " ".join(words[1:-10]), words[-10:-7]
    slices, mhz, memory, cma, gpu_mem, page, rev = map(int, words[-7:])
    isa = {"BCM2711": Isa.V3D42, "BCM2712": Isa.V3D71}.get(soc, Isa.VC4)
    vc4 = isa is Isa.VC4
    return BoardProfile(
        *(name, name, f"Raspberry Pi {model}", f"raspberrypi,{compatible}", soc, int(revision, 16), isa),
        *(slices, 4, 2 if vc4 else 1, mhz * 1_000_000, memory * MIB, cma * MIB, gpu_mem * MIB, page * KIB),
        devmem=vc4,
        vcsm="both" if vc4 else "none",
        rev=rev,
    )


BOARDS: dict[str, BoardProfile] = {row[:3]: _profile(row) for row in _MODELS.strip().splitlines()[1:]}

_UNITS = {"": 1, "k": KIB, "m": MIB, "g": GIB}


# Readers of the value of an option. They raise ValueError with the allowed values.
_Reader = Callable[[BoardProfile, str], object]


def _size(low: int, high: int) -> _Reader:
    def read(p: BoardProfile, value: str) -> int:
        found = re.fullmatch(r"([0-9]+)([kmg]?)(?:i?b)?", value.lower())
        size = int(found[1]) * _UNITS[found[2]] if found else -1
        if not low <= size <= high or size % (64 * KIB):
            raise ValueError(f"multiples of 64K from {low // MIB}M to {high // MIB}M, such as 64M")
        return size

    return read


def _number(low: int, high: int) -> _Reader:
    def read(p: BoardProfile, value: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", value) or not low <= int(value) <= high:
            raise ValueError(f"{low} to {high}")
        return int(value)

    return read


def _choice(**allowed: object) -> _Reader:
    def read(p: BoardProfile, value: str) -> object:
        if value not in allowed:
            raise ValueError(", ".join(allowed))
        return allowed[value]

    return read


_switch = _choice(**{"0": False, "1": True})
_EXAMPLE = "write the board as in pi5 or pi5,slices=3, with allowed names and values"
_ANY, _DRM, _VC4 = (False, True), (True,), (False,)  # values of `is_drm` for which an option exists

# option: boards, field of the profile, reader
OPTIONS: dict[str, tuple[tuple[bool, ...], str, _Reader]] = {
    "slices": (_ANY, "slices", lambda p, value: _number(1, BOARDS[p.board].slices)(p, value)),
    "rev": (_DRM, "rev", _number(0, 255)),
    "page": (_ANY, "page_size", lambda p, value: _choice(**{"4k": 4 * KIB, "16k": 16 * KIB})(p, value.lower())),
    "linux": (_ANY, "old_linux", _choice(old=True, new=False)),
    "card": (_DRM, "card", _number(0, 1)),
    "cma": (_ANY, "cma", _size(MIB, 512 * MIB)),
    "mem": (_ANY, "memory", lambda p, value: _size(64 * MIB, 16 * GIB if p.is_drm else GIB)(p, value)),
    "gpu_mem": (_VC4, "gpu_mem", _size(16 * MIB, 944 * MIB)),
    "kms": (_VC4, "kms", _switch),
    "deny": (_ANY, "deny", _switch),
    "devmem": (_ANY, "devmem", _switch),
    "root": (_ANY, "root", _switch),
    "watchdog": (_ANY, "watchdog_s", lambda p, value: int(str(_number(1, 60_000)(p, value))) / 1000),
    "zero": (_DRM, "zero_count", _choice(**{each: each for each in (ZeroCount.SKIP, ZeroCount.WRAP)})),
    "vcsm": (_VC4, "vcsm", _choice(both="both", cma="cma", plain="plain", none="none")),
    "bits": (_ANY, "bits", lambda p, value: _choice(**{"32": 32, "64": 64})(p, value)),
    "tag": (_ANY, "unknown_tag", _choice(einval="einval", clear="clear")),
}


def _with_option(p: BoardProfile, option: str, value: str) -> BoardProfile:
    boards, field, read = OPTIONS[option]
    if p.is_drm not in boards:
        have = ", ".join(name for name, each in BOARDS.items() if each.is_drm in boards)
        raise UsageError(f"board option {option} does not apply to {p.board}", help=f"remove it; {have} have it")
    try:
        changed: dict[str, Any] = {field: read(p, value)}
    except ValueError as allowed:
        raise UsageError(f"board option {option}={value!r}; allowed: {allowed}", help=_EXAMPLE) from None
    if option == "linux":
        old = changed["old_linux"]
        changed["zero_count"] = ZeroCount.WRAP if old else ZeroCount.SKIP
        changed["vcsm"] = "plain" if old and not p.is_drm else p.vcsm
    return replace(p, **changed)


def parse_board(name: str) -> BoardProfile:
    """The profile for a board name.

    Grammar: ``pi0`` .. ``pi5``, then ``,option=value`` any number of times. Options: ``slices`` (1 up to the chip's),
    ``rev`` (of the V3D core, pi4 and pi5), ``page`` (4k, 16k), ``linux`` (old, new), ``card`` (0, 1: the card node of
    v3d), ``cma``, ``mem``, ``gpu_mem`` (sizes such as 16M), ``kms`` (1: Linux owns V3D, pi0 to pi3), ``deny``
    (1: permission denied), ``devmem`` (1: /dev/mem can be opened; the default on pi0 to pi3), ``root`` (0: unprivileged
    user), ``watchdog`` (milliseconds), ``zero`` (skip, 65536: dispatches with a count of 0), ``vcsm`` (both, cma,
    plain, none), ``tag`` (einval, clear: the answer to an unknown tag), ``bits`` (32, 64: word size of programs).
    Raises: UsageError that names what is allowed.
    """
    if not isinstance(name, str):
        raise UsageError(f"board {name!r}; allowed: {', '.join(BOARDS)}", help=_EXAMPLE)
    board, *options = name.strip().split(",")
    if board not in BOARDS:
        raise UsageError(f"unknown board {board!r}; allowed: {', '.join(BOARDS)}", help=_EXAMPLE)
    profile = BOARDS[board]
    seen: set[str] = set()
    for text in options:
        option, equals, value = (part.strip() for part in text.partition("="))
        if option not in OPTIONS:
            raise UsageError(
                f"unknown board option {option!r} in {name!r}; allowed: {', '.join(OPTIONS)}",
                help=suggest(option, OPTIONS) or _EXAMPLE,
            )
        if not equals or not value:
            raise UsageError(f"board option {option!r} in {name!r} needs a value", help=f"write it as {option}=...")
        if option in seen:
            raise UsageError(f"board option {option!r} is given twice in {name!r}", help="give each option once")
        seen.add(option)
        profile = _with_option(profile, option, value)
    if not profile.is_drm and profile.cma_base < 16 * MIB:
        if "cma" in seen or "gpu_mem" in seen:
            raise UsageError(
                f"{name!r}: cma {profile.cma // MIB}M and gpu_mem {profile.gpu_mem // MIB}M leave no room in "
                f"{profile.memory // MIB}M of memory; Linux needs at least 16M of its own",
                help="reduce cma or gpu_mem",
            )
        quarter = profile.memory // 4
        profile = replace(profile, cma=quarter, gpu_mem=quarter)
    return replace(profile, name=",".join([board, *(t.strip() for t in options)]))
