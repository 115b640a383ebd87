"""Benchmark of the package's own time beyond its system calls: per launch, buffer, copy, and open.

Each figure is compared with a bare loop that makes the same calls with the same bytes on the same kind of emulated
board. The two alternate in one run, and their ratio is the result. The emulated board executes the (nearly empty)
program in both, so that `own` (microseconds of the package alone) is the difference. All times are CPU times of the
host; the CPU of a Pi is slower than most hosts, and its system calls take other times.
"""

from __future__ import annotations

import contextlib
import struct
import time
from array import array
from collections.abc import Callable, Sequence
from typing import Any

import _common
import numpy as np

import qpu
from qpu.core.isa import Isa
from qpu.device import Device
from qpu.drivers.uapi import drm
from qpu.emu.port import EmuPort
from qpu.emu.testing import Call, RecordingPort

BOARDS = {"vc4": "pi3", "v3d42": "pi4", "v3d71": "pi5"}
LAUNCHES, BUFFERS, COPIES, OPENS = 100, 200, 50, 20
COPY_BYTES = 1 << 22


def program(isa: Isa) -> qpu.Program:
    """The smallest complete program."""
    return qpu.assemble(lambda q: q.end(), isa=isa)


class Replay:
    """Recorded calls made again, without the package. Pointers in arguments are replaced by those of own memory."""

    def __init__(self, calls: Sequence[Call]) -> None:
        self._keep: list[array[int]] = []
        self._steps = [self._step(c) for c in calls]

    def _step(self, call: Call) -> tuple[str, tuple[Any, ...]]:
        match call.kind:
            case "close":
                return "close", (call.fd,)
            case "ioctl":
                return "ioctl", (call.fd, call.request, self._argument(call))
            case "mmap":
                return "mmap", (call.fd, call.size, call.offset)
            case "mmio":
                return "mmio", (call.offset, call.size)
        return {"read": "read_bytes"}.get(call.kind, call.kind), (call.name,)

    def _argument(self, call: Call) -> bytes:
        arg = bytearray(call.before)
        if call.name == "DRM_IOCTL_V3D_SUBMIT_CSD":  # handles are given out from 1 on, and nothing was closed
            count = drm.IOCTLS[call.name].layout(8).number(arg, "bo_handle_count")
            self._point(arg, call.name, ("bo_handles",), array("I", range(1, count + 1)))
        elif call.name == "DRM_IOCTL_VERSION":
            self._point(arg, call.name, ("name", "date", "desc"), array("B", bytes(64)))
        return bytes(arg)

    def _point(self, arg: bytearray, name: str, fields: Sequence[str], to: array[int]) -> None:
        self._keep.append(to)
        for field in fields:
            struct.pack_into("<Q", arg, drm.IOCTLS[name].layout(8).fields[field].offset, to.buffer_info()[0])

    def __call__(self, port: Any) -> None:
        """Make the calls; maps are unmapped at once."""
        for kind, arguments in self._steps:
            if kind == "ioctl":
                fd, request, arg = arguments
                port.ioctl(fd, request, bytearray(arg))
            elif kind in ("mmap", "mmio"):
                getattr(port, kind)(*arguments).close()
            elif kind in ("open", "close"):
                getattr(port, kind)(*arguments)
            else:
                with contextlib.suppress(OSError):  # the package also opens files that do not exist
                    getattr(port, kind)(*arguments)


def timed(work: Callable[[], object], count: int) -> float:
    """Microseconds of CPU time of one of `count` calls; other processes do not count."""
    start = time.process_time()
    for _ in range(count):
        work()
    return (time.process_time() - start) / count * 1e6


def compare(
    report: _common.Report, isa: str, name: str, ours: Callable[[], object], bare: Callable[[], object], **how: int
) -> None:
    """Measure both alternately, and report the package, the bare loop, their ratio and their difference."""
    runs, count = how["runs"], how["count"]
    timed(ours, count)
    timed(bare, count)
    pairs = [(timed(ours, count), timed(bare, count)) for _ in range(runs)]
    report.add(name, [a for a, _ in pairs], "us", isa=isa, count=count)
    report.add(f"{name}, bare calls", [b for _, b in pairs], "us", isa=isa, count=count)
    report.add(f"{name}, ratio", [a / b for a, b in pairs], "x", isa=isa, count=count)
    report.add(f"{name}, own", [a - b for a, b in pairs], "us", isa=isa, count=count)


def calls_of(port: RecordingPort, work: Callable[[], object]) -> list[Call]:
    """The system calls of the second call of `work`."""
    work()
    before = len(port.calls)
    work()
    return port.calls[before:]


def recorded(board: str, act: Callable[[Device], Callable[[], object]]) -> list[Call]:
    """The system calls of one action on a board of its own."""
    port = RecordingPort(EmuPort(board))
    with qpu.open_device(port=port) as gpu:
        return calls_of(port, act(gpu))


def launching(gpu: Device) -> Callable[[], object]:
    """One launch."""
    code = program(gpu.isa)
    return lambda: gpu.run(code)


def allocating(gpu: Device) -> Callable[[], object]:
    """Allocate and free one buffer."""
    return lambda: gpu.empty(1024).close()


def figures(report: _common.Report, isa: str, runs: int) -> None:
    """All figures of one instruction set."""
    board = BOARDS[isa]
    for name, act, count in (("launch", launching, LAUNCHES), ("buffer", allocating, BUFFERS)):
        port = EmuPort(board)
        bare = Replay(recorded(board, act))
        with qpu.open_device(port=port) as gpu:
            compare(report, isa, name, act(gpu), lambda: bare(port), runs=runs, count=count)  # noqa: B023  # run here

    with qpu.open_device(board) as gpu:
        buffer = gpu.empty(COPY_BYTES, np.uint8)
        data = np.random.default_rng(0).integers(0, 256, COPY_BYTES, dtype=np.uint8)
        mapped = np.frombuffer(buffer.bo.view, np.uint8, COPY_BYTES)
        into = f"copy {COPY_BYTES >> 20} MiB to the device"
        compare(report, isa, into, lambda: buffer.write(data), lambda: np.copyto(mapped, data), runs=runs, count=COPIES)
        back = f"copy {COPY_BYTES >> 20} MiB back"
        compare(report, isa, back, buffer.numpy, mapped.copy, runs=runs, count=COPIES)

    opening = RecordingPort(EmuPort(board))
    qpu.open_device(port=opening).close()
    bare = Replay(opening.calls)

    def closed() -> None:
        port = EmuPort(board)
        bare(port)
        port.shutdown()

    compare(report, isa, "open", lambda: qpu.open_device(board).close(), closed, runs=runs, count=OPENS)


def main() -> None:
    """Run the benchmark."""
    parser = _common.parser(__doc__)
    parser.add_argument("--isa", choices=tuple(BOARDS), action="append", help="only this one (may be repeated)")
    options = parser.parse_args()
    report = _common.Report(options.json)
    for isa in options.isa or BOARDS:
        figures(report, isa, options.runs)


if __name__ == "__main__":
    _common.main(main)
