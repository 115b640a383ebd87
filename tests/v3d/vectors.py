"""Golden vectors of V3D, and the translation between their fields and instructions."""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

from qpu.core.isa import Isa
from qpu.v3d.instr import Alu, AluHalf, Branch, Dst, Instr, Sig, Src, SrcKind
from qpu.v3d.ops import table
from qpu.v3d.regs import imm_bits

HERE = Path(__file__).parent
VECTORS = HERE.parent / "vectors"
ISAS = (Isa.V3D42, Isa.V3D71)

SIG_NAMES = {
    "thrsw": Sig.THRSW,
    "ldunif": Sig.LDUNIF,
    "ldunifa": Sig.LDUNIFA,
    "ldunifrf": Sig.LDUNIFRF,
    "ldunifarf": Sig.LDUNIFARF,
    "ldtmu": Sig.LDTMU,
    "ldvary": Sig.LDVARY,
    "ldtlb": Sig.LDTLB,
    "ldtlbu": Sig.LDTLBU,
    "wrtmuc": Sig.WRTMUC,
    "ucb": Sig.UCB,
    "rotate": Sig.ROT,
    "small_imm_a": Sig.IMM_A,
    "small_imm_b": Sig.IMM_B,
    "small_imm_c": Sig.IMM_C,
    "small_imm_d": Sig.IMM_D,
}
BDI = {"abs": "abs", "rel": "rel", "lri": "lri", "regfile": "rf"}
BDI_NAMES = {v: k for k, v in BDI.items()}


@cache
def rows(isa: Isa) -> list[dict[str, Any]]:
    with gzip.open(VECTORS / f"{isa}.jsonl.gz", "rt", encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def words(name: str) -> list[list[int]]:
    """The words of each line of a text file, comments left out."""
    lines = (VECTORS / name).read_text(encoding="utf-8").splitlines()
    return [[int(w, 16) for w in line.split()] for line in lines if line and not line.startswith("#")]


@cache
def sequences() -> list[dict[str, Any]]:
    lines = (VECTORS / "v3d_check.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def fields_of(instr: Instr) -> dict[str, Any]:
    """An instruction in the terms of the vectors."""
    if isinstance(instr, Branch):
        out: dict[str, Any] = {
            "type": "branch",
            "cond": instr.cond or "always",
            "msfign": instr.msfign or "none",
            "bdi": BDI_NAMES[instr.bdi],
            "ub": instr.ub,
            "raddr_a": instr.raddr_a,
            "offset": instr.offset,
        }
        if instr.ub:
            out["bdu"] = BDI_NAMES[instr.bdu]
        return out
    v42 = instr.isa is Isa.V3D42
    a, m = instr.add, instr.mul
    out = {
        "type": "alu",
        "sig": [name for name, bit in SIG_NAMES.items() if instr.sig & bit],
        "flags": {
            "ac": a.cond or "none",
            "mc": m.cond or "none",
            "apf": a.push or "none",
            "mpf": m.push or "none",
            "auf": a.update or "none",
            "muf": m.update or "none",
        },
    }
    if instr.sig_dst is not None:
        out["sig_addr"], out["sig_magic"] = instr.sig_dst.n, instr.sig_dst.magic
    if v42:
        out["raddr_a"], out["raddr_b"] = instr.raddr_a, instr.raddr_b
        if instr.sig & Sig.IMM_B:
            out["small_imm_b"] = f"0x{imm_bits(instr.raddr_b):08x}"
    for name, half in (("add", a), ("mul", m)):
        dst = half.dst
        part: dict[str, Any] = {"op": half.op.name, "output_pack": half.pack or "none"}
        if dst is None:
            part["waddr"], part["magic_write"] = {"stvpmv": 0, "stvpmd": 1, "stvpmp": 2}[half.op.name], False
        else:
            part["waddr"], part["magic_write"] = dst.n, dst.magic
        for role, src in (("a", half.a), ("b", half.b)):
            if src is not None:
                part[role] = _source_fields(instr, src)
        out[name] = part
    if not v42:
        if a.a is None:
            out["unused_raddr_a"] = instr.raddr_a
        if m.a is None:
            out["unused_raddr_c"] = instr.raddr_b
    return out


def _source_fields(instr: Alu, src: Src) -> dict[str, Any]:
    unpack = src.mod or "none"
    if instr.isa is Isa.V3D71:
        if src.kind is SrcKind.IMM:
            return {"imm_index": src.n, "imm": f"0x{imm_bits(src.n):08x}", "unpack": unpack}
        return {"raddr": src.n, "unpack": unpack}
    if src.kind is SrcKind.ACC:
        return {"mux": f"r{src.n}", "unpack": unpack}
    port_b = src.kind is SrcKind.IMM or src.port_b or src.n != instr.raddr_a
    return {"mux": "b" if port_b else "a", "unpack": unpack}


def instr_of(isa: Isa, f: dict[str, Any]) -> Instr:
    """The instruction that the fields of a vector describe."""

    def none(value: str) -> str:
        return "" if value in ("none", "always") else value

    if f["type"] == "branch":
        bdu = BDI[f["bdu"]] if f["ub"] else ""
        return Branch(isa, none(f["cond"]), none(f["msfign"]), BDI[f["bdi"]], f["offset"], f["ub"], bdu, f["raddr_a"])
    flags = f["flags"]
    halves = []
    for name, c, p, u in (("add", "ac", "apf", "auf"), ("mul", "mc", "mpf", "muf")):
        part = f[name]
        op = table(isa)[part["op"]]
        sources = [_source(isa, f, part[role]) if role in part else None for role in ("a", "b")]
        dst = Dst(part["waddr"], part["magic_write"]) if op.operand("d") is not None else None
        flag = none(flags[c]), none(flags[p]), none(flags[u])
        halves.append(AluHalf(op, dst, sources[0], sources[1], none(part["output_pack"]), *flag))
    sig = Sig.NONE
    for name in f["sig"]:
        sig |= SIG_NAMES[name]
    sig_dst = Dst(f["sig_addr"], f["sig_magic"]) if "sig_addr" in f else None
    if isa is Isa.V3D42:
        raddr_a, raddr_b = f["raddr_a"], f["raddr_b"]
    else:
        raddr_a, raddr_b = f.get("unused_raddr_a", 0), f.get("unused_raddr_c", 0)
    return Alu(isa, halves[0], halves[1], sig, sig_dst, raddr_a, raddr_b)


def _source(isa: Isa, f: dict[str, Any], part: dict[str, Any]) -> Src:
    mod = "" if part["unpack"] == "none" else part["unpack"]
    if isa is Isa.V3D71:
        if "imm_index" in part:
            return Src(SrcKind.IMM, part["imm_index"], mod)
        return Src(SrcKind.RF, part["raddr"], mod)
    mux = part["mux"]
    if mux == "a":
        return Src(SrcKind.RF, f["raddr_a"], mod)
    if mux == "b":
        if "small_imm_b" in f["sig"]:
            return Src(SrcKind.IMM, f["raddr_b"], mod)
        return Src(SrcKind.RF, f["raddr_b"], mod, f["raddr_a"] == f["raddr_b"])
    return Src(SrcKind.ACC, int(mux[1:]), mod)
