"""Facts about the board from the firmware's property mailbox: revision, memory split, clocks, temperature.

No QPU program runs. The messages use the same interface of Linux on every Pi, and also on emulated boards.

Examples:
    uv run examples/mailbox_info.py --device all
    uv run examples/mailbox_info.py --device hardware --json
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime

import _common

from qpu.device import Device
from qpu.drivers.vc4.mailbox import Mailbox, read_info

REVISION_BITS = 0xFFFFFF  # the code itself; the firmware and Linux may differ in the flags above it


def work(gpu: Device, lines: list[str]) -> dict[str, object]:
    """Read all facts, and compare the revision code with that of Linux. lines: receives the facts as lines of text."""
    with Mailbox(gpu.port) as mailbox:
        info = read_info(mailbox)
        seconds = _common.median_time(mailbox.firmware_revision, lambda: None)
    found = {name: value for name, value in asdict(info).items() if value is not None}
    if info.throttled is not None:
        found["throttled"] = [str(flag.name).lower() for flag in info.throttled]
    expected = gpu.info.board.revision
    error = 0
    if info.board_revision is not None and expected is not None:
        error = abs((info.board_revision & REVISION_BITS) - (expected & REVISION_BITS))
    lines[:] = info.lines()
    row = _common.result(
        gpu,
        "mailbox_info",
        n=len(found),
        seconds=seconds,
        properties=found,
        against="the revision code that Linux reports",
        max_abs_error=float(error),
        ok=error == 0 and info.firmware is not None,
    )
    if gpu.emulated:
        row["instructions"] = 0
    return row


def show(gpu: Device, row: dict[str, object], lines: list[str]) -> None:
    """The result for people."""
    print(gpu.info)
    for line in lines:
        name, _, value = line.partition(": ")
        if name == "firmware build":
            value = f"{datetime.fromtimestamp(int(value), UTC):%Y-%m-%d %H:%M} UTC"
        print(f"  {name:18} {value}")
    print(f"  one message takes {row['seconds']:.6f} s, median of 3 ({_common.label(gpu)})")
    if gpu.emulated:
        print("  the values are those of the emulator's firmware, not of a board")
    print("  ok" if row["ok"] else f"  WRONG: differs from {row['against']}", flush=True)


def run() -> int:
    """The whole example."""
    options = _common.parser(__doc__).parse_args()
    lines: list[str] = []
    return _common.on_devices(options, lambda gpu: work(gpu, lines), lambda gpu, row: show(gpu, row, lines))


if __name__ == "__main__":
    _common.main(run)
