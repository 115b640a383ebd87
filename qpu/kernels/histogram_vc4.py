"""The histogram of VideoCore IV, by hand: each lane counts its own items in 32 words, and lanes are added now and then.

A word has eight digits of four bits: 256 bins. Which word an item counts in is a bit of `X`, so one shift that sets
flags (N: the top bit, C: the last one shifted out) decides about two words. 15 items fill a digit. Then the lanes are
added: bin 16 b + n is in word (b - lane) mod 16 of its lane, half n / 8, so rotating a sum by one lane before each word
brings all counts of block b to lane b, where bytes hold them, and 32-bit counters take them.

While an item is counted, the next one is prepared in the ADD slots between: 33 instructions for 16 items, and about 150
for the addition of the lanes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from qpu.core.isa import Isa
from qpu.instruction_sets import assemble
from qpu.vc4 import vpm

if TYPE_CHECKING:
    from qpu.program import Program
    from qpu.vc4.builder import AddSlot, Asm
    from qpu.vc4.operands import ReadWrite, UnpackName

__all__ = ["BINS", "kernel", "launches", "program"]

BINS: Final = 256
"""Bins that are counted in one pass over the items."""
LANES: Final = 16
LINE: Final = 64
"""Bytes of a vector of words."""
BYTES: Final[tuple[UnpackName, ...]] = ("8a", "8b", "8c", "8d")
DIGIT: Final = 15
"""The most that a digit holds."""
ROWS: Final = 4
"""Rows of the VPM for a QPU: 12 QPUs use 48 of the 64."""
LAUNCH: Final = 1 << 19
"""Vectors of words of a launch, so that it ends in time, see `sgemm`: 0.13 s of bytes at the issue rate of a Pi 1."""
SHARED: Final = 14
"""The pair of words whose additions share an instruction in the last item of a word, before its branch."""


def kernel(q: Asm, size: int, signed: bool) -> None:
    """Emit the histogram of items of `size` bytes. Uniforms: constants, records, places of the result (`_stream`)."""
    _Emitter(q, size, signed).emit()


@cache
def program(size: int, signed: bool) -> Program:
    """The assembled kernel."""
    return assemble(kernel, size, signed, isa=Isa.VC4)


class _Emitter:
    """Registers of the kernel, and its parts.

    An instruction has one small immediate, in the place of a register of file B. So the words are in file A but for one
    (words[2]), in whose place is the loop counter. r0: X of the item that is counted; r1: one, in its digit.
    """

    def __init__(self, q: Asm, size: int, signed: bool) -> None:
        self.q, self.size, self.signed = q, size, signed
        self.items = 4 // size
        """Items of a lane in a vector of words."""
        b = iter(q.rb)
        self.words: list[ReadWrite] = [q.ra[n] for n in range(32)]
        self.count = q.ra[2]
        self.words[2] = next(b)
        self.counters = [next(b) for _ in range(16)]
        self.outside = [next(b) for _ in range(self.items)]
        self.low, self.turn, self.at, self.last, self.digit, self.total = (next(b) for _ in range(6))
        self.kept = [next(b) for _ in range(2)]
        self.nibbles, self.line = next(b), next(b)

    # -- items

    def prepared(self, item: int) -> Iterator[Callable[[], AddSlot]]:
        """Operations that prepare an item of the word in r4, for `taken`: r2, r3 and `digit`."""
        q, bits = self.q, 8 * self.size
        t, v = q.r2, q.r3
        if self.size < 4:
            yield lambda: q.shl(t, q.r4, _immediate(32 - bits - bits * item))
            yield lambda: (q.asr if self.signed else q.shr)(t, t, _immediate(32 - bits))
        yield lambda: q.sub(t, t if self.size < 4 else q.r4, self.low)
        yield lambda: q.shr(v, t, 8)
        yield lambda: q.or_(v, v, self.outside[item])
        yield lambda: q.clz(v, v)  # 32 for an item that counts
        yield lambda: q.shr(v, v, 5)
        yield lambda: q.shl(self.digit, t, 2)
        yield lambda: q.sub(t, t, self.turn)
        yield lambda: q.shr(t, t, 3)

    def taken(self) -> tuple[Callable[[], AddSlot], Callable[[], AddSlot]]:
        """Operations that make the prepared item the one that is counted."""
        q = self.q
        return lambda: q.shl(q.r0, 1, q.r2), lambda: q.shl(q.r1, q.r3, self.digit)

    def requested(self) -> Iterator[Callable[[], AddSlot]]:
        """Operations that load the next vector and request the one after it, or the last one again."""
        q = self.q
        yield lambda: q.add(q.r2, self.at, q.r5)
        yield lambda: q.min(self.at, q.r2, self.last, sig=q.ldtmu0)
        yield lambda: q.min(q.tmu0_s, q.r2, self.last)

    def counted(self, item: int, back: str) -> None:
        """Count an item and prepare the next one. The last one of a word ends a turn of the loop."""
        q = self.q
        final = item + 1 == self.items
        beside = [*(self.requested() if final else ()), *self.prepared((item + 1) % self.items)]
        free = iter(beside)
        x, one = self.taken()
        carried: ReadWrite | None = None
        for pair in range(16):
            carry, top = self.words[31 - 2 * pair], self.words[30 - 2 * pair]
            flags = q.shl(q.null, q.r0, _immediate(2 * pair + 1), push="z")
            if carried is not None:
                flags.v8adds(carried, carried, q.r1, cond="ifc")
            carried = carry
            if pair == SHARED:
                if final:
                    q.add(top, top, q.r1, cond="ifn").v8adds(carry, carry, q.r1, cond="ifc")
                    q.sub(self.count, self.count, 1, push="z")
                    q.b(back, cond="allnz")
                    carried = None
                else:
                    q.nop().v8adds(top, top, q.r1, cond="ifn")
                continue
            (x if pair == 15 else next(free, q.nop))().v8adds(top, top, q.r1, cond="ifn")
        assert carried is not None and next(free, None) is None
        one().v8adds(carried, carried, q.r1, cond="ifc")

    # -- the addition of the lanes

    def added(self) -> None:
        """Add the counts of all lanes to the counters, and clear the words. r0 and r1 are kept.

        r0: sum of words as they are; r1: of the upper digits of their bytes.
        """
        q = self.q
        q.mov(self.kept[0], q.r0)
        q.mov(self.kept[1], q.r1)
        q.mov(q.r5rep, self.nibbles)
        for half in range(2):
            words = self.words[half::2]
            q.xor(q.r0, q.r0, q.r0).v8subs(q.r1, q.r1, q.r1)
            q.xor(q.r3, q.r3, q.r3)
            for n in reversed(range(16)):
                word = words[n]
                if word is self.words[2]:
                    word = words[15]  # whose count is in the sum already
                    q.mov(word, self.words[2])
                    q.xor(self.words[2], q.r3, q.r3)
                q.shr(q.r2, word, 4).v8adds(q.r1, q.r1, q.r3)
                q.and_(q.r3, q.r2, q.r5).v8min(q.r0, q.r0, q.r0, rotate=1)
                q.add(q.r0, q.r0, word).v8min(q.r1, q.r1, q.r1, rotate=1)
            q.nop().v8adds(q.r1, q.r1, q.r3)
            q.shl(q.r2, q.r1, 4)
            q.sub(q.r2, q.r0, q.r2)  # the lower digits
            lower, upper = q.ra[half + 30], q.ra[half + 28]
            q.mov(lower, q.r2)
            q.mov(upper, q.r1)
            clear = iter([w for n, w in enumerate(words) if n < 14 and w is not self.words[2]])
            for byte, name in enumerate(BYTES):
                for digit, digits in enumerate((lower, upper)):
                    counter = self.counters[8 * half + 2 * byte + digit]
                    cleared = next(clear)
                    q.add(counter, counter, digits.unpack(name)).v8subs(cleared, q.r0, q.r0)
            for word in (*clear, lower, upper):
                q.xor(word, q.r0, q.r0)
        q.mov(q.r5rep, self.line)
        q.mov(q.r0, self.kept[0])
        q.mov(q.r1, self.kept[1])

    # -- the program

    def emit(self) -> None:
        """The whole program."""
        q = self.q
        q.mov(self.low, q.uniform)
        q.shl(self.turn, q.element_number, 4)
        q.ldi(self.nibbles, 0x0F0F0F0F)
        q.ldi(self.line, LINE)
        q.xor(q.r0, q.r0, q.r0)
        for register in (*self.words, *self.counters):
            q.mov(register, q.r0)
        q.mov(q.r5rep, self.line)
        record = q.label("record")
        self.begin()
        group = q.label("group")
        q.mov(q.r2, self.total)
        q.min(self.count, q.r2, DIGIT // self.items)
        q.nop()
        q.sub(self.total, q.r2, self.count)
        loop = q.label("word")
        for item in range(self.items):
            self.counted(item, loop.name)
        self.added()
        q.mov(q.null, self.total, push="z")
        q.b(group, cond="allnz")
        q.nop()
        q.nop()
        q.nop()
        q.mov(q.null, q.uniform, push="z")
        q.b(record, cond="allnz")
        q.nop(sig=q.ldtmu0)  # requested once more than needed
        q.nop()
        q.nop()
        self.end()

    def begin(self) -> None:
        """Begin a record: what is inside, and the first item."""
        q = self.q
        q.min(q.r0, q.element_number, q.uniform)
        q.shl(q.r0, q.r0, 2)
        q.add(q.r2, q.r0, q.uniform)
        q.mov(q.tmu0_s, q.r2)
        q.mov(self.at, q.r2)
        q.add(self.last, q.r2, q.uniform)
        q.mov(self.total, q.uniform)
        if self.items > 1:
            q.shl(q.r0, q.element_number, self.items // 2)
        else:
            q.mov(q.r0, q.element_number)
        q.sub(q.r2, q.r0, q.uniform)
        q.sub(q.r3, q.uniform, q.r0)
        for register in self.outside:
            q.or_(q.r0, q.r2, q.r3)
            q.shr(register, q.r0, _immediate(31))
            q.add(q.r2, q.r2, 1)
            q.sub(q.r3, q.r3, 1)
        for operation in (*self.requested(), *self.prepared(0), *self.taken()):
            operation()
        q.nop()

    def end(self) -> None:
        """Store the counters: four of each lane, 64 bytes from those of the next lane."""
        q = self.q
        for first in range(0, 16, ROWS):
            if first:
                q.wait_dma_store()
            q.mov(q.vw_setup, q.uniform)
            for counter in self.counters[first : first + ROWS]:
                q.mov(q.vpm, counter)
            for register in (q.vw_setup, q.vw_setup, q.vw_addr):
                q.mov(register, q.uniform)
        q.wait_dma_store()
        q.end()


def _immediate(count: int) -> int:
    """A number of places to shift as a small immediate: 16 to 31 are negative numbers, of which five bits count."""
    return count if count < 16 else count - 32


@dataclass(frozen=True, slots=True)
class _Part:
    """Vectors of words that belong to a QPU. The items first..end - 1 of each are counted; words: that are loaded."""

    address: int
    vectors: int
    words: int
    first: int
    end: int


def launches(*, source: int, n: int, size: int, low: int, target: int, qpus: int) -> Iterator[list[NDArray[np.uint32]]]:
    """The parameter stream of each QPU, for one launch after the other.

    source: address of n items of `size` bytes. low: the value of the first bin. target: address of 256 words for each
    QPU that takes part, where each launch leaves the counts of each.
    """
    limit = LAUNCH * LINE // size
    for first in range(0, n, limit):
        parts = _parts(source + first * size, min(limit, n - first), size, qpus)
        yield [_stream(some, low, target + 4 * BINS * qpu, qpu) for qpu, some in enumerate(parts)]


def _parts(source: int, n: int, size: int, qpus: int) -> list[list[_Part]]:
    """The work of each QPU: whole vectors, and those at the ends by themselves."""
    begin, end = source & ~3, source + n * size
    vectors = -(-(end - begin) // LINE)

    def some(first: int, count: int) -> _Part:
        address = begin + first * LINE
        rest = min(end - address, LINE)
        return _Part(address, count, -(-rest // 4), max(source - address, 0) // size, rest // size)

    whole = range(int(begin != source), max(vectors - int((end - begin) % LINE != 0), int(begin != source)))
    each = max(1, -(-len(whole) // qpus))
    found = [[some(first, min(each, whole.stop - first))] for first in whole[::each]]
    ragged = [some(first, 1) for first in sorted({0, vectors - 1}) if first not in whole]
    for number, part in enumerate(ragged):
        if len(found) < qpus:
            found.append([part])
        else:
            found[number - len(ragged)].append(part)
    return found


def _stream(parts: list[_Part], low: int, target: int, qpu: int) -> NDArray[np.uint32]:
    """The parameters of a QPU.

    The first value; records: last lane that loads, address, bytes to the last vector, vectors, first and last item that
    count, 1 if another follows; for each four counters VPM set-up, DMA set-up, its stride, and address.
    """
    words = [low]
    for part in parts:
        words += [part.words - 1, part.address, LINE * (part.vectors - 1), part.vectors, part.first, part.end - 1]
        words.append(int(part is not parts[-1]))
    for first in range(0, 16, ROWS):
        words += [vpm.vpm_write(y=ROWS * qpu), vpm.dma_store(16, ROWS, "32bit vertical", y=ROWS * qpu)]
        words += [vpm.dma_store_stride(LINE - 4 * ROWS), target + 4 * first]
    return (np.array(words, np.int64) & 0xFFFFFFFF).astype(np.uint32)
