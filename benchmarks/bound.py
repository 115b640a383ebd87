"""Bound for the figures of the emulator: one plain compiled loop, measured in the same run.

The loop does what an emulated QPU does for the multiply-and-add of matrix multiplication and nothing else: 16-lane
float32 additions and multiplications whose operands and results are in memory. Accesses are volatile, so that LLVM
keeps them there. The vector width is that of the host, or a smaller one by QPU_EMU_VECTORS.
"""

from __future__ import annotations

import ctypes
import time

import numpy as np

__all__ = ["pair_ns"]

PAIRS = 64  # additions and multiplications in a round of the loop
REGISTERS = 64
TURNS = 20_000


def _source() -> str:
    """The loop as LLVM IR: `void loop(float* registers, i64 turns)`."""
    lines = [
        "define void @loop(<16 x float>* %r, i64 %turns) {",
        "entry:",
        "  br label %body",
        "body:",
        "  %i = phi i64 [ 0, %entry ], [ %next, %body ]",
    ]
    for n in range(PAIRS):
        for k, (name, op) in enumerate((("s", "fadd"), ("p", "fmul"))):
            a, b, d = (7 * n + k) % 24, 24 + (5 * n + k) % 16, 40 + (n + 12 * k) % 24
            for tag, register in (("a", a), ("b", b), ("d", d)):
                where = f"%{name}{tag}{n}"
                lines.append(f"  {where} = getelementptr <16 x float>, <16 x float>* %r, i64 {register}")
                if tag != "d":
                    lines.append(f"  %{name}{tag}v{n} = load volatile <16 x float>, <16 x float>* {where}, align 64")
            lines.append(f"  %{name}{n} = {op} <16 x float> %{name}av{n}, %{name}bv{n}")
            lines.append(f"  store volatile <16 x float> %{name}{n}, <16 x float>* %{name}d{n}, align 64")
    lines += [
        "  %next = add i64 %i, 1",
        "  %more = icmp ult i64 %next, %turns",
        "  br i1 %more, label %body, label %done",
        "done:",
        "  ret void",
        "}",
    ]
    return "\n".join(lines)


def pair_ns(runs: int) -> list[float]:
    """CPU nanoseconds of one 16-lane addition and one multiplication, `runs` times. Empty without llvmlite."""
    try:
        import llvmlite.binding as llvm
    except ImportError:
        return []
    from qpu.emu.engine.host_cpu import host

    here = host()
    machine = llvm.Target.from_default_triple().create_target_machine(cpu=here.cpu, features=here.features, opt=2)
    module = llvm.parse_assembly(_source().replace("<16 x float>*", "ptr"))
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    loop = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(engine.get_function_address("loop"))
    room = np.zeros(REGISTERS * 16 + 16, np.float32)
    start = -room.ctypes.data % 64 // 4
    registers = room[start : start + REGISTERS * 16]
    registers[:] = np.linspace(0.5, 1.5, registers.size, dtype=np.float32)
    loop(registers.ctypes.data, TURNS // 10)
    times = []
    for _ in range(runs):
        begun = time.process_time()
        loop(registers.ctypes.data, TURNS)
        times.append((time.process_time() - begun) / (TURNS * PAIRS) * 1e9)
    return times
