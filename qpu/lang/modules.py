"""The kernels of a file or module of Python, for commands that compile them ahead."""

from __future__ import annotations

import importlib
import runpy
import sys
from pathlib import Path
from typing import Any

from qpu.errors import UsageError
from qpu.lang.entry import Kernel

__all__ = ["kernels_of"]


def kernels_of(name: str) -> list[Any]:
    """The kernels that a file or module of Python defines, in its order. Raises: UsageError when there is none such."""
    if name.endswith(".py"):
        if not Path(name).is_file():
            raise UsageError(f"cannot read {name}: no such file", help="give a .py file or an importable module")
        sys.path.insert(0, str(Path(name).parent))
        found = runpy.run_path(name, run_name=Path(name).stem)
    else:
        try:
            found = vars(importlib.import_module(name))
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
            raise UsageError(f"no module {name!r}", help="a file (kernels.py), or a module's name") from None
    home = found.get("__name__")
    own = {id(v): v for v in found.values() if isinstance(v, Kernel) and v.fn.__module__ == home}
    return list(own.values())
