"""Identity of the board as one JSON object; a process of its own, because a hung GPU may not answer."""

from __future__ import annotations

import json
import sys
from typing import Any

import qpu
from qpu.drivers.doctor import checks_json, examine, info
from qpu.drivers.linux import LinuxPort
from qpu.drivers.port import Port
from qpu.drivers.vc4.mailbox import Mailbox, read_info
from qpu.emu.port import EmuPort


def firmware(port: Port) -> dict[str, Any] | None:
    """Facts from the firmware: build (Unix seconds), clocks in Hz by name, temperature, throttling; None without it."""
    try:
        with Mailbox(port) as mailbox:
            found = read_info(mailbox)
    except (qpu.QpuError, OSError):
        return None
    return {
        "build": found.firmware,
        "arm_memory": found.arm_memory,
        "vc_memory": found.vc_memory,
        "temperature_c": found.temperature_c,
        "throttled": None if found.throttled is None else str(found.throttled),
        "clocks_hz": found.clocks_hz,
        "measured_hz": found.measured_hz,
    }


def identity(name: str) -> dict[str, Any]:
    """`qpu info`, `qpu doctor`, facts from the firmware, and `unusable`: why device `name` does not open, or None."""
    made: Port = EmuPort(name) if name.startswith("pi") else LinuxPort()
    found: dict[str, Any] = {"asked_for": name, **info(made)}
    found["firmware"] = firmware(made)
    found["doctor"] = checks_json(examine(made))
    found["unusable"] = None
    try:
        with qpu.open_device(name) as gpu:
            found["text"] = str(gpu.info)
    except qpu.QpuError as error:
        found["unusable"] = str(error).splitlines()[0]
    return found


if __name__ == "__main__":
    print(json.dumps(identity(sys.argv[1])))
