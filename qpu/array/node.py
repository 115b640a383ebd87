"""Nodes of expressions: arrays that are in memory, and those that are still to be computed.

A node in memory has storage, an offset and strides. A pending node has an operation and arguments; evaluating it turns
it into one in memory. Nodes know their pending users by weak references, so that a value that others need is stored
once, and so that whoever writes to memory first evaluates what still has to read it.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any, Protocol
from weakref import ref

import numpy as np

from qpu.array.dtypes import NpDType
from qpu.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qpu.buffers import Buffer
    from qpu.launch import Run

__all__ = ["MOST", "Memory", "Node", "Storage", "in_memory", "pending"]

MOST = 64
"""Operations that one expression may have; then what there is so far is evaluated."""


class Memory(Protocol):
    """Where storage comes from: one device."""

    def take(self, shape: tuple[int, ...], dtype: NpDType) -> Buffer: ...
    def give(self, buffer: Buffer) -> None: ...
    def evaluate(self, node: Node) -> None: ...
    def quiet(self) -> None: ...
    @property
    def eager(self) -> bool: ...


class Storage:
    """Device memory of one or more arrays. run: the launches that write it; version: grows with each write after the
    first one; readers: pending nodes that read it; shared: views or others know the memory itself.
    """

    __slots__ = ("__weakref__", "buffer", "memory", "own", "readers", "run", "shared", "trim", "version")

    def __init__(self, memory: Memory, buffer: Buffer, *, own: bool = True) -> None:
        self.memory, self.buffer, self.own = memory, buffer, own
        self.run: Run | None = None
        self.shared = not own
        self.version = 0
        self.readers: list[ref[Node]] = []
        self.trim = 32

    def wait(self) -> None:
        """Wait for the launches that write this memory. Raises: what they raise."""
        run = self.run
        if run is not None:
            run.wait()
            self.run = None

    def settle(self) -> None:
        """Evaluate what still has to read this memory: it is about to be written."""
        readers, self.readers = self.readers, []
        for reader in readers:
            node = reader()
            if node is not None and node.op:
                self.memory.evaluate(node)

    def written(self, run: Run | None) -> None:
        """Note a write; whoever else knows the memory sees it at once."""
        self.version += 1
        self.run = run
        if not self.own:
            self.wait()

    def __del__(self) -> None:
        if self.own:
            self.memory.give(self.buffer)


class Node:
    """An array of an expression. op: "" in memory; args: nodes and scalars; attr: what else the operation depends on.

    strides: in elements, None for C order without gaps; offset: bytes; weight: operations behind it; fused: how often
    it was computed inside of something else and not stored; site: the line that indexed, of "gather".
    """

    __slots__ = ("__weakref__", "args", "attr", "dtype", "fused", "memory", "offset", "op", "shape", "site",
                 "storage", "strides", "users", "weight")  # fmt: skip

    def __init__(self, memory: Memory, op: str, args: tuple[Any, ...], shape: tuple[int, ...], dtype: NpDType) -> None:
        self.memory, self.op, self.args, self.shape, self.dtype = memory, op, args, shape, dtype
        self.attr: Any = None
        self.site = ""
        self.storage: Storage | None = None
        self.strides: tuple[int, ...] | None = None
        self.offset = 0
        self.users: list[ref[Node]] = []
        self.weight = self.fused = 0

    @property
    def size(self) -> int:
        """Elements."""
        return prod(self.shape)

    @property
    def steps(self) -> tuple[int, ...]:
        """Strides in elements."""
        return c_strides(self.shape) if self.strides is None else self.strides

    def needed(self, group: Any = ()) -> bool:
        """Whether a pending node outside of the group, a container of identities, uses this one."""
        for user in self.users:
            node = user()
            if node is not None and node.op and id(node) not in group:
                return True
        return False

    def becomes(self, storage: Storage, offset: int = 0, strides: tuple[int, ...] | None = None) -> None:
        """The node is in memory from now on."""
        storage.readers += self.users
        self.storage, self.offset, self.strides = storage, offset, strides
        self.op, self.args, self.attr, self.users = "", (), None, []
        self.weight = 0

    def ready(self) -> Storage:
        """The storage, after evaluation."""
        if self.op:
            self.memory.evaluate(self)
        assert self.storage is not None
        return self.storage

    def view(self) -> NDArray[Any]:
        """The memory as an ndarray, after the launches that write it. Raises: UsageError for a closed device."""
        storage = self.ready()
        storage.wait()
        if 0 in self.shape:
            return np.empty(self.shape, self.dtype)
        flat = storage.buffer.array.reshape(-1)
        strides = tuple(s * self.dtype.itemsize for s in self.steps)
        return np.ndarray(self.shape, self.dtype, flat, self.offset, strides)

    @property
    def address(self) -> int:
        """GPU address of the first element."""
        assert self.storage is not None
        return self.storage.buffer.address + self.offset


def c_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides in elements of C order without gaps."""
    found, step = [], 1
    for n in reversed(shape):
        found.append(step)
        step *= n
    return tuple(reversed(found))


def in_memory(storage: Storage, shape: tuple[int, ...], dtype: NpDType, offset: int = 0,
              strides: tuple[int, ...] | None = None) -> Node:  # fmt: skip
    """A node of memory that exists."""
    node = Node(storage.memory, "", (), shape, dtype)
    if strides is not None and strides == c_strides(shape):
        strides = None
    node.storage, node.offset, node.strides = storage, offset, strides
    return node


def pending(op: str, args: tuple[Any, ...], shape: tuple[int, ...], dtype: NpDType, attr: Any = None) -> Node:
    """A node to be computed. Raises: UsageError for arrays of two devices."""
    memory: Memory | None = None
    weight = 1
    for a in args:
        if a.__class__ is Node:
            if memory is None:
                memory = a.memory
            elif memory is not a.memory:
                raise UsageError("the arrays are on two devices", help="copy one: gpu.xp.asarray(x.numpy())")
            weight += a.weight
    assert memory is not None
    if weight > MOST:
        for a in args:
            if a.__class__ is Node and a.op:
                memory.evaluate(a)
        weight = 1
    node = Node(memory, op, args, shape, dtype)
    node.attr, node.weight = attr, weight
    me = ref(node)
    for a in args:
        if a.__class__ is Node:
            if a.op:
                a.users.append(me)
            else:
                storage = a.storage
                assert storage is not None
                storage.readers.append(me)
                if len(storage.readers) > storage.trim:
                    storage.readers = [r for r in storage.readers if ((n := r()) is not None and n.op) or r is me]
                    storage.trim = 2 * len(storage.readers) + 32
    if memory.eager:
        memory.evaluate(node)
    return node
