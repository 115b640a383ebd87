"""The sgemm kernels of V3D 4.2 and 7.1: each workgroup of 16 items computes a tile of C in 48 registers.

Both read panels that `pack_v3d` made: of A, the words of one tile row for each k; of B, those of one tile column.

* `UNIFORM`: tiles of 24 x 32. A runs through the uniform stream, one word broadcast beside each pair of
  fused steps. 198 instructions for 192 steps.
* `LOW`: the same for tiles of 16 x 32, where those of 24 rows would be cut. 134 instructions for 128 steps.
* `ROTATE`: tiles of 12 x 64. A comes through the TMU, 16 words a register, and each word is broadcast from there:
  on 4.2 by a rotated move to r5rep (mul ALU), on 7.1 by a shuffle (add ALU). 241 and 250 instructions for 192 steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qpu import v3d
from qpu.kernels.parts_v3d import add_workgroup, load, only_switch, stop
from qpu.kernels.tiles import AHEAD, HALF, NOTHING, UNROLL, After, Shape

if TYPE_CHECKING:
    from qpu.v3d.generated.common import MulSlot
    from qpu.v3d.operands import Reg, Signal

__all__ = ["CONFIG_ROTATE", "CONFIG_UNIFORM", "LOW", "ROTATE", "UNIFORM", "Shape", "kernel", "narrow_words"]

BATCH = 4  # rows of C in flight
CONFIG_UNIFORM = 0xFAFAFAFA  # four TMU requests of two words each (v3d.md 9.2)
CONFIG_ROTATE = 0xFFFCFFFC  # four words, one word, four words, one word


UNIFORM, LOW, ROTATE = Shape(24, 2), Shape(16, 2), Shape(12, 4)


class _Names:
    """Registers by role."""

    def __init__(self, q: v3d.Asm, shape: Shape, whole: bool = False) -> None:
        rf = q.rf
        self.whole = whole  # integers, not floats
        self.acc = [rf[16 + i] for i in range(shape.rows * shape.vectors)]
        if isinstance(q, v3d.Asm42):
            self.word, self.product, self.one = q.r5, q.r0, q.r1
        else:
            self.word, self.product, self.one = rf[0], rf[1], rf[15]  # `word`: where ldunif puts its word
        self.b = [rf[4 + i] for i in range(4)]
        self.at, self.step, self.count, self.config, self.then = (rf[i] for i in (8, 9, 10, 11, 12))
        self.at_a, self.step_a = rf[13], rf[14]


def kernel(
    q: v3d.Asm, shape: Shape, product: bool, accumulate: bool, whole: bool = False, after: After = NOTHING
) -> None:
    """Emit a kernel. Dispatch: x = tile across, y = tile down, 16 items, 2 threads (64 registers).

    product: add alpha * A @ B; else C is only scaled. accumulate: add beta * C; else C is not
    read. whole: A and B are signed integers of up to 24 bits, C is one of 32, and the factors count as 1. after: what
    follows a product; requantising is for `whole` that does not accumulate.

    Uniforms, if product: first tile down, bytes of an A panel / 64, address of A, first tile across, bytes of a B
    panel / 64, address of B, bytes of a row of B, TMU configuration, loops, and but for `ROTATE` the address of the
    remaining uniforms. Then: first tile across, first tile down, rows of a tile, address, row length in elements,
    addresses of a bias and of factors as `after` has them, columns and rows of C, address of 16 spare words, alpha, and
    beta if accumulate; or, for narrow results, for each vector of the tile the words of `narrow_words`.
    """
    names = _Names(q, shape, whole)
    if product:
        _place(q, names, shape)
        if shape.vectors == UNIFORM.vectors:
            _uniform(q, names)
        elif isinstance(q, v3d.Asm42):
            _rotate_42(q, names)
        elif isinstance(q, v3d.Asm71):
            _rotate_71(q, names)
    else:
        only_switch(q)
    _finish(q, names, shape, product, accumulate, after)
    stop(q)


def _place(q: v3d.Asm, names: _Names, shape: Shape) -> None:
    """Find the panels of this tile; lanes of `at` point to their words of a row of B, `at_a` to the panel of A."""
    x, y, size, t = names.acc[:4]
    at, at_a = names.at, names.at_a
    load(q, y, size, at_a, x)
    add_workgroup(q, x, y, names.one)
    q.nop().umul24(y, y, size)
    q.shl(y, y, 6)
    q.add(at_a, at_a, y)
    load(q, size, at)
    q.nop().umul24(x, x, size)
    q.shl(x, x, 6)
    q.add(at, at, x)
    q.eidx(t)
    q.shl(t, t, 2 + shape.vectors.bit_length() - 1)
    q.add(at, at, t)
    load(q, names.step, names.config, names.count)
    if shape.vectors == UNIFORM.vectors:
        load(q, names.then)
    only_switch(q)


def _step(q: v3d.Asm, names: _Names, number: int, a: Reg, b: Reg, sig: Signal | None) -> None:
    """Multiply for accumulator `number`, and add the product of the step before to the one before."""
    done, t = names.acc[number - 1], names.product
    if names.whole:
        q.add(done, done, t, sig=sig).smul24(t, a, b)
    else:
        q.fadd(done, done, t, sig=sig).fmul(t, a, b)


def _last_step(q: v3d.Asm, names: _Names) -> None:
    """Add the product of the last step."""
    done, t = names.acc[-1], names.product
    if names.whole:
        q.add(done, done, t)
    else:
        q.fadd(done, done, t)


def _request(q: v3d.Asm, pointer: Reg, step: Reg) -> None:
    q.add(pointer, pointer, step).mov(q.tmua, pointer)


def _clear(q: v3d.Asm, names: _Names) -> None:
    t, acc = names.product, names.acc
    q.eidx(t)
    q.sub(t, t, t)
    for i in range(0, len(acc), 2):
        q.sub(acc[i], t, t).sub(acc[i + 1], t, t)


def _uniform(q: v3d.Asm, names: _Names) -> None:
    """acc[i] = sum over k of A[i // 2, k] * B[k, 16 * (i % 2) + lane]."""
    u, t, s, config, count = names.word, names.product, names.one, names.config, names.count
    b = (names.b[:2], names.b[2:])
    last = len(names.acc) - 1
    q.mov(q.tmuc, config)
    for _ in range(AHEAD):
        _request(q, names.at, names.step)
    q.b(0, unif=names.at_a)
    q.nop()
    q.nop()
    q.nop()
    _clear(q, names)
    q.nop(sig=q.ldtmu(b[0][0]))
    q.nop(sig=q.ldtmu(b[0][1]))

    # Slot i multiplies for accumulator i and adds the product of the slot before. Uniforms stay out of the delay slots.
    q.add(s, t, 1)
    with q.loop("k") as loop:
        q.sub(count, count, s, push="pushz", sig=q.ldunif).mov(q.tmuc, config)
        for step in range(UNROLL):
            final = step == UNROLL - 1
            for i in range(last + 1):
                if i % 2 == 1 and not (final and i == last):
                    sig = q.ldunif
                elif i in (last - 7, last - 5):
                    sig = q.ldtmu(b[(step + 1) % 2][int(i == last - 5)])
                else:
                    sig = None
                if final and i == last - 1:
                    q.b(loop.start, cond="na0")
                _step(q, names, i, u, b[step % 2][i % 2], sig)
                if i == 20 and not final:
                    _request(q, names.at, names.step)
        _request(q, names.at, names.step)
    q.b(0, unif=names.then)
    _last_step(q, names)
    q.nop()
    q.nop()
    for _ in range(2 * (AHEAD - 1)):
        q.nop(sig=q.ldtmu(q.null))


# -- the kernels that do not use the uniform stream for A
#
# Word w = 12 * step + row of A is lane w % 16 of its vector. A result is popped after the last use of the register that
# it goes to: the next row of B after the last row of A, the next vector of A after its 16th word. So at most 5 result
# words are pending, and a request has about one step of k (60 instructions) to complete.


def _rotate_start(q: v3d.Asm, names: _Names, a: Reg) -> None:
    """Load the first vector of A and row of B; the fourth vector of B is popped by the first slots of the loop."""
    t = names.one
    q.eidx(t)
    q.shl(t, t, 2)
    q.add(names.at_a, names.at_a, t)
    q.mov(q.tmua, names.at_a)  # one word: the configuration a program starts with
    q.mov(q.tmuc, names.config)
    _request(q, names.at, names.step)
    _clear(q, names)
    q.nop(sig=q.ldtmu(a))
    for register in names.b[:3]:
        q.nop(sig=q.ldtmu(register))


def _pops(q: v3d.Asm, names: _Names, a: Reg, step: int, row: int, column: int) -> Signal | None:
    """The signal of the slot that multiplies `row` and vector `column` of B."""
    b = names.b
    last = ROTATE.rows - 1
    if row == 0 and column == 0:
        return q.ldtmu(b[3])
    if column == 0 and (ROTATE.rows * step + row) % 16 == 15:
        return q.ldtmu(a)
    if row == last and column > 0:
        return q.ldtmu(b[column - 1])
    return None


def _rotate_42(q: v3d.Asm42, names: _Names) -> None:
    """acc[i] = sum over k of A[i // 4, k] * B[k, 16 * (i % 4) + lane]; requests use the add slots of the rotations."""
    b, a, s64, s256 = names.b, q.r1, q.r2, q.r3
    at, at_a, count, config = names.at, names.at_a, names.count, names.config
    _rotate_start(q, names, a)
    q.mov(s256, names.step)
    q.shr(s64, s256, 2)
    q.add(at_a, at_a, s64)
    last = len(names.acc) - 1
    with q.loop("k") as loop:
        for step in range(UNROLL):
            extra: dict[int, Callable[[], MulSlot]] = {2: lambda: q.or_(q.tmua, at, at), 3: lambda: q.add(at, at, s256)}
            if step == 0:  # the only slot without a rotation, whose amount excludes the immediate 1
                extra[0] = lambda: q.sub(count, count, 1, push="pushz")
            if step % 2 == 0:
                extra[1] = lambda: q.or_(q.tmuc, config, config)
            if step < 3:
                extra |= {5: lambda: q.or_(q.tmua, at_a, at_a), 6: lambda: q.add(at_a, at_a, s64)}
            for row in range(ROTATE.rows):
                lane = (ROTATE.rows * step + row) % 16
                _broadcast_42(q, extra.get(row), a, lane)
                for column in range(ROTATE.vectors):
                    i = ROTATE.vectors * row + column
                    if step == UNROLL - 1 and i == last - 2:
                        q.b(loop.start, cond="na0")
                    sig = _pops(q, names, a, step, row, column)
                    _step(q, names, i, q.r5, b[column], sig)
    _last_step(q, names)
    q.nop(sig=q.ldtmu(q.null))


def _rotate_71(q: v3d.Asm71, names: _Names) -> None:
    """As `_rotate_42`. A shuffle's result is read two instructions later at the earliest, so two scalars alternate."""
    rf, b = q.rf, names.b
    at, at_a, count, config = names.at, names.at_a, names.count, names.config
    a, scalars, s64 = rf[0], (rf[12], rf[15]), names.step_a
    _rotate_start(q, names, a)
    q.shr(s64, names.step, 2)
    q.add(at_a, at_a, s64)
    q.shl(count, count, 6)  # counts down by s64: the shuffle beside it has the immediate
    last = len(names.acc) - 1
    words = UNROLL * ROTATE.rows
    q.shuffle(scalars[0], a, 0)
    q.nop()
    with q.loop("k") as loop:
        for step in range(UNROLL):
            if step % 2 == 0:
                q.mov(q.tmuc, config)
            _request(q, at, names.step)
            for row in range(ROTATE.rows):
                word = ROTATE.rows * step + row
                for column in range(ROTATE.vectors):
                    i = ROTATE.vectors * row + column
                    if step == UNROLL - 1 and i == last - 2:
                        q.b(loop.start, cond="na0")
                    sig = _pops(q, names, a, step, row, column)
                    _step(q, names, i, scalars[word % 2], b[column], sig)
                    if column == 0:
                        slot = q.shuffle(scalars[(word + 1) % 2], a, (word + 1) % words % 16)
                        if step == 0 and row == 0:
                            slot.sub(count, count, s64, push="pushz")
                if row == 4 and step < 3:
                    _request(q, at_a, s64)
    _last_step(q, names)
    q.nop(sig=q.ldtmu(q.null))


def _broadcast_42(q: v3d.Asm42, extra: Callable[[], MulSlot] | None, a: Reg, lane: int) -> None:
    """r5 = lane `lane` of a, in all lanes; `extra` fills the add slot."""
    slot = q.nop() if extra is None else extra()
    slot.mov(q.r5rep, a, sig=q.rot(16 - lane) if lane else None)


def _finish(q: v3d.Asm, names: _Names, shape: Shape, product: bool, accumulate: bool, after: After) -> None:
    """C = alpha * tile + beta * C, one vector of columns after the other, up to four rows at a time.

    Lanes right of C and rows below it go to 16 spare words instead: no request has an empty mask.
    """
    rf = q.rf
    x, y, c_at, row, spare, alpha, beta, left, at, step, *rest = (rf[n] for n in (1, 2, *range(4, 15)))
    c, t = rest[2], names.one
    load(q, x, y)
    add_workgroup(q, x, y, t)  # rf[0] or rf[3] holds the workgroup ids until here
    values = _Values(bias=rest[1] if after.narrow else rf[0], c=c, t=t, alpha=alpha, beta=beta, factor=rf[0])
    pointers = []  # where the values of this lane's column are, and their registers
    if after.bias:
        pointers.append((beta if after.narrow else rf[3], values.bias))
    if after.narrow:
        pointers.append((rf[3], values.factor))
    rows = rest[:1] if after.narrow else rest[:2] if after.bias else [*rest[:2], rf[0], rf[3]]
    load(q, left, c_at, row)
    q.nop().umul24(y, y, left)  # first row
    q.nop().umul24(at, y, row)
    q.shl(x, x, 4 + shape.vectors.bit_length() - 1)
    q.eidx(t)
    q.add(x, x, t)  # column of this lane
    q.add(at, at, x)
    if after.scale:
        q.shl(at, at, after.scale)
        q.shl(row, row, after.scale)
    q.add(c_at, c_at, at)
    for pointer, _ in pointers:
        load(q, pointer)
        q.shl(at, x, 2)
        q.add(pointer, pointer, at)
    q.shl(t, t, 2)
    load(q, at)
    q.sub(x, at, x)  # columns from this lane to the end of C
    load(q, at)
    q.sub(y, at, y)  # rows of C from the first of the tile
    load(q, spare)
    q.add(spare, spare, t)
    load(q, *([] if after.narrow else [alpha]), *([beta] if accumulate else []))
    for vector in range(shape.vectors):
        if vector > 0:
            q.mov(t, 1)
            q.shl(t, t, 6)
            for pointer, _ in pointers:
                q.add(pointer, pointer, t)
            if after.narrow:
                q.shr(t, t, 2 - after.scale)
            q.add(c_at, c_at, t)
            q.add(x, x, -16)
        q.sub(q.null, x, 1, push="pushn")
        for pointer, register in pointers:
            q.or_(t, pointer, pointer)
            q.or_(t, spare, spare, cond="ifa")
            q.mov(q.tmua, t)
            q.nop(sig=q.ldtmu(register))
        if after.narrow:
            q.shr(values.shift, values.factor, -8)  # by 24
        q.or_(at, c_at, c_at).mov(step, row)
        q.or_(at, spare, spare, cond="ifa").mov(step, 0, cond="ifa")
        q.mov(left, y)
        for first in range(0, shape.rows, len(rows)):
            for place in rows:
                q.sub(left, left, 1, push="pushn")
                q.or_(at, spare, spare, cond="ifa").mov(step, 0, cond="ifa")
                q.add(at, at, step).mov(place, at)
                if accumulate:
                    q.mov(q.tmua, place)
            for i, place in enumerate(rows):
                acc = names.acc[shape.vectors * (first + i) + vector]
                if after.narrow:
                    _narrow_element(q, acc, values, after)
                elif names.whole:
                    _whole_element(q, acc, accumulate, values, after)
                else:
                    _element(q, acc if product else None, accumulate, values, after)
                q.mov(q.tmua, place)


@dataclass(frozen=True, slots=True)
class _Values:
    """Registers of `_finish` that elements are made of. factor: of requantising, 16 bits, and its shift above 24."""

    bias: Reg
    c: Reg
    t: Reg
    alpha: Reg
    beta: Reg
    factor: Reg

    @property
    def shift(self) -> Reg:
        """Where requantising has the shift: there is no alpha."""
        return self.alpha


def _element(q: v3d.Asm, acc: Reg | None, accumulate: bool, v: _Values, after: After) -> None:
    """alpha * acc + beta * the next TMU result to the store data; without an acc, that part is left out."""
    plain = not after.bias and not after.relu
    if acc is None:
        if accumulate:
            q.nop(sig=q.ldtmu(v.c))
            q.nop().fmul(q.tmud, v.c, v.beta)
        else:
            q.mov(q.tmud, 0)
        return
    if accumulate:
        q.nop(sig=q.ldtmu(v.c)).fmul(acc, acc, v.alpha)
        q.nop().fmul(v.c, v.c, v.beta)
        q.fadd(q.tmud if plain else acc, acc, v.c)
    else:
        q.nop().fmul(q.tmud if plain else acc, acc, v.alpha)
    if after.bias:
        q.fadd(acc if after.relu else q.tmud, acc, v.bias)
    if after.relu:
        q.fcmp(q.null, acc, 0, push="pushn")
        q.mov(acc, 0, cond="ifa")
        q.mov(q.tmud, acc)  # a NaN, too


def _whole_element(q: v3d.Asm, acc: Reg, accumulate: bool, v: _Values, after: After) -> None:
    """acc + the next TMU result to the store data; or acc alone."""
    terms = [v.c] if accumulate else []
    if accumulate:
        q.nop(sig=q.ldtmu(v.c))
    if after.bias:
        terms.append(v.bias)
    for n, term in enumerate(terms):
        q.add(acc if after.relu or n + 1 < len(terms) else q.tmud, acc, term)
    if after.relu:
        q.max(q.tmud, acc, 0)
    elif not terms:
        q.mov(q.tmud, acc)


def _narrow_element(q: v3d.Asm, acc: Reg, v: _Values, after: After) -> None:
    """(acc + bias) * factor / 2**(16 + shift), rounded half up and limited, to the store data; see `igemm`.

    By halves of 16 bits; multiplications of 24 bits do not see the shift above the factor.
    """
    high, low, shift = v.c, v.t, v.shift
    q.nop(sig=q.wrtmuc)
    if after.bias:
        q.add(acc, acc, v.bias)
    q.asr(high, acc, -16)
    q.shl(low, acc, -16)
    q.shr(low, low, -16)
    q.or_(q.null, shift, shift, push="pushz").umul24(low, low, v.factor)
    load(q, acc)  # half a unit
    q.add(low, low, acc, cond="ifa")
    q.nop().smul24(high, high, v.factor)
    q.shr(low, low, -16)
    q.add(high, high, low)
    q.mov(acc, 1)
    q.shl(acc, acc, shift)
    q.shr(acc, acc, 1)
    q.add(high, high, acc)
    q.asr(high, high, shift)
    for operation, target in ((q.add, high), (q.max, high), (q.min, q.tmud)):
        load(q, acc)
        operation(target, high, acc)


def narrow_words(size: int, limits: tuple[int, int, int]) -> list[int]:
    """What a vector of `size`-byte results needs: configuration of its store, half a unit, zero, lowest, highest."""
    return [0xFFFFFFF8 | size >> 1, HALF, *(word & 0xFFFFFFFF for word in limits)]
