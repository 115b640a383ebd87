"""Advice for the errors of real boards: one row each with cause and remedy, and the errors made from the rows.

Source of the rows: drivers.md section 8 (Linux drivers, Raspberry Pi documentation, user reports).
"""

from __future__ import annotations

import errno as errno_module
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qpu.errors import DriverError, GpuResetError, GpuTimeoutError, NoDeviceError

if TYPE_CHECKING:
    from qpu.drivers.port import Port

__all__ = [
    "ADVICE", "Advice", "close_node", "errno_name", "errno_rows", "failure", "fault", "meminfo", "no_device",
    "reason_of",
]  # fmt: skip

HELP = "\n  help: "


@dataclass(frozen=True, slots=True)
class Advice:
    """One row. key: stable name. symptom: what the user sees. cause: likely cause. help: what to do."""

    key: str
    symptom: str
    cause: str
    help: str


def _rows(table: str) -> dict[str, Advice]:
    """Rows of four columns separated by `` | ``; a line that begins with a space continues the row above."""
    lines = table.strip().replace("\n  ", " ").splitlines()
    rows = [Advice(*line.split(" | ", 3)) for line in lines]
    return {row.key: row for row in rows}


# key | what is seen | likely cause | what to do
ADVICE: dict[str, Advice] = _rows("""
no-dri | no /dev/dri | the V3D driver is not loaded: its overlay is off or the module is blacklisted | add the line
  'dtoverlay=vc4-kms-v3d' to config.txt (/boot/firmware/ or /boot/) and reboot, headless boards too; then, if the
  node is still missing: sudo modprobe v3d
no-dri-container | no /dev/dri in a container | the devices were not passed to the container | start the container
  with: --device /dev/dri --group-add video --group-add render -v /proc/device-tree:/proc/device-tree:ro (numeric
  group ids of the host if the names differ)
no-node-file | sysfs shows the driver v3d, /dev/dri has no node | the driver is loaded, but nothing on this system makes
  device files | sudo mdev -s (Alpine; 'setup-devd udev' for good), or with udev: sudo udevadm trigger -s drm
no-v3d | /dev/dri/card* but none is v3d | only display drivers are there, or the board is a Pi 0-3 | on a Pi 4 or 5:
  sudo modprobe v3d; a Pi 0-3 has no v3d driver and is used through its firmware instead
no-node | ENOENT for a named node | there is no such node | name one of: ls /dev/dri; device 'hardware' finds the
  right one
eacces-open | EACCES or EPERM opening the device | this user may not open it | sudo usermod -aG video,render $USER,
  then log in again
eacces-submit | EACCES on submit only | a card node was opened while another program is its master, so this one is
  not authenticated | use the render node: /dev/dri/renderD128 or the one that 'qpu info' names
no-vcio | ENOENT /dev/vcio | the Linux kernel is not Raspberry Pi's, or the device was not passed to the container
  | boot the Linux kernel of Raspberry Pi OS; in a container: --device /dev/vcio
no-vcsm | ENOENT /dev/vcsm-cma and /dev/vcsm | the memory service is absent: module not loaded, gpu_mem=16, or a
  mainline Linux kernel | sudo modprobe vc_sm_cma; keep gpu_mem at 32 or more in config.txt
enodev | ENODEV or ENXIO opening | the driver is not loaded any more and its node is stale | reboot, and look at:
  dmesg | grep -i -e v3d -e vc4
enotty | ENOTTY | the path is not the node of a GPU | name the device node itself, such as /dev/dri/renderD128
enotty-vcsm | ENOTTY from /dev/vcsm | the process is 32-bit and the Linux kernel 64-bit, and /dev/vcsm does not
  support that | use VCSM-CMA (sudo modprobe vc_sm_cma) or a 64-bit Python
wrong-card | EINVAL from the first CREATE_BO or GET_PARAM | the node belongs to another driver (vc4, the display) |
  let the node be found by name (device 'hardware'), or give the one of v3d: ls -l /dev/dri/by-path
einval-submit | EINVAL from SUBMIT | Linux refused the job description | please report this message; Linux checks
  that pad and flags are 0, that the job lists a buffer, that the GPU has compute dispatch, and that every sync
  object to wait for holds a fence
old-linux | EINVAL from GET_PARAM above 12 | this version of Linux is older than the parameter | do without the
  feature, which counts as absent, or upgrade Linux: sudo apt full-upgrade, then reboot
enoent-submit | ENOENT from SUBMIT | a buffer or performance monitor of the job was freed | keep every buffer open
  until the job has ended
enomem-bo | ENOMEM for a buffer on Pi 4 or 5 | the machine is out of memory: buffers are pinned and never swapped |
  close programs or use smaller buffers; see: free -m
enomem-cma | ENOMEM from /dev/vcsm-cma | the contiguous memory of Linux (CMA) is too small or fragmented | add
  'cma=128M', or the size above, to the one line of cmdline.txt and reboot; show it with: grep Cma /proc/meminfo
enomem-vc4 | ENOMEM or handle 0 from /dev/vcsm or the firmware | the firmware's memory (gpu_mem) is too small or
  fragmented | add 'gpu_mem=128', or the size above, to config.txt and reboot; show it with: vcgencmd get_mem gpu
enospc | ENOSPC for a buffer | the 4 GiB of GPU addresses, shared by all programs, have no free range of that size |
  close buffers, or allocate one large buffer and slice it
ebusy | EBUSY | an active performance monitor, or a driver that claimed the register range, uses it | try again
  when the other program has ended
qpus-busy | EBUSY from VideoCore IV | another program uses the QPUs | end it (sudo fuser -v /dev/vcio /dev/mem shows
  who has them open), or let both launch by mailbox; if the program was killed: qpu doctor --clean
eagain-wait | EAGAIN from WAIT_BO | Linux rounded the time-out down | nothing to do: the wait is repeated at once
eagain-perfmon | EAGAIN from SUBMIT | a global performance monitor is active, so this job cannot have its own | end
  the program that set it, or submit without counters
eintr | EINTR | a signal arrived | nothing to do: the call is repeated until its deadline; Ctrl-C takes effect
  between attempts
etime | ETIME: the job did not finish in time | it runs longer than allowed, waits for an event that does not
  happen, or the GPU hangs | wait again on the same launch, or give a longer timeout_s; keep one thread's work below
  400 ms, since the watchdog of Linux resets a GPU that finishes no batch within 500 ms; see: dmesg | grep -i v3d
reset | the wait succeeded but the data are incomplete | Linux reset the GPU and cancelled the job | split the
  dispatch into shorter parts (max_batches) so that every batch ends within 400 ms, and check its addresses; see:
  dmesg | grep -e 'Resetting GPU' -e 'MMU error'
powered-off | V3D does not answer any more | V3D was powered off while the programs ran: the results are incomplete
  | shorten the programs or give a longer timeout_s, and wait for a launch before the next one
etimedout-vcio | ETIMEDOUT from /dev/vcio | the programs ran for over a second, raised no host interrupt, or a QPU
  is stuck | shorten the programs and let each end with a host interrupt, or start longer ones by register (device
  '/dev/mem', root), which has no time limit; if even a trivial one fails, reboot
execute-timeout | status 0x80000000 of execute_qpu | the firmware's time-out: the programs ran too long, raised no
  host interrupt, or a QPU is stuck | shorten the programs and let each end with a host interrupt; if even a trivial
  one fails, reboot
enable-refused | enable_qpu answers a status other than 0 | Linux's display driver owns V3D, or the firmware is
  very old | put a # in front of 'dtoverlay=vc4-kms-v3d' or 'dtoverlay=vc4-fkms-v3d' in config.txt and reboot (no
  hardware OpenGL meanwhile)
still-powered | a permanent error of enable_qpu(0) or of the lock | the QPUs stay powered on | sudo qpu
  doctor --clean; if that fails too, reboot
unknown-tag | EINVAL from /dev/vcio for a well-formed message, or a reply without bit 31 | the firmware does not
  know the request | nothing to do: the answer counts as absent (newer firmware may have it)
throttled | under-voltage or throttling bits | the power supply is too weak or the board too hot, so programs run
  slower | use the official power supply and a heat sink; see: vcgencmd get_throttled
no-csd | GET_PARAM SUPPORTS_CSD is 0 or unknown | the V3D driver of this Linux has no compute dispatch (older than
  5.3) | sudo apt full-upgrade, then reboot
emfile | EMFILE | this process has too many files open (before Python 3.13 each mapped buffer costs one) | ulimit -n
  65536, or allocate one large buffer and slice it
strict-devmem | EPERM or EACCES from /dev/mem | registers need root, and a Linux kernel that allows their use
  through /dev/mem | run with sudo, or use the mailbox launch
not-linux | no ioctl, no shared maps | this system is not Linux | use an emulated board: device 'pi0' .. 'pi5'
unexpected | an error number that no other row has | no known cause | see: dmesg | tail; please report this message
""")


def errno_name(number: int | None) -> str:
    """``EACCES`` for 13; the number itself where it has no name."""
    return "no errno" if number is None else errno_module.errorcode.get(number, f"errno {number}")


_KINDS: dict[str, type[DriverError]] = {
    "etime": GpuTimeoutError,
    "etimedout-vcio": GpuTimeoutError,
    "execute-timeout": GpuTimeoutError,
    "powered-off": GpuResetError,
    "reset": GpuResetError,
}


def fault(key: str, what: str, errno: int | None = None, detail: str = "") -> DriverError:
    """The error of a row.

    what: path and name of the call that failed. errno: Linux's error number, None when there is none. detail: facts
    of this case, without a full stop.
    """
    row = ADVICE[key]
    parts = [what]
    if errno is not None:
        parts.append(f"{errno_name(errno)} ({os.strerror(errno)})")
    parts.append(row.cause + (f" [{detail}]" if detail else ""))
    return _KINDS.get(key, DriverError)(": ".join(parts) + HELP + row.help, errno)


def errno_rows(text: str) -> dict[int, str]:
    """errno -> key of a row, from text such as ``enodev: ENODEV ENXIO, emfile: EMFILE``."""
    parts = (part.split(":") for part in text.split(","))
    return {getattr(errno_module, name): key.strip() for key, names in parts for name in names.split()}


def failure(what: str, error: OSError, rows: Mapping[int, str], detail: str = "") -> DriverError:
    """The error of a failed system call. what: path and call. rows: errno -> key of `ADVICE`."""
    return fault(rows.get(error.errno or 0, "unexpected"), what, error.errno, detail)


def open_failure(label: str, port: Port, path: str, error: OSError, rows: Mapping[int, str]) -> DriverError:
    """The error of a node that could not be opened; names its owner and mode when permission was denied."""
    denied = rows.get(error.errno or 0) == "eacces-open"
    return failure(f"{label}: open {path}", error, rows, permission_detail(port, path) if denied else "")


def close_node(port: Port, fd: int, path: str) -> None:
    """Close an open node. Raises: DriverError when Linux reports an error; the descriptor is freed all the same."""
    try:
        port.close(fd)
    except OSError as error:
        raise failure(f"{path}: close", error, {}) from error


def no_device(message: str, errno: int | None = None, helps: tuple[str, ...] = ()) -> NoDeviceError:
    """A NoDeviceError with one ``help:`` line for each different advice."""
    return NoDeviceError(message + "".join(HELP + m for m in dict.fromkeys(helps)), errno)


def reason_of(error: DriverError) -> tuple[str, tuple[str, ...]]:
    """The reason of an error, and its ``help:`` lines."""
    reason, *helps = str(error).split(HELP)
    return reason, tuple(helps)


# -- facts for the advice


def permission_detail(port: Port, path: str) -> str:
    """``owner root:render, mode 0660; this process is in the groups pi video``; unknown parts are left out."""
    parts: list[str] = []
    try:
        found = port.stat(path)
        owner = f"{found.owner or found.uid}:{found.group or found.gid}"
        parts.append(f"owner {owner}, mode {stat.S_IMODE(found.mode):04o}")
    except OSError:
        pass
    groups = process_groups(port)
    if groups:
        parts.append(f"this process is in the groups {' '.join(groups)}")
    return "; ".join(parts)


def process_groups(port: Port) -> list[str]:
    """Names of the groups of this process, numbers where unknown; empty when they cannot be read."""
    try:
        status = port.read_bytes("/proc/self/status").decode("utf-8", "replace")
    except OSError:
        return []
    numbers: list[str] = []
    for line in status.splitlines():
        name, _, value = line.partition(":")
        if name == "Gid":
            numbers = value.split()[1:2] + numbers
        elif name == "Groups":
            numbers += value.split()
    names: dict[str, str] = {}
    try:
        for line in port.read_bytes("/etc/group").decode("utf-8", "replace").splitlines():
            fields = line.split(":")
            if len(fields) >= 3:
                names[fields[2]] = fields[0]
    except OSError:
        pass
    return [names.get(n, n) for n in dict.fromkeys(numbers)]


def meminfo(port: Port) -> dict[str, int]:
    """Lines of /proc/meminfo in bytes, by name; empty when it cannot be read."""
    try:
        text = port.read_bytes("/proc/meminfo").decode("ascii", "replace")
    except OSError:
        return {}
    found: dict[str, int] = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        words = value.split()
        if words and words[0].isdigit():
            found[name] = int(words[0]) * (1024 if words[1:] == ["kB"] else 1)
    return found
