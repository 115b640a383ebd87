"""Benchmark of the toolkit: rates of assembly, encoding, decoding, printing and checking, and times of imports.

Figures are instructions per second. Programs: 20,000 dual-issue instructions with registers and operations drawn at
random, and the sgemm kernel. The builder records source locations; it runs without and with the hazard checker.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import _common

from qpu.core.isa import Isa
from qpu.instruction_sets import InstructionSet, isa
from qpu.kernels import sgemm_v3d, sgemm_vc4

COUNT = 20_000


def v3d_random(seven: bool) -> Callable[[Any], None]:
    """A builder function with COUNT dual-issue instructions for V3D."""
    draw = random.Random(1)
    adds = ["fadd", "fsub", "add", "sub", "and_", "or_", "xor", "shl", "min", "umax"]
    muls = ["fmul", "umul24", "smul24"]
    rows = []
    for _ in range(COUNT):
        if seven:
            regs = [draw.randrange(4, 60) for _ in range(6)]
        else:
            a, b = draw.randrange(4, 60), draw.randrange(4, 60)
            regs = [draw.randrange(4, 60), a, b, draw.randrange(4, 60), a, b]
        rows.append((draw.choice(adds), draw.choice(muls), *regs))

    def build(q: Any) -> None:
        rf = q.rf
        methods = {n: getattr(q, n if hasattr(q, n) else n.rstrip("_")) for n in adds}
        for add, mul, d, a, b, e, f, g in rows:
            getattr(methods[add](rf[d], rf[a], rf[b]), mul)(rf[e], rf[f], rf[g])
        q.nop(sig=q.thrsw)
        q.nop(sig=q.thrsw)
        q.nop()
        q.nop()
        q.nop(sig=q.thrsw)
        q.nop()
        q.nop()

    return build


def vc4_random(q: Any) -> None:
    """COUNT dual-issue instructions for VideoCore IV."""
    draw = random.Random(1)
    ra, rb = q.ra, q.rb
    acc = (q.r0, q.r1, q.r2, q.r3)
    for method, mul, d, a, b in _vc4_rows(draw):
        getattr(getattr(q, method)(ra[d], ra[a], acc[b & 3]), mul)(rb[d], rb[b], acc[a & 3])


_ROWS: list[tuple[str, str, int, int, int]] = []


def _vc4_rows(draw: random.Random) -> list[tuple[str, str, int, int, int]]:
    if not _ROWS:
        adds = ["fadd", "fsub", "add", "sub", "shl", "min", "max", "xor"]
        for i in range(COUNT):  # registers that are written are never read, so that the checker finds nothing
            a, b = draw.randrange(13, 32), draw.randrange(13, 32)
            _ROWS.append((draw.choice(adds), draw.choice(["fmul", "mul24", "v8min"]), i % 13, a, b))
    return _ROWS


def figures(
    report: _common.Report, tool: InstructionSet, name: str, source: Any, runs: int, args: tuple[Any, ...]
) -> None:
    """Every figure of one program."""
    program = tool.assemble(source, args=args, check=False)
    n = len(program)
    words = program.code
    report.add("distinct words", [len(set(words))], "words", isa=str(tool.isa), program=name, n=n)
    instrs = [tool.decode(w) for w in words]
    texts = [tool.disassemble(w) for w in words]
    text = "\n".join(texts)

    def rate(what: str, work: Callable[[], object]) -> None:
        about = {"isa": str(tool.isa), "program": name, "n": n}
        walls, cpus = zip(*_common.both(work, runs), strict=True)
        report.add(what, [n / t for t in walls], "instr/s", **about)
        report.add(what, [n / t for t in cpus], "instr/CPU s", **about)

    rate("builder", lambda: tool.assemble(source, args=args, check=False))
    rate("builder+check", lambda: tool.assemble(source, args=args, check=True))
    rate("text assembler", lambda: tool.assemble(text, check=False))
    rate("encoder", lambda: [tool.encode(i) for i in instrs])
    rate("decoder", lambda: [tool.decode(w) for w in words])
    rate("printer", lambda: [tool.disassemble(w) for w in words])
    rate("checker", lambda: tool.check(words))


def imports(report: _common.Report, runs: int) -> None:
    """Milliseconds of an import beyond the start of a bare interpreter, in new processes."""
    bare: list[float] = []
    cases = {
        "import qpu": "import qpu",
        "import qpu.v3d.asm": "import qpu.v3d.asm",
        "import qpu.vc4.asm": "import qpu.vc4.asm",
    }
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(max(5, runs) + 1):
        for name, code in {"": "pass", **cases}.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            (times[name] if name else bare).append(time.perf_counter() - start)
    base = sorted(bare[1:])[len(bare) // 2]
    for name, values in times.items():
        report.add(name, [(v - base) * 1e3 for v in values[1:]], "ms")


def main() -> None:
    """Run the benchmark."""
    options = _common.parser(__doc__).parse_args()
    report = _common.Report(options.json)
    figures(report, isa(Isa.VC4), "random", vc4_random, options.runs, ())
    figures(report, isa(Isa.VC4), "sgemm", sgemm_vc4.kernel, options.runs, (sgemm_vc4.UNIFORM, True, True, True))
    for which, seven in ((Isa.V3D42, False), (Isa.V3D71, True)):
        figures(report, isa(which), "random", v3d_random(seven), options.runs, ())
        figures(report, isa(which), "sgemm", sgemm_v3d.kernel, options.runs, (sgemm_v3d.UNIFORM, True, True))
    imports(report, options.runs)


if __name__ == "__main__":
    _common.main(main)
