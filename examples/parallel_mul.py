"""Product of two float32 vectors on all QPUs, with programs written as assembly text (see parallel_add.py).

Examples:
    uv run examples/parallel_mul.py --device all
"""

from __future__ import annotations

import _common
import numpy as np
import parallel_add

if __name__ == "__main__":
    _common.main(lambda: parallel_add.main("parallel_mul", __doc__, "fmul", np.multiply))
