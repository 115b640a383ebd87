"""The shims of `qpu emulate --compat`: modules that old programs import, and names that current versions removed.

`install` serves `rpi_vcsm` from here even where it is installed, because its versions differ in their calls; the other
modules only where they are not installed.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Sequence
from types import ModuleType

from qpu.compat import numpy_names, standard_names

__all__ = ["MODULES", "VARIABLE", "install"]

VARIABLE = "QPU_EMULATE_COMPAT"  # in the environment of child processes
ALWAYS = ("rpi_vcsm",)
MODULES = {
    "rpi_vcsm": "qpu.compat.rpi_vcsm",
    "nose": "qpu.compat.nose_tools",
    "nose.tools": "qpu.compat.nose_tools",
    "videocore": "qpu.compat.videocore",
    "videocore6": "qpu.compat.videocore6",
    "videocore7": "qpu.compat.videocore7",
}
"""Modules by the name that old programs import -> the module that has their names."""


def _target(name: str) -> str | None:
    """The module that stands in for `name`, None if there is none."""
    if name in MODULES:
        return MODULES[name]
    root, _, rest = name.partition(".")
    found = f"{MODULES[root]}.{rest}" if root in MODULES and rest else None
    try:
        return found if found is not None and importlib.util.find_spec(found) is not None else None
    except ModuleNotFoundError:
        return None


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the stand-ins. first: it is asked before Python's own finders, and serves only `ALWAYS`."""

    def __init__(self, first: bool) -> None:
        self.first = first

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec of a stand-in, or None."""
        if (fullname.partition(".")[0] in ALWAYS) != self.first or _target(fullname) is None:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package="." not in fullname)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        """A new module, by Python's default."""
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Fill the module with the names of the one that stands in."""
        target = _target(module.__name__)
        assert target is not None
        source = importlib.import_module(target)
        own = {n: v for n, v in vars(source).items() if not n.startswith("__") or n in ("__all__", "__getattr__")}
        vars(module).update(own)


def install() -> None:
    """Install the shims in this process, and for child processes under `qpu emulate`."""
    if any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    os.environ[VARIABLE] = "1"
    numpy_names.install()
    standard_names.install()
    sys.meta_path.insert(0, _Finder(True))
    sys.meta_path.append(_Finder(False))
