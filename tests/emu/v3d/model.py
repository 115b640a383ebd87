"""Independent NumPy model of one V3D instruction, written from the reference text.

It works on the `fields` of the golden vectors, not on our decoder's output, and shares no code with the package.
Arrays have shape (n, 16), dtype uint32. `doubt` masks lanes whose result the references leave open.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

U = np.uint32
LANE = np.arange(16)

DATA = {11, 34, 35, 36, 37, 38, 39}
GRAPHICS = {
    "ldvpmv_in", "ldvpmv_out", "ldvpmd_in", "ldvpmd_out", "ldvpmp", "ldvpmg_in", "ldvpmg_out", "stvpmv", "stvpmd",
    "stvpmp", "xcd", "ycd", "fxcd", "fycd", "iid", "sampid", "vpmwt", "ftoc",
}  # fmt: skip
APPROXIMATE = {
    "recip", "rsqrt", "rsqrt2", "exp", "log", "sin",
    "funpackunormlo", "funpackunormhi", "funpacksnormlo", "funpacksnormhi",
}  # fmt: skip
OPEN_FLAGS = {  # what they push is not known: of the word or of its halves
    "flpop", "vpack", "v8pack", "v10pack", "v11fpack", "vftounorm8", "vftosnorm8", "vftounorm10lo", "vftounorm10hi",
}  # fmt: skip
NO_CARRY = {"shl", "shr", "asr", "ror", "max", "umin", "umax"}  # carry not known


def f32(x: np.ndarray) -> np.ndarray:
    return x.view(np.float32)


def bits(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.asarray(x, np.float32)).view(U)


def half(x: np.ndarray) -> np.ndarray:
    """Low 16 bits as binary16, widened."""
    return (x & U(0xFFFF)).astype(np.uint16).view(np.float16).astype(np.float32)


def to_half(x: np.ndarray) -> np.ndarray:
    return np.asarray(x, np.float32).astype(np.float16).view(np.uint16).astype(U)


def pair(lo: np.ndarray, hi: np.ndarray) -> np.ndarray:
    return (lo & U(0xFFFF)) | (hi & U(0xFFFF)) << U(16)


def s32(x: np.ndarray) -> np.ndarray:
    return x.view(np.int32)


def wrap(x: np.ndarray) -> np.ndarray:
    return (np.asarray(x, np.int64) & 0xFFFFFFFF).astype(U)


def isnan32(x: np.ndarray) -> np.ndarray:
    return (x & U(0x7FFFFFFF)) > U(0x7F800000)


@dataclass
class State:
    rf: np.ndarray
    acc: np.ndarray
    a: np.ndarray  # two bits a lane
    b: np.ndarray
    msf: np.ndarray
    revf: np.ndarray
    tidx: np.ndarray
    link: np.ndarray  # (n,)
    rtop: np.ndarray
    results: list[np.ndarray]
    uniform: int
    unifa: int
    data: list[np.ndarray] = field(default_factory=list)

    def copy(self) -> State:
        return State(
            self.rf.copy(), self.acc.copy(), self.a.copy(), self.b.copy(), self.msf.copy(), self.revf.copy(),
            self.tidx, self.link, self.rtop.copy(), [r.copy() for r in self.results],
            self.uniform, self.unifa, list(self.data),
        )  # fmt: skip


@dataclass
class Effect:
    """The uncertain part of the state after an instruction."""

    doubt: dict[tuple[str, int], np.ndarray] = field(default_factory=dict)  # register -> lanes not to compare
    loose: dict[tuple[str, int], float] = field(default_factory=dict)  # register -> relative tolerance
    flags_doubt: np.ndarray | None = None
    data_doubt: list[np.ndarray] = field(default_factory=list)


UNPACK_F = {
    "none": lambda x: x,
    "abs": lambda x: x & U(0x7FFFFFFF),
    "l": lambda x: bits(half(x)),
    "h": lambda x: bits(half(x >> U(16))),
    "sat": lambda x: bits(np.clip(f32(x), 0, 1)),
    "nsat": lambda x: bits(np.clip(f32(x), -1, 1)),
    "max0": lambda x: bits(np.maximum(f32(x), np.float32(0))),
    "ff": lambda x: pair(to_half(f32(x)), to_half(f32(x))),
    "r32": lambda x: pair(to_half(f32(x)), to_half(f32(x))),
    "ll": lambda x: pair(x, x),
    "hh": lambda x: pair(x >> U(16), x >> U(16)),
    "swp": lambda x: pair(x >> U(16), x),
    "ul": lambda x: x & U(0xFFFF),
    "uh": lambda x: x >> U(16),
    "il": lambda x: (x & U(0xFFFF)).astype(np.uint16).view(np.int16).astype(np.int32).view(U),
    "ih": lambda x: (x >> U(16)).astype(np.uint16).view(np.int16).astype(np.int32).view(U),
}


def minmax(a: np.ndarray, b: np.ndarray, greater: bool) -> tuple[np.ndarray, np.ndarray]:
    """Result of a float minimum or maximum, and lanes where NaN or zeros leave it open."""
    x, y = f32(a), f32(b)
    r = np.where((x > y) == greater, a, b)
    return r, np.isnan(x) | np.isnan(y) | ((x == 0) & (y == 0))


def halfwise(op: Any, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    (lo, d0), (hi, d1) = op(half(a), half(b)), op(half(a >> U(16)), half(b >> U(16)))
    return pair(to_half(lo), to_half(hi)), d0 | d1


def _hmin(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.where(x < y, x, y), np.isnan(x) | np.isnan(y) | ((x == 0) & (y == 0))


def _hmax(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.where(x > y, x, y), np.isnan(x) | np.isnan(y) | ((x == 0) & (y == 0))


def _hmul(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r = (x.astype(np.float64) * y.astype(np.float64)).astype(np.float16).astype(np.float32)
    return r, np.isnan(r)


def s24(x: np.ndarray) -> np.ndarray:
    v = (x & U(0xFFFFFF)).astype(np.int64)
    return v - ((v >> 23) << 24)


def to_int(x: np.ndarray, how: Any, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    v = how(f32(x).astype(np.float64))
    open_ = ~((v >= low) & (v <= high))
    return wrap(np.where(open_, 0, v)), open_


def small_float(h: np.ndarray, mantissa: int) -> tuple[np.ndarray, np.ndarray]:
    """binary16 to an unsigned float with 5 exponent bits: nearest by search over all values."""
    codes = np.arange(31 << mantissa, dtype=np.int64)
    exponent, m = codes >> mantissa, codes & ((1 << mantissa) - 1)
    values = np.where(
        exponent == 0, m * 2.0 ** (-14 - mantissa), (1 + m / (1 << mantissa)) * 2.0 ** (exponent.astype(float) - 15)
    )
    x = half(h).astype(np.float64)
    flat = np.nan_to_num(x.ravel(), nan=0.0, posinf=0.0, neginf=0.0)
    flat = np.where(flat < 0, 0, flat)
    up = np.clip(np.searchsorted(values, flat), 1, len(values) - 1)
    d_low, d_high = flat - values[up - 1], values[up] - flat
    even = np.where((up - 1) % 2 == 0, up - 1, up)
    code = np.where(d_low < d_high, up - 1, np.where(d_low > d_high, up, even))
    open_ = ~np.isfinite(x) | (x < 0) | np.signbit(x) | (x > values[-1])
    return code.astype(U).reshape(h.shape), open_


def alu(op: str, a: Any, b: Any, s: State) -> tuple[np.ndarray, np.ndarray | None, dict[str, np.ndarray]]:
    """Result, lanes whose result is open, and new hidden state (rtop, msf)."""
    n = len(s.tidx)
    shape = (n, 16)
    zero = np.zeros(shape, U)
    new: dict[str, np.ndarray] = {}
    if op in ("fadd", "faddnf"):
        return bits(f32(a) + f32(b)), None, new
    if op in ("fsub", "fcmp"):
        return bits(f32(a) - f32(b)), None, new
    if op == "fmul":
        return bits(f32(a) * f32(b)), None, new
    if op in ("fmin", "fmax"):
        return (*minmax(a, b, op == "fmax"), new)
    if op == "vfpack":
        return pair(to_half(f32(a)), to_half(f32(b))), isnan32(a) | isnan32(b), new
    if op in ("vfmin", "vfmax", "vfmul"):
        return (*halfwise({"vfmin": _hmin, "vfmax": _hmax, "vfmul": _hmul}[op], a, b), new)
    if op == "add":
        return wrap(a.astype(np.int64) + b), None, new
    if op == "sub":
        return wrap(a.astype(np.int64) - b), None, new
    if op in ("min", "max"):
        pick = np.minimum if op == "min" else np.maximum
        return pick(s32(a), s32(b)).view(U), None, new
    if op in ("umin", "umax"):
        return (np.minimum if op == "umin" else np.maximum)(a, b), None, new
    if op in ("shl", "shr", "asr", "ror"):
        k = (b & U(31)).astype(np.int64)
        x = a.astype(np.int64)
        if op == "shl":
            return wrap(x << k), None, new
        if op == "shr":
            return wrap(x >> k), None, new
        if op == "asr":
            return wrap(s32(a).astype(np.int64) >> k), None, new
        return wrap((x >> k) | (x << (32 - k))), None, new
    if op in ("and", "or", "xor"):
        return {"and": a & b, "or": a | b, "xor": a ^ b}[op] if op != "or" else a | b, None, new
    if op in ("vadd", "vsub"):
        sign = 1 if op == "vadd" else -1
        lo = wrap((a & U(0xFFFF)).astype(np.int64) + sign * (b & U(0xFFFF)).astype(np.int64))
        hi = wrap((a >> U(16)).astype(np.int64) + sign * (b >> U(16)).astype(np.int64))
        return pair(lo, hi), None, new
    if op == "not":
        return wrap(-1 - a.astype(np.int64)), None, new
    if op == "neg":
        return wrap(-a.astype(np.int64)), None, new
    if op in ("mov", "fmov"):
        return a, None, new
    if op == "clz":
        return np.vectorize(lambda x: 32 - int(x).bit_length())(a).astype(U), None, new
    if op in ("flapush", "flbpush"):
        return a << U(2) | (s.a if op == "flapush" else s.b).astype(U), None, new
    if op == "flpop":
        return a >> U(2), None, new
    if op in ("setmsf", "setrevf"):
        new[op[3:]] = (a != 0).astype(U)
        return a, np.ones(shape, bool), new
    if op in ("fround", "ftrunc", "ffloor", "fceil"):
        f = {"fround": np.rint, "ftrunc": np.trunc, "ffloor": np.floor, "fceil": np.ceil}[op]
        return bits(f(f32(a))), None, new
    if op in ("ftoin", "ftoiz"):
        return (*to_int(a, np.rint if op == "ftoin" else np.trunc, -(2.0**31), 2.0**31 - 1), new)
    if op == "ftouz":
        r, open_ = to_int(a, np.trunc, 0, 2.0**32 - 1)
        negative = f32(a) < 0
        return np.where(negative, U(0), r), open_ & ~negative, new
    if op == "itof":
        return bits(s32(a).astype(np.float64)), None, new
    if op == "utof":
        return bits(a.astype(np.float64)), None, new
    if op == "fdx":
        x = f32(a)
        d = x[:, 1::2] - x[:, 0::2]
        return bits(np.repeat(d, 2, axis=1)), None, new
    if op == "fdy":
        x = f32(a).reshape(n, 4, 4)
        d = x[:, :, 2:] - x[:, :, :2]
        return bits(np.concatenate([d, d], axis=2).reshape(shape)), None, new
    if op in ("recip", "rsqrt", "rsqrt2", "exp", "log", "sin"):
        x = f32(a).astype(np.float64)
        f = {
            "recip": lambda v: 1 / v,
            "rsqrt": lambda v: 1 / np.sqrt(v),
            "rsqrt2": lambda v: 1 / np.sqrt(v),
            "exp": np.exp2,
            "log": np.log2,
            "sin": lambda v: np.where(np.abs(v) <= 0.5, np.sin(np.pi * v), np.sign(v)),
        }[op]
        return bits(f(x)), ~np.isfinite(x) | (x == 0) | ((x < 0) & (op in ("rsqrt", "rsqrt2", "log"))), new
    if op == "tidx":
        return np.broadcast_to(s.tidx, shape).astype(U), None, new
    if op == "eidx":
        return np.broadcast_to(LANE, shape).astype(U), None, new
    if op == "lr":
        return np.broadcast_to(s.link[:, None], shape).astype(U), None, new
    if op in ("vfla", "vflna", "vflb", "vflnb"):
        fl = (s.a if op in ("vfla", "vflna") else s.b).astype(U)
        if op in ("vflna", "vflnb"):
            fl = fl ^ U(3)
        return (fl & U(1)) | (fl >> U(1)) << U(16), None, new
    if op in ("flafirst", "flnafirst"):
        r = zero.copy()
        for i in range(n):
            hit = np.flatnonzero((s.a[i] == 3) == (op == "flafirst"))
            if hit.size:
                r[i, hit[0]] = 1
        return r, None, new
    if op in ("msf", "revf"):
        return getattr(s, op), None, new
    if op in ("nop", "tmuwt"):
        return zero, None, new
    if op == "barrierid":
        return zero, np.ones(shape, bool), new
    if op == "umul24":
        p = (a & U(0xFFFFFF)).astype(np.uint64) * (b & U(0xFFFFFF)).astype(np.uint64)
        r = (p & np.uint64(0xFFFFFFFF)).astype(np.int64) + (s.rtop.astype(np.int64) << 24)
        new["rtop"] = zero
        return wrap(r), None, new
    if op == "smul24":
        return wrap(s24(a) * s24(b)), None, new
    if op == "multop":
        t = (a >> U(24)).astype(np.int64) * (b & U(0xFFFFFF)) + (a & U(0xFFFFFF)).astype(np.int64) * (b >> U(24))
        new["rtop"] = wrap(t)
        return zero, np.ones(shape, bool), new
    if op == "rot":
        return np.stack([r[(LANE + int(k[0])) % 16] for r, k in zip(a, b, strict=True)]), None, new
    if op == "rotq":
        base = LANE // 4 * 4
        return (
            np.stack([r[base + (LANE % 4 + (k[base] & U(3)).astype(int)) % 4] for r, k in zip(a, b, strict=True)]),
            None,
            new,
        )
    if op == "shuffle":
        return np.stack([r[(k % U(16)).astype(int)] for r, k in zip(a, b, strict=True)]), None, new
    if op == "bcastf":
        return np.repeat(a[:, :1], 16, axis=1), None, new
    if op == "ballot":
        v = ((a != 0) * (1 << LANE)).sum(axis=1).astype(U)
        return np.repeat(v[:, None], 16, axis=1), None, new
    if op == "alleq":
        v = (a == a[:, :1]).all(axis=1).astype(U)
        return np.repeat(v[:, None], 16, axis=1), None, new
    if op == "allfeq":
        v = (f32(a) == f32(a[:, :1])).all(axis=1).astype(U)
        return np.repeat(v[:, None], 16, axis=1), None, new
    if op == "vpack":
        return pair(a, b), None, new
    if op == "v8pack":
        parts = (a, a >> U(16), b, b >> U(16))
        return sum(((p & U(255)) << U(8 * i) for i, p in enumerate(parts)), zero), None, new
    if op == "v10pack":
        r = (a & U(1023)) | (a >> U(16) & U(1023)) << U(10) | (b & U(1023)) << U(20) | (b >> U(16) & U(3)) << U(30)
        return r, None, new
    if op == "v11fpack":
        (x, d0), (y, d1), (z, d2) = small_float(a, 6), small_float(a >> U(16), 6), small_float(b, 5)
        return x | y << U(11) | z << U(22), d0 | d1 | d2, new
    if op in ("ftounorm16", "ftosnorm16"):
        low, scale = (0, 65535) if op == "ftounorm16" else (-1, 32767)
        x = f32(a).astype(np.float64)
        v = np.rint((np.clip(x, low, 1).astype(np.float32) * np.float32(scale)).astype(np.float64))
        return wrap(np.nan_to_num(v)) & U(0xFFFF), np.isnan(x), new
    if op in ("vftounorm8", "vftosnorm8", "vftounorm10lo", "vftounorm10hi"):
        low = -1 if op == "vftosnorm8" else 0
        scales = {"vftounorm8": (255, 255), "vftosnorm8": (127, 127), "vftounorm10lo": (1023, 1023)}
        mask = U(255) if "8" in op else U(1023)
        out = []
        open_ = np.zeros(shape, bool)
        for x, scale in zip((half(a), half(a >> U(16))), scales.get(op, (1023, 3)), strict=True):
            v = np.rint((np.clip(x, low, 1) * np.float32(scale)).astype(np.float64))
            open_ |= np.isnan(x)
            out.append(wrap(np.nan_to_num(v)) & mask)
        return pair(*out), open_, new
    if op.startswith("funpack"):
        raw = (a >> U(16) if op.endswith("hi") else a & U(0xFFFF)).astype(np.uint16)
        if "snorm" in op:
            return bits(np.maximum(raw.view(np.int16) / 32767, -1)), None, new
        return bits(raw / 65535), None, new
    raise KeyError(op)


def flag_of(op: str, name: str, a: Any, b: Any, r: np.ndarray, doubt: Any) -> tuple[np.ndarray, np.ndarray]:
    """The flag as two bits a lane, and lanes where it is open."""
    open_ = np.zeros(r.shape, bool) if doubt is None else doubt.copy()
    halves = op in ("vfpack", "vfmin", "vfmax", "vfmul", "vadd", "vsub", "vfla", "vflna", "vflb", "vflnb")
    if op == "fcmp":
        x, y = f32(a), f32(b)
        m = {"z": x == y, "n": x < y, "c": x <= y}[name]
        return m * 3, open_ & False
    if halves and name in "zn":
        lo, hi = r & U(0xFFFF), r >> U(16)
        if name == "z":
            return (lo == 0) * 1 | (hi == 0) * 2, open_
        return (lo >> U(15)).astype(int) | (hi >> U(15)).astype(int) * 2, open_
    if name == "z":
        return (r == 0) * 3, open_
    if name == "n":
        return (r >> U(31)).astype(int) * 3, open_ | isnan32(r) & (op[0] == "f")
    if op == "add":
        return (a.astype(np.int64) + b > 0xFFFFFFFF) * 3, open_
    if op == "sub":
        return (a < b) * 3, open_
    if op == "min":
        return (s32(a) > s32(b)) * 3, open_
    return np.zeros(r.shape, int), np.ones(r.shape, bool)  # carry not known


COND = {
    "ifa": lambda s: s.a,
    "ifb": lambda s: s.b,
    "ifna": lambda s: s.a ^ 3,
    "ifnb": lambda s: s.b ^ 3,
}


class Model:
    """Runs the fields of an ALU vector on a state."""

    def __init__(self, version: int) -> None:
        self.v42 = version == 42
        self.open: np.ndarray | None = None  # lanes in which a clamping modifier met NaN or -0: not known

    def operand(self, s: State, f: dict[str, Any], o: dict[str, Any], rotate: bool) -> np.ndarray:
        n = len(s.tidx)
        kind = "rf"
        if self.v42:
            mux = o["mux"]
            if mux in ("a", "b"):
                if mux == "b" and "small_imm_b" in f and not rotate:
                    x = np.full((n, 16), int(f["small_imm_b"], 16), U)
                    return UNPACK_F[o["unpack"]](x)
                x = s.rf[f["raddr_a" if mux == "a" else "raddr_b"]]
            else:
                kind = "acc"
                x = s.acc[int(mux[1:])]
        elif "imm" in o:
            x = np.full((n, 16), int(o["imm"], 16), U)
        else:
            x = s.rf[o["raddr"]]
        if rotate:
            index = f["raddr_b"]
            k = [(index if index < 16 else index - 32) if index else int(s.acc[5][i, 0]) for i in range(n)]
            if kind == "acc":
                x = np.stack([r[(LANE - m) % 16] for r, m in zip(x, k, strict=True)])
            else:
                x = np.stack([r[LANE // 4 * 4 + (LANE - m) % 4] for r, m in zip(x, k, strict=True)])
        if o["unpack"] in ("sat", "nsat", "max0"):
            self.open = isnan32(x) | (x == U(0x80000000))
        return UNPACK_F[o["unpack"]](x)

    def target(self, waddr: int, magic: bool) -> tuple[str, int] | None:
        if not magic:
            return "rf", waddr
        if waddr in DATA:
            return "data", 0
        if self.v42 and waddr <= 5:
            return "acc", waddr
        if waddr == 55:
            return ("acc", 5) if self.v42 else ("rf", 0)
        if waddr == 5:
            return "rf", 0
        return None

    def run(self, f: dict[str, Any], s: State) -> tuple[State, Effect]:
        out, effect = s.copy(), Effect()
        flags = f["flags"]
        writes = []
        for unit, cond, push, update in (("add", "ac", "apf", "auf"), ("mul", "mc", "mpf", "muf")):
            h = f[unit]
            op = h["op"]
            rotate = unit == "mul" and "rotate" in f["sig"]
            self.open = None
            a = self.operand(s, f, h["a"], rotate) if "a" in h else None
            b = self.operand(s, f, h["b"], rotate) if "b" in h else None
            r, doubt, new = alu(op, a, b, s)
            if self.open is not None:
                doubt = self.open if doubt is None else doubt | self.open
            for name, value in new.items():
                if name in ("msf", "revf") and flags[cond] != "none":
                    value = np.where(COND[flags[cond]](s) != 0, value, getattr(s, name))
                setattr(out, name, value)
            which = flags[push] if flags[push] != "none" else flags[update]
            if which != "none":
                name = which[-1]
                bits_, open_ = flag_of(op, name, a, b, r, doubt)
                if flags[push] != "none":
                    out.b, out.a = s.a.copy(), bits_
                else:
                    value = bits_ ^ 3 if which.removeprefix("and").removeprefix("nor") in ("nz", "nn", "nc") else bits_
                    out.a = (s.a & value) if which.startswith("and") else 3 & ~(s.a | value)
                effect.flags_doubt = open_
            if op in OPEN_FLAGS:
                effect.flags_doubt = np.ones(r.shape, bool)
            if op not in ("nop", "tmuwt"):
                writes.append((h, op, flags[cond], r, doubt))
        loads = []
        for sig in f["sig"]:
            implicit = ("acc", 5) if self.v42 else ("rf", 0)
            to = self.target(f["sig_addr"], f["sig_magic"]) if "sig_addr" in f else None
            if sig == "ldtmu":
                loads.append((to, f.get("sig_addr"), out.results.pop(0)))
            elif sig in ("ldunif", "ldunifrf"):
                value = np.full(s.msf.shape, s.uniform, U)
                loads.append((implicit if sig == "ldunif" else to, None if sig == "ldunif" else f["sig_addr"], value))
            elif sig in ("ldunifa", "ldunifarf"):
                value = np.full(s.msf.shape, s.unifa, U)
                loads.append((implicit if sig == "ldunifa" else to, None if sig == "ldunifa" else f["sig_addr"], value))
        for h, op, cond, r, doubt in writes:
            to = self.target(h["waddr"], h["magic_write"])
            if to is None:
                continue
            mask = COND[cond](s) if cond != "none" else np.full(r.shape, 3)
            self.write(out, effect, to, h, op, r, doubt, mask)
        for to, number, value in loads:
            if to is not None:
                if to[0] != "data" and number in (5, 55) and f.get("sig_magic"):
                    value = value[:, LANE & ~3] if number == 5 else np.repeat(value[:, :1], 16, axis=1)
                if to[0] == "data":
                    out.data.append(value)
                    effect.data_doubt.append(np.zeros(value.shape, bool))
                else:
                    getattr(out, to[0])[to[1]] = value
        return out, effect

    def write(
        self, out: State, effect: Effect, to: tuple[str, int], h: dict[str, Any], op: str, r: Any, doubt: Any, mask: Any
    ) -> None:
        pack = h.get("output_pack", "none")
        number = h["waddr"] if h["magic_write"] else -1
        open_ = np.zeros(r.shape, bool) if doubt is None else doubt
        if to[0] == "data":
            out.data.append(r if pack == "none" else to_half(f32(r)) << U(16 if pack == "h" else 0))
            rough = op in APPROXIMATE or pack != "none"
            effect.data_doubt.append(open_ | (mask != 3) | rough)
            return
        registers = getattr(out, to[0])
        old = registers[to[1]].copy()
        if pack == "l":
            r = (old & U(0xFFFF0000)) | to_half(f32(r))
        elif pack == "h":
            r = (old & U(0xFFFF)) | to_half(f32(r)) << U(16)
        if number in (5, 55) and op not in ("rot", "rotq", "shuffle", "bcastf", "ballot", "alleq", "allfeq"):
            order = (LANE & ~3) if number == 5 else LANE * 0
            r, open_ = r[:, order], open_[:, order]
        keep = np.where(mask & 1, 0xFFFF, 0) | np.where(mask & 2, 0xFFFF0000, 0)
        keep = keep.astype(U)
        registers[to[1]] = (r & keep) | (old & ~keep)
        effect.doubt[to] = open_ | effect.doubt.get(to, np.zeros(r.shape, bool))
        if op in APPROXIMATE or op.startswith("funpack"):
            effect.loose[to] = 1e-6
