"""Diagnosis of a machine through a `Port`: the checks of ``qpu doctor`` in order, and the facts of ``qpu info``."""

from __future__ import annotations

import enum
import os
import platform
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from qpu.drivers import board, probe, system
from qpu.drivers.base import DeviceInfo, Driver
from qpu.drivers.drm import nodes as drm_nodes
from qpu.drivers.errors_table import ADVICE, meminfo, process_groups, reason_of
from qpu.drivers.port import Port
from qpu.errors import DriverError

if TYPE_CHECKING:
    from qpu.drivers.vc4.mailbox import MailboxInfo

__all__ = ["Check", "Report", "Status", "checks_json", "checks_text", "examine", "info", "info_text"]

NO_PI = "no Raspberry Pi: everything runs on emulated boards (pi5 unless another one is named)"
LOG_FILES = ("/var/log/kern.log", "/var/log/syslog", "/var/log/messages")
KMS_IMAGE = (
    "Raspberry Pi OS Lite works without that line, headless or on the console; the desktop of Bookworm and later needs "
    "it [uncertain]"
)
LOW_CMA = 64 << 20  # bytes; enough for small programs with a few buffers
LOW_GPU_MEM = 32 << 20
_MEMORY = {"total": "MemTotal", "available": "MemAvailable", "cma_total": "CmaTotal", "cma_free": "CmaFree"}


class Status(enum.StrEnum):
    """Result of a check. Only `FAIL` means that the GPU cannot be used."""

    OK = "ok"
    NOTE = "note"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One check: what was found and, for a problem, what to do about it."""

    name: str
    status: Status
    found: str
    helps: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """All checks in order. usable: the GPU was opened and ran a trivial job."""

    checks: tuple[Check, ...]
    usable: bool
    board: board.Board
    device: DeviceInfo | None = None
    conclusion: str = field(default="")


def examine(port: Port, name: str = "hardware") -> Report:
    """Make every check, from the board up. The GPU is opened and runs one trivial job.

    name: the device that is asked for: ``hardware``, or the path of a node.
    """
    where = probe.detect_board(port)
    firmware = _firmware(port)
    checks = [
        _board(where),
        *_linux(port, where),
        *_rehearsal(where),
        _python(port),
        _container(where),
        *_nodes(port, where),
        *_named_node(port, where, name),
        _groups(port),
        *_kms(port, where),
        *_qpus(port, where),
        *_memory(port, where, firmware),
        *_throttling(firmware),
        *_clock(firmware),
        *_power(port),
        *_users(port),
        *_log(port),
    ]
    gpu, device = _gpu(port, name)
    usable = gpu.status is Status.OK
    if not usable and not where.is_pi:
        gpu = replace(gpu, status=Status.NOTE, helps=())
    checks.append(gpu)
    if usable:
        conclusion = f"the GPU is usable: {device}"
    elif where.is_pi:
        conclusion = (
            "the GPU is not usable yet; programs run on an emulated board until the problems marked 'fail' are solved"
        )
    else:
        conclusion = NO_PI
    return Report(tuple(checks), usable, where, device, conclusion)


# -- the checks


def _board(where: board.Board) -> Check:
    if not where.is_pi:
        return Check("board", Status.NOTE, f"{where.model}: not a known Raspberry Pi")
    code = "" if where.revision is None else f", revision code {where.revision:x}"
    return Check("board", Status.OK, f"{where.model}, {where.soc}, {where.gpu}{code}")


def _text(port: Port, path: str) -> str:
    return (board.read(port, path) or b"").decode("utf-8", "replace").strip("\0\n ")


def linux_release(port: Port) -> str:
    """The release of Linux, as ``uname -r`` prints it; empty when unknown."""
    release = _text(port, "/proc/sys/kernel/osrelease")
    words = _text(port, "/proc/version").split()
    return release or (words[2] if len(words) > 2 else "")


@dataclass(frozen=True, slots=True)
class LinuxFault:
    """A reported fault of some releases of Linux (drivers.md 1.9). first, last: releases, both included."""

    first: tuple[int, int, int]
    last: tuple[int, int, int]
    found: str
    help: str


LINUX_FAULTS = (
    LinuxFault((6, 18, 29), (6, 18, 36), "these releases are reported to hang the GPU after it was suspended idle",
               "sudo apt full-upgrade, then reboot; until then keep the GPU busy or start again after a hang"),
    LinuxFault((6, 6, 47), (6, 6, 47), "this release is reported to panic when performance counters are used",
               "sudo apt full-upgrade, then reboot; until then do not use gpu.counters"),
)  # fmt: skip


def _linux(port: Port, where: board.Board) -> Iterator[Check]:
    release = linux_release(port)
    arch = _text(port, "/proc/sys/kernel/arch")
    unknown = "unknown (no /proc)" if port.emulated is None else "emulated, without a release number"
    yield Check("Linux", Status.NOTE, " ".join(filter(None, (release, arch))) or unknown)
    numbers = re.match(r"(\d+)\.(\d+)\.(\d+)", release)
    if numbers is not None and where.generation in (6, 7):
        found = (int(numbers[1]), int(numbers[2]), int(numbers[3]))
        for fault in LINUX_FAULTS:
            if fault.first <= found <= fault.last:
                yield Check("Linux", Status.WARN, fault.found, (fault.help,))


def _python(port: Port) -> Check:
    bits = 8 * port.pointer_size
    found = f"{platform.python_version()}, {bits}-bit"
    if bits == 32 and _text(port, "/proc/sys/kernel/arch") == "aarch64":
        found += " on a 64-bit Linux kernel: /dev/vcsm does not work; VCSM-CMA and DRM do"
    return Check("python", Status.NOTE, found)


def _rehearsal(where: board.Board) -> Iterator[Check]:
    if where.generation != 4:
        return
    if os.environ.get("QPU_REHEARSE") == "0":
        text = "off (QPU_REHEARSE=0): a wrong program can overwrite the system, as this GPU has no memory protection"
        yield Check("rehearsal", Status.WARN, text, ("unset QPU_REHEARSE",))
    else:
        yield Check("rehearsal", Status.OK, "on: first launches run on an emulated board before they reach the GPU")
    if os.environ.get("QPU_CANARIES") == "0":
        text = "off (QPU_CANARIES=0): what writes next to a buffer is not noticed"
        yield Check("canary pages", Status.WARN, text, ("unset QPU_CANARIES",))
    else:
        yield Check("canary pages", Status.OK, "on: pages around each buffer are compared after each launch")


def _container(where: board.Board) -> Check:
    if where.container is None:
        return Check("container", Status.OK, "none")
    return Check("container", Status.NOTE, f"{where.container}: only devices that were passed to it can be used")


def _nodes(port: Port, where: board.Board) -> Iterator[Check]:
    if where.generation == 4:
        for path, key in (("/dev/vcio", "no-vcio"), ("/dev/vcsm-cma", "no-vcsm"), ("/dev/mem", "")):
            described = _describe(port, path)
            if described:
                yield Check(path, Status.OK, described)
            elif key == "no-vcsm" and _describe(port, "/dev/vcsm"):
                yield Check("/dev/vcsm", Status.OK, _describe(port, "/dev/vcsm"))
            elif key:
                row = ADVICE[key]
                yield Check(path, Status.FAIL if key == "no-vcio" else Status.WARN, row.symptom, (row.help,))
        return
    try:
        paths = drm_nodes.candidates(port)
    except OSError:
        paths = []
    for path in paths:
        likely = drm_nodes.looks_like_v3d(port, path)
        yield Check(path, Status.OK if likely else Status.NOTE, _describe(port, path) + (", v3d" if likely else ""))
    missing = None if where.container else drm_nodes.node_without_file(port)
    if not paths and missing is not None:
        row = ADVICE["no-node-file"]
        yield Check("nodes", Status.FAIL, f"{row.cause} (sysfs has {missing})", (row.help,))
    elif not paths and where.is_pi:
        row = ADVICE["no-dri-container" if where.container else "no-dri"]
        yield Check("nodes", Status.FAIL, row.symptom, (row.help,))
    elif not paths:
        yield Check("nodes", Status.NOTE, "no /dev/dri")


def _named_node(port: Port, where: board.Board, name: str) -> Iterator[Check]:
    """The node that was named, where it is not the one of the GPU."""
    if not name.startswith("/"):
        return
    if where.generation == 4:
        if name.startswith(drm_nodes.DRI):
            found = f"starts no programs on {where.gpu}"
            yield Check(name, Status.FAIL, found, ("name /dev/vcio, or hardware",))
        return
    right = drm_nodes.v3d_node(port)
    if right is None or right == name or drm_nodes.looks_like_v3d(port, name):
        return
    driver = _driver_name(port, name)
    found = f"another device: its driver is {driver}" if driver else "there is no such node"
    yield Check(name, Status.FAIL, found, (f"name {right}, or hardware",))


def _driver_name(port: Port, path: str) -> str:
    try:
        fd = port.open(path)
    except OSError:
        return "unknown" if board.exists(port, path) else ""
    try:
        return drm_nodes.driver_of(port, fd)[0]
    except OSError:
        return "unknown"
    finally:
        port.close(fd)


def _describe(port: Port, path: str) -> str:
    try:
        found = port.stat(path)
    except OSError:
        return ""
    return f"{found.owner or found.uid}:{found.group or found.gid} {stat.S_IMODE(found.mode):04o}"


def _groups(port: Port) -> Check:
    groups = process_groups(port)
    return Check("groups", Status.NOTE, " ".join(groups) if groups else "unknown")


def _kms(port: Port, where: board.Board) -> Iterator[Check]:
    if where.generation != 4:
        return
    if board.kms_owns_v3d(port):
        row = ADVICE["enable-refused"]
        yield Check("display driver", Status.FAIL, row.cause, (row.help, KMS_IMAGE))
    else:
        yield Check("display driver", Status.OK, "does not own V3D, so the firmware can start programs")


def _qpus(port: Port, where: board.Board) -> Iterator[Check]:
    """Report QPUs that a killed process left powered; a living process that uses them is not disturbed."""
    if where.generation != 4 or where.soc is None or board.kms_owns_v3d(port):
        return
    from qpu.drivers.vc4.power import State, look

    state = look(port, where.soc)
    if state is State.LEFT:
        yield Check("QPUs", Status.WARN, "powered, although no process uses them", ("qpu doctor --clean",))
    else:
        yield Check("QPUs", Status.OK, state.value)


def _memory(port: Port, where: board.Board, firmware: MailboxInfo | None) -> Iterator[Check]:
    memory = meminfo(port)
    if "MemAvailable" in memory:
        yield Check("memory", Status.OK, f"{memory['MemAvailable'] >> 20} MiB available")
    if where.generation != 4:
        return
    help = ADVICE["enomem-cma"].help
    if "CmaTotal" in memory:
        total, free = memory["CmaTotal"], memory.get("CmaFree", 0)
        low = total < LOW_CMA
        found = f"{free >> 20} of {total >> 20} MiB free"
        yield Check("CMA", Status.WARN if low else Status.OK, found, (help,) if low else ())
    if firmware is not None and firmware.vc_memory is not None:
        low = firmware.vc_memory < LOW_GPU_MEM
        found = f"{firmware.vc_memory >> 20} MiB"
        yield Check("gpu_mem", Status.WARN if low else Status.OK, found, (ADVICE["enomem-vc4"].help,) if low else ())


def _throttling(firmware: MailboxInfo | None) -> Iterator[Check]:
    if firmware is None or firmware.throttled is None:
        return
    names = [str(flag.name).lower().replace("_", " ") for flag in firmware.throttled]
    if names:
        yield Check("power", Status.WARN, ", ".join(names), (ADVICE["throttled"].help,))
    else:
        yield Check("power", Status.OK, "no under-voltage, no throttling")


def _clock(firmware: MailboxInfo | None) -> Iterator[Check]:
    """The clock of V3D: lower while it is idle, so read it under load."""
    asked = None if firmware is None else firmware.clocks_hz.get("V3D")
    if firmware is None or not asked:
        return
    measured = firmware.measured_hz.get("V3D")
    text = f"V3D {asked / 1e6:.0f} MHz asked for" + (f", {measured / 1e6:.0f} measured" if measured else "")
    yield Check("clock", Status.NOTE, f"{text} (lower while idle)")


def _power(port: Port) -> Iterator[Check]:
    node = drm_nodes.v3d_node(port)
    state = None if node is None else system.power_state(port, node)
    if state is not None:
        found = "active" if state == "active" else "suspended while idle; the first launch takes longer"
        yield Check("power of V3D", Status.NOTE, found)


def _users(port: Port) -> Iterator[Check]:
    """Other programs that have the GPU open: they take time of it, and on Pi 0-3 they can disturb ours."""
    for user in system.users(port):
        yield Check("in use by", Status.NOTE, str(user))


def _log(port: Port) -> Iterator[Check]:
    """What the log says of v3d, where a file of it can be read."""
    text = next(filter(None, (board.read(port, path) for path in LOG_FILES)), b"")
    for line in system.explain_log(text.decode("utf-8", "replace")):
        yield Check("log", Status.WARN, line)


def _gpu(port: Port, name: str) -> tuple[Check, DeviceInfo | None]:
    try:
        driver = probe.open_driver(port, name)
    except DriverError as error:
        reason, helps = reason_of(error)
        return Check("GPU", Status.FAIL, reason, helps), None
    try:
        device = driver.info
        alive: Callable[[], bool] | None = getattr(driver, "check_alive", None)
        if alive is not None and not alive():
            return Check("GPU", Status.FAIL, "opens, but does not run a trivial job", ("sudo reboot",)), device
        found = f"{device.isa.label} {device.revision}".strip()
        found += f", {device.slices} x {device.qpus_per_slice} QPUs, {device.adapter} on {device.node}"
        return Check("GPU", Status.OK, found), device
    finally:
        driver.close()


def _firmware(port: Port) -> MailboxInfo | None:
    """Facts that the firmware reports; None without a usable mailbox."""
    if not board.exists(port, "/dev/vcio"):
        return None
    from qpu.drivers.vc4.mailbox import Mailbox, read_info

    try:
        with Mailbox(port) as mailbox:
            return read_info(mailbox)
    except DriverError:
        return None


# -- rendering


def checks_json(report: Report) -> dict[str, Any]:
    """The report as ``qpu doctor --json`` prints it."""
    return {
        "usable": report.usable,
        "conclusion": report.conclusion,
        "board": board_json(report.board),
        "checks": [
            {"name": c.name, "status": str(c.status), "found": c.found, "helps": list(c.helps)} for c in report.checks
        ],
    }


def checks_text(report: Report) -> str:
    """The report as ``qpu doctor`` prints it."""
    width = max(len(c.name) for c in report.checks)
    lines = [] if report.board.is_pi or report.usable else [report.conclusion, ""]
    for check in report.checks:
        lines.append(f"{check.status:4}  {check.name:{width}}  {check.found}")
        lines += [f"      {'':{width}}  help: {help}" for help in check.helps]
    return "\n".join(lines if lines[:1] == [report.conclusion] else [*lines, "", report.conclusion])


# -- info


def board_json(where: board.Board) -> dict[str, Any]:
    """A board as ``qpu info --json`` prints it. revision: the code in hexadecimal, as /proc/cpuinfo writes it."""
    found = _fields(where, "model soc generation gpu revision board_revision memory_mb manufacturer container source")
    code = None if where.revision is None else f"{where.revision:x}"
    return found | {"gpu": where.gpu if where.is_pi else None, "revision": code}


def device_json(device: DeviceInfo) -> dict[str, Any]:
    """A device as ``qpu info --json`` prints it."""
    emulated = device.emulated
    found = {"isa": str(device.isa), "emulated": emulated is not None, "emulated_board": emulated}
    return found | _fields(device, "slices qpus qpus_per_slice tmus_per_slice clock_hz adapter node driver revision")


def _fields(source: object, names: str) -> dict[str, Any]:
    return {name: getattr(source, name) for name in names.split()}


def versions(port: Port) -> dict[str, str | None]:
    """Versions of this package, Python, NumPy, llvmlite and Linux; None when not installed or unknown."""
    from importlib import metadata

    def version(name: str) -> str | None:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return None

    return {
        "qpu": version("videocore-qpu"),
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "llvmlite": version("llvmlite"),
        "linux": linux_release(port) or None,
    }


def info(port: Port, fallback: Callable[[], Port] | None = None) -> dict[str, Any]:
    """The facts that ``qpu info`` prints.

    fallback: makes the port of the emulated board that is used when `port` has no usable GPU; without a fallback
    `device` is None then. `reason` says why there is no real GPU.
    """
    where = probe.detect_board(port)
    reason: str | None = None
    device: DeviceInfo | None = None
    try:
        device = _described(probe.open_driver(port))
    except DriverError as error:
        reason = reason_of(error)[0]
    if device is not None and device.board.is_pi:
        where = device.board  # corrected by the identity of the GPU
    elif device is None and fallback is not None:
        device = _described(probe.open_driver(fallback()))
    memory = meminfo(port)
    return {
        "board": board_json(where),
        "device": None if device is None else device_json(device),
        "reason": reason,
        "memory": {key: memory.get(name) for key, name in _MEMORY.items()},
        "page_size": port.page_size,
        "pointer_size": port.pointer_size,
        "versions": versions(port),
    }


def _described(driver: Driver) -> DeviceInfo:
    try:
        return driver.info
    finally:
        driver.close()


def info_text(data: dict[str, Any]) -> str:
    """The facts of `info` as ``qpu info`` prints them without ``--json``."""
    where, device = data["board"], data["device"]
    revision = f", revision {where['revision']}" if where["revision"] else ""
    lines = [f"board     {where['model']}" + (f" ({where['soc']}, {where['gpu']}{revision})" if where["soc"] else "")]
    if device is None:
        lines.append(f"device    none: {data['reason']}")
    else:
        clock = "clock unknown" if device["clock_hz"] is None else f"{device['clock_hz'] / 1e6:.0f} MHz nominal"
        real = f"EMULATED ({device['emulated_board']})" if device["emulated"] else "real"
        lines.append(f"device    {device['isa']} {device['revision']}, {real}".replace(" ,", ","))
        lines.append(f"QPUs      {device['qpus']} = {device['slices']} slices x {device['qpus_per_slice']}, {clock}")
        lines.append(f"adapter   {device['adapter']} on {device['node']} ({device['driver']})")
        if data["reason"]:
            lines.append(f"no GPU    {data['reason']}")
    memory = data["memory"]
    if memory["total"] is not None and memory["available"] is not None:
        lines.append(f"memory    {memory['available'] >> 20} of {memory['total'] >> 20} MiB available")
    lines.append(f"process   {8 * data['pointer_size']}-bit, pages of {data['page_size']} bytes")
    known = ", ".join(f"{name} {version}" for name, version in data["versions"].items() if version)
    lines.append(f"versions  {known}")
    return "\n".join(lines)
