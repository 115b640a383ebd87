"""Runner of programs under `qpu emulate` in processes of their own, and parts of such programs."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

from tests.limits import HUNG_S

ROOT = Path(__file__).parents[3]
STAND_INS = Path(__file__).parent / "stand_in"

PRELUDE = """
import ctypes, errno, fcntl, mmap, os, struct, sys
class CreateBo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("size", "flags", "handle", "offset")]
def create(fd, size):
    bo = CreateBo(size=size)
    fcntl.ioctl(fd, 0xC0106442, bo)
    return bo
def offset(fd, handle):
    return struct.unpack("IIQ", fcntl.ioctl(fd, 0xC0106443, struct.pack("IIQ", handle, 0, 0)))[2]
def expect(kind, call, *args, **named):
    try:
        call(*args, **named)
    except kind as error:
        return error
    raise AssertionError(f"no {kind}")
"""


def emulate(
    tmp_path: Path,
    script: str,
    *arguments: str,
    board: str = "pi5",
    options: tuple[str, ...] = (),
    env: dict[str, str] | None = None,
    prelude: bool = True,
    timeout: float = HUNG_S,
) -> subprocess.CompletedProcess[str]:
    path = tmp_path / "program.py"
    path.write_text((PRELUDE if prelude else "") + textwrap.dedent(script))
    command = [sys.executable, "-m", "qpu", "emulate", "--board", board, *options, str(path), *arguments]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "QPU_EMU_ENGINE": "reference", **(env or {})},
    )


def ok(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout


DISPATCH = """
import numpy as np
import qpu
def run(fd, text, uniforms, size=4096):
    bo = create(fd, 65536)
    m = mmap.mmap(fd, 65536, offset=offset(fd, bo.handle))
    code = qpu.assemble(text, isa=ISA).data
    m[:len(code)] = code
    words = [w(bo.offset) if callable(w) else w for w in uniforms]
    m[32768:32768 + 4 * len(words)] = struct.pack(f"{len(words)}I", *words)
    handles = (ctypes.c_uint32 * 1)(bo.handle)
    cfg = (16 << 16, 1 << 16, 1 << 16, 16 | 1 << 8, BATCHES, bo.offset, bo.offset + 32768)
    where = ctypes.addressof(handles)
    fcntl.ioctl(fd, 0x40586447, struct.pack("7I4I4xQIIIIQII", *cfg, 0, 0, 0, 0, where, 1, 0, 0, 0, 0, 0, 0))
    wait = bytearray(struct.pack("IIQ", bo.handle, 0, 10**10))
    fcntl.ioctl(fd, 0xC0106441, wait)
    return m
NOP, SWITCH = "nop ; nop\\n", "nop ; nop ; thrsw\\n"
STOP = 2 * SWITCH + 2 * NOP + SWITCH + 3 * NOP
"""

VC4 = """
import qpu
vcio = os.open("/dev/vcio", os.O_RDONLY)
def prop(tag, *values):
    n = len(values)
    words = (ctypes.c_uint32 * (6 + n))(4 * (6 + n), 0, tag, 4 * n, 4 * n, *values, 0)
    fcntl.ioctl(vcio, 0xC0086400 if ctypes.sizeof(ctypes.c_void_p) == 8 else 0xC0046400, words)
    assert words[1] == words[4] & 0x80000000
    return list(words[5:5 + n])
prop(0x30012, 1)
handle = prop(0x3000C, 8192, 4096, 4)[0]
bus = prop(0x3000D, handle)[0]
mem = os.open("/dev/mem", os.O_RDWR | os.O_SYNC)
m = mmap.mmap(mem, 8192, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=bus & 0x3FFFFFFF)
def load(text, *uniforms):
    code = qpu.assemble(text, isa="vc4").data
    m[:len(code)] = code
    m[4096:4096 + 4 * len(uniforms)] = struct.pack(f"{len(uniforms)}I", *uniforms)
STORE = '''
mov vw_setup, unif
mov r0, unif
nop
add vpm, elem_num, r0
mov vw_setup, unif
mov vw_addr, unif
mov -, vw_wait
mov interrupt, 1
nop
thrend
nop
nop
'''
ARGS = (0x1A00, 100, 2 << 30 | 1 << 23 | 16 << 16 | 1 << 14, bus + 6144)
def result():
    return struct.unpack("16I", m[6144:6144 + 64])
"""
