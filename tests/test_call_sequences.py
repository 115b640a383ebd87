"""Tests of the system calls of a session on each interface of Linux: open, launches, a time-out, close."""

from __future__ import annotations

from itertools import groupby

import numpy as np
import pytest

import qpu
from qpu.drivers.uapi import mailbox
from qpu.emu.testing import Call, RecordingPort
from tests.hw.programs import binary, endless
from tests.test_every_call import INTERFACES, board

# Tags of the mailbox (drivers.md 4.2) by what they do.
TAGS = {
    0x00000001: "firmware",
    0x00030004: "max clock",
    0x0003000C: "allocate",
    0x0003000D: "lock",
    0x0003000E: "unlock",
    0x0003000F: "release",
    0x00030011: "execute",
}
DRM_MEMORY = "CREATE_BO MMAP_BO mmap"
CMA_MEMORY = "VC_SM_CMA_IOCTL_MEM_ALLOC mmap SYNC"
VCSM_MEMORY = "MEM_ALLOC mmap MEM_LOCK MAP_VC_ADDR_FR_HDL"
MAILBOX_MEMORY = "allocate lock mmap"
RESET = "enable(0) enable(1)"
POWER = "open:vcio flock:shared enable(1) mmio max clock firmware"  # the lock between processes comes first

# Step -> calls, repeated ones counted, failed ones with an exclamation mark.
DRM = {
    "open": "open:renderD128 VERSION GET_PARAM*18",
    "buffer": DRM_MEMORY,
    "launch": f"{DRM_MEMORY} SYNCOBJ_CREATE SUBMIT_CSD WAIT_BO GET_PARAM",
    "again": "SUBMIT_CSD WAIT_BO GET_PARAM",
    "asynchronous": "SUBMIT_CSD SYNCOBJ_CREATE SUBMIT_CSD WAIT_BO GET_PARAM WAIT_BO GET_PARAM",
    "refused": "",
    "time-out": "SUBMIT_CSD WAIT_BO! GET_PARAM",
    "close": "close",
}
EXPECTED: dict[str, dict[str, str]] = {
    "DRM, V3D 4.2": DRM,
    "DRM, V3D 7.1": DRM,
    "DRM, old Linux": {name: calls.replace(" GET_PARAM", "") for name, calls in DRM.items()}
    | {
        "open": "open:renderD128 VERSION GET_PARAM*9 GET_PARAM!*8",
        "asynchronous": "SUBMIT_CSD SYNCOBJ_CREATE SUBMIT_CSD WAIT_BO",  # no counter to look at in between
    },
    "mailbox and VCSM-CMA": {
        "open": f"open:vcio open:vcsm-cma {CMA_MEMORY} {POWER}",
        "buffer": CMA_MEMORY,
        "launch": f"{CMA_MEMORY} execute",
        "again": "execute",
        "asynchronous": "execute*2",
        "refused": "",
        "time-out": f"execute {RESET}",
        "close": " ".join(["SYNC close"] * 6) + " flock:exclusive enable(0) flock:none close*3",
    },
    "mailbox and VCSM": {
        "open": f"open:vcio open:vcsm-cma! open:vcsm {VCSM_MEMORY} {POWER}",
        "buffer": VCSM_MEMORY,
        "launch": f"{VCSM_MEMORY} execute",
        "again": "execute",
        "asynchronous": "execute*2",
        "refused": "",
        "time-out": f"execute {RESET}",
        "close": " ".join(["MEM_UNLOCK MEM_FREE"] * 6) + " flock:exclusive enable(0) flock:none close*3",
    },
    "mailbox memory and /dev/mem": {
        "open": f"open:vcio open:vcsm-cma! open:vcsm! open:mem {MAILBOX_MEMORY} {POWER}",
        "buffer": MAILBOX_MEMORY,
        "launch": f"{MAILBOX_MEMORY} execute",
        "again": "execute",
        "asynchronous": "execute*2",
        "refused": "",
        "time-out": f"execute {RESET}",
        "close": " ".join(["unlock release"] * 6) + " flock:exclusive enable(0) flock:none close*3",
    },
    "registers": {
        "open": f"open:vcio open:vcsm-cma {CMA_MEMORY} open:vcio flock:exclusive enable(1) mmio max clock firmware",
        "buffer": CMA_MEMORY,
        "launch": CMA_MEMORY,  # the rest are register accesses: test_v3d_regs.py
        "again": "",
        "asynchronous": "",
        "refused": "",
        "time-out": "",
        # Programs are stopped before their memory is freed.
        "close": f"{RESET} " + " ".join(["SYNC close"] * 6) + " flock:exclusive enable(0) flock:none close*3",
    },
}


def name_of(call: Call) -> str:
    name = call.name
    if name == mailbox.PROPERTY.name:
        tag = int.from_bytes(call.before[8:12], "little")
        name = f"enable({call.before[20]})" if tag == 0x30012 else TAGS[tag]
    elif call.kind == "open":
        name = f"open:{name.rpartition('/')[2]}"
    elif call.kind == "flock":
        name = f"flock:{name}"
    for prefix in ("DRM_IOCTL_", "V3D_", "VMCS_SM_IOCTL_", "VC_SM_CMA_CMD_", "DMA_BUF_IOCTL_"):
        name = name.removeprefix(prefix)
    return (name or call.kind) + "!" * (call.error is not None)


def taken(port: RecordingPort) -> str:
    """The calls since the last time, in the notation of the table."""
    names = [name_of(c) for c in port.calls if c.kind in ("open", "close", "flock", "ioctl", "mmap", "mmio")]
    port.calls.clear()
    counted = [(name, len(list(group))) for name, group in groupby(names)]
    return " ".join(name if n == 1 else f"{name}*{n}" for name, n in counted)


@pytest.mark.parametrize("interface", INTERFACES)
def test_sequence(interface: str) -> None:
    name, device = INTERFACES[interface]
    emulated = board(name)
    port = RecordingPort(emulated)
    found: dict[str, str] = {}
    gpu = qpu.open_device(device, port=port)
    found["open"] = taken(port)
    x = gpu.array(np.ones(16, np.uint32))
    found["buffer"] = taken(port)
    program, stuck = binary(gpu.isa, "add"), endless(gpu.isa)
    gpu._pool.upload(program)
    taken(port)
    gpu.run(program, [x, x, x])
    found["launch"] = taken(port)
    gpu.run(program, [x, x, x])
    found["again"] = taken(port)
    gpu._pool.upload(stuck)
    spare = gpu._pool.scratch(4096), gpu._pool.scratch(4096)  # so that no launch below asks for memory
    gpu._pool.end(None, spare)
    taken(port)
    launches = [gpu.submit(program, [x, x, x]) for _ in range(2)]
    launches[1].wait(1.0)
    launches[0].wait(1.0)
    found["asynchronous"] = taken(port)
    with pytest.raises(qpu.UsageError):
        gpu.run(program, [x, x, "x"])  # type: ignore[list-item]  # on purpose
    found["refused"] = taken(port)
    with pytest.raises(qpu.GpuTimeoutError):
        gpu.run(stuck, timeout_s=0.01)
    found["time-out"] = taken(port)
    gpu.close()
    found["close"] = taken(port)
    assert emulated.leaked == []
    assert (x.closed, gpu.isa) == (True, stuck.isa)
    for step, calls in EXPECTED[interface].items():
        assert found[step] == calls, step
