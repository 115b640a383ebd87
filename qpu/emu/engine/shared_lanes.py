"""Functions of a translated module for lane operations that are long, or that need another float mode than the code
around them.

Code in the directed mode of `FloatMode` calls everything that rounds through a gate, which sets the normal mode before
and restores mode and exception flags after it. The work behind a gate is a function of its own that nothing may
inline or move: LLVM keeps calls in order with changes of the mode, but may move inline arithmetic across them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir

from qpu.emu.engine.host_cpu import is_x86
from qpu.emu.engine.llvm_lanes import I32X16, NORMAL_MXCSR, LlvmLanes

__all__ = ["SharedLanes", "TextFunction", "shared"]

Emit = Callable[..., Any]  # (lanes, *arguments) -> result

_LONG = ("recip", "rsqrt", "exp2", "log2")
_LONG_WITHOUT_AVX512 = ("fadd_rz", "itof_rz", "permute")
_ROUNDING = ("fadd", "fsub", "fmul", "fadd_rz", "itof_rz", *_LONG)


class TextFunction(ir.Function):  # type: ignore[misc]  # llvmlite has no types
    """A function whose IR is given as text: llvmlite's builder has no strict float operations."""

    def __init__(self, module: ir.Module, kind: ir.FunctionType, name: str, text: str) -> None:
        super().__init__(module, kind, name)
        self._text = text

    def __str__(self) -> str:
        return self._text


def shared(module: ir.Module, name: str, count: int, emit: Emit, *, avx512: bool, gate: bool = False) -> ir.Function:
    """The function `name` of `count` vectors that `emit` writes, made at the first call. gate: to be called from code
    in the directed mode."""
    wanted = f"gate_{name}" if gate else name
    found = module.globals.get(wanted)
    if found is not None:
        return found
    work = ir.Function(module, ir.FunctionType(I32X16, [I32X16] * count), name)
    work.linkage = "internal"
    work.attributes.add("noinline")
    b = ir.IRBuilder(work.append_basic_block())
    lanes = LlvmLanes(b, avx512=avx512)
    if gate:
        # An empty assembly statement: without it LLVM treats the function as pure and moves calls of it.
        b.asm(ir.FunctionType(ir.VoidType(), []), "", "", [], True)
    b.ret(emit(lanes, *work.args))
    return _gate(module, wanted, work) if gate else work


def _gate(module: ir.Module, name: str, work: ir.Function) -> ir.Function:
    vector = str(I32X16)
    count = len(work.args)
    arguments = ", ".join(f"{vector} %a{i}" for i in range(count))
    call = f"%r = call {vector} @{work.name}({arguments}) strictfp"
    if is_x86():
        for control in ("stmxcsr", "ldmxcsr"):
            declare(module, f"llvm.x86.sse.{control}", ir.VoidType(), [ir.PointerType()])
        body = f"""
  %before = alloca i32
  %normal = alloca i32
  call void @llvm.x86.sse.stmxcsr(ptr %before) strictfp
  store i32 {NORMAL_MXCSR}, ptr %normal
  call void @llvm.x86.sse.ldmxcsr(ptr %normal) strictfp
  {call}
  call void @llvm.x86.sse.ldmxcsr(ptr %before) strictfp"""
    else:
        for register in ("fpcr", "fpsr"):
            declare(module, f"llvm.aarch64.get.{register}", ir.IntType(64), [])
            declare(module, f"llvm.aarch64.set.{register}", ir.VoidType(), [ir.IntType(64)])
        body = f"""
  %mode = call i64 @llvm.aarch64.get.fpcr() strictfp
  %flags = call i64 @llvm.aarch64.get.fpsr() strictfp
  call void @llvm.aarch64.set.fpcr(i64 0) strictfp
  {call}
  call void @llvm.aarch64.set.fpcr(i64 %mode) strictfp
  call void @llvm.aarch64.set.fpsr(i64 %flags) strictfp"""
    text = f"define internal {vector} @{name}({arguments}) noinline strictfp {{{body}\n  ret {vector} %r\n}}\n"
    return TextFunction(module, work.function_type, name, text)


def declare(module: ir.Module, name: str, result: ir.Type, arguments: Sequence[ir.Type]) -> ir.Function:
    """A function declared in the module, once."""
    found = module.globals.get(name)
    return ir.Function(module, ir.FunctionType(result, arguments), name) if found is None else found


class SharedLanes(LlvmLanes):
    """Lane operations, the long ones as calls. directed: the code around them runs in the directed mode."""

    def __init__(self, builder: ir.IRBuilder, *, avx512: bool, directed: bool = False) -> None:
        super().__init__(builder, avx512=avx512)
        self._directed = directed
        self.from_int: Callable[[Any], Any] | None = None  # a conversion used in the directed mode instead of a gate
        for name in {*_LONG, *(() if avx512 else _LONG_WITHOUT_AVX512), *(_ROUNDING if directed else ())}:
            setattr(self, name, self._caller(name))

    def _caller(self, name: str) -> Callable[..., Any]:
        plain = getattr(LlvmLanes, name)

        def call(*arguments: ir.Value) -> ir.Value:
            if name == "permute" and isinstance(arguments[1], ir.Constant):
                return plain(self, *arguments)
            if name == "itof_rz" and self.from_int is not None:
                return self.from_int(*arguments)
            function = shared(
                self.b.module,
                f"lanes_{name}",
                len(arguments),
                plain,
                avx512=self.avx512,
                gate=self._directed and name in _ROUNDING,
            )
            return self.b.call(function, arguments)

        return call
