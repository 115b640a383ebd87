"""Random programs on both engines behind guard pages: `random_programs.py ISA FIRST COUNT`."""

from __future__ import annotations

import faulthandler
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]


def main(isa: str, first: int, count: int) -> dict[str, int]:
    """Compare the engines on each program."""
    from seeds import steadily
    from test_engines_v3d import bench

    from qpu.core.isa import Isa

    for seed in steadily(range(first, first + count)):
        bench(Isa(isa)).compare(seed, small=seed % 4 > 0)
    return {"agreed": count}


if __name__ == "__main__":
    import guard

    faulthandler.enable()
    guard.install_all()
    print(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
