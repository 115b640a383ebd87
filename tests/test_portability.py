"""Tests of other systems than Linux, and of 32-bit processes: the package imports and emulated boards work."""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qpu
from qpu.drivers.uapi import drm
from qpu.emu.port import EmuPort
from qpu.emu.testing import RecordingPort
from qpu.kernels import sgemm
from tests.hw.programs import binary
from tests.limits import HUNG_S

ROOT = Path(__file__).parent.parent
BOARDS = ("pi3", "pi4", "pi5")

# Missing in a Python like that of Windows: modules that cannot be imported, names that other modules lack.
STRIPPED = """
import sys

ABSENT = {"fcntl", "grp", "pwd", "resource", "termios"}

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None

for name in ABSENT:
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Absent())

import mmap, os, signal
import subprocess  # looks at the platform, too
for module, names in (
    (mmap, ("MAP_SHARED", "MAP_PRIVATE", "MAP_ANONYMOUS", "MAP_NORESERVE", "MAP_ANON", "PROT_READ", "PROT_WRITE")),
    (os, ("O_CLOEXEC", "O_SYNC", "fork", "sched_getaffinity", "geteuid", "getuid", "getgroups", "memfd_create")),
    (signal, ("SIGHUP",)),
):
    for name in names:
        if hasattr(module, name):
            delattr(module, name)

import asyncio, ctypes, multiprocessing, tempfile, numpy  # these look at the platform when they are imported
try:
    import llvmlite.binding
except ImportError:
    pass
sys.platform = "elsewhere"
"""

SESSION = """
import importlib, pkgutil
import numpy as np
import qpu
from qpu.kernels import sgemm
from tests.hw.programs import binary

for board in ("pi3", "pi4", "pi5"):
    for engine in ("auto", "reference"):
        with qpu.open_device(board, engine=engine) as gpu:
            x, out = gpu.array(np.full(16, 3, np.uint32)), gpu.empty(16, np.uint32)
            gpu.run(binary(gpu.isa, "add"), [x, x, out])
            assert (out.numpy() == 6).all(), (board, engine)
            a, b, c = np.ones((5, 4), np.float32), np.ones((4, 6), np.float32), np.zeros((5, 6), np.float32)
            with sgemm.Sgemm(gpu, 5, 6, 4) as job:
                job.load(a, b, c)
                job.launch()
                assert (job.result() == 4).all(), (board, engine)
"""

MODULES = """
import importlib, pkgutil, qpu
for found in pkgutil.walk_packages(qpu.__path__, "qpu."):
    # `qpu emulate` catches system calls of Linux programs
    if not any(part in found.name for part in ("__main__", "child_site", "qpu.emu.process.")):
        importlib.import_module(found.name)
        print(found.name)
"""

HARDWARE = """
try:
    qpu.open_device("hardware")
except qpu.NoDeviceError as error:
    print("refused:", str(error).splitlines()[0])
from qpu.drivers.linux import LinuxPort
for call in (lambda: LinuxPort().mmap(0, 4096, 0), lambda: LinuxPort().ioctl(0, 1, bytearray(4))):
    try:
        call()
    except OSError as error:
        print("refused:", error)
"""


def stripped(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script, or ``-m qpu`` with arguments, on a Python without Linux."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", STRIPPED + script, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests")))},
        timeout=HUNG_S,
        check=False,
    )


def test_emulated_boards_without_linux() -> None:
    done = stripped(SESSION)
    assert done.returncode == 0, done.stderr


def test_every_module_imports_without_linux() -> None:
    done = stripped(MODULES)
    assert done.returncode == 0, done.stdout.splitlines()[-1:] + [done.stderr]
    assert {"qpu.drivers.linux", "qpu.drivers.drm.adapter", "qpu.emu.port", "qpu.device"} <= set(done.stdout.split())


def test_real_boards_are_refused_without_linux(tmp_path: Path) -> None:
    done = stripped("os.environ['QPU_SYSROOT'] = " + repr(str(tmp_path)) + "\nimport qpu\n" + HARDWARE)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 3 and all(line.startswith("refused: ") for line in lines), lines
    assert "no usable GPU" in lines[0] and "emulated board" in lines[1] and "emulated board" in lines[2]


def test_the_command_line_without_linux(tmp_path: Path) -> None:
    run = f"os.environ['QPU_SYSROOT'] = {str(tmp_path)!r}\nfrom qpu.__main__ import main\nraise SystemExit(main())"
    for arguments, status, words in ((("info",), 0, "QPU"), (("doctor",), 1, "emulat"), (("info", "--json"), 0, "{")):
        done = stripped(run, *arguments)
        assert done.returncode == status, (arguments, done.stderr)
        assert words in done.stdout, (arguments, done.stdout)
    done = stripped(run, "emulate", "program.py")
    assert done.returncode == 2 and "Traceback" not in done.stderr and "Linux" in done.stderr, done.stderr


def test_the_children_are_stripped_indeed() -> None:
    """The simulation itself: what a script could use before is gone."""
    for line in ("import fcntl", "import mmap; mmap.MAP_SHARED", "import os; os.fork"):
        assert stripped(line).returncode == 1, line


class Narrow(np.ndarray):
    """An array of a 32-bit process, where `take` refuses unsigned words as indices: they do not fit its `intp`."""

    def take(self, indices: Any, *args: Any, **named: Any) -> Any:
        assert np.asarray(indices).dtype.kind == "i", "write .astype(np.intp)"
        return self.view(np.ndarray).take(indices, *args, **named)


class LowArray:
    """Stands for array("B", data), in memory below 4 GiB: all there is in a 32-bit process."""

    MAP_32BIT = 0x40  # Linux on x86-64

    def __init__(self, typecode: str, data: bytes) -> None:
        assert typecode == "B"
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | self.MAP_32BIT
        self._memory = mmap.mmap(-1, len(data), flags=flags)
        self._memory[:] = data

    def buffer_info(self) -> tuple[int, int]:
        return ctypes.addressof(ctypes.c_char.from_buffer(self._memory)), len(self)

    def __len__(self) -> int:
        return len(self._memory)

    def tobytes(self) -> bytes:
        return self._memory[:]


@pytest.mark.skipif(
    not (sys.platform == "linux" and platform.machine() == "x86_64"), reason="needs memory below 4 GiB on demand"
)
@pytest.mark.parametrize("engine", ["auto", "reference"])
@pytest.mark.parametrize("board", BOARDS)
def test_a_32_bit_process(board: str, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Structures with pointers and request numbers with pointer sizes are those of 32-bit processes."""
    monkeypatch.setattr("qpu.drivers.drm.nodes.array", LowArray)  # the only structure with pointers of native size
    inner = EmuPort(board, pointer_size=4, engine=engine)
    port = RecordingPort(inner)
    memory = inner.board.memory
    memory.words, memory.pages = memory.words.view(Narrow), memory.pages.view(Narrow)
    with qpu.open_device(port=port) as gpu:
        x, out = gpu.array(np.full(16, 3, np.uint32)), gpu.empty(16, np.uint32)
        gpu.run(binary(gpu.isa, "add"), [x, x, out])
        assert (out.numpy() == 6).all()
        draw = np.random.default_rng(0)
        a, b, c = (draw.uniform(-1, 1, s).astype(np.float32) for s in ((30, 7), (7, 20), (30, 20)))
        with sgemm.Sgemm(gpu, 30, 20, 7) as job:
            job.load(a, b, c, 1.5, -0.5)
            job.launch()
            error = np.abs(job.result() - sgemm.reference(1.5, a, b, -0.5, c))
        assert (error <= sgemm.error_bound(gpu.isa, 1.5, a, b, -0.5, c)).all()
        launches = [gpu.submit(binary(gpu.isa, "add"), [x, x, out]) for _ in range(3)]
        for launch in launches:
            launch.wait(10)
    assert inner.leaked == []
    requests = {c.name: (c.request, len(c.before)) for c in port.calls if c.kind == "ioctl"}
    if board == "pi3":
        assert requests["IOCTL_MBOX_PROPERTY"][0] == 0xC0046400  # _IOWR(100, 0, char *), four bytes
    else:
        row = drm.IOCTLS["DRM_IOCTL_VERSION"]
        assert requests["DRM_IOCTL_VERSION"] == (row.request(4), row.layout(4).size)
        assert row.request(4) != row.request(8)
