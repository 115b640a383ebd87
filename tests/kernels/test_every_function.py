"""Every function of the library on shapes, layouts and types that hypothesis draws.

Results are compared with NumPy or SciPy in float64, within bounds that the number of roundings gives; integers exactly.
Memory beside a view must stay as it is. A few functions run in the suite, each on one board; all of them, on the three
boards, are a soak.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import qpu
from qpu.device import Device
from qpu.errors import UsageError
from tests.kernels import trials_of_images, trials_of_matrices, trials_of_networks, trials_of_order
from tests.kernels.trials import CASES, Trial, Wrong
from tests.kernels.turns import turns

BOARDS = ("pi3", "pi4", "pi5")
FAMILIES = (trials_of_matrices, trials_of_order, trials_of_networks, trials_of_images)
NOW = ("nn.layer_norm", "scan.cumulative_min", "search.searchsorted")
pytestmark = pytest.mark.filterwarnings("ignore::qpu.lang.PerformanceNote")

ALONE = ("blas1.scal", "blas1.asum, nrm2, iamax", "random")
"""Functions of one array."""


@pytest.mark.parametrize("number", turns([1, 2], 0))
@pytest.mark.parametrize("name", CASES)
def test_arguments_of_another_device_or_type_are_refused(opened: dict[str, Device], name: str, number: int) -> None:
    """Each of the first two: before anything is launched."""
    if name not in ALONE:
        with pytest.raises(UsageError, match="belongs to another device"):
            CASES[name](Wrong(opened["pi5"], opened["pi4"], number))
    if number == 1 or name not in ALONE:
        with pytest.raises(UsageError, match="float16") as caught:
            CASES[name](Wrong(opened["pi5"], None, number))
        assert "help: " in str(caught.value)


# -- the test


@pytest.fixture(scope="module")
def opened() -> Iterator[dict[str, Device]]:
    gpus = {name: qpu.open_device(name, engine="reference") for name in BOARDS}
    yield gpus
    for gpu in gpus.values():
        gpu.close()


def _parameters() -> Iterator[Any]:
    for n, name in enumerate(CASES):
        for board in BOARDS:
            now = name in NOW and board == BOARDS[n % 3]
            yield pytest.param(
                name, board, 1 if now else 4, marks=() if now else pytest.mark.soak, id=f"{name}-{board}"
            )


@pytest.mark.parametrize(("name", "board", "examples"), list(_parameters()))
def test_a_function(opened: dict[str, Device], name: str, board: str, examples: int) -> None:
    phases = (Phase.explicit, Phase.generate)  # to shrink a failure would take longer than all functions

    @settings(
        max_examples=examples, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), phases=phases
    )
    @given(data=st.data())
    def check(data: Any) -> None:
        trial = Trial(opened[board], data)
        trial.stays(*CASES[name](trial))

    check()
