"""Words that are the same in all lanes and follow each other in memory, read as a stream: no address and no request of
the TMU for each. A loop has one stream; where each turn goes on where the last one ended, it is begun in front of it.

Streams see memory as it was when the launch began, so only arrays that nothing writes (`In`) are read so.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from qpu.lang.kir import Loop, Region, Value, walk
from qpu.lang.rewrite import Rewriter
from qpu.lang.types import DTYPES

__all__ = ["read_streams"]

LEAST = 4  # words of a turn that are worth a stream


@dataclass(slots=True)
class _Stream:
    """Loads of a turn in order. root: their base is this value and `first` bytes; carried: its number, where all
    turns are one stream.
    """

    root: Value
    first: int
    loads: list[Value]
    carried: int | None = None


def _signed(bits: int) -> int:
    return bits - (1 << 32) if bits >> 31 else bits


def _root(v: Value) -> tuple[Value, int]:
    """A value as another one and a constant."""
    total = 0
    while v.op == "add" and v.args[1].constant is not None:
        total += _signed(v.args[1].constant)
        v = v.args[0]
    return v, total


class _Streams(Rewriter):
    """loads: that become reads of a stream; seeks: the streams that begin with each turn, by their first load."""

    def __init__(self, isa: str, inputs: Collection[int]) -> None:
        super().__init__(isa)
        self.inputs = inputs
        self.loads: set[int] = set()
        self.seeks: dict[int, _Stream] = {}

    def loop(self, v: Value, attr: Loop) -> None:
        stream = self._find(attr)
        if stream is not None:
            self.loads |= {id(x) for x in stream.loads}
            if stream.carried is None:
                self.seeks[id(stream.loads[0])] = stream
            else:
                self._seek(self.get(v.args[1 + stream.carried]), stream.first)
        super().loop(v, attr)

    def _seek(self, root: Value, first: int) -> None:
        q = self.q
        q.append("seek", (q.emit("add", root, self.u(first)),), "", None, varying=False)

    def _find(self, attr: Loop) -> _Stream | None:
        """The longest run of words."""
        if any(isinstance(v.attr, Loop) for v in walk(attr.region)):
            return None
        rows: dict[int, _Stream] = {}
        for v in attr.region.ops:
            if v.op != "load" or len(v.args) != 2 or v.args[0].varying or v.args[1].constant != 0:
                continue
            if v.attr.array not in self.inputs or DTYPES[v.attr.dtype].size != 4:
                continue
            root, first = _root(v.args[0])
            row = rows.setdefault(id(root), _Stream(root, first + v.attr.offset, []))
            if row.first + 4 * len(row.loads) == first + v.attr.offset:
                row.loads.append(v)
        found = max(rows.values(), key=lambda s: len(s.loads), default=None)
        if found is None or len(found.loads) < LEAST:
            return None
        root = found.root
        if root.op == "parameter" and root.region is attr.region:
            after, step = _root(attr.yields[root.attr])
            if after is root and step == 4 * len(found.loads):
                found.carried = root.attr
        return found

    def replace(self, v: Value, args: tuple[Value, ...]) -> Value | None:
        if id(v) not in self.loads:
            return None
        stream = self.seeks.get(id(v))
        if stream is not None:
            self._seek(self.get(stream.root), stream.first)
        return self.q.append("next", (), v.type, None, varying=False)


def read_streams(top: Region, isa: str, inputs: Collection[int]) -> Region:
    """The same kernel with streams. inputs: arrays that nothing writes."""
    r = _Streams(isa, inputs)
    r.region(top)
    return r.q.top
