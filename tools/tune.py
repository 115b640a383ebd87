"""Choose the knobs of kernels that have none of their own, and write `qpu/lang/tuned.json`.

Combinations are ranked by the instructions that emulated boards execute; with `--device hardware` the best of its chip
are then measured on the board, and the fastest wins. Kernels: the loops of benchmarks/lang.py.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import lang as loops  # noqa: E402

import qpu  # noqa: E402
from qpu.lang import cache, tune  # noqa: E402

BOARDS = {qpu.Isa.VC4: "pi3", qpu.Isa.V3D42: "pi4", qpu.Isa.V3D71: "pi5"}
GAIN = 0.01  # by which a combination must be better than the defaults


def main(arguments: Sequence[str] | None = None) -> int:
    """Tune and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", action="append", help="instead of pi3, pi4 and pi5 (may be repeated)")
    options = parser.parse_args(arguments)
    found: dict[str, dict[str, dict[str, object]]] = json.loads(tune.FILE.read_text()) if tune.FILE.exists() else {}
    known = {cache.identity(k.source) for k in loops.TUNABLE}
    found = {name: isas for name, isas in found.items() if name in known}
    tune.FILE.write_text("{}\n")  # the defaults are measured
    tune._file.cache_clear()
    for device in options.device or ("pi3", "pi4", "pi5"):
        with qpu.open_device(device) as gpu:
            for k, arguments_of in loops.TUNABLE.items():
                with qpu.open_device(BOARDS[gpu.isa]) if not gpu.emulated else nullcontext(gpu) as counts:
                    trials = tune.trials(k, counts, partial(arguments_of, counts))
                if not gpu.emulated:
                    trials = tune.confirmed(k, trials, gpu, partial(arguments_of, gpu))
                default = next(t for t in trials if t.schedule == k.schedule)
                best = trials[0]
                knobs = {n: v for n, v in best.schedule.row.items() if v != default.schedule.row[n]}
                print(f"{k.fn.__name__:12} {gpu.isa}: {best.cost / default.cost:.3f} of the defaults with {knobs}")
                name = cache.identity(k.source)
                assert name is not None
                isas = found.setdefault(name, {})
                isas.pop(str(gpu.isa), None)
                if best.cost < (1 - GAIN) * default.cost:
                    isas[str(gpu.isa)] = knobs
    text = json.dumps({n: isas for n, isas in sorted(found.items()) if isas}, indent=1, sort_keys=True) + "\n"
    tune.FILE.write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
