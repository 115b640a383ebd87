"""The arrays of one device: buffers that are used again, compiled kernels, evaluation, counted transfers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from qpu.array.dtypes import NpDType
from qpu.array.formula import Located, note
from qpu.array.node import Node, Storage
from qpu.core.isa import Isa
from qpu.errors import DriverError, EmuFault

if TYPE_CHECKING:
    from qpu.buffers import Buffer
    from qpu.device import Device
    from qpu.lang.launch import Plan
    from qpu.launch import Run

__all__ = ["ABSORB", "EVALUATE", "DeviceMemory", "Transfers", "memory_of"]

KEPT: Final = 64  # buffers that are kept for the next arrays
KEPT_BYTES: Final = 64 << 20

EVALUATE: Final[dict[str, Callable[[DeviceMemory, Node], None]]] = {}
"""How a pending node is computed: by the operation where that begins with "%"; "": elementwise ones."""

ABSORB: Final[dict[str, Callable[..., bool]]] = {}
"""How a pending node is computed together with the elementwise operations after it, by operation: absorb(memory, walk,
node, root) computes the root and says whether it did.
"""


class Order:
    """A launch of a fused kernel: values by name."""

    __slots__ = ("gpu", "numbers", "workers")

    def __init__(self, gpu: Device, numbers: dict[str, int]) -> None:
        self.gpu, self.numbers = gpu, numbers
        self.workers: int | None = None


@dataclass(slots=True)
class Transfers:
    """Copies between ordinary and device memory. uploads, downloads: how many; bytes_up, bytes_down: of what size."""

    uploads: int = 0
    downloads: int = 0
    bytes_up: int = 0
    bytes_down: int = 0

    def reset(self) -> None:
        """Count from 0 again."""
        self.uploads = self.downloads = self.bytes_up = self.bytes_down = 0


class DeviceMemory:
    """What the arrays of a device share. launches: how many fused kernels were started."""

    def __init__(self, gpu: Device) -> None:
        self.gpu = gpu
        self.pool = gpu._pool
        self.isa: Isa = gpu.isa
        self.kernels: dict[Any, Plan] = {}
        self.transfers = Transfers()
        self.launches = 0
        self.eager = False
        self.listening: list[Callable[[Plan, dict[str, int]], None]] = []
        self._spare: dict[tuple[tuple[int, ...], NpDType], list[Buffer]] = {}
        self._kept = self._bytes = 0

    # -- buffers

    def take(self, shape: tuple[int, ...], dtype: NpDType) -> Buffer:
        """A buffer with any content. Raises: DriverError where there is no memory."""
        spare = self._spare.get((shape, dtype))
        if spare:
            buffer = spare.pop()
            self._kept -= 1
            self._bytes -= buffer.nbytes
            return buffer
        try:
            return self.gpu.empty(shape, dtype)
        except DriverError:
            if not self._kept:
                raise
            self.drop()
            return self.gpu.empty(shape, dtype)

    def give(self, buffer: Buffer) -> None:
        """Keep a buffer that no array uses any more, or release it."""
        if buffer.closed:
            return
        if self._kept >= KEPT or self._bytes + buffer.nbytes > KEPT_BYTES:
            self.drop()
        if buffer.nbytes > KEPT_BYTES:
            buffer.close()
            return
        self._spare.setdefault((buffer.shape, buffer.dtype), []).append(buffer)
        self._kept += 1
        self._bytes += buffer.nbytes

    def drop(self) -> None:
        """Release the buffers that are kept."""
        spare, self._spare, self._kept, self._bytes = self._spare, {}, 0, 0
        for buffers in spare.values():
            for buffer in buffers:
                buffer.close()

    def storage(self, shape: tuple[int, ...], dtype: NpDType) -> Storage:
        """New storage with any content."""
        return Storage(self, self.take(shape, dtype))

    def upload(self, data: np.ndarray[Any, Any], dtype: NpDType) -> Storage:
        """New storage with a copy of an ndarray."""
        storage = self.storage(data.shape, dtype)
        if data.size:
            self.quiet()
            storage.buffer.array[...] = data
            self.transfers.uploads += 1
            self.transfers.bytes_up += storage.buffer.nbytes
        return storage

    def quiet(self) -> None:
        """Wait for what was started: the processor is about to write memory that a launch may still read."""
        for launch in self.pool.running:
            launch.wait()

    # -- evaluation

    def evaluate(self, node: Node) -> None:
        """Compute a pending node."""
        if not node.op:
            return
        EVALUATE[node.op if node.op[0] == "%" else ""](self, node)

    def start(self, plan: Plan, numbers: dict[str, int], sites: tuple[str, ...] = ()) -> Run:
        """Launch a fused kernel. sites: lines at which its indices were given."""
        for listener in self.listening:
            listener(plan, numbers)
        self.launches += 1
        if not sites:
            return plan.run(Order(self.gpu, numbers), False)
        try:
            run = plan.run(Order(self.gpu, numbers), False)
        except EmuFault as error:
            note(error, plan.title, sites)
            raise
        return Located(run, plan.title, sites)  # type: ignore[return-value]  # waits as a run does

    @contextmanager
    def eagerly(self) -> Iterator[None]:
        """Every operation is computed at once."""
        before, self.eager = self.eager, True
        try:
            yield
        finally:
            self.eager = before


def memory_of(gpu: Device) -> DeviceMemory:
    """The arrays of a device."""
    found = gpu.__dict__.get("_arrays")
    if found is None:
        found = gpu.__dict__["_arrays"] = DeviceMemory(gpu)
    return found
