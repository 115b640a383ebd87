"""Tests of sgemm through the whole stack: every emulated board, the recorded system calls, bad input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qpu
from qpu.core.isa import Isa
from qpu.emu.port import EmuPort
from qpu.emu.testing import Call, RecordingPort
from qpu.kernels import sgemm
from tests.limits import HUNG_S

ROOT = Path(__file__).parent.parent
ABI = Path(__file__).parent / "vectors" / "abi"
BOARDS = (
    "pi0",
    "pi1",
    "pi2",
    "pi3",
    "pi4",
    "pi5",
    "pi5,slices=3",
    "pi5,rev=10",
    "pi5,page=16k",
    "pi4,card=1",
    "pi5,linux=old",
)


def multiply(
    gpu: Any, m: int, n: int, k: int, alpha: float = 1.5, beta: float = -0.5, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """(error, bound) of one multiplication, elementwise."""
    draw = np.random.default_rng(seed)
    a, b, c = (draw.uniform(-1, 1, s).astype(np.float32) for s in ((m, k), (k, n), (m, n)))
    with sgemm.Sgemm(gpu, m, n, k) as job:
        job.load(a, b, c, alpha, beta)
        job.launch()
        result = job.result()
    want = sgemm.reference(alpha, a, b, beta, c)
    return np.abs(result - want), sgemm.error_bound(gpu.isa, alpha, a, b, beta, c)


@pytest.mark.parametrize("board", BOARDS)
def test_sgemm_on_every_board(board: str) -> None:
    with qpu.open_device(board) as gpu:
        error, bound = multiply(gpu, 70, 65, 9)
        assert (error <= bound).all()
        stats = gpu.stats
        assert stats is not None
        tiles = 2 * 5 if gpu.isa is Isa.VC4 else 3 * 3
        assert stats.threads == (min(12, tiles) if gpu.isa is Isa.VC4 else tiles)


@pytest.mark.parametrize("board", ["pi3", "pi4", "pi5"])
def test_sgemm_uses_every_qpu(board: str) -> None:
    with qpu.open_device(board) as gpu:
        multiply(gpu, 192, 192, 4)
        stats = gpu.stats
        assert stats is not None and len(stats.per_qpu) == gpu.qpus


# -- the system calls


def recorded(board: str) -> list[Call]:
    inner = EmuPort(board)
    port = RecordingPort(inner)
    with qpu.open_device(port=port) as gpu:
        multiply(gpu, 24, 16, 4, alpha=0.0)  # one launch: alpha = 0 leaves nothing to pack
    assert inner.allocated() == []
    inner.shutdown()
    return port.calls


def ioctls(calls: list[Call]) -> list[str]:
    return [c.name for c in calls if c.kind == "ioctl"]


def squeezed(names: list[str]) -> list[str]:
    """Names with runs of one name shortened to one."""
    return [n for i, n in enumerate(names) if i == 0 or n != names[i - 1]]


def assert_requests(calls: list[Call], table: dict[str, Any]) -> None:
    """Every ioctl has the number and argument size that a C compiler gives it."""
    for call in calls:
        if call.kind == "ioctl":
            row = table[call.name]
            assert (call.request, len(call.before)) == (row["request"], row["size"]), call.name


@pytest.mark.parametrize("board", ["pi4", "pi5"])
def test_drm_sequence_and_numbers(board: str) -> None:
    calls = recorded(board)
    abi = json.loads((ABI / "drm_v3d.json").read_text())
    assert_requests(calls, abi["ioctls"])
    names = [
        c.name.removeprefix("DRM_IOCTL_").removeprefix("V3D_") or c.kind for c in calls if c.kind in ("ioctl", "mmap")
    ]
    buffer = ["CREATE_BO", "MMAP_BO", "mmap"]
    # A, B, C, panels of A and B, spare words, arguments, then code; a fence; the dispatch; waiting; the reset counter
    assert squeezed(names) == [
        "VERSION",
        "GET_PARAM",
        *buffer * 8,
        "SYNCOBJ_CREATE",
        "SUBMIT_CSD",
        "WAIT_BO",
        *(["GET_PARAM"] if "GET_PARAM" in names[names.index("WAIT_BO") :] else []),
        *squeezed([n for n in names[names.index("WAIT_BO") + 1 :] if n != "GET_PARAM"]),
    ]
    assert set(names[names.index("WAIT_BO") :]) <= {"WAIT_BO", "GET_PARAM", "GEM_CLOSE", "SYNCOBJ_DESTROY"}
    assert names.count("GEM_CLOSE") == 7  # the code goes when the node is closed
    # The dispatch, read at the offsets in Linux's headers.
    fields = abi["structs"]["drm_v3d_submit_csd"]["fields"]
    data = next(c for c in calls if c.name == "DRM_IOCTL_V3D_SUBMIT_CSD").before

    def field(name: str) -> int:
        at = fields[name]
        return int.from_bytes(data[at["offset"] : at["offset"] + at["size"]], "little")

    cfg = np.frombuffer(data, np.uint32, 7, fields["cfg"]["offset"]).tolist()
    assert [c >> 16 for c in cfg[:3]] == [1, 1, 1]
    assert cfg[3] & 0xFFF == 16 | 1 << 8
    assert cfg[4] == (1 if board == "pi5" else 0)  # 7.1.6 and later: exact; 4.2: minus one
    assert cfg[5] & 1 == 0 and cfg[5] & 2 == 0 and cfg[6] % 4 == 0  # two threads, several segments
    assert (field("bo_handle_count"), field("pad"), field("flags")) == (8, 0, 0)


def test_mailbox_sequence_and_numbers() -> None:
    calls = recorded("pi3")
    abi = json.loads((ABI / "vcsm.json").read_text())
    table = dict(abi["abi_64"]["ioctls"])
    messages = [c for c in calls if c.name == "IOCTL_MBOX_PROPERTY"]
    request = abi["mailbox"]["ioctl"]["64"]["request"]
    for call in messages:
        assert call.request == request
        words = np.frombuffer(call.before, np.uint32)
        assert words[0] == len(call.before) and words[1] == 0 and words[-1] == 0
        assert np.frombuffer(call.after, np.uint32)[1] == 0x80000000
    assert_requests([c for c in calls if c.name != "IOCTL_MBOX_PROPERTY"], table)
    tags = [int(np.frombuffer(c.before, np.uint32)[2]) for c in messages]
    values = [np.frombuffer(c.before, np.uint32)[5:-1].tolist() for c in messages]
    run, enable = 0x00030011, 0x00030012
    assert tags.count(run) == 1 and tags.count(enable) == 2
    assert tags.index(enable) < tags.index(run)
    assert [v[0] for t, v in zip(tags, values, strict=True) if t == enable] == [1, 0]
    assert values[tags.index(run)][0] == 1  # one program
    opened = [c.name for c in calls if c.kind == "open"]
    assert opened == ["/dev/vcio", "/dev/vcsm-cma", "/dev/vcio"]  # the last for the lock between processes
    names = [c.name for c in calls if c.kind == "ioctl"]
    assert names.count("VC_SM_CMA_IOCTL_MEM_ALLOC") == names.count("DMA_BUF_IOCTL_SYNC") / 2 == 11


# -- the example as a user runs it


def example(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "examples" / "sgemm.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=HUNG_S)


def test_example_on_all_boards_as_json() -> None:
    done = example("--device", "all", "--size", "48", "--json")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(r["device"], r["isa"]) for r in rows] == [("pi3", "vc4"), ("pi4", "v3d42"), ("pi5", "v3d71")]
    keys = {
        "example",
        "device",
        "isa",
        "emulated",
        "m",
        "n",
        "k",
        "seconds",
        "total_seconds",
        "instructions",
        "max_abs_error",
        "ok",
    }
    for row in rows:
        assert keys <= set(row)
        assert row["ok"] is True and row["emulated"] is True and row["m"] == row["n"] == row["k"] == 48


def test_example_says_what_was_measured() -> None:
    done = example("--device", "pi5", "--m", "30", "--n", "20", "--k", "10")
    assert done.returncode == 0, done.stderr
    assert "says nothing about a real board" in done.stdout and "30 x 20 x 10" in done.stdout
    assert "Gflop/s" not in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("--device", "pi9"),
        ("--device", "pi5", "--size", "0"),
        ("--device", "pi5", "--m", "-3"),
        ("--device", "pi5", "--size", "64", "--k", "3"),
        ("--device", "pi5", "--size", "100000"),
        ("--device", "pi5,mem=256M", "--size", "6000"),
        ("--device", "pi3,cma=16M", "--size", "2000"),
        ("--size", "many"),
        ("--frobnicate",),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_2(arguments: tuple[str, ...]) -> None:
    done = example(*arguments)
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines[0]) > 10
    assert len(lines) == 1 or lines[1].startswith("try:") or "usage" in done.stderr.lower()
