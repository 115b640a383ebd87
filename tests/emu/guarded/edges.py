"""Few programs and many launches at the edges of buffers, behind guard pages: `edges.py BOARD ENGINE COUNT SEED`.

A launch ends, faults or runs out of time; anything else, a signal above all, ends the process with an error. The
programs of each board are in `edges_v3d.py` and `edges_vc4.py`: `programs(isa)` gives (name, program) pairs, and
`launch(name, random, address)` the uniforms and the shape of a launch, `address()` being an address worth trying.
"""

from __future__ import annotations

import collections
import faulthandler
import importlib
import random
import sys
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[3]))

import numpy as np

import qpu
from qpu.core.isa import Isa
from qpu.errors import EmuFault, GpuTimeoutError
from tests.emu.guarded import guard as guard

EVERY = 400  # launches on one device; every second device is strict
SPECIAL = (
    0, 4, 0xFFFFFFFC, 0xFFFFFFF0, 0xFFFFFFC0, 0xFFFFFF00, 0xFFFFF000, 0xFFFFEFFC, 0x80000000, 0x7FFFFFFC, 0xC0000000,
    0x40000000, 0x3FFFFFFC, 0x3FFFFFC0, 0x3FFFF000, 0x3FFFF004, 0x1FFFFFFC,
)  # fmt: skip
BEFORE_END = (0, 4, 8, 12, 16, 20, 28, 32, 48, 60, 64, 68, 124, 128, 192, 240, 252, 256, 260, 1, 2, 3, -4)


def address(draw: random.Random, places: list[tuple[int, int]]) -> int:
    """Mostly near the start or the end of a buffer, or of the hole that a closed one left."""
    kind = draw.random()
    start, size = draw.choice(places)
    if kind < 0.3:
        found = start + draw.choice((0, 4, 8, 16, 64, 256))
    elif kind < 0.65:
        found = start + size - draw.choice(BEFORE_END)
    elif kind < 0.75:
        found = start - draw.choice((4, 8, 16, 64, 1, 252, 256))
    elif kind < 0.93:
        found = draw.choice(SPECIAL)
    else:
        found = draw.getrandbits(32)
    return found & 0xFFFFFFFF


class Board:
    """An open device with four buffers and a hole; opened again after an error that a device does not survive."""

    def __init__(self, name: str, engine: str) -> None:
        self.name, self.engine = name, engine
        self.strict = False
        self.gpu: Any = None

    def ready(self, number: int) -> Any:
        """The device for a launch."""
        if self.gpu is None or number % EVERY == EVERY - 1:
            self.close()
            self.strict = not self.strict
            self.gpu = qpu.open_device(self.name, engine=self.engine, strict=self.strict)
            self.buffers = [self.gpu.empty(n, np.uint32) for n in (1024, 5000, 16384)]
            hole = self.gpu.empty(4096, np.uint32)
            self.buffers.append(self.gpu.empty(2048, np.uint32))
            self.places = [(b.address, b.nbytes) for b in self.buffers] + [(hole.address, hole.nbytes)]
            hole.close()
        return self.gpu

    def close(self) -> None:
        if self.gpu is not None:
            self.gpu.close()
        self.gpu = None


def main(name: str, engine: str, count: int, seed: int) -> collections.Counter[str]:
    """Run; returns how the launches ended."""
    draw = random.Random(seed)
    board = Board(name, engine)
    isa = board.ready(0).isa
    cases = importlib.import_module(f"tests.emu.guarded.{'edges_vc4' if isa is Isa.VC4 else 'edges_v3d'}")
    programs = cases.programs(isa)
    ended: collections.Counter[str] = collections.Counter()
    for number in range(count):
        gpu = board.ready(number)
        kind, program = draw.choice(programs)
        uniforms, shape = cases.launch(kind, draw, lambda: address(draw, board.places))
        try:
            gpu.run(program, uniforms, shape, timeout_s=1e-3)
            ended["ended"] += 1
        except EmuFault as fault:
            assert fault.place.instruction is not None, fault
            ended[fault.rule] += 1
            if fault.rule in ("decode", "breakpoint"):  # a launch stored into the programs that the device keeps
                board.close()
        except GpuTimeoutError:
            ended["time-out"] += 1
            board.close()
    board.close()
    return ended


if __name__ == "__main__":
    faulthandler.enable()
    warnings.simplefilter("ignore")
    guard.install_all()
    print(dict(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])).most_common()))
