"""What each pass made, for those who want to see it (`qpu.lang.passes`): nobody does in an ordinary compilation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeAlias

from qpu.lang.kir import Region
from qpu.lang.mir import Fixed, Function

__all__ = ["Watcher", "passed", "watching"]

Watcher: TypeAlias = Callable[[str, Region | Function, Mapping[int, Fixed] | None], None]
"""Name of a pass, what it made, and the places of registers where they have some."""

_watcher: ContextVar[Watcher | None] = ContextVar("_watcher", default=None)


def passed(name: str, made: Region | Function, colour: Mapping[int, Fixed] | None = None) -> None:
    """A pass has ended."""
    watcher = _watcher.get()
    if watcher is not None:
        watcher(name, made, colour)


@contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """Tell `watcher` of the passes of compilations inside."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)
