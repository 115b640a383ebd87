"""Programs of V3D with one planted fault each. The line that must be named ends with ``# here``, the second place of
the finding with ``# there``. Uniforms of all programs: x, y (16 words each, x written by the CPU)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from qpu.core.isa import Isa

__all__ = ["FAULTS", "Fault"]


class Fault(NamedTuple):
    """A planted fault. rule: of the finding. threads: workgroups of 16 items. together: they are one supergroup.
    x, y: elements; y is `empty`. words: uniforms after x and y. only: the instruction set, None for both."""

    name: str
    rule: str
    build: Callable[[Any], None]
    threads: int = 1
    together: bool = True
    x: int = 16
    y: int = 16
    only: Isa | None = None


FAULTS: list[Fault] = []


def fault(rule: str, **more: Any) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """Add a program to the list."""

    def add(build: Callable[[Any], None]) -> Callable[[Any], None]:
        FAULTS.append(Fault(build.__name__, rule, build, **more))
        return build

    return add


def begin(q: Any) -> Any:
    """rf20, rf21: x, y; rf10: lane; rf22, rf23: the lane's word of x, y; rf24: workgroup; rf25, rf26: words 0 of both
    plus 4 times the workgroup."""
    r = q.rf
    q.nop(sig=q.ldunifrf(r[20]))
    q.nop(sig=q.ldunifrf(r[21]))
    q.or_(r[24], r[0 if q.isa is Isa.V3D42 else 3], r[0 if q.isa is Isa.V3D42 else 3])
    q.eidx(r[10])
    q.shl(r[11], r[10], 2)
    q.add(r[22], r[20], r[11])
    q.add(r[23], r[21], r[11])
    q.shl(r[12], r[24], 2)
    q.add(r[25], r[20], r[12])
    q.add(r[26], r[21], r[12])
    return r


def copy(q: Any, target: Any, source: Any, **more: Any) -> None:
    q.or_(target, source, source, **more)


def finish(q: Any) -> None:
    q.tmuwt(q.null)
    q.end()


def load(q: Any, target: Any, address: Any) -> None:
    q.or_(q.tmua, address, address)
    q.nop()
    q.nop(sig=q.ldtmu(target))


def barrier(q: Any) -> None:
    q.sub(q.syncb, q.rf[10], q.rf[10], sig=q.thrsw)
    q.nop()
    q.nop()


# -- values that nobody wrote


@fault("uninitialised")
def stores_a_register(q: Any) -> None:
    r = begin(q)
    q.or_(q.tmud, r[17], r[17])  # there
    q.or_(q.tmua, r[23], r[23])  # here
    finish(q)


@fault("uninitialised")
def address_of_a_load(q: Any) -> None:
    r = begin(q)
    q.or_(q.tmua, r[18], r[18])  # here
    q.nop(sig=q.ldtmu(r[30]))
    finish(q)


@fault("uninitialised")
def some_lanes_only(q: Any) -> None:
    r = begin(q)
    q.sub(q.null, r[10], 5, push="pushz")
    q.or_(r[17], r[10], r[10], cond="ifa")  # there
    copy(q, q.tmud, r[17])
    q.or_(q.tmua, r[23], r[23])  # here
    finish(q)


@fault("uninitialised")
def condition_without_flags(q: Any) -> None:
    r = begin(q)
    copy(q, r[30], r[10])
    q.add(r[30], r[10], 1, cond="ifa")  # there
    copy(q, q.tmud, r[30])
    q.or_(q.tmua, r[23], r[23])  # here
    finish(q)


@fault("uninitialised")
def branch_without_flags(q: Any) -> None:
    begin(q)
    label = q.new_label()
    q.b(label, cond="anya")  # here
    for _ in range(3):
        q.nop()
    q.label(label)
    finish(q)


@fault("uninitialised")
def loads_empty_memory(q: Any) -> None:
    r = begin(q)
    q.or_(q.tmua, r[23], r[23])  # there
    q.nop(sig=q.ldtmu(r[30]))
    copy(q, q.tmud, r[30])
    q.or_(q.tmua, r[22], r[22])  # here
    finish(q)


@fault("uninitialised")
def computed_in_two_steps(q: Any) -> None:
    r = begin(q)
    q.add(r[30], r[17], r[10])  # there
    q.shl(r[31], r[30], 1)
    copy(q, q.tmud, r[31])
    q.or_(q.tmua, r[23], r[23])  # here
    finish(q)


@fault("uninitialised")
def second_stored_word(q: Any) -> None:
    r = begin(q)
    q.sub(r[13], r[10], r[10])
    q.sub(q.tmuc, r[13], 6)  # two words for each lane
    copy(q, q.tmud, r[10])
    q.or_(q.tmud, r[19], r[19])  # there
    q.or_(q.tmua, r[21], r[21])  # here
    finish(q)


@fault("uninitialised")
def address_of_a_stream(q: Any) -> None:
    r = begin(q)
    q.or_(q.unifa, r[17], r[17])  # here
    for _ in range(4):
        q.nop()
    finish(q)


@fault("uninitialised")
def flags_of_a_register(q: Any) -> None:
    r = begin(q)
    q.sub(q.null, r[17], 1, push="pushz")  # there
    label = q.new_label()
    q.b(label, cond="anya")  # here
    for _ in range(3):
        q.nop()
    q.label(label)
    finish(q)


# -- bounds


@fault("out-of-bounds", y=8)
def sixteen_lanes_for_eight_elements(q: Any) -> None:
    r = begin(q)
    copy(q, q.tmud, r[10])
    q.or_(q.tmua, r[23], r[23])  # here
    finish(q)


@fault("out-of-bounds")
def one_element_after_the_end(q: Any) -> None:
    r = begin(q)
    q.add(r[22], r[22], 4)
    q.or_(q.tmua, r[22], r[22])  # here
    q.nop(sig=q.ldtmu(r[30]))
    finish(q)


@fault("out-of-bounds")
def one_element_before_the_start(q: Any) -> None:
    r = begin(q)
    q.sub(r[23], r[23], 4)
    copy(q, q.tmud, r[10])
    q.or_(q.tmua, r[23], r[23])  # here
    finish(q)


@fault("uniforms-end")
def a_third_uniform(q: Any) -> None:
    r = begin(q)
    q.nop(sig=q.ldunifrf(r[30]))  # here
    finish(q)


# -- order


@fault("race", threads=2)
def two_stores_to_one_word(q: Any) -> None:
    r = begin(q)
    copy(q, q.tmud, r[24])
    q.or_(q.tmua, r[23], r[23])  # here # there
    finish(q)


@fault("race", threads=2)
def load_of_the_word_of_another(q: Any) -> None:
    """Each stores its number to its word, and loads the word of the other."""
    r = begin(q)
    q.sub(r[13], r[10], r[10])
    q.add(r[14], r[24], 5)
    copy(q, q.tmud, r[14])
    q.or_(q.tmua, r[25], r[25])  # there
    q.tmuwt(q.null)
    q.xor(r[15], r[12], 4)
    q.add(r[15], r[20], r[15])
    q.or_(q.tmua, r[15], r[15])  # here
    q.nop(sig=q.ldtmu(r[30]))
    finish(q)


@fault("race", threads=2)
def stores_where_another_loads(q: Any) -> None:
    r = begin(q)
    q.xor(r[15], r[12], 4)
    q.add(r[15], r[20], r[15])
    q.or_(q.tmua, r[15], r[15])  # there
    q.nop(sig=q.ldtmu(r[30]))
    q.add(r[14], r[30], 5)
    copy(q, q.tmud, r[14])
    q.or_(q.tmua, r[25], r[25])  # here
    finish(q)


@fault("race", threads=2, together=False)
def barriers_of_different_supergroups(q: Any) -> None:
    r = begin(q)
    q.add(r[14], r[24], 5)
    copy(q, q.tmud, r[14])
    q.or_(q.tmua, r[25], r[25])  # there
    q.tmuwt(q.null)
    barrier(q)
    q.xor(r[15], r[12], 4)
    q.add(r[15], r[20], r[15])
    q.or_(q.tmua, r[15], r[15])  # here
    q.nop(sig=q.ldtmu(r[30]))
    finish(q)


@fault("race", threads=2)
def loads_after_the_barrier_what_is_stored_after_it(q: Any) -> None:
    r = begin(q)
    barrier(q)
    q.add(r[14], r[24], 5)
    copy(q, q.tmud, r[14])
    q.or_(q.tmua, r[25], r[25])  # there
    q.xor(r[15], r[12], 4)
    q.add(r[15], r[20], r[15])
    q.or_(q.tmua, r[15], r[15])  # here
    q.nop(sig=q.ldtmu(r[30]))
    finish(q)


# -- synchronisation


@fault("deadlock", threads=2)
def one_of_two_misses_the_barrier(q: Any) -> None:
    r = begin(q)
    label = q.new_label()
    q.sub(q.null, r[24], 1, push="pushz")
    q.b(label, cond="alla")
    for _ in range(3):
        q.nop()
    q.sub(q.syncb, r[10], r[10], sig=q.thrsw)  # here
    q.nop()
    q.nop()
    q.label(label)
    finish(q)


@fault("lost", only=Isa.V3D42)
def accumulator_across_a_switch(q: Any) -> None:
    r = begin(q)
    q.add(q.r0, r[10], 1)
    q.nop(sig=q.thrsw)  # there
    q.nop()
    q.nop()
    q.or_(q.tmud, q.r0, q.r0)  # here
    q.or_(q.tmua, r[23], r[23])
    finish(q)


@fault("uninitialised", only=Isa.V3D71)
def rf0_is_a_register(q: Any) -> None:
    r = begin(q)
    q.add(r[30], r[0], r[10])  # there
    copy(q, q.tmud, r[30])
    q.or_(q.tmua, r[23], r[23])  # here
    finish(q)
