"""Differential test: builder calls made from a decoded golden word give that word."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from qpu.errors import AsmError
from qpu.vc4 import regs
from qpu.vc4.builder import Asm, build
from qpu.vc4.decode import decode, reserved
from qpu.vc4.instr import Alu, Branch, LoadImm, LoadMode, Reserved, Semaphore
from qpu.vc4.ops import ADD_OPS, MUL_OPS
from qpu.vc4.pack import PACK_A, PACK_MUL, UNPACK
from qpu.vc4.printer import canonical
from qpu.vc4.regs import File

VECTORS = Path(__file__).parent.parent / "vectors" / "vc4.jsonl.gz"
KEYWORDS = {"and", "or", "not"}


class Untold(Exception):
    """The builder cannot express this, and need not."""


def method(name: str) -> str:
    return name + "_" if name in KEYWORDS else name


def number(code: int) -> int | float:
    text = regs.small_imm_text(code)
    return int(text) if "." not in text else float(eval(text))


def io(q: Asm, name: str) -> Any:
    if not hasattr(q, name):
        raise Untold(name)
    return getattr(q, name)


def source(q: Asm, i: Alu, mux: int) -> Any:
    if mux < 6:
        reg = (q.r0, q.r1, q.r2, q.r3, q.r4, q.r5)[mux]
        return q.r4.unpack(UNPACK[i.unpack].name) if mux == 4 and i.pm and i.unpack else reg
    if mux == 7 and i.sig == 13:
        return number(i.raddr_b)
    file, addr = (File.A, i.raddr_a) if mux == 6 else (File.B, i.raddr_b)
    if addr >= 32:
        row = regs.reader(file, addr)
        if row is None or addr == 39:
            raise Untold("unassigned read")
        return io(q, row.names[0])
    reg = (q.ra if file is File.A else q.rb)[addr]
    if file is File.A and not i.pm and i.unpack:
        return q.ra[addr].unpack(UNPACK[i.unpack].name)
    return reg


def destination(q: Asm, i: Alu | LoadImm, half: str) -> Any:
    addr = i.waddr_add if half == "add" else i.waddr_mul
    file = File(i.ws) if half == "add" else File(1 - i.ws)
    if addr == 39:
        return q.null
    if addr >= 36:
        row = regs.writer(file, addr)
        assert row is not None
        reg = io(q, next(n for n in row.names if n.isidentifier()))
    elif addr >= 32:
        reg = (q.r0, q.r1, q.r2, q.r3)[addr - 32]
    else:
        reg = (q.ra if file is File.A else q.rb)[addr]
    if not i.pack or (i.pm and half == "add"):
        return reg
    if i.pm:
        if not hasattr(reg, "pack"):
            raise Untold("packing into an output")
        return reg.pack(PACK_MUL[i.pack].name)
    if file is File.A:
        if addr >= 32:
            raise Untold("pack mode without file A register")
        return reg.pack(PACK_A[i.pack].name)
    return reg


def signal(q: Asm, i: Alu) -> Any:
    return None if i.sig in (1, 13) else getattr(q, regs.SIGNALS[i.sig].name)


def push(i: Alu | LoadImm) -> Any:
    return "z" if i.sf else None


def replay(q: Asm, i: Alu) -> None:
    used = set(((i.add_a, i.add_b) if i.op_add else ()) + ((i.mul_a, i.mul_b) if i.op_mul else ()))
    if (i.raddr_a != 39 and 6 not in used) or (i.raddr_b != 39 and 7 not in used and i.sig != 13):
        raise Untold("a read that nothing uses")
    if i.unpack and not (4 in used if i.pm else 6 in used and i.raddr_a < 32):
        raise Untold("unpacking nothing")
    if i.pm and not i.pack and not i.unpack:
        raise Untold("pm without effect")
    if i.pack and not i.pm and (i.waddr_mul if i.ws else i.waddr_add) >= 32:
        raise Untold("packing nothing")
    rotates = i.sig == 13 and i.raddr_b >= 48 and any(m != 7 for m in ((i.mul_a, i.mul_b) if i.op_mul else ()))
    if i.sig == 13 and not rotates and (7 not in used or i.raddr_b >= 48):
        raise Untold("an immediate that nothing uses, or by another code")
    extra = {} if not rotates else {"rotate": q.r5 if i.raddr_b == 48 else i.raddr_b - 48}
    conds = [c.name for c in regs.CONDS]
    if i.op_add or not i.op_mul:
        op = ADD_OPS[i.op_add]
        assert op is not None
        if op.name == "nop":
            if i.waddr_add != 39 or i.sf:
                raise Untold("nop with a result")
            slot = q.nop(sig=signal(q, i))
        else:
            args = [source(q, i, i.add_a)] + ([source(q, i, i.add_b)] if op.arity == 2 else [])
            cond = {} if i.waddr_add == 39 and not i.cond_add else {"cond": conds[i.cond_add]}
            call = getattr(q, method(op.name))
            slot = call(destination(q, i, "add"), *args, push=push(i), sig=signal(q, i), **cond)
        if i.op_mul:
            args = [source(q, i, i.mul_a), source(q, i, i.mul_b)]
            cond = {} if i.waddr_mul == 39 and not i.cond_mul else {"cond": conds[i.cond_mul]}
            getattr(slot, MUL_OPS[i.op_mul].name)(destination(q, i, "mul"), *args, **cond, **extra)  # type: ignore[union-attr]
        elif i.waddr_mul != 39:
            raise Untold("MUL nop with a result")
        return
    name = MUL_OPS[i.op_mul].name  # type: ignore[union-attr]
    args = [source(q, i, i.mul_a), source(q, i, i.mul_b)]
    if i.waddr_add != 39:
        raise Untold("nop with a result")
    if name.startswith("v8") and name[2:] in ("adds", "subs"):
        if i.sf:
            raise Untold("flags of a MUL operation that the ADD ALU has too")
        getattr(q.nop(sig=signal(q, i)), name)(destination(q, i, "mul"), *args, cond=conds[i.cond_mul], **extra)
        return
    cond = {} if i.waddr_mul == 39 and not i.cond_mul else {"cond": conds[i.cond_mul]}
    getattr(q, name)(destination(q, i, "mul"), *args, push=push(i), sig=signal(q, i), **cond, **extra)


def replay_load(q: Asm, i: LoadImm) -> None:
    if i.pack and not i.pm and (i.waddr_mul if i.ws else i.waddr_add) >= 32:
        raise Untold("packing nothing")
    if i.pm and not i.pack:
        raise Untold("pm without effect")
    value: Any = i.imm
    if i.mode is not LoadMode.WORD:
        high = -2 if i.mode is LoadMode.PER_ELEMENT_SIGNED else 2
        value = [(i.imm >> (16 + n) & 1) * high + (i.imm >> n & 1) for n in range(16)]
        if i.mode is LoadMode.PER_ELEMENT_UNSIGNED and max(value) < 2:
            raise Untold("the signed form says the same")
    conds = [c.name for c in regs.CONDS]
    if i.waddr_add == 39 and i.cond_add not in (0, 1):
        raise Untold("condition on nothing")
    if (i.waddr_add == 39) != (i.cond_add == 0 and not i.sf) and i.cond_add == 0:
        pass
    kwargs: dict[str, Any] = {}
    if i.waddr_add != 39 or i.cond_add:
        kwargs["cond"] = conds[i.cond_add]
    if i.waddr_mul != 39:
        kwargs["dst2"] = destination(q, i, "mul")
        kwargs["cond2"] = conds[i.cond_mul]
    elif i.cond_mul:
        raise Untold("condition on nothing")
    if i.waddr_add == 39 and i.cond_add == 1 and not i.sf:
        raise Untold("condition on nothing")
    q.ldi(destination(q, i, "add"), value, push=push(i), **kwargs)


def replay_branch(q: Asm, i: Branch) -> None:
    found = regs.branch_cond(i.cond)
    assert found is not None
    links = []
    for file, addr in ((File(i.ws), i.waddr_add), (File(1 - i.ws), i.waddr_mul)):
        if addr == 39:
            links.append(None)
        elif addr < 32:
            links.append((q.ra if file is File.A else q.rb)[addr])
        elif addr < 36:
            links.append((q.r0, q.r1, q.r2, q.r3)[addr - 32])
        else:
            row = regs.writer(file, addr)
            assert row is not None
            links.append(io(q, next(n for n in row.names if n.isidentifier())))
    target = i.imm if i.rel else q.absolute(i.imm)
    reg = q.ra[i.raddr_a] if i.reg else None
    q.b(target, cond=found.name, reg=reg, link=links[0], link2=links[1])  # type: ignore[arg-type]


def test_replay() -> None:
    told: dict[str, int] = {}
    untold: dict[str, int] = {}
    with gzip.open(VECTORS, "rt") as f:
        for line in f:
            row = json.loads(line)
            word = int(row["word"], 16)
            instr = decode(word)
            if reserved(instr) is not None or canonical(instr) != instr or isinstance(instr, Reserved):
                continue

            def kernel(q: Asm, i: Any = instr) -> None:
                if isinstance(i, Alu):
                    replay(q, i)
                elif isinstance(i, LoadImm):
                    replay_load(q, i)
                elif isinstance(i, Semaphore):
                    if i.waddr_add != 39:
                        raise Untold("semaphore with a destination")
                    (q.sema_down if i.acquire else q.sema_up)(i.number)
                else:
                    replay_branch(q, i)

            try:
                program = build(kernel)
            except Untold as e:
                untold[str(e)] = untold.get(str(e), 0) + 1
                continue
            except AsmError as e:
                assert [d.rule for d in e.diagnostics] == ["unpack-type"], row
                untold["a float operation unpacks an integer operand"] = (
                    untold.get("a float operation unpacks an integer operand", 0) + 1
                )
                continue
            except ValueError as e:  # pragma: no cover - a failure, shown with its word
                raise AssertionError(f"{row['word']} {row['vc4asm_MF']}: {e}") from e
            # A file-free read may sit at either port; the builder prefers A, as the canonical form does not always.
            if _ports(program.code[0]) != _ports(word):
                pytest.fail(f"{row['word']} {row['vc4asm_MF']}: 0x{program.code[0]:016x}, {instr}")
            told[type(instr).__name__] = told.get(type(instr).__name__, 0) + 1
    assert told["Alu"] > 3500, (told, untold)
    assert told["LoadImm"] > 500, (told, untold)
    assert told["Branch"] > 300, (told, untold)
    assert told["Semaphore"] == 32, (told, untold)
    assert untold["a float operation unpacks an integer operand"] <= 5, (told, untold)


def _ports(word: int) -> Any:
    """The instruction with a file-free read moved to port A."""
    i = decode(word)
    if isinstance(i, Alu) and i.sig != 13 and i.raddr_b in regs.FILE_FREE_READS - {39} and i.raddr_a == 39:
        move = {name: 6 for name in ("add_a", "add_b", "mul_a", "mul_b") if getattr(i, name) == 7}
        return i._replace(raddr_a=i.raddr_b, raddr_b=39, **move)
    return i
