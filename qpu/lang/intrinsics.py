"""`k.vc4.NAME(...)`, `k.v3d.NAME(...)` and `k.asm(fn, ...)` in the front end."""

from __future__ import annotations

import ast
import dataclasses
import inspect
from typing import Any

from qpu.core.optable import OperandType
from qpu.errors import Loc, UsageError, counted
from qpu.lang import surface
from qpu.lang.front import Front, LangError
from qpu.lang.inline_asm import Asm, Recorder, Register, Step, family, letter, row_of
from qpu.lang.kir import Value
from qpu.lang.types import DTYPES
from qpu.lang.values import Bound, Complex, Packed, View

__all__ = ["Intrinsics", "call_asm"]


class Intrinsics:
    """What `k.vc4` and `k.v3d` stand for."""

    __qpu_object__ = True

    def __init__(self, name: str) -> None:
        self.name = name

    def attribute(self, f: Front, node: ast.AST, name: str) -> Any:
        """k.vc4.name, if the instruction set that is compiled for has it."""
        if family(f.isa) != self.name:
            raise f.error(
                node, "lang-name", f"k.{self.name} in a kernel for {f.isa}", help=f'if k.isa == "{self.name}": ...'
                if self.name == "vc4" else 'if k.isa != "vc4": ...'
            )  # fmt: skip
        try:
            row_of(f.isa, name)
        except UsageError as error:
            message, help = _split(error)
            raise f.error(node, "lang-name", message, help=help) from None
        return Bound(self, name)

    def call(self, f: Front, node: ast.Call, name: str, args: list[Any], keywords: dict[str, Any]) -> Value:
        """k.vc4.name(a, b)."""
        row = row_of(f.isa, name)
        if keywords or len(args) != row.arity:
            raise f.error(node, "lang-call", f"{name} takes {row.arity} operand(s)", help=row.doc)
        sources = [o.type for o in row.parsed if o.role != "d"]
        inputs = tuple(_raw(f, node, x, t) for x, t in zip(args, sources, strict=True))
        step = Step(name, Register(0), tuple(Register(-1 - n) for n in range(len(inputs))))
        asm = Asm(f.isa, (step,), (Register(0),))
        return f.q.emit("asm", *inputs, type_=letter(row.parsed[0].type), attr=asm)


def _split(error: UsageError) -> tuple[str, str]:
    """Message and help of an error."""
    message, _, help = str(error).partition("\n  help: ")
    return message, help


def _raw(f: Front, node: ast.AST, x: Any, type_: OperandType) -> Value:
    """An operand as the operation reads it: floats for floats, bits for the rest."""
    if isinstance(x, Packed):
        return x.word
    if isinstance(x, Complex | View):
        raise f.error(node, "lang-type", f"{f.describe(x)} as an operand", help="its parts")
    if isinstance(x, bool) or (isinstance(x, Value) and x.type == "b"):
        raise f.error(node, "lang-bool", "a condition as an operand", help="where(condition, a, b)")
    if letter(type_) == "f":
        return f.convert(x, "f", node)
    v = f.lift(x, node)
    if v.type == "f" and type_ in (OperandType.I32, OperandType.U32):
        raise f.error(node, "lang-type", f"f32 where the operation reads {type_}", help="i32(x), or bitcast(x, i32)")
    return v


def call_asm(f: Front, node: ast.Call, fn: Any, *values: Any, out: Any = ()) -> Any:
    """k.asm(fn, *values, out=types)."""
    types = out if isinstance(out, tuple | list) else (out,)
    if not types or not all(isinstance(t, surface.ScalarType) and t.name in ("f32", "i32", "u32") for t in types):
        raise f.error(node, "lang-call", "k.asm needs out=", allowed="f32, i32, u32, or a tuple of those")
    if not inspect.isfunction(fn):
        help = "def step(q, a, b): t = q.temp(); q.fadd(t, a, b); return t"
        raise f.error(node, "lang-call", "k.asm takes a function that is defined outside of the kernel", help=help)
    inputs = tuple(x.word if isinstance(x, Packed) else f.lift(x, node) for x in values)
    if any(v.type == "b" for v in inputs):
        raise f.error(node, "lang-bool", "a condition as an operand", help="where(condition, a, b)")
    recorder = Recorder(f.isa, len(inputs))
    try:
        made = fn(recorder, *(Register(-1 - n) for n in range(len(inputs))))
        results = made if isinstance(made, tuple | list) else (made,)
        asm = recorder.finish(results)
        if len(results) != len(types):
            raise UsageError(f"{fn.__name__} gives {counted(len(results), 'value')} for out={out!r}", help="one a type")
    except LangError:
        raise
    except Exception as error:
        raise _wrong(f, node, fn, error) from None
    inputs = (*inputs, *(f.q.const("u", bits) for bits in recorder.constants))
    found = [f.q.emit("asm", *inputs, type_=DTYPES[t.name].value, attr=asm.part(n)) for n, t in enumerate(types)]
    return found[0] if not isinstance(out, tuple | list) else tuple(found)


def _wrong(f: Front, node: ast.Call, fn: Any, error: Exception) -> LangError:
    """What went wrong in the function, at its own line."""
    loc = Loc(fn.__code__.co_filename, fn.__code__.co_firstlineno)
    at = error.__traceback__
    while at is not None:
        if at.tb_frame.f_code is fn.__code__:
            loc = Loc(loc.file, at.tb_lineno)
        at = at.tb_next
    if isinstance(error, UsageError):
        message, help = _split(error)
    else:
        message, help = f"{type(error).__name__}: {error}", f"{fn.__name__} runs in Python and records operations"
    return LangError(dataclasses.replace(f.error(node, "lang-asm", message, help=help).finding, loc=loc))
