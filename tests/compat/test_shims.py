"""Tests of `qpu emulate --compat` and of boards with ``bits=32``: old programs on current versions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qpu.compat import nose_tools
from qpu.compat.numpy_names import missing
from tests.emu.process.emulate_rig import emulate, ok

OLD = """
import array, fcntl, os, struct, subprocess, sys
import numpy as np
import rpi_vcsm
from rpi_vcsm.VCSM import VCSM

assert struct.calcsize("L") == struct.calcsize("P") == array.array("L").itemsize == struct.Struct("l").size == 4
assert struct.calcsize("<Q") == 8 and struct.calcsize("=L") == 4 and struct.calcsize("LQ") == 16
assert struct.unpack("L", struct.pack("f", 1.0)) == (0x3F800000,)
fd = os.open("/dev/vcio", os.O_RDONLY)

def prop(request, tag, *values):
    n = len(values)
    text = struct.pack("%dL" % (6 + n), 4 * (6 + n), 0, tag, 4 * n, 4 * n, *(values + (0,)))
    buf = array.array("L")
    buf.fromstring(text)
    fcntl.ioctl(fd, request, buf, True)
    return struct.unpack("%dL" % (6 + n), buf.tostring())[5:5 + n]

for request in (0xC0046400, 0xC0086400):  # 32-bit program; what ctypes computes on this host
    print(*prop(request, 0x10002, 0))

for force, driver in ((None, "vcsm-cma"), ("vcsm", "vcsm")):
    memory = VCSM(force=force)
    assert memory.get_driver() == driver
    handle, bus, usr, buf = memory.malloc_cache(5000, rpi_vcsm.CACHE_BOTH, "old")  # 2.x: by position
    words = np.frombuffer(buf, np.uint32, 16)
    words[:] = np.arange(16)
    memory.clean(handle, usr, 5000)
    memory.invalidate(handle=handle, usr_ptr=usr, size=5000)  # 3.x
    print(driver, np.float_(words.sum()), words.tostring()[4:8], np.array([-1], np.uint32, copy=False))
    del words
    memory.free(handle=handle, usr_buf=buf)
    memory.close()

child = "import struct, numpy as np; print(struct.calcsize('L'), np.product([2, 3]))"
print(subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, check=True).stdout)
"""


def test_a_32_bit_program_with_old_libraries(tmp_path: Path) -> None:
    done = emulate(tmp_path, OLD, board="pi3,bits=32", options=("--compat",), prelude=False)
    lines = [line.split() for line in ok(done).splitlines() if line]
    assert lines[:2] == [["10494082"], ["10494082"]]
    row = ["120.0", "b'\\x01\\x00\\x00\\x00'", "[4294967295]"]
    assert lines[2:4] == [["vcsm-cma", *row], ["vcsm", *row]]
    assert lines[4] == ["4", "6"]


def test_without_the_switch_nothing_changes(tmp_path: Path) -> None:
    script = """
    import fcntl, os, struct
    assert struct.calcsize("L") == 8
    fd = os.open("/dev/vcio", os.O_RDONLY)
    try:
        fcntl.ioctl(fd, 0xC0046400, bytearray(28))
    except OSError as error:
        print(error.errno)
    try:
        import rpi_vcsm
    except ModuleNotFoundError as error:
        print(error.name)
    """
    assert ok(emulate(tmp_path, script, board="pi3", prelude=False)).split() == ["22", "rpi_vcsm"]


def test_our_own_driver_under_32_bits(tmp_path: Path) -> None:
    script = """
    import numpy as np, qpu
    with qpu.open_device("hardware") as gpu:
        print(gpu.isa, gpu.array(np.arange(4, dtype=np.int32)).numpy().sum())
    """
    for board, isa in (("pi3,bits=32", "vc4"), ("pi4,bits=32", "v3d42")):
        assert ok(emulate(tmp_path, script, board=board, prelude=False)).split() == [isa, "6"]


def test_names_that_numpy_lacks_are_what_they_were() -> None:
    names = dict(missing())
    assert names["float_"] is np.float64 and names["product"] is np.prod and names["NaN"] is np.nan
    assert not set(names) & set(vars(np))
    assert list(names["asfarray"]([1, 2])) == [1.0, 2.0] and names["find_common_type"](["f4"], ["f8"]) == np.float64


def test_nose_tools() -> None:
    nose_tools.eq_(1, 1)
    nose_tools.assert_almost_equal(1.0, 1.0 + 1e-9)
    nose_tools.raises(KeyError)(lambda: {}["x"])()
    with pytest.raises(AssertionError, match="did not raise"):
        nose_tools.raises(KeyError)(lambda: None)()
    with pytest.raises(AttributeError):
        _ = nose_tools.no_such_name
