"""Seeds of generated programs, without automatic garbage collection: translation makes many long-lived objects."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator

ROUND = 25  # programs between collections


def steadily(seeds: Iterable[int]) -> Iterator[int]:
    """The seeds; memory is cleaned up every `ROUND` of them."""
    was = gc.isenabled()
    gc.disable()
    try:
        for k, seed in enumerate(seeds, 1):
            yield seed
            if not k % ROUND:
                gc.collect()
    finally:
        if was:
            gc.enable()
