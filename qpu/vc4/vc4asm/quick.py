"""A short cut for plain lines: one or two three-operand operations or moves and perhaps a signal.

It knows accumulators, physical registers, write-only peripherals and integers as operands, conditions and ``.setf`` as
extensions, and gives up (None) at whatever else, at every conflict and wherever the language has a choice to make. What
it accepts means the same to `qpu.vc4.vc4asm.place`; a test compares them.
"""

from __future__ import annotations

import re

from qpu.vc4.vc4asm.names import ALU_CONDS, OPCODES
from qpu.vc4.vc4asm.registers import REGISTERS

__all__ = ["quick_word"]

_OPERATION = re.compile(r"\s*(\w+)((?:\.\w+)*)\s+(\w+)\s*,\s*(-?\w+)(?:\s*,\s*(-?\w+))?\s*")

# (is MUL, opcode, sources)
_OPS = {
    name: (info.add < 0, info.mul if info.add < 0 else info.add, info.sources)
    for name, info in OPCODES.items()
    if info.kind == "alu" and (info.add < 0 or info.mul < 0)
}
_SIGNALS = {name: info.code for name, info in OPCODES.items() if info.kind == "sig"}
# (address, ws that the ADD ALU needs or -1)
_DESTINATIONS = {
    name: (reg.waddr, (-1, 0, 1, -1)[reg.write_files])
    for name, reg in REGISTERS.items()
    if reg.write_files and reg.waddr != 39
}
# (mux, address on port A or -1, address or 64 + immediate code on port B or -1)
_SOURCES: dict[str, tuple[int, int, int]] = {
    name: (reg.mux, -1, -1) if reg.mux >= 0 else (6, reg.raddr, -1) if reg.read_files == 1 else (7, -1, reg.raddr)
    for name, reg in REGISTERS.items()
    if reg.mux >= 0 or reg.read_files in (1, 2)
}
_SOURCES.update((str(n), (7, -1, 64 + (n & 31))) for n in range(-16, 16))
_EXTS: dict[str, tuple[int, int]] = {"": (1, 0)}  # text of the extensions -> condition, sets flags
for _name, _code in ALU_CONDS.items():
    _EXTS["." + _name] = (_code, 0)
    for _setf in (".setf", ".sf"):
        _EXTS[f".{_name}{_setf}"] = _EXTS[f"{_setf}.{_name}"] = (_code, 1)
_EXTS[".setf"] = _EXTS[".sf"] = (1, 1)
_UNARY = frozenset({7, 8, 23, 24})
_NO_IMMEDIATE_SECOND = frozenset({12, 13})  # add, sub: 16 and shared negatives have forms of their own
_ZERO = frozenset({13, 22})


def quick_word(line: str) -> int | None:
    """The word of a plain line without label and comment, or None."""
    sig, ra, rb = 1, -1, -1
    add = mul = -1  # opcodes
    add_a = add_b = mul_a = mul_b = cond_add = cond_mul = sf = 0
    waddr_add = waddr_mul = 39
    ws_add = ws_mul = -1
    for piece in line.split(";"):
        match = _OPERATION.fullmatch(piece)
        if match is None:
            name = piece.strip()
            code = _SIGNALS.get(name)
            if code is None or sig != 1:
                return None
            sig = code
            continue
        name, ext, d, s, t = match.groups()
        op = _OPS.get(name)
        if op is None:
            if name != "mov" or t is not None:
                return None
            on_mul = add >= 0
            opcode, sources = (4 if on_mul else 21), 1
            t = s
        else:
            on_mul, opcode, sources = op
            if (t is None) != (sources == 1):
                return None
        dst = _DESTINATIONS.get(d)
        first = _SOURCES.get(s)
        ext_row = _EXTS.get(ext)
        if dst is None or first is None or ext_row is None:
            return None
        a, port, imm = first
        if port >= 0:
            if ra >= 0 and ra != port:
                return None
            ra = port
        if imm >= 0:
            if rb >= 0 and rb != imm:
                return None
            rb = imm
        if t is None:
            b = a
        else:
            second = _SOURCES.get(t)
            if second is None:
                return None
            b, port, imm = second
            if port >= 0:
                if ra >= 0 and ra != port:
                    return None
                ra = port
            if imm >= 0:
                if rb >= 0 and rb != imm:
                    return None
                rb = imm
                if imm >= 64 and (a == 7 or (opcode in _NO_IMMEDIATE_SECOND and not on_mul)):
                    return None
        if on_mul:
            if mul >= 0 or ext_row[1]:
                return None
            mul, mul_a, mul_b, waddr_mul, ws_mul = opcode, a, b, dst[0], dst[1]
            if ws_mul >= 0:
                ws_mul ^= 1
            cond_mul = ext_row[0]
        else:
            if add >= 0 or (a == b and opcode in _ZERO):
                return None
            add, add_a, add_b, waddr_add, ws_add = opcode, a, b, dst[0], dst[1]
            cond_add, sf = ext_row
    if ws_add >= 0 and ws_mul >= 0 and ws_add != ws_mul:
        return None
    if rb >= 64:
        if sig != 1:
            return None
        sig = 13
        rb -= 64
        if (add < 0 and mul_a == mul_b == 7) or (mul < 0 and add_a == add_b == 7 and add not in _UNARY):
            return None
    ws = 1 if ws_add == 1 or ws_mul == 1 else 0
    if add < 0:
        if mul < 0 or (mul == 7 and mul_a == mul_b):
            return None
        add = 0
    elif mul < 0:
        mul = 0
    return (
        sig << 60
        | cond_add << 49
        | cond_mul << 46
        | sf << 45
        | ws << 44
        | waddr_add << 38
        | waddr_mul << 32
        | mul << 29
        | add << 24
        | (ra if ra >= 0 else 39) << 18
        | (rb if rb >= 0 else 39) << 12
        | add_a << 9
        | add_b << 6
        | mul_a << 3
        | mul_b
    )
