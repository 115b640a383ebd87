"""Programs of VideoCore IV with one planted fault each; marks as in `faults_v3d`. Uniforms of all programs: x, y
(64 words each, x written by the CPU), the number of the QPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

__all__ = ["FAULTS", "Fault"]


class Fault(NamedTuple):
    """A planted fault. qpus: programs. x, y: elements; y is `empty`. launches: how often the program is launched."""

    name: str
    rule: str
    build: Callable[[Any], None]
    qpus: int = 1
    x: int = 64
    y: int = 64
    launches: int = 1


FAULTS: list[Fault] = []


def fault(rule: str, **more: Any) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """Add a program to the list."""

    def add(build: Callable[[Any], None]) -> Callable[[Any], None]:
        FAULTS.append(Fault(build.__name__, rule, build, **more))
        return build

    return add


def begin(q: Any) -> None:
    """ra20, ra21: x, y; rb20: QPU; ra22: the lane's word of x; r0: lane."""
    q.mov(q.ra[20], q.uniform)
    q.mov(q.ra[21], q.uniform)
    q.mov(q.rb[20], q.uniform)
    q.shl(q.r1, q.element_number, 2)
    q.add(q.ra[22], q.ra[20], q.r1)
    q.mov(q.r0, q.element_number)


def load(q: Any) -> None:
    """r4 = the lane's word of x."""
    q.mov(q.tmu0_s, q.ra[22])
    q.nop(sig=q.ldtmu0)


def put(q: Any, value: Any, row: int = 0) -> None:
    q.setup_vpm_write(y=row)
    q.mov(q.vpm, value)


def store(q: Any) -> None:
    """Row 0 to y, complete."""
    q.setup_dma_store(nrows=1)
    q.start_dma_store(q.ra[21])
    q.wait_dma_store()


# -- values that nobody wrote


@fault("uninitialised")
def stores_a_register(q: Any) -> None:
    begin(q)
    q.setup_vpm_write()
    q.mov(q.vpm, q.rb[5])  # there
    q.setup_dma_store(nrows=1)
    q.start_dma_store(q.ra[21])  # here
    q.wait_dma_store()
    q.end()


@fault("uninitialised")
def address_of_a_load(q: Any) -> None:
    begin(q)
    q.mov(q.tmu0_s, q.rb[7])  # here
    q.nop(sig=q.ldtmu0)
    q.end()


@fault("uninitialised")
def condition_without_flags(q: Any) -> None:
    begin(q)
    q.mov(q.r2, q.r0)
    q.mov(q.r2, 1, cond="ifz")  # there
    put(q, q.r2)
    q.setup_dma_store(nrows=1)
    q.start_dma_store(q.ra[21])  # here
    q.wait_dma_store()
    q.end()


@fault("uninitialised")
def branch_without_flags(q: Any) -> None:
    begin(q)
    label = q.new_label()
    q.b(label, cond="anynz")  # here
    q.nops(3)
    q.label(label)
    q.end()


@fault("uninitialised")
def some_lanes_only(q: Any) -> None:
    begin(q)
    q.sub(q.null, q.r0, 5, push="z")
    q.mov(q.r3, 7, cond="ifz")  # there
    put(q, q.r3)
    q.setup_dma_store(nrows=1)
    q.start_dma_store(q.ra[21])  # here
    q.wait_dma_store()
    q.end()


@fault("uninitialised")
def stores_a_row_that_nobody_wrote(q: Any) -> None:
    begin(q)
    put(q, q.r0, 1)
    q.setup_dma_store(nrows=1)
    q.start_dma_store(q.ra[21])  # here
    q.wait_dma_store()
    q.end()


@fault("uninitialised")
def address_from_a_row_that_nobody_wrote(q: Any) -> None:
    begin(q)
    q.setup_vpm_read(1)
    q.nops(3)
    q.mov(q.r2, q.vpm)  # there
    q.mov(q.tmu0_s, q.r2)  # here
    q.nop(sig=q.ldtmu0)
    q.end()


@fault("uninitialised")
def loads_empty_memory(q: Any) -> None:
    begin(q)
    q.add(q.tmu0_s, q.ra[21], q.r1)  # there
    q.nop(sig=q.ldtmu0)
    put(q, q.r4)
    q.setup_dma_store(nrows=1)
    q.start_dma_store(q.ra[20])  # here
    q.wait_dma_store()
    q.end()


@fault("uninitialised")
def copies_empty_memory_by_dma(q: Any) -> None:
    begin(q)
    q.setup_dma_load(nrows=1)
    q.start_dma_load(q.ra[21])  # there
    q.wait_dma_load()
    q.setup_dma_store(nrows=1)
    q.start_dma_store(q.ra[20])  # here
    q.wait_dma_store()
    q.end()


# -- bounds


@fault("out-of-bounds", y=8)
def sixteen_lanes_for_eight_elements(q: Any) -> None:
    begin(q)
    put(q, q.r0)
    q.setup_dma_store(nrows=1)
    q.start_dma_store(q.ra[21])  # here
    q.wait_dma_store()
    q.end()


@fault("out-of-bounds", x=15)
def loads_one_element_after_the_end(q: Any) -> None:
    begin(q)
    q.mov(q.tmu0_s, q.ra[22])  # here
    q.nop(sig=q.ldtmu0)
    q.end()


@fault("out-of-bounds", x=20)
def dma_load_of_two_rows(q: Any) -> None:
    begin(q)
    q.setup_dma_load(nrows=2)
    q.start_dma_load(q.ra[20])  # here
    q.wait_dma_load()
    q.end()


@fault("uniforms-end")
def a_fourth_uniform(q: Any) -> None:
    begin(q)
    q.mov(q.r0, q.uniform)  # here
    q.end()


# -- DMA and order


@fault("dma-race")
def row_written_during_its_store(q: Any) -> None:
    begin(q)
    put(q, q.r0)
    q.setup_dma_store(nrows=1)
    q.start_dma_store(q.ra[21])  # there
    q.setup_vpm_write()
    q.mov(q.vpm, 7)  # here
    q.wait_dma_store()
    q.end()


@fault("dma-end")
def no_wait_at_the_end(q: Any) -> None:
    begin(q)
    put(q, q.r0)
    q.setup_dma_store(nrows=1)
    q.start_dma_store(q.ra[21])  # there
    q.end()  # here


@fault("dma-race")
def row_read_during_its_load(q: Any) -> None:
    begin(q)
    q.setup_dma_load(nrows=1)
    q.start_dma_load(q.ra[20])  # there
    q.setup_vpm_read(1)  # here
    q.nops(3)
    q.mov(q.r0, q.vpm)
    q.wait_dma_load()
    q.end()


@fault("dma-twice")
def second_store_without_wait(q: Any) -> None:
    begin(q)
    put(q, q.r0)
    q.setup_dma_store(nrows=1)
    q.start_dma_store(q.ra[21])  # there
    q.start_dma_store(q.ra[21])  # here
    q.wait_dma_store()
    q.end()


@fault("dma-twice")
def second_load_without_wait(q: Any) -> None:
    begin(q)
    q.setup_dma_load(nrows=1)
    q.start_dma_load(q.ra[20])  # there
    q.start_dma_load(q.ra[20])  # here
    q.wait_dma_load()
    q.end()


@fault("dma-race")
def loads_what_its_store_still_writes(q: Any) -> None:
    begin(q)
    put(q, q.r0)
    q.setup_dma_store(nrows=1)
    q.start_dma_store(q.ra[21])  # there
    q.add(q.tmu0_s, q.ra[21], q.r1)  # here
    q.nop(sig=q.ldtmu0)
    q.wait_dma_store()
    q.end()


@fault("race", qpus=2)
def two_qpus_use_one_row(q: Any) -> None:
    begin(q)
    q.setup_vpm_write()
    q.mov(q.vpm, q.rb[20])  # here # there
    q.mov(q.r1, q.rb[20])
    q.shl(q.r1, q.r1, 6)
    q.add(q.ra[21], q.ra[21], q.r1)
    store(q)
    q.end()


@fault("race", qpus=2)
def two_qpus_store_to_one_place(q: Any) -> None:
    begin(q)
    q.mov(q.r2, q.rb[20])
    q.shl(q.r3, q.r2, 7)
    q.ldi(q.r1, 0x1A00)  # words, horizontal
    q.add(q.vw_setup, q.r1, q.r2)
    q.mov(q.vpm, q.r2)
    q.ldi(q.r1, 0x80904000)  # one row of 16 words
    q.add(q.vw_setup, q.r1, q.r3)
    q.start_dma_store(q.ra[21])  # there
    q.wait_dma_store()  # here
    q.end()


# -- synchronisation


@fault("deadlock", qpus=2)
def nobody_increments(q: Any) -> None:
    begin(q)
    q.sema_down(3)  # here # there
    q.end()


@fault("semaphore-left", launches=2)
def one_increment_too_many(q: Any) -> None:
    begin(q)
    q.sema_up(4)  # here # there
    q.end()


@fault("deadlock", qpus=2)
def the_mutex_is_not_released(q: Any) -> None:
    begin(q)
    q.mutex_acquire()  # here
    q.end()
