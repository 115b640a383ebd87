"""Tests of `qpu emulate`: programs that make the system calls themselves, in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tests.emu.process.emulate_rig import DISPATCH, ROOT, STAND_INS, VC4, emulate, ok
from tests.limits import HUNG_S

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs Linux")

# -- as Python runs programs


def test_main_argv_path_and_status(tmp_path: Path) -> None:
    done = emulate(
        tmp_path,
        """
        import atexit, os, sys
        atexit.register(lambda: print("at exit", os.path.exists("/dev/dri/card0")))
        assert __name__ == "__main__" and sys.modules["__main__"].__dict__ is globals()
        print(sys.argv, os.path.basename(__file__), sys.path[0], __spec__, __package__)
        sys.exit(7)
        """,
        "--strict",
        "-m",
        "x",
        prelude=False,
    )
    assert done.returncode == 7
    path = str(tmp_path / "program.py")
    assert done.stdout.splitlines() == [
        f"{[path, '--strict', '-m', 'x']} program.py {tmp_path} None None",
        "at exit True",
    ]
    assert done.stderr == ""


def test_uncaught_exception(tmp_path: Path) -> None:
    done = emulate(tmp_path, "def f():\n    raise LookupError('lost')\nf()\n", prelude=False)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert lines[0] == "Traceback (most recent call last):" and lines[-1] == "LookupError: lost"
    assert lines[1].startswith(f'  File "{tmp_path}/program.py", line 3')
    assert "intercept" not in done.stderr


@pytest.mark.parametrize(
    ("code", "status", "text"), [("sys.exit()", 0, ""), ("sys.exit('no')", 1, "no\n"), ("1+", 1, None)]
)
def test_exit_status(tmp_path: Path, code: str, status: int, text: str | None) -> None:
    done = emulate(tmp_path, f"import sys\n{code}\n", prelude=False)
    assert done.returncode == status
    if text is None:
        assert "SyntaxError" in done.stderr and "program.py" in done.stderr
    else:
        assert done.stderr == text


def test_script_from_standard_input(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "qpu", "emulate", "--board", "pi4", "-", "--board", "x"]
    text = (
        "import os, sys\nprint(sys.argv, repr(sys.path[0]), len(os.listdir('/dev/dri')), __name__)\nraise LookupError\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env, input=text)
    assert done.returncode == 1 and done.stdout == "['-', '--board', 'x'] '' 4 __main__\n"
    assert '  File "<stdin>", line 3' in done.stderr and "intercept" not in done.stderr


def test_missing_script_and_board(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "qpu", "emulate"]
    done = subprocess.run(
        [*command, "nothing.py"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 2 and "can't open file" in done.stderr
    done = emulate(tmp_path, "", board="pi7")
    assert done.returncode == 2 and "pi0, pi1" in done.stderr


def test_module_and_pickle_of_main(tmp_path: Path) -> None:
    (tmp_path / "thing.py").write_text(
        "import os, pickle, sys\nclass C: pass\nassert isinstance(pickle.loads(pickle.dumps(C())), C)\n"
        "print(__name__, sys.argv[1:], os.path.basename(sys.argv[0]), sys.path[0], len(os.listdir('/dev/dri')))\n"
    )
    command = [sys.executable, "-m", "qpu", "emulate", "--board", "pi4", "-m", "thing", "a", "-b"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env)
    assert ok(done) == f"__main__ ['a', '-b'] thing.py {tmp_path} 4\n"
    done = subprocess.run([*command[:-3], "no_such"], capture_output=True, text=True, cwd=tmp_path, env=env)
    assert done.returncode == 1 and "No module named no_such" in done.stderr


def test_pytest_as_module(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import os, pytest\n"
        "def test_a(): assert 'card0' in os.listdir('/dev/dri')\n"
        "def test_b(capfd):\n    os.system('echo x')\n    assert capfd.readouterr().out == 'x\\n'\n"
        "def test_c():\n    with pytest.raises(PermissionError): open('/dev/mem', 'rb')\n"
    )
    command = [sys.executable, "-m", "qpu", "emulate", "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env)
    assert "3 passed" in ok(done)


def test_ctrl_c_ends_by_signal(tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text("import time\nprint('up', flush=True)\ntime.sleep(60)\n")
    child = subprocess.Popen(
        [sys.executable, "-m", "qpu", "emulate", str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "up\n"
    time.sleep(0.1)
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=HUNG_S)
    assert child.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in errors


# -- files


def test_files(tmp_path: Path) -> None:
    out = ok(
        emulate(
            tmp_path,
            """
            import glob, pathlib, stat
            assert open("/proc/device-tree/model").read() == "Raspberry Pi 5 Model B Rev 1.0\\0"
            assert pathlib.Path("/proc/device-tree/compatible").read_bytes().endswith(b"brcm,bcm2712\\0")
            assert "Revision\\t: d04170" in open("/proc/cpuinfo", encoding="ascii").read()
            with os.fdopen(os.open("/proc/cpuinfo", os.O_RDONLY)) as f:
                assert f.readline().startswith("processor")
            assert sorted(os.listdir("/dev/dri")) == ["by-path", "card0", "card1", "renderD128"]
            assert os.listdir(b"/dev/dri/by-path")[0].startswith(b"platform-")
            assert glob.glob("/dev/dri/render*") == ["/dev/dri/renderD128"]
            assert [p.name for p in sorted(pathlib.Path("/dev/dri").iterdir())][1] == "card0"
            with os.scandir("/dev/dri") as scan:
                kinds = {e.name: (e.is_dir(), e.is_symlink(), stat.S_ISCHR(e.stat().st_mode)) for e in scan}
            assert kinds["by-path"] == (True, False, False) and kinds["card0"] == (False, False, True)
            link = "/dev/dri/by-path/platform-1002000000.v3d-card"
            assert os.path.islink(link) and os.readlink(link) == "../card0"
            assert os.path.realpath(link) == "/dev/dri/card0"
            assert os.stat(link).st_rdev == os.makedev(226, 0)
            assert {"dri", "vcio", "null"} <= set(os.listdir("/dev"))
            assert os.access("/dev/dri/card0", os.R_OK | os.W_OK) and not os.access("/dev/mem", os.R_OK)
            assert not os.path.exists("/dev/vcsm-cma") and os.path.exists("/dev/vcio")
            assert expect(OSError, os.stat, "/dev/vcsm").errno == errno.ENOENT
            assert expect(OSError, open, "/dev/mem", "rb").filename == "/dev/mem"
            assert expect(OSError, open, "/proc/cpuinfo", "w").errno == errno.EACCES
            assert expect(OSError, os.open, "/dev/dri/card9", os.O_RDWR).errno == errno.ENOENT
            os.chdir("/dev")
            assert os.path.exists("dri/card0") and os.listdir("dri") == os.listdir("/dev/../dev//dri")
            # Everything else is the system's.
            os.chdir(os.path.dirname(__file__))
            with open("own.txt", "w") as f:
                f.write("text")
            assert open("own.txt").read() == "text" and os.stat("own.txt").st_size == 4
            assert os.listdir(".") and os.path.exists("/proc/self/maps")
            with open("own.txt", "r+b") as f, mmap.mmap(f.fileno(), 0) as m:
                assert m[:] == b"text" and isinstance(m, mmap.mmap)
            with mmap.mmap(-1, 4096) as m:
                m[0] = 1
            print("done")
            """,
        )
    )
    assert out == "done\n"


def test_children(tmp_path: Path) -> None:
    out = ok(
        emulate(
            tmp_path,
            """
            import multiprocessing, subprocess
            code = "import os; print(sorted(os.listdir('/dev/dri'))[1], os.environ['QPU_EMULATE'])"
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
            print(done.stdout, end="")
            def child():
                fd = os.open("/dev/dri/card0", os.O_RDWR)
                print("child", create(fd, 4096).handle, flush=True)
            fd = os.open("/dev/dri/card0", os.O_RDWR)
            bo = create(fd, 4096)
            m = mmap.mmap(fd, 4096, offset=offset(fd, bo.handle))
            m[0] = 5
            pid = os.fork()
            if pid == 0:
                from qpu.errors import EmuFault
                error = expect(EmuFault, create, fd, 4096)
                print("fork:", "before fork" in str(error), flush=True)
                os.close(fd)
                child()
                m.close()
                os._exit(3)
            assert os.waitpid(pid, 0)[1] == 3 << 8
            assert m[0] == 5 and create(fd, 4096).handle == 2
            """,
            board="pi5,slices=3",
        )
    )
    assert out.splitlines() == ["card0 pi5,slices=3", "fork: True", "child 1"]


# -- DRM


def test_drm_calls(tmp_path: Path) -> None:
    out = ok(
        emulate(
            tmp_path,
            """
            import array
            import numpy as np
            fd = os.open("/dev/dri/card0", os.O_RDWR | os.O_CLOEXEC)
            two = open("/dev/dri/renderD128", "r+b", buffering=0)
            bo = create(fd, 100000)
            m = mmap.mmap(fd, 100000, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=offset(fd, bo.handle))
            a = np.frombuffer(m, np.uint32)
            a[:] = 7
            expect(BufferError, m.close)
            del a
            again = mmap.mmap(fd, 4096, offset=offset(fd, bo.handle))
            assert again[:4] == struct.pack("I", 7)
            m.close(); again.close()
            # every kind of argument that fcntl.ioctl takes
            raw = bytearray(struct.pack("IIQ", 8, 0, 0))
            assert fcntl.ioctl(two, 0xC0106444, raw) == 0 and raw[8] == 1
            words = array.array("Q", [8, 0])
            fcntl.ioctl(two, 0xC0106444, words, True)
            assert words[1] == 1
            view = np.array([8, 0], np.uint64)
            fcntl.ioctl(two, 0xC0106444, view)
            assert view[1] == 1
            assert fcntl.ioctl(two, 0xC0106444, bytearray(struct.pack("IIQ", 8, 0, 0)), False)[8] == 1
            c = ctypes.create_string_buffer(struct.pack("IIQ", 8, 0, 0), 16)
            assert fcntl.ioctl(two, 0xC0106444, ctypes.addressof(c)) == 0 and c.raw[8] == 1
            fcntl.ioctl(two, 0xC0106444 - (1 << 32), raw[:4] + bytearray(12))
            # errors
            assert expect(OSError, create, fd, 0).errno == errno.EINVAL
            assert expect(OSError, fcntl.ioctl, fd, 0xC0106444, ctypes.addressof(c) & 0xFFF).errno == errno.EFAULT
            timeout = bytearray(struct.pack("IIQ", 99, 0, 0))
            assert expect(OSError, fcntl.ioctl, fd, 0xC0106441, timeout).errno == errno.EINVAL
            assert expect(OSError, mmap.mmap, fd, 4096).errno == errno.EINVAL
            # descriptors
            other = os.dup(fd)
            os.close(fd)
            assert create(other, 4096).handle == 2
            third = fcntl.fcntl(other, fcntl.F_DUPFD_CLOEXEC, 50)
            assert third >= 50 and create(third, 4096).handle == 3
            os.close(other); os.close(third)
            assert expect(OSError, create, third, 4096).errno == errno.EBADF
            number = two.fileno()
            two.close()
            assert expect(OSError, create, number, 4096).errno == errno.EBADF
            with open("/dev/dri/card0", "rb+") as f:
                assert create(f, 4096).handle == 1
            # not modelled: loud, by name
            from qpu.errors import EmuFault
            fd = os.open("/dev/dri/card0", os.O_RDWR)
            assert "SUBMIT_CL" in str(expect(EmuFault, fcntl.ioctl, fd, 0xC0386440, bytearray(56)))
            assert "os.read" in str(expect(EmuFault, os.read, fd, 4))
            print("done")
            """,
        )
    )
    assert out == "done\n"


@pytest.mark.parametrize(("board", "isa", "batches"), [("pi5", "v3d71", 4), ("pi4", "v3d42", 3)])
def test_dispatch(tmp_path: Path, board: str, isa: str, batches: int) -> None:
    out = ok(
        emulate(
            tmp_path,
            f"ISA, BATCHES = {isa!r}, {batches}\n"
            + DISPATCH
            + 'fd = os.open("/dev/dri/card0", os.O_RDWR)\nrun(fd, STOP, [1])\nprint("ran")\n',
            board=board,
        )
    )
    assert out == "ran\n"


# -- VideoCore IV


def test_vcsm_stand_in(tmp_path: Path) -> None:
    out = ok(
        emulate(
            tmp_path,
            """
            import numpy as np
            import rpi_vcsm
            from rpi_vcsm.VCSM import VCSM
            for force in ("vcsm-cma", "vcsm"):
                with VCSM(force=force) as v:
                    assert v.get_driver() == force
                    handle, bus, user, buffer = v.malloc_cache(size=5000, cached=rpi_vcsm.CACHE_NONE, name="x")
                    assert 0 < bus < 1 << 32
                    a = np.frombuffer(buffer, np.uint8)
                    a[:] = 3
                    v.clean(handle=handle, usr_ptr=user, size=5000)
                    v.invalidate(handle=handle, usr_ptr=user, size=5000)
                    expect(BufferError, lambda: v.free(handle=handle, usr_buf=buffer))
                    del a
                    v.free(handle=handle, usr_buf=buffer)
            print("done")
            """,
            board="pi3",
            env={"PYTHONPATH": f"{STAND_INS}{os.pathsep}{ROOT}"},
        )
    )
    assert out == "done\n"


def test_mailbox_and_register_launch(tmp_path: Path) -> None:
    out = ok(
        emulate(
            tmp_path,
            VC4
            + """
import ctypes.util
load(STORE, *ARGS)
m[8000:8008] = struct.pack("2I", bus + 4096, bus)
assert prop(0x30011, 1, bus + 8000, 0, 500)[0] == 0
assert result() == tuple(range(100, 116))
m[6144:6208] = bytes(64)
assert ctypes.util.find_library("bcm_host")
lib = ctypes.CDLL("libbcm_host.so")
lib.bcm_host_get_peripheral_address.restype = ctypes.c_uint32
lib.bcm_host_get_peripheral_address.argtypes = []
base = lib.bcm_host_get_peripheral_address()
assert base == 0x3F000000
regs = mmap.mmap(mem, 0x1000000, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=base)
def read(at):
    return struct.unpack("I", regs[0xC00000 + at:0xC00004 + at])[0]
def write(at, value):
    regs[0xC00000 + at:0xC00004 + at] = struct.pack("I", value)
assert read(0) == 0x02443356 and regs[0xC00000:0xC00003] == b"V3D" and regs[0xC00003] == 2
write(0x43C, 0x10180)
write(0x434, bus + 4096)
write(0x430, bus)
while read(0x43C) >> 16 & 255 != 1:
    pass
assert result() == tuple(range(100, 116))
expect(TypeError, memoryview, regs)
expect(TypeError, struct.unpack_from, "I", regs, 0)
expect(TypeError, regs.__setitem__, 0xC00434, 1)
from qpu.errors import EmuFault
assert "0x3f200000" in str(expect(EmuFault, regs.__getitem__, slice(0x200000, 0x200004)))
regs.close(); m.close(); os.close(mem)
expect(ValueError, read, 0)
print("done")
""",
            board="pi3",
        )
    )
    assert out == "done\n"


def test_faults_lenient_and_strict(tmp_path: Path) -> None:
    # V3D: a store outside every buffer is a warning and a summary; with --strict it stops.
    program = (
        "ISA, BATCHES = 'v3d42', 0\n"
        + DISPATCH
        + """
fd = os.open("/dev/dri/card0", os.O_RDWR)
text = ("nop ; nop ; ldunifrf.rf1\\nor tmud, rf1, rf1 ; nop\\nor tmua, rf1, rf1 ; nop\\ntmuwt - ; nop\\n" + STOP)
run(fd, text, [0x8000000])
print("went on")
"""
    )
    done = emulate(tmp_path, program, board="pi4")
    assert done.returncode == 0 and done.stdout == "went on\n", done.stderr
    assert "warning" in done.stderr and "faults on the emulated pi4" in done.stderr.splitlines()[-1]
    done = emulate(tmp_path, program, board="pi4", options=("--strict",))
    assert done.returncode == 1 and "EmuFault" in done.stderr and done.stdout == ""
    # Nothing follows the fault, even where a map is a global name until the interpreter ends.
    kept = program.replace(
        "\nrun(fd, text", "\nkept = mmap.mmap(fd, 4096, offset=offset(fd, create(fd, 4096).handle))\nrun(fd, text"
    )
    done = emulate(tmp_path, kept, board="pi4", options=("--strict",))
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith("  help: ")
    done = emulate(tmp_path, program, board="pi4", env={"QPU_EMU_STRICT": "1"})
    assert done.returncode == 1


def test_vc4_out_of_bounds_always_stops(tmp_path: Path) -> None:
    program = VC4 + 'load(STORE, *ARGS[:3], 0xC0000000)\nm[8000:8008] = struct.pack("2I", bus + 4096, bus)\n'
    program += "prop(0x30011, 1, bus + 8000, 0, 500)\n"
    done = emulate(tmp_path, program, board="pi3")
    assert done.returncode == 1 and "EmuFault: out-of-bounds" in done.stderr


def test_boards_differ(tmp_path: Path) -> None:
    program = "import os\nprint(open('/proc/device-tree/model').read()[:14], os.path.exists('/dev/dri'))\n"
    seen = {emulate(tmp_path, program, board=b, prelude=False).stdout for b in ("pi2", "pi4")}
    assert seen == {"Raspberry Pi 2 False\n", "Raspberry Pi 4 True\n"}


@pytest.mark.parametrize("board", ["pi5", "pi3"])
def test_our_own_drivers_see_hardware_and_say_emulated(tmp_path: Path, board: str) -> None:
    out = ok(
        emulate(
            tmp_path,
            """
            import numpy as np, qpu
            with qpu.open_device("hardware") as gpu:
                assert gpu.emulated
                x = gpu.array(np.arange(100, dtype=np.float32))
                print(gpu.info)
            """,
            board=board,
        )
    )
    assert f"EMULATED ({board})" in out


def test_watching_memory_instead_of_waiting(tmp_path: Path) -> None:
    out = ok(
        emulate(
            tmp_path,
            VC4
            + """
base = 0x3F000000
regs = mmap.mmap(mem, 0x1000, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=base + 0xC00000)
load(STORE, *ARGS)
regs[0x434:0x438] = struct.pack("I", bus + 4096)
regs[0x430:0x434] = struct.pack("I", bus)
import textwrap
import time
end = time.monotonic() + 600
while result() != tuple(range(100, 116)):
    assert time.monotonic() < end
print("seen")
""",
            board="pi3",
        )
    )
    assert out == "seen\n"


def test_fault_of_an_unwatched_job_is_raised_by_the_next_wait(tmp_path: Path) -> None:
    program = (
        "ISA, BATCHES = 'v3d42', 0\n"
        + DISPATCH.replace("wait = ", "import time; time.sleep(0.5)\n    wait = ")
        + """
fd = os.open("/dev/dri/card0", os.O_RDWR)
text = ("nop ; nop ; ldunifrf.rf1\\nor tmud, rf1, rf1 ; nop\\nor tmua, rf1, rf1 ; nop\\ntmuwt - ; nop\\n" + STOP)
from qpu.errors import EmuFault
print(expect(EmuFault, run, fd, text, [0x8000000]).rule)
run(fd, STOP, [])
"""
    )
    assert ok(emulate(tmp_path, program, board="pi4", options=("--strict",))) == "out-of-bounds\n"


@pytest.mark.parametrize("board", ["pi3", "pi4"])
def test_devices_closed_while_the_interpreter_ends(tmp_path: Path, board: str) -> None:
    """Objects that live until the end close their devices after every handler at exit, also out of reference cycles."""
    script = """
    class Device:
        def __init__(self):
            self.fd = os.open("/dev/vcio" if VC4 else "/dev/dri/card0", os.O_RDWR)
            self.again = self
        def __del__(self):
            if VC4:
                fcntl.ioctl(self.fd, 0xC0086400, struct.pack("7I", 28, 0, 0x30012, 4, 4, 0, 0))
            else:
                create(self.fd, 4096)
            os.close(self.fd)
            print("closed", flush=True)
    first, second = Device(), Device()
    del second
    import atexit
    atexit.register(print, "exit")
    """
    done = emulate(tmp_path, f"VC4 = {board == 'pi3'}\n" + textwrap.dedent(script), board=board)
    assert (ok(done), done.stderr) == ("exit\nclosed\nclosed\n", "")
