"""Results do not depend on how operations are ordered, paired and coloured: random priorities, random registers."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from qpu.core.isa import Isa
from qpu.lang import backend_v3d, backend_vc4, bundle, order
from qpu.lang.depend import Node
from qpu.lang.mir import Fixed
from tests.lang.conftest import Boards
from tests.lang.fuzz import case_of

FREE = {
    Isa.V3D71: {"rf": range(1, 64)},
    Isa.V3D42: {"rf": range(64), "acc": range(5)},
    Isa.VC4: {"a": range(32), "b": range(32), "acc": range(3)},
}
"""Places that are alike, by kind."""


def renamed(colour: dict[int, Fixed], isa: Isa, r: random.Random) -> dict[int, Fixed]:
    """Places exchanged at random with others of their kind."""
    to = {kind: dict(zip(numbers, r.sample(numbers, len(numbers)), strict=True)) for kind, numbers in FREE[isa].items()}
    return {x: Fixed(p.kind, to[p.kind].get(p.n, p.n)) for x, p in colour.items()}


@pytest.mark.filterwarnings("ignore::qpu.lang.PerformanceNote")
@pytest.mark.parametrize("isa", list(Isa))
@pytest.mark.parametrize("seed", [2, 5, 8])
def test_random_orders_and_registers(seed: int, isa: Isa, boards: Boards, monkeypatch: pytest.MonkeyPatch) -> None:
    r, changed = random.Random(seed), []
    home: Any = backend_vc4 if isa is Isa.VC4 else backend_v3d
    name = "colour_vc4" if isa is Isa.VC4 else "colour_v3d"
    monkeypatch.setenv("QPU_CACHE_DIR", "off")
    case = case_of(seed, small=True)
    want = case.launched(boards.of(isa))
    words = case.kernel.compile(isa).words

    def shuffled(make: Any) -> Any:
        def graph(*args: Any, **more: Any) -> list[Node]:
            nodes: list[Node] = make(*args, **more)
            for n in nodes:
                n.priority = r.randrange(100)
            return nodes

        return graph

    def recoloured(make: Any) -> Any:
        def colour(*args: Any, **more: Any) -> dict[int, Fixed]:
            changed.append(1)
            return renamed(make(*args, **more), isa, r)

        return colour

    for module in (order, bundle):
        monkeypatch.setattr(module, "graph", shuffled(module.graph))  # type: ignore[attr-defined]  # imported there
    monkeypatch.setattr(home, name, recoloured(getattr(home, name)))
    again = case_of(seed, small=True)
    for a, b in zip(want, again.launched(boards.of(isa)), strict=True):
        assert np.array_equal(a, b)
    assert changed and again.kernel.compile(isa).words != words
