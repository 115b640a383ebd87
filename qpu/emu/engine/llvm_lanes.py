"""The LLVM implementation of `LaneOps`: vectors are <16 x i32> values, masks <16 x i1>.

Fast-math flags are never set, so nothing is contracted or reassociated. Additions toward zero use the AVX-512
rounding operand where the host has it, else an exact correction of the nearest sum. On hosts without instructions for
half floats and rounding (x86-64 before AVX), code uses integer arithmetic and additions for both, never library calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from llvmlite import ir
from llvmlite.ir import _utils

from qpu.emu.engine import sfu
from qpu.emu.engine.host_cpu import host, is_arm, is_x86

__all__ = [
    "F32X16",
    "I1X16",
    "I32X16",
    "I64X16",
    "NORMAL_MXCSR",
    "FloatMode",
    "LlvmLanes",
    "long",
    "number_of",
    "quick_names",
    "splat",
]

LANES = 16
I1, I8, I16, I32, I64 = (ir.IntType(n) for n in (1, 8, 16, 32, 64))
I1X16 = ir.VectorType(I1, LANES)
I16X16 = ir.VectorType(I16, LANES)
I32X16 = ir.VectorType(I32, LANES)
I64X16 = ir.VectorType(I64, LANES)
F16X16 = ir.VectorType(ir.HalfType(), LANES)
F32X16 = ir.VectorType(ir.FloatType(), LANES)
F64X16 = ir.VectorType(ir.DoubleType(), LANES)
ROUND_TO_ZERO = 3 | 8  # _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC


class LlvmLanes:
    """An emitter of lane operations through `builder` (an llvmlite IRBuilder).

    avx512: each instruction can have its own rounding mode. plain: see `qpu.emu.engine.host_cpu.Host`; None: as on this
    host.
    """

    def __init__(self, builder: ir.IRBuilder, *, avx512: bool = False, plain: bool | None = None) -> None:
        self.b = builder
        self.avx512 = avx512
        self.plain = host().plain if plain is None else plain
        self.doubles = _LlvmDoubles(self)
        self._floats: dict[ir.Value, ir.Value] = {}  # vectors as floats, in the block under construction
        self._block: ir.Block | None = None
        # Operations that are one instruction
        b: Any = builder
        self.add, self.sub, self.mul = b.add, b.sub, b.mul
        self.and_, self.or_, self.xor, self.not_ = b.and_, b.or_, b.xor, b.not_
        self.shl, self.shr, self.asr = b.shl, b.lshr, b.ashr
        self.select, self.mand, self.mor, self.mnot = b.select, b.and_, b.or_, b.not_

    # -- helpers

    def intrinsic(self, name: str, result: ir.Type, arguments: Sequence[ir.Value]) -> ir.Value:
        """Call the intrinsic `name`; declare it at its first use."""
        module = self.b.module
        function = module.globals.get(name)
        if function is None:
            function = ir.Function(module, ir.FunctionType(result, [a.type for a in arguments]), name)
        return self.b.call(function, arguments)

    def _f(self, a: ir.Value) -> ir.Value:
        if isinstance(a, ir.CastInstr) and a.opname == "bitcast" and a.operands[0].type == F32X16:
            return a.operands[0]
        if self._block is not self.b.block:
            self._block = self.b.block
            self._floats.clear()
        found = self._floats.get(a)
        if found is None:
            found = self._floats[a] = self.b.bitcast(a, F32X16)
        return found

    def _i(self, a: ir.Value) -> ir.Value:
        return self.b.bitcast(a, I32X16)

    def _unary(self, name: str, a: ir.Value) -> ir.Value:
        return self._i(self.intrinsic(f"llvm.{name}.v16f32", F32X16, [self._f(a)]))

    # -- constants and lanes

    def const(self, value: int) -> ir.Value:
        return _word(value & 0xFFFFFFFF)

    def lane_id(self) -> ir.Value:
        return ir.Constant(I32X16, list(range(LANES)))

    def permute(self, a: ir.Value, index: ir.Value) -> ir.Value:
        if isinstance(index, ir.Constant) and isinstance(index.constant, (list, tuple)):
            return self.b.shuffle_vector(a, a, ir.Constant(I32X16, [number_of(n) & 15 for n in index.constant]))
        at = self.b.and_(index, self.const(15))
        if self.avx512:
            return self.intrinsic("llvm.x86.avx512.permvar.si.512", I32X16, [a, at])
        result: ir.Value = ir.Constant(I32X16, ir.Undefined)
        for lane in range(LANES):
            where = self.b.extract_element(at, I32(lane))
            result = self.b.insert_element(result, self.b.extract_element(a, where), I32(lane))
        return result

    def mover(self, order: Sequence[int]) -> Callable[[ir.Value], ir.Value]:
        index = ir.Constant(I32X16, list(order))
        return lambda a: self.b.shuffle_vector(a, a, index)

    # -- integers

    def umulh(self, a: ir.Value, b: ir.Value) -> ir.Value:
        wide = self.b.mul(self.b.zext(a, I64X16), self.b.zext(b, I64X16))
        return self.b.trunc(self.b.lshr(wide, ir.Constant(I64X16, [32] * LANES)), I32X16)

    def clz(self, a: ir.Value) -> ir.Value:
        return self.intrinsic("llvm.ctlz.v16i32", I32X16, [a, I1(0)])

    def udiv(self, a: ir.Value, n: int) -> ir.Value:
        return self.b.udiv(a, self.const(n))

    # -- comparisons and masks

    def eq(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self.b.icmp_unsigned("==", a, b)

    def ult(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self.b.icmp_unsigned("<", a, b)

    def slt(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self.b.icmp_signed("<", a, b)

    def feq(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self.b.fcmp_ordered("==", self._f(a), self._f(b))

    def flt(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self.b.fcmp_ordered("<", self._f(a), self._f(b))

    def fle(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self.b.fcmp_ordered("<=", self._f(a), self._f(b))

    def mconst(self, value: bool) -> ir.Value:
        return ir.Constant(I1X16, [int(value)] * LANES)

    def first(self, m: ir.Value) -> ir.Value:
        lanes = self.b.or_(self.b.zext(self.b.bitcast(m, I16), I32), I32(1 << LANES))
        return splat(self.b, self.intrinsic("llvm.cttz.i32", I32, [lanes, I1(1)]))

    # -- binary32

    def fadd(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self._i(self.b.fadd(self._f(a), self._f(b)))

    def fsub(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self._i(self.b.fsub(self._f(a), self._f(b)))

    def fmul(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self._i(self.b.fmul(self._f(a), self._f(b)))

    def fadd_rz(self, a: ir.Value, b: ir.Value) -> ir.Value:
        x, y = self._f(a), self._f(b)
        if self.avx512:
            return self._i(self.intrinsic("llvm.x86.avx512.add.ps.512", F32X16, [x, y, I32(ROUND_TO_ZERO)]))
        # Fast2Sum gives the exact error of the nearest sum; a sum larger in magnitude than the exact one is corrected
        # by one step toward zero. Unlike in TwoSum, no intermediate result overflows unless the sum does.
        swap = self.ult(self.and_(a, self.const(0x7FFFFFFF)), self.and_(b, self.const(0x7FFFFFFF)))
        large, small = self.b.select(swap, y, x), self.b.select(swap, x, y)
        total = self.b.fadd(x, y)
        error = self.b.fsub(small, self.b.fsub(total, large))
        bits, error_bits = self._i(total), self._i(error)
        zero, infinity, magnitude = self.const(0), self.const(0x7F800000), self.const(0x7FFFFFFF)
        opposite = self.slt(self.xor(bits, error_bits), zero)
        wrong = self.b.and_(opposite, self.b.fcmp_ordered("!=", error, ir.Constant(F32X16, [0.0] * LANES)))
        finite = self.b.and_(self.ult(self.and_(a, magnitude), infinity), self.ult(self.and_(b, magnitude), infinity))
        overflow = self.b.and_(self.eq(self.and_(bits, magnitude), infinity), finite)
        wrong = self.b.select(overflow, overflow, self.b.and_(wrong, self.ult(self.and_(bits, magnitude), infinity)))
        return self.select(wrong, self.sub(bits, self.const(1)), bits)

    def ffloor(self, a: ir.Value) -> ir.Value:
        if not self.plain:
            return self._unary("floor", a)
        whole = self._f(self.ftrunc(a))
        above = self.b.fcmp_ordered(">", whole, self._f(a))
        return self._i(self.b.select(above, self.b.fsub(whole, _singles(1.0)), whole))

    def fceil(self, a: ir.Value) -> ir.Value:
        if not self.plain:
            return self._unary("ceil", a)
        whole = self._f(self.ftrunc(a))
        below = self.b.fcmp_ordered("<", whole, self._f(a))
        return self._i(self.b.select(below, self.b.fadd(whole, _singles(1.0)), whole))

    def ftrunc(self, a: ir.Value) -> ir.Value:
        if not self.plain:
            return self._unary("trunc", a)
        return self._small(a, self._i(self.b.sitofp(self.ftoi(a), F32X16)))

    def fround(self, a: ir.Value) -> ir.Value:
        if not self.plain:
            return self._unary("roundeven", a)
        big = _singles(2.0**23)
        magnitude = self._f(self.and_(a, self.const(0x7FFFFFFF)))
        return self._small(a, self._i(self.b.fsub(self.b.fadd(magnitude, big), big)))

    def _small(self, a: ir.Value, whole: ir.Value) -> ir.Value:
        """`whole` with the sign of `a` where `a` can have a fraction; elsewhere `a`."""
        magnitude = self.and_(a, self.const(0x7FFFFFFF))
        signed = self.or_(self.and_(whole, self.const(0x7FFFFFFF)), self.and_(a, self.const(0x80000000)))
        return self.select(self.ult(magnitude, self.const(0x4B000000)), signed, a)

    # -- conversions

    def itof(self, a: ir.Value) -> ir.Value:
        return self._i(self.b.sitofp(a, F32X16))

    def utof(self, a: ir.Value) -> ir.Value:
        return self._i(self.b.uitofp(a, F32X16))

    def itof_rz(self, a: ir.Value) -> ir.Value:
        exact = self.b.sitofp(a, F64X16)
        near = self.b.fptrunc(exact, F32X16)
        back = self.b.fpext(near, F64X16)
        beyond = self.b.fcmp_ordered(">", self.doubles.magnitude(back), self.doubles.magnitude(exact))
        bits = self._i(near)
        return self.select(beyond, self.sub(bits, self.const(1)), bits)

    def ftoi(self, a: ir.Value) -> ir.Value:
        return self.intrinsic("llvm.fptosi.sat.v16i32.v16f32", I32X16, [self._f(a)])

    def ftou(self, a: ir.Value) -> ir.Value:
        return self.intrinsic("llvm.fptoui.sat.v16i32.v16f32", I32X16, [self._f(a)])

    def h2f(self, a: ir.Value) -> ir.Value:
        if not self.plain:
            half = self.b.bitcast(self.b.trunc(a, I16X16), F16X16)
            return self._i(self.b.fpext(half, F32X16))
        digits = self.shl(self.and_(a, self.const(0x7FFF)), self.const(13))
        scaled = self._i(self.b.fmul(self._f(digits), _singles(2.0**112)))
        special = self.or_(digits, self.const(0x7F800000))
        finite = self.ult(digits, self.const(0x0F800000))
        return self.or_(
            self.select(finite, scaled, special), self.shl(self.and_(a, self.const(0x8000)), self.const(16))
        )

    def f2h(self, a: ir.Value) -> ir.Value:
        if not self.plain:
            half = self.b.fptrunc(self._f(a), F16X16)
            return self.b.zext(self.b.bitcast(half, I16X16), I32X16)
        c = self.const
        magnitude = self.and_(a, c(0x7FFFFFFF))
        odd = self.and_(self.shr(magnitude, c(13)), c(1))
        normal = self.shr(self.sub(self.add(magnitude, self.add(odd, c(0xFFF))), c(112 << 23)), c(13))
        # Adding 0.5 shifts a denormal half so that its last digit is the last one of the sum.
        denormal = self.sub(self._i(self.b.fadd(self._f(magnitude), _singles(0.5))), c(0x3F000000))
        nan = self.or_(c(0x7E00), self.and_(self.shr(magnitude, c(13)), c(0x1FF)))
        result = self.select(self.ult(magnitude, c(0x38800000)), denormal, normal)
        result = self.select(self.ult(magnitude, c(0x47800000)), result, c(0x7C00))
        result = self.select(self.ult(c(0x7F800000), magnitude), nan, result)
        return self.or_(result, self.and_(self.shr(a, c(16)), c(0x8000)))

    # -- special functions

    def _sfu(self, function: Any, a: ir.Value) -> ir.Value:
        x = _Double(self.b, self.b.fpext(self._f(a), F64X16))
        return self._i(self.b.fptrunc(function(self.doubles, x).value, F32X16))

    def recip(self, a: ir.Value) -> ir.Value:
        return self._sfu(sfu.recip, a)

    def rsqrt(self, a: ir.Value) -> ir.Value:
        return self._sfu(sfu.rsqrt, a)

    def exp2(self, a: ir.Value) -> ir.Value:
        return self._sfu(sfu.exp2, a)

    def log2(self, a: ir.Value) -> ir.Value:
        return self._sfu(sfu.log2, a)

    def sinpi(self, a: ir.Value) -> ir.Value:
        return self._sfu(sfu.sinpi, a)


class _Names(_utils.NameScope):  # type: ignore[misc]  # llvmlite has no types
    """Names in a function. Values without a name get numbers, in fewer steps than llvmlite takes."""

    def __init__(self) -> None:
        super().__init__()
        self._count = 0

    def register(self, name: str, deduplicate: bool = False) -> str:
        if name:
            named: str = super().register(name, deduplicate)
            return named
        self._count += 1
        return f"${self._count}"


def quick_names(function: ir.Function) -> None:
    """Name the values of a new function, which has no blocks yet, in few steps."""
    function.scope = _Names()


@cache
def long(value: int) -> ir.Constant:
    """A 64-bit number."""
    return I64(value)


def splat(b: ir.IRBuilder, scalar: ir.Value) -> ir.Value:
    """A 32- or 64-bit number in all lanes."""
    undefined = _NOTHING[scalar.type.width]
    return b.shuffle_vector(b.insert_element(undefined, scalar, _ZERO), undefined, _ZEROS)


@cache
def _word(value: int) -> ir.Constant:
    """A 32-bit number in all lanes."""
    return ir.Constant(I32X16, [value] * LANES)


_ZERO = I32(0)
_ZEROS = _word(0)
_NOTHING = {32: ir.Constant(I32X16, ir.Undefined), 64: ir.Constant(I64X16, ir.Undefined)}


def number_of(n: Any) -> int:
    """A lane of a constant."""
    return int(n.constant if isinstance(n, ir.Constant) else n)


def _singles(value: float) -> ir.Constant:
    return ir.Constant(F32X16, [value] * LANES)


def _splat(value: float) -> ir.Constant:
    return ir.Constant(F64X16, [float(value)] * LANES)


class _Double:
    """A <16 x double> with arithmetic operators, so that both engines can use the functions of `qpu.emu.engine.sfu`."""

    __slots__ = ("b", "value")

    def __init__(self, builder: ir.IRBuilder, value: ir.Value) -> None:
        self.b = builder
        self.value = value

    def _of(self, other: Any) -> ir.Value:
        return other.value if isinstance(other, _Double) else _splat(other)

    def __add__(self, other: Any) -> _Double:
        return _Double(self.b, self.b.fadd(self.value, self._of(other)))

    def __sub__(self, other: Any) -> _Double:
        return _Double(self.b, self.b.fsub(self.value, self._of(other)))

    def __mul__(self, other: Any) -> _Double:
        return _Double(self.b, self.b.fmul(self.value, self._of(other)))

    def __truediv__(self, other: Any) -> _Double:
        return _Double(self.b, self.b.fdiv(self.value, self._of(other)))

    __radd__ = __add__
    __rmul__ = __mul__

    def __rsub__(self, other: Any) -> _Double:
        return _Double(self.b, self.b.fsub(self._of(other), self.value))

    def __rtruediv__(self, other: Any) -> _Double:
        return _Double(self.b, self.b.fdiv(self._of(other), self.value))


class _LlvmDoubles:
    """`qpu.emu.engine.sfu.Doubles` over `_Double`; masks are <16 x i1> values."""

    def __init__(self, lanes: LlvmLanes) -> None:
        self.lanes = lanes

    def _call(self, name: str, x: _Double) -> _Double:
        value = self.lanes.intrinsic(f"llvm.{name}.v16f64", F64X16, [x.value])
        return _Double(self.lanes.b, value)

    def magnitude(self, x: ir.Value) -> ir.Value:
        """|x| of a plain <16 x double>."""
        return self.lanes.intrinsic("llvm.fabs.v16f64", F64X16, [x])

    def rint(self, x: _Double) -> _Double:
        if not self.lanes.plain:
            return self._call("roundeven", x)
        # Adding and subtracting 1.5 * 2**52 rounds to an integer; larger values are integers.
        b, big = self.lanes.b, _splat(1.5 * 2.0**52)
        whole = b.fsub(b.fadd(x.value, big), big)
        whole = self.lanes.intrinsic("llvm.copysign.v16f64", F64X16, [whole, x.value])
        small = b.fcmp_ordered("<", self.magnitude(x.value), _splat(2.0**51))
        return _Double(b, b.select(small, whole, x.value))

    def sqrt(self, x: _Double) -> _Double:
        return self._call("sqrt", x)

    def absolute(self, x: _Double) -> _Double:
        return self._call("fabs", x)

    def less(self, x: _Double, y: float) -> ir.Value:
        return self.lanes.b.fcmp_ordered("<", x.value, _splat(y))

    def equal(self, x: _Double, y: float) -> ir.Value:
        return self.lanes.b.fcmp_ordered("==", x.value, _splat(y))

    def where(self, m: ir.Value, x: Any, y: Any) -> _Double:
        one, two = (v.value if isinstance(v, _Double) else _splat(v) for v in (x, y))
        return _Double(self.lanes.b, self.lanes.b.select(m, one, two))

    def pow2(self, n: _Double) -> _Double:
        b = self.lanes.b
        exponent = b.add(b.fptosi(n.value, I64X16), ir.Constant(I64X16, [1023] * LANES))
        return _Double(b, b.bitcast(b.shl(exponent, ir.Constant(I64X16, [52] * LANES)), F64X16))

    def split(self, x: _Double) -> tuple[_Double, _Double]:
        b = self.lanes.b

        def splat(value: int) -> ir.Constant:
            return ir.Constant(I64X16, [value] * LANES)

        bits = b.bitcast(x.value, I64X16)
        mantissa = b.or_(b.and_(bits, splat(0xFFFFFFFFFFFFF)), splat(0x3FF0000000000000))
        exponent = b.sub(b.and_(b.lshr(bits, splat(52)), splat(0x7FF)), splat(1023))
        return _Double(b, b.bitcast(mantissa, F64X16)), _Double(b, b.sitofp(exponent, F64X16))


class FloatMode:
    """The host's floating-point mode while translated code runs: round to nearest, denormals kept, no traps.

    A function sets the mode at its start and restores the old mode at its end. On hosts other than x86-64 and 64-bit
    Arm the mode is not changed. zero_denormals: denormal operands count as zero (x86-64 only). directed: the directed
    mode rounds toward zero, denormal operands count as zero, and denormal results become zero; its flags start clear.
    """

    def __init__(self, lanes: LlvmLanes, *, zero_denormals: bool = False, directed: bool = False) -> None:
        self._lanes = lanes
        b = lanes.b
        if is_x86():
            self._before = b.alloca(I32, size=2)
            self._control("llvm.x86.sse.stmxcsr", self._before)
            ours = self._ours = b.gep(self._before, [I64(4)], source_etype=I8)
            more = _TOWARD_ZERO | _FLUSH | _DENORMALS if directed else _DENORMALS if zero_denormals else 0
            b.store(I32(NORMAL_MXCSR | more), ours)
            self._control("llvm.x86.sse.ldmxcsr", ours)
        elif is_arm():
            self._before = lanes.intrinsic("llvm.aarch64.get.fpcr", I64, [])
            self._control("llvm.aarch64.set.fpcr", I64(_ARM_DIRECTED if directed else 0))
            self._control("llvm.aarch64.set.fpsr", I64(0))

    def _control(self, name: str, argument: ir.Value) -> None:
        self._lanes.intrinsic(name, ir.VoidType(), [argument])

    def exceeded(self) -> ir.Value:
        """Whether a result was too large or too small since the start of the function, as i1."""
        b = self._lanes.b
        if is_x86():
            self._control("llvm.x86.sse.stmxcsr", self._ours)
            return b.icmp_unsigned("!=", b.and_(b.load(self._ours, typ=I32), I32(_EXCEEDED)), I32(0))
        flags = self._lanes.intrinsic("llvm.aarch64.get.fpsr", I64, [])
        return b.icmp_unsigned("!=", b.and_(flags, I64(_ARM_EXCEEDED)), I64(0))

    def restore(self) -> None:
        """Emit the code that restores the old mode."""
        if is_x86():
            self._control("llvm.x86.sse.ldmxcsr", self._before)
        elif is_arm():
            self._control("llvm.aarch64.set.fpcr", self._before)


NORMAL_MXCSR = 0x1F80  # nothing trapped, no flag set
_DENORMALS, _TOWARD_ZERO, _FLUSH = 0x40, 0x6000, 0x8000  # of MXCSR
_EXCEEDED = 0x18  # its flags for overflow and underflow
_ARM_DIRECTED = 1 << 24 | 3 << 22  # FPCR: FZ, RMode toward zero
_ARM_EXCEEDED = 1 << 2 | 1 << 3  # FPSR: OFC, UFC
