"""The factory of engines: selects and makes the machine that executes programs on an emulated board."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any, Protocol

from qpu.core.isa import Isa
from qpu.emu.boards import BoardProfile
from qpu.emu.engine.memory import Memory
from qpu.errors import UsageError

if TYPE_CHECKING:
    from qpu.emu.engine.machine import V3dMachine, Vc4Machine
    from qpu.emu.engine.trace import Trace

__all__ = [
    "ENGINES",
    "WATCHES",
    "Watch",
    "compiled_available",
    "make_machine",
    "observed",
    "observer_of_environment",
    "require",
    "strict_by_default",
    "watching",
]

ENGINES = ("auto", "reference", "compiled")

# (family, engine) -> module and name of the machine class. Compiled machines need llvmlite.
_MACHINES = {
    ("v3d", "reference"): ("qpu.emu.v3d.reference", "V3dReferenceMachine"),
    ("vc4", "reference"): ("qpu.emu.vc4.reference", "Vc4ReferenceMachine"),
    ("v3d", "compiled"): ("qpu.emu.v3d.compiled", "V3dCompiledMachine"),
    ("vc4", "compiled"): ("qpu.emu.vc4.compiled", "Vc4CompiledMachine"),
}


def _load(family: str, engine: str) -> Any:
    module, name = _MACHINES[family, engine]
    return getattr(importlib.import_module(module), name)


def compiled_available(isa: Isa) -> bool:
    """Whether programs of `isa` can be translated to machine code of this host."""
    try:
        importlib.import_module("llvmlite.binding")
        _load("vc4" if isa is Isa.VC4 else "v3d", "compiled")
    except (ImportError, AttributeError):
        return False
    return True


def require(engine: str, isa: Isa) -> None:
    """Check that an engine exists and is available here. Raises: UsageError with what to do."""
    if engine not in ENGINES:
        raise UsageError(f"unknown engine {engine!r}", help=f"write {', '.join(ENGINES)} (also in QPU_EMU_ENGINE)")
    if engine == "compiled" and not compiled_available(isa):
        raise UsageError(
            "the compiled engine needs llvmlite, which is not installed",
            help="install the extra `fast`, or use QPU_EMU_ENGINE=reference",
        )


def strict_by_default(otherwise: bool) -> bool:
    """The value of QPU_EMU_STRICT; `otherwise` if it is not set. Raises: UsageError for anything but 0 and 1."""
    chosen = os.environ.get("QPU_EMU_STRICT", "")
    if chosen not in ("", "0", "1"):
        raise UsageError(f"QPU_EMU_STRICT={chosen!r}", help="set it to 0 (continue after a fault) or 1 (stop)")
    return otherwise if not chosen else chosen == "1"


WATCHES: list[Watch] = []
"""Observers of the jobs that begin now, such as the sanitizer; only the last one observes: see `observed`."""


class Watch(Protocol):
    """An observer: it makes the machine on which observed jobs run. name: of the tool, for messages."""

    name: str

    def machine(self, profile: BoardProfile, memory: Memory, *, strict: bool) -> V3dMachine | Vc4Machine:
        """A machine of a board. One is made for each board."""
        ...


class observed:
    """A context in which jobs are observed by `watch`. Only one tool can observe a launch.

    apart: for jobs of the package itself, such as a rehearsal, whatever tool observes the launches of the user.
    Raises: UsageError inside of another tool's context, which would see nothing.
    """

    def __init__(self, watch: Watch, *, apart: bool = False) -> None:
        self._watch, self._apart = watch, apart

    def __enter__(self) -> None:
        if WATCHES and not self._apart:
            raise UsageError(
                f"{self._watch.name} inside of {WATCHES[-1].name}; allowed: one of them at a time",
                help="leave one of the two out: only one tool can observe a launch",
            )
        WATCHES.append(self._watch)

    def __exit__(self, *error: object) -> None:
        WATCHES.remove(self._watch)


def watching(otherwise: Watch | None) -> Watch | None:
    """The observer of jobs that begin now; None for most. otherwise: `observer_of_environment`, asked once a board."""
    return WATCHES[-1] if WATCHES else otherwise


def observer_of_environment() -> Watch | None:
    """The observer that QPU_SANITIZE asks for. Raises: UsageError for an unknown kind of finding."""
    if not os.environ.get("QPU_SANITIZE"):
        return None
    found: Watch | None = importlib.import_module("qpu.debug.sanitizer").from_environment()
    return found


def make_machine(
    profile: BoardProfile, memory: Memory, *, strict: bool = True, engine: str = "auto", trace: Trace | None = None
) -> V3dMachine | Vc4Machine:
    """The machine of a board.

    strict: stop with EmuFault where hardware would continue with a wrong or unknown result. engine: ``reference``
    (NumPy), ``compiled`` (LLVM) or ``auto``: compiled if it is available and nothing is traced.
    Raises: UsageError for an engine that is unknown or not available.
    """
    require(engine, profile.isa)
    family = "vc4" if profile.isa is Isa.VC4 else "v3d"
    if engine == "compiled" and trace is not None:
        raise UsageError("the compiled engine does not trace", help="use engine='reference'")
    if engine == "auto":
        engine = "compiled" if trace is None and compiled_available(profile.isa) else "reference"
    machine: V3dMachine | Vc4Machine
    if engine == "compiled":
        machine = _load(family, engine)(profile, memory, strict=strict)
    else:
        machine = _load(family, engine)(profile, memory, strict=strict, trace=trace)
    return machine
