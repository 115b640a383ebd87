"""Profiles of emulated boards, and the names that choose them: ``pi5``, ``pi5,slices=3``, ``pi3,kms=1``."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from qpu.core.isa import Isa
from qpu.errors import UsageError

__all__ = ["BOARDS", "BoardProfile", "ZeroCount", "parse_board"]

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


class ZeroCount:
    """What a dispatch with a workgroup count of 0 does (drivers.md 1.6)."""

    SKIP = "skip"  # newer kernels drop it: it completes at once
    WRAP = "65536"  # older ones let the hardware read 0 as 65536


@dataclass(frozen=True, slots=True)
class BoardProfile:
    """An emulated board and the kernel on it.

    name: as asked for, options included. board: ``pi0`` .. ``pi5``. model, compatible, revision: what the device tree
    says. soc: ``BCM2837``. clock_hz: of V3D, Hz. memory, cma, gpu_mem: bytes of RAM, of Linux's contiguous area, of
    the firmware's share (VideoCore IV). page_size: bytes of a CPU page. old_kernel: DRM without parameters 9 to 16,
    performance monitors and multisync; VideoCore IV with /dev/vcsm only. card: number of the card node of v3d.
    deny: every device node answers EACCES. devmem: /dev/mem can be opened. kms: the kernel owns V3D (VideoCore IV).
    rev: revision of the V3D core (IPREV). watchdog_s: seconds of emulated time between looks at a job. zero_count:
    a `ZeroCount`. root: the user is root, hence always authenticated on card nodes. vcsm: ``both``, ``cma``, ``plain``
    or ``none``. unknown_tag: firmware rejects the whole message (``einval``) or leaves bit 31 clear (``clear``).
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
    old_kernel: bool = False
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

    @property
    def qpus(self) -> int:
        """Number of QPUs."""
        return self.slices * self.qpus_per_slice

    @property
    def is_drm(self) -> bool:
        """True where programs are launched through DRM (V3D 4.2 and 7.1)."""
        return self.isa is not Isa.VC4

    @property
    def exact_batches(self) -> bool:
        """True where CFG4 is the number of batches, false where it is that minus one (drivers.md 2)."""
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
        """Physical address of the V3D block: VideoCore IV its only one, V3D the core registers."""
        return {Isa.V3D42: 0xFEC0_4000, Isa.V3D71: 0x10_0200_8000}.get(self.isa, self.peripheral_base + 0xC0_0000)


_PERIPHERALS = {
    "BCM2835": 0x2000_0000,
    "BCM2836": 0x3F00_0000,
    "BCM2837": 0x3F00_0000,
    "BCM2711": 0xFE00_0000,
    "BCM2712": 0x10_7C00_0000,
}

# Clocks: firmware defaults (drivers.md 7.3). Memory splits are assumptions: roomy enough for programs with data areas
# of 32 MiB, which people run with gpu_mem and cma set accordingly. Revisions of V3D: identification registers printed
# by boards (drivers.md 1.3).
_VC4 = BoardProfile(
    name="pi3",
    board="pi3",
    model="Raspberry Pi 3 Model B Rev 1.2",
    compatible="raspberrypi,3-model-b",
    soc="BCM2837",
    revision=0xA02082,
    isa=Isa.VC4,
    slices=3,
    qpus_per_slice=4,
    tmus_per_slice=2,
    clock_hz=400_000_000,
    memory=GIB,
    cma=256 * MIB,
    gpu_mem=256 * MIB,
    devmem=True,
    vcsm="both",
)
_PI1 = replace(
    _VC4,
    name="pi1",
    board="pi1",
    model="Raspberry Pi Model B Plus Rev 1.2",
    compatible="raspberrypi,model-b-plus",
    soc="BCM2835",
    revision=0x000010,
    clock_hz=250_000_000,
    memory=512 * MIB,
    cma=128 * MIB,
    gpu_mem=128 * MIB,
)
_PI4 = BoardProfile(
    name="pi4",
    board="pi4",
    model="Raspberry Pi 4 Model B Rev 1.4",
    compatible="raspberrypi,4-model-b",
    soc="BCM2711",
    revision=0xC03114,
    isa=Isa.V3D42,
    slices=2,
    qpus_per_slice=4,
    tmus_per_slice=1,
    clock_hz=500_000_000,
    memory=4 * GIB,
    cma=512 * MIB,
    rev=14,
)

BOARDS: dict[str, BoardProfile] = {
    "pi0": replace(
        _PI1,
        name="pi0",
        board="pi0",
        model="Raspberry Pi Zero Rev 1.3",
        compatible="raspberrypi,model-zero",
        revision=0x900093,
        clock_hz=300_000_000,
    ),
    "pi1": _PI1,
    "pi2": replace(
        _VC4,
        name="pi2",
        board="pi2",
        model="Raspberry Pi 2 Model B Rev 1.1",
        compatible="raspberrypi,2-model-b",
        soc="BCM2836",
        revision=0xA01041,
        clock_hz=250_000_000,
    ),
    "pi3": _VC4,
    "pi4": _PI4,
    "pi5": replace(
        _PI4,
        name="pi5",
        board="pi5",
        model="Raspberry Pi 5 Model B Rev 1.0",
        compatible="raspberrypi,5-model-b",
        soc="BCM2712",
        revision=0xD04170,
        isa=Isa.V3D71,
        slices=4,
        clock_hz=910_000_000,
        memory=8 * GIB,
        page_size=16 * KIB,
        rev=7,
    ),
}

_UNITS = {"": 1, "k": KIB, "m": MIB, "g": GIB}


def _bad(option: str, value: str, allowed: str) -> UsageError:
    return UsageError(f"board option {option}={value!r}; allowed: {allowed}")


def _size(option: str, value: str, low: int, high: int) -> int:
    found = re.fullmatch(r"([0-9]+)([kmg]?)(?:i?b)?", value.lower())
    size = int(found[1]) * _UNITS[found[2]] if found else -1
    if not low <= size <= high or size % (64 * KIB):
        raise _bad(option, value, f"multiples of 64K from {low // MIB}M to {high // MIB}M, such as 64M")
    return size


def _number(option: str, value: str, low: int, high: int) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", value) or not low <= int(value) <= high:
        raise _bad(option, value, f"{low} to {high}")
    return int(value)


def _choice(option: str, value: str, *allowed: str) -> str:
    if value not in allowed:
        raise _bad(option, value, ", ".join(allowed))
    return value


def _switch(option: str, value: str) -> bool:
    return _choice(option, value, "0", "1") == "1"


def _drm(p: BoardProfile, option: str, *, wanted: bool) -> None:
    if p.is_drm is not wanted:
        have = "pi4, pi5" if wanted else "pi0, pi1, pi2, pi3"
        raise UsageError(f"board option {option} does not apply to {p.board}; it is for {have}")


def _slices(p: BoardProfile, value: str) -> BoardProfile:
    return replace(p, slices=_number("slices", value, 1, BOARDS[p.board].slices))


def _rev(p: BoardProfile, value: str) -> BoardProfile:
    _drm(p, "rev", wanted=True)
    return replace(p, rev=_number("rev", value, 0, 255))


def _page(p: BoardProfile, value: str) -> BoardProfile:
    return replace(p, page_size={"4k": 4 * KIB, "16k": 16 * KIB}[_choice("page", value.lower(), "4k", "16k")])


def _kernel(p: BoardProfile, value: str) -> BoardProfile:
    old = _choice("kernel", value, "old", "new") == "old"
    vcsm = p.vcsm if p.is_drm or not old else "plain"
    return replace(p, old_kernel=old, zero_count=ZeroCount.WRAP if old else ZeroCount.SKIP, vcsm=vcsm)


def _card(p: BoardProfile, value: str) -> BoardProfile:
    _drm(p, "card", wanted=True)
    return replace(p, card=_number("card", value, 0, 1))


def _cma(p: BoardProfile, value: str) -> BoardProfile:
    return replace(p, cma=_size("cma", value, MIB, 512 * MIB))


def _gpu_mem(p: BoardProfile, value: str) -> BoardProfile:
    _drm(p, "gpu_mem", wanted=False)
    return replace(p, gpu_mem=_size("gpu_mem", value, 16 * MIB, 944 * MIB))


def _mem(p: BoardProfile, value: str) -> BoardProfile:
    return replace(p, memory=_size("mem", value, 64 * MIB, GIB if not p.is_drm else 16 * GIB))


def _kms(p: BoardProfile, value: str) -> BoardProfile:
    _drm(p, "kms", wanted=False)
    return replace(p, kms=_switch("kms", value))


def _watchdog(p: BoardProfile, value: str) -> BoardProfile:
    return replace(p, watchdog_s=_number("watchdog", value, 1, 60_000) / 1000)


def _zero(p: BoardProfile, value: str) -> BoardProfile:
    _drm(p, "zero", wanted=True)
    return replace(p, zero_count=_choice("zero", value, ZeroCount.SKIP, ZeroCount.WRAP))


def _vcsm(p: BoardProfile, value: str) -> BoardProfile:
    _drm(p, "vcsm", wanted=False)
    return replace(p, vcsm=_choice("vcsm", value, "both", "cma", "plain", "none"))


def _tag(p: BoardProfile, value: str) -> BoardProfile:
    return replace(p, unknown_tag=_choice("tag", value, "einval", "clear"))


OPTIONS: dict[str, Callable[[BoardProfile, str], BoardProfile]] = {
    "slices": _slices,
    "rev": _rev,
    "page": _page,
    "kernel": _kernel,
    "card": _card,
    "cma": _cma,
    "mem": _mem,
    "gpu_mem": _gpu_mem,
    "kms": _kms,
    "deny": lambda p, value: replace(p, deny=_switch("deny", value)),
    "devmem": lambda p, value: replace(p, devmem=_switch("devmem", value)),
    "root": lambda p, value: replace(p, root=_switch("root", value)),
    "watchdog": _watchdog,
    "zero": _zero,
    "vcsm": _vcsm,
    "tag": _tag,
}


def parse_board(name: str) -> BoardProfile:
    """The profile that `name` asks for.

    Grammar: ``pi0`` .. ``pi5``, then ``,option=value`` any number of times. Options: ``slices`` (1 up to the chip's),
    ``rev`` (of the V3D core, pi4 and pi5), ``page`` (4k, 16k), ``kernel`` (old, new), ``card`` (0, 1: the card node of
    v3d), ``cma``, ``mem``, ``gpu_mem`` (sizes such as 16M), ``kms`` (1: the kernel owns V3D, pi0 to pi3), ``deny``
    (1: permission denied), ``devmem`` (1: /dev/mem can be opened; the default on pi0 to pi3), ``root`` (0: unprivileged
    user), ``watchdog`` (milliseconds), ``zero`` (skip, 65536: dispatches with a count of 0), ``vcsm`` (both, cma,
    plain, none), ``tag`` (einval, clear: firmware that does not know a tag).
    Raises: UsageError naming what is allowed.
    """
    board, *options = name.strip().split(",")
    if board not in BOARDS:
        raise UsageError(f"unknown board {board!r}; allowed: {', '.join(BOARDS)}, with options such as pi5,slices=3")
    profile = BOARDS[board]
    seen: set[str] = set()
    for text in options:
        option, equals, value = (part.strip() for part in text.partition("="))
        if option not in OPTIONS:
            raise UsageError(f"unknown board option {option!r} in {name!r}; allowed: {', '.join(OPTIONS)}")
        if not equals or not value:
            raise UsageError(f"board option {option!r} in {name!r} needs a value, as in {option}=1")
        if option in seen:
            raise UsageError(f"board option {option!r} is given twice in {name!r}")
        seen.add(option)
        profile = OPTIONS[option](profile, value)
    if not profile.is_drm and profile.cma_base < 16 * MIB:
        if "cma" in seen or "gpu_mem" in seen:
            raise UsageError(
                f"{name!r}: cma {profile.cma // MIB}M and gpu_mem {profile.gpu_mem // MIB}M leave no room in "
                f"{profile.memory // MIB}M of memory; lower one of them"
            )
        share = profile.memory // 4
        profile = replace(profile, cma=share, gpu_mem=share)
    return replace(profile, name=",".join([board, *(t.strip() for t in options)]))
