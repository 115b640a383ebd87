"""Tests of `qpu emulate`: rare uses of files, devices, maps and child processes work, or fail with their name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.emu.process.emulate_rig import DISPATCH, ROOT, VC4, emulate, ok

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs Linux")

REFUSED = """
from qpu.errors import EmuFault
def refused(word, call, *args, **named):
    try:
        call(*args, **named)
    except EmuFault as fault:
        assert fault.rule == "not-modelled" and word in str(fault), str(fault)
        return
    raise AssertionError(f"{word}: no fault")
"""


def run(tmp_path: Path, script: str, board: str = "pi5", **more: str) -> None:
    path = tmp_path / "body.py"
    path.write_text(script)
    script = "exec(compile(open('body.py').read(), 'body.py', 'exec'))\nprint('done')\n"
    assert ok(emulate(tmp_path, REFUSED + script, board=board, env=more)).splitlines()[-1] == "done"


# -- files


def test_working_directory_of_the_board(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
import glob, pathlib
home = os.getcwd()
os.chdir("/dev/dri")
assert os.getcwd() == "/dev/dri" and os.getcwdb() == b"/dev/dri" and pathlib.Path.cwd() == pathlib.Path("/dev/dri")
assert sorted(os.listdir()) == sorted(os.listdir(".")) == ["by-path", "card0", "card1", "renderD128"]
fd = os.open("card0", os.O_RDWR)
assert create(fd, 4096).handle == 1
os.close(fd)
assert sorted(glob.glob("card*")) == ["card0", "card1"]
assert [p.name for p in pathlib.Path().glob("render*")] == ["renderD128"]
assert os.path.abspath("card0") == "/dev/dri/card0" and os.path.realpath("by-path/../card1") == "/dev/dri/card1"
os.chdir("by-path")
assert os.getcwd() == "/dev/dri/by-path" and os.path.exists("../card0")
# relative paths that leave the board are the system's
assert os.path.exists("../../null") and open("../../../etc/passwd").read().startswith("root")
with open("../../null", "wb") as f: f.write(b"x")
assert os.stat("../../null").st_rdev == os.stat("/dev/null").st_rdev
assert expect(OSError, os.chdir, "card0").errno == errno.ENOENT
assert expect(OSError, os.chdir, "/dev/dri/card0").errno == errno.ENOTDIR
assert expect(OSError, open, "new.txt", "w").errno == errno.ENOENT
refused("os.mkdir", os.mkdir, "new")
os.chdir("../..")
assert os.getcwd() == "/dev" and os.path.exists("dri/card0")
os.chdir("/proc/device-tree")
assert os.getcwd() == "/sys/firmware/devicetree/base" and open("model").read().startswith("Raspberry Pi 5")
os.chdir(home)
assert os.getcwd() == home and os.path.exists("body.py")
import contextlib
with contextlib.chdir("/dev/dri"):
    assert os.path.exists("card0")
assert os.getcwd() == home
""",
    )


def test_directory_descriptors(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
import stat
dri = os.open("/dev/dri", os.O_RDONLY | os.O_DIRECTORY)
assert stat.S_ISDIR(os.fstat(dri).st_mode) and os.fstat(dri).st_ino == os.stat("/dev/dri").st_ino == os.stat(dri).st_ino
assert sorted(os.listdir(dri)) == sorted(os.listdir("/dev/dri"))
with os.scandir(dri) as scan:
    assert {e.name for e in scan} == set(os.listdir(dri))
fd = os.open("card0", os.O_RDWR, dir_fd=dri)
assert create(fd, 4096).handle == 1
assert os.stat("card0", dir_fd=dri).st_rdev == os.makedev(226, 0)
assert os.access("renderD128", os.R_OK, dir_fd=dri)
assert os.readlink(os.listdir("/dev/dri/by-path")[0], dir_fd=os.open("by-path", os.O_RDONLY, dir_fd=dri))
assert os.stat("../null", dir_fd=dri).st_rdev == os.stat("/dev/null").st_rdev
copy = os.dup(dri)
os.close(dri)
assert expect(OSError, os.stat, "card0", dir_fd=dri).errno == errno.EBADF
assert os.path.exists("/dev/null") and os.stat("card1", dir_fd=copy)
os.fchdir(copy)
assert os.getcwd() == "/dev/dri"
os.chdir("/")
# a descriptor of the system's /dev leads to the board too
dev = os.open("/dev", os.O_RDONLY)
assert create(os.open("dri/card0", os.O_RDWR, dir_fd=dev), 4096).handle == 1
walked = {name: files for name, dirs, files, _ in os.fwalk("/dev/dri")}
assert set(walked) == {"/dev/dri", "/dev/dri/by-path"} and "card0" in walked["/dev/dri"]
assert "/dev/dri" in [top for top, _, _ in os.walk("/dev/dri")]
assert expect(OSError, os.open, "/dev/dri/card0", os.O_RDONLY | os.O_DIRECTORY).errno == errno.ENOTDIR
assert expect(OSError, os.open, "/dev/dri", os.O_RDWR).errno == errno.EISDIR
assert expect(OSError, os.open, "/dev/dri/card0", os.O_CREAT | os.O_EXCL).errno == errno.EEXIST
refused("O_PATH", os.open, "/dev/dri/card0", os.O_PATH)
""",
    )


def test_descriptors_of_files(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
import io, pathlib, shutil, stat
fd = os.open("/proc/device-tree/model", os.O_RDONLY)
assert os.read(fd, 9) == b"Raspberry" and os.pread(fd, 2, 10) == b"Pi" and os.lseek(fd, 0, 0) == 0
assert stat.S_ISREG(os.fstat(fd).st_mode) and os.fstat(fd).st_size == len(open("/proc/device-tree/model").read())
assert expect(OSError, os.write, fd, b"x").errno == errno.EBADF
os.close(fd)
raw = io.FileIO("/proc/cpuinfo")
assert raw.read(9) == b"processor" and isinstance(raw, io.FileIO) and raw.name == "/proc/cpuinfo"
raw.close()
with open("/proc/cpuinfo", "rb") as f:
    assert isinstance(f.raw, io.FileIO) and f.name == "/proc/cpuinfo"
with open("body.py", "rb") as f:
    assert isinstance(f.raw, io.FileIO)
with io.FileIO("/dev/dri/card0", "r+") as f:
    assert create(f, 4096).handle == 1 and create(f.fileno(), 4096).handle == 2
    refused("reading", f.read, 4)
    refused("writing", f.write, b"x")
    n = f.fileno()
assert expect(OSError, create, n, 4096).errno == errno.EBADF
with io.FileIO("own.bin", "w") as f:
    f.write(b"123")
assert io.FileIO("own.bin").readall() == b"123"
assert expect(OSError, io.FileIO, "/proc/cpuinfo", "w").errno == errno.EACCES
assert pathlib.Path("/proc/cpuinfo").read_text().startswith("processor")
with pathlib.Path("/dev/dri/card0").open("r+b", buffering=0) as f:
    assert create(f, 4096).handle == 1
shutil.copyfile("/proc/device-tree/model", "model.txt")
assert pathlib.Path("model.txt").read_text().startswith("Raspberry Pi 5")
with mmap.mmap(os.open("/proc/device-tree/model", os.O_RDONLY), 0, prot=mmap.PROT_READ) as m:
    assert m[:9] == b"Raspberry"
import codecs, fileinput, linecache, tokenize
assert codecs.open("/proc/cpuinfo", "r", "ascii").readline().startswith("processor")
assert linecache.getline("/proc/cpuinfo", 1).startswith("processor")  # it took `open` before
assert next(iter(fileinput.input("/proc/cpuinfo"))).startswith("processor")
""",
    )


def test_what_goes_round_the_replacements_is_told(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
import _io, posix
refused("/dev/dri/card0", _io.open, "/dev/dri/card0", "rb")
refused("open", posix.open, "/dev/vcio", os.O_RDONLY)
for name, args in {
    "chmod": (0o666,), "chown": (0, 0), "remove": (), "truncate": (0,), "utime": (), "mkdir": (), "rmdir": (),
}.items():
    refused(f"os.{name} on /dev/dri/x", getattr(os, name), "/dev/dri/x", *args)
refused("os.rename", os.rename, "body.py", "/dev/dri/y")
refused("os.symlink", os.symlink, "body.py", "/dev/dri/y")
os.symlink("/dev/dri/card0", "link")  # a link in the system's directory is allowed
fd = os.open("/dev/dri/card0", os.O_RDWR)
import select, selectors
refused("select.select", select.select, [fd], [], [], 0)
refused("poll", select.poll().register, fd)
refused("selector", selectors.DefaultSelector().register, fd, selectors.EVENT_READ)
refused("selector", selectors.PollSelector().register, fd, selectors.EVENT_READ)
r, w = os.pipe()
os.write(w, b"x")
assert select.select([r], [], [], 5)[0] == [r]
poll = select.poll(); poll.register(r, select.POLLIN)
assert poll.poll(100) == [(r, select.POLLIN)]
for name, args in {"fsync": (), "lseek": (0, 0), "read": (4,), "write": (b"",), "fstatvfs": (), "fchmod": (0,)}.items():
    refused(f"os.{name}", getattr(os, name), fd, *args)
refused("os.sendfile", os.sendfile, w, fd, 0, 4)
with open("body.py", "rb") as f:  # a size that happens to be the number of the device's descriptor
    assert len(os.read(f.fileno(), fd)) == fd and len(os.pread(f.fileno(), fd, 0)) == fd
    assert os.lseek(f.fileno(), fd, 0) == fd
fcntl.flock(fd, fcntl.LOCK_EX)
second = os.open("/dev/dri/card0", os.O_RDWR)
try:
    fcntl.flock(second, fcntl.LOCK_SH | fcntl.LOCK_NB)
    raise AssertionError("two locks that exclude one another")
except BlockingIOError:
    pass
refused("waiting for a lock", fcntl.flock, second, fcntl.LOCK_EX)
os.close(second)
fcntl.flock(fd, fcntl.LOCK_UN)
refused("lock", fcntl.lockf, fd, fcntl.LOCK_EX)
assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC and os.get_inheritable(fd) is False
assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
""",
    )


# -- maps and arguments


def test_programs_that_close_every_descriptor(tmp_path: Path) -> None:
    """As daemons do. Descriptors of the emulation itself stay open; the program's devices are closed."""
    run(
        tmp_path,
        """
fd, kept = (os.open("/dev/dri/card0", os.O_RDWR) for _ in range(2))
m = mmap.mmap(fd, 16384, offset=offset(fd, create(fd, 16384).handle))
os.chdir("/dev/dri")
for n in range(3, 256):
    try:
        os.close(n)
    except OSError as error:
        assert error.errno == errno.EBADF
assert expect(OSError, create, fd, 4096).errno == errno.EBADF
os.closerange(3, 256)
m[0] = 7
fd = os.open("card0", os.O_RDWR)
bo = create(fd, 16384)
again = mmap.mmap(fd, 16384, offset=offset(fd, bo.handle))
again[0] = 1
assert (m[0], again[0], bo.handle) == (7, 1, 1)
os.closerange(3, 256)
assert expect(OSError, create, fd, 4096).errno == errno.EBADF
""",
    )


ALARM = """
import signal
class Late(Exception): pass
def late(*_): raise Late
signal.signal(signal.SIGALRM, late)
def limited(call, *args):
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        call(*args)
    except Late:
        return True
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return False
"""


def test_an_alarm_interrupts_a_wait_and_the_device_stays_usable(tmp_path: Path) -> None:
    """Loop protection of test suites: a signal handler raises in the middle of an ioctl."""
    endless = "l:\nb l\nnop ; nop\nnop ; nop\nnop ; nop\n"
    program = "ISA, BATCHES = 'v3d71', 4\n" + DISPATCH + ALARM
    program += f"fd = os.open('/dev/dri/card0', os.O_RDWR)\nprint(limited(run, fd, {endless!r}, []))\nos.close(fd)\n"
    program += "fd = os.open('/dev/dri/card0', os.O_RDWR)\nrun(fd, STOP, [])\nprint('ran')\n"
    assert ok(emulate(tmp_path, program)) == "True\nran\n"
    program = (
        VC4
        + ALARM
        + """
def job(text, *uniforms):
    load(text, *uniforms)
    m[8000:8008] = struct.pack("2I", bus + 4096, bus)
    return prop(0x30011, 1, bus + 8000, 0, 500)[0]
print(limited(job, "mov r0, 0\\n:l\\nbrr -, :l\\nadd r0, r0, 1\\nnop\\nnop\\n"))
prop(0x30012, 0); prop(0x30012, 1)
assert job(STORE, *ARGS) == 0 and result() == tuple(range(100, 116))
print("ran")
"""
    )
    assert ok(emulate(tmp_path, program, board="pi3")) == "True\nran\n"


def test_maps(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
import gc
import numpy as np
fd = os.open("/dev/dri/card0", os.O_RDWR)
assert mmap.PAGESIZE == mmap.ALLOCATIONGRANULARITY == os.sysconf("SC_PAGESIZE") == 16384
bo = create(fd, 1 << 16)
def map_it(*args, **named):
    return mmap.mmap(fd, 1 << 16, *args, offset=offset(fd, bo.handle), **named)
m = map_it()
a = np.frombuffer(m, np.float32)
b = np.ndarray((128, 128), np.float32, buffer=m)
c = (ctypes.c_float * 16).from_buffer(m, 64)
view = memoryview(m)[4:8].cast("I")
a[:32] = np.arange(32)
assert b[0, 5] == 5 and c[0] == 16 and view[0] == a[1:2].view(np.uint32)[0]
assert not a.flags.owndata and a.flags.writeable
assert struct.unpack("2f", m[4:12]) == (1, 2) and struct.unpack_from("f", m, 8) == (2,)
struct.pack_into("I", m, 0, 0x01020304)
assert m[0] == 4 and m[3] == 1 and m[0:4:2] == b"\\x04\\x02" and m[-1] == 0
m[8:12] = b"abcd"; m[0] = 9
assert m.find(b"abcd") == 8 and m.flush() is None and len(m) == 1 << 16
m.seek(8); assert m.read(4) == b"abcd" and m.read_byte() == 0 and m.tell() == 13
m.write(b"xy"); assert m[13:15] == b"xy"
m.move(100, 8, 4); assert m[100:104] == b"abcd"
assert expect(BufferError, m.close)  # views are alive: nothing is unmapped
a[40] = 7
assert b[0, 40] == 7
del a, b, view, c
gc.collect()
m.close()
assert m.closed and expect(ValueError, m.__getitem__, 0)
# views keep the map alive after the map's own name and the file are gone
m = map_it()
x = np.frombuffer(m, np.uint8)
del m
fcntl.ioctl(fd, 0x40086409, struct.pack("II", bo.handle, 0))
os.close(fd)
gc.collect()
x[:4] = 1
assert x[8] == ord("a") and x[:4].tolist() == [1] * 4
fd = os.open("/dev/dri/card0", os.O_RDWR)
bo = create(fd, 1 << 16)
read_only = map_it(prot=mmap.PROT_READ)
assert expect(TypeError, read_only.__setitem__, 0, 1) and not np.frombuffer(read_only, np.uint8).flags.writeable
by_access = map_it(access=mmap.ACCESS_READ)
assert by_access[:4] == bytes(4)
assert expect(ValueError, lambda: map_it(access=mmap.ACCESS_READ, prot=mmap.PROT_READ))
refused("private", map_it, flags=mmap.MAP_PRIVATE)
assert expect(OSError, mmap.mmap, fd, 1 << 17, offset=offset(fd, bo.handle)).errno == errno.EINVAL
assert expect(OSError, mmap.mmap, fd, 4096, offset=offset(fd, bo.handle) + 4).errno == errno.EINVAL
assert expect(OSError, mmap.mmap, fd, 0).errno == errno.EINVAL
positional = mmap.mmap(fd, 1 << 16, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, 0, offset(fd, bo.handle))
positional[0] = 3
assert read_only[0] == 3
""",
    )


def test_ioctl_arguments(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
import array
import numpy as np
fd = os.open("/dev/dri/card0", os.O_RDWR)
TFU = 0xC0106444
request = struct.pack("IIQ", 8, 0, 0)
answer = struct.pack("IIQ", 8, 0, 1)
assert fcntl.ioctl(fd, TFU, request) == answer and request == struct.pack("IIQ", 8, 0, 0)
assert type(fcntl.ioctl(fd, TFU, request)) is bytes
for flag in (True, 1):
    buffer = bytearray(request)
    assert fcntl.ioctl(fd, TFU, buffer, flag) == 0 and buffer == answer
for flag in (False, 0):
    buffer = bytearray(request)
    assert fcntl.ioctl(fd, TFU, buffer, flag) == answer and buffer == request
words = array.array("I", [8, 0, 0, 0])
assert fcntl.ioctl(fd, TFU, words) == 0 and words.tolist() == [8, 0, 1, 0]
class Param(ctypes.Structure):
    _fields_ = [("param", ctypes.c_uint32), ("pad", ctypes.c_uint32), ("value", ctypes.c_uint64)]
p = Param(8)
assert fcntl.ioctl(fd, TFU, p) == 0 and p.value == 1
p = Param(8)
assert fcntl.ioctl(fd, TFU, ctypes.addressof(p)) == 0 and p.value == 1
p = (ctypes.c_uint32 * 4)(8)
fcntl.ioctl(fd, TFU, p)
assert list(p) == [8, 0, 1, 0]
n = np.array([8, 0, 0, 0], np.uint32)
fcntl.ioctl(fd, TFU, n)
assert n.tolist() == [8, 0, 1, 0]
v = memoryview(bytearray(request))
fcntl.ioctl(fd, TFU, v)
assert bytes(v) == answer
# positional-only, as the system's: the error is the system's too
assert expect(TypeError, lambda: fcntl.ioctl(fd, TFU, arg=request))
assert expect(TypeError, fcntl.ioctl, fd, TFU, 1.5)
assert expect(TypeError, fcntl.ioctl, fd, TFU, [1])
assert expect(TypeError, fcntl.ioctl, fd)
assert expect(OSError, fcntl.ioctl, fd, TFU).errno == errno.EFAULT
assert expect(OSError, fcntl.ioctl, fd, TFU, 1).errno == errno.EFAULT
assert expect(OSError, fcntl.ioctl, 987, TFU, request).errno == errno.EBADF
assert expect(TypeError, fcntl.ioctl, "card0", TFU, request)
assert expect(ValueError, fcntl.ioctl, -1, TFU, request)
# a failing request is copied back all the same, and a shorter argument is extended by zeros
wait = bytearray(struct.pack("IIQ", 99, 0, 10))
assert expect(OSError, fcntl.ioctl, fd, 0xC0106441, wait).errno == errno.EINVAL
close = bytearray(struct.pack("I", create(fd, 4096).handle))
fcntl.ioctl(fd, 0x40046409, close)
# each open file has handles of its own; one descriptor may be opened several times
other, again = (os.open("/dev/dri/renderD128", os.O_RDWR) for _ in range(2))
assert [create(f, 4096).handle for f in (fd, other, other, again)] == [1, 1, 2, 1]
# another request of the display, of a file and of a socket
assert expect(OSError, fcntl.ioctl, os.open("/proc/cpuinfo", os.O_RDONLY), TFU, request).errno == errno.ENOTTY
import fcntl as f, termios
r, w = os.pipe(); os.write(w, b"123")
size = array.array("i", [0]); fcntl.ioctl(r, termios.FIONREAD, size)
assert size[0] == 3
""",
    )


@pytest.mark.parametrize("board", ["pi5", "pi4"])
def test_the_c_library_on_drm(tmp_path: Path, board: str) -> None:
    run(
        tmp_path,
        """
import ctypes.util
assert ctypes.util.find_library("c")
for libc in (ctypes.CDLL(None, use_errno=True), ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)):
    fd = libc.open(b"/dev/dri/card0", os.O_RDWR | os.O_CLOEXEC)
    assert fd > 2
    bo = CreateBo(size=100)
    assert libc.ioctl(fd, 0xC0106442, ctypes.byref(bo)) == 0 and bo.handle == 1
    assert libc.ioctl(ctypes.c_int(fd), ctypes.c_ulong(0xC0106442), ctypes.pointer(CreateBo(size=5))) == 0
    assert create(fd, 4096).handle == 3  # the same descriptor either way
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
    at = libc.mmap(None, 4096, 3, mmap.MAP_SHARED, fd, offset(fd, 1))
    words = ctypes.cast(at, ctypes.POINTER(ctypes.c_uint32))
    words[5] = 1234
    m = mmap.mmap(fd, 4096, offset=offset(fd, 1))
    assert m[20:24] == struct.pack("I", 1234)
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    refused("munmap", libc.munmap, at, 1 << 20)
    assert libc.munmap(at, 4096) == 0
    ctypes.set_errno(0)
    assert libc.ioctl(fd, 0xC0106442, ctypes.byref(CreateBo(size=0))) == -1 and ctypes.get_errno() == errno.EINVAL
    assert libc.open(b"/dev/dri/card7", os.O_RDWR) == -1 and ctypes.get_errno() == errno.ENOENT
    assert libc.mmap(None, 4096, 3, mmap.MAP_SHARED, fd, 1 << 50) == (1 << 64) - 1
    def check(result, function, args):
        if result < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return result
    libc.ioctl.errcheck = check
    assert expect(OSError, libc.ioctl, fd, 0xC0106442, ctypes.byref(CreateBo(size=0))).errno == errno.EINVAL
    assert libc.close(fd) == 0
    assert expect(OSError, create, fd, 4096).errno == errno.EBADF
    refused("fopen", libc.fopen, b"/dev/dri/card0", b"r")
    refused("stat", libc.stat, b"/proc/device-tree/model", ctypes.create_string_buffer(256))
    fd = libc.open(b"/dev/dri/renderD128", os.O_RDWR)
    refused("read", libc.read, fd, ctypes.create_string_buffer(4), 4)
    assert libc.close(fd) == 0
    # all else is the system's
    fd = libc.open(b"body.py", os.O_RDONLY)
    buffer = ctypes.create_string_buffer(8)
    assert libc.read(fd, buffer, 8) == 8 and libc.close(fd) == 0
    assert libc.getpid() == os.getpid() and libc["getpid"]() == os.getpid()
    assert libc.strlen(b"abc") == 3 and libc.abs(ctypes.c_int(-3)) == 3
    kept = libc.mmap(None, 4096, 3, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    assert kept > 0 and libc.munmap(kept, 4096) == 0
assert ctypes.cdll.LoadLibrary("libc.so.6").open(b"/dev/dri/card0", os.O_RDWR) > 2
assert isinstance(libc, ctypes.CDLL)
""",
        board,
    )


def test_the_c_library_on_vc4(tmp_path: Path) -> None:
    run(
        tmp_path,
        VC4
        + """
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.POINTER(ctypes.c_uint32)
fd = libc.open(b"/dev/mem", os.O_RDWR | os.O_SYNC)
at = libc.mmap(None, ctypes.c_size_t(8192), 3, mmap.MAP_SHARED, fd, ctypes.c_long(bus & 0x3FFFFFFF))
load(STORE, *ARGS)
assert at[1024] == ARGS[0]
at[2000], at[2001] = bus + 4096, bus
assert prop(0x30011, 1, bus + 8000, 0, 500)[0] == 0
assert [at[1536 + k] for k in range(16)] == list(range(100, 116))
refused("registers", libc.mmap, None, 4096, 3, mmap.MAP_SHARED, fd, ctypes.c_long(0x3FC00000))
assert libc.munmap(at, 8192) == 0
""",
        "pi3",
    )


# -- launches by register

SLOW_QUEUE = """
import time
regs = mmap.mmap(mem, 0x1000, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=0x3FC00000)
def write(at, value):
    regs[at:at + 4] = struct.pack("I", value)
def read(at):
    return struct.unpack("I", regs[at:at + 4])[0]
texts = ["sacq -, 5\\nnop\\nthrend\\nnop\\nnop\\n", "srel -, 5\\nnop\\nthrend\\nnop\\nnop\\n"]
for n, text in enumerate(texts):
    code = qpu.assemble(text, isa="vc4").data
    m[256 * n : 256 * n + len(code)] = code
write(0x43C, 1 << 16 | 1 << 8 | 1 << 7)
for n in range(24):
    write(0x434, 0)
    write(0x430, bus + 256 * (n % 2))
    if n in (0, 7):
        time.sleep(0.6)  # a slow host: what is queued begins meanwhile
end = time.monotonic() + 600
while read(0x43C) >> 16 & 255 != 24:
    assert time.monotonic() < end, hex(read(0x43C))
print("done")
"""


@pytest.mark.parametrize("options", [(), ("--strict",)])
def test_programs_that_are_queued_slowly(tmp_path: Path, options: tuple[str, ...]) -> None:
    done = emulate(tmp_path, VC4 + SLOW_QUEUE, board="pi3", options=options)
    assert ok(done) == "done\n" and done.stderr == ""


# -- other processes


def test_child_processes(tmp_path: Path) -> None:
    (tmp_path / "tool").write_text(f"#!{__import__('sys').executable}\nimport os\nprint(os.listdir('/dev/dri')[0])\n")
    (tmp_path / "tool").chmod(0o755)
    run(
        tmp_path,
        """
import shlex, subprocess
listing = "import os; print(sorted(os.listdir('/dev/dri'))[1])"
def output(args, **named):
    return subprocess.run(args, capture_output=True, text=True, check=True, **named).stdout.strip()
python = sys.executable
assert output([python, "-c", listing]) == "card0"
assert output(f"{python} -c {shlex.quote(listing)}", shell=True) == "card0"
assert output(["env", "A=1", python, "-c", listing]) == "card0"
assert output(["./tool", "/dev/dri"]) == "by-path"
assert output([python, "-c", listing], env=dict(os.environ)) == "card0"
assert os.popen(f"{python} -c {shlex.quote(listing)}").read().strip() == "card0"
# what is not Python and has nothing to do with the board is the system's affair
assert output(["echo", "/dev/null", "/device/dri"]) == "/dev/null /device/dri"
assert os.system("true") == 0
assert output(["cat", "body.py"]).startswith("import shlex")
# what would see the system's files instead of the board's
refused("/proc/device-tree", subprocess.run, ["cat", "/proc/device-tree/model"])
refused("/proc/cpuinfo", subprocess.run, "grep Revision /proc/cpuinfo", shell=True)
refused("/dev/dri", subprocess.Popen, ["ls", "-l", "--", "/dev/dri"])
refused("/dev/vcio", os.system, "ls -l /dev/vcio")
refused("/dev/mem", os.popen, "cat </dev/mem")
refused("/dev/dri", subprocess.run, ["echo"], cwd="/dev/dri")
refused("sudo", subprocess.run, ["sudo", "modprobe", "v3d"])
refused("environment", subprocess.run, [python, "-c", listing], env={"PATH": os.environ["PATH"]})
refused("-I", subprocess.run, [python, "-I", "-c", listing])
refused("-ES", subprocess.run, [python, "-ES", "-c", listing])
output([python, "-W", "ignore::ImportWarning", "-X", "utf8", "-c", listing])
refused("/dev/dri", os.execv, "/bin/ls", ["ls", "/dev/dri"])
refused("/dev/dri", os.posix_spawn, "/bin/ls", ["ls", "/dev/dri"], os.environ)
""",
    )


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(tmp_path: Path, method: str) -> None:
    program = """
import multiprocessing
def work(n):
    fd = os.open("/dev/dri/card0", os.O_RDWR)
    bo = create(fd, 4096)
    m = mmap.mmap(fd, 4096, offset=offset(fd, bo.handle))
    m[0] = n
    return m[0] * 10 + bo.handle
if __name__ == "__main__":
    context = multiprocessing.get_context(METHOD)
    with context.Pool(2) as pool:
        print(pool.map(work, range(4)))
    print(work(7))
"""
    out = ok(emulate(tmp_path, program.replace("METHOD", repr(method)), board="pi4"))
    assert out.splitlines() == ["[1, 11, 21, 31]", "71"]


def test_exec_replaces_the_process(tmp_path: Path) -> None:
    program = """
import os, sys
if len(sys.argv) == 1:
    os.execv(sys.executable, [sys.executable, __file__, "again"])
print(sys.argv[1:], os.path.exists("/dev/dri/card0"))
"""
    assert ok(emulate(tmp_path, program, prelude=False)) == "['again'] True\n"


def test_threads_launch_together(tmp_path: Path) -> None:
    program = (
        "ISA, BATCHES = 'v3d71', 4\n"
        + DISPATCH
        + """
import threading
results = []
def work():
    fd = os.open("/dev/dri/renderD128", os.O_RDWR)
    for _ in range(3):
        run(fd, STOP, [1])
    os.close(fd)
    results.append(1)
threads = [threading.Thread(target=work) for _ in range(4)]
[t.start() for t in threads]
[t.join() for t in threads]
print(sum(results))
"""
    )
    assert ok(emulate(tmp_path, program)) == "4\n"


# -- libbcm_host


@pytest.mark.parametrize(
    ("board", "base", "size"),
    [("pi1", 0x20000000, 1 << 24), ("pi3", 0x3F000000, 1 << 24), ("pi4", 0xFE000000, 0x1800000)],
)
def test_bcm_host(tmp_path: Path, board: str, base: int, size: int) -> None:
    run(
        tmp_path,
        f"""
for load in (ctypes.CDLL, ctypes.cdll.LoadLibrary, lambda n: ctypes.cdll[n]):
    for name in ("libbcm_host.so", "libbcm_host.so.0", "/opt/vc/lib/libbcm_host.so"):
        lib = load(name)
        for f in (lib.bcm_host_get_peripheral_address, lib["bcm_host_get_peripheral_size"]):
            f.argtypes, f.restype = (), ctypes.c_uint32
        assert lib.bcm_host_init() == 0
        assert lib.bcm_host_get_peripheral_address() == {base} and lib["bcm_host_get_peripheral_size"]() in ({size}, -1)
        refused("graphics_get_display_size", getattr, lib, "graphics_get_display_size")
lib = ctypes.CDLL("libbcm_host.so")
assert lib.bcm_host_get_peripheral_address() == ctypes.c_int({base}).value  # a C int, as without a restype
""",
        board,
    )


def test_no_bcm_host_on_pi5(tmp_path: Path) -> None:
    run(tmp_path, "expect(OSError, ctypes.CDLL, 'libbcm_host.so')", "pi5")


def test_children_find_the_package_behind_everything_of_their_own(tmp_path: Path) -> None:
    """Even when it is not installed; a module of the program with a name from beside the package takes precedence."""
    (tmp_path / "tests.py").write_text("mine = 1\n")
    program = "import subprocess, sys, os\nprint(os.environ['PYTHONPATH'].split(os.pathsep))\nsys.stdout.flush()\n"
    program += "code = 'import os, tests; print(tests.mine, len(os.listdir(\"/dev/dri\")))'\n"
    program += "subprocess.run([sys.executable, '-c', code], check=True)\n"
    script = tmp_path / "program.py"
    script.write_text(program)
    command = [
        sys.executable,
        "-c",
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import qpu.__main__ as m; m.main()",
    ]
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run([*command, "emulate", str(script)], capture_output=True, text=True, cwd=tmp_path, env=env)
    assert ok(done).splitlines() == [str([str(ROOT / "qpu" / "emu" / "process" / "child_site")]), "1 4"]
