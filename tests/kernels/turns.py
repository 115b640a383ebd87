"""Cases that take turns: some run in the suite, all of them in the soak, so that every board has its share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

__all__ = ["turns"]


def turns(cases: Sequence[Any], *now: int) -> list[Any]:
    """Parameters of `pytest.mark.parametrize`: those numbered `now` in the suite, the others as a soak."""
    return [
        pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=() if n in now else pytest.mark.soak)
        for n, case in enumerate(cases)
    ]
