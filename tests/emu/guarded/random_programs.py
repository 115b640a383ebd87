"""Random programs on both engines behind guard pages: `random_programs.py ISA FIRST COUNT`."""

from __future__ import annotations

import faulthandler
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[3]))


def main(isa: str, first: int, count: int) -> dict[str, int]:
    """Compare the engines on each program."""
    from qpu.core.isa import Isa
    from qpu.emu.vc4 import compiled_programs
    from tests.emu import test_engines_v3d as test_engines_v3d
    from tests.emu import test_engines_vc4 as test_engines_vc4
    from tests.emu.seeds import steadily

    compiled_programs.WARM = 0  # translate before anything runs
    bench: Any = test_engines_vc4.bench() if isa == "vc4" else test_engines_v3d.bench(Isa(isa))
    for seed in steadily(range(first, first + count)):
        bench.compare(seed, small=seed % 4 > 0)
    return {"agreed": count}


if __name__ == "__main__":
    from tests.emu.guarded import guard as guard

    faulthandler.enable()
    guard.install_all()
    print(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
