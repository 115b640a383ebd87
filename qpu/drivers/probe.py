"""Choice of the adapter: the first that opens is used; when none does, the error lists the reason of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qpu.drivers import board
from qpu.drivers.base import Driver
from qpu.drivers.drm import nodes as drm_nodes
from qpu.drivers.errors_table import ADVICE, no_device, reason_of
from qpu.drivers.port import Port
from qpu.errors import DriverError, UsageError

if TYPE_CHECKING:
    from qpu.drivers.vc4.adapter import Launch

__all__ = ["Attempt", "detect_board", "open_driver"]

EMULATE = "to run without a GPU, use an emulated board: device 'pi5', or QPU_DEVICE=pi5 in the environment"
VC4_NODES = ("/dev/vcio", "/dev/vcsm-cma", "/dev/vcsm", "/dev/mem")


@dataclass(frozen=True, slots=True)
class Attempt:
    """An adapter that could not be opened. errno: Linux's number, None when there was none."""

    adapter: str
    reason: str
    helps: tuple[str, ...] = ()
    errno: int | None = None

    def __str__(self) -> str:
        return f"{self.adapter}: {self.reason.removeprefix(self.adapter + ': ')}"


def detect_board(port: Port) -> board.Board:
    """The board according to files, else according to the firmware (in a container without the device tree)."""
    found = board.detect(port)
    if found.is_pi or not board.exists(port, "/dev/vcio"):
        return found
    from qpu.drivers.vc4.mailbox import Mailbox

    try:
        with Mailbox(port) as mailbox:
            code = mailbox.board_revision()
    except DriverError:
        return found
    return board.board_from(revision=code.to_bytes(4, "big"), container=found.container)


def open_driver(port: Port, name: str = "hardware", *, launch: Launch = "mailbox", memory: str = "auto") -> Driver:
    """Open the GPU that `port` reaches.

    name: ``hardware``, or the path of a node: one of /dev/dri for v3d, /dev/vcio or /dev/vcsm* for VideoCore IV by
    mailbox, /dev/mem for VideoCore IV by registers. launch, memory: options of VideoCore IV, see
    `qpu.drivers.vc4.adapter.open_adapter`.
    Raises: NoDeviceError listing every adapter with its reason and its help; UsageError for a bad name.
    """
    if name != "hardware" and not name.startswith("/"):
        raise UsageError(
            f"unknown device {name!r}; allowed: hardware, or the path of a node such as /dev/dri/renderD128",
            help="use 'hardware', which finds the right node, or choose one of: ls /dev/dri",
        )
    where = detect_board(port)
    failed: list[Attempt] = []
    for adapter, opener in _plan(port, where, name, launch, memory):
        if isinstance(opener, str):
            failed.append(Attempt(adapter, opener))
            continue
        try:
            return opener()
        except DriverError as error:
            reason, helps = reason_of(error)
            if not where.is_pi and name == "hardware" and not board.exists(port, drm_nodes.DRI):
                reason = f"there is no {drm_nodes.DRI}"
            failed.append(Attempt(adapter, reason, helps, error.errno))
    raise _refused(where, name, failed)


def _plan(
    port: Port, where: board.Board, name: str, launch: Launch, memory: str
) -> list[tuple[str, Callable[[], Driver] | str]]:
    """Adapters in the order of trial: how to open each, or why it cannot apply."""

    def v3d(path: str | None = None) -> Driver:
        from qpu.drivers.drm.adapter import open_adapter

        return open_adapter(port, where, path)

    def vc4(how: Launch = launch) -> Driver:
        from qpu.drivers.vc4.adapter import open_adapter

        return open_adapter(port, where, launch=how, memory=memory)

    if name in VC4_NODES:
        if where.generation != 4:
            return [("mailbox", f"{name} starts programs on VideoCore IV only (Pi 0-3); this is: {where.model}")]
        return [("mailbox", lambda: vc4("registers" if name == "/dev/mem" else launch))]
    if name != "hardware":
        if where.generation == 4:
            return [("drm_v3d", f"{name} starts no programs on {where.gpu}; use /dev/vcio, or device 'hardware'")]
        return [("drm_v3d", lambda: v3d(name))]
    if where.generation == 4:
        return [("mailbox", vc4), ("drm_v3d", "VideoCore IV has no compute dispatch in DRM")]
    if where.generation is not None:
        return [("drm_v3d", v3d), ("mailbox", f"the firmware starts no programs on {where.gpu}")]
    return [("drm_v3d", v3d), ("mailbox", "the board is not a Pi 0-3 as far as files show")]


def _refused(where: board.Board, name: str, failed: list[Attempt]) -> DriverError:
    place = where.model if where.is_pi else f"{where.model}, not a known Raspberry Pi"
    at = "" if name == "hardware" else f" at {name}"
    helps = [help for attempt in failed for help in attempt.helps] if where.is_pi or name != "hardware" else []
    if where.container and not where.is_pi:
        helps.append(ADVICE["no-dri-container"].help)
    helps.append(EMULATE)
    first = next((attempt.errno for attempt in failed if attempt.errno is not None), None)
    message = f"no usable GPU{at} ({place}): {'; '.join(map(str, failed))}"
    return no_device(message, first, tuple(helps))
