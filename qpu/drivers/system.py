"""What Linux says about a GPU in use: other users and their load, clock and power, nodes that are missing, the log.

Sources: drivers.md 1.10 (fdinfo, runtime power), 1.11 (messages of the log, error bits).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from qpu.drivers import board
from qpu.drivers.drm import nodes as drm_nodes
from qpu.drivers.port import Port

__all__ = ["ERROR_BITS", "User", "explain_log", "power_state", "users"]

SAMPLE_S = 0.1
DEVICES = ("/dev/vcio", "/dev/vcsm-cma", "/dev/vcsm", "/dev/mem")

# Bits of V3D_ERR_STAT, as a header names them; nobody has published what they mean in practice (drivers.md 1.11).
ERROR_BITS: tuple[str, ...] = tuple(
    row.strip()
    for row in """
    VPM allocator: base allocated while busy
    VPM allocator: request too big
    VPM allocator: binner request above the limit
    VPM allocator: renderer request above the limit
    VPM: write outside the range
    VPM: read outside the range
    VPM: read of rows that are not allocated
    VPM: write of rows that are not allocated
    VPM: free of rows that are not allocated
    VPM: allocated size
    VDW: address overflow
    VCD: FIFO pointers out of step
    VCD: idle
    VCM: renderer
    VCM: binner
    L2 cache: receive FIFO overrun
    """.strip().splitlines()
)


@dataclass(frozen=True, slots=True)
class User:
    """A process that has the GPU open. load: part of the time that a queue was busy, by its name; memory: bytes."""

    pid: int
    name: str
    node: str
    load: dict[str, float]
    memory: int | None

    def __str__(self) -> str:
        parts = [f"{queue} {share:.0%}" for queue, share in self.load.items() if share >= 0.005]
        parts += [] if self.memory is None else [f"{self.memory >> 20} MiB"]
        return f"{self.name} ({self.pid}) on {self.node}" + (f": {', '.join(parts)}" if parts else "")


def _numbered(port: Port, path: str) -> list[str]:
    try:
        return sorted((n for n in port.listdir(path) if n.isdigit()), key=int)
    except OSError:
        return []


def _open_files(port: Port, pid: str) -> Iterator[tuple[str, str]]:
    """Descriptors of a process that are nodes of a GPU: number and path."""
    for fd in _numbered(port, f"/proc/{pid}/fd"):
        try:
            target = port.readlink(f"/proc/{pid}/fd/{fd}")
        except OSError:
            continue
        if target.startswith(drm_nodes.DRI + "/") or target in DEVICES:
            yield fd, target


def _fdinfo(port: Port, pid: str, fd: str) -> dict[str, str]:
    text = (board.read(port, f"/proc/{pid}/fdinfo/{fd}") or b"").decode("utf-8", "replace")
    return {key: value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}


def _busy(info: dict[str, str]) -> dict[str, int]:
    """Nanoseconds that each queue has been busy for this open file."""
    found = {}
    for key, value in info.items():
        name = key.removeprefix("drm-engine-")
        if name != key and not name.startswith("capacity-") and value.split()[:1] and value.split()[0].isdigit():
            found[name] = int(value.split()[0])
    return found


def _bytes(info: dict[str, str]) -> int | None:
    units = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20}
    for prefix in ("drm-resident-", "drm-memory-", "drm-total-"):
        sizes = [value.split() for key, value in info.items() if key.startswith(prefix)]
        if sizes:
            return sum(int(words[0]) * units.get("".join(words[1:2]), 1) for words in sizes if words[0].isdigit())
    return None


def users(port: Port) -> list[User]:
    """Other processes that have a node of the GPU open and that this user may look at, with their load.

    The load is measured over a tenth of a second, where Linux reports it.
    """
    own, seen = str(port.getpid()), set()
    files: list[tuple[str, str, str, dict[str, str]]] = []
    for pid in _numbered(port, "/proc"):
        if pid == own:
            continue
        for fd, target in _open_files(port, pid):
            info = _fdinfo(port, pid, fd)
            driver = info.get("drm-driver")
            client = (pid, target, info.get("drm-client-id", ""))
            if driver not in (None, "v3d") or client in seen:
                continue
            if driver is None and target.startswith(drm_nodes.DRI) and not drm_nodes.looks_like_v3d(port, target):
                continue
            seen.add(client)
            files.append((pid, fd, target, info))
    start = port.monotonic()
    if any(_busy(info) for *_, info in files):
        port.sleep(SAMPLE_S)
    found = []
    for pid, fd, target, info in files:
        after, before = _busy(_fdinfo(port, pid, fd)), _busy(info)
        taken = max(port.monotonic() - start, 1e-6) * 1e9
        load = {queue: max(0, ns - before[queue]) / taken for queue, ns in after.items() if queue in before}
        name = (board.read(port, f"/proc/{pid}/comm") or b"?").decode("utf-8", "replace").strip()
        found.append(User(int(pid), name, target, load, _bytes(info)))
    return found


def power_state(port: Port, node: str) -> str | None:
    """``active`` or ``suspended``, as the runtime power management of Linux says it; None where it says nothing."""
    name = node.rpartition("/")[2]
    text = (board.read(port, f"/sys/class/drm/{name}/device/power/runtime_status") or b"").decode("ascii", "replace")
    return text.strip() if text.strip() in ("active", "suspended") else None


# -- the log

_MMU = re.compile(r"MMU error from client (\S+) \((\d+)\) at (0x[0-9a-fA-F]+)((?:, [a-z ]+)*)")
_ERR_STAT = re.compile(r"V3D_ERR_STAT:?\s*(?:=\s*)?(0x[0-9a-fA-F]+)")
_MEANINGS = {
    "pte invalid": "the address is in no buffer",
    "write violation": "the buffer may not be written",
    "cap exceeded": "the address is above the GPU's memory",
}


def explain_log(text: str) -> list[str]:
    """The messages of v3d in a log of Linux, each once, with what they mean."""
    found: dict[str, None] = {}
    for line in text.splitlines():
        mmu, status = _MMU.search(line), _ERR_STAT.search(line)
        if mmu is not None:
            kinds = [kind.strip() for kind in mmu[4].split(",") if kind.strip()]
            why = "; ".join(_MEANINGS.get(kind, kind) for kind in kinds) or "no reason given"
            unit = {"L2T": "the TMU or the instruction cache"}.get(mmu[1], f"unit {mmu[1]}")
            found[f"MMU error at {mmu[3]}, by {unit}: {why}"] = None
        if status is not None:
            value = int(status[1], 16)
            bits = [name for bit, name in enumerate(ERROR_BITS) if value >> bit & 1]
            more = value >> len(ERROR_BITS)
            bits += [f"unknown bits 0x{more << len(ERROR_BITS):x}"] if more else []
            named = f"{', '.join(bits)} (names of bits: uncertain)" if bits else "no error bit"
            found[f"V3D_ERR_STAT {status[1]}: {named}"] = None
        if "Resetting GPU" in line:
            found["the GPU was reset: no batch of a program ended within half a second"] = None
    return list(found)
