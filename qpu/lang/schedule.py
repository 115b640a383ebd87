"""Knobs of a kernel: how it runs, not what it computes."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from qpu.errors import UsageError

__all__ = ["Schedule"]

_ALLOWED: Final[dict[str, tuple[object, ...]]] = {
    "coarsen": (None, 1, 2, 4, 8),
    "threads": ("auto", 2, 4),
    "unroll": (1, 2, 4, 8),
    "stream": ("auto", "none"),
    "march": (None, "y"),
    "reassociate": (False, True),
}


class Schedule(NamedTuple):
    """Knobs that change how a kernel runs, not what it computes (but for `reassociate`).

    coarsen: vectors of 16 items that a turn of the main loop takes; None: as many as suit the kernel. threads: on a QPU
    of V3D, 2 or 4; "auto": 2, with 64 registers each instead of 32. unroll: turns of an innermost loop of the
    kernel's own that are made one. stream: "none" keeps words that are the same in all lanes from being read as a
    stream. march: "y" for workers that share the columns of a Grid of more than one axis, and go down its rows: what
    later rows need again is computed once. reassociate: sums and products of floats may be regrouped.
    """

    coarsen: int | None = None
    threads: int | str = "auto"
    unroll: int = 1
    stream: str = "auto"
    march: str | None = None
    reassociate: bool = False

    @classmethod
    def of(cls, knobs: dict[str, Any]) -> Schedule:
        """The schedule of keywords. Raises: UsageError for a knob or value that does not exist."""
        for name, value in knobs.items():
            allowed = _ALLOWED.get(name)
            if allowed is None:
                raise UsageError(f"a kernel has no knob {name!r}", help=f"the knobs are {', '.join(_ALLOWED)}")
            if not any(type(value) is type(a) and value == a for a in allowed):
                raise UsageError(f"{name} = {value!r}", help=f"allowed: {', '.join(map(repr, allowed))}")
        return cls(**knobs)

    @property
    def row(self) -> dict[str, Any]:
        """The knobs by name."""
        return self._asdict()
