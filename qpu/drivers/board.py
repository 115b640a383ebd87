"""Board detection: pure functions from device-tree strings, revision codes and /proc/cpuinfo to a `Board`.

Source of the tables: drivers.md section 7 (Raspberry Pi documentation and device trees), `Basis.MANUAL`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from qpu.errors import UsageError

if TYPE_CHECKING:
    from qpu.drivers.port import Port

__all__ = [
    "GENERATIONS", "GPU_NAMES", "PERIPHERALS", "UNKNOWN", "Board", "Revision", "board_from", "decode_revision",
    "detect", "kms_owns_v3d", "parse_cpuinfo", "parse_revision",
]  # fmt: skip

GENERATIONS = {"BCM2835": 4, "BCM2836": 4, "BCM2837": 4, "BCM2711": 6, "BCM2712": 7}
GPU_NAMES = {4: "VideoCore IV", 6: "VideoCore VI", 7: "VideoCore VII"}

# Peripheral base in the Arm's address space (drivers.md 6.1); the GPUs of newer chips are reached through DRM.
PERIPHERALS = {"BCM2835": 0x2000_0000, "BCM2836": 0x3F00_0000, "BCM2837": 0x3F00_0000, "BCM2711": 0xFE00_0000}

# Firmware defaults of v3d_freq, Hz (drivers.md 7.3). Pi 5: the documented value; 800 to 960 MHz are reported.
_CLOCKS = {"BCM2835": 250_000_000, "BCM2836": 250_000_000, "BCM2837": 400_000_000}
_CLOCKS |= {"BCM2711": 500_000_000, "BCM2712": 910_000_000}
_ZERO_CLOCK = 300_000_000  # Zero, Zero W, Zero 2 W

# Older Raspberry Pi systems named the chips by family.
_ALIASES = {"BCM2708": "BCM2835", "BCM2709": "BCM2836", "BCM2710": "BCM2837"}

_PROCESSORS = {0: "BCM2835", 1: "BCM2836", 2: "BCM2837", 3: "BCM2711", 4: "BCM2712"}
_MAKERS = {0: "Sony UK", 1: "Egoman", 2: "Embest", 3: "Sony Japan", 4: "Embest", 5: "Stadium"}
_MEMORY_MB = {n: 256 << n for n in range(7)}  # 7: other

_NEW_FLAG = 1 << 23

# type field (11:4) -> model without "Raspberry Pi", second half of the compatible string
_TYPES: dict[int, tuple[str, str | None]] = {
    0x00: ("Model A", "model-a"),
    0x01: ("Model B", "model-b"),
    0x02: ("Model A+", "model-a-plus"),
    0x03: ("Model B+", "model-b-plus"),
    0x04: ("2 Model B", "2-model-b"),
    0x05: ("Alpha", None),
    0x06: ("Compute Module 1", "compute-module"),
    0x08: ("3 Model B", "3-model-b"),
    0x09: ("Zero", "model-zero"),
    0x0A: ("Compute Module 3", "3-compute-module"),
    0x0C: ("Zero W", "model-zero-w"),
    0x0D: ("3 Model B+", "3-model-b-plus"),
    0x0E: ("3 Model A+", "3-model-a-plus"),
    0x10: ("Compute Module 3+", "3-plus-compute-module"),
    0x11: ("4 Model B", "4-model-b"),
    0x12: ("Zero 2 W", "model-zero-2-w"),
    0x13: ("400", "400"),
    0x14: ("Compute Module 4", "4-compute-module"),
    0x15: ("Compute Module 4S", "4s-compute-module"),
    0x17: ("5", "5-model-b"),
    0x18: ("Compute Module 5", "5-compute-module"),
    0x19: ("500", "500"),
    0x1A: ("Compute Module 5 Lite", "5-compute-module"),
    0x1B: ("Compute Module 0", None),
}

# Old-style codes, all BCM2835: model, board revision, MB (None: made with two sizes), maker, compatible.
_OLD: dict[int, tuple[str, str, int | None, str, str]] = {
    0x02: ("Model B", "1.0", 256, "Egoman", "model-b"),
    0x03: ("Model B", "1.0", 256, "Egoman", "model-b"),
    0x04: ("Model B", "2.0", 256, "Sony UK", "model-b-rev2"),
    0x05: ("Model B", "2.0", 256, "Qisda", "model-b-rev2"),
    0x06: ("Model B", "2.0", 256, "Egoman", "model-b-rev2"),
    0x07: ("Model A", "2.0", 256, "Egoman", "model-a"),
    0x08: ("Model A", "2.0", 256, "Sony UK", "model-a"),
    0x09: ("Model A", "2.0", 256, "Qisda", "model-a"),
    0x0D: ("Model B", "2.0", 512, "Egoman", "model-b-rev2"),
    0x0E: ("Model B", "2.0", 512, "Sony UK", "model-b-rev2"),
    0x0F: ("Model B", "2.0", 512, "Egoman", "model-b-rev2"),
    0x10: ("Model B+", "1.2", 512, "Sony UK", "model-b-plus"),
    0x11: ("Compute Module 1", "1.0", 512, "Sony UK", "compute-module"),
    0x12: ("Model A+", "1.1", 256, "Sony UK", "model-a-plus"),
    0x13: ("Model B+", "1.2", 512, "Embest", "model-b-plus"),
    0x14: ("Compute Module 1", "1.0", 512, "Embest", "compute-module"),
    0x15: ("Model A+", "1.1", None, "Embest", "model-a-plus"),
}


@dataclass(frozen=True, slots=True)
class Revision:
    """A revision code decoded by field. A field is None where the code lacks it, or has a value unknown to this table.

    code: as read, flags included. soc: ``BCM2711``. board_revision: as printed on the model, ``1.4``. memory_mb: MiB.
    compatible: the device-tree name that belongs to the board.
    """

    code: int
    new_style: bool
    model: str
    board_revision: str | None
    memory_mb: int | None
    manufacturer: str | None
    soc: str | None
    compatible: str | None


@dataclass(frozen=True, slots=True)
class Board:
    """What is known about the computer.

    model: for display; no decision depends on it. soc: ``BCM2837``, or None when this is not a known Raspberry Pi.
    generation: of VideoCore: 4, 6, 7 or None. revision: the revision code, flags included, or None. memory_mb: from
    the code. compatible: device-tree names, most specific first. source: origin of these facts: ``device-tree``,
    ``revision``, ``cpuinfo``, ``gpu`` or empty. container: ``docker``, ``podman``, ``lxc``, ... or None.
    """

    model: str
    soc: str | None = None
    generation: int | None = None
    revision: int | None = None
    memory_mb: int | None = None
    board_revision: str | None = None
    manufacturer: str | None = None
    compatible: tuple[str, ...] = ()
    source: str = ""
    container: str | None = None

    @property
    def gpu(self) -> str:
        """Marketing name of the GPU, for display."""
        return GPU_NAMES.get(self.generation, "unknown GPU") if self.generation is not None else "unknown GPU"

    @property
    def is_pi(self) -> bool:
        """True for a board whose chip is known."""
        return self.soc is not None

    @property
    def emulated_by(self) -> str:
        """Name of the emulated board that resembles it most; ``pi5`` where this is not a known Raspberry Pi."""
        if self.soc == "BCM2835":
            return "pi0" if self._zero else "pi1"
        return {"BCM2836": "pi2", "BCM2837": "pi3", "BCM2711": "pi4"}.get(self.soc or "", "pi5")

    @property
    def clock_hz(self) -> int | None:
        """The firmware's default clock of the GPU in Hz, not a measurement; None when unknown."""
        if self.soc is None:
            return None
        return _ZERO_CLOCK if self._zero else _CLOCKS.get(self.soc)

    @property
    def _zero(self) -> bool:
        return any("zero" in name for name in (*self.compatible, self.model.lower()))

    @property
    def peripheral_base(self) -> int | None:
        """Physical address of the peripherals on the Arm side; None where this package does not use it."""
        return None if self.soc is None else PERIPHERALS.get(self.soc)


UNKNOWN = Board("unknown board")


def decode_revision(code: int) -> Revision:
    """Decode a revision code. Unknown types, chips and makers are accepted and give None.

    Source: drivers.md 7.2. Raises: UsageError for a number that is not a u32.
    """
    if not 0 <= code < 1 << 32:
        raise UsageError(f"revision code {code:#x} is not a 32-bit number", help="pass the code of /proc/cpuinfo")
    if not code & _NEW_FLAG:
        old = _OLD.get(code & 0xFF_FFFF)
        if old is None:
            model = f"Raspberry Pi (unknown old-style code {code & 0xFFFFFF:04x})"
            return Revision(code, False, model, None, None, None, "BCM2835", None)
        name, board, memory, maker, compatible = old
        full = f"raspberrypi,{compatible}"
        return Revision(code, False, f"Raspberry Pi {name}", board, memory, maker, "BCM2835", full)
    kind, revision, memory_code = code >> 4 & 0xFF, code & 15, code >> 20 & 7
    name, suffix = _TYPES.get(kind, (f"(unknown type 0x{kind:02x})", None))
    if kind == 0x19 and memory_code == 6:
        name = "500+"  # differs from the 500 by its memory only
    return Revision(
        code,
        True,
        f"Raspberry Pi {name}",
        f"1.{revision}",
        _MEMORY_MB.get(memory_code),
        _MAKERS.get(code >> 16 & 15),
        _PROCESSORS.get(code >> 12 & 15),
        None if suffix is None else f"raspberrypi,{suffix}",
    )


def parse_revision(text: str) -> int | None:
    """The revision code in a text, as in /proc/cpuinfo; None when the text is not a revision code."""
    digits = text.strip().lower().removeprefix("0x")
    if not re.fullmatch(r"[0-9a-f]{1,8}", digits):
        return None
    return int(digits, 16)


def parse_cpuinfo(text: str) -> dict[str, str]:
    """The lines of /proc/cpuinfo that concern the board: ``Revision`` and ``Model``, where they exist.

    ``Hardware`` is left out on purpose: it always says BCM2835 (drivers.md 7.2).
    """
    found: dict[str, str] = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon and name.strip() in ("Revision", "Model"):
            found[name.strip()] = value.strip()
    return found


def strings(data: bytes) -> tuple[str, ...]:
    """A device-tree property of strings: NUL-separated, NUL at the end."""
    return tuple(s.decode("utf-8", "replace") for s in data.split(b"\0") if s)


def soc_of(compatible: Sequence[str]) -> str | None:
    """The chip that a ``compatible`` property names, such as ``BCM2711``; None when it does not name a known chip."""
    for name in compatible:
        vendor, _, chip = name.partition(",")
        soc = _ALIASES.get(chip.upper(), chip.upper())
        if vendor == "brcm" and soc in GENERATIONS:
            return soc
    return None


def board_from(
    *,
    compatible: bytes | None = None,
    model: bytes | None = None,
    revision: bytes | None = None,
    cpuinfo: str | None = None,
    container: str | None = None,
) -> Board:
    """A board from raw evidence, each piece None when it could not be read.

    compatible, model, revision: bytes of the device-tree properties ``compatible``, ``model`` and
    ``system/linux,revision`` (4 bytes, big-endian). cpuinfo: text of /proc/cpuinfo.
    ``compatible`` determines the chip. The revision code decides between BCM2836 and BCM2837, and determines the chip
    when there is no device tree.
    """
    names = strings(compatible) if compatible is not None else ()
    lines = parse_cpuinfo(cpuinfo) if cpuinfo is not None else {}
    code: int | None = None
    source = ""
    if revision is not None and len(revision) == 4:
        code, source = int.from_bytes(revision, "big"), "revision"
    elif "Revision" in lines:
        code = parse_revision(lines["Revision"])
        source = "cpuinfo" if code is not None else ""
    soc = soc_of(names)
    pi = soc is not None or any(n.startswith("raspberrypi,") for n in names)
    if names and not pi:
        code = None  # another maker's board: its revision numbers mean something else
    if not names and code is not None and code < 2:
        code = None  # other Arm boards print 0000
    decoded = decode_revision(code) if code is not None else None
    if soc is not None:
        source = "device-tree"
        if decoded is not None and {soc, decoded.soc} == {"BCM2836", "BCM2837"}:
            soc = decoded.soc  # 2 Model B v1.2 in an older tree
    elif decoded is not None:
        soc = decoded.soc
    text = strings(model)[0] if model is not None and strings(model) else lines.get("Model", "")
    if not text:
        text = decoded.model if decoded is not None else (names[0] if names else UNKNOWN.model)
    if not names and decoded is not None and decoded.compatible is not None:
        names = (decoded.compatible,)
    return Board(
        model=text,
        soc=soc,
        generation=GENERATIONS[soc] if soc is not None else None,
        revision=code,
        memory_mb=decoded.memory_mb if decoded is not None else None,
        board_revision=decoded.board_revision if decoded is not None else None,
        manufacturer=decoded.manufacturer if decoded is not None else None,
        compatible=names,
        source=source,
        container=container,
    )


def with_gpu(board: Board, version: int) -> Board:
    """The board with the chip that its GPU reports (GET_PARAM, authoritative on Pi 4 and 5). version: 42 or 71."""
    soc = {42: "BCM2711", 71: "BCM2712"}.get(version)
    if soc is None or board.soc == soc:
        return board
    model = board.model if board.model != UNKNOWN.model else f"unknown board with a {soc}"
    return replace(board, model=model, soc=soc, generation=GENERATIONS[soc], source="gpu")


# -- through a port

_TREES = ("/proc/device-tree", "/sys/firmware/devicetree/base")


def read(port: Port, path: str) -> bytes | None:
    """A small file, None when it cannot be read."""
    try:
        return port.read_bytes(path)
    except OSError:
        return None


def tree_bytes(port: Port, name: str) -> bytes | None:
    """A device-tree property by its path below the root, None when it cannot be read."""
    for tree in _TREES:
        data = read(port, f"{tree}/{name}")
        if data is not None:
            return data
    return None


def exists(port: Port, path: str) -> bool:
    """True when `path` is there, readable or not."""
    try:
        port.stat(path)
    except OSError:
        return False
    return True


def detect_container(port: Port) -> str | None:
    """Name of the container runtime that this process runs in; None when no file shows one."""
    if exists(port, "/.dockerenv"):
        return "docker"
    if exists(port, "/run/.containerenv"):
        return "podman"
    named = read(port, "/run/systemd/container")
    if named and named.strip():
        return named.strip().decode("utf-8", "replace")
    for variable in (read(port, "/proc/1/environ") or b"").split(b"\0"):
        if variable.startswith(b"container=") and len(variable) > 10:
            return variable[10:].decode("utf-8", "replace")
    groups = (read(port, "/proc/1/cgroup") or b"").decode("utf-8", "replace")
    for name in ("docker", "kubepods", "lxc", "podman"):
        if f"/{name}" in groups:
            return name
    return None


def detect(port: Port) -> Board:
    """The board that `port` reaches, according to its files. Never raises; an unknown computer has `soc` None."""
    cpuinfo = read(port, "/proc/cpuinfo")
    return board_from(
        compatible=tree_bytes(port, "compatible"),
        model=tree_bytes(port, "model"),
        revision=tree_bytes(port, "system/linux,revision"),
        cpuinfo=None if cpuinfo is None else cpuinfo.decode("utf-8", "replace"),
        container=detect_container(port),
    )


def kms_owns_v3d(port: Port) -> bool:
    """On Pi 0-3: True when Linux's display driver owns V3D, so that the firmware refuses QPU programs.

    The node ``soc/v3d@7ec00000`` is there and its ``status`` is ``okay`` or missing. Source: drivers.md section 8.
    """
    node = "soc/v3d@7ec00000"
    status = tree_bytes(port, f"{node}/status")
    if status is not None:
        return status.rstrip(b"\0") in (b"okay", b"ok")
    return any(exists(port, f"{tree}/{node}") for tree in _TREES)
