"""Float sums and products as VideoCore IV rounds them, in few host instructions.

It adds toward zero, multiplies to nearest and knows no denormals.

A strategy (`Floats`) says what the host does for each of them:

* embedded: the host rounds each instruction in its own mode (AVX-512), and denormal operands count as zero;
* directed: the host's mode is toward zero, denormals count as zero and become zero, so a sum is one instruction.
  A product p = a * b is truncated there. Its error e = a * b - p is exact (FMA); p + c * e, truncated again, is the
  product to nearest even, where c is 2 when the last bit of p is set and just below 2 otherwise. Where e is too small
  or the product too large for that, the host's flags say so (`FloatMode.exceeded`);
* exact: the semantic functions of the operations, instruction by instruction.

Both fast strategies return what the semantic function does up to the sign of a zero and denormals, which `plain`
removes. Exceptions: an operand or a result is a NaN; for directed products also an infinity, or a result for which
`FloatMode.exceeded` is set. Such results must be discarded.
"""

from __future__ import annotations

import enum

from llvmlite import ir

from qpu.emu.engine.host_cpu import Host
from qpu.emu.engine.llvm_lanes import F32X16, I1X16, I32, I32X16, LANES, ROUND_TO_ZERO, LlvmLanes
from qpu.emu.engine.shared_lanes import TextFunction, declare

__all__ = ["Floats", "Sums", "fastest"]

_CONSTRAINED = "llvm.experimental.constrained."


class Floats(enum.Enum):
    """How floats are computed."""

    EXACT = "exact"
    EMBEDDED = "embedded"
    DIRECTED = "directed"


def fastest(host: Host) -> Floats:
    """The best strategy of a host."""
    return Floats.EMBEDDED if host.avx512 else Floats.DIRECTED if host.fma else Floats.EXACT


class Sums:
    """Emits sums and products of <16 x float> values in a fast strategy."""

    def __init__(self, lanes: LlvmLanes, floats: Floats) -> None:
        self._lanes = lanes
        self._strict = floats is Floats.DIRECTED
        self._zero = ir.Constant(F32X16, [0.0] * LANES)
        if self._strict:
            module, two, notes = lanes.b.module, [F32X16] * 2, [ir.MetaDataType()] * 2
            kinds = {"from_int": (F32X16, [I32X16]), "unordered": (I1X16, two)}
            self._functions = {
                name: TextFunction(module, ir.FunctionType(*kinds.get(name, (F32X16, two))), name, text)
                for name, text in _texts().items()
            }
            for name, (result, operands) in {
                **dict.fromkeys(("fadd.v16f32", "fsub.v16f32", "fmul.v16f32"), (F32X16, two)),
                "fma.v16f32": (F32X16, [F32X16] * 3),
                "sitofp.v16f32.v16i32": (F32X16, [I32X16]),
                "fcmp.v16f32": (I1X16, two),
            }.items():
                declare(module, _CONSTRAINED + name, result, [*operands, *notes])

    def _call(self, name: str, *operands: ir.Value) -> ir.Value:
        return self._lanes.b.call(self._functions[name], operands)

    def _embedded(self, name: str, x: ir.Value, y: ir.Value) -> ir.Value:
        return self._lanes.intrinsic(f"llvm.x86.avx512.{name}.ps.512", F32X16, [x, y, I32(ROUND_TO_ZERO)])

    def add(self, x: ir.Value, y: ir.Value) -> ir.Value:
        """x + y."""
        return self._call("sum", x, y) if self._strict else self._embedded("add", x, y)

    def sub(self, x: ir.Value, y: ir.Value) -> ir.Value:
        """x - y."""
        return self._call("difference", x, y) if self._strict else self._embedded("sub", x, y)

    def mul(self, x: ir.Value, y: ir.Value) -> ir.Value:
        """x * y."""
        return self._call("product", x, y) if self._strict else self._lanes.b.fmul(x, y)

    def plain(self, x: ir.Value) -> ir.Value:
        """Denormals and -0 become +0."""
        return self.add(x, self._zero)

    def from_int(self, x: ir.Value) -> ir.Value:
        """Signed integers as bits of floats, toward zero (directed only)."""
        return self._lanes.b.bitcast(self._call("from_int", x), I32X16)

    def unordered(self, x: ir.Value, y: ir.Value) -> ir.Value:
        """Where x or y is a NaN."""
        return self._call("unordered", x, y) if self._strict else self._lanes.b.fcmp_unordered("uno", x, y)


def _texts() -> dict[str, str]:
    f, i, mask = str(F32X16), str(I32X16), str(I1X16)
    ones, below_two = (ir.Constant(I32X16, [n] * LANES).get_reference() for n in (1, 0x3FFFFFFF))
    # LLVM moves no strict operation across this empty statement; without it, LLVM would compute all products of a long
    # chain first, and spill them.
    fence = 'call void asm sideeffect "", ""()'
    two, rounding, traps = f"{f} %a, {f} %b", 'metadata !"round.dynamic"', 'metadata !"fpexcept.maytrap"'

    def define(name: str, result: str, operands: str, *lines: str, inline: str = "alwaysinline ") -> str:
        body = "".join(f"  {line}\n" for line in lines)
        return f"define internal {result} @{name}({operands}) {inline}strictfp {{\n{body}  ret {result} %r\n}}\n"

    def strict(target: str, name: str, operands: str, note: str = rounding, result: str = f) -> str:
        return f"%{target} = call {result} @{_CONSTRAINED}{name}({operands}, {note}, {traps}) strictfp"

    return {
        "sum": define("sum", f, two, strict("r", "fadd.v16f32", two), fence),
        "difference": define("difference", f, two, strict("r", "fsub.v16f32", two), fence),
        "product": define(
            "product", f, two,
            strict("p", "fmul.v16f32", two),
            f"%n = fneg {f} %p",
            strict("e", "fma.v16f32", f"{two}, {f} %n"),
            f"%bits = bitcast {f} %p to {i}",
            f"%odd = and {i} %bits, {ones}",
            f"%factor = add {i} %odd, {below_two}",
            f"%c = bitcast {i} %factor to {f}",
            strict("r", "fma.v16f32", f"{f} %c, {f} %e, {f} %p"),
            inline="",  # only by the full level: long chains of products take LLVM a quarter longer inlined
        ),
        "from_int": define("from_int", f, f"{i} %a", strict("r", "sitofp.v16f32.v16i32", f"{i} %a")),
        "unordered": define(
            "unordered", mask, two, strict("r", "fcmp.v16f32", two, 'metadata !"uno"', mask)
        ),
    }  # fmt: skip
