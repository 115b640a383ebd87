"""What KIR operations mean on each GPU, bit for bit: for the interpreter that stands beside the boards.

An operation without a row here means what its row in `qpu.lang.kir` says. VideoCore IV truncates sums, has no
denormals, no NaN and no -0, and compares floats by one total order; V3D's sine is cut off beyond a half turn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from qpu.core.isa import Isa
from qpu.v3d import sem as v3d
from qpu.vc4 import sem as vc4

__all__ = ["meanings"]

Sem = Callable[..., Any]


def _unary(sem: Sem) -> Sem:
    return lambda v, a: sem(v, a, a)


def _greater(v: Any, a: Any, b: Any) -> Any:
    return vc4.carry_fgreater(v, a, b, a)


def _equal(v: Any, a: Any, b: Any) -> Any:
    """By the zero flag of the difference, as with a finite constant; or neither is greater (infinities)."""
    neither = v.mnot(v.mor(_greater(v, a, b), _greater(v, b, a)))
    return v.mor(v.eq(vc4.fsub(v, a, b), v.const(0)), neither)


def _integral(name: str) -> Sem:
    """Without denormals and without -0, which is 0."""
    return lambda v, a: vc4.flush(v, getattr(v, name)(vc4.flush(v, a)))


_VC4: Final[dict[str, Sem]] = {
    "fadd": vc4.fadd,
    "fsub": vc4.fsub,
    "fmul": vc4.fmul,
    "fmin": vc4.fmin,
    "fmax": vc4.fmax,
    "fneg": lambda v, a: vc4.fsub(v, v.const(0), a),
    **{name: _integral(name) for name in ("ffloor", "fceil", "ftrunc", "fround")},
    "itof": _unary(vc4.itof),
    "ftoi": _unary(vc4.ftoi),
    "recip": vc4.recip,
    "rsqrt": vc4.rsqrt,
    "exp2": vc4.exp2,
    "log2": vc4.log2,
    "lt.f": lambda v, a, b: _greater(v, b, a),
    "le.f": lambda v, a, b: v.mnot(_greater(v, a, b)),
    "eq.f": _equal,
    "ne.f": lambda v, a, b: v.mnot(_equal(v, a, b)),
}
_V3D: Final[dict[str, Sem]] = {"sinpi": v3d.sin}


def meanings(isa: Isa | str) -> Mapping[str, Sem]:
    """The operations that an instruction set gives a meaning of its own, by name; comparisons as "lt.f"."""
    return _VC4 if Isa(isa) is Isa.VC4 else _V3D
