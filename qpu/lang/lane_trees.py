"""Joining the 16 lanes of a value: trees and scans by rotation, in the lanes that run."""

from __future__ import annotations

from typing import Final

from qpu.lang.front import Front
from qpu.lang.kir import Value

__all__ = ["FLAGS", "IDENTITY", "JOIN", "active", "join_lanes", "scan_lanes"]

JOIN: Final = {
    "sum": {"f": "fadd", "i": "add", "u": "add"},
    "min": {"f": "fmin", "i": "min", "u": "umin"},
    "max": {"f": "fmax", "i": "max", "u": "umax"},
    **{name: {"i": name, "u": name} for name in ("and", "or", "xor")},
}
"""The operation that joins two lanes, by kind and type."""

IDENTITY: Final = {
    "sum": {"f": 0, "i": 0, "u": 0},
    "min": {"f": 0x7F800000, "i": 0x7FFFFFFF, "u": 0xFFFFFFFF},
    "max": {"f": 0xFF800000, "i": 0x80000000, "u": 0},
    "and": {"i": 0xFFFFFFFF, "u": 0xFFFFFFFF},
    "or": {"i": 0, "u": 0},
    "xor": {"i": 0, "u": 0},
}


FLAGS: Final = {"vc4": (1, 2, 4), "v3d42": (1, 2), "v3d71": (1, 2)}
"""Lane numbers that flags can tell at once: whether a lane is one of those from there on."""


def active(f: Front, v: Value, kind: str) -> Value:
    """v in the lanes that run, the identity elsewhere."""
    return v if f.mask is None else f.q.emit("select", f.mask, v, f.q.const(v.type, IDENTITY[kind][v.type]))


def join_lanes(f: Front, v: Value, kind: str) -> Value:
    """The 16 lanes joined by a tree, 8, 4, 2, 1 lanes apart; the same in every lane, as the operations commute."""
    for distance in (8, 4, 2, 1):
        v = f.q.emit(JOIN[kind][v.type], v, _moved(f, v, distance))
    return f.q.emit("same", v)


def scan_lanes(f: Front, v: Value, kind: str) -> Value:
    """Each lane joined with all lanes before it."""
    q = f.q
    lane = q.emit("lane")
    identity = q.const(v.type, IDENTITY[kind][v.type])
    for distance in (1, 2, 4, 8):
        inside = q.emit("le", q.const("i", distance), lane, type_="b", attr="i")
        moved = _moved(f, v, 16 - distance)
        if v.type != "f" and distance in FLAGS[f.isa]:  # one set of flags for all scans of a block
            v = q.emit("select", inside, q.emit(JOIN[kind][v.type], v, moved), v)
            continue
        if identity.attr == 0:  # by bits, not by flags, which scans beside each other would have to share
            bits = q.emit("select", inside, q.const("i", 0xFFFFFFFF), q.const("i", 0))
            part = q.emit("and", q.emit("bitcast", moved, type_="i"), bits)
            moved = q.emit("bitcast", part, type_=v.type)
        else:
            moved = q.emit("select", inside, moved, identity)
        v = q.emit(JOIN[kind][v.type], v, moved)
    return v


def _moved(f: Front, v: Value, n: int) -> Value:
    """As rot, of values that are the same in all lanes too: their sum counts every lane."""
    return f.q.emit("rot", v, attr=n) if v.varying else v
